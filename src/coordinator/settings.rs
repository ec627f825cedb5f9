//! Owns what a coordinator is told from outside, under Kafka's names, and what of it one group may choose for itself.

use crate::config;
use crate::controller::{MetadataImage, ResourceType};

use super::consumer::assignor::Assignor;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay_ms: i64,
    /// `group.min.session.timeout.ms`, `group.max.session.timeout.ms`
    pub session_timeout_min_ms: i32,
    pub session_timeout_max_ms: i32,
    /// `group.max.size`
    pub group_size_max: usize,
    /// `offsets.commit.timeout.ms`: so long what a request has appended may take to be committed.
    pub commit_timeout_ms: i64,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_max: usize,
    /// `offsets.retention.minutes`
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub retention_check_interval_ms: i64,
    /// `group.members.max.bytes`: what the members of all groups of a core hold.
    pub members_bytes_max: usize,
    /// `max.message.bytes` of the topic: a record that is larger cannot be written.
    pub batch_bytes_max: usize,
    pub consumer: ConsumerSettings,
    #[cfg(feature = "simulation")]
    pub sabotage: Sabotage,
}

/// Of groups of the consumer protocol: `group.consumer.…`
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerSettings {
    /// `group.coordinator.rebalance.protocols` has it.
    pub is_served: bool,
    /// `assignors`: the first is the default.
    pub assignors: Vec<Assignor>,
    /// `max.size`
    pub group_size_max: usize,
    /// `migration.policy`: whether classic groups may become consumer groups, and those classic ones again.
    pub may_upgrade: bool,
    pub may_downgrade: bool,
    /// `regex.refresh.interval.ms`
    pub regex_refresh_interval_ms: i64,
    /// `session.timeout.ms`, `heartbeat.interval.ms`, `assignment.interval.ms`, and their bounds.
    pub session_timeout_ms: Bounded,
    pub heartbeat_interval_ms: Bounded,
    pub assignment_interval_ms: Bounded,
}

/// A setting that groups may choose within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounded {
    pub default: i32,
    pub min: i32,
    pub max: i32,
}

/// What holds for one group of the consumer protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupSettings {
    pub session_timeout_ms: i32,
    pub heartbeat_interval_ms: i32,
    /// 0: a target is made as soon as it is needed.
    pub assignment_interval_ms: i32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            initial_rebalance_delay_ms: 3000,
            session_timeout_min_ms: 6000,
            session_timeout_max_ms: 1_800_000,
            group_size_max: i32::MAX as usize,
            commit_timeout_ms: 5_000,
            offset_metadata_max: 4096,
            offsets_retention_ms: 7 * 24 * 3_600_000,
            retention_check_interval_ms: 600_000,
            members_bytes_max: 256 << 20,
            batch_bytes_max: 1_048_588,
            consumer: ConsumerSettings::default(),
            #[cfg(feature = "simulation")]
            sabotage: Sabotage::None,
        }
    }
}

impl Default for ConsumerSettings {
    fn default() -> ConsumerSettings {
        let bounded = |default, min, max| Bounded { default, min, max };
        ConsumerSettings {
            is_served: true,
            assignors: vec![Assignor::Uniform, Assignor::Range],
            group_size_max: i32::MAX as usize,
            may_upgrade: true,
            may_downgrade: true,
            regex_refresh_interval_ms: 600_000,
            session_timeout_ms: bounded(45_000, 45_000, 60_000),
            heartbeat_interval_ms: bounded(5_000, 5_000, 15_000),
            assignment_interval_ms: bounded(1_000, 0, 15_000),
        }
    }
}

impl ConsumerSettings {
    /// A group's own choices over the broker's; bounds that have become narrower since hold.
    pub(super) fn of_group(&self, image: &MetadataImage, group: &str) -> GroupSettings {
        let own = image.configs(ResourceType::Group, group);
        let choice = |name: &str, bounded: Bounded| {
            let text = own.and_then(|own: &std::sync::Arc<config::Settings>| own.get(name));
            let value: Option<i32> = text.and_then(|text| text.parse().ok());
            let within = |value: i32| value.max(bounded.min).min(bounded.max);
            value.map_or(bounded.default, within)
        };
        GroupSettings {
            session_timeout_ms: choice("consumer.session.timeout.ms", self.session_timeout_ms),
            heartbeat_interval_ms: choice(
                "consumer.heartbeat.interval.ms",
                self.heartbeat_interval_ms,
            ),
            assignment_interval_ms: choice(
                "consumer.assignment.interval.ms",
                self.assignment_interval_ms,
            ),
        }
    }
}

/// A fault planted on purpose, to see whether the simulation finds it.
#[cfg(feature = "simulation")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sabotage {
    #[default]
    None,
    /// Commits are taken from any member id and generation.
    NoFencing,
    /// Loading leaves out the members' assignments.
    ForgetsAssignments,
    /// The assignments of a leader of an older generation are taken.
    OldLeaderAssigns,
    /// A partition is given to its next owner before the last has given it up.
    GivesOwned,
    /// Heartbeats are taken from any member epoch.
    NoMemberEpochs,
}
