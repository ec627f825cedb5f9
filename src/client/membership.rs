//! Owns being a member of a group of the classic protocol: joining, assigning when it leads, heartbeats, leaving. What
//! is read and committed meanwhile is its owner's affair.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::groups::Committer;
use super::{ClientError, Cluster, Missing};
use crate::ids::PartitionIndex;
use crate::protocol::messages::join_group_request::JoinGroupRequestProtocol;
use crate::protocol::messages::join_group_response::JoinGroupResponseMember;
use crate::protocol::messages::leave_group_request::MemberIdentity;
use crate::protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use crate::protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use crate::protocol::{DecodeError, ErrorCode, Reader, Str};

const PROTOCOL_TYPE: &str = "consumer";
/// Contiguous partitions of each topic to each member, in the order of their ids: every client knows it.
const ASSIGNOR: &str = "range";
const SESSION_TIMEOUT_MS: i32 = 45_000;
const REBALANCE_TIMEOUT_MS: i32 = 60_000;
/// LeaveGroup names its member in another field from the next version on.
const LAST_LEAVE_ALONE: i16 = 2;

/// How often a member says that it lives.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);

/// A place in a group, and the partitions that come with it.
#[derive(Debug)]
pub struct Membership {
    cluster: Cluster,
    group: Str,
    topic: Str,
    member: Str,
    generation: i32,
    partitions: Vec<PartitionIndex>,
}

impl Membership {
    /// Joins; resolves when the group has agreed who reads what of the topic.
    pub async fn join(cluster: Cluster, group: Str, topic: Str) -> Result<Membership, ClientError> {
        let mut membership = Membership {
            cluster,
            group,
            topic,
            member: Str::EMPTY,
            generation: -1,
            partitions: Vec::new(),
        };
        membership.meet().await?;
        Ok(membership)
    }

    pub fn partitions(&self) -> &[PartitionIndex] {
        &self.partitions
    }

    pub fn committer(&self) -> Committer {
        Committer {
            member: self.member.clone(),
            generation: self.generation,
        }
    }

    /// Joins the group's next generation.
    pub async fn meet(&mut self) -> Result<(), ClientError> {
        loop {
            let joined = self.ask_to_join().await?;
            match ErrorCode::from_code(joined.error_code) {
                ErrorCode::None => {
                    self.member = joined.member_id.clone();
                    self.generation = joined.generation_id;
                    if self.sync(joined).await? {
                        return Ok(());
                    }
                }
                ErrorCode::MemberIdRequired => self.member = joined.member_id,
                error => self.expect_rejoin(error)?,
            }
        }
    }

    async fn ask_to_join(&self) -> Result<JoinGroupResponse, ClientError> {
        let request = JoinGroupRequest {
            group_id: self.group.clone(),
            session_timeout_ms: SESSION_TIMEOUT_MS,
            rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
            member_id: self.member.clone(),
            group_instance_id: None,
            protocol_type: PROTOCOL_TYPE.into(),
            protocols: vec![JoinGroupRequestProtocol {
                name: ASSIGNOR.into(),
                metadata: subscription(&self.topic),
            }],
            ..JoinGroupRequest::default()
        };
        // It waits for the other members, so long as they may take.
        let patience = Duration::from_millis(REBALANCE_TIMEOUT_MS as u64);
        let mut attempts = self.cluster.attempts();
        loop {
            let asked = async {
                let coordinator = self.cluster.coordinator(&self.group).await?;
                let version = coordinator.version::<JoinGroupRequest>()?;
                let limit = self.cluster.options().connection.request_timeout + patience;
                coordinator.submit_within(&request, version, limit)?.await
            };
            let error = match asked.await {
                Ok(joined) => match self.passing(joined.error_code) {
                    None => return Ok(joined),
                    Some(error) => error,
                },
                Err(error) => error,
            };
            attempts.again(error).await?;
        }
    }

    /// The coordinator is somewhere else, or not up yet.
    fn passing(&self, code: i16) -> Option<ClientError> {
        let passes = matches!(
            ErrorCode::from_code(code),
            ErrorCode::NotCoordinator
                | ErrorCode::CoordinatorLoadInProgress
                | ErrorCode::CoordinatorNotAvailable
        );
        let error = ClientError::from_code(code, None, || format!("group '{}'", self.group));
        error.filter(|_| passes)
    }

    /// Errors that a member answers by joining again.
    fn expect_rejoin(&mut self, error: ErrorCode) -> Result<(), ClientError> {
        match error {
            ErrorCode::UnknownMemberId => self.member = Str::EMPTY,
            ErrorCode::IllegalGeneration | ErrorCode::RebalanceInProgress => {}
            error => {
                let subject = || format!("group '{}'", self.group);
                return ClientError::check(error.code(), None, subject);
            }
        }
        Ok(())
    }

    /// Gets this member's partitions, after giving all theirs if it leads. `false`: join again.
    async fn sync(&mut self, joined: JoinGroupResponse) -> Result<bool, ClientError> {
        let assignments = match joined.leader == joined.member_id && !joined.skip_assignment {
            true => self.assign(&joined.members).await?,
            false => Vec::new(),
        };
        let request = SyncGroupRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.member.clone(),
            group_instance_id: None,
            protocol_type: Some(PROTOCOL_TYPE.into()),
            protocol_name: joined.protocol_name,
            assignments,
        };
        let synced = self
            .cluster
            .ask_coordinator(&self.group, &request, i16::MAX, |response| {
                ErrorCode::from_code(response.error_code)
            })
            .await?;
        match ErrorCode::from_code(synced.error_code) {
            ErrorCode::None => {
                let assigned = assigned(&synced.assignment, &self.topic);
                self.partitions = assigned.map_err(|error| {
                    let group = &self.group;
                    ClientError::Refused(format!("group '{group}': an assignment: {error}"))
                })?;
                Ok(true)
            }
            error => {
                self.expect_rejoin(error)?;
                Ok(false)
            }
        }
    }

    async fn assign(
        &self,
        members: &[JoinGroupResponseMember],
    ) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
        let mut readers: BTreeMap<Str, Vec<&Str>> = BTreeMap::new();
        for member in members {
            for topic in subscribed(&member.metadata).unwrap_or_default() {
                readers.entry(topic).or_default().push(&member.member_id);
            }
        }
        let mut shares: BTreeMap<&Str, Vec<(Str, Vec<i32>)>> = BTreeMap::new();
        for (topic, mut readers) in readers {
            readers.sort();
            readers.dedup();
            let Ok(known) = self.cluster.topic(&topic, Missing::Fail).await else {
                // A topic that is not there has nothing to be read.
                continue;
            };
            let count = known.partitions.len();
            for (number, reader) in readers.iter().enumerate() {
                let from = share(count, readers.len(), number);
                let to = share(count, readers.len(), number + 1);
                let partitions = (from as i32..to as i32).collect();
                let shares = shares.entry(reader).or_default();
                shares.push((topic.clone(), partitions));
            }
        }
        let assignments = members.iter().map(|member| SyncGroupRequestAssignment {
            member_id: member.member_id.clone(),
            assignment: assignment(shares.get(&member.member_id).map_or(&[], |s| &s[..])),
        });
        Ok(assignments.collect())
    }

    /// Says that this member lives. `false`: the group meets anew, or goes on without it; call [`Membership::meet`].
    pub async fn heartbeat(&mut self) -> Result<bool, ClientError> {
        let request = HeartbeatRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.member.clone(),
            group_instance_id: None,
        };
        let beaten = self
            .cluster
            .ask_coordinator(&self.group, &request, i16::MAX, |response| {
                ErrorCode::from_code(response.error_code)
            })
            .await?;
        match ErrorCode::from_code(beaten.error_code) {
            ErrorCode::None => Ok(true),
            error => {
                self.expect_rejoin(error)?;
                Ok(false)
            }
        }
    }

    pub async fn leave(self) -> Result<(), ClientError> {
        let coordinator = self.cluster.coordinator(&self.group).await?;
        let alone = coordinator.version::<LeaveGroupRequest>()? <= LAST_LEAVE_ALONE;
        let mut request = LeaveGroupRequest {
            group_id: self.group.clone(),
            ..LeaveGroupRequest::default()
        };
        match alone {
            true => request.member_id = self.member.clone(),
            false => request.members.push(MemberIdentity {
                member_id: self.member.clone(),
                group_instance_id: None,
                reason: None,
            }),
        }
        coordinator.call(&request).await.map(drop)
    }
}

/// Where the share of reader `number` begins: the first ones have one more if it does not go up.
fn share(partitions: usize, readers: usize, number: usize) -> usize {
    partitions / readers * number + number.min(partitions % readers)
}

fn put_text(out: &mut BytesMut, text: &Str) {
    out.put_i16(text.len() as i16);
    out.put_slice(text.as_bytes());
}

/// What a plain consumer says of itself: version, topics, no data of its own.
fn subscription(topic: &Str) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_i32(1);
    put_text(&mut out, topic);
    out.put_i32(-1);
    out.freeze()
}

fn subscribed(metadata: &Bytes) -> Result<Vec<Str>, DecodeError> {
    let mut reader = Reader::new(metadata.clone());
    reader.i16()?;
    (0..reader.i32()?).map(|_| text(&mut reader)).collect()
}

fn assignment(topics: &[(Str, Vec<i32>)]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_i32(topics.len() as i32);
    for (topic, partitions) in topics {
        put_text(&mut out, topic);
        out.put_i32(partitions.len() as i32);
        partitions.iter().for_each(|index| out.put_i32(*index));
    }
    out.put_i32(-1);
    out.freeze()
}

/// The partitions of `wanted` in an assignment; none at all is an assignment, too.
fn assigned(assignment: &Bytes, wanted: &Str) -> Result<Vec<PartitionIndex>, DecodeError> {
    let mut partitions = Vec::new();
    if assignment.is_empty() {
        return Ok(partitions);
    }
    let mut reader = Reader::new(assignment.clone());
    reader.i16()?;
    for _ in 0..reader.i32()? {
        let topic = text(&mut reader)?;
        for _ in 0..reader.i32()? {
            let index = PartitionIndex(reader.i32()?);
            if topic == *wanted {
                partitions.push(index);
            }
        }
    }
    Ok(partitions)
}

fn text(reader: &mut Reader) -> Result<Str, DecodeError> {
    let position = reader.position();
    let length = reader.i16()?;
    let bad = DecodeError::BadLength {
        position,
        length: length.into(),
    };
    let bytes = reader.slice(usize::try_from(length).map_err(|_| bad)?)?;
    Str::from_utf8(bytes).map_err(|_| DecodeError::BadText { position })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_is_in_one_share() {
        for (partitions, readers) in [(7, 3), (2, 5), (6, 3), (0, 2)] {
            let starts: Vec<_> = (0..=readers)
                .map(|n| share(partitions, readers, n))
                .collect();
            assert!(starts.is_sorted());
            assert_eq!((starts[0], starts[readers]), (0, partitions));
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let topic = Str::from("t");
        assert_eq!(subscribed(&subscription(&topic)), Ok(vec![topic.clone()]));
        let both = [(Str::from("a"), vec![9]), (topic.clone(), vec![0, 3])];
        let read = assigned(&assignment(&both), &topic);
        assert_eq!(read, Ok(vec![PartitionIndex(0), PartitionIndex(3)]));
        assert_eq!(assigned(&Bytes::new(), &topic), Ok(Vec::new()));
    }
}
