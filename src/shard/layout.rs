//! Owns what each core of this broker is for and how much it may take: all of them everything, unless a profile says otherwise.
//! It is decided once, before any core starts, and never changes.

use std::fmt;
use std::time::Duration;

use coati_tuning::profile::{Connections, Core, Profile, Role, Roles};
use tracing::info;

use crate::config::BrokerConfig;
use crate::ids::ShardId;
use crate::io::turn;
use crate::limits::{
    COLD_READ_BYTES, CORE_REQUEST_BYTES_MAX, CORE_RESPONSE_BYTES_MAX, METADATA_TAIL_BYTES,
    SHARDS_MAX,
};
use crate::log::WriteLimits;

const _: () = assert!(SHARDS_MAX as usize == coati_tuning::profile::CORES_MAX);

/// Of a core's time cleaning has so much at most, even of a core that has nothing else to do.
const CLEANER_PERCENT: u32 = 20;

/// A second write begins beside another when this part of a group has come.
const BESIDE_PART: u32 = 4;

/// Of the memory for connections, answers have one part in so many, and requests the others.
const RESPONSE_PART: usize = 3;

/// What belongs to no partition. Each is done by one core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duty {
    Checkpoints,
    Admin,
    Deletion,
}

/// One core.
#[derive(Clone, Debug)]
pub struct Plan {
    pub cpu: usize,
    /// The memory node that its memory should come from.
    pub node: Option<u32>,
    pub roles: Roles,
    pub stay_awake: bool,
    /// How long a task may have the core when others wait.
    pub turn: Duration,
    pub tail_cache_bytes: usize,
    /// Received bytes of requests until they are answered.
    pub request_bytes: usize,
    /// Answers until they are sent.
    pub response_bytes: usize,
    pub cleaner_percent: u32,
    pub writes: WriteLimits,
    pub cold_read_bytes: usize,
}

#[derive(Debug)]
pub struct Layout {
    /// By the shards' numbers.
    cores: Vec<Plan>,
    network: Vec<ShardId>,
    partitions: Vec<ShardId>,
    background: Vec<ShardId>,
    connections: Connections,
}

impl Layout {
    /// As the profile says; without one, all that there is on each of `cpus`.
    pub fn new(config: &BrokerConfig, cpus: &[usize]) -> Layout {
        match &config.profile {
            Some(profile) => Layout::of_profile(config, profile),
            None => Layout::even(config, cpus),
        }
    }

    fn even(config: &BrokerConfig, cpus: &[usize]) -> Layout {
        let leads = |place| match place {
            0 => Roles::all(),
            _ => [Role::Network, Role::Partitions].into_iter().collect(),
        };
        let core = |(place, cpu): (usize, &usize)| Core {
            cpu: *cpu as u32,
            roles: leads(place),
            ..Core::default()
        };
        Layout::of_profile(
            config,
            &Profile {
                cores: cpus.iter().enumerate().map(core).collect(),
                ..Profile::default()
            },
        )
    }

    fn of_profile(config: &BrokerConfig, profile: &Profile) -> Layout {
        let shards = profile.shards();
        let having = |role| -> Vec<ShardId> {
            let having = shards
                .iter()
                .enumerate()
                .filter(|(_, core)| core.roles.has(role));
            having.map(|(place, _)| ShardId(place as u16)).collect()
        };
        let (network, partitions) = (having(Role::Network), having(Role::Partitions));
        let plan = |core: &&Core| plan(config, core, network.len(), partitions.len());
        Layout {
            cores: shards.iter().map(plan).collect(),
            background: having(Role::Background),
            connections: profile.connections,
            network,
            partitions,
        }
    }

    pub fn shards(&self) -> u16 {
        self.cores.len() as u16
    }

    pub fn plan(&self, shard: ShardId) -> &Plan {
        &self.cores[usize::from(shard.0)]
    }

    pub fn plans(&self) -> &[Plan] {
        &self.cores
    }

    /// Those that accept and serve connections.
    pub fn network(&self) -> &[ShardId] {
        &self.network
    }

    /// Those that have partitions.
    pub fn partitions(&self) -> &[ShardId] {
        &self.partitions
    }

    /// Whose duty it is: they are dealt out in turn.
    pub fn core_for(&self, duty: Duty) -> ShardId {
        self.background[duty as usize % self.background.len()]
    }

    /// Whether a connection may go where its requests do.
    pub fn connections_move(&self) -> bool {
        self.connections != Connections::Least
    }

    /// Whether that also goes for its records.
    pub fn connections_follow_records(&self) -> bool {
        self.connections == Connections::Partitions
    }

    /// One line a core.
    pub fn tell(&self) {
        for (core, plan) in self.cores.iter().enumerate() {
            info!("core {core} on {plan}");
        }
    }
}

/// What it does, and how much for that.
impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "CPU {}", self.cpu)?;
        if let Some(node) = self.node {
            write!(out, " of node {node}")?;
        }
        write!(
            out,
            ": {}; turns of {} us",
            self.roles,
            self.turn.as_micros()
        )?;
        if self.stay_awake {
            out.write_str(", stays awake")?;
        }
        if self.roles.has(Role::Network) {
            write!(
                out,
                "; {} MiB for requests, {} MiB for answers, cold reads of {} KiB",
                self.request_bytes >> 20,
                self.response_bytes >> 20,
                self.cold_read_bytes >> 10
            )?;
        }
        if self.roles.has(Role::Partitions) {
            write!(
                out,
                "; {} MiB of tail cache, up to {} writes of {} KiB at a time, compaction up to {} %",
                self.tail_cache_bytes >> 20,
                self.writes.in_flight,
                self.writes.most_bytes >> 10,
                self.cleaner_percent
            )?;
        }
        Ok(())
    }
}

/// What a setting says that was given wins over the profile; what neither says is what it always was.
fn plan(config: &BrokerConfig, core: &Core, network: usize, partitions: usize) -> Plan {
    let bytes = |value: Option<u64>| value.map(|bytes| bytes as usize);
    let share = config.tail_cache_bytes / partitions;
    let tail_cache_bytes = match core.roles.has(Role::Partitions) {
        true if config.given.contains_key("log.tail.cache.bytes") => share,
        true => bytes(core.tail_cache_bytes).unwrap_or(share),
        false => METADATA_TAIL_BYTES,
    };
    let of_network = bytes(core.network_bytes);
    let response_bytes = of_network.map_or(CORE_RESPONSE_BYTES_MAX, |bytes| bytes / RESPONSE_PART);
    let request_bytes = match config.queued_max_request_bytes {
        Some(bytes) if bytes > 0 => (bytes / network).max(1),
        _ => of_network.map_or(CORE_REQUEST_BYTES_MAX, |bytes| bytes - response_bytes),
    };
    let writes = WriteLimits::default();
    let writes = WriteLimits {
        most_bytes: core
            .write_bytes
            .map_or(writes.most_bytes, |bytes| bytes as u32),
        least_bytes_beside: core.write_bytes.map_or(writes.least_bytes_beside, |bytes| {
            bytes as u32 / BESIDE_PART
        }),
        in_flight: core
            .write_depth
            .map_or(writes.in_flight, |depth| depth as usize),
        ..writes
    };
    Plan {
        cpu: core.cpu as usize,
        node: core.node,
        roles: core.roles,
        stay_awake: core.stay_awake,
        turn: core.preempt_us.map_or(turn::LENGTH, Duration::from_micros),
        tail_cache_bytes,
        request_bytes,
        response_bytes,
        cleaner_percent: core
            .cleaner_percent
            .map_or(CLEANER_PERCENT, |percent| percent as u32),
        writes,
        cold_read_bytes: bytes(core.read_ahead_bytes).unwrap_or(COLD_READ_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Sources};
    use coati_tuning::profile::{Key, parse};

    fn config(overrides: &[&str]) -> BrokerConfig {
        let sources = Sources {
            overrides: overrides.iter().map(|text| (*text).to_owned()).collect(),
            ..Sources::default()
        };
        config::load(&sources).unwrap().config
    }

    const TEXT: &str = "connections = \"least\"\n\
        [[core]]\ncpu = 4\nroles = [\"network\"]\nnetwork_bytes = 62914560\nread_ahead_bytes = 65536\n\
        [[core]]\ncpu = 5\nroles = [\"partitions\", \"background\"]\ntail_cache_bytes = 33554432\nwrite_bytes = 4194304\nwrite_depth = 3\ncleaner_percent = 50\n\
        [[core]]\ncpu = 6\nroles = []\n\
        [[core]]\ncpu = 7\nroles = [\"controller\", \"background\", \"partitions\"]\npreempt_us = 100\nstay_awake = true\n";

    fn layout(overrides: &[&str]) -> Layout {
        let mut config = config(overrides);
        config.use_profile(parse(TEXT).unwrap()).unwrap();
        Layout::new(&config, &[0, 1])
    }

    #[test]
    fn without_a_profile_each_core_does_all_that_there_is() {
        let layout = Layout::new(&config(&[]), &[2, 3, 5, 7]);
        let all = [0, 1, 2, 3].map(ShardId);
        assert_eq!(
            (layout.network(), layout.partitions()),
            (&all[..], &all[..])
        );
        for duty in [Duty::Checkpoints, Duty::Admin, Duty::Deletion] {
            assert_eq!(layout.core_for(duty), ShardId(0));
        }
        assert!(layout.connections_move());
        let plan = layout.plan(ShardId(2));
        assert_eq!((plan.cpu, plan.tail_cache_bytes), (5, 64 << 20));
        assert_eq!(plan.request_bytes, CORE_REQUEST_BYTES_MAX);
        assert_eq!(plan.response_bytes, CORE_RESPONSE_BYTES_MAX);
    }

    #[test]
    fn a_profile_says_what_each_core_does() {
        let layout = layout(&[]);
        // The one that leads is the first.
        let cpus: Vec<usize> = layout.plans().iter().map(|plan| plan.cpu).collect();
        assert_eq!(cpus, [7, 4, 5]);
        assert_eq!(layout.network(), [ShardId(1)]);
        assert_eq!(layout.partitions(), [ShardId(0), ShardId(2)]);
        assert_eq!(layout.core_for(Duty::Checkpoints), ShardId(0));
        assert_eq!(layout.core_for(Duty::Admin), ShardId(2));
        assert_eq!(layout.core_for(Duty::Deletion), ShardId(0));
        assert!(!layout.connections_move());
        let leads = layout.plan(ShardId(0));
        assert_eq!(
            (leads.turn, leads.stay_awake),
            (Duration::from_micros(100), true)
        );
        // Its part of the setting's default.
        assert_eq!(leads.tail_cache_bytes, 128 << 20);
        let receives = layout.plan(ShardId(1));
        assert_eq!(
            (receives.request_bytes, receives.response_bytes),
            (40 << 20, 20 << 20)
        );
        assert_eq!(
            (receives.cold_read_bytes, receives.tail_cache_bytes),
            (64 << 10, METADATA_TAIL_BYTES)
        );
        assert_eq!(
            receives.to_string(),
            "CPU 4: network; turns of 500 us; 40 MiB for requests, 20 MiB for answers, cold reads of 64 KiB"
        );
        assert_eq!(
            leads.to_string(),
            "CPU 7: partitions, background, controller; turns of 100 us, stays awake; 128 MiB of tail cache, up to 2 writes \
             of 2048 KiB at a time, compaction up to 20 %"
        );
        let keeps = layout.plan(ShardId(2));
        assert_eq!(
            (keeps.tail_cache_bytes, keeps.cleaner_percent),
            (32 << 20, 50)
        );
        let writes = keeps.writes;
        assert_eq!(
            (
                writes.most_bytes,
                writes.least_bytes_beside,
                writes.in_flight
            ),
            (4 << 20, 1 << 20, 3)
        );
    }

    #[test]
    fn a_setting_that_is_given_wins_over_the_profile() {
        let layout = layout(&[
            "log.tail.cache.bytes=67108864",
            "queued.max.request.bytes=209715200",
        ]);
        let tails: Vec<usize> = layout
            .partitions()
            .iter()
            .map(|shard| layout.plan(*shard).tail_cache_bytes)
            .collect();
        assert_eq!(tails, [32 << 20, 32 << 20]);
        let receives = layout.plan(ShardId(1));
        assert_eq!(
            (receives.request_bytes, receives.response_bytes),
            (200 << 20, 20 << 20)
        );
    }

    /// What `tuning` tells people.
    #[test]
    fn the_defaults_are_those_of_the_formats_table() {
        let config = config(&[]);
        let own = Layout::new(&config, &[0]).plan(ShardId(0)).clone();
        let mut core = Core {
            roles: Roles::all(),
            ..Core::default()
        };
        for key in &coati_tuning::profile::KEYS {
            (key.set)(&mut core, key.default);
        }
        let said = plan(&config, &core, 1, 1);
        assert_eq!(format!("{own:?}"), format!("{said:?}"));
        assert!(Key::named("write_bytes").is_some());
    }
}
