//! Drives the machine as a driver would: each batch it makes is encoded, decoded and replayed
//! into an image of its own, which must come out the same as the machine's.

use std::sync::Arc;

use super::*;
use crate::{
    config::{Sources, load},
    ids::{BrokerId, LeaderEpoch, PartitionIndex},
    protocol::{
        Uuid,
        batch::{self, Batch},
        messages::{
            AlterConfigsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
            IncrementalAlterConfigsRequest, UpdateFeaturesRequest, alter_configs_request,
            create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic},
            create_topics_request::{
                CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
            },
            delete_topics_request::DeleteTopicState,
            incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
            update_features_request::FeatureUpdateKey,
        },
    },
};

struct Bench {
    controller: Controller,
    replica: MetadataImage,
    log: Vec<Batch>,
    entropy: Entropy,
}

impl Bench {
    fn new() -> Bench {
        Bench::with_options(&[])
    }

    fn with_options(options: &[&str]) -> Bench {
        let sources = Sources {
            overrides: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Sources::default()
        };
        let config = Arc::new(load(&sources).unwrap().config);
        let empty = MetadataImage::new("cluster".into());
        let mut bench = Bench {
            controller: Controller::new(config, empty.clone(), 1),
            replica: empty,
            log: Vec::new(),
            entropy: Entropy::new([1, 2]),
        };
        let outcome = bench.controller.bootstrap();
        bench.take(outcome);
        bench.register(Uuid([1; 16]));
        bench
    }

    fn register(&mut self, incarnation: Uuid) {
        let outcome = self.controller.register(&Registration {
            incarnation,
            endpoints: vec![Endpoint {
                name: "PLAINTEXT".into(),
                host: "127.0.0.1".into(),
                port: 9092,
                security_protocol: 0,
            }],
            controller_endpoints: Vec::new(),
            directories: vec![Uuid([9; 16])],
            rack: None,
        });
        self.take(outcome);
    }

    /// Stores what an outcome asks for and checks that a replay agrees with the machine.
    fn take<R>(&mut self, outcome: Outcome<R>) -> R {
        if let Some(batch) = outcome.batch {
            let bytes = batch.encode(1_700_000_000_000);
            let stored = Batch::parse(&bytes).unwrap();
            stored.verify_crc().unwrap();
            let mut replay = metadata_log::Replay::new(self.replica.clone());
            replay.batch(&stored).unwrap();
            self.replica = replay.finish();
            self.log.push(stored);
        }
        assert_eq!(&self.replica, self.controller.image());
        outcome.response
    }

    fn create(&mut self, topics: Vec<CreatableTopic>) -> Vec<(i16, String)> {
        self.create_with(topics, false)
    }

    fn create_with(
        &mut self,
        topics: Vec<CreatableTopic>,
        validate_only: bool,
    ) -> Vec<(i16, String)> {
        let request = CreateTopicsRequest {
            topics,
            validate_only,
            ..Default::default()
        };
        let outcome = self.controller.create_topics(&request, &mut self.entropy);
        let told =
            |topic: crate::protocol::messages::create_topics_response::CreatableTopicResult| {
                (
                    topic.error_code,
                    topic
                        .error_message
                        .map(|m| m.to_string())
                        .unwrap_or_default(),
                )
            };
        self.take(outcome).topics.into_iter().map(told).collect()
    }

    fn alter(
        &mut self,
        kind: ResourceType,
        name: &str,
        changes: &[(&str, i8, Option<&str>)],
    ) -> (i16, String) {
        let request = IncrementalAlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: kind.code(),
                resource_name: Str::copied(name),
                configs: changes
                    .iter()
                    .map(|(name, operation, value)| AlterableConfig {
                        name: Str::copied(name),
                        config_operation: *operation,
                        value: value.map(Str::copied),
                    })
                    .collect(),
            }],
            validate_only: false,
        };
        let outcome = self.controller.incremental_alter_configs(&request);
        let answer = self.take(outcome).responses.remove(0);
        (
            answer.error_code,
            answer
                .error_message
                .map(|m| m.to_string())
                .unwrap_or_default(),
        )
    }
}

fn topic(name: &str, partitions: i32, replicas: i16) -> CreatableTopic {
    CreatableTopic {
        name: Str::copied(name),
        num_partitions: partitions,
        replication_factor: replicas,
        ..Default::default()
    }
}

fn configured(name: &str, configs: &[(&str, Option<&str>)]) -> CreatableTopic {
    CreatableTopic {
        configs: configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig {
                name: Str::copied(name),
                value: value.map(Str::copied),
            })
            .collect(),
        ..topic(name, 1, 1)
    }
}

fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> CreatableTopic {
    CreatableTopic {
        assignments: assignments
            .iter()
            .map(|(partition, brokers)| CreatableReplicaAssignment {
                partition_index: *partition,
                broker_ids: brokers.to_vec(),
            })
            .collect(),
        ..topic(name, -1, -1)
    }
}

fn says(answer: (i16, &str)) -> (i16, String) {
    (answer.0, answer.1.to_owned())
}

#[test]
fn created_topics_are_led_and_in_sync() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.create(vec![topic("a", 3, 1), topic("b", -1, -1)]),
        vec![says((0, "")); 2]
    );
    let a = bench.replica.topic("a").unwrap();
    assert_eq!(a.partitions.len(), 3);
    let partition = a.partition(PartitionIndex(2)).unwrap();
    assert_eq!(partition.leader, Some(BrokerId(1)));
    assert_eq!(partition.isr, [BrokerId(1)]);
    assert_eq!(partition.leader_epoch, LeaderEpoch(0));
    assert_eq!(partition.directories, [Uuid([9; 16])]);
    assert_eq!(bench.replica.topic("b").unwrap().partitions.len(), 1);
    assert_eq!(bench.replica.topic_by_id(a.id).unwrap().name, "a");
}

#[test]
fn what_create_topics_refuses() {
    let mut bench = Bench::new();
    bench.create(vec![topic("a.b", 1, 1)]);
    let long = "q".repeat(250);
    let cases = [
        (topic("a.b", 1, 1), 36, "Topic 'a.b' already exists."),
        (
            topic("a_b", 1, 1),
            17,
            "Topic 'a_b' collides with existing topic: a.b",
        ),
        (
            topic("", 1, 1),
            17,
            "Topic name is invalid: the empty string is not allowed",
        ),
        (
            topic("..", 1, 1),
            17,
            "Topic name is invalid: '..' is not allowed",
        ),
        (
            topic("x y", 1, 1),
            17,
            "Topic name is invalid: 'x y' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'",
        ),
        (
            topic("rf2", 1, 2),
            38,
            "Unable to replicate the partition 2 time(s): The target replication factor of 2 cannot \
             be reached because only 1 broker(s) are registered or some brokers have all their log \
             directories cordoned.",
        ),
        (
            topic("rf0", 1, 0),
            38,
            "Replication factor must be larger than 0, or -1 to use the default value.",
        ),
        (
            topic("p0", 0, 1),
            37,
            "Number of partitions was set to an invalid non-positive value.",
        ),
        (
            topic("__cluster_metadata", 1, 1),
            42,
            "Creation of internal topic __cluster_metadata is prohibited.",
        ),
        (
            assigned("gap", &[(0, &[1]), (2, &[1])]),
            39,
            "partitions should be a consecutive 0-based integer sequence",
        ),
        (
            assigned("nobody", &[(0, &[9])]),
            39,
            "The manual partition assignment includes broker 9, but no such broker is registered.",
        ),
        (
            assigned("twice", &[(0, &[1, 1])]),
            39,
            "The manual partition assignment includes the broker 1 more than once.",
        ),
        (
            assigned("empty", &[(0, &[])]),
            39,
            "The manual partition assignment includes an empty replica list.",
        ),
        (
            configured("c", &[("nope", Some("1"))]),
            40,
            "Unknown topic config name: nope",
        ),
        (
            configured("c", &[("segment.bytes", Some("10"))]),
            40,
            "Invalid value 10 for configuration segment.bytes: Value must be at least 1048576",
        ),
        (
            configured("c", &[("retention.ms", None)]),
            40,
            "Null value not supported for topic configs: retention.ms",
        ),
        (
            topic("huge", 20_000, 1),
            44,
            "Excessively large number of partitions per request.",
        ),
        (
            topic("edge", 10_000, 1),
            44,
            "Unable to perform excessively large batch operation.",
        ),
    ];
    let offset = bench.replica.offset;
    for (request, code, message) in cases {
        assert_eq!(bench.create(vec![request]), vec![says((code, message))]);
    }
    assert_eq!(bench.create(vec![topic(&long, 1, 1)])[0].0, 17);
    assert_eq!(
        bench.create(vec![configured(
            "c",
            &[("cleanup.policy", Some("compacted"))]
        )])[0]
            .0,
        40
    );
    assert_eq!(bench.replica.offset, offset, "refusals store nothing");
}

#[test]
fn topics_of_one_request_are_independent_and_duplicates_fail() {
    let mut bench = Bench::new();
    let answers = bench.create(vec![topic("d", 1, 1), topic("ok", 1, 1), topic("d", 2, 1)]);
    assert_eq!(
        answers,
        vec![says((0, "")), says((42, "Duplicate topic name."))]
    );
    assert!(bench.replica.topic("d").is_none());
    assert_eq!(
        bench.create_with(vec![topic("trial", 1, 1)], true),
        vec![says((0, ""))]
    );
    assert!(bench.replica.topic("trial").is_none());
}

#[test]
fn a_new_topic_tells_its_settings() {
    let mut bench = Bench::new();
    let request = CreateTopicsRequest {
        topics: vec![configured("c", &[("retention.ms", Some("5"))])],
        ..Default::default()
    };
    let outcome = bench.controller.create_topics(&request, &mut bench.entropy);
    let topic = bench.take(outcome).topics.remove(0);
    assert_eq!((topic.num_partitions, topic.replication_factor), (1, 1));
    let configs = topic.configs.unwrap();
    assert_eq!(configs.len(), 37);
    let retention = configs
        .iter()
        .find(|config| config.name == "retention.ms")
        .unwrap();
    assert_eq!(
        (retention.value.as_deref(), retention.config_source),
        (Some("5"), 1)
    );
    let minimum = configs
        .iter()
        .find(|config| config.name == "min.insync.replicas")
        .unwrap();
    assert_eq!(
        minimum.config_source, 3,
        "the cluster's default comes with the bootstrap records"
    );
    assert_eq!(
        bench
            .replica
            .topic_settings("c")
            .get("retention.ms")
            .unwrap(),
        "5"
    );
}

#[test]
fn topics_are_deleted_by_name_and_by_id() {
    let mut bench = Bench::new();
    bench.create(vec![
        configured("a", &[("retention.ms", Some("5"))]),
        topic("b.x", 1, 1),
        topic("c", 1, 1),
    ]);
    let id = bench.replica.topic("b.x").unwrap().id;
    let by_id = |topic_id| DeleteTopicState {
        name: None,
        topic_id,
    };
    let by_name = |name: &str| DeleteTopicState {
        name: Some(Str::copied(name)),
        topic_id: Uuid::ZERO,
    };
    let request = DeleteTopicsRequest {
        topics: vec![
            by_name("a"),
            by_id(id),
            by_name("nope"),
            by_id(Uuid([7; 16])),
            by_name("c"),
            by_name("c"),
            by_id(Uuid::ZERO),
        ],
        ..Default::default()
    };
    let outcome = bench.controller.delete_topics(&request, 6);
    let codes: Vec<i16> = bench
        .take(outcome)
        .responses
        .iter()
        .map(|r| r.error_code)
        .collect();
    assert_eq!(codes, [0, 0, 3, 100, 42, 42]);
    assert!(bench.replica.topic("a").is_none() && bench.replica.topic("b.x").is_none());
    assert!(bench.replica.topic("c").is_some());
    assert!(bench.replica.topic_settings("a").is_empty());
    // The name is free again, for itself and for what would have collided.
    assert_eq!(
        bench.create(vec![topic("b_x", 1, 1), topic("a", 1, 1)]),
        vec![says((0, "")); 2]
    );
}

#[test]
fn a_topic_named_by_name_and_by_id_is_refused_once() {
    let mut bench = Bench::new();
    bench.create(vec![topic("a", 1, 1)]);
    let topic_id = bench.replica.topic("a").unwrap().id;
    let entry = |name, topic_id| DeleteTopicState { name, topic_id };
    let request = DeleteTopicsRequest {
        topics: vec![entry(None, topic_id), entry(Some("a".into()), Uuid::ZERO)],
        ..Default::default()
    };
    let outcome = bench.controller.delete_topics(&request, 6);
    let answers = bench.take(outcome).responses;
    assert_eq!(answers.len(), 1);
    let (code, id) = (answers[0].error_code, answers[0].topic_id);
    assert_eq!((code, id), (42, topic_id));
    assert!(bench.replica.topic("a").is_some());
}

#[test]
fn deletion_may_be_disabled() {
    let mut bench = Bench::with_options(&["delete.topic.enable=false"]);
    bench.create(vec![topic("a", 1, 1)]);
    let request = DeleteTopicsRequest {
        topic_names: vec!["a".into()],
        ..Default::default()
    };
    for (version, code) in [(2, 42), (3, 73)] {
        let outcome = bench.controller.delete_topics(&request, version);
        assert_eq!(bench.take(outcome).responses[0].error_code, code);
    }
}

#[test]
fn partitions_are_added() {
    let mut bench = Bench::new();
    bench.create(vec![topic("a", 2, 1)]);
    let mut grow = |count, assignments: Option<Vec<Vec<i32>>>, name: &str| {
        let request = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: Str::copied(name),
                count,
                assignments: assignments.map(|all| {
                    all.into_iter()
                        .map(|broker_ids| CreatePartitionsAssignment { broker_ids })
                        .collect()
                }),
            }],
            ..Default::default()
        };
        let outcome = bench
            .controller
            .create_partitions(&request, &mut bench.entropy);
        let result = bench.take(outcome).results.remove(0);
        (
            result.error_code,
            result
                .error_message
                .map(|m| m.to_string())
                .unwrap_or_default(),
        )
    };
    assert_eq!(
        grow(2, None, "a"),
        says((37, "Topic already has 2 partition(s)."))
    );
    assert_eq!(
        grow(1, None, "a"),
        says((
            37,
            "The topic a currently has 2 partition(s); 1 would not be an increase."
        ))
    );
    assert_eq!(grow(3, None, "nope").0, 3);
    assert_eq!(
        grow(5, Some(vec![vec![1]]), "a"),
        says((
            39,
            "Attempted to add 3 additional partition(s), but only 1 assignment(s) were specified."
        ))
    );
    assert_eq!(
        grow(20_000, None, "a"),
        says((
            44,
            "Excessively large number of additional partitions per request."
        ))
    );
    assert_eq!(grow(3, Some(vec![vec![1]]), "a"), says((0, "")));
    assert_eq!(grow(5, None, "a"), says((0, "")));
    assert_eq!(bench.replica.topic("a").unwrap().partitions.len(), 5);
}

#[test]
fn topic_settings_change_one_by_one() {
    let mut bench = Bench::new();
    bench.create(vec![topic("a", 1, 1)]);
    let mut alter = |name: &str, changes: &[(&str, i8, Option<&str>)]| {
        bench.alter(ResourceType::Topic, name, changes)
    };
    assert_eq!(alter("a", &[("retention.ms", 0, Some("7"))]), says((0, "")));
    assert_eq!(
        alter("a", &[("nope", 0, Some("7"))]),
        says((40, "Unknown topic config name: nope"))
    );
    assert_eq!(alter("a", &[("nope", 1, None)]), says((0, "")));
    assert_eq!(
        alter("a", &[("retention.ms", 2, Some("7"))]),
        says((
            40,
            "Can't APPEND to key retention.ms because its type is not LIST."
        ))
    );
    assert_eq!(
        alter("a", &[("retention.ms", 0, None)]),
        says((42, "Null value not supported for : retention.ms"))
    );
    assert_eq!(
        alter(
            "a",
            &[
                ("retention.ms", 0, Some("1")),
                ("retention.ms", 0, Some("2"))
            ]
        ),
        says((42, "Error due to duplicate config keys"))
    );
    assert_eq!(
        alter("b", &[("retention.ms", 0, Some("7"))]),
        says((3, "The topic 'b' does not exist."))
    );
    assert_eq!(
        alter("", &[]),
        says((42, "Default topic resources are not allowed."))
    );
    let throttled = "leader.replication.throttled.replicas";
    assert_eq!(alter("a", &[(throttled, 2, Some("0:1"))]), says((0, "")));
    assert_eq!(
        alter("a", &[(throttled, 2, Some("1:1,0:1"))]),
        says((0, ""))
    );
    assert_eq!(alter("a", &[(throttled, 3, Some("0:1"))]), says((0, "")));
    assert_eq!(alter("a", &[("cleanup.policy", 2, Some("compact"))]).0, 0);
    let settings = bench.replica.topic_settings("a");
    assert_eq!(settings.get(throttled).unwrap(), "1:1");
    assert_eq!(settings.get("retention.ms").unwrap(), "7");
}

#[test]
fn broker_settings_change_for_one_or_all() {
    let mut bench = Bench::new();
    let mut alter = |name: &str, setting: &str, operation: i8, value: Option<&str>| {
        bench.alter(ResourceType::Broker, name, &[(setting, operation, value)])
    };
    assert_eq!(
        alter("1", "log.retention.ms", 0, Some("100000")),
        says((0, ""))
    );
    assert_eq!(
        alter("", "log.retention.ms", 0, Some("200000")),
        says((0, ""))
    );
    assert_eq!(
        alter("1", "log.dirs", 0, Some("x")),
        says((42, "Cannot update these configs dynamically: [log.dirs]"))
    );
    assert_eq!(
        alter("", "listeners", 0, Some("PLAINTEXT://:1")),
        says((
            42,
            "Cannot update these configs at default cluster level, broker id must be specified: [listeners]"
        ))
    );
    assert_eq!(
        alter("9", "log.retention.ms", 0, Some("1")),
        says((42, "Unexpected broker id, expected 1, but received 9"))
    );
    assert_eq!(
        alter("x", "log.retention.ms", 0, Some("1")),
        says((42, "Node id must be an integer, but it is: x"))
    );
    assert_eq!(
        alter("1", "log.retention.ms", 0, Some("x")),
        says((
            42,
            "Invalid value x for configuration log.retention.ms: Not a number of type LONG"
        ))
    );
    assert_eq!(
        alter("1", "log.retention.ms", 2, Some("1")),
        says((
            40,
            "Config value append is not allowed for config key: log.retention.ms"
        ))
    );
    assert_eq!(
        alter("1", "min.insync.replicas", 0, Some("2")),
        says((
            40,
            "Broker-level min.insync.replicas cannot be altered while ELR is enabled."
        ))
    );
    assert_eq!(
        alter("", "min.insync.replicas", 1, None),
        says((
            40,
            "Cluster-level min.insync.replicas cannot be removed while ELR is enabled."
        ))
    );
    assert_eq!(
        alter("", "min.insync.replicas", 0, Some("2")),
        says((0, ""))
    );
    assert_eq!(alter("1", "log.cleanup.policy", 2, Some("compact")).0, 0);
    let dynamic = bench.replica.dynamic_configs(BrokerId(1));
    assert_eq!(dynamic.broker.get("log.retention.ms").unwrap(), "100000");
    assert_eq!(dynamic.cluster.get("log.retention.ms").unwrap(), "200000");
}

#[test]
fn groups_choose_within_the_brokers_bounds() {
    let mut bench = Bench::new();
    let mut alter = |group: &str, setting: &str, value: &str| {
        bench.alter(ResourceType::Group, group, &[(setting, 0, Some(value))])
    };
    assert_eq!(
        alter("g", "consumer.session.timeout.ms", "50000"),
        says((0, ""))
    );
    assert_eq!(
        alter("g", "consumer.session.timeout.ms", "5"),
        says((
            40,
            "consumer.session.timeout.ms must be in the range 45000 to 60000 inclusive."
        ))
    );
    assert_eq!(
        alter("g", "nope", "1"),
        says((40, "Unknown group config name: nope"))
    );
    assert_eq!(
        alter("", "consumer.session.timeout.ms", "50000"),
        says((42, "Default group resources are not allowed."))
    );
}

#[test]
fn the_old_alter_configs_replaces_everything() {
    let mut bench = Bench::new();
    bench.create(vec![configured(
        "a",
        &[("retention.ms", Some("5")), ("preallocate", Some("true"))],
    )]);
    let request = AlterConfigsRequest {
        resources: vec![alter_configs_request::AlterConfigsResource {
            resource_type: 2,
            resource_name: "a".into(),
            configs: vec![alter_configs_request::AlterableConfig {
                name: "flush.ms".into(),
                value: Some("9".into()),
            }],
        }],
        validate_only: false,
    };
    let outcome = bench.controller.alter_configs(&request);
    assert_eq!(bench.take(outcome).responses[0].error_code, 0);
    let settings = bench.replica.topic_settings("a");
    assert_eq!(settings.keys().collect::<Vec<_>>(), ["flush.ms"]);
}

#[test]
fn old_versions_answer_for_each_feature_that_was_updated() {
    let mut bench = Bench::new();
    for (feature, results) in [("metadata.version", 1), ("nope", 0)] {
        let request = UpdateFeaturesRequest {
            feature_updates: vec![FeatureUpdateKey {
                feature: feature.into(),
                max_version_level: 33,
                ..Default::default()
            }],
            ..Default::default()
        };
        let outcome = bench.controller.update_features(&request, 1);
        let answer = bench.take(outcome);
        assert_eq!(answer.results.len(), results);
        assert!(
            answer
                .results
                .iter()
                .all(|result| result.error_message == Some("NONE".into()))
        );
    }
}

#[test]
fn feature_levels_move_within_what_is_supported() {
    let mut bench = Bench::new();
    assert_eq!(bench.replica.feature("metadata.version"), 33);
    let mut update = |feature: &str, max_version_level, upgrade_type| {
        let request = UpdateFeaturesRequest {
            feature_updates: vec![FeatureUpdateKey {
                feature: Str::copied(feature),
                max_version_level,
                upgrade_type,
                ..Default::default()
            }],
            ..Default::default()
        };
        let outcome = bench.controller.update_features(&request, 2);
        let response = bench.take(outcome);
        (
            response.error_code,
            response
                .error_message
                .map(|m| m.to_string())
                .unwrap_or_default(),
        )
    };
    let prefix = "The update failed for all features since the following feature had an error: Invalid update version";
    assert_eq!(
        update("nope", 1, 1),
        (
            95,
            format!(
                "{prefix} 1 for feature nope. Local controller 1 does not support this feature."
            )
        )
    );
    assert_eq!(
        update("eligible.leader.replicas.version", 2, 1),
        (
            95,
            format!(
                "{prefix} 2 for feature eligible.leader.replicas.version. Local controller 1 only supports versions 0-1"
            )
        )
    );
    assert_eq!(update("eligible.leader.replicas.version", 0, 1).0, 95);
    assert_eq!(
        update("eligible.leader.replicas.version", 0, 2),
        says((0, ""))
    );
    assert_eq!(update("metadata.version", 33, 1), says((0, "")));
    assert_eq!(bench.replica.feature("eligible.leader.replicas.version"), 0);
}

#[test]
fn producer_ids_come_in_blocks() {
    let mut bench = Bench::new();
    for expected in [0, PRODUCER_ID_BLOCK, 2 * PRODUCER_ID_BLOCK] {
        let outcome = bench.controller.allocate_producer_ids();
        assert_eq!(bench.take(outcome), Ok(expected));
    }
}

#[test]
fn a_restart_starts_new_leader_epochs() {
    let mut bench = Bench::new();
    bench.create(vec![topic("a", 2, 1)]);
    let first = bench.replica.broker(BrokerId(1)).unwrap().epoch;
    bench.register(Uuid([2; 16]));
    let broker = bench.replica.broker(BrokerId(1)).unwrap();
    assert!(broker.is_active() && broker.epoch > first && broker.incarnation == Uuid([2; 16]));
    for partition in &bench.replica.topic("a").unwrap().partitions {
        assert_eq!(partition.leader, Some(BrokerId(1)));
        assert_eq!(partition.leader_epoch, LeaderEpoch(1));
        assert_eq!(partition.partition_epoch, 1);
    }
}

#[test]
fn a_whole_log_and_a_snapshot_replay_to_the_same_image() {
    let mut bench = Bench::new();
    bench.create(vec![
        topic("a", 2, 1),
        configured("b", &[("flush.ms", Some("1"))]),
        topic("gone", 1, 1),
    ]);
    let outcome = bench.controller.allocate_producer_ids();
    bench.take(outcome).unwrap();
    let request = DeleteTopicsRequest {
        topic_names: vec!["gone".into()],
        ..Default::default()
    };
    let outcome = bench.controller.delete_topics(&request, 5);
    bench.take(outcome);

    let mut replay = metadata_log::Replay::new(MetadataImage::new("cluster".into()));
    for batch in &bench.log {
        replay.batch(batch).unwrap();
    }
    assert_eq!(replay.finish(), bench.replica);

    let id = snapshot::SnapshotId::of(&bench.replica);
    assert_eq!(
        snapshot::SnapshotId::from_file_name(&id.file_name()),
        Some(id)
    );
    let bytes = snapshot::encode(&bench.replica, 1, 2);
    assert_eq!(
        snapshot::decode(&bytes, id, "cluster".into()).unwrap(),
        bench.replica
    );
    let cut = bytes.slice(..bytes.len() - batch_sizes(&bytes).pop().unwrap());
    assert!(snapshot::decode(&cut, id, "cluster".into()).is_err());
}

fn batch_sizes(bytes: &bytes::Bytes) -> Vec<usize> {
    batch::batches(bytes)
        .map(|batch| batch.unwrap().size_in_bytes())
        .collect()
}

#[test]
fn an_unfinished_transaction_of_records_never_happened() {
    let bench = Bench::new();
    let offset = bench.replica.offset;
    let open = MetadataBatch {
        base_offset: offset + 1,
        epoch: 1,
        records: vec![
            crate::protocol::records::metadata::BeginTransactionRecord { name: None }.into(),
            crate::protocol::records::metadata::TopicRecord {
                name: "half".into(),
                topic_id: Uuid([3; 16]),
            }
            .into(),
        ],
    };
    let stored = Batch::parse(&open.encode(0)).unwrap();
    let mut replay = metadata_log::Replay::new(bench.replica.clone());
    replay.batch(&stored).unwrap();
    assert!(replay.has_open_transaction());
    let image = replay.finish();
    assert!(image.topic("half").is_none());
    assert_eq!(image.offset, offset + 2);

    let mut next = Controller::new(bench.controller.config.clone(), image.clone(), 2);
    let abort = next.abort_transaction().batch.unwrap();
    let mut replay = metadata_log::Replay::new(bench.replica.clone());
    replay.batch(&stored).unwrap();
    replay
        .batch(&Batch::parse(&abort.encode(0)).unwrap())
        .unwrap();
    assert!(!replay.has_open_transaction());
    assert!(replay.finish().topic("half").is_none());
}

#[test]
fn clones_do_not_see_later_changes() {
    let mut bench = Bench::new();
    bench.create(vec![topic("a", 1, 1)]);
    let before = bench.replica.clone();
    bench.create(vec![topic("b", 1, 1)]);
    assert!(before.topic("b").is_none());
    assert!(Arc::ptr_eq(
        before.topic("a").unwrap(),
        bench.replica.topic("a").unwrap()
    ));
}
