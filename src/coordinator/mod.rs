//! Owns consumer groups as pure machines: a `Coordinator` is all that one partition of `__consumer_offsets` knows.
//! Times, ids and requests are handed in; what comes out are records to append and answers to give. It reads no
//! clock, no randomness, no file, and iterates nothing in hash order; `shard::coordinators` drives it.
//!
//! State changes at once, with the records that say so in the same `Actions`; no answer may leave before all
//! records that came before or with it are committed. So what a client was told is always in the log, and a
//! coordinator that replays the log knows what its predecessor had promised. Should an append fail, the whole
//! coordinator is dropped with everything it had not told.
//!
//! One request and what its driver does with it:
//! ```
//! use coati::coordinator::{Answer, Coordinator, Now, Request, Settings, Token};
//! use coati::protocol::messages::HeartbeatRequest;
//!
//! let mut coordinator = Coordinator::new(Settings::default());
//! let now = Now { monotonic_ms: 0, wall_ms: 1_700_000_000_000 };
//! let heartbeat = HeartbeatRequest { group_id: "nobody's".into(), ..Default::default() };
//! let actions = coordinator.on_request(now, Token(1), Request::Heartbeat(heartbeat), 0);
//! assert!(actions.records.is_empty()); // Else: append them; when they are committed:
//! let (token, answer) = &actions.answers[0]; // let the answers out.
//! assert_eq!(*token, Token(1));
//! assert!(matches!(answer, Answer::Heartbeat(error) if error.name() == "UNKNOWN_MEMBER_ID"));
//! assert_eq!(coordinator.next_due(), None); // When it is time: `on_time`.
//! ```
//!
//! `machine` finds the group of a request; a group is of a type: `classic` and `consumer`, which may turn into each
//! other. `offsets` are stored for groups of any type.

mod admin;
pub mod classic;
pub mod consumer;
mod effects;
mod machine;
mod offsets;
mod records;
mod routing;
mod settings;
#[cfg(test)]
mod tests;
mod timers;

use crate::ids::TimestampMs;
use crate::protocol::messages::consumer_group_describe_response;
use crate::protocol::messages::describe_groups_response::DescribedGroup;
use crate::protocol::messages::list_groups_response::ListedGroup;
use crate::protocol::messages::offset_fetch_request::OffsetFetchRequestTopics;
use crate::protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use crate::protocol::messages::{
    ConsumerGroupHeartbeatResponse, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetDeleteRequest, OffsetDeleteResponse, SyncGroupRequest, SyncGroupResponse,
};
use crate::protocol::{ErrorCode, Str};

use effects::Effects;

pub use consumer::Beat;
pub use machine::{Coordinator, Group};
pub use offsets::Committed;
pub use records::{BadRecord, Record};
pub use routing::partition_of;
#[cfg(feature = "simulation")]
pub use settings::Sabotage;
pub use settings::{Bounded, ConsumerSettings, Settings};

/// The topic whose partitions are the coordinators' logs.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The two clocks, as the driver reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For intervals; from any beginning, but for all calls the same.
    pub monotonic_ms: i64,
    /// For what is written down.
    pub wall_ms: TimestampMs,
}

/// A request that waits for its answer; the driver's own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Who sends a request, as members are described.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Client {
    pub id: Str,
    /// As Kafka shows it: `/127.0.0.1`.
    pub host: Str,
}

/// A JoinGroup with what its answer depends on beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    pub request: JoinGroupRequest,
    pub version: i16,
    pub client: Client,
    /// What makes the id of a new member: text that nobody has had before.
    pub unique: Str,
}

/// What is asked of a coordinator, each of one group of its own but for `List`.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Join(Join),
    Sync(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    ConsumerHeartbeat(Beat),
    /// With the members as version 3 and later name them.
    Leave(LeaveGroupRequest),
    /// Of partitions that exist, with the topics' ids and names.
    Commit {
        request: OffsetCommitRequest,
        version: i16,
    },
    FetchOffsets {
        group: Str,
        /// Who asks, of a consumer group; -1 and nobody: no member.
        member: Option<Str>,
        member_epoch: i32,
        /// `None`: of all there are.
        topics: Option<Vec<OffsetFetchRequestTopics>>,
    },
    /// Of partitions that exist.
    DeleteOffsets(OffsetDeleteRequest),
    Describe {
        group: Str,
        version: i16,
    },
    DescribeConsumer {
        group: Str,
    },
    Delete {
        group: Str,
    },
    /// Every group whose state and type are among these; empty lists mean any.
    List {
        states: Vec<Str>,
        types: Vec<Str>,
    },
}

impl Request {
    /// Whether members say of themselves what is to be kept.
    pub fn tells_of_members(&self) -> bool {
        match self {
            Request::Join(_) => true,
            Request::ConsumerHeartbeat(beat) => {
                let request = &beat.request;
                request.member_epoch == 0
                    || request.subscribed_topic_names.is_some()
                    || request.subscribed_topic_regex.is_some()
            }
            _ => false,
        }
    }

    /// Whose members it may change.
    fn group(&self) -> Option<&Str> {
        match self {
            Request::Join(join) => Some(&join.request.group_id),
            Request::Sync(request) => Some(&request.group_id),
            Request::ConsumerHeartbeat(beat) => Some(&beat.request.group_id),
            Request::Leave(request) => Some(&request.group_id),
            Request::Delete { group } => Some(group),
            Request::Heartbeat(_)
            | Request::Commit { .. }
            | Request::FetchOffsets { .. }
            | Request::DeleteOffsets(_)
            | Request::Describe { .. }
            | Request::DescribeConsumer { .. }
            | Request::List { .. } => None,
        }
    }
}

/// What a request comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
    Heartbeat(ErrorCode),
    ConsumerHeartbeat(ConsumerGroupHeartbeatResponse),
    Leave(LeaveGroupResponse),
    Commit(OffsetCommitResponse),
    FetchedOffsets(OffsetFetchResponseGroup),
    DeletedOffsets(OffsetDeleteResponse),
    Described(DescribedGroup),
    DescribedConsumer(consumer_group_describe_response::DescribedGroup),
    Deleted(ErrorCode),
    Listed(Vec<ListedGroup>),
}

/// What a coordinator wants done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actions {
    /// To append, in this order, as few batches as they fit in.
    pub records: Vec<Record>,
    /// To give when `records`, and all that were to be appended before, are committed.
    pub answers: Vec<(Token, Answer)>,
}

impl Actions {
    fn answer(&mut self, token: Token, answer: Answer) {
        self.answers.push((token, answer));
    }
}
