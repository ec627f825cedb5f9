//! `coati group`: consumer groups, where they are, how far behind, and moving them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::connect::{ClusterArgs, with_cluster};
use super::{Failure, Outcome};
use crate::client::{
    ClientError, Cluster, Committer, GroupOffsets, Isolation, Missing, OffsetSpec,
};
use crate::ids::{Offset, PartitionIndex};
use crate::io::{clock, process};
use crate::protocol::{ErrorCode, Str};

#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    List(ListArgs),
    Describe(DescribeArgs),
    ResetOffsets(ResetArgs),
    Delete(DeleteArgs),
    DeleteOffsets(DeleteOffsetsArgs),
}

/// List all groups with their states and protocols.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only groups in this state, such as Stable or Empty; repeatable
    #[arg(long)]
    state: Vec<String>,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Show a group's members, what it has committed, and how far that is behind.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    #[arg(required = true)]
    groups: Vec<String>,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Move what a group has committed. Shows what would be done unless told to --execute.
///
/// The group must have no members. Offsets outside of a partition are brought to its nearest end.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true))]
pub struct ResetArgs {
    group: String,

    /// A topic, or some of its partitions as TOPIC:0,1,2; repeatable; all that the group has committed when not given
    #[arg(long, short, value_name = "TOPIC[:N,N]")]
    topic: Vec<String>,

    /// To the first record there is
    #[arg(long, group = "target")]
    to_earliest: bool,

    /// To the end
    #[arg(long, group = "target")]
    to_latest: bool,

    /// To where it is: shows it, or commits it again
    #[arg(long, group = "target")]
    to_current: bool,

    /// To this offset
    #[arg(long, value_name = "N", group = "target")]
    to_offset: Option<i64>,

    /// To the first record of this time or later, in milliseconds since 1970
    #[arg(long, value_name = "MS", group = "target")]
    to_timestamp: Option<i64>,

    /// To the first record of so long ago or later, such as 90s, 15m, 2h or 7d
    #[arg(long, value_name = "DURATION", value_parser = duration_ms, group = "target")]
    by_duration: Option<i64>,

    /// Forward by so many records, or with -N back
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        group = "target"
    )]
    shift_by: Option<i64>,

    /// To what a file says, a line `topic,partition,offset` each
    #[arg(long, value_name = "FILE", group = "target")]
    from_file: Option<PathBuf>,

    /// Do it
    #[arg(long)]
    execute: bool,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Delete groups without members, with all that they have committed.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[arg(required = true)]
    groups: Vec<String>,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Delete what a group has committed for topics that it does not read any more.
#[derive(Debug, Args)]
pub struct DeleteOffsetsArgs {
    group: String,

    /// A topic, or some of its partitions as TOPIC:0,1,2; repeatable
    #[arg(long, short, value_name = "TOPIC[:N,N]", required = true)]
    topic: Vec<String>,

    #[command(flatten)]
    cluster: ClusterArgs,
}

pub fn run(command: GroupCommand) -> Outcome {
    match command {
        GroupCommand::List(args) => {
            with_cluster(&args.cluster.clone(), |cluster| list(cluster, args))
        }
        GroupCommand::Describe(args) => {
            with_cluster(&args.cluster.clone(), |cluster| describe(cluster, args))
        }
        GroupCommand::ResetOffsets(args) => {
            with_cluster(&args.cluster.clone(), |cluster| reset(cluster, args))
        }
        GroupCommand::Delete(args) => {
            with_cluster(&args.cluster.clone(), |cluster| delete(cluster, args))
        }
        GroupCommand::DeleteOffsets(args) => with_cluster(&args.cluster.clone(), |cluster| {
            delete_offsets(cluster, args)
        }),
    }
}

/// Rows under headings, in columns as wide as they need be.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _infallible = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn headings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn list(cluster: Cluster, args: ListArgs) -> Outcome {
    let states: Vec<Str> = args.state.iter().map(Str::from).collect();
    let mut rows = vec![headings(&["GROUP", "STATE", "TYPE", "PROTOCOL"])];
    for group in cluster.list_groups(&states).await? {
        let protocol = or_dash(&group.protocol_type);
        rows.push(vec![
            group.group_id.to_string(),
            group.group_state.to_string(),
            group.group_type.to_string(),
            protocol,
        ]);
    }
    super::print(&table(&rows))
}

fn or_dash(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => text.to_owned(),
    }
}

async fn describe(cluster: Cluster, args: DescribeArgs) -> Outcome {
    for (number, name) in args.groups.iter().enumerate() {
        if number > 0 {
            super::print("\n")?;
        }
        let text = described(&cluster, &Str::from(name)).await?;
        super::print(&text)?;
    }
    Ok(())
}

async fn described(cluster: &Cluster, name: &Str) -> Result<String, Failure> {
    let group = cluster.describe_group(name).await?;
    let committed = cluster.committed(name).await?;
    if &*group.group_state == "Dead" && committed.is_empty() {
        return Err(format!("group '{name}' does not exist").into());
    }
    let mut text = format!(
        "group {name}: {}, {} members{}\n",
        group.group_state,
        group.members.len(),
        match &*group.protocol_data {
            "" => String::new(),
            protocol => format!(", protocol {protocol}"),
        }
    );
    if !committed.is_empty() {
        let ends = ends(cluster, &committed).await?;
        let mut rows = vec![headings(&["TOPIC", "PARTITION", "COMMITTED", "END", "LAG"])];
        for ((topic, partition), offset) in &committed {
            let end = ends.get(&(topic.clone(), *partition));
            rows.push(vec![
                topic.to_string(),
                partition.to_string(),
                offset.to_string(),
                end.map_or("-".into(), Offset::to_string),
                end.map_or("-".into(), |end| (end.0 - offset.0).max(0).to_string()),
            ]);
        }
        text.push_str(&table(&rows));
    }
    if !group.members.is_empty() {
        let mut rows = vec![headings(&["MEMBER", "INSTANCE", "CLIENT", "HOST"])];
        for member in &group.members {
            rows.push(vec![
                member.member_id.to_string(),
                member
                    .group_instance_id
                    .as_deref()
                    .unwrap_or("-")
                    .to_owned(),
                member.client_id.to_string(),
                member.client_host.to_string(),
            ]);
        }
        text.push_str(&table(&rows));
    }
    Ok(text)
}

/// Where these partitions end; those of topics that are gone are left out.
async fn ends(cluster: &Cluster, offsets: &GroupOffsets) -> Result<GroupOffsets, ClientError> {
    let wanted: BTreeSet<Place> = offsets.keys().cloned().collect();
    let existing: Vec<Str> = cluster
        .list_topics()
        .await?
        .into_iter()
        .filter_map(|topic| topic.name)
        .collect();
    let wanted = wanted.into_iter().filter(|(t, _)| existing.contains(t));
    found(cluster, &wanted.collect(), OffsetSpec::Latest).await
}

type Place = (Str, PartitionIndex);

/// The offsets of these partitions; those without such a record are left out.
async fn found(
    cluster: &Cluster,
    wanted: &BTreeSet<Place>,
    spec: OffsetSpec,
) -> Result<GroupOffsets, ClientError> {
    let mut topics: BTreeMap<&Str, Vec<PartitionIndex>> = BTreeMap::new();
    for (topic, partition) in wanted {
        topics.entry(topic).or_default().push(*partition);
    }
    let mut all = GroupOffsets::new();
    for (topic, partitions) in topics {
        let offsets = cluster.offsets(topic, &partitions, spec, Isolation::ReadUncommitted);
        for (partition, offset) in offsets.await? {
            all.extend(offset.map(|offset| ((topic.clone(), partition), offset)));
        }
    }
    Ok(all)
}

/// `TOPIC`, all of its partitions, or `TOPIC:0,1`, those.
async fn places(cluster: &Cluster, topics: &[String]) -> Result<BTreeSet<Place>, Failure> {
    let mut all = BTreeSet::new();
    for text in topics {
        let (name, numbers) = match text.split_once(':') {
            Some((name, numbers)) => (name, Some(numbers)),
            None => (text.as_str(), None),
        };
        let name = Str::copied(name);
        let known = cluster.topic(&name, Missing::Fail).await?;
        let existing: Vec<PartitionIndex> = known.partitions.iter().map(|p| p.index).collect();
        let Some(numbers) = numbers else {
            all.extend(existing.into_iter().map(|index| (name.clone(), index)));
            continue;
        };
        for number in numbers.split(',') {
            let index = number.trim().parse().map(PartitionIndex);
            let index = index.map_err(|_| format!("'{number}' is not a partition's number"))?;
            if !existing.contains(&index) {
                return Err(format!("topic '{name}' has no partition {index}").into());
            }
            all.insert((name.clone(), index));
        }
    }
    Ok(all)
}

async fn reset(cluster: Cluster, args: ResetArgs) -> Outcome {
    let group = Str::from(&args.group);
    let members = cluster.describe_group(&group).await;
    match members {
        Ok(described) if !described.members.is_empty() => {
            let count = described.members.len();
            return Err(format!(
                "group '{group}' has {count} members; its offsets can be moved when they have stopped"
            )
            .into());
        }
        // A group may begin with where it is to read from.
        Err(ClientError::Broker {
            code: ErrorCode::GroupIdNotFound,
            ..
        }) => {}
        described => drop(described?),
    }
    let committed = cluster.committed(&group).await?;
    let moved = match &args.from_file {
        Some(file) => from_file(file)?,
        None => {
            let wanted = match args.topic.is_empty() {
                true => committed.keys().cloned().collect(),
                false => places(&cluster, &args.topic).await?,
            };
            targets(&cluster, &args, &committed, &wanted).await?
        }
    };
    if moved.is_empty() {
        return Err(
            format!("group '{group}' has committed nothing; --topic says what to move").into(),
        );
    }
    let moved = within_bounds(&cluster, moved).await?;
    let mut rows = vec![headings(&["TOPIC", "PARTITION", "COMMITTED", "NEW"])];
    for ((topic, partition), offset) in &moved {
        let before = committed.get(&(topic.clone(), *partition));
        rows.push(vec![
            topic.to_string(),
            partition.to_string(),
            before.map_or("-".into(), Offset::to_string),
            offset.to_string(),
        ]);
    }
    if args.execute {
        cluster.commit(&group, &Committer::nobody(), &moved).await?;
    }
    super::print(&table(&rows))?;
    if !args.execute {
        eprintln!("nothing is changed yet: --execute does it");
    }
    Ok(())
}

/// Where each of the wanted partitions is to be.
async fn targets(
    cluster: &Cluster,
    args: &ResetArgs,
    committed: &GroupOffsets,
    wanted: &BTreeSet<Place>,
) -> Result<GroupOffsets, Failure> {
    let of_committed = |shift: i64| {
        let places = wanted.iter();
        let known = places.filter_map(|place| Some((place.clone(), *committed.get(place)?)));
        known
            .map(|(place, offset)| (place, Offset(offset.0.saturating_add(shift))))
            .collect()
    };
    let timestamp = match args.by_duration {
        Some(duration) => Some(clock::wall_ms() - duration),
        None => args.to_timestamp,
    };
    if let Some(timestamp) = timestamp {
        let mut offsets = found(cluster, wanted, OffsetSpec::Latest).await?;
        offsets.extend(found(cluster, wanted, OffsetSpec::At(timestamp)).await?);
        return Ok(offsets);
    }
    Ok(match (args.to_offset, args.shift_by) {
        (Some(offset), _) => {
            let places = wanted.iter().cloned();
            places.map(|place| (place, Offset(offset))).collect()
        }
        (None, Some(shift)) => of_committed(shift),
        (None, None) if args.to_current => of_committed(0),
        (None, None) if args.to_latest => found(cluster, wanted, OffsetSpec::Latest).await?,
        (None, None) => found(cluster, wanted, OffsetSpec::Earliest).await?,
    })
}

async fn within_bounds(
    cluster: &Cluster,
    moved: GroupOffsets,
) -> Result<GroupOffsets, ClientError> {
    let places: BTreeSet<Place> = moved.keys().cloned().collect();
    let first = found(cluster, &places, OffsetSpec::Earliest).await?;
    let last = found(cluster, &places, OffsetSpec::Latest).await?;
    let bounded = moved.into_iter().map(|(place, offset)| {
        let first = first.get(&place).copied().unwrap_or(offset);
        let last = last.get(&place).copied().unwrap_or(offset).max(first);
        (place, offset.clamp(first, last))
    });
    Ok(bounded.collect())
}

fn from_file(path: &Path) -> Result<GroupOffsets, Failure> {
    let shown = path.display();
    let text = process::read_small_file(path)?;
    let text = text.ok_or_else(|| format!("{shown} does not exist"))?;
    let mut offsets = GroupOffsets::new();
    let lines = text.lines().enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
        let fields: Vec<&str> = line
            .split(',')
            .map(|field| field.trim_matches([' ', '"']))
            .collect();
        let parsed = match fields[..] {
            [topic, partition, offset] => {
                partition
                    .parse()
                    .ok()
                    .zip(offset.parse().ok())
                    .map(|(partition, offset)| {
                        let place = (Str::copied(topic), PartitionIndex(partition));
                        (place, Offset(offset))
                    })
            }
            _ => None,
        };
        let (place, offset) = parsed.ok_or_else(|| {
            format!(
                "{shown}, line {}: it is not topic,partition,offset",
                number + 1
            )
        })?;
        offsets.insert(place, offset);
    }
    Ok(offsets)
}

/// `90s`, `15m`, `2h`, `7d`, in milliseconds.
fn duration_ms(text: &str) -> Result<i64, String> {
    let (number, unit_ms) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => {
            let (number, unit) = text.split_at(text.len().saturating_sub(1));
            let unit_ms = match unit {
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err("it must be a number and s, m, h or d".to_owned()),
            };
            (number, unit_ms)
        }
    };
    let number: i64 = number
        .parse()
        .map_err(|_| format!("'{number}' is not a number"))?;
    number
        .checked_mul(unit_ms)
        .ok_or_else(|| "it is too long".to_owned())
}

async fn delete(cluster: Cluster, args: DeleteArgs) -> Outcome {
    for group in &args.groups {
        cluster.delete_group(&Str::from(group)).await?;
        super::print(&format!("deleted group {group}\n"))?;
    }
    Ok(())
}

async fn delete_offsets(cluster: Cluster, args: DeleteOffsetsArgs) -> Outcome {
    let group = Str::from(&args.group);
    let mut topics: BTreeMap<Str, Vec<PartitionIndex>> = BTreeMap::new();
    for (topic, partition) in places(&cluster, &args.topic).await? {
        topics.entry(topic).or_default().push(partition);
    }
    for (topic, partitions) in topics {
        cluster
            .delete_group_offsets(&group, &topic, &partitions)
            .await?;
        let count = partitions.len();
        super::print(&format!(
            "deleted the offsets of {count} partitions of {topic}\n"
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        assert_eq!(duration_ms("90s"), Ok(90_000));
        assert_eq!(duration_ms("2h"), Ok(7_200_000));
        assert_eq!(duration_ms("5ms"), Ok(5));
        assert!(
            duration_ms("").is_err() && duration_ms("7").is_err() && duration_ms("xd").is_err()
        );
    }

    #[test]
    fn tables_are_as_wide_as_they_need_be() {
        let rows = [headings(&["A", "LONG"]), headings(&["abc", "x"])];
        assert_eq!(table(&rows), "A    LONG\nabc  x\n");
    }
}
