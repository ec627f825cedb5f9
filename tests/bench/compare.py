"""bench/compare-kafka in small: one report of whole rounds, and a Ctrl-C that leaves nothing behind."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKLOADS = ["1-topic-1-partition-1kb", "acks-all-1kb"]
FLUSH_MODES = {"kafka-sync": "flush.messages=1", "coati": "durable: acks=all is on stable storage"}


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def interrupted_in_its_second_round(out: pathlib.Path):
    """Ends it in the second round's last workload; the broker that runs then."""
    command = [str(ROOT / "bench" / "compare-kafka"), "--sides", ",".join(FLUSH_MODES), "--rounds", "2", "--seconds", "0.5",
               "--warm-up", "0.2", "--first-warm-up", "0.4", "--out", str(out), *WORKLOADS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    told, brokers = [], []
    for line in process.stderr:
        told.append(line)
        if f"round 2 of 2: kafka-sync: {WORKLOADS[-1]}" in line:
            brokers = processes_of(out)
            process.send_signal(signal.SIGINT)
    table = process.stdout.read()
    expect(process.wait() == 130, f"exit {process.returncode}:\n{''.join(told)}")
    expect(len(brokers) == 1, f"{brokers} ran at once")
    return table


def processes_of(out: pathlib.Path) -> list[int]:
    """Brokers whose folder is inside `out`."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.readlink(entry / "cwd").startswith(f"{out}/data-"):
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def check(out: pathlib.Path):
    table = interrupted_in_its_second_round(out)
    expect(processes_of(out) == [], "a broker still runs")
    expect(not list(out.glob("data-*")), "a data folder was left")
    report = json.loads((out / "report.json").read_text())
    page = (out / "report.html").read_text()
    embedded = page.split('<script type="application/json" id="report">')[1].split("</script>")[0]
    expect(json.loads(embedded) == report, "the page has other figures than the JSON")
    expect([side["name"] for side in report["sides"]] == list(FLUSH_MODES), report["sides"])
    expect(len(report["workloads"]) == len(WORKLOADS), [compared["workload"]["name"] for compared in report["workloads"]])
    # The round that was interrupted counts for the workload that both had finished: the first side's only was.
    for compared in report["workloads"]:
        expect(len(compared["rounds"]) == 1 + (compared is report["workloads"][0]), len(compared["rounds"]))
        for measured in compared["rounds"]:
            expect([one["flush_mode"] for one in measured] == list(FLUSH_MODES.values()), measured)
            expect(all(one["start"]["seconds"] > 0 and one["start"]["resident_mib"] > 1 for one in measured), measured)
        rows = {row["what"]: row for row in compared["rows"]}
        for what in ("acknowledge p99 ms", "end to end p99 ms", "broker CPU s/GB", "start-up s"):
            expect(len(rows[what]["figures"]) == 2 and what in table, what)


def main():
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
        try:
            check(pathlib.Path(folder) / "out")
        except AssertionError as error:
            print(f"FAIL bench/compare-kafka: {error}"[:3000])
            return 1
    print("pass bench/compare-kafka")
    return 0


if __name__ == "__main__":
    sys.exit(main())
