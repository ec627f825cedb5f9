#!/usr/bin/env python3
"""`coati tune disk` on a disk of this machine, shortly: that it measures, and that it leaves nothing, however it ends. Prints
`pass NAME` or `FAIL NAME`.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "lib"), str(TESTS / "bench")]
import broker
import page as pages

DEADLINE_SECONDS = 60
SHORT = ["--seconds", "2", "--size", "64MiB"]
# Long enough to be ended before.
LONG = ["--seconds", "30", "--size", "64MiB", "--progress"]
OURS = "coati-tune-disk"
STATES = ("growing", "allocated", "zeroed")


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def command(*words):
    return [str(broker.COATI), "tune", "disk", *map(str, words)]


def run(*words):
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=DEADLINE_SECONDS)


def begin(folder):
    """A measurement that has begun with its first appends."""
    process = subprocess.Popen(command(folder, *LONG), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = b""
    while b"at a time" not in said:
        more = process.stderr.read1(4096)
        expect(more, f"it ended early: {said}")
        said += more
    return process


def end(process, number):
    process.send_signal(number)
    try:
        return process.wait(DEADLINE_SECONDS)
    finally:
        process.kill()
        process.communicate()


def measures(folder):
    (folder / "precious").write_text("data")
    before = sorted(folder.iterdir())
    ran = run(folder, *SHORT, "--json")
    expect(ran.returncode == 0, ran)
    report = json.loads(ran.stdout)
    figures = [*report["appends"], *report["reads"], *(part for mixed in report["mixed"] for part in mixed.values())]
    for one in figures:
        expect(one["mb_per_second"] > 0 and one["latency"]["count"] > 0, one)
        expect(0 < one["latency"]["p50"] <= one["latency"]["p99"] <= one["latency"]["max"], one)
    plain = {(one["file"], one["synced"], one["bytes"], one["depth"]) for one in report["appends"] if one["way"] == "plain"}
    for bytes in (4 << 10, 64 << 10, 1 << 20):
        expect({(state, synced, bytes, depth) for state in STATES for synced in (False, True) for depth in (1, 16)} <= plain, plain)
    verdict = report["verdict"]
    expect(verdict["sentences"][0].startswith("acks=all durable: about "), verdict)
    for name in ("durable", "synced_write", "write", "write_saturation", "synced_saturation", "one_reader", "readers"):
        expect(verdict[name]["mb_per_second"] > 0, f"{name}: {verdict}")
    expect(verdict["synced_write"]["p50_ms"] > verdict["write"]["p50_ms"], "a sync costs nothing")
    expect(sorted(folder.iterdir()) == before and (folder / "precious").read_text() == "data", "the folder has changed")
    ran = run(folder, *SHORT)
    expect(ran.returncode == 0 and "acks=all durable: about" in ran.stdout, ran)


class Page(pages.Page):
    """As of a run of `coati bench`: every number and every line must be the report's."""

    def lines_are_the_reports(self):
        self.elements.all, drawn = [one for one in self.elements.all if "data-points" not in one], [one for one in self.elements.all if "data-points" in one]
        super().lines_are_the_reports()
        expect(drawn, "no line is drawn")
        for path in drawn:
            loads = [self.at(place) for place in path["data-points"].split(" ")]
            picture = next(parent for parent in reversed(path["parents"]) if parent["tag"] == "svg")
            places = [[float(number) for number in pair.split(",")] for pair in path["d"][1:].split("L")]
            expect(len(places) == len(loads), f"{path['data-points']}: {len(places)} points drawn")
            for place, load in zip(places, loads):
                measure = load
                for part in path["data-measure"].split("/"):
                    measure = measure[part]
                for axis, (pixel, value) in zip(("data-x", "data-y"), zip(place, (load[path["data-of"]], measure))):
                    expect(abs(pixel - pages.position(picture[axis], value)) < pages.PIXEL, f"{path['data-points']}: {value} drawn at {pixel} of {picture[axis]}")

    def shows_all(self):
        for name, rate in (("appends", None), ("reads", "reads_per_second")):
            for index, one in enumerate(self.report[name]):
                place = f"/{name}/{index}"
                rate_of = rate or ("writes_per_second" if one["way"] == "plain" else "appends_per_second")
                self.shows([f"{place}/{what}" for what in ("mb_per_second", rate_of, "latency/p50", "latency/p99", "latency/max")])
        for index in range(len(self.report["mixed"])):
            self.shows([f"/mixed/{index}/{what}/latency/p99" for what in ("append", "read")])
        self.shows([f"/verdict/{name}" for name in ("durable/mb_per_second", "durable/p99_ms", "synced_write/p50_ms", "one_reader/mb_per_second")])
        text = next(one for one in self.elements.all if one["tag"] == "main")["text"]
        for sentence in [*self.report["verdict"]["sentences"], *self.report["notices"]]:
            expect(sentence in text, f"not said: {sentence}")
        expect(self.report["conditions"]["folder"] in text, "the folder is not told")


def draws_a_page(folder):
    # Whatever a folder is called, it is a text.
    place = folder / "<b>disk</script>"
    place.mkdir(parents=True)
    file = folder / "page.html"
    ran = run(place, *SHORT, "--json", "--html", file)
    expect(ran.returncode == 0, ran)
    report = json.loads(ran.stdout)
    for width in (pages.PHONE, pages.DESKTOP):
        page = Page(file, report, width)
        page.numbers_are_the_reports()
        page.lines_are_the_reports()
        page.shows_all()
        expect(not page.elements.of("b") or all("disk" not in one["text"] for one in page.elements.of("b")), "the folder's name is markup")
    pages.fits(file)


def is_ended_by_signals(folder):
    for number in (signal.SIGINT, signal.SIGTERM):
        code = end(begin(folder), number)
        expect(code == 130, f"exit {code} by {number.name}")
        expect(not list(folder.iterdir()), f"{number.name} leaves {list(folder.iterdir())}")


def removes_what_a_killed_one_left(folder):
    end(begin(folder), signal.SIGKILL)
    expect((folder / OURS / "journal").exists(), "nothing was left")
    ran = run(folder, *SHORT)
    expect(ran.returncode == 0 and "is removed" in ran.stderr, ran)
    expect(not list(folder.iterdir()), "it is still there")


def is_alone(folder):
    first = begin(folder)
    try:
        second = run(folder, *SHORT)
        expect(second.returncode == 1 and "another measurement runs in" in second.stderr, second)
        expect((folder / OURS / "journal").exists(), "the files of the first are gone")
    finally:
        end(first, signal.SIGTERM)


def tells_of_a_broker(folder):
    with broker.Broker("coati", {"admin.listener": "127.0.0.1:0"}, directory=folder) as server:
        for place in (server.data, server.data.parent):
            ran = run(place, *SHORT)
            expect(ran.returncode == 0 and f"a broker runs on {server.data}" in ran.stderr, ran)
            expect(f"Note: a broker runs on {server.data}" in ran.stdout, ran)
        expect(server.stop() == 0, server.log())
    expect("a broker runs" not in run(folder, *SHORT).stderr, "it has ended")


def refuses(folder):
    def refused(what, *words):
        ran = run(*words)
        expect(ran.returncode == 1 and what in ran.stderr and not ran.stdout, ran)

    refused("is not there", folder / "none")
    (folder / "file").write_text("data")
    refused("is not a folder", folder / "file")
    refused("/proc/coati-tune-disk: ", "/proc")
    refused("stay free", folder, "--size", "1000TiB")
    refused("/proc/none: ", folder, "--json=/proc/none")
    (folder / OURS).mkdir()
    (folder / OURS / "notes").write_text("data")
    refused("which this command has not made", folder)
    expect((folder / OURS / "notes").read_text() == "data", "the notes are gone")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        refused("lies in memory", memory)
    expect(run(folder, "--seconds", "1000").returncode == 2, "so many seconds are not taken")


def meets_a_small_disk(folder):
    """One that is a file: it may be filled, and be read alone. Nobody but root may make it."""

    def call(*words):
        return subprocess.run([*map(str, words)], check=True, capture_output=True, text=True).stdout.strip()

    image, mount = folder / "disk", folder / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    call("mkfs.ext4", "-q", image)
    device = call("losetup", "--find", "--show", image)
    try:
        call("mount", device, mount)
        process = begin(mount)
        # Takes what becomes free as long as the measurement needs it.
        with (mount / "filler").open("wb") as filler:
            while process.poll() is None:
                try:
                    os.posix_fallocate(filler.fileno(), 0, os.fstat(filler.fileno()).st_size + (1 << 20))
                except OSError:
                    pass
        said = process.communicate()[1].decode()
        expect(process.returncode == 1 and "the disk has become full" in said, said[-500:])
        expect(not (mount / OURS).exists(), "what was made is not removed")
        call("mount", "-o", "remount,ro", mount)
        ran = run(mount)
        expect(ran.returncode == 1 and "Read-only file system" in ran.stderr, ran)
    finally:
        subprocess.run(["umount", mount], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", device], check=False)


def main():
    checks = [measures, draws_a_page, is_ended_by_signals, removes_what_a_killed_one_left, is_alone, tells_of_a_broker, refuses]
    if os.getuid() == 0:
        checks.append(meets_a_small_disk)
    only = sys.argv[1:]
    failed = 0
    # /tmp may be memory.
    place = broker.ROOT / "target"
    for check in checks:
        name = check.__name__
        if only and name not in only:
            continue
        try:
            with tempfile.TemporaryDirectory(dir=place) as folder:
                check(Path(folder))
            print(f"pass tune disk: {name.replace('_', ' ')}", flush=True)
        except Exception as error:  # Whatever goes wrong is a failure of its check.
            failed += 1
            print(f"FAIL tune disk: {name.replace('_', ' ')}: {error!r}"[:3000], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
