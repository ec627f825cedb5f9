//! Owns under which conditions a run was made: what was typed, when, and on which machine. A figure means little without.

use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::broker::TICKS_PER_SECOND;
use crate::clock;
use crate::latency::round;
use crate::recorder::mib;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Conditions {
    /// As it was typed.
    pub command: String,
    /// The broker that was asked first.
    pub broker: String,
    /// Milliseconds since 1970.
    pub started_ms: i64,
    pub version: String,
    pub machine: Machine,
}

/// The generator's; it is the broker's as well when the report tells the broker's cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: f64,
    /// What runs beside shows here: the load of the minute before the run.
    pub load_before: Option<f64>,
}

impl Conditions {
    /// Those of a run against `broker` that begins now.
    pub fn now(broker: &str) -> Conditions {
        Conditions {
            command: typed(),
            broker: broker.to_owned(),
            started_ms: clock::wall_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: Machine::this(),
        }
    }
}

impl Machine {
    /// The one that this runs on.
    pub fn this() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory_kib = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|size| size.split(' ').next()?.parse::<u64>().ok());
        let load = read("/proc/loadavg");
        Machine {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: mib(memory_kib.unwrap_or(0) << 10),
            load_before: load
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok().map(round)),
        }
    }
}

/// Time that the machine's processors have spent since it started, summed over them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineTime {
    pub busy: Duration,
    /// They wanted to run, and the host of this virtual machine let others run.
    pub stolen: Duration,
}

impl MachineTime {
    /// None where the kernel does not tell.
    pub fn now() -> Option<MachineTime> {
        MachineTime::of(&fs::read_to_string("/proc/stat").ok()?)
    }

    pub fn since(self, earlier: MachineTime) -> MachineTime {
        MachineTime {
            busy: self.busy.saturating_sub(earlier.busy),
            stolen: self.stolen.saturating_sub(earlier.stolen),
        }
    }

    /// From a text as in /proc/stat.
    fn of(stat: &str) -> Option<MachineTime> {
        let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = all
            .split_ascii_whitespace()
            .map_while(|field| field.parse().ok())
            .collect();
        let &[user, nice, system, _idle, _iowait, irq, softirq, stolen, ..] = &ticks[..] else {
            return None;
        };
        let time = |ticks: u64| Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND);
        Some(MachineTime {
            busy: time(user + nice + system + irq + softirq),
            stolen: time(stolen),
        })
    }
}

/// What was typed to start this process.
pub fn typed() -> String {
    command(std::env::args())
}

/// A line that a shell would understand.
fn command(mut arguments: impl Iterator<Item = String>) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    let program = arguments.next().unwrap_or_default();
    let mut words = vec![program.rsplit('/').next().unwrap_or_default().to_owned()];
    words.extend(arguments.map(|word| {
        if !word.is_empty() && word.bytes().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    }));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_can_be_pasted() {
        let typed = ["/usr/bin/coati", "bench", "--topic", "it's", "-b", "h:1"];
        let line = command(typed.map(str::to_owned).into_iter());
        assert_eq!(line, r"coati bench --topic 'it'\''s' -b h:1");
    }

    #[test]
    fn time_is_told_by_whose_it_was() {
        let stat = "cpu  100 20 30 4000 500 6 44 70 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        let time = MachineTime::of(stat).unwrap();
        assert_eq!(time.busy, Duration::from_secs(2));
        assert_eq!(time.stolen, Duration::from_millis(700));
        assert_eq!(MachineTime::of("cpu  1 2"), None);
        assert!(MachineTime::now().unwrap().busy > Duration::ZERO);
    }

    #[test]
    fn the_machine_says_what_it_is() {
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.memory_mib > 0.0);
        assert!(!machine.kernel.is_empty());
    }
}
