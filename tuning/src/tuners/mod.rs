//! Owns the list of all tuners, in the order in which they are shown and applied.

mod disk;
mod interrupts;
mod kernel;
mod memory;
mod network;
mod processor;

use crate::cpus::CpuSet;
use crate::tuner::Tuner;

pub fn all() -> impl Iterator<Item = &'static Tuner> {
    let areas: [&[Tuner]; 6] = [
        processor::TUNERS,
        memory::TUNERS,
        disk::TUNERS,
        interrupts::TUNERS,
        network::TUNERS,
        kernel::TUNERS,
    ];
    areas.into_iter().flatten()
}

/// `performance on CPUs 0-3, powersave on CPUs 4-7`.
fn by_value<'a>(values: impl IntoIterator<Item = (u32, &'a str)>) -> String {
    let mut groups: Vec<(&str, Vec<u32>)> = Vec::new();
    for (cpu, value) in values {
        match groups.iter_mut().find(|(of, _)| *of == value) {
            Some((_, cpus)) => cpus.push(cpu),
            None => groups.push((value, vec![cpu])),
        }
    }
    let said = groups.into_iter().map(|(value, cpus)| {
        let cpus: CpuSet = cpus.into_iter().collect();
        format!("{value} on {}", cpus_named(&cpus))
    });
    said.collect::<Vec<_>>().join(", ")
}

/// `CPU 3`, `CPUs 0-3`, `no CPU`.
fn cpus_named(cpus: &CpuSet) -> String {
    match cpus.len() {
        0 => "no CPU".into(),
        1 => format!("CPU {cpus}"),
        _ => format!("CPUs {cpus}"),
    }
}

/// In the largest unit that leaves little behind the point.
fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) if bytes.is_multiple_of(*unit) => format!("{} {name}", bytes / unit),
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_one_tuner_and_areas_stay_together() {
        let names: Vec<&str> = all().map(|tuner| tuner.name).collect();
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        let mut areas: Vec<_> = all().map(|tuner| tuner.area).collect();
        areas.dedup();
        assert_eq!(areas.len(), 5);
    }

    #[test]
    fn sizes_and_cpus_are_said_shortly() {
        assert_eq!(bytes(4 << 30), "4 GiB");
        assert_eq!(bytes((3 << 30) / 2), "1.5 GiB");
        assert_eq!(bytes(512), "512 bytes");
        let said = by_value([(0, "a"), (1, "b"), (2, "a"), (3, "a")]);
        assert_eq!(said, "a on CPUs 0,2-3, b on CPU 1");
    }
}
