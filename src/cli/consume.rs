//! `coati consume`: records of a topic, printed.

use std::io::{self, BufWriter, IsTerminal, Write};

use clap::{Args, ValueEnum};

use super::Outcome;
use super::connect::{ClusterArgs, with_cluster};
use super::format::Format;
use super::progress::Progress;
use crate::client::{Cluster, Consumer, ConsumerOptions, Isolation, StartAt};
use crate::ids::{Offset, PartitionIndex};
use crate::protocol::Str;

/// Read records of a topic.
///
/// Begins at the end, and waits for new records, unless told otherwise. Records of one partition come in order.
#[derive(Debug, Args)]
pub struct ConsumeArgs {
    topic: String,

    /// Begin with the first record there is
    #[arg(long, conflicts_with_all = ["offset", "timestamp"])]
    from_beginning: bool,

    /// Begin at this offset; -N is N records before the end
    #[arg(
        long,
        short,
        value_name = "N",
        allow_negative_numbers = true,
        conflicts_with = "timestamp"
    )]
    offset: Option<i64>,

    /// Begin with the first record of this time or later, in milliseconds since 1970
    #[arg(long, value_name = "MS")]
    timestamp: Option<i64>,

    /// Read this partition; repeatable; all when not given
    #[arg(long, short, value_name = "N")]
    partition: Vec<i32>,

    /// End after this many records
    #[arg(long, short, value_name = "N")]
    count: Option<u64>,

    /// End at what is the end now
    #[arg(long, short, conflicts_with = "follow")]
    exit: bool,

    /// Wait for new records (the default)
    #[arg(long)]
    follow: bool,

    /// How a record is printed: %t topic, %p partition, %o offset, %T timestamp, %k key, %v or %s value, %h headers,
    /// %K and %S lengths of key and value, %% and \n \t \r \0 \\ \xNN; or json
    #[arg(long, short, default_value = r"%v\n", value_parser = Format::parse)]
    format: Format,

    /// Which records of transactions are seen
    #[arg(long, value_enum, default_value_t = IsolationArg::ReadUncommitted)]
    isolation: IsolationArg,

    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum IsolationArg {
    /// All
    #[value(name = "read_uncommitted")]
    ReadUncommitted,
    /// Only of committed ones
    #[value(name = "read_committed")]
    ReadCommitted,
}

pub fn run(args: ConsumeArgs) -> Outcome {
    let cluster = args.cluster.clone();
    with_cluster(&cluster, |cluster| consume(cluster, args))
}

async fn consume(cluster: Cluster, args: ConsumeArgs) -> Outcome {
    let options = ConsumerOptions {
        start: start(&args),
        stop_at_end: args.exit,
        isolation: match args.isolation {
            IsolationArg::ReadUncommitted => Isolation::ReadUncommitted,
            IsolationArg::ReadCommitted => Isolation::ReadCommitted,
        },
        ..ConsumerOptions::default()
    };
    let partitions: Vec<PartitionIndex> =
        args.partition.iter().copied().map(PartitionIndex).collect();
    let chosen = (!partitions.is_empty()).then_some(&partitions[..]);
    let topic = Str::from(&args.topic);
    let mut consumer = Consumer::assign(cluster, topic.clone(), chosen, options).await?;

    let stdout = io::stdout();
    let mut progress = Progress::new(!stdout.is_terminal());
    let mut out = BufWriter::with_capacity(64 << 10, stdout.lock());
    let mut left = args.count.unwrap_or(u64::MAX);
    let (mut count, mut bytes) = (0, 0);
    while left > 0
        && let Some(fetched) = consumer.next().await?
    {
        let take = left.min(fetched.records.len() as u64);
        let records = &fetched.records[..take as usize];
        let written = records.iter().try_for_each(|record| {
            args.format
                .write(&mut out, &topic, fetched.partition, record)
        });
        match written.and_then(|()| out.flush()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written?,
        }
        left -= take;
        count += take;
        bytes += records
            .iter()
            .map(|record| record.value.as_ref().map_or(0, |value| value.len() as u64))
            .sum::<u64>();
        progress.show(count, bytes);
    }
    Ok(())
}

fn start(args: &ConsumeArgs) -> StartAt {
    match (args.offset, args.timestamp) {
        (Some(offset @ 0..), _) => StartAt::Offset(Offset(offset)),
        (Some(before_end), _) => StartAt::BeforeEnd(before_end.saturating_neg()),
        (None, Some(timestamp)) => StartAt::Timestamp(timestamp),
        (None, None) if args.from_beginning => StartAt::Beginning,
        (None, None) => StartAt::End,
    }
}
