//! Owns the list of APIs that this broker serves, by hand, and the names of all that Kafka has.
//! An API is here only when it works to the letter.

use super::messages::APIS;

/// An API and the versions of it that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiRange {
    pub key: i16,
    pub name: &'static str,
    pub min: i16,
    pub max: i16,
}

impl ApiRange {
    pub fn contains(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

const fn api(key: i16, name: &'static str, min: i16, max: i16) -> ApiRange {
    ApiRange {
        key,
        name,
        min,
        max,
    }
}

/// What brokers tell in ApiVersions, by rising key.
pub const SUPPORTED: &[ApiRange] = &[
    // Told from version 0, served from 3: librdkafka before 2.x looks for the old ones (KAFKA-18659).
    api(0, "Produce", 0, 13),
    api(1, "Fetch", 4, 18),
    api(2, "ListOffsets", 1, 11),
    api(3, "Metadata", 0, 13),
    api(8, "OffsetCommit", 2, 10),
    api(9, "OffsetFetch", 1, 10),
    api(10, "FindCoordinator", 0, 6),
    api(11, "JoinGroup", 0, 9),
    api(12, "Heartbeat", 0, 4),
    api(13, "LeaveGroup", 0, 5),
    api(14, "SyncGroup", 0, 5),
    api(15, "DescribeGroups", 0, 6),
    api(16, "ListGroups", 0, 5),
    api(18, "ApiVersions", 0, 5),
    api(19, "CreateTopics", 2, 7),
    api(20, "DeleteTopics", 1, 6),
    api(21, "DeleteRecords", 0, 2),
    api(22, "InitProducerId", 0, 5),
    api(23, "OffsetForLeaderEpoch", 2, 4),
    api(32, "DescribeConfigs", 1, 4),
    api(33, "AlterConfigs", 0, 2),
    api(35, "DescribeLogDirs", 1, 5),
    api(37, "CreatePartitions", 0, 3),
    api(42, "DeleteGroups", 0, 3),
    api(44, "IncrementalAlterConfigs", 0, 1),
    api(47, "OffsetDelete", 0, 0),
    api(55, "DescribeQuorum", 0, 2),
    api(57, "UpdateFeatures", 0, 2),
    api(60, "DescribeCluster", 0, 2),
    api(61, "DescribeProducers", 0, 0),
    api(68, "ConsumerGroupHeartbeat", 0, 1),
    api(69, "ConsumerGroupDescribe", 0, 1),
    api(74, "ListConfigResources", 0, 1),
    api(75, "DescribeTopicPartitions", 0, 0),
];

/// What is served of an API, `None` when it is not.
pub fn supported(key: i16) -> Option<&'static ApiRange> {
    let index = SUPPORTED.binary_search_by_key(&key, |api| api.key).ok()?;
    Some(&SUPPORTED[index])
}

/// Name of any of Kafka's APIs, also of those that are not served.
pub fn name(key: i16) -> Option<&'static str> {
    let index = APIS.binary_search_by_key(&key, |api| api.0).ok()?;
    Some(APIS[index].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_exists() {
        assert!(SUPPORTED.is_sorted_by_key(|api| api.key));
        for api in SUPPORTED {
            let (_, name, min, max, _) = *APIS
                .iter()
                .find(|known| known.0 == api.key)
                .expect("one of Kafka's");
            assert_eq!(api.name, name);
            assert!(api.max <= max, "{name}");
            assert!(api.min >= min || name == "Produce", "{name}");
        }
    }
}
