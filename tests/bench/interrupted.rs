//! Ctrl-C against the real generator: each kind of run ends with a report of what was measured until then.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::broker::Broker;
use super::number;

/// As the exit codes of shells say that SIGINT ended a command.
const INTERRUPTED: i32 = 130;

/// The end of the first whole second's line.
const A_SECOND: &str = "     1 s  in";

/// Starts a run that would last for minutes, interrupts it once its stderr has said `sign` and `before` is done, and hands
/// back its report.
fn interrupt(arguments: &str, sign: &str, before: impl FnOnce()) -> Value {
    let (report, code, said) = end(arguments, sign, |child| {
        before();
        signal(child);
    });
    assert_eq!(code, Some(INTERRUPTED), "{arguments}: {said}");
    report
}

/// Starts a run, does what will end it once its stderr has said `sign`, and hands back its report, its exit code, and what
/// it said.
fn end(arguments: &str, sign: &str, end: impl FnOnce(&Child)) -> (Value, Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_coati"))
        .arg("bench")
        .args(arguments.split_whitespace())
        .args("--warm-up 0 --seconds 600 --progress --json".split(' '))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut errors = BufReader::new(child.stderr.take().expect("stderr is piped"));
    let mut said = String::new();
    while !said.contains(sign) {
        let read = errors.read_line(&mut said).expect("lines of text");
        assert!(read > 0, "{arguments}: it ended, and said\n{said}");
    }
    end(&child);
    // What it still says must not fill the pipe.
    let rest = std::thread::spawn(move || {
        errors.read_to_string(&mut said).expect("text");
        said
    });
    let output = child.wait_with_output().expect("it ends");
    let said = rest.join().expect("it reads");
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|_| panic!("{arguments}: {said}"));
    (report, output.status.code(), said)
}

fn signal(child: &Child) {
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(sent.is_ok_and(|status| status.success()));
}

/// Each second that the run had has its point, and the sums are of them.
fn is_cut_short(report: &Value) {
    assert_eq!(report["interrupted"], true, "{report:#}");
    assert!(number(report, "/seconds") < 600.0);
    assert!(number(report, "/produced/total/records") > 0.0);
    assert!(number(report, "/acknowledge/count") > 0.0);
    assert_eq!(report["unread"], 0, "what was sent has been read");
}

#[test]
fn every_kind_of_run_reports_what_it_has_measured() {
    let broker = Broker::start(1, &[]);
    let at = format!("-b {}", broker.address);
    for kind in [
        "produce",
        "e2e --rate 500",
        "mixed --rate 500 --verify",
        "run bench/workloads/fan-out-3-1kb.toml --rate 300",
    ] {
        let report = interrupt(&format!("{kind} {at}"), A_SECOND, || {});
        is_cut_short(&report);
        if kind.ends_with("--verify") {
            assert_eq!(report["verdict"]["first"], Value::Null, "{report:#}");
        }
    }
    let caught_up = interrupt(
        &format!("catch-up --rate 500 --backlog-gb 0.01 {at}"),
        A_SECOND,
        || {},
    );
    is_cut_short(&caught_up["alone"]);
    assert_eq!(caught_up["beside_reader"], Value::Null);
    let found = interrupt(
        &format!("e2e --rate max --slo p99=1000ms {at}"),
        A_SECOND,
        || {},
    );
    is_cut_short(&found["unfinished"]);
    assert_eq!(found["best"], Value::Null);
    let sides = format!("one={0} other={0}", broker.address);
    let file = "bench/workloads/1-topic-1-partition-1kb.toml";
    let compared = interrupt(
        &format!("compare {sides} {file} --rate 500"),
        A_SECOND,
        || {},
    );
    is_cut_short(&compared["unfinished"][0]["report"]);
    assert_eq!(compared["workloads"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_broker_that_does_not_answer_holds_nobody_up() {
    let broker = Broker::start(1, &[]);
    let freeze = || broker.signal("STOP");
    let report = interrupt(&format!("produce -b {}", broker.address), A_SECOND, freeze);
    broker.signal("CONT");
    assert_eq!(report["interrupted"], true, "{report:#}");
    assert!(number(&report, "/produced/total/records") > 0.0);
}

/// Nothing has been measured yet, which the report says.
#[test]
fn filling_a_topic_can_be_interrupted() {
    let broker = Broker::start(1, &[]);
    let consume = format!("consume --backlog-gb 1000 -b {}", broker.address);
    let report = interrupt(&consume, A_SECOND, || {});
    assert_eq!(report["interrupted"], true, "{report:#}");
    assert_eq!(report["consumed"], Value::Null, "{report:#}");
}

#[test]
fn a_run_whose_broker_dies_says_what_it_has_and_fails() {
    let broker = Broker::start(1, &[]);
    let produce = format!("e2e --rate 500 -b {}", broker.address);
    let (report, code, said) = end(&produce, A_SECOND, |_| broker.signal("KILL"));
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(report["interrupted"], false);
    let failure = report["failure"].as_str().expect("it failed");
    assert!(said.contains(failure), "{said}");
    assert!(number(&report, "/produced/total/records") > 0.0);
}
