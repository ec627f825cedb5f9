"""The requests that differential.py compares: per API a function that asks good and bad ones in every version.

`run.each` asks in all versions that Apache Kafka serves, `run.ask` in one; both record the answer. `run.quietly`
prepares without recording. Topic names carry the version, so that each version starts from the same state.
"""

import struct

import consumer_group_scenarios
import group_scenarios
import wire
from wire import TIME, batch

SETTINGS = {"node.id": "0", "offsets.topic.replication.factor": "1", "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1", "share.coordinator.state.topic.min.isr": "1", "num.partitions": "2", "message.max.bytes": "100000", "log.retention.check.interval.ms": "600000000"} | group_scenarios.SETTINGS | consumer_group_scenarios.SETTINGS

# The APIs of one broker without transactions and security, and the versions Apache Kafka 4.4 serves.
VERSIONS = {
    "Produce": (3, 13), "Fetch": (4, 18), "ListOffsets": (1, 11), "Metadata": (0, 13), "ApiVersions": (0, 5), "CreateTopics": (2, 7),
    "DeleteTopics": (1, 6), "DeleteRecords": (0, 2), "InitProducerId": (0, 5), "OffsetForLeaderEpoch": (2, 4), "DescribeConfigs": (1, 4),
    "AlterConfigs": (0, 2), "DescribeLogDirs": (1, 5), "CreatePartitions": (0, 3), "IncrementalAlterConfigs": (0, 1),
    "DescribeQuorum": (0, 2), "UpdateFeatures": (0, 2), "DescribeCluster": (0, 2), "DescribeProducers": (0, 0),
    "ListConfigResources": (0, 1), "DescribeTopicPartitions": (0, 0),
} | group_scenarios.VERSIONS | consumer_group_scenarios.VERSIONS

TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP = 2, 4, 8, 16, 32


def versions(api: str) -> range:
    low, high = VERSIONS[api]
    return range(low, high + 1)


def play(run, only: list[str]):
    """All scenarios, or the named ones. One that stops half way is recorded as such, and the next one goes on."""
    for scenario in (api_versions, frames, create_topics, metadata, describe_topic_partitions, describe_cluster, produce_good, produce_bad,
                     produce_settings, idempotence, fetch, fetch_sessions, list_offsets, offset_for_leader_epoch, describe_producers,
                     delete_records, create_partitions, describe_configs, alter_configs, alter_broker_configs, list_config_resources,
                     describe_log_dirs, describe_quorum, update_features, *group_scenarios.SCENARIOS,
                     *consumer_group_scenarios.SCENARIOS, delete_topics):
        if not only or scenario.__name__ in only:
            run.play(scenario)


def create(run, name: str, partitions: int = 1, **configs):
    """A topic that later requests work on; names of settings are given with underscores."""
    run.quietly("CreateTopics", 7, {"timeoutMs": 30000, "Topics": [{
        "Name": name, "NumPartitions": partitions, "ReplicationFactor": 1,
        "Configs": [{"Name": key.replace("_", "."), "Value": str(value)} for key, value in configs.items()]}]})
    run.ready(name, partitions=partitions)


# --- the connection ---------------------------------------------------------------------------------------


def api_versions(run):
    named = {"ClientSoftwareName": "compat", "ClientSoftwareVersion": "1.0"}
    run.each("usual", "ApiVersions", named)
    for label, name, version in (("empty name", "", "1"), ("bad name", "a b", "1"), ("bad version", "a", "-")):
        run.each(label, "ApiVersions", {"ClientSoftwareName": name, "ClientSoftwareVersion": version}, range(3, 6))
    run.ask("other cluster", "ApiVersions", 5, named | {"ClusterId": "AAAAAAAAAAAAAAAAAAAAAA", "NodeId": 0})
    for label, cluster, node in (("other node", run.cluster_id(), 7), ("this node", run.cluster_id(), 0), ("a node without its cluster", None, 7),
                                 ("this node without its cluster", None, 0), ("a cluster without its node", run.cluster_id(), -1)):
        run.ask(label, "ApiVersions", 5, named | {"ClusterId": cluster, "NodeId": node})
    for version in (6, 99, 32767):
        frame = struct.pack(">hhih", 18, version, 5, -1) + b"\0"
        run.raw("a version that is too new is answered in version 0", frame, key=18, version=0)


def frames(run):
    """Malformed requests: what closes the connection there closes it here."""
    for api in VERSIONS:
        key, (low, high) = wire.API_KEYS[api], VERSIONS[api]
        if api != "ApiVersions":
            run.raw(f"{api} in a version that is too new", wire.request_header(key, high + 1, 1, "x") + b"\0" * 40)
        if low > 0:
            run.raw(f"{api} in a version that is too old", struct.pack(">hhih", key, low - 1, 1, -1) + b"\0" * 40)
        body = wire.encode_request(key, high, {})
        run.raw(f"{api} cut in its header", body[:6])
        if api not in ("ApiVersions",):
            run.raw(f"{api} cut in its body", wire.request_header(key, high, 1, "x"))
    run.raw("unknown api key", struct.pack(">hhih", 1234, 0, 1, -1))
    run.raw("negative api key", struct.pack(">hhih", -3, 0, 1, -1))
    run.raw("negative frame size", struct.pack(">i", -5) + b"abc", whole=True)
    run.raw("frame size over the limit", struct.pack(">i", 2_000_000_000), whole=True)
    run.raw("empty frame", b"")
    run.raw("client id longer than the frame", struct.pack(">hhih", 3, 1, 1, 30000))
    run.raw("array longer than the frame", struct.pack(">hhihi", 3, 1, 1, -1, 1_000_000))
    run.raw("array of a negative length", struct.pack(">hhihi", 3, 0, 1, -1, -7))
    run.raw("string longer than the frame", struct.pack(">hhihih", 3, 1, 1, -1, 1, 32000) + b"ab")
    run.raw("an endless varint", wire.request_header(3, 12, 1, "x") + b"\xff" * 12)
    run.raw("a name that is not UTF-8", struct.pack(">hhihih", 3, 1, 1, -1, 1, 2) + b"\xff\xfe")


# --- topics -----------------------------------------------------------------------------------------------


def create_topics(run):
    def wanted(**fields):
        def body(version):
            topic = {"Name": f"ct-{version}-{fields.get('tag', 'x')}", "NumPartitions": 2, "ReplicationFactor": 1}
            topic |= {key: value for key, value in fields.items() if key not in ("tag", "only")}
            return {"timeoutMs": 30000, "validateOnly": fields.get("only", False), "Topics": [topic]}
        return body

    each = lambda label, **fields: run.each(label, "CreateTopics", wanted(**fields))
    config = lambda name, value: [{"Name": name, "Value": value}]
    each("validate only", only=True)
    each("two partitions")
    each("again")
    each("again, validate only", only=True)
    each("defaults", tag="d", NumPartitions=-1, ReplicationFactor=-1)
    each("with settings", tag="s", Configs=config("retention.ms", "1000000") + config("segment.bytes", "20971520"))
    each("with assignments", tag="a", NumPartitions=-1, ReplicationFactor=-1,
         Assignments=[{"PartitionIndex": 0, "BrokerIds": [0]}, {"PartitionIndex": 1, "BrokerIds": [0]}])
    for label, name in (("empty name", ""), ("dot", "."), ("dots", ".."), ("bad characters", "a b"), ("slash", "a/b"), ("long name", "n" * 250)):
        each(label, Name=name)
    each("longest name, validate only", Name="n" * 249, only=True)
    each("no partitions", tag="n", NumPartitions=0)
    each("minus two partitions", tag="n", NumPartitions=-2)
    each("replication factor 2", tag="n", ReplicationFactor=2)
    each("replication factor 0", tag="n", ReplicationFactor=0)
    each("replication factor minus 2", tag="n", ReplicationFactor=-2)
    each("assignment and partitions", tag="n", Assignments=[{"PartitionIndex": 0, "BrokerIds": [0]}])
    missing = dict(tag="n", NumPartitions=-1, ReplicationFactor=-1)
    each("assignment to an unknown broker", **missing, Assignments=[{"PartitionIndex": 0, "BrokerIds": [9]}])
    each("assignment with a gap", **missing, Assignments=[{"PartitionIndex": 1, "BrokerIds": [0]}])
    each("assignment without brokers", **missing, Assignments=[{"PartitionIndex": 0, "BrokerIds": []}])
    each("assignment twice the same broker", **missing, Assignments=[{"PartitionIndex": 0, "BrokerIds": [0, 0]}])
    each("assignment twice the same partition", **missing,
         Assignments=[{"PartitionIndex": 0, "BrokerIds": [0]}, {"PartitionIndex": 0, "BrokerIds": [0]}])
    for name, value in (("no.such.setting", "1"), ("retention.ms", "abc"), ("retention.ms", "-2"), ("cleanup.policy", "nonsense"),
                        ("cleanup.policy", "compact"), ("cleanup.policy", "delete,compact"),
                        ("compression.type", "zip"), ("min.insync.replicas", "0"), ("retention.ms", None), ("segment.bytes", "1"),
                        ("max.message.bytes", "-1"), ("message.timestamp.type", "Never"), ("unclean.leader.election.enable", "maybe"),
                        ("compression.zstd.level", "99"), ("retention.ms", ""), ("preallocate", "TRUE"), ("index.interval.bytes", " 12 ")):
        each(f"{name}={value}", tag="n", Configs=config(name, value), only=True)
    each("a setting twice", tag="n", Configs=config("retention.ms", "1") + config("retention.ms", "2"), only=True)
    each("a dot and an underscore", Name="ct.1_2", only=True)
    for version in versions("CreateTopics"):
        create(run, f"col.lide_{version}")
        run.ask("collides", "CreateTopics", version, {"timeoutMs": 9999, "Topics": [
            {"Name": f"col_lide.{version}", "NumPartitions": 1, "ReplicationFactor": 1}]})
        same = {"Name": f"twice-{version}", "NumPartitions": 1, "ReplicationFactor": 1}
        run.ask("twice in one request", "CreateTopics", version, {"timeoutMs": 9999, "Topics": [same, same]})
        run.ask("good and bad together", "CreateTopics", version, {"timeoutMs": 9999, "Topics": [
            {"Name": f"good-{version}", "NumPartitions": 1, "ReplicationFactor": 1}, {"Name": "*", "NumPartitions": 1, "ReplicationFactor": 1}]})
    run.each("no topics", "CreateTopics", {"timeoutMs": 9999})
    run.each("internal name", "CreateTopics", {"timeoutMs": 9999, "Topics": [
        {"Name": "__cluster_metadata", "NumPartitions": 1, "ReplicationFactor": 1}]})


def metadata(run):
    create(run, "md", 3)
    known = run.topic_id("md")
    no = {"AllowAutoTopicCreation": False}
    run.each("all topics", "Metadata", lambda version: {"Topics": [] if version == 0 else None} | no)
    run.each("no topics", "Metadata", no | {"Topics": []})
    run.each("one", "Metadata", no | {"Topics": [{"Name": "md"}]})
    run.each("twice", "Metadata", no | {"Topics": [{"Name": "md"}, {"Name": "md"}]})
    run.each("unknown", "Metadata", no | {"Topics": [{"Name": "nowhere"}]}, range(4, 14))
    for label, name in (("bad name", "a b"), ("empty name", ""), ("long name", "n" * 250)):
        run.each(label, "Metadata", {"Topics": [{"Name": name}]})
        run.each(f"{label}, no creation", "Metadata", no | {"Topics": [{"Name": name}]}, range(4, 14))
    run.each("authorized operations", "Metadata", no | {
        "Topics": [{"Name": "md"}], "IncludeClusterAuthorizedOperations": True, "IncludeTopicAuthorizedOperations": True}, range(8, 14))
    run.each("by id", "Metadata", no | {"Topics": [{"Name": None, "TopicId": known}]}, range(10, 14))
    run.each("by unknown id", "Metadata", no | {"Topics": [{"Name": None, "TopicId": "11111111-2222-3333-4444-555555555555"}]}, range(10, 14))
    run.each("by id and name", "Metadata", no | {"Topics": [{"Name": "md", "TopicId": known}]}, range(10, 14))
    run.each("by zero id", "Metadata", no | {"Topics": [{"Name": None, "TopicId": wire.ZERO_ID}]}, range(10, 14))
    run.each("ids and names", "Metadata", no | {"Topics": [{"Name": "md"}, {"Name": None, "TopicId": known}]}, range(10, 14))
    for version in versions("Metadata"):
        run.ask("creates a topic", "Metadata", version, {"Topics": [{"Name": f"auto-{version}"}]})
        run.ready(f"auto-{version}", partitions=2)
        run.ask("the created topic", "Metadata", version, {"Topics": [{"Name": f"auto-{version}"}]})


def describe_topic_partitions(run):
    create(run, "dtp-a", 3)
    create(run, "dtp-b", 2)
    ask = lambda label, **body: run.each(label, "DescribeTopicPartitions", body)
    both = [{"Name": "dtp-b"}, {"Name": "dtp-a"}]
    ask("two topics", Topics=both)
    ask("unknown topic", Topics=[{"Name": "nowhere"}])
    ask("bad name", Topics=[{"Name": "a b"}])
    ask("a limit", Topics=both, ResponsePartitionLimit=2)
    ask("limit 1", Topics=both, ResponsePartitionLimit=1)
    ask("limit 0", Topics=both, ResponsePartitionLimit=0)
    ask("a cursor", Topics=both, Cursor={"TopicName": "dtp-a", "PartitionIndex": 1})
    ask("a cursor in the second", Topics=both, Cursor={"TopicName": "dtp-b", "PartitionIndex": 1})
    ask("a cursor past the end", Topics=both, Cursor={"TopicName": "dtp-a", "PartitionIndex": 9})
    ask("a negative cursor", Topics=both, Cursor={"TopicName": "dtp-a", "PartitionIndex": -1})
    ask("a cursor on an unknown topic", Topics=both, Cursor={"TopicName": "dtp-aa", "PartitionIndex": 0})
    ask("twice the same", Topics=[{"Name": "dtp-a"}, {"Name": "dtp-a"}])


def describe_cluster(run):
    run.each("usual", "DescribeCluster", {})
    run.each("authorized operations", "DescribeCluster", {"IncludeClusterAuthorizedOperations": True})
    run.each("of controllers", "DescribeCluster", {"EndpointType": 2}, range(1, 3))
    run.each("of nothing known", "DescribeCluster", {"EndpointType": 3}, range(1, 3))
    run.ask("with fenced brokers", "DescribeCluster", 2, {"IncludeFencedBrokers": True})


# --- produce ----------------------------------------------------------------------------------------------


def produce_body(run, version: int, topic: str, records, *, acks: int = -1, partition: int = 0, transactional=None, topic_id=None) -> dict:
    entry = {"PartitionData": [{"Index": partition, "Records": records}]}
    if version >= 13:
        entry["TopicId"] = topic_id or run.topic_id(topic)
    else:
        entry["Name"] = topic
    return {"Acks": acks, "TimeoutMs": 10000, "TransactionalId": transactional, "TopicData": [entry]}


def fetch_all(run, label: str, topic: str):
    """What consumers see now, as one recorded answer."""
    run.ask(f"then reads: {label}", "Fetch", 12, fetch_body(run, 12, topic, 0))


def produce_good(run):
    for version in versions("Produce"):
        topic = f"pg-{version}"
        create(run, topic, 2)
        ask = lambda label, records, **options: run.ask(label, "Produce", version, produce_body(run, version, topic, records, **options))
        ask("acks 1", batch([b"one", (b"key", b"two", [(b"h", b"v"), (b"n", None)])], timestamp=TIME), acks=1)
        ask("acks all", batch([b"three"], timestamp=TIME + 5), acks=-1)
        ask("other partition", batch([b"x"] * 10, timestamp=TIME, step=3), partition=1)
        ask("a base offset of its own", batch([b"four"], base_offset=777, leader_epoch=5, timestamp=TIME))
        ask("gzip", batch([b"five" * 50, b"six" * 50], codec="gzip", timestamp=TIME))
        ask("a null and an empty value", batch([(b"k", None, ()), (None, b"", ())], timestamp=TIME))
        fetch_all(run, f"v{version}", topic)
        run.connection.send(wire.API_KEYS["Produce"], version, produce_body(run, version, topic, batch([b"quiet"], timestamp=TIME), acks=0))
        run.ends_at(topic, 8)
        fetch_all(run, f"acks 0 v{version}", topic)
        known = run.topic_id(topic)
        key = "TopicId" if version >= 13 else "Name"
        run.ask("two partitions", "Produce", version, {"Acks": -1, "TimeoutMs": 10000, "TopicData": [{
            key: known if version >= 13 else topic, "PartitionData": [
                {"Index": p, "Records": batch([b"p%d" % p], timestamp=TIME)} for p in (0, 1, 2)]}]})
        run.ask("nothing", "Produce", version, {"Acks": -1, "TimeoutMs": 10000, "TopicData": []})


def produce_bad(run):
    for version in versions("Produce"):
        topic = f"pb-{version}"
        create(run, topic)
        create(run, f"opaque-{version}")
        ask = lambda label, records, **options: run.ask(label, "Produce", version, produce_body(run, version, topic, records, **options))
        opaque = lambda label, records: run.ask(label, "Produce", version, produce_body(run, version, f"opaque-{version}", records))
        good = batch([b"good", b"better"], timestamp=TIME)
        for acks in (2, -2, 100):
            ask(f"acks {acks}", good, acks=acks)
        if version >= 13:
            ask("unknown topic", good, topic_id="11111111-2222-3333-4444-555555555555")
            ask("zero topic id", good, topic_id=wire.ZERO_ID)
        else:
            run.ask("unknown topic", "Produce", version, produce_body(run, version, "nowhere", good))
            run.ask("bad name", "Produce", version, produce_body(run, version, "a b", good))
        ask("unknown partition", good, partition=5)
        ask("negative partition", good, partition=-1)
        ask("empty records", b"")
        ask("wrong checksum", batch([b"x"], crc=1, timestamp=TIME))
        ask("magic 0", batch([b"x"], magic=0, timestamp=TIME))
        ask("magic 1", batch([b"x"], magic=1, timestamp=TIME))
        ask("magic 3", batch([b"x"], magic=3, timestamp=TIME))
        ask("two batches", good + good)
        ask("cut", good[:-3])
        ask("cut in the header", good[:30])
        ask("a few bytes", b"abc")
        ask("bytes left over", good + b"xyz")
        ask("length too small", batch([b"x"], length_error=-55, timestamp=TIME))
        ask("length too large", batch([b"x"], length_error=9, timestamp=TIME))
        ask("negative length", struct.pack(">qi", 0, -9) + good[12:])
        ask("count too large", batch([b"x"], count=5, timestamp=TIME))
        ask("count too small", batch([b"x", b"y"], count=1, timestamp=TIME))
        ask("count 0", batch([], timestamp=TIME))
        ask("negative count", batch([b"x"], count=-1, timestamp=TIME))
        ask("last offset delta too large", batch([b"x"], last_delta=4, timestamp=TIME))
        ask("last offset delta too small", batch([b"x", b"y"], last_delta=0, timestamp=TIME))
        ask("negative last offset delta", batch([b"x"], last_delta=-1, timestamp=TIME))
        ask("max timestamp is wrong", batch([b"x"], timestamp=TIME, max_timestamp=5))
        ask("a control batch", batch([(b"\0\0\0\0", b"\0\0\0\0\0\0", ())], attributes=0x20, timestamp=TIME))
        ask("a transactional batch without a transaction", batch([b"x"], attributes=0x10, timestamp=TIME))
        ask("codec 5", batch([b"x"], attributes=5, timestamp=TIME))
        ask("codec 7", batch([b"x"], attributes=7, timestamp=TIME))
        ask("unused attributes", batch([b"x"], attributes=0x4000, timestamp=TIME))
        ask("a transactional batch of no transaction", batch(
            [b"x"], attributes=0x10, timestamp=TIME, producer_id=7777, producer_epoch=0, sequence=0), transactional="nobody")
        opaque("nonsense that claims zstd", batch([b"x"], attributes=4, timestamp=TIME))
        opaque("nonsense that claims gzip", batch([b"x"], attributes=1, timestamp=TIME))
        run.quietly("DeleteTopics", 5, {"TopicNames": [f"opaque-{version}"], "TimeoutMs": 10000})
        ask("log append time in the request", batch([b"x"], attributes=8, timestamp=TIME))
        ask("delete horizon in the request", batch([b"x"], attributes=0x40, timestamp=TIME))
        ask("too large", batch([b"x" * 100_000], timestamp=TIME))
        ask("no timestamp", batch([b"x"], timestamp=-1))
        ask("a sequence without a producer", batch([b"x"], sequence=3, timestamp=TIME))
        run.ready(topic)
        fetch_all(run, f"after bad ones v{version}", topic)
        key, value = ("TopicId", run.topic_id(topic)) if version >= 13 else ("Name", topic)
        run.ask("good and bad together", "Produce", version, {"Acks": -1, "TimeoutMs": 10000, "TopicData": [
            {key: value, "PartitionData": [{"Index": 0, "Records": good}, {"Index": 3, "Records": good}]}]})
        run.connection.send(wire.API_KEYS["Produce"], version, produce_body(run, version, topic, good, acks=0, partition=9))
        run.ask("after a failed request that wants no answer", "DescribeCluster", 0, {})


def produce_settings(run):
    """Topic settings that change what is stored."""
    low, high = versions("Produce")[0], versions("Produce")[-1]
    for version in (low, 7, 9, high):
        create(run, f"ps-time-{version}", message_timestamp_type="LogAppendTime")
        create(run, f"ps-after-{version}", message_timestamp_after_max_ms=1000)
        create(run, f"ps-before-{version}", message_timestamp_before_max_ms=1000)
        create(run, f"ps-small-{version}", max_message_bytes=100)
        create(run, f"ps-plain-{version}", compression_type="uncompressed")
        create(run, f"ps-isr-{version}", min_insync_replicas=2)
        # Apache Kafka's cleaner would soon delete by the age that these records claim.
        create(run, f"ps-compact-{version}", cleanup_policy="compact,delete" if version == 9 else "compact", retention_ms=-1)
        ask = lambda label, topic, records, **options: run.ask(
            label, "Produce", version, produce_body(run, version, f"ps-{topic}-{version}", records, **options))
        ask("log append time", "time", batch([b"x", b"y"], timestamp=TIME))
        ask("log append time, gzip", "time", batch([b"x", b"y"], timestamp=TIME, codec="gzip"))
        ask("too far ahead", "after", batch([b"x"], timestamp=TIME * 2))
        ask("one of two too far ahead", "after", batch([b"x", b"y"], timestamp=TIME, step=TIME))
        ask("too old", "before", batch([b"x", b"y"], timestamp=TIME))
        ask("too old, gzip", "before", batch([b"x", b"y"], timestamp=TIME, codec="gzip"))
        ask("larger than the topic takes", "small", batch([b"x" * 100], timestamp=TIME))
        ask("just small enough", "small", batch([b"x" * 20], timestamp=TIME))
        ask("decompressed", "plain", batch([b"aaaa" * 30, (b"k", b"v", [(b"h", b"w")])], timestamp=TIME, step=4, codec="gzip"))
        ask("too few in sync, acks all", "isr", batch([b"x"], timestamp=TIME), acks=-1)
        ask("too few in sync, acks 1", "isr", batch([b"x"], timestamp=TIME), acks=1)
        ask("no key in a compacted topic", "compact", batch([b"x", b"y", b"z", b"w"], timestamp=TIME))
        ask("one of two without key", "compact", batch([(b"k", b"v", ()), b"x"], timestamp=TIME))
        ask("no key, gzip", "compact", batch([b"x"], timestamp=TIME, codec="gzip"))
        ask("an empty key", "compact", batch([(b"", b"v", ())], timestamp=TIME))
        ask("a key and a tombstone", "compact", batch([(b"k", b"v", ()), (b"k", None, ())], timestamp=TIME))
        for topic in ("time", "plain", "small", "isr", "compact"):
            fetch_all(run, f"{topic} v{version}", f"ps-{topic}-{version}")
    create(run, "ps-bomb", compression_type="uncompressed")
    run.ask("gzip of nonsense, to be decompressed", "Produce", 9, produce_body(run, 9, "ps-bomb", batch([b"x"], attributes=1, timestamp=TIME)))


def producer_ids_ready(run):
    """Returns when the broker has producer ids to give away: Apache Kafka asks its controller for a block first."""
    for _ in range(20_000):
        if run.quietly("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 60000})["ErrorCode"] == 0:
            return
    raise AssertionError("no producer ids")


def idempotence(run):
    producer_ids_ready(run)
    run.each("a producer", "InitProducerId", {"TransactionalId": None, "TransactionTimeoutMs": 60000})
    run.each("any timeout", "InitProducerId", {"TransactionalId": None, "TransactionTimeoutMs": 0})
    run.each("a producer id without a transaction", "InitProducerId", {
        "TransactionalId": None, "TransactionTimeoutMs": 60000, "ProducerId": 5, "ProducerEpoch": 1}, range(3, 6))
    run.each("a producer epoch alone", "InitProducerId", {"TransactionalId": None, "TransactionTimeoutMs": 1, "ProducerEpoch": 1}, range(3, 6))
    run.each("an empty transactional id", "InitProducerId", {"TransactionalId": "", "TransactionTimeoutMs": 60000})
    for version in versions("Produce"):
        topic = f"id-{version}"
        create(run, topic)
        producer = run.quietly("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 60000})["ProducerId"]

        def ask(label, sequence, values=(b"a", b"b"), epoch=0, who=producer, **options):
            records = batch(list(values), producer_id=who, producer_epoch=epoch, sequence=sequence, timestamp=TIME, **options)
            run.ask(label, "Produce", version, produce_body(run, version, topic, records))

        ask("first", 0)
        ask("next", 2)
        ask("duplicate of the newest", 2)
        ask("duplicate of the first", 0)
        ask("a gap", 9)
        ask("part of a duplicate", 1)
        for step in range(5):
            ask(f"more {step}", 4 + 2 * step)
        ask("duplicate that is remembered no more", 0)
        ask("duplicate of the fifth newest", 4)
        ask("a new epoch must begin at 0", 14, epoch=1)
        ask("a new epoch", 0, epoch=1)
        ask("the old epoch", 2, epoch=0)
        ask("negative epoch", 0, epoch=-1)
        ask("negative sequence", -1, epoch=1)
        ask("largest sequence of another epoch", 2147483647, epoch=2)
        ask("an unknown producer in the middle", 7, who=999_999)
        ask("an unknown producer at 0", 0, who=999_998)
        run.ask("two batches of one producer", "Produce", version, produce_body(run, version, topic, b"".join(
            batch([b"z"], producer_id=producer, producer_epoch=1, sequence=sequence, timestamp=TIME) for sequence in (2, 3))))
        fetch_all(run, f"v{version}", topic)
    create(run, "id-wrap")
    for label, sequence, values in (("near the largest", 0, [b"x"]), ("wraps", 1, [b"x"])):
        run.ask(label, "Produce", 9, produce_body(run, 9, "id-wrap", batch(values, producer_id=producer, producer_epoch=0, sequence=sequence)))


# --- fetch ------------------------------------------------------------------------------------------------


def fetch_partition(offset: int, partition: int = 0, **fields) -> dict:
    return {"Partition": partition, "FetchOffset": offset, "PartitionMaxBytes": 1 << 20} | fields


def fetch_body(run, version: int, topic: str, offset: int = 0, *, partitions=None, topic_id=None, **fields) -> dict:
    entry = {"Partitions": partitions or [fetch_partition(offset)]}
    if version >= 13:
        entry["TopicId"] = topic_id or run.topic_id(topic)
    else:
        entry["Topic"] = topic
    return {"ReplicaId": -1, "MaxWaitMs": 0, "MinBytes": 0, "MaxBytes": 1 << 22, "Topics": [entry]} | fields


def fetch(run):
    create(run, "ft", 3)
    for values in ([b"a", b"b", b"c"], [b"d"], [b"e" * 5000, b"f"]):
        run.quietly("Produce", 9, produce_body(run, 9, "ft", batch(values, timestamp=TIME)))
    run.quietly("Produce", 9, produce_body(run, 9, "ft", batch([b"other"], timestamp=TIME), partition=1))

    def each(label, only=None, **options):
        run.each(label, "Fetch", lambda version: fetch_body(run, version, "ft", **options), only)

    for offset in (0, 1, 3, 5, 6, 7, 100, -1, -5):
        each(f"from {offset}", offset=offset)
    for size in (0, 1, 100, 5100):
        each(f"partition limit {size}", partitions=[fetch_partition(0, PartitionMaxBytes=size)])
        each(f"partition limit {size} in the middle", partitions=[fetch_partition(4, PartitionMaxBytes=size)])
        each(f"request limit {size}", MaxBytes=size)
    each("three partitions", partitions=[fetch_partition(0, p) for p in (0, 1, 2)])
    each("three partitions, one batch", partitions=[fetch_partition(0, p) for p in (1, 0, 2)], MaxBytes=1)
    each("unknown partition", partitions=[fetch_partition(0, 9)])
    each("negative partition", partitions=[fetch_partition(0, -1)])
    each("known and unknown partition", partitions=[fetch_partition(0, 0), fetch_partition(0, 9)])
    each("read committed", IsolationLevel=1)
    each("an unknown isolation level", IsolationLevel=7)
    each("waits for what is there", MinBytes=1, MaxWaitMs=20000)
    each("waits in vain", offset=6, MinBytes=1, MaxWaitMs=20)
    each("an error ends the wait", offset=100, MinBytes=1, MaxWaitMs=20000)
    run.each("unknown topic", "Fetch", lambda version: fetch_body(
        run, version, "nowhere", topic_id="11111111-2222-3333-4444-555555555555"))
    run.each("zero topic id", "Fetch", lambda version: fetch_body(run, version, "ft", topic_id=wire.ZERO_ID), range(13, 19))
    run.each("nothing", "Fetch", lambda version: fetch_body(run, version, "ft", Topics=[]))
    for epoch in (0, 1, 7):
        each(f"current leader epoch {epoch}", range(9, 19), partitions=[fetch_partition(0, CurrentLeaderEpoch=epoch)])
    for epoch in (0, 3):
        each(f"last fetched epoch {epoch}", range(12, 19), partitions=[fetch_partition(4, LastFetchedEpoch=epoch)])
    each("last fetched epoch past the end", range(12, 19), partitions=[fetch_partition(50, LastFetchedEpoch=0)])
    each("as an unknown replica", range(4, 15), ReplicaId=7)
    each("as an unknown replica", range(15, 19), ReplicaState={"ReplicaId": 7, "ReplicaEpoch": 1})
    each("from a rack", range(11, 19), RackId="somewhere")


def fetch_sessions(run):
    create(run, "fs", 2)
    run.quietly("Produce", 9, produce_body(run, 9, "fs", batch([b"a", b"b"], timestamp=TIME)))
    run.quietly("Produce", 9, produce_body(run, 9, "fs", batch([b"x"], timestamp=TIME), partition=1))
    for version in range(7, 19):
        both = [fetch_partition(0, 0), fetch_partition(0, 1)]
        ask = lambda label, **options: run.ask(label, "Fetch", version, fetch_body(run, version, "fs", **options))
        nothing = {"Topics": [], "MaxWaitMs": 10}
        ask("no session", partitions=both, SessionId=0, SessionEpoch=-1)
        ask("an unknown session", SessionId=12345, SessionEpoch=1)
        ask("an epoch without a session", SessionId=0, SessionEpoch=5)
        opened = ask("opens a session", partitions=both, SessionId=0, SessionEpoch=0)
        session = opened["SessionId"] if opened else 0
        ask("all in the session again", SessionId=session, SessionEpoch=1, **nothing)
        ask("moves on", SessionId=session, SessionEpoch=2, partitions=[fetch_partition(2, 0), fetch_partition(1, 1)])
        ask("nothing new", SessionId=session, SessionEpoch=3, **nothing)
        ask("a wrong epoch", SessionId=session, SessionEpoch=9, **nothing)
        ask("the right epoch still works", SessionId=session, SessionEpoch=4, **nothing)
        run.quietly("Produce", 9, produce_body(run, 9, "fs", batch([b"late"], timestamp=TIME), partition=1))
        ask("only what has changed", SessionId=session, SessionEpoch=5, **nothing)
        forgotten = [{"TopicId" if version >= 13 else "Topic": run.topic_id("fs") if version >= 13 else "fs", "Partitions": [1]}]
        ask("forgets one", SessionId=session, SessionEpoch=6, ForgottenTopicsData=forgotten, **nothing)
        ask("adds an unknown one", SessionId=session, SessionEpoch=7, partitions=[fetch_partition(0, 5)])
        ask("errors are repeated", SessionId=session, SessionEpoch=8, **nothing)
        ask("ends it", SessionId=session, SessionEpoch=-1, **nothing)
        ask("it is gone", SessionId=session, SessionEpoch=9, **nothing)
        end = run.quietly("ListOffsets", 5, {"ReplicaId": -1, "Topics": [{"Name": "fs", "Partitions": [{"PartitionIndex": 1, "Timestamp": -1}]}]})
        run.quietly("DeleteRecords", 2, {"TimeoutMs": 9999, "Topics": [{"Name": "fs", "Partitions": [{"PartitionIndex": 1, "Offset": -1}]}]})
        del end
        run.quietly("DeleteTopics", 5, {"TopicNames": ["fs"], "TimeoutMs": 10000})
        gone(run, "fs")
        create(run, "fs", 2)
        run.quietly("Produce", 9, produce_body(run, 9, "fs", batch([b"a", b"b"], timestamp=TIME)))
        run.quietly("Produce", 9, produce_body(run, 9, "fs", batch([b"x"], timestamp=TIME), partition=1))


def gone(run, name: str):
    """Returns when the broker knows the topic no more."""
    for _ in range(20_000):
        answer = run.quietly("Metadata", 12, {"Topics": [{"Name": name}], "AllowAutoTopicCreation": False})
        if answer["Topics"][0]["ErrorCode"] == 3:
            return
    raise AssertionError(f"{name} is not deleted")


# --- offsets ----------------------------------------------------------------------------------------------


def list_offsets(run):
    create(run, "lo", 2)
    for start in (0, 100, 50):
        run.quietly("Produce", 9, produce_body(run, 9, "lo", batch([b"a", b"b", b"c"], timestamp=TIME + start, step=10)))

    def each(label, timestamp, only=None, partition=0, topic="lo", epoch=-1, **fields):
        run.each(label, "ListOffsets", {"ReplicaId": -1, "TimeoutMs": 10000, "Topics": [{"Name": topic, "Partitions": [
            {"PartitionIndex": partition, "Timestamp": timestamp, "CurrentLeaderEpoch": epoch}]}]} | fields, only)

    for special in (-1, -2, -3, -4, -5, -6, -7, -100):
        each(f"special {special}", special)
        each(f"special {special} of an empty partition", special, partition=1)
    for offset in (-1000, 0, 1, 10, 11, 20, 21, 60, 100, 101, 115, 120, 121):
        each(f"time {offset}", TIME + offset)
    each("time 0", 0)
    each("the largest time", 2**63 - 1)
    each("unknown partition", -1, partition=7)
    each("unknown topic", -1, topic="nowhere")
    each("bad name", -1, topic="a b")
    for epoch in (0, 5):
        each(f"current leader epoch {epoch}", -1, range(4, 12), epoch=epoch)
    each("read committed", -1, range(2, 12), IsolationLevel=1)
    each("an unknown isolation level", -1, range(2, 12), IsolationLevel=9)
    each("as a replica", -1, ReplicaId=5)
    each("as a debugger", -1, ReplicaId=-2)
    twice = {"PartitionIndex": 0, "Timestamp": -1}
    run.each("twice the same", "ListOffsets", {"ReplicaId": -1, "Topics": [{"Name": "lo", "Partitions": [twice, twice]}]})
    run.each("nothing", "ListOffsets", {"ReplicaId": -1, "Topics": []})


def offset_for_leader_epoch(run):
    create(run, "oe", 2)
    run.quietly("Produce", 9, produce_body(run, 9, "oe", batch([b"a", b"b"], timestamp=TIME)))

    def each(label, epoch, partition=0, topic="oe", current=-1, **fields):
        run.each(label, "OffsetForLeaderEpoch", {"ReplicaId": -1, "Topics": [{"Topic": topic, "Partitions": [
            {"Partition": partition, "CurrentLeaderEpoch": current, "LeaderEpoch": epoch}]}]} | fields)

    for epoch in (0, 1, 5, -1, -2):
        each(f"epoch {epoch}", epoch)
    for epoch in (0, 1, -1, -2):
        each(f"epoch {epoch} of an empty partition", epoch, partition=1)
    for current in (0, 3):
        each(f"current leader epoch {current}", 0, current=current)
    each("unknown partition", 0, partition=9)
    each("unknown topic", 0, topic="nowhere")
    each("as a debugger", 0, ReplicaId=-2)
    each("as a replica", 0, ReplicaId=6)
    run.each("nothing", "OffsetForLeaderEpoch", {"Topics": []})


def describe_producers(run):
    producer_ids_ready(run)
    create(run, "dp", 2)
    producer = run.quietly("InitProducerId", 4, {"TransactionalId": None, "TransactionTimeoutMs": 60000})["ProducerId"]
    run.quietly("Produce", 9, produce_body(run, 9, "dp", batch([b"a", b"b"], producer_id=producer, producer_epoch=0, sequence=0)))
    ask = lambda label, name, partitions: run.each(label, "DescribeProducers", {"Topics": [{"Name": name, "PartitionIndexes": partitions}]})
    ask("one producer", "dp", [0, 1])
    ask("unknown partition", "dp", [5])
    ask("unknown topic", "nowhere", [0])
    ask("bad name", "a b", [0])
    ask("no partitions", "dp", [])


def delete_records(run):
    for version in versions("DeleteRecords"):
        topic = f"dr-{version}"
        create(run, topic, 2)
        for value in (b"a", b"b", b"c"):
            run.quietly("Produce", 9, produce_body(run, 9, topic, batch([value] * 3, timestamp=TIME)))

        def ask(label, offset, partition=0, name=topic):
            run.ask(label, "DeleteRecords", version, {"TimeoutMs": 10000, "Topics": [
                {"Name": name, "Partitions": [{"PartitionIndex": partition, "Offset": offset}]}]})

        ask("before 4", 4)
        fetch_all(run, f"before 4 v{version}", topic)
        run.ask(f"from 4 v{version}", "Fetch", 12, fetch_body(run, 12, topic, 4))
        ask("before 2, which is gone", 2)
        ask("past the end", 100)
        ask("negative", -2)
        ask("the end", 9)
        ask("up to the high watermark", -1)
        ask("unknown partition", 0, partition=9)
        ask("unknown topic", 0, name="nowhere")
        ask("bad name", 0, name="a b")
        ask("an empty partition", -1, partition=1)
        create(run, f"dr-compact-{version}", cleanup_policy="compact")
        create(run, f"dr-both-{version}", cleanup_policy="compact,delete")
        ask("a compacted topic", 0, name=f"dr-compact-{version}")
        ask("a compacted topic, past the end", 9, name=f"dr-compact-{version}")
        ask("compacted and deleted", 0, name=f"dr-both-{version}")
        run.ask(f"offsets afterwards v{version}", "ListOffsets", 8, {"ReplicaId": -1, "Topics": [{"Name": topic, "Partitions": [
            {"PartitionIndex": 0, "Timestamp": timestamp} for timestamp in (-1,)]}]})
        run.ask(f"start afterwards v{version}", "ListOffsets", 8, {"ReplicaId": -1, "Topics": [{"Name": topic, "Partitions": [
            {"PartitionIndex": 0, "Timestamp": timestamp} for timestamp in (-2,)]}]})
    run.each("nothing", "DeleteRecords", {"TimeoutMs": 10000, "Topics": []})


def create_partitions(run):
    for version in versions("CreatePartitions"):
        topic = f"cp-{version}"
        create(run, topic, 2)

        def ask(label, count, assignments=None, only=False, name=topic):
            run.ask(label, "CreatePartitions", version, {"TimeoutMs": 10000, "ValidateOnly": only, "Topics": [
                {"Name": name, "Count": count, "Assignments": assignments}]})

        ask("validate only", 5, only=True)
        ask("as many as there are", 2)
        ask("fewer", 1)
        ask("none", 0)
        ask("negative", -1)
        ask("three", 3)
        ask("with an assignment", 4, [{"BrokerIds": [0]}])
        ask("with too many assignments", 5, [{"BrokerIds": [0]}, {"BrokerIds": [0]}])
        ask("with too few assignments", 6, [{"BrokerIds": [0]}])
        ask("with an unknown broker", 5, [{"BrokerIds": [8]}])
        ask("with a broker twice", 5, [{"BrokerIds": [0, 0]}])
        ask("with an empty assignment", 5, [{"BrokerIds": []}])
        ask("with another replication factor", 5, [{"BrokerIds": [0, 1]}])
        ask("unknown topic", 5, name="nowhere")
        ask("bad name", 5, name="a b")
        same = {"Name": topic, "Count": 9, "Assignments": None}
        run.ask("twice in one request", "CreatePartitions", version, {"TimeoutMs": 10000, "Topics": [same, same]})
        run.ready(topic, partitions=4)
        run.ask(f"the partitions v{version}", "Metadata", 12, {"Topics": [{"Name": topic}]})
    run.each("nothing", "CreatePartitions", {"TimeoutMs": 10000, "Topics": []})


# --- settings ---------------------------------------------------------------------------------------------


def describe(kind: int, name: str, keys=None, **fields) -> dict:
    return {"Resources": [{"ResourceType": kind, "ResourceName": name, "ConfigurationKeys": keys}]} | fields


def describe_configs(run):
    create(run, "dc", retention_ms=12345, compression_type="gzip")
    each = lambda label, *where, **fields: run.each(label, "DescribeConfigs", describe(*where, **fields))
    for synonyms in (False, True):
        for documentation in (False, True):
            flags = {"IncludeSynonyms": synonyms, "IncludeDocumentation": documentation}
            tags = f"{' synonyms' if synonyms else ''}{' documentation' if documentation else ''}"
            each(f"a topic{tags}", TOPIC, "dc", **flags)
            each(f"the broker{tags}", BROKER, "0", **flags)
    each("all brokers", BROKER, "", IncludeSynonyms=True)
    each("two settings", TOPIC, "dc", ["retention.ms", "segment.bytes"], IncludeSynonyms=True)
    each("an unknown setting", TOPIC, "dc", ["nonsense"])
    each("no settings", TOPIC, "dc", [])
    each("one of the broker", BROKER, "0", ["message.max.bytes", "num.partitions"], IncludeSynonyms=True)
    each("unknown topic", TOPIC, "nowhere")
    each("bad topic name", TOPIC, "a b")
    each("empty topic name", TOPIC, "")
    each("another broker", BROKER, "7")
    each("a broker that is no number", BROKER, "seven")
    each("unknown type", 99, "x")
    each("type 0", 0, "x")
    each("client metrics", CLIENT_METRICS, "nobody")
    each("a group", GROUP, "nobody")
    each("the loggers", BROKER_LOGGER, "0")
    each("another broker's loggers", BROKER_LOGGER, "7")
    each("nobody's loggers", BROKER_LOGGER, "")
    run.each("topic and broker", "DescribeConfigs", {"Resources": [
        {"ResourceType": TOPIC, "ResourceName": "dc", "ConfigurationKeys": ["retention.ms"]},
        {"ResourceType": BROKER, "ResourceName": "0", "ConfigurationKeys": ["log.retention.ms"]}]})
    run.each("nothing", "DescribeConfigs", {"Resources": []})


SET, DELETE, APPEND, SUBTRACT = range(4)


def alter_configs(run):
    def seen(label, topic, key, value):
        settle(run, key, value, TOPIC, topic)
        run.ask(f"then is: {label}", "DescribeConfigs", 4, describe(TOPIC, topic, IncludeSynonyms=True))

    for version in versions("IncrementalAlterConfigs"):
        topic = f"ia-{version}"
        create(run, topic, retention_ms=5000)

        def ask(label, *changes, only=False, kind=TOPIC, name=topic):
            run.ask(label, "IncrementalAlterConfigs", version, {"ValidateOnly": only, "Resources": [{
                "ResourceType": kind, "ResourceName": name,
                "Configs": [{"Name": key, "ConfigOperation": operation, "Value": value} for key, operation, value in changes]}]})

        ask("validate only", ("retention.ms", SET, "99"), only=True)
        seen(f"validate only v{version}", topic, "retention.ms", "5000")
        ask("sets two", ("retention.ms", SET, "7777"), ("max.message.bytes", SET, "50000"))
        seen(f"sets two v{version}", topic, "max.message.bytes", "50000")
        ask("deletes one", ("retention.ms", DELETE, None))
        ask("deletes what is not set", ("segment.bytes", DELETE, None))
        ask("appends to a list", ("follower.replication.throttled.replicas", APPEND, "0:0"))
        ask("appends the same", ("follower.replication.throttled.replicas", APPEND, "0:0"))
        settle(run, "follower.replication.throttled.replicas", "0:0", TOPIC, topic)
        ask("subtracts", ("follower.replication.throttled.replicas", SUBTRACT, "0:0"))
        seen(f"lists v{version}", topic, "follower.replication.throttled.replicas", "")
        ask("appends to a number", ("retention.ms", APPEND, "1"))
        ask("a bad value", ("retention.ms", SET, "x"))
        ask("sets null", ("retention.ms", SET, None))
        ask("an unknown setting", ("nonsense", SET, "1"))
        ask("deletes an unknown setting", ("nonsense", DELETE, None))
        ask("an unknown operation", ("retention.ms", 9, "1"))
        ask("a setting twice", ("retention.ms", SET, "1"), ("retention.ms", SET, "2"))
        ask("set and delete", ("retention.ms", SET, "1"), ("retention.ms", DELETE, None))
        ask("good and bad", ("retention.ms", SET, "1"), ("nonsense", SET, "2"))
        ask("no change")
        ask("unknown topic", ("retention.ms", SET, "1"), name="nowhere")
        ask("bad name", ("retention.ms", SET, "1"), name="a b")
        ask("empty name", ("retention.ms", SET, "1"), name="")
        ask("unknown type", ("retention.ms", SET, "1"), kind=99)
        ask("type 0", ("retention.ms", SET, "1"), kind=0)
        ask("a bad combination", ("min.insync.replicas", SET, "0"))
        seen(f"at last v{version}", topic, "min.insync.replicas", "1")
        run.ask("the same topic twice", "IncrementalAlterConfigs", version, {"Resources": [
            {"ResourceType": TOPIC, "ResourceName": topic, "Configs": [{"Name": "retention.ms", "ConfigOperation": 0, "Value": "5"}]}] * 2})
    for version in versions("AlterConfigs"):
        topic = f"ac-{version}"
        create(run, topic, retention_ms=5000)

        def ask(label, *changes, only=False, kind=TOPIC, name=topic):
            run.ask(label, "AlterConfigs", version, {"ValidateOnly": only, "Resources": [{
                "ResourceType": kind, "ResourceName": name, "Configs": [{"Name": key, "Value": value} for key, value in changes]}]})

        ask("validate only", ("segment.bytes", "2000000"), only=True)
        ask("replaces all", ("segment.bytes", "2000000"))
        seen(f"replaces all AlterConfigs v{version}", topic, "segment.bytes", "2000000")
        ask("clears")
        seen(f"clears AlterConfigs v{version}", topic, "segment.bytes", "1073741824")
        ask("a bad value", ("segment.bytes", "x"))
        ask("a null", ("segment.bytes", None))
        ask("an unknown setting", ("nonsense", "1"))
        ask("a setting twice", ("segment.bytes", "2000000"), ("segment.bytes", "3000000"))
        ask("unknown topic", ("retention.ms", "1"), name="nowhere")
        ask("unknown type", ("retention.ms", "1"), kind=99)
    run.each("nothing", "IncrementalAlterConfigs", {"Resources": []})
    run.each("nothing", "AlterConfigs", {"Resources": []})


def alter_broker_configs(run):
    create(run, "ab")

    def seen(label):
        keys = ["message.max.bytes", "log.retention.ms", "log.dirs", "num.io.threads", "log.cleaner.threads"]
        run.ask(f"then broker is: {label}", "DescribeConfigs", 4, describe(BROKER, "0", keys, IncludeSynonyms=True))
        run.ask(f"then brokers are: {label}", "DescribeConfigs", 4, describe(BROKER, "", keys, IncludeSynonyms=True))
        run.ask(f"then topic is: {label}", "DescribeConfigs", 4, describe(TOPIC, "ab", ["max.message.bytes", "retention.ms"], IncludeSynonyms=True))

    for version in versions("IncrementalAlterConfigs"):
        def ask(label, *changes, only=False, name="0"):
            run.ask(label, "IncrementalAlterConfigs", version, {"ValidateOnly": only, "Resources": [{
                "ResourceType": BROKER, "ResourceName": name,
                "Configs": [{"Name": key, "ConfigOperation": operation, "Value": value} for key, operation, value in changes]}]})

        ask("the broker, validate only", ("message.max.bytes", SET, "77777"), only=True)
        ask("the broker", ("message.max.bytes", SET, "77777"))
        settle(run, "message.max.bytes", "77777")
        seen(f"the broker v{version}")
        ask("all brokers", ("message.max.bytes", SET, "66666"), ("log.retention.ms", SET, "123456"), name="")
        settle(run, "log.retention.ms", "123456")
        seen(f"all brokers v{version}")
        ask("deletes the broker's", ("message.max.bytes", DELETE, None))
        settle(run, "message.max.bytes", "66666")
        seen(f"deletes the broker's v{version}")
        ask("deletes all brokers'", ("message.max.bytes", DELETE, None), ("log.retention.ms", DELETE, None), name="")
        settle(run, "message.max.bytes", "100000")
        seen(f"deletes all brokers' v{version}")
        ask("a setting that cannot change", ("log.dirs", SET, "/tmp"))
        ask("a setting that cannot change, all brokers", ("num.partitions", SET, "3"), name="")
        ask("a bad value", ("message.max.bytes", SET, "x"))
        ask("a value out of range", ("message.max.bytes", SET, "-1"))
        ask("a negative count of threads", ("num.io.threads", SET, "0"))
        ask("an unknown setting", ("nonsense", SET, "1"))
        ask("another broker", ("message.max.bytes", SET, "1000"), name="8")
        ask("a broker that is no number", ("message.max.bytes", SET, "1000"), name="x")


def settle(run, key: str, value: str, kind: int = BROKER, name: str = "0"):
    """Returns when the setting has the value: Kafka applies it a moment after it has answered."""
    for _ in range(20_000):
        answer = run.quietly("DescribeConfigs", 4, describe(kind, name, [key]))
        if answer["Results"][0]["Configs"][0]["Value"] == value:
            return
    raise AssertionError(f"{run.server.kind}: {key} does not become {value}: {answer}")


def list_config_resources(run):
    run.each("all", "ListConfigResources", {})
    for kind in (TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP, 99, 0):
        run.ask(f"type {kind}", "ListConfigResources", 1, {"ResourceTypes": [kind]})
    run.ask("two types", "ListConfigResources", 1, {"ResourceTypes": [TOPIC, BROKER]})


# --- the broker -------------------------------------------------------------------------------------------


def describe_log_dirs(run):
    create(run, "ld", 2)
    run.quietly("Produce", 9, produce_body(run, 9, "ld", batch([b"a" * 100, b"b"], timestamp=TIME)))
    each = lambda label, topics: run.each(label, "DescribeLogDirs", {"Topics": topics})
    each("one topic", [{"Topic": "ld", "Partitions": [0, 1]}])
    each("unknown partition", [{"Topic": "ld", "Partitions": [7]}])
    each("unknown topic", [{"Topic": "nowhere", "Partitions": [0]}])
    each("no topics", [])
    each("all", None)


def describe_quorum(run):
    each = lambda label, name, partition=0: run.each(label, "DescribeQuorum", {"Topics": [
        {"TopicName": name, "Partitions": [{"PartitionIndex": partition}]}]})
    each("usual", "__cluster_metadata")
    each("another partition", "__cluster_metadata", 1)
    each("another topic", "ld")
    run.each("nothing", "DescribeQuorum", {"Topics": []})


def update_features(run):
    def each(label, *updates, only=None, **fields):
        run.each(label, "UpdateFeatures", lambda version: {"timeoutMs": 10000} | ({"ValidateOnly": True} if version else {}) | fields | {
            "FeatureUpdates": [{"Feature": feature, "MaxVersionLevel": level} | extra for feature, level, extra in updates]}, only)

    each("as it is", ("metadata.version", 33, {}))
    each("an unknown feature", ("nonsense", 1, {}))
    each("a level that is too high", ("metadata.version", 99, {}))
    each("a negative level", ("metadata.version", -1, {}))
    each("a level that is too low", ("metadata.version", 1, {}))
    each("a downgrade that is not allowed", ("metadata.version", 30, {}))
    each("a safe downgrade", ("metadata.version", 30, {"UpgradeType": 2}), only=range(1, 3))
    each("an unsafe downgrade", ("metadata.version", 7, {"UpgradeType": 3}), only=range(1, 3))
    each("an unknown way", ("metadata.version", 33, {"UpgradeType": 7}), only=range(1, 3))
    each("an upgrade called a downgrade", ("group.version", 1, {"UpgradeType": 2}), only=range(1, 3))
    each("deletes a feature", ("group.version", 0, {"UpgradeType": 3}), only=range(1, 3))
    each("good and bad", ("metadata.version", 33, {}), ("nonsense", 1, {}))
    each("nothing")


def delete_topics(run):
    for version in versions("DeleteTopics"):
        names = [f"dt-{version}-{tag}" for tag in "abc"]
        for name in names:
            create(run, name)
        wanted = lambda *names: ({"Topics": [{"Name": name} for name in names]} if version >= 6 else {"TopicNames": list(names)}) | {"TimeoutMs": 30000}
        run.ask("unknown", "DeleteTopics", version, wanted("nowhere"))
        run.ask("bad name", "DeleteTopics", version, wanted("a b"))
        run.ask("nothing", "DeleteTopics", version, wanted())
        run.ask("twice in one request", "DeleteTopics", version, wanted(names[0], names[0]))
        run.ask("good and bad", "DeleteTopics", version, wanted(names[1], "nowhere"))
        gone(run, names[1])
        run.ask("again", "DeleteTopics", version, wanted(names[1]))
        run.ask(f"produce to the deleted v{version}", "Produce", 9, produce_body(run, 9, names[1], batch([b"x"])))
        run.ask(f"fetch from the deleted v{version}", "Fetch", 12, fetch_body(run, 12, names[1]))
        if version >= 6:
            known = run.topic_id(names[2])
            ids = lambda *entries: {"TimeoutMs": 30000, "Topics": [{"Name": name, "TopicId": topic_id} for name, topic_id in entries]}
            run.ask("id and name", "DeleteTopics", version, ids((names[2], known)))
            run.ask("neither", "DeleteTopics", version, ids((None, wire.ZERO_ID)))
            run.ask("unknown id", "DeleteTopics", version, ids((None, "11111111-2222-3333-4444-555555555555")))
            run.ask("by id and by name", "DeleteTopics", version, ids((None, known), (names[2], wire.ZERO_ID)))
            run.ask("by id", "DeleteTopics", version, ids((None, run.topic_id(names[0]))))
