//! `coati topic`: the life of topics, from creation to deletion.

use std::collections::HashMap;
use std::fmt::Write as _;

use clap::{Args, Subcommand};

use super::Outcome;
use super::connect::{ClusterArgs, key_value, with_cluster};
use crate::client::admin::ConfigChange;
use crate::client::{ClientError, Cluster, Isolation, Missing, OffsetSpec, Topic};
use crate::ids::{BrokerId, PartitionIndex};
use crate::protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use crate::protocol::messages::describe_configs_response::DescribeConfigsResult;
use crate::protocol::{ErrorCode, Str, Uuid};

/// `config_source` of settings that are the topic's own.
const DYNAMIC_TOPIC_CONFIG: i8 = 1;

#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    Create(CreateArgs),
    List(ListArgs),
    Describe(DescribeArgs),
    Alter(AlterArgs),
    Delete(DeleteArgs),
}

/// Create a topic.
#[derive(Debug, Args)]
pub struct CreateArgs {
    name: String,

    /// Number of partitions; the broker's num.partitions when not given
    #[arg(long, short)]
    partitions: Option<i32>,

    /// Replicas of each partition; the broker's default.replication.factor when not given
    #[arg(long, short)]
    replication_factor: Option<i16>,

    /// A setting of the topic, such as retention.ms=3600000; repeatable
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,

    /// No error when the topic exists already
    #[arg(long)]
    if_not_exists: bool,

    /// Only check whether it could be created
    #[arg(long)]
    validate_only: bool,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// List the names of all topics.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Leave out Kafka's own topics, such as __consumer_offsets
    #[arg(long)]
    exclude_internal: bool,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Show partitions, leaders, replicas and settings of topics.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// All topics when not given
    names: Vec<String>,

    /// Show each partition's log start offset and high watermark, too
    #[arg(long)]
    offsets: bool,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Change a topic's settings, or give it more partitions.
#[derive(Debug, Args)]
pub struct AlterArgs {
    name: String,

    /// The new number of partitions; it can only grow
    #[arg(long, short)]
    partitions: Option<i32>,

    /// A setting to set, such as retention.ms=3600000; repeatable
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,

    /// A setting to take back to the broker's value; repeatable
    #[arg(long, value_name = "KEY")]
    delete_config: Vec<String>,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Delete topics with all their records.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[arg(required = true)]
    names: Vec<String>,

    /// No error when a topic does not exist
    #[arg(long)]
    if_exists: bool,

    #[command(flatten)]
    cluster: ClusterArgs,
}

pub fn run(command: TopicCommand) -> Outcome {
    match command {
        TopicCommand::Create(args) => {
            let cluster = args.cluster.clone();
            with_cluster(&cluster, |cluster| create(cluster, args))
        }
        TopicCommand::List(args) => {
            let cluster = args.cluster.clone();
            with_cluster(&cluster, |cluster| list(cluster, args))
        }
        TopicCommand::Describe(args) => {
            let cluster = args.cluster.clone();
            with_cluster(&cluster, |cluster| describe(cluster, args))
        }
        TopicCommand::Alter(args) => {
            let cluster = args.cluster.clone();
            with_cluster(&cluster, |cluster| alter(cluster, args))
        }
        TopicCommand::Delete(args) => {
            let cluster = args.cluster.clone();
            with_cluster(&cluster, |cluster| delete(cluster, args))
        }
    }
}

async fn create(cluster: Cluster, args: CreateArgs) -> Outcome {
    let configs = args
        .config
        .into_iter()
        .map(|(name, value)| CreatableTopicConfig {
            name: name.into(),
            value: Some(value.into()),
        });
    let topic = CreatableTopic {
        name: Str::from(&args.name),
        num_partitions: args.partitions.unwrap_or(-1),
        replication_factor: args.replication_factor.unwrap_or(-1),
        assignments: Vec::new(),
        configs: configs.collect(),
    };
    match cluster.create_topic(topic, args.validate_only).await {
        Ok(_) if args.validate_only => println!("Topic {} could be created.", args.name),
        Ok(_) => println!("Created topic {}.", args.name),
        Err(error) if args.if_not_exists && error.code() == Some(ErrorCode::TopicAlreadyExists) => {
            println!("Topic {} exists already.", args.name);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn list(cluster: Cluster, args: ListArgs) -> Outcome {
    let mut out = String::new();
    for topic in cluster.list_topics().await? {
        if let Some(name) = topic.name
            && !(args.exclude_internal && topic.is_internal)
        {
            out.push_str(&name);
            out.push('\n');
        }
    }
    super::print(&out)
}

async fn describe(cluster: Cluster, args: DescribeArgs) -> Outcome {
    let mut names: Vec<Str> = args.names.iter().map(Str::from).collect();
    if names.is_empty() {
        let all = cluster.list_topics().await?;
        names = all.into_iter().filter_map(|topic| topic.name).collect();
    }
    let mut out = String::new();
    let mut topics = Vec::new();
    for name in &names {
        topics.push(cluster.topic(name, Missing::Fail).await?);
    }
    let configs = own_configs(&cluster, &names).await?;
    for topic in topics {
        let configs = configs.get(&topic.name).map_or("", String::as_str);
        describe_topic(&mut out, &cluster, &topic, configs, args.offsets).await?;
    }
    super::print(&out)
}

/// The settings that topics have of their own, as text. Nothing from brokers that don't tell settings.
async fn own_configs(
    cluster: &Cluster,
    names: &[Str],
) -> Result<HashMap<Str, String>, ClientError> {
    let results = match cluster.describe_topic_configs(names).await {
        Err(error @ ClientError::Unsupported { .. }) => {
            tracing::warn!(%error, "settings are not shown");
            return Ok(HashMap::new());
        }
        results => results?,
    };
    let own = |result: &DescribeConfigsResult| {
        let own = result
            .configs
            .iter()
            .filter(|config| config.config_source == DYNAMIC_TOPIC_CONFIG)
            .map(|config| {
                let value = config.value.as_deref().unwrap_or("null");
                format!("{}={value}", config.name)
            });
        own.collect::<Vec<_>>().join(",")
    };
    Ok(results
        .iter()
        .map(|result| (result.resource_name.clone(), own(result)))
        .collect())
}

/// As Kafka's own tool prints it, so that what parses that parses this.
async fn describe_topic(
    out: &mut String,
    cluster: &Cluster,
    topic: &Topic,
    configs: &str,
    with_offsets: bool,
) -> Result<(), ClientError> {
    const TO_MEMORY: &str = "writing to memory";
    let name = &topic.name;
    let id = match topic.id {
        Uuid::ZERO => String::new(),
        id => format!("\tTopicId: {id}"),
    };
    let partitions = topic.partitions.len();
    let replicas = topic.partitions.first().map_or(0, |p| p.replicas.len());
    writeln!(
        out,
        "Topic: {name}{id}\tPartitionCount: {partitions}\tReplicationFactor: {replicas}\tConfigs: {configs}"
    )
    .expect(TO_MEMORY);
    let indexes: Vec<PartitionIndex> = topic.partitions.iter().map(|p| p.index).collect();
    let offsets = async |spec| {
        cluster
            .offsets(name, &indexes, spec, Isolation::ReadUncommitted)
            .await
    };
    let range = match with_offsets {
        true => Some((
            offsets(OffsetSpec::Earliest).await?,
            offsets(OffsetSpec::Latest).await?,
        )),
        false => None,
    };
    for partition in &topic.partitions {
        let index = partition.index;
        let leader = partition
            .leader
            .map_or("none".to_owned(), |leader| leader.to_string());
        let (replicas, isr) = (joined(&partition.replicas), joined(&partition.isr));
        write!(
            out,
            "\tTopic: {name}\tPartition: {index}\tLeader: {leader}\tReplicas: {replicas}\tIsr: {isr}"
        )
        .expect(TO_MEMORY);
        if let Some((first, end)) = &range {
            let first = first[&index].unwrap_or_default();
            let end = end[&index].unwrap_or_default();
            write!(out, "\tLogStartOffset: {first}\tHighWatermark: {end}").expect(TO_MEMORY);
        }
        out.push('\n');
    }
    Ok(())
}

fn joined(ids: &[BrokerId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(",")
}

async fn alter(cluster: Cluster, args: AlterArgs) -> Outcome {
    let name = Str::from(&args.name);
    let set = |(key, value): (String, String)| (key.into(), ConfigChange::Set(value.into()));
    let mut changes: Vec<(Str, ConfigChange)> = args.config.into_iter().map(set).collect();
    let delete = |key: String| (key.into(), ConfigChange::Delete);
    changes.extend(args.delete_config.into_iter().map(delete));
    if changes.is_empty() && args.partitions.is_none() {
        return Err("nothing to alter: give --partitions, --config or --delete-config".into());
    }
    if !changes.is_empty() {
        cluster.alter_topic_configs(&name, &changes).await?;
    }
    if let Some(count) = args.partitions {
        cluster.create_partitions(&name, count).await?;
    }
    println!("Altered topic {name}.");
    Ok(())
}

async fn delete(cluster: Cluster, args: DeleteArgs) -> Outcome {
    for name in &args.names {
        match cluster.delete_topic(&Str::from(name)).await {
            Ok(()) => println!("Deleted topic {name}."),
            Err(error)
                if args.if_exists && error.code() == Some(ErrorCode::UnknownTopicOrPartition) =>
            {
                println!("Topic {name} does not exist.");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
