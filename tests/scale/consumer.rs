//! Members of the consumer protocol (KIP-848): they say what they have and are told what to have.

use std::time::{Duration, Instant};

use coati::client::Connection;
use coati::io::clock;
use coati::protocol::Str;
use coati::protocol::messages::ConsumerGroupHeartbeatRequest;
use coati::protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use futures::future::join_all;

use super::broker::Broker;
use super::{TOPIC, connect, cores, prepare, run, until};

/// What clients are told by default.
const INTERVAL: Duration = Duration::from_secs(5);

struct Member {
    connection: Connection,
    group: Str,
    id: Str,
    epoch: i32,
    owned: Vec<TopicPartitions>,
}

impl Member {
    async fn new(broker: &Broker, group: &str, number: usize) -> Member {
        Member {
            connection: connect(broker).await,
            group: Str::copied(group),
            id: Str::from(format!("member-{number}")),
            epoch: 0,
            owned: Vec::new(),
        }
    }

    fn partitions(&self) -> usize {
        self.owned.iter().map(|topic| topic.partitions.len()).sum()
    }

    /// Whether the answer tells of anything new.
    async fn beat(&mut self, says_all: bool) -> bool {
        let joins = self.epoch == 0;
        let request = ConsumerGroupHeartbeatRequest {
            group_id: self.group.clone(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            rebalance_timeout_ms: if joins { 60_000 } else { -1 },
            subscribed_topic_names: joins.then(|| vec![TOPIC.into()]),
            topic_partitions: (joins || says_all).then(|| self.owned.clone()),
            ..ConsumerGroupHeartbeatRequest::default()
        };
        let answer = self.connection.call(&request).await;
        let answer = answer.expect("an answer to ConsumerGroupHeartbeat");
        assert_eq!(answer.error_code, 0, "{:?}", answer.error_message);
        self.epoch = answer.member_epoch;
        let Some(assignment) = answer.assignment else {
            return false;
        };
        let topics = assignment.topic_partitions.into_iter();
        let owned: Vec<TopicPartitions> = topics
            .map(|topic| TopicPartitions {
                topic_id: topic.topic_id,
                partitions: topic.partitions,
            })
            .collect();
        let is_new = owned != self.owned;
        self.owned = owned;
        is_new
    }

    async fn leave(&mut self) {
        self.epoch = -1;
        self.owned.clear();
        self.beat(false).await;
    }
}

/// Heartbeats of all, as soon as they are answered, until everybody has as much as it is to have.
async fn settle(members: &mut [Member], partitions: usize, began: Instant) -> Duration {
    let (least, most) = (
        partitions / members.len(),
        partitions.div_ceil(members.len()),
    );
    loop {
        let beats = members.iter_mut().map(async |member| {
            // Who is told of something says at once that it has done it.
            while member.beat(true).await {}
        });
        join_all(beats).await;
        let is_settled = |member: &Member| (least..=most).contains(&member.partitions());
        let epoch = members[0].epoch;
        let total: usize = members.iter().map(Member::partitions).sum();
        let mut all = members.iter();
        if total == partitions && all.all(|one| is_settled(one) && one.epoch == epoch) {
            return began.elapsed();
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn rebalance_of_a_consumer_group_of_500() {
    run(async {
        let broker = Broker::start(2, &[]);
        prepare(&broker, 1_000).await;
        let members = (0..500).map(|number| Member::new(&broker, "large", number));
        let mut members = join_all(members).await;
        let began = clock::now();
        let took = settle(&mut members, 1_000, began).await;
        println!(
            "500 members of the consumer protocol join in {} ms",
            took.as_millis()
        );
        for round in 0..3 {
            let began = clock::now();
            let mut leaving = members.split_off(members.len() - 50);
            join_all(leaving.iter_mut().map(Member::leave)).await;
            let took = settle(&mut members, 1_000, began).await;
            println!(
                "50 of {} leave in {} ms",
                members.len() + 50,
                took.as_millis()
            );
            let back =
                (0..50).map(|number| Member::new(&broker, "large", 1_000 * (round + 1) + number));
            members.extend(join_all(back).await);
            let began = clock::now();
            let took = settle(&mut members, 1_000, began).await;
            println!("50 join {} in {} ms", members.len() - 50, took.as_millis());
        }
    });
}

#[test]
#[ignore = "a measurement"]
fn heartbeats_of_1000_consumer_groups_of_10() {
    const GROUPS: usize = 1_000;
    const ROUNDS: u32 = 4;
    run(async {
        let broker = Broker::start(cores(), &[]);
        prepare(&broker, 10).await;
        let mut members = Vec::new();
        for group in 0..GROUPS {
            let group = format!("group-{group}");
            let joining = (0..10).map(|number| Member::new(&broker, &group, number));
            let mut joined = join_all(joining).await;
            join_all(joined.iter_mut().map(|member| member.beat(true))).await;
            members.extend(joined);
        }
        // Twice the interval that a group leaves between two targets, and everybody has its own.
        for _ in 0..6 {
            until(clock::now() + Duration::from_millis(500)).await;
            join_all(members.iter_mut().map(|member| member.beat(true))).await;
        }
        let began = clock::now();
        let before = broker.cpu_ticks();
        for round in 0..ROUNDS {
            let start = began + INTERVAL * round;
            let count = members.len() as u32;
            let beats = (0_u32..).zip(&mut members).map(async |(number, member)| {
                until(start + INTERVAL * number / count).await;
                member.beat(false).await;
            });
            join_all(beats).await;
            until(start + INTERVAL).await;
        }
        let seconds = began.elapsed().as_secs_f64();
        let ticks = (broker.cpu_ticks() - before) as f64;
        println!(
            "{} members of the consumer protocol heartbeat each 5 s: {:.1} % of one core, {} MiB resident",
            members.len(),
            ticks / seconds,
            broker.resident_bytes() >> 20
        );
    });
}
