//! Owns what the members of a group have in common: which protocols all of them know, which one they choose, and what
//! plain consumers subscribe to.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::protocol::messages::join_group_request::JoinGroupRequestProtocol;
use crate::protocol::{DecodeError, Reader, Str};

use super::{ClassicGroup, Member, State};

/// How many members know each protocol, and what all of them say under all of theirs takes.
#[derive(Clone, Debug, Default)]
pub(super) struct ProtocolCounts {
    members: BTreeMap<Str, usize>,
    pub bytes: usize,
}

impl ProtocolCounts {
    pub fn add(&mut self, protocols: &[(Str, Bytes)]) {
        for (name, metadata) in protocols {
            *self.members.entry(name.clone()).or_default() += 1;
            self.bytes += metadata.len();
        }
    }

    pub fn take(&mut self, protocols: &[(Str, Bytes)]) {
        for (name, metadata) in protocols {
            self.bytes -= metadata.len();
            let count = self.members.get_mut(name).expect("it was added");
            *count -= 1;
            if *count == 0 {
                self.members.remove(name);
            }
        }
    }

    fn is_known_to(&self, name: &Str, members: usize) -> bool {
        self.members.get(name).copied().unwrap_or_default() == members
    }
}

/// A member's protocols, out of the frame they came in. One that is named twice counts as it was named last.
pub(super) fn detached(protocols: &[JoinGroupRequestProtocol]) -> Vec<(Str, Bytes)> {
    let mut kept: Vec<(Str, Bytes)> = Vec::with_capacity(protocols.len());
    for protocol in protocols {
        let metadata = Bytes::copy_from_slice(&protocol.metadata);
        match kept.iter_mut().find(|(name, _)| *name == protocol.name) {
            Some(known) => known.1 = metadata,
            None => kept.push((protocol.name.detach(), metadata)),
        }
    }
    kept
}

/// Whether a member says what it said before.
pub(super) fn same(known: &[(Str, Bytes)], told: &[JoinGroupRequestProtocol]) -> bool {
    known.len() == told.len()
        && known
            .iter()
            .zip(told)
            .all(|((name, metadata), told)| *name == told.name && *metadata == told.metadata)
}

impl ClassicGroup {
    /// Whether somebody with these protocols can be a member.
    pub(super) fn supports(&self, kind: &Str, protocols: &[JoinGroupRequestProtocol]) -> bool {
        if self.state == State::Empty {
            return !kind.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_ref() == Some(kind)
            && protocols
                .iter()
                .any(|protocol| self.counts.is_known_to(&protocol.name, self.members.len()))
    }

    /// Each member votes for the first of its protocols that all know; ties go to the name that sorts last.
    pub(super) fn selected_protocol(&self) -> Option<Str> {
        let mut votes: BTreeMap<&Str, usize> = BTreeMap::new();
        let count = self.members.len();
        for member in self.members.values() {
            let mut known = member.protocols.iter().map(|(name, _)| name);
            if let Some(vote) = known.find(|name| self.counts.is_known_to(name, count)) {
                *votes.entry(vote).or_default() += 1;
            }
        }
        let chosen = votes.into_iter().max_by_key(|(_, votes)| *votes);
        chosen.map(|(name, _)| name.clone())
    }

    /// Reads what plain consumers subscribe to under the chosen protocol.
    pub(super) fn learn_subscriptions(&mut self) {
        self.subscribed = match (self.uses_consumer_protocol(), &self.protocol) {
            (false, _) => None,
            (true, _) if self.members.is_empty() => Some(BTreeSet::new()),
            (true, None) => None,
            (true, Some(protocol)) => subscriptions(self.members.values(), protocol).ok(),
        };
    }
}

fn subscriptions<'a>(
    members: impl Iterator<Item = &'a Member>,
    protocol: &Str,
) -> Result<BTreeSet<Str>, DecodeError> {
    let mut all = BTreeSet::new();
    for member in members {
        let mut reader = Reader::new(member.metadata(Some(protocol)));
        // Every version begins like the first: a version, the topics' names.
        reader.i16()?;
        for _ in 0..reader.i32()? {
            let position = reader.position();
            let length = reader.i16()?;
            let length = usize::try_from(length).map_err(|_| DecodeError::BadLength {
                position,
                length: length.into(),
            })?;
            let name = Str::from_utf8(reader.slice(length)?);
            all.insert(name.map_err(|_| DecodeError::BadText { position })?);
        }
    }
    Ok(all)
}
