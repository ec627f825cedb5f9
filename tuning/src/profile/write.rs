//! Owns how a profile is written: TOML with its reasons as comments, so that whoever reads it knows why and what else there is.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{KEYS, Profile, Role};

/// Columns of a comment.
const WIDTH: usize = 110;

/// Why values are what they are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reasons {
    /// What stands above everything.
    pub head: Vec<String>,
    /// Of a key, or of a core by its CPU: `core` is the core itself. What an earlier core has said in the same words is not said
    /// again.
    pub of: BTreeMap<(Option<u32>, &'static str), String>,
}

impl Reasons {
    pub fn give(&mut self, cpu: Option<u32>, key: &'static str, reason: impl Into<String>) {
        self.of.insert((cpu, key), reason.into());
    }
}

impl Profile {
    /// As [`super::parse()`] reads it.
    pub fn to_toml(&self) -> String {
        self.to_toml_with(&Reasons::default())
    }

    pub fn to_toml_with(&self, reasons: &Reasons) -> String {
        let mut writing = Writing {
            text: String::new(),
            reasons,
            said: Vec::new(),
        };
        for line in &reasons.head {
            writing.comment(line);
        }
        if !reasons.head.is_empty() {
            writing.text.push('\n');
        }
        if let Some(preset) = self.preset {
            writing.key(None, "preset", &format!("{:?}", preset.name()));
        }
        writing.key(
            None,
            "connections",
            &format!("{:?}", self.connections.name()),
        );
        let cpus: Vec<String> = self
            .irq_free_cpus
            .iter()
            .map(|cpu| cpu.to_string())
            .collect();
        writing.key(None, "irq_free_cpus", &format!("[{}]", cpus.join(", ")));
        for core in &self.cores {
            let cpu = Some(core.cpu);
            writing.text.push('\n');
            writing.reason(cpu, "core");
            writing.text.push_str("[[core]]\n");
            writing.key(cpu, "cpu", &core.cpu.to_string());
            if let Some(node) = core.node {
                writing.key(cpu, "node", &node.to_string());
            }
            let roles: Vec<String> = core
                .roles
                .iter()
                .map(|role: Role| format!("{:?}", role.name()))
                .collect();
            writing.key(cpu, "roles", &format!("[{}]", roles.join(", ")));
            if !core.roles.is_empty() {
                writing.key(cpu, "stay_awake", &core.stay_awake.to_string());
            }
            for key in &KEYS {
                if let Some(value) = (key.get)(core) {
                    writing.key(cpu, key.name, &value.to_string());
                }
            }
        }
        writing.text
    }
}

struct Writing<'a> {
    text: String,
    reasons: &'a Reasons,
    said: Vec<(&'static str, &'a str)>,
}

impl Writing<'_> {
    fn key(&mut self, cpu: Option<u32>, key: &'static str, value: &str) {
        self.reason(cpu, key);
        writeln!(self.text, "{key} = {value}").expect("a string takes all");
    }

    fn reason(&mut self, cpu: Option<u32>, key: &'static str) {
        let reasons = self.reasons;
        let Some(reason) = reasons.of.get(&(cpu, key)) else {
            return;
        };
        if !self.said.contains(&(key, reason)) {
            self.said.push((key, reason));
            self.comment(reason);
        }
    }

    /// Broken into lines between words.
    fn comment(&mut self, text: &str) {
        let mut line = String::from("#");
        for word in text.split_whitespace() {
            if line.len() + 1 + word.len() > WIDTH {
                self.text.push_str(&line);
                self.text.push('\n');
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        self.text.push_str(&line);
        self.text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpus::CpuSet;
    use crate::profile::{Connections, Core, Preset, Roles, parse};

    #[test]
    fn what_is_written_is_read_again() {
        let mut first = Core {
            cpu: 3,
            node: Some(1),
            roles: Roles::all(),
            stay_awake: true,
            ..Core::default()
        };
        for key in &KEYS {
            (key.set)(&mut first, Some(key.least));
        }
        let second = Core {
            cpu: 4,
            ..Core::default()
        };
        let mut profile = Profile {
            preset: Some(Preset::Throughput),
            connections: Connections::Least,
            irq_free_cpus: CpuSet::from_list("3-4").unwrap(),
            cores: vec![first.clone(), second],
        };
        let mut reasons = Reasons::default();
        reasons.head.push("one two ".repeat(40));
        reasons.give(None, "preset", "\n[[core]]\nas it is");
        reasons.give(Some(3), "write_depth", "because");
        let text = profile.to_toml_with(&reasons);
        assert_eq!(parse(&text), Ok(profile.clone()), "{text}");
        assert!(text.contains("# because\nwrite_depth = 1\n"), "{text}");
        assert!(text.lines().all(|line| line.len() <= WIDTH));
        profile.preset = None;
        profile.cores[1] = Core { cpu: 4, ..first };
        profile.cores[1].roles = Role::ALL[..3].iter().copied().collect();
        assert_eq!(parse(&profile.to_toml()), Ok(profile));
    }

    #[test]
    fn a_reason_is_said_once() {
        let core = |cpu| Core {
            cpu,
            ..Core::default()
        };
        let profile = Profile {
            cores: vec![core(0), core(1), core(2)],
            ..Profile::default()
        };
        let mut reasons = Reasons::default();
        reasons.give(Some(0), "core", "left free");
        reasons.give(Some(1), "core", "left free");
        reasons.give(Some(2), "core", "left free, too");
        let text = profile.to_toml_with(&reasons);
        assert_eq!(text.matches("# left free").count(), 2, "{text}");
    }
}
