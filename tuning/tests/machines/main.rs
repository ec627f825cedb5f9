//! Checks, applies and undoes every tuner on five pictures of machines, and chooses profiles for them.

mod damaged;
mod picture;
mod profiles;

use std::collections::BTreeMap;
use std::fs;

use coati_tuning::{Ending, TuneError};
use picture::{MACHINES, Machine, Row, chosen};

/// All names, as a check lists them.
fn names(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|row| row.name.as_str()).collect()
}

fn apply_all(machine: &Machine) -> String {
    let rows = machine.check();
    let mut words = vec!["apply"];
    words.extend(names(&rows));
    machine.done(&words)
}

/// Each row, and what would be written; a tree's `.expected` beside it has been read and found right.
/// `COATI_BLESS=1` writes it anew, to be read again.
#[test]
fn every_check_says_what_each_machine_has() {
    for name in MACHINES {
        let machine = Machine::new(name);
        let before = machine.tree();
        let rows = machine.check();
        let mut found = String::new();
        for row in &rows {
            found += &format!("{} {}: {}\n", row.verdict, row.name, row.has);
            for (path, to) in &row.changes {
                found += &format!("    {path} = {to}\n");
            }
        }
        let path = format!(
            "{}/tests/machines/{name}.expected",
            env!("CARGO_MANIFEST_DIR")
        );
        if std::env::var_os("COATI_BLESS").is_some() {
            fs::write(&path, &found).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap();
        assert_eq!(found, expected, "{name}");
        assert_eq!(machine.tree(), before, "{name}: a check has written");
    }
}

#[test]
fn each_tuner_finds_fault_with_some_machines_and_not_with_all() {
    let mut verdicts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in MACHINES {
        for row in Machine::new(name).check() {
            verdicts.entry(row.name).or_default().push(row.verdict);
        }
    }
    // No machine here lets its io_uring be asked, of AIO requests nothing is needed, and policies have their own test.
    let quiet = ["io-uring-features", "aio", "numa-policy"];
    for (name, verdicts) in verdicts {
        let is_bad = |verdict: &String| ["hint", "warning", "critical"].contains(&verdict.as_str());
        if !quiet.contains(&name.as_str()) {
            assert!(
                verdicts.iter().any(is_bad),
                "{name} finds fault with no machine"
            );
            assert!(
                !verdicts.iter().all(is_bad),
                "{name} finds fault with all machines"
            );
        }
    }
}

#[test]
fn a_dry_run_writes_nothing_and_says_all() {
    for name in MACHINES {
        let machine = Machine::new(name);
        let before = machine.tree();
        let rows = machine.check();
        let mut words = vec!["apply", "--dry-run"];
        words.extend(names(&rows));
        let said = machine.done(&words);
        for (path, to) in rows.iter().flat_map(|row| &row.changes) {
            assert!(
                said.contains(&format!("would write {to} to {path},")),
                "{name}: {path} in\n{said}"
            );
        }
        assert_eq!(machine.tree(), before, "{name}");
        assert!(!machine.state.exists());
    }
}

#[test]
fn each_tuner_is_applied_and_undone_by_itself() {
    for name in MACHINES {
        let machine = Machine::new(name);
        let first = machine.tree();
        for row in machine.check() {
            machine.done(&["apply", &row.name]);
            for (path, to) in &row.changes {
                assert_eq!(machine.read(path), *to, "{name}: {path}");
            }
            let now = machine.check();
            let now = now.iter().find(|of| of.name == row.name).unwrap();
            assert!(now.changes.is_empty(), "{name}: {now:?} after an apply");
            if !row.changes.is_empty() && row.verdict != "unknown" {
                assert!(now.rank() <= row.rank(), "{name}: {row:?} became {now:?}");
            }
            machine.done(&["undo"]);
            assert_same(name, &machine, &first);
            assert!(!machine.state.exists(), "{name}: {} left a state", row.name);
        }
    }
}

fn assert_same(name: &str, machine: &Machine, first: &picture::Tree) {
    let now = machine.tree();
    assert_eq!(
        now.keys().collect::<Vec<_>>(),
        first.keys().collect::<Vec<_>>(),
        "{name}"
    );
    for (path, text) in first {
        // The kernel's own choice of what it may.
        if path.ends_with("/effective_affinity_list") {
            continue;
        }
        assert_eq!(normal(&now[path]), normal(text), "{name}: {path}");
    }
}

/// What is restored is the value: of a choice what is chosen, of a mask its bits, without its white space.
fn normal(text: &str) -> String {
    let words = chosen(text)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    match !words.is_empty() && words.chars().all(|char| char == '0') {
        true => "0".into(),
        false => words,
    }
}

#[test]
fn applying_twice_changes_nothing_and_undo_brings_all_back() {
    for name in MACHINES {
        let machine = Machine::new(name);
        let first = machine.tree();
        apply_all(&machine);
        let applied = machine.tree();
        let state = fs::read_to_string(&machine.state).unwrap();
        assert_ne!(applied, first);
        apply_all(&machine);
        assert_eq!(machine.tree(), applied, "{name}");
        assert_eq!(fs::read_to_string(&machine.state).unwrap(), state, "{name}");
        machine.done(&["undo"]);
        assert_same(name, &machine, &first);
        assert!(!machine.state.exists());
        assert!(machine.done(&["undo"]).contains("nothing to undo"));
    }
}

#[test]
fn without_names_only_what_warns_is_applied() {
    let machine = Machine::new("bare-metal-numa");
    let rows = machine.check();
    machine.done(&["apply"]);
    for row in rows {
        for (path, to) in &row.changes {
            let is_written = machine.read(path) == *to;
            assert_eq!(is_written, row.rank() >= 3, "{row:?}");
        }
    }
}

#[test]
fn the_first_value_is_kept_through_applies_of_other_values() {
    let machine = Machine::new("bare-metal-numa");
    let path = "/proc/sys/vm/swappiness";
    machine.done(&["apply", "swappiness"]);
    assert_eq!(machine.read(path), "1");
    machine.set(path, "80");
    machine.done(&["apply", "swappiness"]);
    assert_eq!(machine.read(path), "1");
    machine.done(&["undo"]);
    assert_eq!(machine.read(path), "60");
}

#[test]
fn what_somebody_has_changed_since_is_left_and_told() {
    let machine = Machine::new("bare-metal-numa");
    let (swappiness, balancing) = ("/proc/sys/vm/swappiness", "/proc/sys/kernel/numa_balancing");
    machine.done(&["apply", "swappiness", "numa-balancing"]);
    machine.set(swappiness, "30");
    let dry = machine.tune(&["undo", "--dry-run"]).unwrap();
    assert!(
        dry.text.contains("somebody has changed it to 30"),
        "{}",
        dry.text
    );
    assert_eq!(machine.read(balancing), "0");
    let told = machine.tune(&["undo"]).unwrap();
    assert!(
        matches!(told.ending, Ending::Failed(TuneError::Left(1))),
        "{told:?}"
    );
    assert!(
        told.text.contains("somebody has changed it to 30 since"),
        "{}",
        told.text
    );
    assert_eq!(
        (machine.read(swappiness), machine.read(balancing)),
        ("30".into(), "1".into())
    );
    // It is still known, and can be forced.
    machine.done(&["undo", "--force"]);
    assert_eq!(machine.read(swappiness), "60");
    assert!(!machine.state.exists());
}

#[test]
fn a_scheduler_comes_back_with_what_it_had() {
    let machine = Machine::new("bare-metal-numa");
    let queue = "/sys/devices/pci0000:16/0000:17:00.0/nvme/nvme0/nvme0n1/queue";
    let entry = |name: &str| format!("{queue}/{name}");
    machine.set(&entry("nr_requests"), "512");
    machine.set(&entry("iosched/read_expire"), "250");
    machine.done(&["apply", "disk-scheduler"]);
    // As a kernel does it: without a scheduler the hardware's number, and no folder of settings.
    machine.set(&entry("nr_requests"), "1023");
    let settings = machine.place(&entry("iosched"));
    let aside = machine.place("/aside");
    fs::rename(&settings, &aside).unwrap();
    machine.done(&["apply", "disk-scheduler"]);
    // Back it comes with its defaults, and these entries are brought back behind it.
    fs::rename(&aside, &settings).unwrap();
    machine.set(&entry("iosched/read_expire"), "500");
    machine.tune(&["undo", "--force"]).unwrap();
    assert_eq!(chosen(&machine.read(&entry("scheduler"))), "mq-deadline");
    assert_eq!(machine.read(&entry("nr_requests")), "512");
    assert_eq!(machine.read(&entry("iosched/read_expire")), "250");
}

#[test]
fn after_a_restart_nothing_of_it_is_in_force() {
    let machine = Machine::new("bare-metal-numa");
    let (boot, swappiness) = ("/proc/sys/kernel/random/boot_id", "/proc/sys/vm/swappiness");
    machine.done(&["apply", "swappiness"]);
    machine.set(boot, "another");
    machine.set(swappiness, "45");
    assert!(
        machine
            .done(&["undo", "--dry-run"])
            .contains("has started anew")
    );
    // Applied at boot: what the machine has started with is the first value now.
    machine.done(&["apply", "swappiness"]);
    machine.done(&["undo"]);
    assert_eq!(machine.read(swappiness), "45");
    machine.done(&["apply", "swappiness"]);
    machine.set(boot, "a third");
    assert!(machine.done(&["undo"]).contains("has started anew"));
    assert_eq!(machine.read(swappiness), "1");
    assert!(!machine.state.exists());
}

#[test]
fn a_crash_between_keeping_and_writing_loses_nothing() {
    let machine = Machine::new("cloud-vm");
    let first = machine.tree();
    apply_all(&machine);
    // As if it had been killed before its first write: all is kept, nothing is written.
    for (path, text) in &first {
        fs::write(machine.place(path), format!("{text}\n")).unwrap();
    }
    machine.done(&["undo"]);
    assert_same("cloud-vm", &machine, &first);
    assert!(!machine.state.exists());
}

#[test]
fn nothing_is_written_where_values_cannot_be_kept() {
    let machine = Machine::new("bare-metal-numa");
    let first = machine.tree();
    // Where the state's folder should be is a file.
    fs::write(machine.state.parent().unwrap(), "").unwrap();
    let error = machine.tune(&["apply"]).unwrap_err().to_string();
    assert!(
        error.contains("tune.json") && error.contains("nothing was written"),
        "{error}"
    );
    assert_eq!(machine.tree(), first);
    fs::remove_file(machine.state.parent().unwrap()).unwrap();
    fs::create_dir(machine.state.parent().unwrap()).unwrap();
    fs::write(&machine.state, "not ours").unwrap();
    let error = machine.tune(&["apply"]).unwrap_err().to_string();
    assert!(error.contains("is not a state file"), "{error}");
    assert_eq!(machine.tree(), first);
}

#[test]
fn an_entry_that_is_gone_is_told_and_others_come_back() {
    let machine = Machine::new("bare-metal-numa");
    machine.done(&["apply", "swappiness", "damon"]);
    fs::remove_file(machine.place("/sys/module/damon_reclaim/parameters/enabled")).unwrap();
    let told = machine.tune(&["undo"]).unwrap();
    assert!(
        matches!(told.ending, Ending::Failed(TuneError::NotBack(1))),
        "{told:?}"
    );
    assert!(
        told.text
            .contains("damon_reclaim/parameters/enabled: is not there any more")
    );
    assert_eq!(machine.read("/proc/sys/vm/swappiness"), "60");
}

#[test]
fn a_memory_policy_is_held_against_the_brokers_cpus() {
    let machine = Machine::new("bare-metal-numa");
    let verdict = |policy: &str, cores: &str| {
        let map = format!("55d0f3a00000 {policy} file=/usr/bin/coati mapped=120 N0=120");
        machine.set("/proc/self/numa_maps", &map);
        machine.set(
            "/proc/self/status",
            &format!("Cpus_allowed_list:\t{cores}\nMems_allowed_list:\t0-1"),
        );
        let rows = machine.check();
        let row = rows.iter().find(|row| row.name == "numa-policy").unwrap();
        row.verdict.clone()
    };
    assert_eq!(verdict("default", "0-15"), "good");
    assert_eq!(verdict("bind:0", "0-3"), "good");
    assert_eq!(verdict("bind=static:0-1", "0-15"), "good");
    assert_eq!(verdict("bind:0", "0-15"), "warning");
    assert_eq!(verdict("bind:1", "0-3"), "warning");
    assert_eq!(verdict("interleave:0-1", "0-15"), "warning");
    assert_eq!(verdict("somewhere:0", "0-15"), "unknown");
}

#[test]
fn exits_tell_the_worst() {
    let code =
        |machine: &str, words: &[&str]| match Machine::new(machine).tune(words).unwrap().ending {
            Ending::Well => 0,
            Ending::Found(code) => code,
            Ending::Failed(error) => panic!("{error}"),
            Ending::Interrupted => panic!("nobody has interrupted it"),
        };
    assert_eq!(code("old-kernel", &["check"]), 4);
    assert_eq!(code("cloud-vm", &["check"]), 3);
    // A hint, and one that is unknown.
    assert_eq!(code("bare-metal-numa", &["check", "cpu-idle"]), 0);
    assert_eq!(code("cloud-vm", &["check", "cpu-governor"]), 0);
}

#[test]
fn a_name_that_is_none_is_refused() {
    let machine = Machine::new("laptop");
    for words in [["check", "swapiness"], ["apply", "swapiness"]] {
        let error = machine.tune(&words).unwrap_err().to_string();
        assert!(
            error.starts_with("there is no tuner swapiness; there are cpu-governor, "),
            "{error}"
        );
    }
}

#[test]
fn a_check_by_name_explains() {
    let text = Machine::new("laptop")
        .tune(&["check", "tcp-buffers", "smt"])
        .unwrap()
        .text;
    for word in [
        "good",
        "tcp-buffers",
        "tcp_rmem 32 MiB",
        "needs",
        "costs",
        "ip-sysctl.rst",
        "taskset -c",
    ] {
        assert!(text.contains(word), "{word} in\n{text}");
    }
    assert!(!text.contains("swappiness"));
}

#[test]
fn fewer_cores_leave_cpus_for_interrupts() {
    let machine = Machine::new("old-kernel");
    let told = machine
        .tune(&["check", "disk-interrupts", "--json", "--cores", "2"])
        .unwrap();
    // Its CPUs 2 and 3 are not the broker's, and so may take them.
    assert!(told.text.contains("\"to\": \"2-3\""), "{}", told.text);
    let told = machine
        .tune(&["check", "disk-interrupts", "--json", "--cores", "1"])
        .unwrap();
    assert!(told.text.contains("\"verdict\": \"good\""), "{}", told.text);
}
