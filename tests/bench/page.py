"""The reports of `coati bench`, read by others: the page (--html) in headless Chromium, the log (--hdr) by HdrHistogram's Python
reader. Every number that the browser shows, and every line that it draws, must be that of the JSON (--json) of the same run.

    page.py [--only TEXT]

COATI_BIN names another binary.
"""

import argparse
import html.parser
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
import broker

DEADLINE_SECONDS = 120
SHORT = "--warm-up 1 --seconds 2.5"
WORKLOADS = broker.ROOT / "bench" / "workloads"
STAGES = ("publish", "acknowledge", "end_to_end")
PHONE, DESKTOP = 390, 1280
# Coordinates are written with two digits.
PIXEL = 0.02


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def cases():
    """(name, arguments, check of the page)"""
    yield "e2e", f"e2e --rate 800 --verify {SHORT}", lambda page: page.shows_run("")
    yield "produce", f"produce {SHORT}", lambda page: page.shows_run("")
    yield "explain", f"e2e --rate 800 --explain --admin ADMIN {SHORT}", explained
    yield "consume", "consume --backlog-gb 0.02", lambda page: page.shows(["/consumed/mb_per_second", "/consumed/records_per_second"])
    yield "catch-up", f"catch-up --rate 500 --backlog-gb 0.05 {SHORT}", caught_up
    yield "search", "e2e --rate max --slo p50=50ms --batch 1 --in-flight 1 --warm-up 0 --seconds 0.5", searched
    yield "nothing found", "e2e --rate max --slo max=0.001ms --warm-up 0 --seconds 0.2", lambda page: page.shows(["/trials/0/rate"])
    workloads = f"{WORKLOADS}/acks-all-1kb.toml {WORKLOADS}/one-record-requests.toml"
    yield "compare", f"compare <one>=HERE other=HERE again=HERE {workloads} --rate 500 --rounds 2 {SHORT}", compared


def explained(page):
    page.shows_run("")
    page.shows([f"/explanation/requests/0/stages/0/{name}" for name in ("mean_ms", "slow_ms", "slow_share")])
    page.shows([f"/explanation/beneath/0/{name}" for name in ("count", "mean_ms", "p50_ms", "p99_ms")])


def caught_up(page):
    page.shows_run("/alone")
    page.shows_run("/beside_reader")
    page.shows(["/p99_ratio", "/reader_mb_per_second"])


def searched(page):
    page.shows([f"/trials/{index}/{what}" for index in range(len(page.report["trials"])) for what in ("rate", "measured")])
    page.shows_run("/best")


def compared(page):
    for number, workload in enumerate(page.report["workloads"]):
        for row, figures in enumerate(workload["rows"]):
            for side in range(3):
                place = f"/workloads/{number}/rows/{row}"
                page.shows([f"{place}/figures/{side}/median"])
                if side > 0 and figures["ratios"][side]:
                    page.shows([f"{place}/ratios/{side}/median"])
        for round in range(2):
            for side in range(3):
                path = f"/workloads/{number}/rounds/{round}/{side}"
                stages = [stage for stage in STAGES[1:] if page.at(path)[stage]]
                page.draws(path, curves=stages, measures=["produced", "broker_cores", *(f"{stage}.p99" for stage in stages)])


# What the page calls a measure, and what it is of a point.
def measure_of(name, point):
    if name in ("produced", "consumed"):
        return point["acknowledged" if name == "produced" else "received"]["bytes"] / 1e6 / point["seconds"]
    for part in name.split("."):
        point = point[part] if point is not None else None
    return point


def curve_of(summary):
    return [[max(1, 100 / (100 - percent) if percent < 100 else summary["count"]), ms] for percent, ms in summary["curve"]]


class Elements(html.parser.HTMLParser):
    """Elements of a rendered page: their tag, attributes, all the text in them, and what they are in."""

    VOID = {"br", "meta", "link", "img", "hr", "input"}

    def __init__(self, text):
        super().__init__()
        self.all, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", "parents": list(self.open), **dict(attributes)}
        self.all.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        while self.open and self.open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def within(self, outer):
        return [element for element in self.all if any(parent is outer for parent in element["parents"])]

    def of(self, tag=None, look=None):
        return [one for one in self.all if tag in (None, one["tag"]) and (look is None or look in one.get("class", "").split())]


class Page:
    def __init__(self, file: pathlib.Path, report, width: int):
        self.report = report
        self.elements = Elements(render(file, width))
        self.figures = {}
        for element in self.elements.all:
            if "data-path" in element and element["tag"] == "span":
                self.figures.setdefault(element["data-path"], []).append(element["text"])

    def at(self, path):
        part = self.report
        for name in path.split("/")[1:]:
            part = part[int(name)] if isinstance(part, list) else part[name]
        return part

    def numbers_are_the_reports(self):
        expect(self.figures, "no figure is shown")
        for path, texts in self.figures.items():
            for text in texts:
                number = text.replace(",", "")
                digits = len(number.partition(".")[2])
                expect(abs(float(number) - self.at(path)) <= 0.5 * 10**-digits + 1e-9, f"{path} is {self.at(path)}, shown as {text}")

    def lines_are_the_reports(self):
        """Undoes the drawing: what a line's report has must lie where the line is."""
        drawn = [path for path in self.elements.of("path") if "data-path" in path]
        for path in drawn:
            run = self.at(path["data-path"])
            if "data-curve" in path:
                expected = curve_of(run[path["data-curve"]])
            else:
                points = [[point["at"], measure_of(path["data-measure"], point)] for point in run["series"]]
                expected = [point for point in points if point[1] is not None]
            picture = next(parent for parent in reversed(path["parents"]) if parent["tag"] == "svg")
            places = [[float(number) for number in pair.split(",")] for pair in path["d"][1:].split("L")]
            expect(len(places) == len(expected), f"{path['data-path']}: {len(places)} points drawn of {len(expected)}")
            for place, point in zip(places, expected):
                for axis, (pixel, value) in zip(("data-x", "data-y"), zip(place, point)):
                    expect(abs(pixel - position(picture[axis], value)) < PIXEL, f"{path['data-path']}: {value} drawn at {pixel} of {picture[axis]}")

    def figures_have_their_conditions(self):
        for card in self.elements.of("figure") + self.elements.of(look="tile") + self.elements.of("th", look="side"):
            badges = [one for one in self.elements.within(card) if "badge" in one.get("class", "").split()]
            expect(badges and all(one["text"] for one in badges), f"no flush mode: {card['text'][:80]}")

    def shows(self, paths):
        for path in paths:
            expect(path in self.figures, f"{path} is not shown")

    def draws(self, path, curves, measures):
        lines = [line for line in self.elements.of("path") if line.get("data-path") == path]
        for attribute, names in (("data-curve", curves), ("data-measure", measures)):
            drawn = [line.get(attribute) for line in lines]
            for name in names:
                expect(name in drawn, f"{path}: {name} is not drawn, only {drawn}")

    def shows_run(self, path):
        run = self.at(path)
        stages = [stage for stage in STAGES if run[stage]]
        self.shows([f"{path}/produced/mb_per_second", f"{path}/broker/cpu_seconds_per_gb", f"{path}/generator_cores", f"{path}/seconds"])
        self.shows([f"{path}/{stage}/{name}" for stage in stages for name in ("p50", "p90", "p99", "p99_9", "p99_99", "max", "count")])
        seconds = range(len(run["series"]))
        self.shows([f"{path}/series/{second}/{name}" for second in seconds for name in ("at", "acknowledged/records", "broker_cores")])
        main = stages[-1]
        self.draws(path, curves=stages, measures=["produced", f"{main}.p99", f"{main}.max", "broker_cores", "generator_cores"])


def position(axis, value):
    kind, *numbers = axis.split(" ")
    low, high, begin, end = map(float, numbers)
    share = math.log(max(value, low) / low) / math.log(high / low) if kind == "log" else (value - low) / (high - low)
    return begin + share * (end - begin)


def render(file: pathlib.Path, width: int) -> str:
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={file.parent / 'chromium'}",
               f"--window-size={width},900", "--dump-dom", f"{file.as_uri()}#seconds"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    expect(ran.returncode == 0 and "</html>" in ran.stdout, f"chromium: exit {ran.returncode}\n{ran.stderr[-2000:]}")
    return ran.stdout


def fits(file: pathlib.Path):
    """Nothing of the page is wider than a phone; asked of a copy that says so."""
    probe = "<script>document.title = document.documentElement.scrollWidth - document.documentElement.clientWidth</script></body>"
    copy = file.with_name("probe.html")
    copy.write_text(file.read_text().replace("</body>", probe))
    title = re.search(r"<title>(.*?)</title>", render(copy, PHONE)).group(1)
    expect(title == "0", f"the page is {title} pixels wider than a phone")


def check_page(server, arguments, check, folder: pathlib.Path):
    file = folder / "page.html"
    report = bench(server, f"{arguments} --html {file}")
    text = file.read_text()
    embedded = re.search(r'<script type="application/json" id="report">(.*?)</script>', text, re.DOTALL).group(1)
    expect(json.loads(embedded) == report, "the page has another report in it")
    expect(not re.search(r"(src|href)\s*=|url\(|@import", text), "the page needs something else")
    for width in (PHONE, DESKTOP):
        page = Page(file, report, width)
        page.numbers_are_the_reports()
        page.lines_are_the_reports()
        page.figures_have_their_conditions()
        check(page)
    fits(file)


def check_log(server, folder: pathlib.Path):
    from hdrh.histogram import HdrHistogram
    from hdrh.log import HistogramLogReader

    log = folder / "run.hdr"
    report = bench(server, f"e2e --rate 1000 {SHORT} --hdr {log}")
    for stage in STAGES:
        total = HdrHistogram(1, 3600 * 10**9, 3)
        reader = HistogramLogReader(str(log), total)
        intervals = 0
        while (interval := reader.get_next_interval_histogram()) is not None:
            if interval.get_tag() == stage:
                total.add(interval)
                intervals += 1
        expect(intervals >= 3, f"{stage}: {intervals} intervals")
        summary = report[stage]
        expect(total.get_total_count() == summary["count"], f"{stage}: {total.get_total_count()} of {summary['count']}")
        for percent, name in ((50, "p50"), (99, "p99"), (99.9, "p99_9"), (100, "max")):
            read = total.get_value_at_percentile(percent) / 1e6
            expect(abs(read - summary[name]) <= 0.002 * summary[name] + 0.001, f"{stage} {name}: {read}, reported {summary[name]}")


def bench(server, arguments):
    admin = re.search(r"http://([0-9.:]+)", server.log()).group(1)
    arguments = arguments.replace("HERE", server.bootstrap).replace("ADMIN", admin).split()
    where = [] if arguments[0] == "compare" else ["-b", server.bootstrap]
    command = [str(broker.COATI), "bench", *arguments, "--json", *where]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    expect(ran.returncode == 0, f"{' '.join(command)}\nexit {ran.returncode}: {ran.stderr[-2000:]}")
    return json.loads(ran.stdout)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    only = parser.parse_args().only
    checks = [(f"page: {name}", lambda server, folder, flags=flags, check=check: check_page(server, flags, check, folder)) for name, flags, check in cases()]
    checks.append(("log: HdrHistogram's reader", check_log))
    failed = 0
    with broker.Broker("coati", {"admin.listener": "127.0.0.1:0"}) as server:
        for name, check in checks:
            if only not in name:
                continue
            try:
                with tempfile.TemporaryDirectory() as folder:
                    check(server, pathlib.Path(folder))
                print(f"pass bench {name}", flush=True)
            except Exception as error:  # Whatever is wrong with a report is a failure of its check.
                failed += 1
                print(f"FAIL bench {name}: {error!r}"[:3000], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
