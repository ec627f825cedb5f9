//! Chooses profiles for five pictures of machines, and holds them against these and each other.

use std::fs;

use coati_tuning::TuneError;
use coati_tuning::profile::{self, Preset, Profile};

use crate::picture::{MACHINES, Machine};

fn chosen(machine: &Machine, words: &[&str]) -> (Profile, String) {
    let mut line = vec!["profile", "--output", "-"];
    line.extend(words);
    let text = machine.done(&line);
    let profile = profile::parse(&text);
    (
        profile.unwrap_or_else(|error| panic!("{error}\n{text}")),
        text,
    )
}

/// What `tune profile` writes for each; the `.profile` beside its tree has been read and found right. `COATI_BLESS=1` writes it
/// anew, to be read again.
#[test]
fn each_machine_has_its_profile() {
    for name in MACHINES {
        let machine = Machine::new(name);
        let before = machine.tree();
        let (_, text) = chosen(&machine, &[]);
        let path = format!(
            "{}/tests/machines/{name}.profile",
            env!("CARGO_MANIFEST_DIR")
        );
        if std::env::var_os("COATI_BLESS").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, fs::read_to_string(&path).unwrap(), "{name}");
        assert_eq!(machine.tree(), before, "{name}: something was written");
    }
}

/// Every preset, with as many cores as there may be, is one that the machine can have, and says why each value is what it is.
#[test]
fn every_preset_fits_every_machine() {
    for name in MACHINES {
        let machine = Machine::new(name);
        for preset in Preset::ALL {
            for cores in ["1", "2", ""] {
                let mut words = vec!["--preset", preset.name()];
                if !cores.is_empty() {
                    words.extend(["--cores", cores]);
                }
                let (profile, text) = chosen(&machine, &words);
                assert_eq!(profile.preset, Some(preset), "{name}");
                assert!(
                    preset != Preset::Shared || profile.cores.iter().all(|core| !core.stay_awake)
                );
                let file = machine.beside("profile.toml");
                fs::write(&file, &text).unwrap();
                let file = file.to_str().unwrap();
                machine.tune(&["check", "--profile", file]).unwrap();
                let first = text.split("[[core]]").next().unwrap();
                for key in ["preset", "connections", "irq_free_cpus"] {
                    let at = first
                        .lines()
                        .position(|line| line.starts_with(key))
                        .unwrap();
                    let above = first.lines().nth(at - 1).unwrap();
                    assert!(
                        above.starts_with('#'),
                        "{name}: {key} has no reason\n{text}"
                    );
                }
            }
        }
    }
}

#[test]
fn interrupts_go_where_the_profile_wants_them() {
    let machine = Machine::new("bare-metal-numa");
    let file = machine.beside("profile.toml");
    let file = file.to_str().unwrap();
    machine.done(&["profile", "--preset", "latency", "--output", file]);
    let profile = profile::parse(&fs::read_to_string(file).unwrap()).unwrap();
    assert!(!profile.irq_free_cpus.is_empty());
    machine.done(&[
        "apply",
        "disk-interrupts",
        "nic-interrupts",
        "--profile",
        file,
    ]);
    // The disk's are the driver's to place.
    for interrupt in 91..=98 {
        let on = machine.read(&format!("/proc/irq/{interrupt}/smp_affinity_list"));
        let cpu: u32 = on.parse().unwrap();
        assert!(!profile.irq_free_cpus.contains(cpu), "{interrupt} on {cpu}");
    }
    let rows = machine.tune(&["check", "--json", "nic-interrupts", "--profile", file]);
    assert!(rows.unwrap().text.contains("\"verdict\": \"good\""));
}

#[test]
fn a_profile_that_this_machine_cannot_have_is_refused_by_check() {
    let machine = Machine::new("container");
    let file = machine.beside("profile.toml");
    let path = file.to_str().unwrap();
    let (_, text) = chosen(&machine, &[]);
    let told = |from: &str, to: &str| {
        assert!(text.contains(from), "{from} in\n{text}");
        fs::write(&file, text.replacen(from, to, 1)).unwrap();
        let error = machine.tune(&["check", "--profile", path]).unwrap_err();
        assert!(matches!(error, TuneError::NoProfile(_)), "{error}");
        error.to_string()
    };
    let error = told("cpu = 0", "cpu = 7");
    assert!(
        error.starts_with(path)
            && error.ends_with(
                ", cpu: this process may not run on CPU 7, only on 0-5 (cpuset, affinity)"
            ),
        "{error}"
    );
    let error = told("cpu = 0", "cpu = 8");
    assert!(
        error.ends_with("cpu: there is no CPU 8: this machine has 0-7"),
        "{error}"
    );
    machine.set("/sys/fs/cgroup/memory.max", "100000000");
    let error = told("cpu = 0", "cpu = 0");
    assert!(
        error.ends_with("and the control group has 100000000 (95 MiB)"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_there_stays() {
    let machine = Machine::new("laptop");
    let file = machine.beside("mine.toml");
    fs::write(&file, "mine").unwrap();
    let error = machine
        .tune(&["profile", "--output", file.to_str().unwrap()])
        .unwrap_err();
    assert!(error.to_string().contains("is there already"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    let error = machine.tune(&["profile", "--disk", file.to_str().unwrap(), "--output", "-"]);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("holds no figures of `coati tune disk --json=FILE`"),
        "{error}"
    );
}

#[test]
fn the_disks_figures_count() {
    let machine = Machine::new("cloud-vm");
    let file = machine.beside("disk.json");
    let point = r#"{"bytes": 1048576, "depth": 16, "mb_per_second": 3210.0, "per_second": 3000.0, "p50_ms": 1.0, "p99_ms": 2.0}"#;
    let verdict = format!(
        r#"{{"verdict": {{"sentences": [], "durable": null, "synced_write": null, "write": null, "write_saturation": {point},
        "synced_saturation": null, "one_reader": null, "readers": null}}, "conditions": {{}}}}"#
    );
    fs::write(&file, verdict).unwrap();
    let (profile, text) = chosen(
        &machine,
        &["--preset", "throughput", "--disk", file.to_str().unwrap()],
    );
    assert_eq!(
        (profile.cores[0].write_bytes, profile.cores[0].write_depth),
        (Some(4 << 20), Some(4))
    );
    assert!(
        text.contains("16 MiB in flight are enough for this disk (3210 MB/s)"),
        "{text}"
    );
}
