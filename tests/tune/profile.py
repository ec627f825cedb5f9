#!/usr/bin/env python3
"""Profiles on this machine: what `coati tune profile` writes starts a broker, each core does what it is for, data outlive crashes
between profiles with other cores and roles, and what cannot be is refused by name and line. Prints `pass NAME` or `FAIL NAME`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "lib")]
import broker

DEADLINE_SECONDS = 60
CPUS = sorted(os.sched_getaffinity(0))
ALL = ("network", "partitions", "background", "controller")
TOPIC, PARTITIONS = "orders", 6
MIB = 1 << 20


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def core(cpu, *roles, **keys):
    lines = [f"cpu = {cpu}", f"roles = {json.dumps(list(roles))}", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    return "[[core]]\n" + "\n".join(lines) + "\n"


def coati(*words, stdin="", code=0):
    ran = subprocess.run([str(broker.COATI), *map(str, words)], input=stdin, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    expect(ran.returncode == code, ran)
    return ran


def pinned(task):
    """The CPUs that a thread may run on, as a list."""
    status = (task / "status").read_text()
    return next(line.split()[1] for line in status.splitlines() if line.startswith("Cpus_allowed_list"))


class Broker(broker.Broker):
    """One with a profile."""

    def __init__(self, profile, **others):
        super().__init__("coati", **others)
        self.admin = broker.free_port()
        self.settings["admin.listener"] = f"127.0.0.1:{self.admin}"
        self.use(profile)

    def use(self, profile):
        """From the next start on."""
        self.profile = self.directory / "profile.toml"
        self.profile.write_text(profile)

    def coati_command(self):
        return [*super().coati_command(), "--profile", str(self.profile)]

    def each_core(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/debug/watch", timeout=DEADLINE_SECONDS) as answer:
            return json.load(answer)["cores"]

    def limit(self, of_core, name):
        queue = next(queue for queue in self.each_core()[of_core]["queues"] if queue["queue"] == name)
        return queue["limit"]

    def threads(self):
        """By the shards' numbers: what the kernel says of each."""
        found = {}
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        for task in sorted(tasks, key=lambda task: int(task.name)):
            try:
                comm = (task / "comm").read_text()
            except OSError:
                continue  # A worker of the kernel's that has ended meanwhile.
            # Behind its number comes that of its executor, which has a later helper of the same name.
            name = re.fullmatch(r"shard-(\d+)-\d+", comm.strip())
            if name:
                found.setdefault(int(name[1]), task)
        return found

    def pinned_to(self, shard):
        return pinned(self.threads()[shard])

    def ticks(self, shard):
        """CPU time that a shard's thread has used so far, in hundredths of a second."""
        fields = (self.threads()[shard] / "stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def produce(self, values):
        lines = "".join(f"{value}:{value}\n" for value in values)
        coati("produce", TOPIC, "--key-separator", ":", "-q", "-b", self.bootstrap, stdin=lines)

    def consume(self, *words):
        return sorted(coati("consume", TOPIC, "-b", self.bootstrap, *words).stdout.split())

    def make_topic(self):
        coati("topic", "create", TOPIC, "--partitions", PARTITIONS, "-b", self.bootstrap)


def the_chosen_one_starts(folder):
    for preset in ([], ["--preset", "throughput"], ["--preset", "latency"], ["--preset", "shared"]):
        file = folder / f"{'-'.join(preset) or 'chosen'}.toml"
        told = coati("tune", "profile", *preset, "--output", file).stdout
        expect(f"coati start --profile {file}" in told, told)
        with Broker(file.read_text()) as server:
            for number in range(len(server.threads())):
                line = f"core {number} on CPU {server.pinned_to(number)}"
                expect(line in server.log(), f"{line} is not in\n{server.log()}")
            server.make_topic()
            server.produce(range(100))
            expect(len(server.consume("--from-beginning", "--count", 100)) == 100, "records are missing")
            expect(server.stop() == 0, server.log())
    text = file.read_text()
    error = coati("tune", "profile", "--output", file, code=1).stderr
    expect("is there already" in error and file.read_text() == text, error)


def the_disks_figures_are_used(folder):
    figures = folder / "disk.json"
    coati("tune", "disk", folder, "--seconds", "2", "--size", "64MiB", f"--json={figures}")
    text = coati("tune", "profile", "--preset", "throughput", "--disk", figures, "--output", "-").stdout
    expect("in flight are enough for this disk" in text, text)


def each_core_does_what_it_is_for(folder):
    first, second = CPUS[:2]
    profile = 'connections = "least"\n' + core(
        first, "network", network_bytes=60 * MIB, preempt_us=200, read_ahead_bytes=64 << 10,
    ) + core(
        second, "partitions", "background", "controller", stay_awake=True, tail_cache_bytes=32 * MIB, write_bytes=4 * MIB, write_depth=4, cleaner_percent=5,
    )
    with Broker(profile, directory=folder) as server:
        server.make_topic()
        server.produce(range(1000))
        expect(len(server.consume("--from-beginning", "--count", 1000)) == 1000, "records are missing")
        # The one that leads is the first, whichever CPU it is on.
        expect([server.pinned_to(shard) for shard in (0, 1)] == [str(second), str(first)], server.threads())
        expect([one["partitions"] for one in server.each_core()] == [PARTITIONS, 0], server.each_core())
        client = subprocess.Popen([str(broker.COATI), "consume", TOPIC, "--from-beginning", "-b", server.bootstrap], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            expect(client.stdout.readline(), "nothing is read")
            connections = [one["connections"] for one in server.each_core()]
            expect(connections[0] == 0 and connections[1] > 0, connections)
        finally:
            client.kill()
            client.communicate()
        limits = {name: [server.limit(shard, name) for shard in (0, 1)] for name in ("tail cache", "request memory", "response memory")}
        expect(limits["tail cache"][0] == 32 * MIB, limits)
        expect((limits["request memory"][1], limits["response memory"][1]) == (40 * MIB, 20 * MIB), limits)
        before = [server.ticks(shard) for shard in (0, 1)]
        spent = [0, 0]
        # Until the one that stays awake has used half a second, in which the other slept.
        deadline = time.monotonic() + DEADLINE_SECONDS
        while spent[0] < 50:
            expect(time.monotonic() < deadline, f"the one that stays awake sleeps: {spent}")
            time.sleep(0.02)
            spent = [server.ticks(shard) - at for shard, at in zip((0, 1), before)]
        expect(spent[1] < 25, f"hundredths of a second of CPU time: {spent}")
        expect(f"core 0 on CPU {second}: partitions, background, controller; turns of 500 us, stays awake; 32 MiB of tail cache, up to 4 writes of 4096 KiB at a time, compaction up to 5 %" in server.log(), server.log())
        expect(f"core 1 on CPU {first}: network; turns of 200 us; 40 MiB for requests, 20 MiB for answers, cold reads of 64 KiB" in server.log(), server.log())
        expect(server.stop() == 0, server.log())


def connections_go_where_their_records_are(folder):
    """Six producers of one partition begin on both cores, and end on its own; nothing of what they write is lost or changes places."""
    profile = 'connections = "partitions"\n' + core(CPUS[0], *ALL) + core(CPUS[1], *ALL[:2])
    with Broker(profile, directory=folder) as server:
        server.make_topic()
        command = [str(broker.COATI), "produce", TOPIC, "--partition", "0", "-q", "-b", server.bootstrap]
        producers = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(6)]
        try:
            written = 0
            deadline = time.monotonic() + DEADLINE_SECONDS
            # All have the connection that they begin with: one dealt out when others have moved would be on the emptier core.
            while sum(one["connections"] for one in server.each_core()) < len(producers):
                expect(time.monotonic() < deadline, f"connections of the cores: {server.each_core()}")
                time.sleep(0.02)
            while True:
                for number, producer in enumerate(producers):
                    producer.stdin.write(f"{number}:{written}\n".encode())
                    producer.stdin.flush()
                written += 1
                if written % 20 == 0:
                    connections = sorted(one["connections"] for one in server.each_core())
                    if connections[1] >= connections[0] + len(producers):
                        break
                    expect(time.monotonic() < deadline, f"connections of the cores: {connections}, after {written} records each")
            for producer in producers:
                producer.stdin.close()
                expect(producer.wait(DEADLINE_SECONDS) == 0, "a producer has failed")
        finally:
            for producer in producers:
                producer.kill()
        values = coati("consume", TOPIC, "--partition", "0", "--from-beginning", "--exit", "-b", server.bootstrap).stdout.split()
        for number in range(len(producers)):
            own = [int(value.split(":")[1]) for value in values if value.startswith(f"{number}:")]
            expect(own == list(range(written)), f"producer {number}: {own}")


def settings_that_are_given_win(folder):
    settings = {"log.tail.cache.bytes": 64 * MIB, "queued.max.request.bytes": 200 * MIB}
    profile = "".join(core(cpu, *roles, tail_cache_bytes=16 * MIB, network_bytes=30 * MIB) for cpu, roles in zip(CPUS, (ALL, ALL[:2])))
    with Broker(profile, directory=folder, settings=settings) as server:
        limits = [(server.limit(shard, "tail cache"), server.limit(shard, "request memory"), server.limit(shard, "response memory")) for shard in (0, 1)]
        expect(limits == [(32 * MIB, 100 * MIB, 10 * MIB)] * 2, limits)


def memory_comes_from_its_node(folder):
    nodes = Path("/sys/devices/system/node")
    if not (nodes / f"node0/cpu{CPUS[0]}").exists():
        return
    with Broker(core(CPUS[0], *ALL, node=0), directory=folder) as server:
        maps = (server.threads()[0] / "numa_maps")
        told = maps.read_text() if maps.exists() else "prefer"
        expect("prefer" in told or "memory comes from any node" in server.log(), told)


def crashes_between_profiles_lose_nothing(folder):
    first, second = CPUS[:2]
    profiles = [
        core(first, *ALL) + core(second, *ALL[:2]),
        # Roles apart: every partition moves to one core.
        core(first, "network") + core(second, "partitions", "background", "controller"),
        # The other way round, and the controller elsewhere.
        core(first, "partitions", "background") + core(second, "network", "controller"),
        # One core, the other left free.
        core(second, *ALL) + core(first),
        core(second, *ALL) + core(first, *ALL[:2]),
        # Nobody but the controller on one: all that is left on the other.
        core(first, "background", "controller") + core(second, "network", "partitions"),
    ]
    values = iter(range(1_000_000))
    written, read = [], []
    journals = 0
    with Broker(profiles[0], directory=folder) as server:
        server.make_topic()
        for number, profile in enumerate([*profiles, *profiles]):
            if number:
                server.use(profile)
                server.start()
            expect(server.consume("--from-beginning", "--exit") == sorted(map(str, written)) if written else True, f"profile {number} has lost some")
            for _ in range(5):
                some = [next(values) for _ in range(40)]
                server.produce(some)
                written += some
            # What a group has committed is known to whichever core its coordinator is on.
            words = ("--group", "readers", "--from-beginning", "--count", len(written) - len(read))
            read += server.consume(*words)
            expect(sorted(read) == sorted(map(str, written)), f"profile {number}: the group has read others than are new")
            server.kill()
            journals += len(list(server.data.glob("coati-journal.*")))
        expect(journals > len(profiles), f"{journals} journals in all: nothing was to be recovered")
        server.start()
        expect(server.consume("--from-beginning", "--exit") == sorted(map(str, written)), "the last has lost some")
        expect(server.stop() == 0, server.log())
        expect(not list(server.data.glob("coati-journal.*")), "a clean stop leaves a journal")


def what_cannot_be_is_refused(folder):
    first, second = CPUS[:2]
    missing = max(CPUS) + 1000
    good = core(first, *ALL)
    file = folder / "bad.toml"

    def refused(profile, said, *words):
        file.write_text(profile)
        error = coati("start", "--data-dir", folder / "data", "--listen", "127.0.0.1:0", "--admin", "off", "--profile", file, *words, code=1).stderr
        expect(said in error and str(folder / "data") not in error, error)
        expect(not (folder / "data").exists(), "a data folder was made")

    refused("preset = fast\n", f"{file}, line 1: this is no TOML: ")
    refused("[[core]]\ncpu = 0\ncpu = 1\n", f"{file}, line 3: this is no TOML: ")
    refused(good + "tail_cache = 1\n", f"{file}, line 4, tail_cache: there is no such key; there are cpu, node, roles,")
    refused("colour = 1\n" + good, f"{file}, line 1, colour: there is no such key; there are preset, connections, irq_free_cpus, [[core]]")
    refused(core(missing, *ALL), f"{file}, line 2, cpu: there is no CPU {missing}: this machine has ")
    refused(good + core(first, *ALL[:2]), f"{file}, line 5, cpu: two shards on CPU {first}: each core needs one of its own")
    for role in ALL:
        refused(core(first, *(one for one in ALL if one != role)), f"{file}, line 1, roles: no core has the role {role}")
    refused(good + core(second, "controller"), f"{file}, line 6, roles: one core alone has the role controller")
    refused(good + "write_depth = 100\n", f"{file}, line 4, write_depth: 100 is out of bounds: it goes from 1 to 16")
    refused(good + "tail_cache_bytes = 274877906944\n", f"{file}, line 4, tail_cache_bytes: the budgets of all cores come to 274877906944 bytes")
    refused(core(first, "background", "controller", write_depth=2) + core(second, *ALL[:2]), f"{file}, line 4, write_depth: it means nothing for a core without the role partitions")
    refused('preset = "shared"\n' + core(first, *ALL, stay_awake=True), f"{file}, line 5, stay_awake: with the preset shared no core stays awake")
    refused(good + "node = 1000\n", f"{file}, line 4, node: CPU {first} is beside memory node")
    refused(f"irq_free_cpus = [{missing}]\n" + good, f"{file}, line 1, irq_free_cpus: there is no CPU {missing}")
    refused(good, "--profile and --cores 1 contradict each other", "--cores", "1")
    refused(good, "--profile and --cores 1 contradict each other", "-o", "cores=1")
    error = coati("start", "--data-dir", folder / "data", "--profile", folder / "none.toml", code=1).stderr
    expect(f"cannot read {folder / 'none.toml'}: " in error, error)
    one = ["taskset", "-c", str(first)]
    file.write_text(core(second, *ALL))
    ran = subprocess.run([*one, str(broker.COATI), "start", "--data-dir", folder / "data", "--profile", file], capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    expect(ran.returncode == 1 and f"line 2, cpu: this process may not run on CPU {second}, only on {first} (cpuset, affinity)" in ran.stderr, ran)


def main():
    only = sys.argv[1:]
    failed = 0
    for check in (
        the_chosen_one_starts,
        the_disks_figures_are_used,
        each_core_does_what_it_is_for,
        connections_go_where_their_records_are,
        settings_that_are_given_win,
        memory_comes_from_its_node,
        crashes_between_profiles_lose_nothing,
        what_cannot_be_is_refused,
    ):
        name = check.__name__
        if only and name not in only:
            continue
        try:
            # Beside the binary: /tmp may be memory.
            with tempfile.TemporaryDirectory(dir=broker.ROOT / "target") as folder:
                check(Path(folder))
            print(f"pass profiles: {name.replace('_', ' ')}", flush=True)
        except Exception as error:  # Whatever goes wrong is a failure of its check.
            failed += 1
            print(f"FAIL profiles: {name.replace('_', ' ')}: {error!r}"[:3000], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
