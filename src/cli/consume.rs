//! `coati consume`: records of a topic, printed.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::Outcome;
use super::connect::{ClusterArgs, with_cluster};
use super::format::Format;
use super::progress::Progress;
use crate::client::membership::HEARTBEAT_INTERVAL;
use crate::client::time::within;
use crate::client::{
    Cluster, Consumer, ConsumerOptions, Fetched, GroupOffsets, Isolation, Membership, StartAt,
};
use crate::ids::{Offset, PartitionIndex};
use crate::io::clock;
use crate::io::timer;
use crate::protocol::{ErrorCode, Str};

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

    /// Read as a member of this group: go on where it has committed, share the topic with its other members, and commit.
    /// Where nothing is committed, begin at the end, or with --from-beginning at the first record
    #[arg(
        long,
        short,
        value_name = "GROUP",
        conflicts_with_all = ["offset", "timestamp", "partition", "exit"]
    )]
    group: Option<String>,

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
    let mut printer = Printer::new(topic.clone(), args.format, args.count);
    if let Some(group) = &args.group {
        return consume_in_group(cluster, Str::from(group), topic, options, printer).await;
    }
    let mut consumer = Consumer::assign(cluster, topic, chosen, options).await?;
    while printer.wants_more()
        && let Some(fetched) = consumer.next().await?
    {
        printer.print(&fetched)?;
    }
    Ok(())
}

/// How often a group's offsets are committed while records come.
const COMMIT_INTERVAL: Duration = Duration::from_secs(5);

/// Reads what the group gives this member, until it meets anew, and so on. What was printed is committed before
/// another member can get it.
async fn consume_in_group(
    cluster: Cluster,
    group: Str,
    topic: Str,
    options: ConsumerOptions,
    mut printer: Printer,
) -> Outcome {
    let mut membership = Membership::join(cluster.clone(), group.clone(), topic.clone()).await?;
    while printer.wants_more() {
        let partitions = membership.partitions().to_vec();
        let mut consumer = Consumer::assign(
            cluster.clone(),
            topic.clone(),
            Some(&partitions),
            options.clone(),
        )
        .await?;
        for ((committed, partition), offset) in cluster.committed(&group).await? {
            if committed == topic && partitions.contains(&partition) {
                consumer.seek(partition, offset);
            }
        }
        let mut printed = GroupOffsets::new();
        let mut committed_at = clock::now();
        let mut beat_at = clock::now() + HEARTBEAT_INTERVAL;
        let mut is_member = true;
        while is_member && printer.wants_more() {
            let fetched = match partitions.is_empty() {
                // With more members than partitions some have nothing to do.
                true => {
                    let rest = beat_at.saturating_duration_since(clock::now());
                    timer::sleep(rest).await;
                    None
                }
                false => {
                    let rest = beat_at.saturating_duration_since(clock::now());
                    within(rest, consumer.next()).await.transpose()?.flatten()
                }
            };
            if let Some(fetched) = fetched
                && let Some(next) = printer.print(&fetched)?
            {
                printed.insert((topic.clone(), fetched.partition), next);
            }
            let now = clock::now();
            if now >= beat_at {
                is_member = membership.heartbeat().await?;
                beat_at = now + HEARTBEAT_INTERVAL;
            }
            let is_due = now >= committed_at + COMMIT_INTERVAL;
            if !printed.is_empty() && (is_due || !is_member || !printer.wants_more()) {
                let offsets = std::mem::take(&mut printed);
                let committer = membership.committer();
                match cluster.commit(&group, &committer, &offsets).await {
                    // Another member has them already, and prints again what was not committed.
                    Err(error) if !is_member || error.code().is_some_and(ends_membership) => {
                        tracing::warn!(%error, "the last records were not committed");
                        is_member = false;
                    }
                    committed => committed?,
                }
                committed_at = now;
            }
        }
        if !is_member && printer.wants_more() {
            membership.meet().await?;
        }
    }
    Ok(membership.leave().await?)
}

fn ends_membership(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::IllegalGeneration | ErrorCode::UnknownMemberId | ErrorCode::RebalanceInProgress
    )
}

/// Prints records, as many as were asked for.
struct Printer {
    topic: Str,
    format: Format,
    out: BufWriter<io::Stdout>,
    progress: Progress,
    left: u64,
    count: u64,
    bytes: u64,
}

impl Printer {
    fn new(topic: Str, format: Format, count: Option<u64>) -> Printer {
        let stdout = io::stdout();
        Printer {
            topic,
            format,
            progress: Progress::new(!stdout.is_terminal()),
            out: BufWriter::with_capacity(64 << 10, stdout),
            left: count.unwrap_or(u64::MAX),
            count: 0,
            bytes: 0,
        }
    }

    fn wants_more(&self) -> bool {
        self.left > 0
    }

    /// Answers the offset after what was printed; `None` when nobody reads it any more.
    fn print(&mut self, fetched: &Fetched) -> Result<Option<Offset>, io::Error> {
        let take = self.left.min(fetched.records.len() as u64);
        let records = &fetched.records[..take as usize];
        let written = records.iter().try_for_each(|record| {
            self.format
                .write(&mut self.out, &self.topic, fetched.partition, record)
        });
        match written.and_then(|()| self.out.flush()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.left = 0;
                return Ok(None);
            }
            written => written?,
        }
        self.left -= take;
        self.count += take;
        self.bytes += records
            .iter()
            .map(|record| record.value.as_ref().map_or(0, |value| value.len() as u64))
            .sum::<u64>();
        self.progress.show(self.count, self.bytes);
        Ok(records.last().map(|record| record.offset.plus(1)))
    }
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
