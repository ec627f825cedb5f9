//! Owns the incremental fetch sessions of this core's connections (KIP-227): what each client wants, and what it
//! was told last, so that a fetch names only what changed. A session that another core made is simply not found,
//! whereupon the client makes a new one. It reads no partition.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::ids::ShardId;
use crate::io::entropy::Random;
use crate::protocol::messages::FetchRequest;
use crate::protocol::messages::fetch_response::{
    FetchResponse, FetchableTopicResponse, PartitionData,
};
use crate::protocol::{ErrorCode, Str, Uuid};

/// Kafka's: a session that was not used for so long gives its place to another.
const EVICTION: Duration = Duration::from_secs(120);

const INITIAL_EPOCH: i32 = 0;
const FINAL_EPOCH: i32 = -1;
const NO_SESSION: i32 = 0;

/// A partition by the name that the client's version uses; the other is empty.
type Key = (Str, Uuid, i32);

/// One partition of a fetch.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub topic: Str,
    pub topic_id: Uuid,
    pub index: i32,
    pub fetch_offset: i64,
    pub leader_epoch: i32,
    pub last_fetched_epoch: i32,
    pub max_bytes: i32,
}

#[derive(Debug)]
struct Cached {
    wanted: Wanted,
    /// What the client was told last; -1 makes the next response say it again.
    high_watermark: i64,
    log_start_offset: i64,
}

#[derive(Debug)]
struct Session {
    by_id: bool,
    /// What the next request must carry.
    epoch: i32,
    last_used: Instant,
    /// In the order of service: who got data goes to the end.
    partitions: BTreeMap<u64, Cached>,
    places: HashMap<Key, u64>,
    next_place: u64,
}

/// What a request asks for, and how its response is to be shaped.
#[derive(Debug)]
pub struct OpenFetch {
    pub wanted: Vec<Wanted>,
    session: i32,
    incremental: bool,
}

#[derive(Debug)]
pub enum Opened {
    Session(OpenFetch),
    Refused(ErrorCode),
}

#[derive(Debug)]
pub struct FetchSessions {
    shard: ShardId,
    slots: usize,
    random: Random,
    sessions: HashMap<i32, Session>,
}

impl FetchSessions {
    /// At most `slots` sessions (`max.incremental.fetch.session.cache.slots`, shared out over the cores).
    pub fn new(shard: ShardId, slots: usize, seed: u64) -> FetchSessions {
        FetchSessions {
            shard,
            slots,
            random: Random::new(seed),
            sessions: HashMap::new(),
        }
    }

    /// Finds out what the request wants. `by_id`: its version names topics by id.
    pub fn open(&mut self, request: &FetchRequest, by_id: bool, now: Instant) -> Opened {
        if matches!(request.session_epoch, INITIAL_EPOCH | FINAL_EPOCH) {
            self.sessions.remove(&request.session_id);
            return Opened::Session(self.open_full(request, by_id, now));
        }
        let Some(session) = self.sessions.get_mut(&request.session_id) else {
            return Opened::Refused(ErrorCode::FetchSessionIdNotFound);
        };
        if session.epoch != request.session_epoch {
            return Opened::Refused(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != by_id {
            return Opened::Refused(ErrorCode::FetchSessionTopicIdError);
        }
        session.update(request);
        session.last_used = now;
        session.epoch = if session.epoch == i32::MAX {
            1
        } else {
            session.epoch + 1
        };
        if session.partitions.is_empty() {
            self.sessions.remove(&request.session_id);
            return Opened::Session(OpenFetch {
                wanted: Vec::new(),
                session: NO_SESSION,
                incremental: false,
            });
        }
        Opened::Session(OpenFetch {
            wanted: session.wanted(),
            session: request.session_id,
            incremental: true,
        })
    }

    fn open_full(&mut self, request: &FetchRequest, by_id: bool, now: Instant) -> OpenFetch {
        let wanted = wanted(request);
        let mut session = NO_SESSION;
        if request.session_epoch == INITIAL_EPOCH && !wanted.is_empty() && self.has_room(now) {
            session = self.new_id();
            let mut made = Session {
                by_id,
                epoch: INITIAL_EPOCH + 1,
                last_used: now,
                partitions: BTreeMap::new(),
                places: HashMap::new(),
                next_place: 0,
            };
            made.update(request);
            self.sessions.insert(session, made);
        }
        OpenFetch {
            wanted,
            session,
            incremental: false,
        }
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.sessions.len() >= self.slots {
            self.evict_idle(now);
        }
        self.sessions.len() < self.slots
    }

    /// Forgets the sessions that nobody used for long.
    pub fn evict_idle(&mut self, now: Instant) {
        self.sessions
            .retain(|_, session| now.saturating_duration_since(session.last_used) < EVICTION);
    }

    fn new_id(&mut self) -> i32 {
        loop {
            // Ids of different cores differ, so that a client of another core never meets a stranger's session.
            let random = (self.random.next_u64() >> 33) as i32;
            let id = (random & !0xff) | i32::from(self.shard.0 as u8);
            if id > NO_SESSION && !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }

    /// Shapes the response to `open` from what its partitions answered, in the order of `open.wanted`.
    pub fn respond(
        &mut self,
        open: OpenFetch,
        partitions: Vec<PartitionData>,
        by_id: bool,
    ) -> FetchResponse {
        let mut response = FetchResponse {
            session_id: open.session,
            ..Default::default()
        };
        let mut session = self.sessions.get_mut(&open.session);
        for (wanted, partition) in open.wanted.into_iter().zip(partitions) {
            let told = match &mut session {
                Some(session) => session.on_response(&wanted, &partition),
                None => true,
            };
            if told || !open.incremental {
                push(&mut response, wanted, partition, by_id);
            }
        }
        response
    }
}

impl Session {
    fn update(&mut self, request: &FetchRequest) {
        for topic in &request.forgotten_topics_data {
            for index in &topic.partitions {
                let key = (topic.topic.detach(), topic.topic_id, *index);
                if let Some(place) = self.places.remove(&key) {
                    self.partitions.remove(&place);
                }
            }
        }
        for wanted in wanted(request) {
            let wanted = Wanted {
                topic: wanted.topic.detach(),
                ..wanted
            };
            let key = (wanted.topic.clone(), wanted.topic_id, wanted.index);
            if let Some(cached) = self
                .places
                .get(&key)
                .and_then(|place| self.partitions.get_mut(place))
            {
                cached.wanted = wanted;
                continue;
            }
            self.places.insert(key, self.next_place);
            let cached = Cached {
                wanted,
                high_watermark: -1,
                log_start_offset: -1,
            };
            self.partitions.insert(self.next_place, cached);
            self.next_place += 1;
        }
    }

    fn wanted(&self) -> Vec<Wanted> {
        self.partitions
            .values()
            .map(|cached| cached.wanted.clone())
            .collect()
    }

    /// Notes what the client is told; `false` when it knows all of it already.
    fn on_response(&mut self, wanted: &Wanted, partition: &PartitionData) -> bool {
        let key = (wanted.topic.clone(), wanted.topic_id, wanted.index);
        let Some(place) = self.places.get(&key).copied() else {
            return true;
        };
        let mut cached = self
            .partitions
            .remove(&place)
            .expect("a place holds a partition");
        let data = partition
            .records
            .as_ref()
            .is_some_and(|records| !records.is_empty());
        let failed = partition.error_code != ErrorCode::None.code();
        let told = data
            || failed
            || cached.high_watermark != partition.high_watermark
            || cached.log_start_offset != partition.log_start_offset;
        // After an error all is said again.
        cached.high_watermark = if failed { -1 } else { partition.high_watermark };
        cached.log_start_offset = partition.log_start_offset;
        let place = if data {
            self.next_place += 1;
            self.next_place - 1
        } else {
            place
        };
        self.partitions.insert(place, cached);
        self.places.insert(key, place);
        told
    }
}

fn wanted(request: &FetchRequest) -> Vec<Wanted> {
    let topics = request.topics.iter();
    topics
        .flat_map(|topic| {
            topic.partitions.iter().map(|partition| Wanted {
                topic: topic.topic.clone(),
                topic_id: topic.topic_id,
                index: partition.partition,
                fetch_offset: partition.fetch_offset,
                leader_epoch: partition.current_leader_epoch,
                last_fetched_epoch: partition.last_fetched_epoch,
                max_bytes: partition.partition_max_bytes,
            })
        })
        .collect()
}

fn push(response: &mut FetchResponse, wanted: Wanted, partition: PartitionData, by_id: bool) {
    let same = |topic: &FetchableTopicResponse| {
        if by_id {
            topic.topic_id == wanted.topic_id
        } else {
            topic.topic == wanted.topic
        }
    };
    match response.responses.last_mut() {
        Some(topic) if same(topic) => topic.partitions.push(partition),
        _ => response.responses.push(FetchableTopicResponse {
            topic: wanted.topic,
            topic_id: wanted.topic_id,
            partitions: vec![partition],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Records;
    use crate::protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};

    fn sessions(slots: usize) -> FetchSessions {
        FetchSessions::new(ShardId(1), slots, 7)
    }

    fn request(session: i32, epoch: i32, partitions: &[i32]) -> FetchRequest {
        let partitions: Vec<_> = partitions
            .iter()
            .map(|index| FetchPartition {
                partition: *index,
                partition_max_bytes: 1000,
                ..Default::default()
            })
            .collect();
        let topic = FetchTopic {
            topic: Str::from("t"),
            partitions,
            ..Default::default()
        };
        FetchRequest {
            session_id: session,
            session_epoch: epoch,
            topics: if topic.partitions.is_empty() {
                Vec::new()
            } else {
                vec![topic]
            },
            ..Default::default()
        }
    }

    fn opened(sessions: &mut FetchSessions, request: &FetchRequest) -> OpenFetch {
        match sessions.open(request, false, crate::io::clock::now()) {
            Opened::Session(open) => open,
            Opened::Refused(error) => panic!("refused: {error:?}"),
        }
    }

    fn refused(sessions: &mut FetchSessions, request: &FetchRequest, by_id: bool) -> ErrorCode {
        match sessions.open(request, by_id, crate::io::clock::now()) {
            Opened::Refused(error) => error,
            Opened::Session(open) => panic!("opened: {open:?}"),
        }
    }

    fn indexes(open: &OpenFetch) -> Vec<i32> {
        open.wanted.iter().map(|wanted| wanted.index).collect()
    }

    fn answer(index: i32, high_watermark: i64, bytes: &'static [u8]) -> PartitionData {
        PartitionData {
            partition_index: index,
            high_watermark,
            records: Some(Records::from(bytes::Bytes::from_static(bytes))),
            ..Default::default()
        }
    }

    fn told(response: &FetchResponse) -> Vec<i32> {
        let topics = response.responses.iter();
        topics
            .flat_map(|topic| {
                topic
                    .partitions
                    .iter()
                    .map(|partition| partition.partition_index)
            })
            .collect()
    }

    #[test]
    fn an_incremental_fetch_is_told_only_what_changed() {
        let mut sessions = sessions(10);
        let open = opened(&mut sessions, &request(0, 0, &[0, 1, 2]));
        let id = open.session;
        assert!(id > 0 && id & 0xff == 1, "{id}");
        let answers = vec![answer(0, 5, b""), answer(1, 5, b""), answer(2, 5, b"")];
        let response = sessions.respond(open, answers, false);
        assert_eq!((response.session_id, told(&response)), (id, vec![0, 1, 2]));

        let open = opened(&mut sessions, &request(id, 1, &[]));
        assert_eq!(indexes(&open), [0, 1, 2]);
        let answers = vec![answer(0, 5, b"x"), answer(1, 6, b""), answer(2, 5, b"")];
        let response = sessions.respond(open, answers, false);
        assert_eq!(told(&response), [0, 1]);

        // Who got data is served last next time.
        let open = opened(&mut sessions, &request(id, 2, &[]));
        assert_eq!(indexes(&open), [1, 2, 0]);
    }

    #[test]
    fn partitions_are_added_changed_and_forgotten() {
        let mut sessions = sessions(10);
        let id = opened(&mut sessions, &request(0, 0, &[0, 1])).session;
        let mut change = request(id, 1, &[1, 2]);
        change.topics[0].partitions[0].fetch_offset = 42;
        change.forgotten_topics_data = vec![ForgottenTopic {
            topic: Str::from("t"),
            partitions: vec![0],
            ..Default::default()
        }];
        let open = opened(&mut sessions, &change);
        assert_eq!(indexes(&open), [1, 2]);
        assert_eq!(open.wanted[0].fetch_offset, 42);
        let mut nothing_left = request(id, 2, &[]);
        nothing_left.forgotten_topics_data = vec![ForgottenTopic {
            topic: Str::from("t"),
            partitions: vec![1, 2],
            ..Default::default()
        }];
        assert_eq!(opened(&mut sessions, &nothing_left).session, NO_SESSION);
        let gone = refused(&mut sessions, &request(id, 3, &[]), false);
        assert_eq!(gone, ErrorCode::FetchSessionIdNotFound);
    }

    #[test]
    fn what_does_not_continue_a_session_is_refused() {
        let mut sessions = sessions(10);
        let id = opened(&mut sessions, &request(0, 0, &[0])).session;
        let skipped = refused(&mut sessions, &request(id, 2, &[]), false);
        assert_eq!(skipped, ErrorCode::InvalidFetchSessionEpoch);
        let by_id = refused(&mut sessions, &request(id, 1, &[]), true);
        assert_eq!(by_id, ErrorCode::FetchSessionTopicIdError);
        let stranger = refused(&mut sessions, &request(id ^ 0x100, 1, &[]), false);
        assert_eq!(stranger, ErrorCode::FetchSessionIdNotFound);
    }

    #[test]
    fn an_error_makes_the_next_response_say_everything_again() {
        let mut sessions = sessions(10);
        let open = opened(&mut sessions, &request(0, 0, &[0]));
        let id = open.session;
        let failed = PartitionData {
            error_code: ErrorCode::KafkaStorageError.code(),
            ..answer(0, 5, b"")
        };
        sessions.respond(open, vec![failed], false);
        let open = opened(&mut sessions, &request(id, 1, &[]));
        let response = sessions.respond(open, vec![answer(0, 5, b"")], false);
        assert_eq!(told(&response), [0]);
    }

    #[test]
    fn a_full_cache_serves_without_a_session_until_idle_ones_go() {
        let mut sessions = sessions(1);
        let now = crate::io::clock::now();
        assert_ne!(
            opened(&mut sessions, &request(0, 0, &[0])).session,
            NO_SESSION
        );
        let open = opened(&mut sessions, &request(0, 0, &[0]));
        assert_eq!((open.session, indexes(&open)), (NO_SESSION, vec![0]));
        sessions.evict_idle(now + EVICTION + Duration::from_secs(1));
        assert_ne!(
            opened(&mut sessions, &request(0, 0, &[0])).session,
            NO_SESSION
        );
    }
}
