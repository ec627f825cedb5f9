#!/usr/bin/env python3
"""`coati tune` on the machine that this runs on: checks, dry runs, and what root may not do. What it really writes are
settings of a network namespace and of a disk of its own, which nobody else sees. Prints `pass NAME` or `FAIL NAME`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COATI = os.environ.get("COATI_BIN", ROOT / "target/release/coati")
# Owned by whoever owns the namespace.
IDLE = Path("/proc/sys/net/ipv4/tcp_slow_start_after_idle")
BUFFERS = Path("/proc/sys/net/ipv4/tcp_rmem")
NOBODY = "65534"

failed = 0


def verdict(name, holds, shown=""):
    global failed
    if holds:
        print(f"pass {name}", flush=True)
    else:
        failed += 1
        print(f"{shown}\nFAIL {name}", flush=True)


def run(*words, by=()):
    line = [*map(str, by), str(COATI), "tune", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def writable():
    """All that a tuner could have written."""
    values = {}
    for folder, pattern in (
        ("/proc/sys/vm", "*"),
        ("/proc/sys/fs", "*-max*"),
        ("/proc/sys/net/core", "*"),
        ("/proc/sys/net/ipv4", "tcp_*"),
        ("/proc/irq", "*/smp_affinity_list"),
        ("/sys/block", "*/queue/*"),
        ("/sys/kernel/mm/transparent_hugepage", "*"),
    ):
        for path in Path(folder).glob(pattern):
            if not path.is_file() or path.name in ("stat_refresh", "tcp_fastopen_key"):
                continue
            try:
                values[str(path)] = path.read_text()
            except OSError:
                pass
    return values


def checks(folder):
    before = writable()
    table = run("check", "--data-dir", folder)
    report = run("check", "--data-dir", folder, "--json")
    rows = json.loads(report.stdout)["rows"]
    by_name = {row["name"]: row for row in rows}
    verdict("tune: a check runs", table.returncode in (0, 3, 4) and not table.stderr, table.stdout + table.stderr)
    verdict("tune: the table shows every row", all(row["name"] in table.stdout for row in rows), table.stdout)
    worst = {row["verdict"] for row in rows}
    expected = 4 if "critical" in worst else 3 if "warning" in worst else 0
    verdict("tune: the exit status is the worst row's", table.returncode == report.returncode == expected, report.stdout)
    kernel = by_name["kernel-version"]
    verdict("tune: it is this kernel", kernel["has"] == os.uname().release, kernel)
    ring = by_name["io-uring-features"]
    verdict("tune: the kernel tells of its io_uring", ring["verdict"] in ("good", "hint"), ring)
    names = list(by_name)
    state = Path(folder) / "tune.json"
    dry = run("apply", "--dry-run", "--state", state, "--data-dir", folder, *names)
    paths = [change["path"] for row in rows for change in row["changes"] if change["to"] is not None]
    verdict("tune: a dry run says what it would write", dry.returncode == 0 and all(path in dry.stdout for path in paths), dry.stdout + dry.stderr)
    verdict("tune: no check and no dry run has written", writable() == before and not state.exists())
    undo = run("undo", "--state", state)
    verdict("tune: nothing is undone where nothing was applied", undo.returncode == 0 and "nothing to undo" in undo.stdout, undo.stdout + undo.stderr)
    nowhere = run("check", "--data-dir", "/proc/no/such/folder")
    verdict("tune: a data folder on no disk is no failure", nowhere.returncode in (0, 3, 4), nowhere.stdout + nowhere.stderr)


def applies(folder):
    """In a network namespace of its own."""
    state = Path(folder) / "tune.json"
    IDLE.write_text("1")
    BUFFERS.write_text("4096 87380 1048576")
    names = ["tcp-idle", "tcp-buffers"]
    others = {path: text for path, text in writable().items() if "/net/" not in path}
    applied = run("apply", *names, "--state", state)
    values = (IDLE.read_text().split(), BUFFERS.read_text().split())
    verdict("tune: an apply writes for real", applied.returncode == 0 and values == (["0"], ["4096", "87380", "16777216"]), f"{applied} {values}")
    kept = state.read_text()
    again = run("apply", *names, "--state", state)
    verdict("tune: applying again changes nothing", again.returncode == 0 and "nothing to write" in again.stdout and state.read_text() == kept, again)
    IDLE.write_text("1")
    BUFFERS.write_text("4096 87380 2097152")
    undone = run("undo", "--state", state)
    verdict("tune: what somebody has changed since is left and told", undone.returncode == 1 and "somebody has changed it" in undone.stdout and BUFFERS.read_text().split()[2] == "2097152", undone)
    undone = run("undo", "--force", "--state", state)
    values = (IDLE.read_text().split(), BUFFERS.read_text().split())
    verdict("tune: an undo brings back what was there", undone.returncode == 0 and values == (["1"], ["4096", "87380", "1048576"]) and not state.exists(), f"{undone} {values}")
    verdict("tune: nothing else has changed", {path: text for path, text in writable().items() if "/net/" not in path} == others)


def refusals(folder):
    """In a network namespace, as somebody who is not root."""
    by = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.getuid() == 0 else []
    mine = Path(folder) / "nobody"
    mine.mkdir()
    if by:
        os.chown(mine, int(NOBODY), int(NOBODY))
    refused = run("apply", "tcp-idle", "--state", mine / "tune.json", by=by)
    verdict("tune: without root it names the entry that it may not write", refused.returncode == 1 and str(IDLE) in refused.stdout and "needs root" in refused.stdout and not (mine / "tune.json").exists(), refused)
    refused = run("apply", "tcp-idle", "--state", "/proc/tune.json", by=by)
    verdict("tune: without a state file it names that, and writes nothing", refused.returncode == 1 and "/proc/tune.json" in refused.stderr and IDLE.read_text().split() == ["1"], refused)


def queue(folder):
    """The queue of a disk that is a file: nobody else's. Its scheduler takes its settings along when it goes."""

    def call(*words):
        return subprocess.run([*map(str, words)], check=True, capture_output=True, text=True).stdout.strip()

    image, mount, state = Path(folder) / "disk", Path(folder) / "mount", Path(folder) / "queue.json"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    call("mkfs.ext4", "-q", image)
    device = call("losetup", "--find", "--show", image)
    settings = Path("/sys/block") / Path(device).name / "queue"
    try:
        call("mount", device, mount)
        (settings / "scheduler").write_text("mq-deadline")
        (settings / "nr_requests").write_text("96")
        (settings / "iosched/read_expire").write_text("250")
        before = {path.name: path.read_text() for path in [settings / "scheduler", settings / "nr_requests", *settings.glob("iosched/*")]}
        applied = run("apply", "disk-scheduler", "--data-dir", mount, "--state", state)
        chosen = (settings / "scheduler").read_text()
        verdict("tune: a disk's scheduler is changed for real", applied.returncode == 0 and "[none]" in chosen, f"{applied} {chosen}")
        undone = run("undo", "--state", state)
        after = {path.name: path.read_text() for path in [settings / "scheduler", settings / "nr_requests", *settings.glob("iosched/*")]}
        verdict("tune: it comes back with all its settings", undone.returncode == 0 and after == before and not state.exists(), f"{undone} {before} {after}")
    finally:
        subprocess.run(["umount", mount], check=False, capture_output=True)
        subprocess.run(["losetup", "--detach", device], check=False)


def units(folder):
    """As systemd reads them."""
    place = Path(folder) / "units"
    (place / "coati.service.d").mkdir(parents=True)
    user = ["--user", "daemon"]
    (place / "coati.service").write_text(run("systemd", "--part", "unit", *user).stdout)
    (place / "coati.service.d/tune.conf").write_text(run("systemd", "swappiness", "--part", "drop-in", *user).stdout)
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{place}:"}
    checked = subprocess.run(["systemd-analyze", "verify", "--man=no", place / "coati.service"], capture_output=True, text=True, env=environment)
    ours = [line for line in checked.stderr.splitlines() if "coati" in line or "tune.conf" in line]
    verdict("tune: systemd accepts the unit and the drop-in", checked.returncode == 0 and not ours, checked)


def main():
    if sys.argv[1:2] == ["inside"]:
        folder = sys.argv[2]
        applies(folder)
        IDLE.write_text("1")
        refusals(folder)
        sys.exit(failed > 0)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        # Somebody who is not root may run this one.
        shutil.copy(COATI, f"{folder}/coati")
        os.environ["COATI_BIN"] = f"{folder}/coati"
        checks(folder)
        units(folder)
        # Nobody else may make disks.
        if os.getuid() == 0:
            queue(folder)
        own = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
        inside = subprocess.run(["unshare", *own, "--net", sys.executable, __file__, "inside", folder])
        sys.exit(failed > 0 or inside.returncode != 0)


main()
