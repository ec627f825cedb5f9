//! Creates the topics that brokers keep for themselves, with the settings that their coordinators need.

use super::topics::NewTopic;
use super::{Controller, Entropy, Outcome, Refusal};
use crate::config::Settings;
use crate::coordinator::OFFSETS_TOPIC;
use crate::protocol::messages::create_topics_request::CreatableTopic;

/// Kafka's default, as far as there are brokers for it.
const REPLICAS_DEFAULT: usize = 3;

impl Controller {
    /// Creates `__consumer_offsets` unless it is there (`offsets.topic.*`).
    pub fn create_offsets_topic(&mut self, entropy: &mut Entropy) -> Outcome<Result<(), Refusal>> {
        if self.image.topic(OFFSETS_TOPIC).is_some() {
            return self.commit(Vec::new(), Ok(()));
        }
        let active = self.image.brokers().filter(|broker| broker.is_active());
        let available = active.count().clamp(1, REPLICAS_DEFAULT) as i16;
        let given = self.config.offsets_topic_replication_factor;
        let topic = CreatableTopic {
            name: OFFSETS_TOPIC.into(),
            num_partitions: self.config.offsets_topic_partitions,
            replication_factor: given.unwrap_or(available),
            ..CreatableTopic::default()
        };
        let segment_bytes = self.config.offsets_topic_segment_bytes.to_string();
        let settings: Settings = [
            ("cleanup.policy", "compact"),
            ("compression.type", "producer"),
            ("segment.bytes", &segment_bytes),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        let mut records = Vec::new();
        let created = self.create_topic(&topic, NewTopic::with(settings), &mut records, entropy);
        match created {
            Ok(_) => self.commit(records, Ok(())),
            Err(refusal) => self.commit(Vec::new(), Err(refusal)),
        }
    }
}
