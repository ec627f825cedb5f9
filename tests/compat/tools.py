"""Apache Kafka's command-line tools against Coati: each does its work, and says what it says of Apache Kafka.

    tools.py [--cores N] [coati|kafka]

What the log of offsets holds is read by Kafka's own formatters and its dump tool.
"""

import argparse
import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "lib")]
import broker
from cases import check

TOOLS = "org.apache.kafka.tools."
DEADLINE_SECONDS = 120
CASES_AT_ONCE = 2


class Tools:
    def __init__(self, server: broker.Broker):
        self.server = server

    def run(self, name: str, *arguments: str, data: str = "", fails: str = "", bootstrap: bool = True) -> str:
        """Runs a tool; what it printed. `fails`: what it must fail with."""
        main = name if name.startswith("kafka.") else TOOLS + name
        address = ("--bootstrap-server", self.server.bootstrap) if bootstrap else ()
        done = subprocess.run(broker.tool_command(main, *arguments, *address), input=data, capture_output=True, text=True,
                              timeout=DEADLINE_SECONDS, cwd=self.server.directory)
        output = done.stdout + done.stderr
        if fails:
            check(done.returncode != 0 and re.search(fails, output), f"was to fail with {fails!r}: {done.returncode} {output[-1500:]}")
        else:
            check(done.returncode == 0, f"exit {done.returncode}: {output[-1500:]}")
        return done.stdout

    def offsets(self, topic: str, time: str) -> list[str]:
        return self.run("GetOffsetShell", "--topic", topic, "--time", time).split()


def has(text: str, *patterns: str):
    for pattern in patterns:
        check(re.search(pattern, text) is not None, f"{pattern!r} is not in {text[-1500:]!r}")


def topic_command(tools: Tools):
    tools.run("TopicCommand", "--create", "--topic", "tc", "--partitions", "3", "--config", "retention.ms=1000000")
    tools.run("TopicCommand", "--create", "--topic", "tc", fails="already exists")
    tools.run("TopicCommand", "--create", "--topic", "tc", "--if-not-exists")
    check("tc" in tools.run("TopicCommand", "--list").split(), "not listed")
    described = tools.run("TopicCommand", "--describe", "--topic", "tc")
    has(described, r"Topic: tc\tTopicId: [\w-]{22}\tPartitionCount: 3\tReplicationFactor: 1\tConfigs: .*retention\.ms=1000000",
        r"Partition: 2\tLeader: 1\tReplicas: 1\tIsr: 1\t")
    tools.run("TopicCommand", "--alter", "--topic", "tc", "--partitions", "5")
    has(tools.run("TopicCommand", "--describe", "--topic", "tc"), "PartitionCount: 5")
    check(tools.run("TopicCommand", "--describe", "--under-replicated-partitions") == "", "under-replicated partitions")
    tools.run("TopicCommand", "--delete", "--topic", "tc")
    tools.run("TopicCommand", "--delete", "--topic", "tc", fails="does not exist")


def config_command(tools: Tools):
    config = lambda *arguments, **options: tools.run("kafka.admin.ConfigCommand", *arguments, **options)
    tools.run("TopicCommand", "--create", "--topic", "cc")
    topic = ("--entity-type", "topics", "--entity-name", "cc")
    config("--alter", *topic, "--add-config", "max.message.bytes=70000,retention.ms=5000")
    has(config("--describe", *topic), r"max\.message\.bytes=70000 sensitive=false synonyms=\{DYNAMIC_TOPIC_CONFIG:max\.message\.bytes=70000, "
        r"DEFAULT_CONFIG:message\.max\.bytes=1048588\}", r"retention\.ms=5000")
    config("--alter", *topic, "--delete-config", "retention.ms")
    check("retention.ms" not in config("--describe", *topic), "retention.ms is not deleted")
    has(config("--describe", "--all", *topic), r"segment\.bytes=1073741824", r"cleanup\.policy=delete")
    config("--alter", *topic, "--add-config", "retention.ms=soon", fails="retention.ms")
    one = ("--entity-type", "brokers", "--entity-name", "1")
    config("--alter", *one, "--add-config", "message.max.bytes=900000")
    has(config("--describe", *one), r"message\.max\.bytes=900000 .*DYNAMIC_BROKER_CONFIG:message\.max\.bytes=900000")
    config("--alter", *one, "--delete-config", "message.max.bytes")
    every = ("--entity-type", "brokers", "--entity-default")
    config("--alter", *every, "--add-config", "log.retention.ms=7000000")
    has(config("--describe", *every), r"log\.retention\.ms=7000000")
    config("--alter", *every, "--delete-config", "log.retention.ms")
    has(config("--describe", "--all", *one), r"num\.partitions=3", r"log\.segment\.bytes=1073741824")


def console(tools: Tools):
    """Written on the console with every codec, read back with keys, headers, offsets and partitions."""
    tools.run("TopicCommand", "--create", "--topic", "con", "--partitions", "1")
    expected = []
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        lines = [f"h:{codec},n:{i}\tkey{i}\tvalue {i} of {codec} Zażółć" for i in range(20)]
        tools.run("ConsoleProducer", "--topic", "con", "--compression-codec", codec, "--reader-property", "parse.key=true",
                  "--reader-property", "parse.headers=true", data="".join(line + "\n" for line in lines))
        expected += lines
    properties = [word for name in ("key", "headers", "offset", "partition") for word in ("--formatter-property", f"print.{name}=true")]
    read = tools.run("consumer.ConsoleConsumer", "--topic", "con", "--partition", "0", "--offset", "earliest", "--max-messages", "100", *properties)
    wanted = [f"Partition:0\tOffset:{offset}\t{line}" for offset, line in enumerate(expected)]
    check(read.splitlines() == wanted, f"read {read[:1500]!r}")
    read = tools.run("consumer.ConsoleConsumer", "--topic", "con", "--partition", "0", "--offset", "97", "--max-messages", "3")
    check(read.splitlines() == [line.split("\t")[2] for line in expected[97:]], f"read from 97: {read!r}")


def performance(tools: Tools):
    tools.run("TopicCommand", "--create", "--topic", "perf", "--partitions", "2")
    for acks in ("0", "1", "all"):
        said = tools.run("ProducerPerformance", "--topic", "perf", "--num-records", "20000", "--record-size", "500", "--throughput", "-1",
                         "--command-property", f"acks={acks}", "enable.idempotence=false")
        has(said, r"20000 records sent, [\d.]+ records/sec .* 99\.9th")
    total = sum(int(line.rsplit(":", 1)[1]) for line in tools.offsets("perf", "latest"))
    check(total == 60000, f"{total} records in the topic")
    said = tools.run("ConsumerPerformance", "--topic", "perf", "--num-records", "60000")
    read = [int(line.split(", ")[4]) for line in said.splitlines() if re.match(r"\d{4}-", line)]
    check(sum(read) >= 60000, f"read {said}")


def verifiable_producer(tools: Tools):
    said = [json.loads(line) for line in tools.run("VerifiableProducer", "--topic", "ver", "--max-messages", "50", "--acks", "-1").splitlines()]
    sent = [line for line in said if line["name"] == "producer_send_success"]
    check(len(sent) == 50 and said[-1]["acked"] == 50, f"{len(sent)} sent, {said[-1]}")


def verifiable_consumer(tools: Tools):
    """Reads as much as it is told, twice; the second goes on where the first has committed, by either protocol."""
    tools.run("TopicCommand", "--create", "--topic", "vec", "--partitions", "3")
    for protocol in ("classic", "consumer"):
        tools.run("VerifiableProducer", "--topic", "vec", "--max-messages", "60")
        for first in (0, 30):
            said = tools.run("VerifiableConsumer", "--topic", "vec", "--group-id", "vec", "--group-protocol", protocol, "--max-messages", "30",
                             "--reset-policy", "earliest", "--verbose")
            events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
            check(sum(event["name"] == "record_data" for event in events) >= 30 - first, f"{protocol}: {said[-1500:]}")
            committed = [event for event in events if event["name"] == "offsets_committed"]
            check(committed and all(event["success"] for event in committed), f"{protocol}: {said[-1500:]}")
    latest = sum(int(line.rsplit(":", 1)[1]) for line in tools.offsets("vec", "latest"))
    described = tools.run("consumer.group.ConsumerGroupCommand", "--describe", "--group", "vec")
    reached = sum(int(line.split()[3]) for line in described.splitlines() if line.startswith("vec "))
    check(latest == reached == 120, f"{reached} of {latest} are committed")


def get_offset_shell(tools: Tools):
    tools.run("TopicCommand", "--create", "--topic", "gos", "--partitions", "2")
    tools.run("ConsoleProducer", "--topic", "gos", "--sync", "--reader-property", "parse.key=true", data="".join(f"k\tv{i}\n" for i in range(10)))
    latest = tools.offsets("gos", "latest")
    check(sorted(line.split(":")[2] for line in latest) == ["0", "10"], f"latest {latest}")
    check(tools.offsets("gos", "earliest") == ["gos:0:0", "gos:1:0"], "earliest")
    # A partition without such a record is left out, or has nothing behind its colon.
    newest = [line for line in tools.offsets("gos", "max-timestamp") if not line.endswith((":", ":-1"))]
    check(len(newest) == 1, f"max-timestamp {newest}")
    check(tools.offsets("gos", "0") and "gos:0:10" not in tools.offsets("gos", "0"), "timestamp 0")


def delete_records(tools: Tools):
    tools.run("TopicCommand", "--create", "--topic", "del", "--partitions", "1")
    tools.run("ConsoleProducer", "--topic", "del", data="".join(f"v{i}\n" for i in range(10)))
    plan = tools.server.directory / "delete.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [{"topic": "del", "partition": 0, "offset": 7}]}))
    has(tools.run("DeleteRecordsCommand", "--offset-json-file", str(plan)), r"partition: del-0\s+low_watermark: 7")
    check(tools.offsets("del", "earliest") == ["del:0:7"], "earliest")
    read = tools.run("consumer.ConsoleConsumer", "--topic", "del", "--partition", "0", "--offset", "earliest", "--max-messages", "3")
    check(read.split() == ["v7", "v8", "v9"], f"read {read}")


def log_dirs(tools: Tools):
    tools.run("TopicCommand", "--create", "--topic", "dirs", "--partitions", "2")
    tools.run("ConsoleProducer", "--topic", "dirs", data="x\n")
    told = json.loads(tools.run("LogDirsCommand", "--describe", "--topic-list", "dirs").splitlines()[-1])
    [directory] = told["brokers"][0]["logDirs"]
    sizes = {entry["partition"]: entry["size"] for entry in directory["partitions"]}
    check(set(sizes) == {"dirs-0", "dirs-1"} and sorted(sizes.values())[0] == 0 and sorted(sizes.values())[1] > 0, f"sizes {sizes}")
    check(directory["logDir"] == str(tools.server.data) and directory["error"] is None, f"{directory}")


def end_to_end_latency(tools: Tools):
    said = tools.run("EndToEndLatency", "--topic", "e2e", "--num-records", "500", "--producer-acks", "all", "--record-size", "100")
    has(said, r"Avg latency: [\d.]+ ms", r"Percentiles: 50th = \d+, 99th = \d+, 99\.9th = \d+")


def client_compatibility(tools: Tools):
    flags = {
        "offsets-for-times-supported": "true", "cluster-id-supported": "true", "expect-record-too-large-exception": "false",
        "num-cluster-nodes": "1", "create-topics-supported": "true", "describe-acls-supported": "false",
        "describe-configs-supported": "true", "idempotent-producer-supported": "true",
    }
    said = tools.run("ClientCompatibilityTest", "--topic", "compat", *(word for name, value in flags.items() for word in (f"--{name}", value)))
    has(said, "SUCCESS")


def cluster_tools(tools: Tools):
    address = ("--bootstrap-server", tools.server.bootstrap)
    has(tools.run("ClusterTool", "cluster-id", *address, bootstrap=False), r"Cluster ID: [\w-]{22}")
    # These two want the address ahead of what they are to do.
    has(tools.run("FeatureCommand", *address, "describe", bootstrap=False), r"Feature: metadata\.version")
    has(tools.run("MetadataQuorumCommand", *address, "describe", "--status", bootstrap=False), r"LeaderId:\s+1\n", r"CurrentVoters:\s+\[\{\"id\": 1")
    has(tools.run("BrokerApiVersionsCommand"), r"Produce\(0\): 0 to 13 \[usable: 13\]", r"Fetch\(1\): 4 to 18 \[usable: 18\]")


def groups(tools: Tools):
    """A console consumer in a group, and the group command on what it leaves."""
    tools.run("TopicCommand", "--create", "--topic", "grp", "--partitions", "3")
    tools.run("ConsoleProducer", "--topic", "grp", "--reader-property", "parse.key=true", data="".join(f"{i}\tv{i}\n" for i in range(90)))
    consume = lambda count, group="g": tools.run("consumer.ConsoleConsumer", "--topic", "grp", "--group", group, "--max-messages", str(count),
                                                 "--command-property", "auto.offset.reset=earliest").split()
    first, second = consume(40), consume(50)
    check(sorted(first + second) == sorted(f"v{i}" for i in range(90)), "each record is read once")
    command = lambda *arguments, **options: tools.run("consumer.group.ConsumerGroupCommand", *arguments, **options)
    check("g" in command("--list").split(), "--list")
    has(command("--list", "--state"), r"g\s+Classic\s+Empty|g\s+Empty")
    described = command("--describe", "--group", "g")
    lags = [line.split()[5] for line in described.splitlines() if line.startswith("g ")]
    check(lags == ["0", "0", "0"], f"lags {described}")
    has(command("--describe", "--group", "g", "--state"), r"g\s+.*Empty\s+0")
    command("--describe", "--group", "g", "--members")
    dry = command("--reset-offsets", "--group", "g", "--topic", "grp", "--to-earliest", "--dry-run")
    has(dry, r"g\s+grp\s+\d\s+0")
    check(consume(0) == [], "a dry run changes nothing")
    command("--reset-offsets", "--group", "g", "--topic", "grp:0,1,2", "--shift-by", "-2", "--execute")
    check(len(consume(6)) == 6, "shifted by two")
    command("--reset-offsets", "--group", "g", "--all-topics", "--to-latest", "--execute")
    command("--delete-offsets", "--group", "g", "--topic", "grp:1")
    left = [line.split()[2] for line in command("--describe", "--group", "g").splitlines() if line.startswith("g ")]
    check(sorted(left) == ["0", "2"], f"left {left}")
    has(command("--delete", "--group", "g"), "successful")
    check("g" not in command("--list").split(), "deleted")


def within_seconds(seconds: float, look):
    """What `look` answers as soon as it is something, or its last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := look()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


def log_of(tools: Tools, group: str, ended: str) -> tuple[int, str]:
    """The partition of a group's log, and what Kafka's dump tool makes of it once its end is in the segments."""
    def segments():
        return {p: log for p in range(50) if (log := tools.server.data / f"__consumer_offsets-{p}" / ("0" * 20 + ".log")).exists()}

    def dump():
        """Behind the last batch a segment that is being written is zeroes, at which the dump tool stops."""
        log, end = segments()[partition], 0
        data = log.read_bytes()
        while len(data) >= end + 12 and (length := int.from_bytes(data[end + 8:end + 12])) > 0:
            end += 12 + length
        copy = tools.server.directory / log.parent.name / log.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(data[:end])
        return tools.run("DumpLogSegments", "--offsets-decoder", "--files", str(copy), bootstrap=False)

    # What is acknowledged may be in the journal alone; the segments follow within seconds.
    found = within_seconds(20, lambda: [p for p, log in segments().items() if group.encode() in log.read_bytes()])
    check(len(found) == 1, f"the group's log is {found}")
    partition = found[0]
    return partition, within_seconds(20, lambda: text if re.search(ended, text := dump()) else None) or dump()


def read_log(tools: Tools, partition: int, formatter: str, count: int) -> str:
    return tools.run("consumer.ConsoleConsumer", "--topic", "__consumer_offsets", "--partition", str(partition), "--offset", "earliest",
                     "--max-messages", str(count), "--timeout-ms", "5000", "--formatter", f"org.apache.kafka.tools.consumer.{formatter}")


def group_log(tools: Tools):
    """The log of offsets as Kafka's own tools read it: a live group, its commits, and their end."""
    tools.run("TopicCommand", "--create", "--topic", "glog", "--partitions", "1")
    tools.run("ConsoleProducer", "--topic", "glog", data="a\nb\n")
    consumed = tools.run("consumer.ConsoleConsumer", "--topic", "glog", "--group", "logged", "--max-messages", "2", "--from-beginning")
    check(consumed.split() == ["a", "b"], consumed)
    tools.run("consumer.group.ConsumerGroupCommand", "--delete", "--group", "logged")
    partition, dumped = log_of(tools, "logged", r'"group":"logged"\}\} payload: <DELETE>')
    has(dumped, r'"type":"2","data":\{"group":"logged"\}\} payload: \{"version":"3","data":\{"protocolType":"","generation":0,"protocol":null',
        r'"protocolType":"consumer","generation":1,"protocol":"range".*"subscription":\{"topics":\["glog"\]',
        r'"type":"1","data":\{"group":"logged","topic":"glog","partition":0\}\} payload: \{"version":"4","data":\{"offset":2,"leaderEpoch":0',
        r'"topic":"glog","partition":0\}\} payload: <DELETE>', r'"group":"logged"\}\} payload: <DELETE>')
    has(read_log(tools, partition, "OffsetsMessageFormatter", 8), r'"group":"logged","topic":"glog","partition":0\}\}.*"offset":2')
    has(read_log(tools, partition, "GroupMetadataMessageFormatter", 8), r'"group":"logged"\}\}.*"protocolType":"consumer"')


def consumer_group_log(tools: Tools):
    """The same of a group of the consumer protocol (KIP-848), and what the group command says of it."""
    tools.run("TopicCommand", "--create", "--topic", "clog", "--partitions", "1")
    tools.run("ConsoleProducer", "--topic", "clog", data="a\nb\n")
    consumed = tools.run("consumer.ConsoleConsumer", "--topic", "clog", "--group", "modern", "--max-messages", "2", "--from-beginning",
                         "--command-property", "group.protocol=consumer")
    check(consumed.split() == ["a", "b"], consumed)
    command = lambda *arguments: tools.run("consumer.group.ConsumerGroupCommand", *arguments)
    has(command("--list", "--type"), r"modern\s+Consumer")
    has(command("--describe", "--group", "modern", "--state"), r"modern\s+.*uniform\s+Empty\s+.*0")
    has(command("--delete", "--group", "modern"), "successful")
    partition, dumped = log_of(tools, "modern", r'"type":"3","data":\{"groupId":"modern"\}\} payload: <DELETE>')
    has(dumped, r'"type":"5","data":\{"groupId":"modern".*"subscribedTopicNames":\["clog"\],"subscribedTopicRegex":"".*"classicMemberMetadata":null',
        r'"type":"3","data":\{"groupId":"modern"\}\} payload: \{"version":"0","data":\{"epoch":2,"metadataHash":-?[1-9]',
        r'"type":"7".*payload: \{"version":"0","data":\{"topicPartitions":\[\{"topicId":"[^"]+","partitions":\[0\]\}\]',
        r'"type":"6","data":\{"groupId":"modern"\}\} payload: \{"version":"0","data":\{"assignmentEpoch":2,"assignmentTimestamp":\d+',
        r'"type":"8".*"memberEpoch":2,"previousMemberEpoch":0,"state":0,"assignedPartitions":\[\{.*"partitions":\[0\],"assignmentEpochs":\[2\]',
        r'"type":"8".*payload: <DELETE>', r'"type":"7".*payload: <DELETE>', r'"type":"5".*payload: <DELETE>')


ALL = [topic_command, config_command, console, performance, verifiable_producer, verifiable_consumer, get_offset_shell, delete_records, log_dirs,
       end_to_end_latency, client_compatibility, cluster_tools, groups, group_log, consumer_group_log]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("kind", choices=["coati", "kafka"], nargs="?", default="coati")
    arguments.add_argument("--cores", type=int)
    arguments.add_argument("--only", nargs="*", default=[])
    options = arguments.parse_args()
    with broker.Broker(options.kind, {"num.partitions": "3", "node.id": "1"}, options.cores) as server:

        def play(case) -> bool:
            try:
                case(Tools(server))
                print(f"pass tools {case.__name__}", flush=True)
                return True
            except Exception as error:  # Whatever it is, it is this case's result.
                print(f"FAIL tools {case.__name__}: {error}", flush=True)
                return False

        with concurrent.futures.ThreadPoolExecutor(CASES_AT_ONCE) as pool:
            failed = list(pool.map(play, [case for case in ALL if not options.only or case.__name__ in options.only])).count(False)
        if failed:
            print(server.log()[-3000:])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
