//! Owns reading a profile: TOML, each key with its line, so that what is wrong is said of the place where it stands.

use std::collections::BTreeMap;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::{self, Fault};
use super::{CORES_MAX, Connections, Core, Facts, KEYS, Key, Preset, Profile, Role, Roles};
use crate::cpus::{CPUS_MAX, CpuSet};

/// Memory nodes that a kernel may have.
const NODES_MAX: u64 = 1024;

/// Why a text is no profile, or none for this machine.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("line {line}: this is no TOML: {reason}")]
    Toml { line: usize, reason: String },
    /// `line` is that of the key, or where it should have stood.
    #[error("line {line}, {key}: {reason}")]
    Key {
        line: usize,
        key: String,
        reason: String,
    },
}

/// Why a file is no profile for this machine; it names the file.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("{path}, {error}")]
    Profile { path: String, error: ProfileError },
}

/// The profile in a file, if it is one that this machine can have.
pub fn read(path: &Path, facts: &Facts) -> Result<Profile, ReadError> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| ReadError::Io {
        path: name(),
        error,
    })?;
    load(&text, facts).map_err(|error| ReadError::Profile {
        path: name(),
        error,
    })
}

/// The profile in `text`, if it is one that this machine can have.
pub fn load(text: &str, facts: &Facts) -> Result<Profile, ProfileError> {
    let (profile, lines) = placed(text)?;
    check::on_machine(&profile, facts).map_err(|fault| lines.error(fault))?;
    Ok(profile)
}

/// The profile in `text`, if some machine can have it.
pub fn parse(text: &str) -> Result<Profile, ProfileError> {
    placed(text).map(|(profile, _)| profile)
}

/// The profile, and where its keys stand.
fn placed(text: &str) -> Result<(Profile, Lines), ProfileError> {
    let table = DeTable::parse(text).map_err(|error| ProfileError::Toml {
        line: line_at(text, error.span().map_or(0, |span| span.start)),
        reason: error.message().to_owned(),
    })?;
    let mut reading = Reading {
        text,
        lines: Lines::default(),
    };
    let profile = reading.profile(table.get_ref())?;
    let lines = reading.lines;
    check::by_itself(&profile).map_err(|fault| lines.error(fault))?;
    Ok((profile, lines))
}

fn line_at(text: &str, position: usize) -> usize {
    let before = text.as_bytes().iter().take(position);
    before.filter(|byte| **byte == b'\n').count() + 1
}

/// Where each key stands: of a core by its place among the cores, or of the whole. An empty name is the core itself.
#[derive(Default)]
struct Lines(BTreeMap<(Option<usize>, String), usize>);

impl Lines {
    fn of(&self, core: Option<usize>, key: &str) -> usize {
        let own = self.0.get(&(core, key.to_owned()));
        own.or_else(|| self.0.get(&(core, String::new())))
            .copied()
            .unwrap_or(1)
    }

    fn error(&self, fault: Fault) -> ProfileError {
        ProfileError::Key {
            line: self.of(fault.core, fault.key),
            key: fault.key.to_owned(),
            reason: fault.reason,
        }
    }
}

struct Reading<'a> {
    text: &'a str,
    lines: Lines,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reading<'_> {
    fn profile(&mut self, table: &DeTable<'_>) -> Result<Profile, ProfileError> {
        let mut profile = Profile::default();
        for (name, value) in table.iter() {
            let key = name.get_ref().as_ref();
            let line = self.note(None, key, name.span().start);
            let refuse = |reason: String| refused(line, key, reason);
            match key {
                "preset" => {
                    let names = Preset::ALL.map(Preset::name);
                    let at = one_of(value, &names).map_err(refuse)?;
                    profile.preset = Some(Preset::ALL[at]);
                }
                "connections" => {
                    let names = Connections::ALL.map(Connections::name);
                    profile.connections =
                        Connections::ALL[one_of(value, &names).map_err(refuse)?];
                }
                "irq_free_cpus" => {
                    let cpus: Result<CpuSet, String> =
                        array(value).and_then(|all| all.iter().map(cpu_number).collect());
                    profile.irq_free_cpus = cpus.map_err(refuse)?;
                }
                "core" => profile.cores = self.cores(line, value)?,
                _ => {
                    let known = ["preset", "connections", "irq_free_cpus", "[[core]]"];
                    return Err(refuse(unknown(&known)));
                }
            }
        }
        Ok(profile)
    }

    /// The line of a key, or of something that has none.
    fn note(&mut self, core: Option<usize>, key: &str, position: usize) -> usize {
        let line = line_at(self.text, position);
        self.lines.0.insert((core, key.to_owned()), line);
        line
    }

    fn cores(&mut self, line: usize, value: &Value<'_>) -> Result<Vec<Core>, ProfileError> {
        let not_tables = || refused(line, "core", "each core is a table: [[core]]".into());
        let DeValue::Array(tables) = value.get_ref() else {
            return Err(not_tables());
        };
        let mut cores = Vec::new();
        for (place, value) in tables.iter().enumerate() {
            let DeValue::Table(table) = value.get_ref() else {
                return Err(not_tables());
            };
            let line = self.note(Some(place), "", value.span().start);
            if place == CORES_MAX {
                let reason = format!("a broker has {CORES_MAX} cores at most");
                return Err(refused(line, "core", reason));
            }
            cores.push(self.core(place, table)?);
        }
        Ok(cores)
    }

    fn core(&mut self, place: usize, table: &DeTable<'_>) -> Result<Core, ProfileError> {
        let mut core = Core::default();
        for (name, value) in table.iter() {
            let key = name.get_ref().as_ref();
            let line = self.note(Some(place), key, name.span().start);
            let refuse = |reason: String| refused(line, key, reason);
            match key {
                "cpu" => core.cpu = cpu_number(value).map_err(refuse)?,
                "node" => {
                    let node = whole(value).and_then(|node| match node < NODES_MAX {
                        true => Ok(node as u32),
                        false => Err(format!(
                            "{node} is out of bounds: it goes from 0 to {}",
                            NODES_MAX - 1
                        )),
                    });
                    core.node = Some(node.map_err(refuse)?);
                }
                "roles" => core.roles = roles(value).map_err(refuse)?,
                "stay_awake" => match value.get_ref() {
                    DeValue::Boolean(truth) => core.stay_awake = *truth,
                    _ => return Err(refuse("it takes true or false".into())),
                },
                _ => {
                    let Some(number) = Key::named(key) else {
                        let known = ["cpu", "node", "roles", "stay_awake"].into_iter();
                        let known: Vec<&str> =
                            known.chain(KEYS.iter().map(|key| key.name)).collect();
                        return Err(refuse(unknown(&known)));
                    };
                    let value = whole(value).map_err(refuse)?;
                    if let Some(reason) = number.refusal(value) {
                        return Err(refuse(reason));
                    }
                    (number.set)(&mut core, Some(value));
                }
            }
        }
        for needed in ["cpu", "roles"] {
            if !table.keys().any(|name| name.get_ref() == needed) {
                let line = self.lines.of(Some(place), "");
                return Err(refused(line, needed, "a core has to say it".into()));
            }
        }
        Ok(core)
    }
}

fn refused(line: usize, key: &str, reason: String) -> ProfileError {
    ProfileError::Key {
        line,
        key: key.to_owned(),
        reason,
    }
}

fn unknown(known: &[&str]) -> String {
    format!("there is no such key; there are {}", known.join(", "))
}

fn whole(value: &Value<'_>) -> Result<u64, String> {
    let wanted = || "it takes a whole number".to_owned();
    match value.get_ref() {
        DeValue::Integer(number) => {
            u64::from_str_radix(number.as_str(), number.radix()).map_err(|_| wanted())
        }
        _ => Err(wanted()),
    }
}

fn cpu_number(value: &Value<'_>) -> Result<u32, String> {
    let cpu = whole(value)?;
    match u32::try_from(cpu).ok().filter(|cpu| *cpu < CPUS_MAX) {
        Some(cpu) => Ok(cpu),
        None => Err(format!(
            "{cpu} is out of bounds: it goes from 0 to {}",
            CPUS_MAX - 1
        )),
    }
}

fn array<'a, 'b>(value: &'a Value<'b>) -> Result<&'a [Value<'b>], String> {
    match value.get_ref() {
        DeValue::Array(values) => Ok(values),
        _ => Err("it takes an array".into()),
    }
}

/// Its place among the names.
fn one_of(value: &Value<'_>, names: &[&str]) -> Result<usize, String> {
    let chosen = match value.get_ref() {
        DeValue::String(text) => names.iter().position(|name| name == text),
        _ => None,
    };
    chosen.ok_or_else(|| {
        let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        format!("it is one of {}", quoted.join(", "))
    })
}

fn roles(value: &Value<'_>) -> Result<Roles, String> {
    let names = Role::ALL.map(Role::name);
    let mut roles = Roles::NONE;
    for value in array(value)? {
        let role =
            Role::ALL[one_of(value, &names).map_err(|reason| format!("each {}", &reason[3..]))?];
        if roles.has(role) {
            return Err(format!("{:?} is there twice", role.name()));
        }
        roles = roles.with(role);
    }
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = r#"roles = ["network", "partitions", "background", "controller"]"#;

    fn said(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_profile_says_what_each_core_does() {
        let profile = parse(
            "preset = \"latency\"\nconnections = \"least\"\nirq_free_cpus = [1, 2]\n\n\
             [[core]]\ncpu = 2\nnode = 0\nroles = [\"network\", \"partitions\"]\nstay_awake = true\n\
             tail_cache_bytes = 0x800_0000\nwrite_depth = 4\n\n\
             [[core]]\ncpu = 1\nroles = [\"controller\", \"background\"]\n\n\
             [[core]]\ncpu = 0\nroles = []\n",
        )
        .unwrap();
        assert_eq!(profile.preset, Some(Preset::Latency));
        assert_eq!(profile.connections, Connections::Least);
        assert_eq!(profile.irq_free_cpus.to_string(), "1-2");
        let first = &profile.cores[0];
        assert_eq!(
            (first.cpu, first.node, first.stay_awake),
            (2, Some(0), true)
        );
        assert_eq!(first.tail_cache_bytes, Some(128 << 20));
        assert_eq!((first.write_depth, first.write_bytes), (Some(4), None));
        assert_eq!(first.roles.to_string(), "network, partitions");
        // The one that leads is the broker's first; one without a role is none of its.
        let cpus: Vec<u32> = profile.shards().iter().map(|core| core.cpu).collect();
        assert_eq!(cpus, [1, 2]);
        assert_eq!(profile.cpus().to_string(), "1-2");
        assert_eq!(profile.budget_bytes(), 128 << 20);
    }

    #[test]
    fn what_is_no_profile_is_told_with_its_line() {
        let core = |more: &str| format!("\n[[core]]\ncpu = 0\n{ALL}\n{more}\n");
        for (text, expected) in [
            ("preset = \n".to_owned(), "line 1: this is no TOML: "),
            ("[[core]\ncpu = 1".into(), "line 1: this is no TOML: "),
            (
                "\npresets = 1".into(),
                "line 2, presets: there is no such key; there are preset, connections, irq_free_cpus, [[core]]",
            ),
            (
                "preset = \"fast\"".into(),
                "line 1, preset: it is one of \"throughput\", \"latency\", \"shared\"",
            ),
            (
                "connections = 1".into(),
                "line 1, connections: it is one of \"least\", \"home\", \"partitions\"",
            ),
            (
                "irq_free_cpus = \"0-3\"".into(),
                "line 1, irq_free_cpus: it takes an array",
            ),
            (
                "irq_free_cpus = [8192]".into(),
                "line 1, irq_free_cpus: 8192 is out of bounds: it goes from 0 to 8191",
            ),
            (
                "core = 1".into(),
                "line 1, core: each core is a table: [[core]]",
            ),
            (
                "[[core]]\nroles = []".into(),
                "line 1, cpu: a core has to say it",
            ),
            (
                "\n[[core]]\ncpu = 0".into(),
                "line 2, roles: a core has to say it",
            ),
            (
                "[[core]]\ncpu = -1".into(),
                "line 2, cpu: it takes a whole number",
            ),
            (
                "[[core]]\ncpu = 0\nroles = [\"net\"]".into(),
                "line 3, roles: each is one of \"network\", \"partitions\", \"background\", \"controller\"",
            ),
            (
                "[[core]]\ncpu = 0\nroles = [\"network\", \"network\"]".into(),
                "line 3, roles: \"network\" is there twice",
            ),
            (
                core("stay_awake = 1"),
                "line 5, stay_awake: it takes true or false",
            ),
            (
                core("node = 5000"),
                "line 5, node: 5000 is out of bounds: it goes from 0 to 1023",
            ),
            (
                core("write_bytes = 1.5"),
                "line 5, write_bytes: it takes a whole number",
            ),
            (
                core("write_bytes = 5"),
                "line 5, write_bytes: 5 is out of bounds: it goes from 1048576 (1 MiB) to 16777216 (16 MiB)",
            ),
            (
                core("\nread_ahed_bytes = 5"),
                "line 6, read_ahed_bytes: there is no such key; there are cpu, node, roles, stay_awake, tail_cache_bytes,",
            ),
        ] {
            let told = said(&text);
            assert!(told.starts_with(expected), "{text}\n{told}\n{expected}");
        }
    }

    #[test]
    fn a_key_that_is_there_twice_is_no_toml() {
        let told = said("[[core]]\ncpu = 0\ncpu = 1\n");
        assert!(told.starts_with("line 3: "), "{told}");
    }
}
