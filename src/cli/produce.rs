//! `coati produce`: lines of stdin become records.

use bytes::Bytes;
use clap::{Args, ValueEnum};

use super::Outcome;
use super::connect::{ClusterArgs, key_value, with_cluster};
use super::lines::Lines;
use super::progress::Progress;
use crate::client::{Acks, Cluster, Producer, ProducerOptions, ProducerRecord};
use crate::ids::PartitionIndex;
use crate::io::turn;
use crate::protocol::Str;
use crate::protocol::batch::RecordHeader;
use crate::protocol::compression::Codec;

/// Write records to a topic, one for each line of stdin.
#[derive(Debug, Args)]
pub struct ProduceArgs {
    topic: String,

    /// What comes before it in a line is the record's key; lines without it have no key
    #[arg(long, short, value_name = "TEXT")]
    key_separator: Option<String>,

    /// Send all records to this partition; else the key decides, or their turn
    #[arg(long, short)]
    partition: Option<i32>,

    /// A header for every record; repeatable
    #[arg(long, short = 'H', value_name = "KEY=VALUE", value_parser = key_value)]
    header: Vec<(String, String)>,

    /// How batches are compressed
    #[arg(long, short = 'z', value_enum, default_value_t = CodecArg::None)]
    codec: CodecArg,

    /// What a record must have survived before it counts as written
    #[arg(long, short, value_enum, default_value_t = AcksArg::All)]
    acks: AcksArg,

    /// Make sure that no record is written twice when requests have to be sent again
    #[arg(long)]
    idempotent: bool,

    /// An empty value is null, which deletes its key in compacted topics
    #[arg(long)]
    null_values: bool,

    /// Say nothing when all went well
    #[arg(long, short)]
    quiet: bool,

    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CodecArg {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl CodecArg {
    fn codec(self) -> Codec {
        match self {
            CodecArg::None => Codec::None,
            CodecArg::Gzip => Codec::Gzip,
            CodecArg::Snappy => Codec::Snappy,
            CodecArg::Lz4 => Codec::Lz4,
            CodecArg::Zstd => Codec::Zstd,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum AcksArg {
    /// Nothing: the broker does not answer
    #[value(name = "0")]
    None,
    /// The leader has written it
    #[value(name = "1")]
    Leader,
    /// Every in-sync replica has it
    #[value(name = "all", alias = "-1")]
    All,
}

impl AcksArg {
    fn acks(self) -> Acks {
        match self {
            AcksArg::None => Acks::None,
            AcksArg::Leader => Acks::Leader,
            AcksArg::All => Acks::All,
        }
    }
}

pub fn run(args: ProduceArgs) -> Outcome {
    let cluster = args.cluster.clone();
    with_cluster(&cluster, |cluster| produce(cluster, args))
}

async fn produce(cluster: Cluster, args: ProduceArgs) -> Outcome {
    let options = ProducerOptions {
        acks: args.acks.acks(),
        codec: args.codec.codec(),
        idempotent: args.idempotent,
        delivery_timeout: cluster.options().retry_for,
        ..ProducerOptions::default()
    };
    let producer = Producer::new(cluster, options).await?;
    let headers = args.header.iter().map(|(key, value)| RecordHeader {
        key: Str::from(key),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    });
    let model = ProducerRecord {
        topic: Str::from(&args.topic),
        partition: args.partition.map(PartitionIndex),
        headers: headers.collect(),
        ..ProducerRecord::default()
    };
    let mut lines = Lines::of_stdin()?;
    let mut progress = Progress::new(!args.quiet);
    let mut bytes = 0;
    while let Some(line) = lines.next().await? {
        bytes += line.len() as u64;
        let (key, value) = split(&line, args.key_separator.as_deref());
        let record = ProducerRecord {
            key,
            value: Some(value).filter(|value| !(args.null_values && value.is_empty())),
            ..model.clone()
        };
        producer.send(record).await?;
        if let Some(error) = producer.first_loss() {
            return Err(error.into());
        }
        progress.show(producer.delivered(), bytes);
        turn::yield_if_needed().await;
    }
    producer.flush().await;
    drop(progress);
    if let Some(error) = producer.first_loss() {
        return Err(error.into());
    }
    if !args.quiet {
        let records = match producer.delivered() {
            1 => "1 record".to_owned(),
            count => format!("{count} records"),
        };
        eprintln!("Wrote {records} to topic {}.", args.topic);
    }
    Ok(())
}

/// Key and value of a line.
fn split(line: &Bytes, separator: Option<&str>) -> (Option<Bytes>, Bytes) {
    let separator = separator.map(str::as_bytes).filter(|text| !text.is_empty());
    let found = separator.and_then(|separator| {
        let at = line
            .windows(separator.len())
            .position(|window| window == separator)?;
        Some((at, at + separator.len()))
    });
    match found {
        Some((end, start)) => (Some(line.slice(..end)), line.slice(start..)),
        None => (None, line.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_ends_the_key() {
        let split =
            |text: &'static str, separator| split(&Bytes::from_static(text.as_bytes()), separator);
        assert_eq!(split("a:b:c", Some(":")), (Some("a".into()), "b:c".into()));
        assert_eq!(split("a::b", Some("::")), (Some("a".into()), "b".into()));
        assert_eq!(split(":b", Some(":")), (Some("".into()), "b".into()));
        assert_eq!(split("ab", Some(":")), (None, "ab".into()));
        assert_eq!(split("a:b", None), (None, "a:b".into()));
    }
}
