"""Runs every client against one broker: each produces with every codec and acks level and reads back byte-equal.

    clients.py coati|kafka [--cores N] [--client NAME…]

Prints `pass` or `FAIL` a case. A client that dies, or leaves a case without an answer, fails that case.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "lib")]
import broker
import cases
import wire

ALL_CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
CLIENT_DEADLINE_SECONDS = 600
CLIENTS_AT_ONCE = 3  # They wait for most of their time.


class Client:
    def __init__(self, name: str, command: list[str], codecs=ALL_CODECS, own_timestamps=True, may_send_plain=False):
        self.name, self.command, self.codecs, self.own_timestamps = name, command, codecs, own_timestamps
        self.may_send_plain = may_send_plain


CLIENTS = [
    Client("kcat", [sys.executable, str(HERE / "kcat.py")], own_timestamps=False, may_send_plain=True),
    Client("rdkafka", [str(broker.DEPS / "rdkafka" / "release" / "compat-rdkafka")], may_send_plain=True),
    Client("java", broker.java_command("Client")),
    Client("franz-go", [str(broker.DEPS / "franz-go")], may_send_plain=True),
    Client("kafka-python", [str(broker.DEPS / "python" / "bin" / "python"), str(HERE / "kafka-python" / "client.py")],
           may_send_plain=True),
    Client("kafkajs", ["node", str(broker.DEPS / "kafkajs" / "client.js")]),
]


def produce_cases(client: Client, base_timestamp: int) -> list[dict]:
    made = [{"name": "admin", "kind": "admin", "topic": f"{client.name}-admin"}]
    for codec in client.codecs:
        for acks, idempotent in (("0", False), ("1", False), ("all", False), ("all", True)):
            label = f"{codec} acks={acks}{' idempotent' if idempotent else ''}"
            made.append({
                "name": label, "kind": "produce", "topic": f"{client.name}-{label.replace(' ', '-').replace('=', '-')}",
                "partitions": cases.PARTITIONS, "records": cases.RECORDS, "base_timestamp": base_timestamp,
                "codec": codec, "acks": acks, "idempotent": idempotent, "timestamps": client.own_timestamps,
            })
    return made


def check_codecs(client: Client, bootstrap: str, produced: list[dict], title: str) -> int:
    """The client has compressed as it was told: what lies in the topics has the codec; the number of failures."""
    failures = 0
    with wire.Connection(bootstrap) as connection:
        for codec in client.codecs:
            found = {ALL_CODECS[batch[22] & 7] for case in produced if case.get("codec") == codec for batch in first_batches(connection, case)}
            # Some send a batch plain that compression makes no smaller, such as one that left with few records.
            is_right = codec in found and found <= {codec, "none"} if client.may_send_plain else found == {codec}
            failures += not is_right
            print(f"{'pass' if is_right else 'FAIL'} {title} stores {codec} as {', '.join(sorted(found))}", flush=True)
    return failures


def first_batches(connection, case: dict):
    """The first batch of each partition of the case's topic."""
    answer = connection.ask("Fetch", 12, {"ReplicaId": -1, "MaxWaitMs": 0, "MinBytes": 0, "MaxBytes": 1 << 26, "Topics": [
        {"Topic": case["topic"], "Partitions": [{"Partition": p, "FetchOffset": 0, "PartitionMaxBytes": 1} for p in range(case["partitions"])]}]})
    return [partition["Records"] for partition in answer["Responses"][0]["Partitions"] if partition["Records"]]


def run(client: Client, bootstrap: str, todo: list[dict], title: str) -> int:
    """Runs the cases through one process of the client; the number of failures."""
    started = time.monotonic()
    lines = "".join(json.dumps(case) + "\n" for case in todo)
    try:
        done = subprocess.run([*client.command, bootstrap], input=lines, capture_output=True, text=True,
                              timeout=CLIENT_DEADLINE_SECONDS, errors="replace")
        output, trouble = done.stdout, done.stderr[-2000:] if done.returncode else ""
    except subprocess.TimeoutExpired as expired:
        output, trouble = (expired.stdout or b"").decode(errors="replace"), "timed out"
    except OSError as error:
        output, trouble = "", str(error)
    failures = 0
    answers = [line for line in output.splitlines() if line.startswith(("pass ", "FAIL "))]
    for position, case in enumerate(todo):
        answer = answers[position] if position < len(answers) else f"FAIL {case['name']}: no answer {trouble}"
        verdict, _, rest = answer.partition(" ")
        failures += verdict == "FAIL"
        print(f"{verdict} {title} {rest}", flush=True)
    print(f"     {title}: {time.monotonic() - started:.1f} s", flush=True)
    return failures


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("kind", choices=["coati", "kafka"])
    arguments.add_argument("--cores", type=int)
    arguments.add_argument("--client", nargs="*", default=[client.name for client in CLIENTS])
    options = arguments.parse_args()
    chosen = [client for client in CLIENTS if client.name in options.client]
    base_timestamp = int(time.time() * 1000) - 3_600_000
    label = options.kind + (f"/{options.cores} cores" if options.cores else "")
    with broker.Broker(options.kind, {"num.partitions": str(cases.PARTITIONS)}, options.cores) as server:
        produced = {client.name: produce_cases(client, base_timestamp) for client in chosen}
        cases.create_topics(server.bootstrap, [c["topic"] for made in produced.values() for c in made if c["kind"] == "produce"])

        def produce(client: Client) -> int:
            title = f"{label} {client.name}"
            return run(client, server.bootstrap, produced[client.name], title) + check_codecs(client, server.bootstrap, produced[client.name], title)

        def read(reader: Client) -> int:
            others = [case | {"kind": "verify", "name": f"reads {client.name}'s {case['codec']}"}
                      for client in chosen if client is not reader for case in produced[client.name]
                      if case.get("acks") == "all" and case["idempotent"] and case["codec"] in reader.codecs]
            return run(reader, server.bootstrap, others, f"{label} {reader.name}") if others else 0

        with concurrent.futures.ThreadPoolExecutor(CLIENTS_AT_ONCE) as pool:
            failures = sum(pool.map(produce, chosen))
            failures += sum(pool.map(read, chosen))
        if failures:
            print(server.log()[-3000:])
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
