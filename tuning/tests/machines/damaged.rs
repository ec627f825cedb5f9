//! Damages every entry of five pictures of machines, one after another and in every way, and checks: what cannot be read is
//! unknown, never an alarm, never a failure, and nothing is written because of it.

use std::fs;
use std::path::Path;

use crate::picture::{Machine, Row};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    Missing,
    /// Reading it fails, for root too.
    Unreadable,
    Empty,
    Nonsense,
    NotText,
    Huge,
}

const DAMAGES: [Damage; 6] = [
    Damage::Missing,
    Damage::Unreadable,
    Damage::Empty,
    Damage::Nonsense,
    Damage::NotText,
    Damage::Huge,
];

impl Damage {
    fn to(self, place: &Path) {
        fs::remove_file(place).unwrap();
        match self {
            Damage::Missing => {}
            Damage::Unreadable => fs::create_dir(place).unwrap(),
            Damage::Empty => fs::write(place, "").unwrap(),
            Damage::Nonsense => fs::write(place, "?? non sense ??\n").unwrap(),
            Damage::NotText => fs::write(place, [0xff, 0x00, 0xfe, b'\n']).unwrap(),
            Damage::Huge => fs::write(place, "99999999999999999999999\n").unwrap(),
        }
    }

    /// What is not there may mean that there is nothing to look at; anything else means nothing.
    fn may_calm(self) -> bool {
        matches!(self, Damage::Missing | Damage::Empty)
    }
}

fn damage_all(name: &str) {
    let machine = Machine::new(name);
    let whole = machine.check();
    let mut wrong = Vec::new();
    for (path, text) in machine.tree() {
        // The name of an interrupt's handler may be anything.
        if path.ends_with("/actions") || path.contains("/msi_irqs/") || path.ends_with("/partition")
        {
            continue;
        }
        let place = machine.place(&path);
        let permissions = fs::metadata(&place).unwrap().permissions();
        for damage in DAMAGES {
            damage.to(&place);
            let rows = machine.check();
            // A profile or a sentence, whatever is there.
            let _told = machine.tune(&["profile", "--output", "-"]);
            for (was, is) in whole.iter().zip(&rows) {
                if !holds(damage, was, is) {
                    wrong.push(format!("{path} {damage:?}: {was:?} became {is:?}"));
                }
            }
            match damage {
                Damage::Missing => {}
                Damage::Unreadable => fs::remove_dir(&place).unwrap(),
                _ => fs::remove_file(&place).unwrap(),
            }
            fs::write(&place, format!("{text}\n")).unwrap();
            fs::set_permissions(&place, permissions.clone()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
    assert_eq!(machine.check(), whole);
}

fn holds(damage: Damage, was: &Row, is: &Row) -> bool {
    if is.verdict == "unknown" {
        return is.changes.is_empty();
    }
    let is_calmer = was.verdict == "unknown" || is.rank() <= was.rank();
    let is_written = |path: &String| was.changes.iter().any(|(other, _)| other == path);
    match damage.may_calm() {
        true => is_calmer && is.changes.iter().all(|(path, _)| is_written(path)),
        false => (&is.verdict, &is.changes) == (&was.verdict, &was.changes),
    }
}

#[test]
fn bare_metal_numa() {
    damage_all("bare-metal-numa");
}

#[test]
fn cloud_vm() {
    damage_all("cloud-vm");
}

#[test]
fn container() {
    damage_all("container");
}

#[test]
fn laptop() {
    damage_all("laptop");
}

#[test]
fn old_kernel() {
    damage_all("old-kernel");
}

#[test]
fn a_machine_of_which_nothing_can_be_read_is_unknown() {
    let machine = Machine::new("laptop");
    for folder in ["proc", "sys"] {
        fs::remove_dir_all(machine.root().join(folder)).unwrap();
    }
    for row in machine.check() {
        assert!(
            ["unknown", "absent"].contains(&row.verdict.as_str()),
            "{row:?}"
        );
        assert!(row.changes.is_empty());
    }
}
