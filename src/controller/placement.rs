//! Decides which brokers hold the replicas of new partitions. Leaders go round the active
//! brokers, racks in turn; the followers of one partition lie on as many racks as there are.

use std::collections::BTreeMap;

use super::{BrokerRegistration, Entropy, Refusal};
use crate::{
    ids::BrokerId,
    protocol::{ErrorCode, Str},
};

/// The replicas of each of `partitions` new partitions, preferred leader first.
///
/// Errors: INVALID_REPLICATION_FACTOR in Kafka's words when there are too few brokers.
pub(super) fn place<'a>(
    brokers: impl Iterator<Item = &'a BrokerRegistration>,
    partitions: usize,
    replicas: usize,
    entropy: &mut Entropy,
) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    let mut active = BTreeMap::<Option<&Str>, Vec<BrokerId>>::new();
    let mut fenced = Vec::new();
    let mut registered = 0;
    for broker in brokers {
        registered += 1;
        match broker.fenced {
            true => fenced.push(broker.id),
            false => active
                .entry(broker.rack.as_ref())
                .or_default()
                .push(broker.id),
        }
    }
    let refuse = |text: String| Err(Refusal::new(ErrorCode::InvalidReplicationFactor, text));
    if active.is_empty() {
        return refuse("All brokers are currently fenced.".into());
    }
    if replicas > registered {
        return refuse(format!(
            "The target replication factor of {replicas} cannot be reached because only \
             {registered} broker(s) are registered or some brokers have all their log directories cordoned."
        ));
    }
    let order = interleave(active.into_values().collect());
    let start = entropy.below(order.len());
    let placed = (0..partitions)
        .map(|partition| {
            let round = partition / order.len();
            one(&order, &fenced, start + partition, round, replicas)
        })
        .collect();
    Ok(placed)
}

/// One broker of each rack in turn, so that neighbours lie on different racks.
fn interleave(racks: Vec<Vec<BrokerId>>) -> Vec<BrokerId> {
    let longest = racks.iter().map(Vec::len).max().unwrap_or_default();
    (0..longest)
        .flat_map(|position| {
            racks
                .iter()
                .filter_map(move |rack| rack.get(position).copied())
        })
        .collect()
}

/// The leader is the broker whose turn it is; each round its followers begin one further, so that
/// a lost broker's load spreads over all others.
fn one(
    order: &[BrokerId],
    fenced: &[BrokerId],
    turn: usize,
    round: usize,
    replicas: usize,
) -> Vec<BrokerId> {
    let leader = turn % order.len();
    let others: Vec<BrokerId> = (1..order.len())
        .map(|step| order[(leader + step) % order.len()])
        .collect();
    let mut placed = vec![order[leader]];
    for step in 0..others.len() {
        placed.push(others[(round + step) % others.len()]);
    }
    placed.extend(fenced);
    placed.truncate(replicas);
    placed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Uuid;

    fn broker(id: i32, rack: Option<&'static str>, fenced: bool) -> BrokerRegistration {
        BrokerRegistration {
            id: BrokerId(id),
            epoch: 0,
            incarnation: Uuid::ZERO,
            endpoints: Vec::new(),
            features: BTreeMap::new(),
            rack: rack.map(Str::from),
            fenced,
            in_controlled_shutdown: false,
            directories: Vec::new(),
            cordoned_directories: None,
        }
    }

    fn placed(brokers: &[BrokerRegistration], partitions: usize, replicas: usize) -> Vec<Vec<i32>> {
        place(
            brokers.iter(),
            partitions,
            replicas,
            &mut Entropy::new([7, 8]),
        )
        .unwrap()
        .into_iter()
        .map(|replicas| replicas.into_iter().map(|id| id.0).collect())
        .collect()
    }

    #[test]
    fn leaders_are_spread_evenly_and_replicas_differ() {
        let brokers: Vec<_> = (0..5).map(|id| broker(id, None, false)).collect();
        let all = placed(&brokers, 25, 3);
        for id in 0..5 {
            assert_eq!(all.iter().filter(|replicas| replicas[0] == id).count(), 5);
        }
        for replicas in &all {
            let mut distinct = replicas.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), 3);
        }
    }

    #[test]
    fn the_first_round_spans_racks() {
        let brokers: Vec<_> = (0..6)
            .map(|id| broker(id, Some(["a", "b", "c"][id as usize % 3]), false))
            .collect();
        for replicas in placed(&brokers, 6, 3) {
            let mut racks: Vec<i32> = replicas.iter().map(|id| id % 3).collect();
            racks.sort_unstable();
            assert_eq!(racks, [0, 1, 2]);
        }
    }

    #[test]
    fn fenced_brokers_follow_but_never_lead() {
        let brokers = [broker(1, None, false), broker(2, None, true)];
        assert_eq!(placed(&brokers, 2, 2), vec![vec![1, 2], vec![1, 2]]);
        let none = [broker(2, None, true)];
        let refused = place(none.iter(), 1, 1, &mut Entropy::new([0, 0])).unwrap_err();
        assert_eq!(
            refused.message.unwrap(),
            "All brokers are currently fenced."
        );
    }
}
