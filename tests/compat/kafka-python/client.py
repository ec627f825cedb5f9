"""kafka-python's part of the compatibility suite; see tests/compat/README.md."""

import json
import pathlib
import queue
import sys
import threading
import time

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
import cases
from cases import check
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.errors import KafkaError

DEADLINE_SECONDS = 20


def produce(bootstrap: str, case: dict):
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, acks={"0": 0, "1": 1, "all": "all"}[case["acks"]],
        compression_type=None if case["codec"] == "none" else case["codec"], enable_idempotence=case["idempotent"],
        linger_ms=20, max_in_flight_requests_per_connection=5 if case["idempotent"] else 1)
    sent = []
    for i in range(case["records"]):
        partition = i % case["partitions"]
        sent.append(producer.send(case["topic"], partition=partition, key=cases.key(i), value=cases.value(i),
                                  headers=cases.headers(partition), timestamp_ms=cases.timestamp(case, i)))
    producer.flush(DEADLINE_SECONDS)
    for i, future in enumerate(sent):
        offset = future.get(DEADLINE_SECONDS).offset
        check(case["acks"] == "0" or offset == i // case["partitions"], f"record {i} acknowledged at offset {offset}")
    producer.close()


def verify(bootstrap: str, case: dict):
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, fetch_max_wait_ms=10)
    all_partitions = [TopicPartition(case["topic"], p) for p in range(case["partitions"])]
    check(consumer.partitions_for_topic(case["topic"]) == set(range(case["partitions"])), "partition count")
    consumer.assign(all_partitions)
    consumer.seek_to_beginning(*all_partitions)
    timestamps = [[] for _ in all_partitions]
    read, deadline = 0, time.monotonic() + DEADLINE_SECONDS
    while read < case["records"]:
        check(time.monotonic() < deadline, f"read only {read} of {case['records']} records")
        for partition, records in consumer.poll(timeout_ms=200).items():
            seen = timestamps[partition.partition]
            for record in records:
                cases.compare(case, record.partition, len(seen), record.offset, record.key, record.value, record.timestamp, record.headers)
                seen.append(record.timestamp)
                read += 1
    check(set(consumer.beginning_offsets(all_partitions).values()) == {0}, "does not begin at 0")
    for partition, offset in consumer.end_offsets(all_partitions).items():
        check(offset == len(timestamps[partition.partition]), f"{partition} ends at {offset}")
    for partition in all_partitions:
        by_timestamp(consumer, case, partition, timestamps[partition.partition])
    consumer.close()


def by_timestamp(consumer, case: dict, partition: TopicPartition, timestamps: list[int]):
    for asked, expected in cases.lookups(timestamps):
        found = consumer.offsets_for_times({partition: asked})[partition]
        offset = None if found is None else found.offset
        check(offset == expected, f"{partition} timestamp {asked} found {found}, not offset {expected}")
    middle = (len(timestamps) - 1) // 2
    consumer.assign([partition])
    consumer.seek(partition, middle)
    deadline = time.monotonic() + DEADLINE_SECONDS
    records = []
    while not records and time.monotonic() < deadline:
        records = consumer.poll(timeout_ms=200).get(partition, [])
    check(bool(records), f"{partition} gave nothing after seek")
    first = records[0]
    cases.compare(case, first.partition, middle, first.offset, first.key, first.value, first.timestamp, first.headers)


def admin(bootstrap: str, case: dict):
    client = KafkaAdminClient(bootstrap_servers=bootstrap)
    client.create_topics([NewTopic(case["topic"], 3, 1)])
    check(case["topic"] in client.list_topics(), "the new topic is not listed")
    check(len(client.describe_topics([case["topic"]])[0]["partitions"]) == 3, "partition count")
    client.delete_topics([case["topic"]])
    # A deletion reaches a broker's own view a moment after the controller has answered.
    deadline = time.monotonic() + DEADLINE_SECONDS
    while case["topic"] in client.list_topics():
        check(time.monotonic() < deadline, "the deleted topic is still listed")
    client.close()


def member(bootstrap: str, group: str, topic: str, assignor: str, instance: str | None = None):
    """A member of a group (groups.py): see "In a group" in tests/compat/README.md."""
    strategy = {"range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor,
                "cooperative-sticky": CooperativeStickyAssignor}[assignor]
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, group_instance_id=instance, enable_auto_commit=False, auto_offset_reset="earliest",
        session_timeout_ms=6000, heartbeat_interval_ms=500, metadata_max_age_ms=1000, partition_assignment_strategy=[strategy])
    consumer.subscribe(**({"pattern": topic} if topic.startswith("^") else {"topics": [topic]}))
    commands = queue.SimpleQueue()
    def listen():
        for line in iter(sys.stdin.readline, ""):
            commands.put(line.split())
        commands.put(["leave"])
    threading.Thread(target=listen, daemon=True).start()
    uncommitted, waits = False, True
    while True:
        command, *arguments = ["poll"] if commands.empty() else commands.get()
        if command == "leave":
            break
        if command == "async":
            waits = False
        if command == "pause":
            consumer.pause(*consumer.assignment())
        if command == "resume":
            consumer.resume(*consumer.assignment())
        if command == "seek":
            for partition in consumer.assignment():
                consumer.seek(partition, int(arguments[0]))
        if command != "poll":
            print("done", flush=True)
        records = [record for batch in consumer.poll(timeout_ms=200).values() for record in batch]
        for record in records:
            print("record", record.topic, record.partition, record.offset, flush=True)
        try:
            uncommitted = uncommitted or bool(records)
            if uncommitted:
                consumer.commit() if waits else consumer.commit_async()
                uncommitted = False
        except KafkaError as error:
            print("uncommitted", repr(error), flush=True)
    consumer.close(autocommit=False)


def main():
    bootstrap = sys.argv[1]
    if sys.argv[2:3] == ["member"]:
        return member(bootstrap, *sys.argv[3:])
    for line in sys.stdin:
        case = json.loads(line)
        try:
            if case["kind"] == "produce":
                produce(bootstrap, case)
            {"admin": admin, "produce": verify, "verify": verify}[case["kind"]](bootstrap, case)
            print(f"pass {case['name']}", flush=True)
        except Exception as error:  # Whatever it is, it is this case's result.
            print(f"FAIL {case['name']}: {error!r}", flush=True)


main()
