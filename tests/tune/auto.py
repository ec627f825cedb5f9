#!/usr/bin/env python3
"""`coati tune auto` of the release binary, with a few keys and seconds: that it tries, decides and writes, and that it leaves nothing,
however it ends. Prints `pass NAME` or `FAIL NAME`.
"""

import json
import pathlib
import signal
import subprocess
import sys
import tempfile

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS / "lib"))
import broker

DEADLINE_SECONDS = 120
OURS = "coati-tune-auto"
# Small, so that seconds are enough for it.
WORKLOAD = """
name = "small"
partitionsPerTopic = 2
messageSize = 1000
producerRate = 2000
lingerMs = 0.0
acks = "all"
testDurationMinutes = 1
[tune]
goal = "p99"
worse = { cpu = 1.0 }
"""
KEYS = ["write_depth", "preempt_us"]
SHORT = ["--minutes", "0.5", "--seconds", "0.4", "--warm-up", "0.1", "--keys", ",".join(KEYS)]
LONG = ["--minutes", "10", "--seconds", "1"]


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def command(folder, *words):
    workload = folder / "workload.toml"
    if not workload.exists():
        workload.write_text(WORKLOAD)
    return [str(broker.COATI), "tune", "auto", str(workload), "--scratch", str(folder), *map(str, words)]


def run(folder, *words):
    return subprocess.run(command(folder, *words), capture_output=True, text=True, timeout=DEADLINE_SECONDS, cwd=folder)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def brokers_in(folder):
    """Processes that were started with something of the folder."""
    found = []
    for process in pathlib.Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if process.name.isdigit() and f"{folder}/{OURS}".encode() in words:
            found.append(process.name)
    return found


def searches_and_writes_a_profile(folder):
    (folder / "precious").write_text("data")
    ran = run(folder, *SHORT, "--json")
    expect(ran.returncode == 0, ran)
    report = json.loads(ran.stdout)
    expect(report["aim"] == {"goal": "p99", "worse": {"throughput": 0.2, "p99": 0.2, "cpu": 1.0}}, report["aim"])
    trials, verdicts = report["trials"], report["verdicts"]
    for trial in trials:
        measured = trial["measured"]
        expect(measured and measured["mb_per_second"] > 0 and measured["p99_ms"] > 0 and measured["cpu_seconds_per_gb"] > 0, trial)
    # Candidates come between trials of the best.
    purposes = [trial["purpose"] for trial in trials]
    expect(purposes[:4] == ["noise"] * 4 and "candidate" in purposes, purposes)
    for before, purpose, after in zip(purposes, purposes[1:], purposes[2:]):
        expect(purpose != "candidate" or (before in ("noise", "best") and after == "best"), purposes)
    expect(verdicts, "nothing was decided")
    for verdict in verdicts:
        expect(verdict["confirming"] or verdict["change"].split()[0] in KEYS, verdict)
        expect("p99" in verdict["says"] and ("noise" in verdict["says"] or not verdict["comparisons"]), verdict)
    result = report["result"]
    expect(result["ended"] in ("tried", "out of time"), result)
    confirmed = [verdict for verdict in verdicts if verdict["confirming"] and verdict["kept"]]
    expect(bool(result["changes"]) == bool(confirmed), f"{result['says']}, of {verdicts}")
    expect((folder / "profile.toml").read_text() == result["profile"], "another profile is written")
    expect(left(folder) == ["precious", "profile.toml", "workload.toml"] and not brokers_in(folder), left(folder))

    # What is there stays there.
    refused = run(folder, *SHORT)
    expect(refused.returncode == 1 and "profile.toml is there already" in refused.stderr and "--overwrite" in refused.stderr, refused)
    ran = run(folder, *SHORT[:-2], "--keys", "write_depth", "--profile", "profile.toml", "--overwrite")
    expect(ran.returncode == 0 and "coati start --profile profile.toml" in ran.stdout, ran)
    head, *lines = [line for line in ran.stdout.splitlines() if line.startswith(("trial", "    "))]
    expect(head.split() == ["trial", "purpose", "MB/s", "p99", "ms", "CPU", "s/GB"] and len(lines) >= 6, ran.stdout)


def takes_the_profile_that_it_wrote(folder):
    ran = run(folder, *SHORT[:-2], "--keys", "write_depth")
    expect(ran.returncode == 0, ran)
    port = broker.free_port()
    process = subprocess.Popen([str(broker.COATI), "start", "--profile", "profile.toml", "--data-dir", "data", "--listen", f"127.0.0.1:{port}", "--admin", "off"],
                               cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        said = ""
        for line in process.stderr:
            said += line
            if broker.START_LINE in line:
                break
        else:
            raise AssertionError(f"a broker does not take it: {said}")
        process.send_signal(signal.SIGTERM)
        expect(process.wait(DEADLINE_SECONDS) == 0, "it does not stop")
    finally:
        process.kill()
        process.communicate()


def a_signal_ends_it_and_leaves_nothing(folder):
    (folder / "precious").write_text("data")
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(command(folder, *LONG), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            for line in process.stdout:
                if line.split()[1:2] == ["noise"]:
                    break
            else:
                raise AssertionError(f"it ended early: {process.stderr.read()}")
            process.send_signal(number)
            told, _ = process.communicate(timeout=DEADLINE_SECONDS)
            expect(process.returncode == 130, f"exit {process.returncode}")
            expect("Interrupted before the end." in told, told)
        finally:
            process.kill()
            process.communicate()
        expect(left(folder) == ["precious", "workload.toml"] and not brokers_in(folder), left(folder))


def what_a_killed_one_leaves_the_next_one_removes(folder):
    data = folder / OURS / "data" / "topic-0"
    data.mkdir(parents=True)
    (data / "00000000000000000000.log").write_bytes(bytes(1 << 20))
    ran = run(folder, *SHORT)
    expect(ran.returncode == 1 and data.exists() and "this command has not made" in ran.stderr, ran)
    (folder / OURS / "made-by-coati-tune-auto").write_text("")
    ran = run(folder, "--minutes", "0.1", "--seconds", "30")
    expect(ran.returncode == 1 and data.exists(), "it is removed before anything else is looked at")
    ran = run(folder, *SHORT[:-2], "--keys", "write_depth")
    expect(ran.returncode == 0 and "1 MiB" in ran.stderr, ran)
    expect(left(folder) == ["profile.toml", "workload.toml"], left(folder))


def says_what_is_wrong(folder):
    def told(*words, code=1):
        ran = run(folder, *words)
        expect(ran.returncode == code and not ran.stdout, ran)
        return ran.stderr

    workload = folder / "workload.toml"
    workload.write_text("producerRate = 5.0\n")
    expect("--goal" in told(), "without a goal")
    expect("at a rate" in told("--goal", "throughput"), "a goal that cannot be had")
    expect("size" in told("--goal", "size", code=2), "an unknown goal")
    workload.write_text("messageSice = 5\n")
    expect("messageSice" in told("--goal", "p99"), "an unknown field")
    workload.write_text(WORKLOAD)
    expect("there are start, cores" in told("--keys", "write_dept"), "an unknown key")
    expect("are the fewest" in told("--minutes", "1", "--seconds", "30"), "too little time")
    expect("may run on" in told("--bench-cpu", "4095"), "no such CPU")
    expect("missing.toml" in told("--profile", "missing.toml"), "no such profile")
    (folder / "bad.toml").write_text("connections = 5\n")
    expect("line 1, connections" in told("--profile", "bad.toml"), "no profile")
    ran = subprocess.run([str(broker.COATI), "tune", "auto", str(workload), "--scratch", str(folder / "none")], capture_output=True, text=True, cwd=folder)
    expect(ran.returncode == 1 and "is not there" in ran.stderr, ran)
    ran = run(folder, "-o", "no.such.setting=1", *SHORT)
    expect(ran.returncode == 1 and "what it begins with does not work" in ran.stderr and "no.such.setting" in ran.stderr, ran)
    (folder / "meta.properties").write_text("")
    expect("is the data folder of a broker" in told(), "a broker's data")
    expect(OURS not in left(folder) and "profile.toml" not in left(folder), left(folder))


CHECKS = [says_what_is_wrong, searches_and_writes_a_profile, takes_the_profile_that_it_wrote, a_signal_ends_it_and_leaves_nothing,
          what_a_killed_one_leaves_the_next_one_removes]


def main():
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    failed = 0
    # Trials need a disk: where temporary files are, there may be only memory.
    target = TESTS.parent / "target"
    target.mkdir(exist_ok=True)
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        if only not in name:
            continue
        try:
            with tempfile.TemporaryDirectory(dir=target) as folder:
                check(pathlib.Path(folder))
            print(f"pass tune auto {name}", flush=True)
        except Exception as error:  # Whatever is wrong with an answer is a failure of its check.
            failed += 1
            print(f"FAIL tune auto {name}: {error!r}"[:3000], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
