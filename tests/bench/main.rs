//! The load generator against the real broker: its figures can be trusted when the broker stalls.

mod bare;
#[path = "../robust/broker.rs"]
#[allow(dead_code, reason = "shared with another suite, which uses all of it")]
mod broker;
#[path = "../robust/client.rs"]
#[allow(dead_code, reason = "shared with another suite, which uses all of it")]
mod client;
mod interrupted;
mod proxy;
mod sink;

use std::process::Command;
use std::time::Duration;

use broker::Broker;
use proxy::Proxy;
use serde_json::Value;
use sink::Sink;

const FREEZE: Duration = Duration::from_millis(200);
const FREEZE_MS: f64 = 200.0;

/// A broker behind a proxy that stops all traffic once, for a while, when so much has passed.
fn behind_proxy(freeze_after_bytes: u64) -> (Broker, Proxy) {
    let proxy = Proxy::bind();
    let advertised = format!("advertised.listeners=PLAINTEXT://{}", proxy.address);
    let broker = Broker::start(1, &[&advertised]);
    proxy.run(broker.address, freeze_after_bytes, FREEZE);
    (broker, proxy)
}

fn bench(address: &str, arguments: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_coati"))
        .args(["bench"])
        .args(arguments.split(' '))
        .args(["--json", "-b", address])
        .output()
        .expect("the binary runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("a report in JSON")
}

fn number(report: &Value, pointer: &str) -> f64 {
    let value = report.pointer(pointer).and_then(Value::as_f64);
    value.unwrap_or_else(|| panic!("{pointer} is not in {report:#}"))
}

#[test]
fn an_open_loop_finds_the_freeze_that_a_closed_loop_misses() {
    // 2,000 records of 1 KB a second, there and back: the freeze comes after 1.25 s of 2.5.
    let (_broker, proxy) = behind_proxy(5_000_000);
    let open = bench(
        &proxy.address,
        "e2e --rate 2000 --size 1000 --warm-up 0.5 --seconds 2 --verify",
    );
    assert!(proxy.has_frozen());
    // A tenth of the records were due while nothing moved, and waited up to all of it.
    for stage in ["acknowledge", "end_to_end"] {
        assert!(number(&open, &format!("/{stage}/max")) >= FREEZE_MS * 0.95);
        assert!(number(&open, &format!("/{stage}/p99")) >= FREEZE_MS * 0.7);
    }
    let series = open["series"].as_array().expect("a point a second");
    let seconds = series.iter().filter(|point| {
        let max = point.pointer("/end_to_end/max").and_then(Value::as_f64);
        max.is_some_and(|max| max >= FREEZE_MS * 0.95)
    });
    assert!(seconds.count() >= 1, "{series:?}");
    assert_eq!(open["verdict"]["first"], Value::Null, "{open:#}");
    assert_eq!(open["open_loop"], true);

    let (_broker, proxy) = behind_proxy(100_000);
    let closed = bench(
        &proxy.address,
        "produce --size 100 --batch 1 --in-flight 1 --warm-up 0 --seconds 2",
    );
    assert!(proxy.has_frozen());
    assert_eq!(closed["open_loop"], false);
    // One request of many hit it; the others were never sent.
    assert!(number(&closed, "/acknowledge/max") >= FREEZE_MS * 0.95);
    assert!(number(&closed, "/acknowledge/p99") < FREEZE_MS * 0.5);
}

#[test]
fn every_ack_level_and_codec_arrives_verified() {
    let broker = Broker::start(1, &[]);
    let address = broker.address.to_string();
    let verified = |flags: &str| {
        let base = "mixed --partitions 3 --rate 3000 --warm-up 0 --seconds 0.5 --verify";
        let report = bench(&address, &format!("{base} {flags}"));
        assert_eq!(report["unread"], 0, "{flags}");
        assert_eq!(
            report["verdict"]["first"],
            Value::Null,
            "{flags}: {report:#}"
        );
        // Four producers begin in turn, so the last of their records may be due a moment too late.
        let checked = number(&report, "/verdict/checked");
        assert!((1490.0..=1510.0).contains(&checked), "{flags}: {checked}");
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("sizes.txt");
    std::fs::write(&file, "40 9\n3000\n").expect("a file");
    let sizes = format!("--size @{}", file.display());
    for flags in [
        "--acks 0",
        "--acks all",
        "--idempotent",
        "--codec gzip",
        "--codec snappy --random 0.3",
        "--codec lz4 --keys zipf",
        "--codec zstd --keys uniform",
        "--headers 3 --header-size 40",
        "--size 32..400",
        &sizes,
    ] {
        verified(flags);
    }
}

#[test]
fn every_workload_reports() {
    let broker = Broker::start(1, &[]);
    let address = broker.address.to_string();
    let short = "--warm-up 0.1 --seconds 0.4";
    for kind in [
        "produce",
        "small",
        "e2e --rate 500",
        "connections --rate 500 --idle 20",
    ] {
        let report = bench(&address, &format!("{kind} {short}"));
        assert!(number(&report, "/produced/total/records") > 0.0, "{kind}");
        assert!(
            number(&report, "/broker/cpu_seconds_per_gb") >= 0.0,
            "{kind}"
        );
        let flush_mode = report["flush_mode"].as_str().unwrap();
        assert!(flush_mode.starts_with("durable"), "{kind}: {flush_mode}");
    }
    let found = bench(
        &address,
        &format!("e2e --rate max --slo max=0.001ms {short}"),
    );
    assert_eq!(found["best"], Value::Null);
    assert_eq!(found["trials"][0]["kept"], false);
    let consumed = bench(&address, "consume --backlog-gb 0.02");
    let bytes = number(&consumed, "/consumed/total/bytes");
    assert!(bytes >= 2e7, "{bytes}");
    let caught_up = bench(
        &address,
        &format!("catch-up --rate 500 --backlog-gb 0.02 {short}"),
    );
    assert!(number(&caught_up, "/p99_ratio") > 0.0);
    let file = format!(
        "run {}/bench/workloads/fan-out-3-1kb.toml --rate 900 {short}",
        env!("CARGO_MANIFEST_DIR")
    );
    let report = bench(&address, &file);
    let sent = number(&report, "/acknowledge/count");
    assert_eq!(number(&report, "/end_to_end/count"), 3.0 * sent);
}

#[test]
fn two_brokers_are_compared_in_turn() {
    let brokers = [
        Broker::start(1, &[]),
        Broker::start(1, &["log.flush.policy=os"]),
    ];
    let workload = "bench/workloads/1-topic-1-partition-1kb.toml";
    let output = Command::new(env!("CARGO_BIN_EXE_coati"))
        .args(["bench", "compare"])
        .arg(format!("one={}", brokers[0].address))
        .arg(format!("other={}", brokers[1].address))
        .arg(format!("{}/{workload}", env!("CARGO_MANIFEST_DIR")))
        .args("--rounds 2 --rate 500 --warm-up 0 --seconds 0.4 --json".split(' '))
        .output()
        .expect("the binary runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report in JSON");
    let compared = &report["workloads"][0];
    assert_eq!(compared["rounds"].as_array().map(Vec::len), Some(2));
    let rows = compared["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 11);
    for row in rows {
        assert_eq!(row["figures"].as_array().map(Vec::len), Some(2), "{row}");
        // On a short run a broker may have used no tick of its CPU, and then there is no ratio.
        for ratio in row["ratios"].as_array().expect("ratios") {
            if !ratio.is_null() {
                assert!(number(ratio, "/low") <= number(ratio, "/median"), "{row}");
                assert!(number(ratio, "/median") <= number(ratio, "/high"), "{row}");
            }
        }
    }
    let flush = |side: usize| {
        let report = &compared["rounds"][0][side];
        report["flush_mode"].as_str().expect("it is told")
    };
    assert!(flush(0).starts_with("durable"));
    assert!(flush(1).contains("log.flush.policy=os"));
    recorded_reports_compare_like_measured_ones(&report);
}

/// The comparison's own reports, put into a folder a side.
fn recorded_reports_compare_like_measured_ones(measured: &Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let names = ["one", "other"];
    let side = |name: &str| folder.path().join(name);
    for (index, name) in names.into_iter().enumerate() {
        std::fs::create_dir(side(name)).expect("a folder a side");
        let rounds = measured["workloads"][0]["rounds"].as_array();
        for (number, round) in rounds.expect("rounds").iter().enumerate() {
            let file = side(name).join(format!("{number}.json"));
            std::fs::write(file, round[index].to_string()).expect("a file a run");
        }
    }
    let compare = |more: &[&str]| {
        let sides = names.map(|name| format!("{name}={}", side(name).display()));
        Command::new(env!("CARGO_BIN_EXE_coati"))
            .args(["bench", "compare"])
            .args(sides)
            .args(more)
            .output()
            .expect("the binary runs")
    };
    let recorded: Value = serde_json::from_slice(&compare(&["--json"]).stdout).expect("JSON");
    assert_eq!(recorded["workloads"], measured["workloads"]);
    let table = compare(&[]).stdout;
    let table = String::from_utf8(table).expect("a table");
    assert!(
        table.contains("median of 2") && table.contains("acks=1"),
        "{table}"
    );

    // Half a round more on one side is left out; a run of something else is not compared.
    let last = side("one").join("1.json");
    std::fs::copy(&last, side("one").join("2.json")).expect("a copy");
    let again: Value = serde_json::from_slice(&compare(&["--json"]).stdout).expect("JSON");
    assert_eq!(again["workloads"], measured["workloads"]);
    let report = std::fs::read_to_string(&last).expect("a report");
    let other = report.replace("\"messageSize\":1024", "\"messageSize\":512");
    std::fs::write(&last, other).expect("a file");
    let refused = compare(&[]);
    let reason = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && reason.contains("differ"),
        "{reason}"
    );
}

/// What the generator is to do into a sink: as much as it can, and a tenth of what it is asked for.
const LOADS: [(&str, &str); 4] = [
    (
        "256 KiB requests",
        "produce --batch 262144 --size 10000 --in-flight 16",
    ),
    ("small requests", "small --in-flight 32"),
    (
        "256 KiB requests, 500 MB/s",
        "produce --batch 1 --size 262144 --rate 1907",
    ),
    ("small requests, 70,000/s", "small --rate 70000"),
];

/// A broker of which the sink takes what is produced.
fn behind_sink() -> (Broker, Sink) {
    let sink = Sink::bind();
    let advertised = format!("advertised.listeners=PLAINTEXT://{}", sink.address);
    let broker = Broker::start(1, &[&advertised]);
    sink.run(broker.address);
    (broker, sink)
}

#[test]
fn into_a_sink_the_generator_counts_what_arrives() {
    let (_broker, sink) = behind_sink();
    let mut before = 0;
    for (load, arguments) in LOADS {
        let short = format!("{arguments} --warm-up 0 --seconds 0.3");
        let report = bench(&sink.address, &short);
        let arrived = sink.records() - before;
        before += arrived;
        // What was in flight or overdue at the end arrives, and is not counted.
        let counted = number(&report, "/produced/total/records");
        assert!(counted > 0.0 && counted <= arrived as f64, "{load}");
    }
}

/// What one core of the generator can do, in figures that a person compares: a test must not time.
#[test]
#[ignore = "it measures; bench/RESULTS.md has the command"]
fn what_one_core_of_the_generator_gives_into_a_sink() {
    const FIGURES: [(&str, &str); 7] = [
        ("MB/s", "/produced/mb_per_second"),
        ("requests/s", "/produced/requests_per_second"),
        ("of the core", "/generator_cores"),
        ("publish p50 ms", "/publish/p50"),
        ("publish p99 ms", "/publish/p99"),
        ("acknowledge p50 ms", "/acknowledge/p50"),
        ("acknowledge p99 ms", "/acknowledge/p99"),
    ];
    let (_broker, sink) = behind_sink();
    let rounds: Vec<Vec<Value>> = (0..5)
        .map(|_| {
            let measured = LOADS.iter().map(|(_, arguments)| {
                let flags = format!("{arguments} --cpu 1 --warm-up 0.5 --seconds 1");
                bench(&sink.address, &flags)
            });
            measured.collect()
        })
        .collect();
    for (load, (name, _)) in LOADS.iter().enumerate() {
        println!("{name}: the median, and all rounds from the least");
        for (figure, pointer) in FIGURES {
            let round = |round: &Vec<Value>| number(&round[load], pointer);
            tell(figure, rounds.iter().map(round).collect());
        }
    }
}

/// What the generator adds to the time until a request is answered: beside it the least a client can be, into the same
/// sink. Rounds are short and many: what the machine itself stops both for then spoils few of them.
#[test]
#[ignore = "it measures; bench/RESULTS.md has the command"]
fn what_the_generator_adds_to_a_bare_socket() {
    let loads = [
        (LOADS[2], 1, 262_144, 1907.0),
        (LOADS[3], 16, 100, 70_000.0),
    ];
    let (warm_up, measured) = (Duration::from_millis(200), Duration::from_millis(500));
    let (_broker, sink) = behind_sink();
    let address = sink.address.parse().expect("an address");
    for ((name, arguments), connections, record_bytes, requests_per_second) in loads {
        let load = bare::Load {
            connections,
            record_bytes,
            requests_per_second,
        };
        println!("{name}: ms until answered; the median, and all rounds from the least");
        // Of each round the generator's, and the bare socket's.
        let rounds: Vec<[[f64; 2]; 2]> = (0..21)
            .map(|_| {
                let flags = format!("{arguments} --cpu 1 --warm-up 0.2 --seconds 0.5");
                let report = bench(&sink.address, &flags);
                let pointers = ["/acknowledge/p50", "/acknowledge/p99"];
                let times = bare::answer_times(address, &load, warm_up, measured);
                let bare = [times.len() / 2, times.len() * 99 / 100];
                [
                    pointers.map(|pointer| number(&report, pointer)),
                    bare.map(|rank| times[rank].as_secs_f64() * 1e3),
                ]
            })
            .collect();
        for (at, percentile) in ["p50", "p99"].into_iter().enumerate() {
            for (client, who) in ["generator", "bare socket"].into_iter().enumerate() {
                let figures = rounds.iter().map(|round| round[client][at]).collect();
                tell(&format!("{percentile} {who}"), figures);
            }
        }
    }
}

fn tell(figure: &str, mut figures: Vec<f64>) {
    figures.sort_by(f64::total_cmp);
    let median = figures[figures.len() / 2];
    println!("  {figure:<24} {median:>10.3}   {figures:.3?}");
}
