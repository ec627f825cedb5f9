"""The admin endpoint of the release binary, read by Prometheus' own parser: what was done is counted to the record, thousands of
partitions are told, and `coati bench --explain` says where the time went.

    metrics.py [--only TEXT]

COATI_BIN names another binary.
"""

import argparse
import collections
import json
import pathlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import broker

DEADLINE_SECONDS = 120
PARTITIONS = 10_000
# More at once are not created.
CREATED_AT_ONCE = 5000
SCRAPES = 20
# A hundredth of a core at a scrape a second.
SCRAPE_MS_MAX = 10
# As the common rules of Prometheus' JMX exporter call Kafka's own.
WELL_KNOWN = """
kafka_server_brokertopicmetrics_messagesin_total kafka_server_brokertopicmetrics_bytesin_total kafka_server_brokertopicmetrics_bytesout_total
kafka_server_brokertopicmetrics_totalproducerequests_total kafka_server_brokertopicmetrics_failedproducerequests_total
kafka_network_requestmetrics_requests_total kafka_network_requestmetrics_totaltimems kafka_log_logflushstats_logflushrateandtimems
kafka_server_replicamanager_underreplicatedpartitions kafka_server_replicamanager_partitioncount kafka_server_replicamanager_offlinereplicacount
kafka_controller_kafkacontroller_activecontrollercount kafka_server_kafkaserver_brokerstate kafka_server_socket_server_metrics_connection_count
process_cpu_seconds_total process_resident_memory_bytes process_start_time_seconds
""".split()


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def endpoint(server) -> str:
    return re.search(r"http://[0-9.:]+", server.log()).group(0)


def get(server, path: str) -> str:
    with urllib.request.urlopen(endpoint(server) + path, timeout=DEADLINE_SECONDS) as answer:
        return answer.read().decode()


class Metrics:
    def __init__(self, text: str):
        self.families, self.samples = {}, {}
        for family in text_string_to_metric_families(text):
            expect(family.name not in self.families, f"{family.name} comes twice")
            expect(family.documentation and family.type != "unknown", f"{family.name} is not explained")
            self.families[family.name] = family
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                expect(key not in self.samples, f"{key} comes twice")
                self.samples[key] = sample.value

    def value(self, name, **labels):
        return self.samples.get((name, frozenset(labels.items())), 0)

    def sum(self, name, **labels):
        wanted = set(labels.items())
        return sum(value for (other, of), value in self.samples.items() if other == name and wanted <= of)


def metrics(server) -> Metrics:
    return Metrics(get(server, "/metrics"))


def coati(server, *arguments, given=None) -> str:
    command = [str(broker.COATI), *arguments, "-b", server.bootstrap]
    ran = subprocess.run(command, input=given, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    expect(ran.returncode == 0, f"{' '.join(command)}\nexit {ran.returncode}: {ran.stderr[-2000:]}")
    return ran.stdout


def well_known_names(server):
    page = metrics(server)
    # The parser takes the ending off a counter's family.
    for name in WELL_KNOWN:
        expect(name.removesuffix("_total") in page.families, f"there is no {name}")
    for name, family in page.families.items():
        for sample in family.samples:
            expect(family.type != "counter" or sample.name.endswith("_total"), f"{sample.name} is a counter")
            expect(0 < float(sample.labels.get("quantile", 0.5)) < 1, f"{sample}")
    expect(page.value("kafka_controller_kafkacontroller_activecontrollercount") == 1, "there is one controller")
    expect(page.value("kafka_server_kafkaserver_brokerstate") == 3, "the broker runs")
    expect(abs(page.value("process_start_time_seconds") - time.time()) < 600, "it began a moment ago")
    expect(page.value("process_resident_memory_bytes") > 1 << 20, "it has memory")


def counters_move_by_what_was_done(server):
    coati(server, "topic", "create", "counted", "--partitions", "3")
    before = metrics(server)
    records = [f"record {number}" for number in range(1234)]
    coati(server, "produce", "counted", "--quiet", given="\n".join(records) + "\n")
    after = metrics(server)

    def moved(name, **labels):
        return after.value(name, **labels) - before.value(name, **labels)

    topic_metrics = "kafka_server_brokertopicmetrics"
    for labels in ({}, {"topic": "counted"}):
        expect(moved(f"{topic_metrics}_messagesin_total", **labels) == len(records), f"records {labels}")
    produced = moved(f"{topic_metrics}_bytesin_total")
    sizes = after.sum("kafka_log_log_size", topic="counted") - before.sum("kafka_log_log_size", topic="counted")
    expect(produced == sizes > 0, f"{produced} bytes came, the logs grew by {sizes}")
    ends = after.sum("kafka_log_log_logendoffset", topic="counted")
    expect(ends == len(records), f"the logs end at {ends}")
    requests = moved("kafka_network_requestmetrics_requests_total", request="Produce")
    expect(requests == moved(f"{topic_metrics}_totalproducerequests_total") > 0, "requests are counted alike")
    expect(moved(f"{topic_metrics}_failedproducerequests_total") == 0, "none failed")

    before = after
    expect(len(coati(server, "consume", "counted", "--from-beginning", "--exit").splitlines()) == len(records), "all are read")
    after = metrics(server)
    for labels in ({}, {"topic": "counted"}):
        fetched = moved(f"{topic_metrics}_bytesout_total", **labels)
        expect(fetched == produced, f"{fetched} of {produced} bytes were fetched")

    before = after
    coati(server, "topic", "delete", "counted")
    after = metrics(server)
    expect(moved(f"{topic_metrics}_messagesin_total") == 0, "what came stays counted")
    expect(not after.sum("kafka_log_log_size", topic="counted"), "a topic that is gone is not told")


def ten_thousand_partitions(server):
    names = [f"many-{number}" for number in range(PARTITIONS // CREATED_AT_ONCE)]
    for name in names:
        coati(server, "topic", "create", name, "--partitions", str(CREATED_AT_ONCE))
    text = get(server, "/metrics")
    page = Metrics(text)
    for name in ("size", "logstartoffset", "logendoffset", "numlogsegments"):
        told = [(dict(of)["topic"], dict(of)["partition"]) for (other, of) in page.samples if other == f"kafka_log_log_{name}"]
        labels = collections.Counter(topic for topic, _ in told)
        expect(all(labels[topic] == CREATED_AT_ONCE for topic in names), f"{name} of {labels} partitions")
    expect(page.value("kafka_server_replicamanager_partitioncount") >= PARTITIONS, "they are counted")
    used = []
    for _ in range(SCRAPES + 1):
        # The parser is slow: what a page of this size says of the processor is in its first lines.
        used.append(float(re.search(r"^process_cpu_seconds_total (.+)$", get(server, "/metrics"), re.MULTILINE).group(1)))
    each = (used[-1] - used[0]) * 1000 / SCRAPES
    print(f"     {PARTITIONS} partitions: {len(text) / 1e6:.2f} MB, {each:.2f} ms of CPU time")
    expect(each < SCRAPE_MS_MAX, f"a scrape takes {each:.2f} ms of CPU time")
    for name in names:
        coati(server, "topic", "delete", name)


def stages_of_a_load(server):
    before = json.loads(get(server, "/debug/stages"))
    address = endpoint(server).removeprefix("http://")
    flags = ["--warm-up", "0.5", "--seconds", "2", "--explain", "--admin", address, "--json"]
    report = json.loads(coati(server, "bench", "small", "--acks", "all", *flags))
    explained = {kind["kind"]: kind for kind in report["explanation"]["requests"]}["produce"]
    expect(explained["timed"] > 100, f"{explained['timed']} requests were timed")
    shares = {part["stage"]: part["slow_share"] for part in explained["stages"]}
    expect(abs(sum(shares.values()) - 1) < 0.01, f"{shares}")
    expect(shares[explained["owner"]] == max(shares.values()), f"{explained['owner']} of {shares}")
    expect({"queue", "decode", "append", "commit", "respond"} <= shares.keys(), f"{shares}")
    beneath = {operation["stage"]: operation["count"] for operation in report["explanation"]["beneath"]}
    expect(beneath["read"] > 100 and (beneath.get("sync", 0) > 0 or beneath.get("journal", 0) > 0), f"{beneath}")
    expect(explained["p99_ms"] <= report["acknowledge"]["max"] * 1.25, "the broker is no slower than the client saw")
    after = json.loads(get(server, "/debug/stages"))

    def requests(page):
        return sum(core["requests"] for core in page["cores"])

    expect(requests(after) - requests(before) >= report["produced"]["total"]["requests"], "all requests are counted")
    for core in after["cores"]:
        expect(0 < core["timed"] <= core["requests"] or core["requests"] == 0, f"{core['timed']} of {core['requests']}")


def who_cannot_explain_says_so(server):
    command = [str(broker.COATI), "bench", "small", "-b", server.bootstrap, "--explain", "--admin", "127.0.0.1:1"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    expect(ran.returncode == 1 and "127.0.0.1:1" in ran.stderr and "--admin" in ran.stderr, f"{ran.returncode} {ran.stderr}")


def foreign_requests_are_refused(server):
    for headers, path, status in (({"Host": "evil.example"}, "/metrics", 403), ({}, "/secrets", 404)):
        request = urllib.request.Request(endpoint(server) + path, headers=headers)
        try:
            urllib.request.urlopen(request, timeout=DEADLINE_SECONDS)
            expect(False, f"{path} was answered")
        except urllib.error.HTTPError as error:
            expect(error.code == status, f"{path}: {error.code}")


CHECKS = [well_known_names, counters_move_by_what_was_done, ten_thousand_partitions, stages_of_a_load,
          who_cannot_explain_says_so, foreign_requests_are_refused]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    only = parser.parse_args().only
    failed = 0
    for cores in (1, 2):
        with broker.Broker("coati", {"admin.listener": "127.0.0.1:0"}, cores=cores) as server:
            for check in CHECKS:
                name = f"{check.__name__.replace('_', ' ')}, {cores} cores"
                if only not in name:
                    continue
                try:
                    check(server)
                    print(f"pass admin {name}", flush=True)
                except Exception as error:  # Whatever is wrong with an answer is a failure of its check.
                    failed += 1
                    print(f"FAIL admin {name}: {error!r}"[:3000], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
