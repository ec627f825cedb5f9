"""The live view of the release binary in headless Chromium: it shows what is done while it is done, of 10,000 partitions the
busiest, hostile names as the text that they are, and says so when the broker is gone. Looking changes nothing. `coati tune watch`
shows the same in a terminal, and leaves that as it was.

    watch.py [--only TEXT] [--pictures FOLDER]

COATI_BIN names another binary.
"""

import argparse
import fcntl
import http.client
import json
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import urllib.parse

import pyte

HERE = pathlib.Path(__file__).resolve()
sys.path += [str(HERE.parents[1] / "lib"), str(HERE.parents[1] / "compat")]
import broker
import browser
import wire

DEADLINE_SECONDS = 120
PARTITIONS = 10_000
PHONE, DESKTOP = 390, 1280
RATE = 2000
RECORD_BYTES = 1000
PAGE_BYTES_MAX = 64 << 10
HOSTILE = [
    "<script>window.owned = 1</script>", "</title><script>window.owned = 2</script>", "\" onload=\"window.owned = 3",
    "<img src=x onerror=window.owned=4>", "\x1b]0;owned\x07\x1b[2J\x1b[31mred", "\u202egnp.exe", "{{7*7}}${7*7}%00", "'; DROP TABLE x; --",
    "\r\nSet-Cookie: owned=1", "a" * 5000,
]
# What the page makes of a sign that is not to be seen.
UNSEEN = re.compile("[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
PAGES = ["/", "/debug/watch", "/debug/stages", "/debug/stages?buckets", "/metrics", "/healthz", "/readyz"]


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


class Server(broker.Broker):
    """One whose endpoint stays where it is when it is started anew."""

    def __init__(self):
        self.admin = f"127.0.0.1:{broker.free_port()}"
        super().__init__("coati", {"admin.listener": self.admin}, cores=2)

    def ask(self, path, method="GET", headers=None):
        connection = http.client.HTTPConnection(self.admin, timeout=DEADLINE_SECONDS)
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer, body

    def figures(self, **parameters):
        _, body = self.ask(f"/debug/watch?{urllib.parse.urlencode(parameters)}")
        expect(len(body) < PAGE_BYTES_MAX, f"{len(body)} bytes for {parameters}")
        return json.loads(body)

    def url(self):
        return f"http://{self.admin}/"


def coati(server, *arguments):
    command = [str(broker.COATI), *arguments, "-b", server.bootstrap]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    expect(ran.returncode == 0, f"{' '.join(command)}\nexit {ran.returncode}: {ran.stderr[-2000:]}")
    return ran.stdout


def tune_watch(server, *arguments):
    command = [str(broker.COATI), "tune", "watch", "--admin", server.admin, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, stdin=subprocess.DEVNULL)


class Terminal:
    """One with `coati tune watch` in it."""

    def __init__(self, server, columns, lines):
        self.ours, self.theirs = pty.openpty()
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.theirs)
        command = [str(broker.COATI), "tune", "watch", "--admin", server.admin]
        self.process = subprocess.Popen(command, stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, start_new_session=True)
        self.shown = b""

    def resize(self, columns, lines):
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def wait_until(self, holds, what):
        until = time.monotonic() + DEADLINE_SECONDS
        while not holds():
            ready, _, _ = select.select([self.ours], [], [], max(0, until - time.monotonic()))
            expect(ready, f"{what} is not shown:\n" + "\n".join(self.screen.display))
            more = os.read(self.ours, 1 << 16)
            self.shown += more
            self.stream.feed(more)

    def wait_for(self, *wanted):
        """Until all of it is on the screen."""
        self.wait_until(lambda: all(text in "\n".join(self.screen.display) for text in wanted), wanted)

    def press(self, keys):
        os.write(self.ours, keys)

    def is_left_as_it_was(self, code):
        self.wait_until(lambda: LEAVE in self.shown, "leaving")
        expect(self.process.wait(DEADLINE_SECONDS) == code, f"exit {self.process.returncode}: {self.shown[-500:]}")
        expect(termios.tcgetattr(self.theirs) == self.before, "the terminal is not as it was")

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


# To the screen that was there before.
LEAVE = b"\x1b[?1049l"


def rows(page, table):
    return page.value(f"[...document.querySelectorAll('#{table} tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))")


def is_well(page):
    expect(not page.complaints(), f"the page complains: {page.complaints()}")


def figures_of_a_load(server, chromium, pictures):
    coati(server, "topic", "create", "load", "--partitions", "4")
    command = [str(broker.COATI), "bench", "e2e", "--topic", "load", "--rate", str(RATE), "--warm-up", "0", "--seconds", "30", "-b", server.bootstrap]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
        try:
            for width, dark in ((DESKTOP, False), (PHONE, True)):
                page = chromium.open(server.url(), width, dark=dark)
                page.wait_for("figures", "parseFloat(document.querySelector('[data-figure=in]')?.textContent) > 1.5")
                page.wait_for("figures", "parseFloat(document.querySelector('[data-figure=out]').textContent) > 1.5")
                shows_load(page)
                expect(page.value("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0, f"it is wider than {width}")
                if pictures:
                    page.picture(pictures / f"load-{width}.png")
                is_well(page)
            told = server.figures(find="LOAD-")
            expect(told["partitions"]["found"] == 4, f"{told['partitions']}")
            sums = [sum(core[name] for core in told["cores"]) for name in ("bytes_in", "bytes_out", "records_in")]
            expect(0.7 < sums[2] / RATE < 1.4 and sums[0] > sums[2] * RECORD_BYTES, f"{sums}")
            expect(sums[0] * 0.5 < sums[1] < sums[0] * 2, f"what comes in goes out: {sums}")
            for core in told["cores"]:
                expect(abs(sum(core["parts"]) - core["utilisation"]) < 0.02, f"{core['parts']} make {core['utilisation']}")
                expect(0.8 < core["seconds"] < 3, f"a second of {core['seconds']} s")
            expect({"Produce", "Fetch"} <= {latency["name"] for latency in told["requests"]}, f"{told['requests']}")
        finally:
            load.kill()


def shows_load(page):
    shown = rows(page, "partitions")
    expect(sum(float(row[2]) for row in shown) > 1.5 and shown[0][0].startswith("load-"), f"{shown[:5]}")
    expect({"Produce", "Fetch"} <= {row[0] for row in rows(page, "requests")}, f"{rows(page, 'requests')}")
    expect({"decode", "append", "respond"} <= {row[0] for row in rows(page, "stages")}, f"{rows(page, 'stages')}")
    expect(page.value("document.querySelectorAll('.core').length") == 2, "a card a core")
    widths = page.value("[...document.querySelectorAll('.bar')].map((bar) => [...bar.children].reduce((sum, part) => sum + parseFloat(part.style.width), 0))")
    expect(all(width > 0 for width in widths), f"bars of {widths}")
    expect(page.value("document.querySelectorAll('.plot path').length") == 4, "four lines are drawn")
    client = next(row for row in rows(page, "clients") if row[0] == "coati")
    expect(int(client[1]) >= 2, f"{client}")


def hostile_names_are_text(server, chromium, pictures):
    coati(server, "topic", "create", "committed", "--partitions", "1")
    connections = []
    try:
        for name in HOSTILE:
            connections.append(wire.Connection(server.bootstrap, client=name))
            connections[-1].ask("ApiVersions", 0)
            commit(connections[-1], name)
        page = chromium.open(server.url())
        page.value("document.getElementById('lines').value = '200', document.getElementById('question').dispatchEvent(new Event('input')), 1")
        page.wait("figures")
        wanted = {UNSEEN.sub("\ufffd", name[:120]) for name in HOSTILE}
        for table in ("clients", "groups"):
            shown = {row[0] for row in rows(page, table)}
            expect(wanted <= shown, f"{table}: {wanted - shown} are not in {shown}")
        expect(page.value("window.owned") is None, "somebody else's script ran")
        expect(page.value("document.querySelectorAll('script, img, title').length") == 2, "somebody else's elements")
        # A script without the page's number is not run, whoever put it there.
        page.value("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.owned = 5' })), 1")
        expect(page.value("window.owned") is None, "the policy lets scripts in")
        found = server.figures(find="<SCRIPT>")
        expect((found["groups"]["found"], found["clients"]["found"]) == (2, 2), f"{found['groups']}")
        if pictures:
            page.picture(pictures / "hostile.png")
        told = tune_watch(server, "--once")
        expect(told.returncode == 0, told.stderr)
        expect(wanted <= {re.sub(r" +[0-9]+( +[0-9]+)+$| +classic +Empty.*$", "", line) for line in told.stdout.splitlines()}, told.stdout)
        expect(UNSEEN.sub("", told.stdout.replace("\n", "")) == told.stdout.replace("\n", ""), "what it prints commands the terminal")
        terminal = Terminal(server, 120, 40)
        try:
            for list, head in ((b"6", "client id"), (b"7", "group ")):
                terminal.wait_for("Partitions")
                terminal.press(list)
                terminal.wait_for(head, "\ufffd]0;owned\ufffd", "<script>window.owned = 1</script>")
            expect(b"\x1b]" not in terminal.shown and b"\x07" not in terminal.shown, "it commands the terminal")
        finally:
            terminal.close()
    finally:
        for connection in connections:
            connection.close()


def commit(connection, group):
    """A group that has committed something, whatever it is called."""
    partition = {"PartitionIndex": 0, "CommittedOffset": 0, "CommittedMetadata": ""}
    body = {"GroupId": group, "MemberId": "", "Topics": [{"Name": "committed", "Partitions": [partition]}]}
    for _ in range(2000):
        connection.ask("FindCoordinator", 1, {"Key": group, "KeyType": 0})
        answer = connection.ask("OffsetCommit", 2, body)
        if answer["Topics"][0]["Partitions"][0]["ErrorCode"] == 0:
            return
    raise AssertionError(f"the group cannot commit: {answer}")


def ten_thousand_partitions(server, chromium, pictures):
    # More at once are not created.
    for half in ("many-a", "many-b"):
        coati(server, "topic", "create", half, "--partitions", str(PARTITIONS // 2))
    told = server.figures()
    expect(told["partitions"]["all"] >= PARTITIONS and len(told["partitions"]["lines"]) == 20, f"{told['partitions']['all']}")
    expect(server.figures(find="many-a-77", lines=200)["partitions"]["found"] == 11, "77 and 770 to 779")
    page = chromium.open(server.url(), PHONE)
    page.wait_for("figures", "document.getElementById('partitions-told').textContent.startsWith('10,0')")
    page.value("document.getElementById('find').value = 'many-b-4999', document.getElementById('question').dispatchEvent(new Event('input')), 1")
    page.wait_for("figures", "document.querySelectorAll('#partitions tbody tr').length === 1")
    expect(rows(page, "partitions")[0][0] == "many-b-4999", f"{rows(page, 'partitions')}")
    expect(page.value("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0, "it is wider than a phone")
    if pictures:
        page.picture(pictures / "many.png")
    is_well(page)


def a_broker_that_is_gone_is_told_and_comes_back(server, chromium, pictures):
    page = chromium.open(server.url())
    page.wait("figures")
    page.wait("figures")
    first = server.figures()["incarnation"]
    server.kill()
    page.wait_for("silence", "document.body.classList.contains('lost')")
    expect("has not answered for" in page.value("document.getElementById('lost').textContent"), "it says so")
    gone_at = page.value("performance.now() / 1000")
    if pictures:
        page.picture(pictures / "gone.png", whole=False)
    server.start()
    page.wait_for("figures", "!document.body.classList.contains('lost')")
    expect(page.value("document.getElementById('lost').hidden"), "it says so no more")
    expect(server.figures()["incarnation"] != first, "another run has another name")
    expect(page.value("seen[0].at") > gone_at, "what was before is not the past of this run")


def looking_changes_nothing(server, _chromium, _pictures):
    def state():
        files = sorted(str(path.relative_to(server.data)) for path in server.data.rglob("*"))
        return files, coati(server, "topic", "list"), coati(server, "group", "list")

    before = state()
    hostile = urllib.parse.quote("'\"><script>" * 20)
    for path in PAGES:
        for asked in (path, f"{path}{'&' if '?' in path else '?'}find={hostile}&lines=999999999999999999999&sort={hostile}&delete=1"):
            answer, _ = server.ask(asked)
            expect(answer.status == 200, f"{asked}: {answer.status}")
            policy = answer.headers["Content-Security-Policy"]
            expect("default-src 'none'" in policy and "unsafe" not in policy, f"{asked}: {policy}")
            expect(answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Cache-Control"] == "no-store", f"{answer.headers}")
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
            answer, _ = server.ask(path, method)
            expect(answer.status == 405, f"{method} {path}: {answer.status}")
        answer, _ = server.ask(path, headers={"Host": "evil.example"})
        expect(answer.status == 403, f"{path} is told to a page from elsewhere")
    expect(state() == before, "something is not as it was")
    one, other = (re.search(r"nonce-([^']+)", server.ask("/")[0].headers["Content-Security-Policy"]).group(1) for _ in range(2))
    expect(one != other, "the number could be guessed")


def a_terminal_shows_it_and_is_left_as_it_was(server, _chromium, _pictures):
    told = tune_watch(server)
    expect(told.returncode == 1 and "--once" in told.stderr, f"no terminal: {told.returncode} {told.stderr}")
    told = tune_watch(server, "--once", "--json", "--find", "load-1")
    expect([line["partition"] for line in json.loads(told.stdout)["partitions"]["lines"]] == [1], told.stdout)
    for end, code in (("q", 0), (signal.SIGTERM, 130), (signal.SIGHUP, 130), ("\x03", 0)):
        terminal = Terminal(server, 100, 30)
        try:
            terminal.wait_for("cross-core", "1 Partitions", "q quit", "__consumer_offsets-0", "coati broker 1  running  version ")
            expect(terminal.shown.startswith(b"\x1b"), f"something is printed before: {terminal.shown[:200]}")
            terminal.press(b"ss")
            terminal.wait_for("(by MB/s out)")
            terminal.press(b"/load-2\r")
            terminal.wait_for("only load-2", "\nload-2 ")
            terminal.resize(60, 20)
            terminal.screen.resize(20, 60)
            terminal.screen.reset()
            terminal.process.send_signal(signal.SIGWINCH)
            terminal.wait_for("load-2", "only load-2")
            terminal.press(end.encode()) if isinstance(end, str) else terminal.process.send_signal(end)
            terminal.is_left_as_it_was(code)
        finally:
            terminal.close()
    gone = subprocess.run([str(broker.COATI), "tune", "watch", "--once", "--admin", "127.0.0.1:1"], capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    expect(gone.returncode == 1 and "127.0.0.1:1" in gone.stderr and "--admin" in gone.stderr, gone.stderr)


CHECKS = [figures_of_a_load, hostile_names_are_text, a_terminal_shows_it_and_is_left_as_it_was, looking_changes_nothing, ten_thousand_partitions,
          a_broker_that_is_gone_is_told_and_comes_back]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    parser.add_argument("--pictures", type=pathlib.Path)
    arguments = parser.parse_args()
    failed = 0
    with Server() as server, browser.Browser() as chromium:
        for check in CHECKS:
            name = check.__name__.replace("_", " ")
            if arguments.only not in name:
                continue
            try:
                check(server, chromium, arguments.pictures)
                print(f"pass watch {name}", flush=True)
            except Exception as error:  # Whatever is wrong with the view is a failure of its check.
                failed += 1
                print(f"FAIL watch {name}: {error!r}"[:3000], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
