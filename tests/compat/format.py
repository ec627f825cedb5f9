"""The files: Apache Kafka's dump tool reads what Coati writes, and Coati serves what Apache Kafka has written.

    format.py [--cores N]

First part: a topic of several segments with every codec, written by an idempotent kcat; then Coati stops cleanly, or is killed and
recovers, and DumpLogSegments goes through every log, index, time index and producer snapshot, and through the metadata log and its
snapshots, without a complaint. Second part: Apache Kafka writes the same, and transactions; its files are put in place in a
folder of Coati's, which must serve them byte for byte, with and without the mark of a clean stop. Between them: a compacted topic, whose
cleaned segments the dump tool reads as well.
"""

import argparse
import contextlib
import pathlib
import random
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "lib")]
import broker
import wire
from cases import check

TOPIC = "format"
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
RECORDS_A_CODEC = 2500
SEGMENT_BYTES = 1 << 20  # The least that Apache Kafka 4 takes.
SETTINGS = {"log.index.interval.bytes": "512", "metadata.log.max.record.bytes.between.snapshots": "2000", "num.partitions": "1"}
CLEAN_MARK = ".kafka_cleanshutdown"
DEADLINE_SECONDS = 120
# What the dump tool prints of a file that it finds fault with.
COMPLAINTS = re.compile(r"isvalid: false|Mismatches in|Non-consecutive|Found .*mismatch|out of order|not found in the log|Missing|"
                        r"[Ee]xception|ERROR|[Cc]orrupt|[Ii]nvalid|skipping|less than|wrong", re.MULTILINE)
# The tool's own fault: it takes -1 for the offset before a log's first, also in Apache Kafka's logs (`written_by_kafka` checks that).
BEFORE_FIRST = re.compile(r"^Non-consecutive offsets in .*/0*([1-9]\d*)\.log\n  -1 is followed by \1\n", re.MULTILINE)


def run(command: list[str], data: bytes = b"") -> str:
    done = subprocess.run(command, input=data, capture_output=True, timeout=DEADLINE_SECONDS)
    output = (done.stdout + done.stderr).decode(errors="replace")
    check(done.returncode == 0, f"{command[-6:]}: exit {done.returncode}: {output[-1500:]}")
    return output


def create(server: broker.Broker, name: str, **configs):
    with wire.Connection(server.bootstrap) as connection:
        connection.ask("CreateTopics", 7, {"timeoutMs": 30000, "Topics": [{
            "Name": name, "NumPartitions": 1, "ReplicationFactor": 1,
            "Configs": [{"Name": key.replace("_", "."), "Value": str(value)} for key, value in configs.items()]}]})
        for _ in range(10_000):
            if end_offset(connection, name) is not None:
                return
        raise AssertionError(f"{name} does not become ready")


def end_offset(connection: wire.Connection, name: str) -> int | None:
    answer = connection.ask("ListOffsets", 5, {"ReplicaId": -1, "Topics": [{"Name": name, "Partitions": [{"PartitionIndex": 0, "Timestamp": -1}]}]})
    partition = answer["Topics"][0]["Partitions"][0]
    return partition["Offset"] if partition["ErrorCode"] == 0 else None


def produce(server: broker.Broker):
    """By an idempotent producer a codec."""
    source = random.Random(7)
    for codec in CODECS:
        if codec == "lz4":
            # librdkafka compresses so only for brokers that have groups.
            performance(server, RECORDS_A_CODEC, 800, "--command-property", "compression.type=lz4")
            continue
        lines = "".join(f"key{i}:{source.randbytes(100).hex() * 4}\n" for i in range(RECORDS_A_CODEC))
        run(["kcat", "-b", server.bootstrap, "-P", "-t", TOPIC, "-p", "0", "-K", ":", "-z", codec, "-X", "enable.idempotence=true",
             "-X", "batch.num.messages=40", "-H", "h=v"], lines.encode())


def performance(server: broker.Broker, records: int, size: int, *options: str):
    run(broker.tool_command("org.apache.kafka.tools.ProducerPerformance", "--bootstrap-server", server.bootstrap, "--topic", TOPIC, "--num-records",
                            str(records), "--record-size", str(size), "--throughput", "-1", *options))


def fetch(server: broker.Broker, offset: int, size: int = 1 << 26) -> bytes:
    """The raw batches from an offset on, to the end."""
    records = b""
    with wire.Connection(server.bootstrap) as connection:
        end = end_offset(connection, TOPIC)
        while offset < end:
            answer = connection.ask("Fetch", 12, {"ReplicaId": -1, "MaxWaitMs": 0, "MinBytes": 0, "MaxBytes": size, "Topics": [
                {"Topic": TOPIC, "Partitions": [{"Partition": 0, "FetchOffset": offset, "PartitionMaxBytes": size}]}]})
            partition = answer["Responses"][0]["Partitions"][0]
            check(partition["ErrorCode"] == 0 and partition["Records"], f"fetch from {offset}: error {partition['ErrorCode']}")
            whole = whole_batches(partition["Records"])
            records += whole
            offset = next_offset(whole)
    return records


def batch_sizes(records: bytes):
    """(position, size) of each whole batch."""
    position = 0
    while position + 12 <= len(records):
        size = 12 + int.from_bytes(records[position + 8:position + 12], "big")
        if position + size > len(records):
            return
        yield position, size
        position += size


def whole_batches(records: bytes) -> bytes:
    return records[:sum(size for _, size in batch_sizes(records))]


def next_offset(records: bytes) -> int:
    last, _ = list(batch_sizes(records))[-1]
    return int.from_bytes(records[last:last + 8], "big") + int.from_bytes(records[last + 23:last + 27], "big") + 1


def dump(files: list[pathlib.Path], *options: str) -> str:
    output = run(broker.tool_command("org.apache.kafka.tools.DumpLogSegments", "--files", ",".join(map(str, files)), *options))
    said = re.sub(r"^\| .*\n", "", BEFORE_FIRST.sub("", output), flags=re.MULTILINE)
    complaint = COMPLAINTS.search(said)
    check(complaint is None, f"{options}: {said[max(0, (complaint.start() if complaint else 0) - 300):][:1500]}")
    return output


def dumped(server: broker.Broker, name: str):
    """The dump tool over all that a stopped Coati has left."""
    folder = server.data / f"{TOPIC}-0"
    files = {ending: sorted(folder.glob(f"*.{ending}")) for ending in ("log", "index", "timeindex", "snapshot")}
    check(len(files["log"]) >= 3, f"only {len(files['log'])} segments")
    output = dump(files["log"], "--deep-iteration")
    records = re.findall(r"^\| offset: (\d+) ", output, re.MULTILINE)
    check(list(map(int, records)) == list(range(RECORDS_A_CODEC * len(CODECS))), f"{len(records)} records in the logs")
    for codec in CODECS:
        check(f"compresscodec: {codec}" in output, f"no batch with {codec}")
    print(f"pass format {name}: {len(files['log'])} logs, {len(records)} records", flush=True)
    for ending in ("index", "timeindex"):
        printed = dump(files[ending])
        entries = len(re.findall(r"^(offset|timestamp): ", printed, re.MULTILINE))
        check(entries > 10, f"{entries} entries in the {ending} files")
        dump(files[ending], "--verify-index-only")
        check(dump(files[ending], "--index-sanity-check").count("passed sanity check") == len(files[ending]), f"{ending} sanity")
        print(f"pass format {name}: {ending}, {entries} entries", flush=True)
    check(bool(files["snapshot"]), "no producer snapshot")
    producers = re.findall(r"^producerId: \d+ .*", dump(files["snapshot"]), re.MULTILINE)
    check(bool(producers), "no producer in the snapshots")
    print(f"pass format {name}: {len(files['snapshot'])} producer snapshots, {len(producers)} entries", flush=True)
    metadata = server.data / "__cluster_metadata-0"
    logs, checkpoints = sorted(metadata.glob("*.log")), sorted(metadata.glob("*.checkpoint"))
    check(bool(checkpoints), "no snapshot of the metadata")
    for files in (logs, checkpoints):
        printed = dump(files, "--cluster-metadata-decoder")
        check("REGISTER_BROKER_RECORD" in printed or "TOPIC_RECORD" in printed, "no metadata records")
    print(f"pass format {name}: the metadata's {len(logs)} logs and {len(checkpoints)} snapshots", flush=True)


def written_by_coati(cores: int | None):
    with broker.Broker("coati", SETTINGS, cores) as server:
        create(server, TOPIC, segment_bytes=SEGMENT_BYTES)
        for number in range(20):
            create(server, f"other-{number}", retention_ms=1000 + number)
        produce(server)
        before = fetch(server, 0)
        check(server.stop() == 0, "the stop was not clean")
        dumped(server, "after a clean stop")
        server.start()
        check(fetch(server, 0) == before, "other bytes after the restart")
        server.kill()
        server.start()
        check(fetch(server, 0) == before, "other bytes after the crash")
        check(server.stop() == 0, "the stop was not clean")
        dumped(server, "after a crash, its recovery and a stop")


def compacted_by_coati(cores: int | None):
    """A few keys written over and over: what the cleaner leaves is as right to the dump tool, and to a start after a crash."""
    with broker.Broker("coati", SETTINGS | {"log.cleaner.backoff.ms": "100"}, cores) as server:
        create(server, TOPIC, segment_bytes=SEGMENT_BYTES, cleanup_policy="compact", min_cleanable_dirty_ratio="0.01")
        source = random.Random(7)
        lines = "".join(f"key{i % 500}:{source.randbytes(100).hex() * 4}\n" for i in range(4 * RECORDS_A_CODEC))
        for codec in ("none", "zstd"):
            run(["kcat", "-b", server.bootstrap, "-P", "-t", TOPIC, "-p", "0", "-K", ":", "-z", codec, "-X", "enable.idempotence=true",
                 "-X", "batch.num.messages=40"], lines.encode())
        folder = server.data / f"{TOPIC}-0"
        written = len(lines)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while log_bytes(folder) > written // 2:
            check(time.monotonic() < deadline, f"{log_bytes(folder)} bytes are left of {written}")
            time.sleep(0.1)
        before = last_of_each(server)
        check(len(before) == 500, f"{len(before)} keys are left")
        server.kill()
        server.start()
        check(last_of_each(server) == before, "other values after the crash")
        check(server.stop() == 0, "the stop was not clean")
        logs = sorted(folder.glob("*.log"))
        printed = run(broker.tool_command("org.apache.kafka.tools.DumpLogSegments", "--files", ",".join(map(str, logs)), "--deep-iteration"))
        # Gaps are what compaction leaves; the tool lists them under this heading.
        said = re.sub(r"^\| .*\n", "", re.sub(r"^Non-consecutive offsets in .*\n(  \d+ is followed by \d+\n|  -1 is followed by \d+\n)*", "", printed,
                                              flags=re.MULTILINE), flags=re.MULTILINE)
        complaint = COMPLAINTS.search(said)
        check(complaint is None, f"{said[max(0, (complaint.start() if complaint else 0) - 300):][:1500]}")
        for ending in ("index", "timeindex"):
            files = sorted(folder.glob(f"*.{ending}"))
            # What has been cleaned to a few bytes needs no entry.
            passed = re.findall(r"passed sanity check|is empty", dump(files, "--index-sanity-check"))
            check(len(passed) == len(files), f"{ending} sanity")
            dump(files)
        print(f"pass format compacted: {len(logs)} logs, {log_bytes(folder)} bytes of {2 * written} written", flush=True)


def log_bytes(folder: pathlib.Path) -> int:
    """What the segments come to, as a running broker may replace or delete any of them meanwhile."""
    size = 0
    for path in folder.glob("*.log"):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def last_of_each(server: broker.Broker) -> dict[str, str]:
    """By key, as a consumer reads it."""
    lines = run(["kcat", "-b", server.bootstrap, "-C", "-t", TOPIC, "-p", "0", "-o", "beginning", "-e", "-q", "-K", ":"]).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def adopt(server: broker.Broker, source: pathlib.Path, clean: bool):
    """Puts Apache Kafka's files of the topic in the place of Coati's own; its topic id stays."""
    target = server.data / f"{TOPIC}-0"
    for path in target.iterdir():
        if path.name != "partition.metadata":
            path.unlink()
    for path in source.iterdir():
        if path.name != "partition.metadata":
            shutil.copy(path, target / path.name)
    if not clean:
        (server.data / CLEAN_MARK).unlink(missing_ok=True)


def written_by_kafka(cores: int | None):
    with broker.Broker("kafka", {"log.index.interval.bytes": "512"}) as kafka:
        create(kafka, TOPIC, segment_bytes=SEGMENT_BYTES)
        produce(kafka)
        performance(kafka, 500, 200, "--transactional-id", "t", "--transaction-duration-ms", "20")
        expected = fetch(kafka, 0)
        starts = [int.from_bytes(expected[position:position + 8], "big") for position, _ in batch_sizes(expected)]
        by_time = [lookup(kafka, time) for time in times(expected)]
        kafka.stop()
        source = kafka.data / f"{TOPIC}-0"
        check(len(list(source.glob("*.log"))) >= 3, "too few segments")
        said = dump(sorted(source.glob("*.log")), "--deep-iteration")
        check(BEFORE_FIRST.search(said) is not None, "the dump tool has become right about the first offset: BEFORE_FIRST can go")
        for clean in (True, False):
            name = "with the mark of a clean stop" if clean else "after a crash"
            with broker.Broker("coati", SETTINGS, cores) as server:
                create(server, TOPIC, segment_bytes=SEGMENT_BYTES)
                check(server.stop() == 0, "the stop was not clean")
                adopt(server, source, clean)
                server.start()
                check(fetch(server, 0) == expected, f"{name}: other bytes than Apache Kafka's")
                for number, (position, size) in list(enumerate(batch_sizes(expected)))[::17]:
                    check(fetch_one(server, starts[number]) == expected[position:position + size], f"{name}: another batch at {starts[number]}")
                check([lookup(server, time) for time in times(expected)] == by_time, f"{name}: other offsets by time")
                for path in source.glob("*.log"):
                    check((server.data / f"{TOPIC}-0" / path.name).read_bytes()[:path.stat().st_size] == path.read_bytes(), f"{name}: {path.name} was changed")
            print(f"pass format segments of Apache Kafka {name}: {len(starts)} batches, {len(expected)} bytes", flush=True)


def fetch_one(server: broker.Broker, offset: int) -> bytes:
    with wire.Connection(server.bootstrap) as connection:
        answer = connection.ask("Fetch", 12, {"ReplicaId": -1, "MaxWaitMs": 0, "MinBytes": 0, "MaxBytes": 1, "Topics": [
            {"Topic": TOPIC, "Partitions": [{"Partition": 0, "FetchOffset": offset, "PartitionMaxBytes": 1}]}]})
    return answer["Responses"][0]["Partitions"][0]["Records"]


def times(records: bytes) -> list[int]:
    """Timestamps to look up: of some batches, and one before and after all."""
    largest = [int.from_bytes(records[position + 35:position + 43], "big") for position, _ in batch_sizes(records)]
    return [0, *largest[::29], max(largest), max(largest) + 1]


def lookup(server: broker.Broker, time: int) -> tuple:
    with wire.Connection(server.bootstrap) as connection:
        answer = connection.ask("ListOffsets", 8, {"ReplicaId": -1, "Topics": [{"Name": TOPIC, "Partitions": [{"PartitionIndex": 0, "Timestamp": time}]}]})
    partition = answer["Topics"][0]["Partitions"][0]
    return partition["ErrorCode"], partition["Offset"], partition["Timestamp"], partition["LeaderEpoch"]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--cores", type=int)
    options = arguments.parse_args()
    failed = 0
    for part in (written_by_coati, compacted_by_coati, written_by_kafka):
        try:
            part(options.cores)
        except Exception as error:  # Whatever it is, it is this part's result.
            failed += 1
            print(f"FAIL format {part.__name__}: {error}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
