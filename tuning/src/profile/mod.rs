//! What each core of a broker is for and how much it may take: the format of `profile.toml`, and the choice of one for a
//! machine. It knows the broker only by the words of the format.
//!
//! The map: this file (what a profile says), `keys` (its keys with numbers, each with its bounds), `parse` and `write` (TOML),
//! `check` (what cannot be, also on a machine), `facts` (what of a machine counts), `choose` (presets), `command` (what people type).

mod check;
mod choose;
mod command;
mod facts;
mod keys;
mod parse;
mod write;

use std::fmt;

use crate::cpus::CpuSet;

pub use check::Fault;
pub use choose::{Chosen, choose};
pub use command::{ProfileArgs, ProfileCommandError};
pub use facts::Facts;
pub use keys::{KEYS, Key};
pub use parse::{ProfileError, ReadError, load, parse, read};

/// Shards of one broker.
pub const CORES_MAX: usize = 255;

/// One of the sets of choices that `coati tune profile` knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Preset {
    /// All CPUs, large writes and caches: for a machine of the broker's own
    Throughput,
    /// A CPU a physical core, interrupts kept away, cores that never sleep where there are enough
    Latency,
    /// A laptop, or a container with a CPU quota: few cores, small budgets, never spins
    Shared,
}

impl Preset {
    pub const ALL: [Preset; 3] = [Preset::Throughput, Preset::Latency, Preset::Shared];

    pub fn name(self) -> &'static str {
        match self {
            Preset::Throughput => "throughput",
            Preset::Latency => "latency",
            Preset::Shared => "shared",
        }
    }
}

/// On which core a connection is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Connections {
    /// On the one with the fewest when it begins, for good.
    Least,
    /// There at first; one that asks nothing but the group coordinators of one other core moves to that core.
    #[default]
    Home,
    /// As `Home`; also one whose records are all of partitions of one other core moves to that core.
    Partitions,
}

impl Connections {
    pub const ALL: [Connections; 3] = [
        Connections::Least,
        Connections::Home,
        Connections::Partitions,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Connections::Least => "least",
            Connections::Home => "home",
            Connections::Partitions => "partitions",
        }
    }
}

/// What a core does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Accepts and serves connections.
    Network,
    /// Has partitions, and the groups whose coordinators these are.
    Partitions,
    /// What belongs to no partition: the offset checkpoints of the data folder, the removal of what was deleted, the admin endpoint.
    Background,
    /// The metadata and the stop of the broker.
    Controller,
}

impl Role {
    pub const ALL: [Role; 4] = [
        Role::Network,
        Role::Partitions,
        Role::Background,
        Role::Controller,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Role::Network => "network",
            Role::Partitions => "partitions",
            Role::Background => "background",
            Role::Controller => "controller",
        }
    }
}

/// A set of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Roles(u8);

impl Roles {
    pub const NONE: Roles = Roles(0);

    pub fn all() -> Roles {
        Role::ALL.into_iter().collect()
    }

    pub fn has(self, role: Role) -> bool {
        self.0 & (1 << role as u8) != 0
    }

    pub fn with(self, role: Role) -> Roles {
        Roles(self.0 | 1 << role as u8)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Roles {
        roles.into_iter().fold(Roles::NONE, Roles::with)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Role::name).collect();
        match names.is_empty() {
            true => out.write_str("nothing"),
            false => out.write_str(&names.join(", ")),
        }
    }
}

/// One `[[core]]`. A number that is not given is the broker's own; [`KEYS`] says which that is.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Core {
    pub cpu: u32,
    /// The memory node beside the CPU, where its memory is taken from.
    pub node: Option<u32>,
    /// With none the CPU is left free.
    pub roles: Roles,
    /// Never sleeps.
    pub stay_awake: bool,
    pub tail_cache_bytes: Option<u64>,
    pub network_bytes: Option<u64>,
    pub preempt_us: Option<u64>,
    pub cleaner_percent: Option<u64>,
    pub write_bytes: Option<u64>,
    pub write_depth: Option<u64>,
    pub read_ahead_bytes: Option<u64>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Profile {
    /// Whose choices these were at first.
    pub preset: Option<Preset>,
    pub connections: Connections,
    /// CPUs that take no interrupts of disks and network cards, as `coati tune apply --profile` sees to.
    pub irq_free_cpus: CpuSet,
    pub cores: Vec<Core>,
}

impl Profile {
    /// Those that do something, in the order in which the broker numbers them: the one that leads first, all others as they stand.
    pub fn shards(&self) -> Vec<&Core> {
        let mut cores: Vec<&Core> = self
            .cores
            .iter()
            .filter(|core| !core.roles.is_empty())
            .collect();
        cores.sort_by_key(|core| !core.roles.has(Role::Controller));
        cores
    }

    /// The CPUs that do something.
    pub fn cpus(&self) -> CpuSet {
        self.shards().iter().map(|core| core.cpu).collect()
    }

    /// All memory that it gives to caches and connections.
    pub fn budget_bytes(&self) -> u64 {
        let budgets = self
            .cores
            .iter()
            .flat_map(|core| [core.tail_cache_bytes, core.network_bytes]);
        budgets.flatten().fold(0, u64::saturating_add)
    }
}
