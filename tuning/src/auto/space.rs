//! Owns what of a profile a search changes, from which value to which, and in which order. Pure.

use super::search::{Ladder, Rung};
use crate::profile::{Connections, Core, Facts, Key, Preset, Profile, Role, Roles, choose};

/// What is changed at a time: all cores that it concerns alike.
#[derive(Clone, Copy, Debug)]
pub enum Dimension {
    /// All of it at once.
    Start,
    /// How many cores have connections and partitions.
    Cores,
    Connections,
    StayAwake,
    TailCache,
    Number(&'static Key),
}

/// A step of the tail cache.
const TAIL_CACHE_FACTOR: u64 = 2;

/// No more steps than that in one direction.
const STEPS_MAX: usize = 8;

/// What has more cores goes up and down in larger steps.
const CORE_STEPS: usize = 4;

impl Dimension {
    /// In the order in which they are tried: what changes most comes first.
    pub fn all() -> Vec<Dimension> {
        let numbers = Key::worth_trying().map(Dimension::Number);
        [
            Dimension::Start,
            Dimension::Cores,
            Dimension::Connections,
            Dimension::StayAwake,
            Dimension::TailCache,
        ]
        .into_iter()
        .chain(numbers)
        .collect()
    }

    /// As people type it: the profile's own word where it has one.
    pub fn name(self) -> &'static str {
        match self {
            Dimension::Start => "start",
            Dimension::Cores => "cores",
            Dimension::Connections => "connections",
            Dimension::StayAwake => "stay_awake",
            Dimension::TailCache => "tail_cache_bytes",
            Dimension::Number(key) => key.name,
        }
    }

    /// What is worth trying from `profile` on; nothing that this machine cannot have.
    pub fn ladders(
        self,
        profile: &Profile,
        facts: &Facts,
        starts: &[Rung<Profile>],
    ) -> Vec<Ladder<Profile>> {
        let ladders = match self {
            Dimension::Start => starts
                .iter()
                .map(|start| Ladder::from([start.clone()]))
                .collect(),
            Dimension::Cores => cores(profile, facts),
            Dimension::Connections => connections(profile),
            Dimension::StayAwake => stay_awake(profile, facts),
            Dimension::TailCache => tail_cache(profile),
            Dimension::Number(key) => number(profile, key),
        };
        let can_be = |rung: &Rung<Profile>| rung.point.check(facts).is_ok();
        let possible = |ladder: Ladder<Profile>| ladder.into_iter().take_while(can_be).collect();
        ladders.into_iter().map(possible).collect()
    }
}

/// Without a profile a broker has a shard on every CPU, and each key as the broker has it by itself.
pub fn without_profile(facts: &Facts) -> Profile {
    let cores = facts.usable.iter().enumerate().map(|(place, cpu)| Core {
        cpu,
        roles: match place {
            0 => Roles::all(),
            _ => of_clients(),
        },
        ..Core::default()
    });
    Profile {
        cores: cores.collect(),
        ..Profile::default()
    }
}

/// What a search may start from instead of `first`.
pub fn starts(first: &Profile, facts: &Facts) -> Vec<Rung<Profile>> {
    let presets = Preset::ALL.into_iter().filter_map(|preset| {
        let chosen = choose(facts, None, Some(preset), None).ok()?;
        let change = format!("the preset {}", preset.name());
        Some(Rung {
            point: chosen.profile,
            change,
        })
    });
    let plain = Rung {
        point: without_profile(facts),
        change: "no profile".to_owned(),
    };
    let all = [plain].into_iter().chain(presets);
    all.filter(|start| start.point != *first).collect()
}

fn of_clients() -> Roles {
    [Role::Network, Role::Partitions].into_iter().collect()
}

fn serves(core: &Core) -> bool {
    core.roles.has(Role::Network) && core.roles.has(Role::Partitions)
}

fn cores(profile: &Profile, facts: &Facts) -> Vec<Ladder<Profile>> {
    let count = profile.cores.iter().filter(|core| serves(core)).count();
    let step = (count / CORE_STEPS).max(1);
    let said = |profile: &Profile| {
        let now = profile.cores.iter().filter(|core| serves(core)).count();
        format!("{now} cores instead of {count}")
    };
    let ladder = |change: &dyn Fn(&mut Profile, &Facts) -> bool| {
        let mut ladder = Ladder::new();
        let mut point = profile.clone();
        while ladder.len() < STEPS_MAX && (0..step).all(|_| change(&mut point, facts)) {
            ladder.push_back(Rung {
                point: point.clone(),
                change: said(&point),
            });
        }
        ladder
    };
    vec![ladder(&one_less), ladder(&one_more)]
}

/// The last one that has nothing but clients is left free.
fn one_less(profile: &mut Profile, _: &Facts) -> bool {
    let others = profile.cores.iter_mut().rev();
    let Some(core) = others.into_iter().find(|core| core.roles == of_clients()) else {
        return false;
    };
    *core = Core {
        cpu: core.cpu,
        ..Core::default()
    };
    profile.cores.iter().any(serves)
}

/// A CPU that is left free becomes as the last one with clients.
fn one_more(profile: &mut Profile, facts: &Facts) -> bool {
    let Some(as_this) = profile
        .cores
        .iter()
        .rev()
        .find(|core| serves(core))
        .cloned()
    else {
        return false;
    };
    let free = profile
        .cores
        .iter_mut()
        .find(|core| core.roles.is_empty() && facts.usable.contains(core.cpu));
    let Some(free) = free else {
        return false;
    };
    *free = Core {
        cpu: free.cpu,
        node: as_this.node.and_then(|_| facts.node_of(free.cpu)),
        roles: of_clients(),
        ..as_this
    };
    true
}

fn connections(profile: &Profile) -> Vec<Ladder<Profile>> {
    let others = Connections::ALL
        .into_iter()
        .filter(|other| *other != profile.connections);
    let rung = |other: Connections| Rung {
        point: Profile {
            connections: other,
            ..profile.clone()
        },
        change: format!(
            "connections {} instead of {}",
            other.name(),
            profile.connections.name()
        ),
    };
    // With one core there is nothing to choose.
    let many = profile.shards().len() > 1;
    others
        .filter(|_| many)
        .map(|other| Ladder::from([rung(other)]))
        .collect()
}

fn stay_awake(profile: &Profile, facts: &Facts) -> Vec<Ladder<Profile>> {
    let is_awake = profile.cores.iter().any(|core| core.stay_awake);
    // What spins would use up a quota.
    if facts.quota.is_some() && !is_awake {
        return Vec::new();
    }
    let mut point = profile.clone();
    for core in point
        .cores
        .iter_mut()
        .filter(|core| serves(core) || core.stay_awake)
    {
        core.stay_awake = !is_awake;
    }
    let change = match is_awake {
        true => "cores sleep instead of staying awake",
        false => "cores stay awake instead of sleeping",
    };
    vec![Ladder::from([Rung {
        point,
        change: change.into(),
    }])]
}

fn tail_cache(profile: &Profile) -> Vec<Ladder<Profile>> {
    let key = Key::named("tail_cache_bytes").expect("a key of the table");
    let Some(now) = profile.cores.iter().find_map(|core| (key.get)(core)) else {
        return Vec::new();
    };
    let step = |change: fn(u64) -> Option<u64>| {
        let values =
            std::iter::successors(change(now), move |value| change(*value)).take(STEPS_MAX);
        let fitting = values.take_while(|value| key.refusal(*value).is_none());
        fitting
            .map(|value| with(profile, key, now, value))
            .collect()
    };
    vec![
        step(|bytes| bytes.checked_mul(TAIL_CACHE_FACTOR)),
        step(|bytes| Some(bytes / TAIL_CACHE_FACTOR)),
    ]
}

fn number(profile: &Profile, key: &'static Key) -> Vec<Ladder<Profile>> {
    let mut concerned = profile.cores.iter().filter(|core| key.is_for(core.roles));
    let now = concerned
        .next()
        .and_then(|core| (key.get)(core).or(key.default));
    let Some(now) = now else {
        return Vec::new();
    };
    let tried = |wanted: &dyn Fn(u64) -> bool| {
        let values = key.tries.iter().filter(|value| wanted(**value));
        values
            .map(|value| with(profile, key, now, *value))
            .collect::<Ladder<Profile>>()
    };
    let up = tried(&|value| value > now);
    let down = tried(&|value| value < now).into_iter().rev().collect();
    vec![up, down]
}

fn with(profile: &Profile, key: &'static Key, now: u64, value: u64) -> Rung<Profile> {
    let mut point = profile.clone();
    for core in point.cores.iter_mut().filter(|core| key.is_for(core.roles)) {
        (key.set)(core, Some(value));
    }
    let change = format!(
        "{} {} instead of {}",
        key.name,
        key.unit.shown(value),
        key.unit.shown(now)
    );
    Rung { point, change }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpus::CpuSet;

    fn machine(cpus: &str) -> Facts {
        let usable = CpuSet::from_list(cpus).unwrap();
        Facts {
            online: usable.clone(),
            physical: usable
                .iter()
                .map(|cpu| [cpu].into_iter().collect())
                .collect(),
            usable,
            memory_bytes: Some(16 << 30),
            ..Facts::default()
        }
    }

    fn changes(dimension: Dimension, profile: &Profile, facts: &Facts) -> Vec<Vec<String>> {
        let ladders = dimension.ladders(profile, facts, &[]);
        let changes =
            |ladder: &Ladder<Profile>| ladder.iter().map(|rung| rung.change.clone()).collect();
        ladders.iter().map(changes).collect()
    }

    #[test]
    fn numbers_go_up_and_down_from_what_counts_now() {
        let facts = machine("0-3");
        let profile = without_profile(&facts);
        let depth = Dimension::Number(Key::named("write_depth").unwrap());
        assert_eq!(
            changes(depth, &profile, &facts),
            [
                vec!["write_depth 4 instead of 2", "write_depth 8 instead of 2"],
                vec!["write_depth 1 instead of 2"]
            ]
        );
        let four = &depth.ladders(&profile, &facts, &[])[0][0].point;
        assert!(four.cores.iter().all(|core| core.write_depth == Some(4)));
        assert_eq!(
            changes(depth, four, &facts)[1][0],
            "write_depth 2 instead of 4"
        );
    }

    #[test]
    fn cores_come_and_go_but_never_the_one_that_leads() {
        let facts = machine("0-3");
        let profile = without_profile(&facts);
        let fewer = &Dimension::Cores.ladders(&profile, &facts, &[])[0];
        let shards: Vec<usize> = fewer.iter().map(|rung| rung.point.shards().len()).collect();
        assert_eq!(shards, [3, 2, 1]);
        let one = &fewer[2].point;
        assert!(one.shards()[0].roles.has(Role::Controller));
        let told = changes(Dimension::Cores, one, &facts);
        assert_eq!(
            told,
            [
                vec![],
                vec![
                    "2 cores instead of 1",
                    "3 cores instead of 1",
                    "4 cores instead of 1"
                ]
            ]
        );
        assert!(changes(Dimension::Connections, one, &facts).is_empty());
        let all = &Dimension::Cores.ladders(one, &facts, &[])[1][2].point;
        assert_eq!(all.cpus(), facts.usable);
    }

    #[test]
    fn what_this_machine_cannot_have_is_not_tried() {
        let facts = machine("0-1");
        let shared = choose(&facts, None, Some(Preset::Shared), None)
            .unwrap()
            .profile;
        assert_eq!(
            changes(Dimension::StayAwake, &shared, &facts),
            [Vec::<String>::new()]
        );
        let plain = without_profile(&facts);
        assert_eq!(
            changes(Dimension::StayAwake, &plain, &facts).concat().len(),
            1
        );
        // Nobody knows how much it has by itself.
        assert!(changes(Dimension::TailCache, &plain, &facts).is_empty());
        let told = changes(Dimension::TailCache, &shared, &facts);
        assert!(
            told[0][0].starts_with("tail_cache_bytes ") && !told[1].is_empty(),
            "{told:?}"
        );
        let small = Facts {
            memory_bytes: Some(shared.budget_bytes()),
            ..facts
        };
        assert!(changes(Dimension::TailCache, &shared, &small)[0].is_empty());
    }

    #[test]
    fn starts_are_others_than_the_first() {
        let facts = machine("0-3");
        let plain = without_profile(&facts);
        let names = |first: &Profile| -> Vec<String> {
            let starts = starts(first, &facts);
            starts.into_iter().map(|start| start.change).collect()
        };
        assert_eq!(
            names(&plain),
            [
                "the preset throughput",
                "the preset latency",
                "the preset shared"
            ]
        );
        let latency = choose(&facts, None, Some(Preset::Latency), None)
            .unwrap()
            .profile;
        assert_eq!(
            names(&latency),
            ["no profile", "the preset throughput", "the preset shared"]
        );
    }

    #[test]
    fn every_dimension_has_a_name_of_its_own() {
        let mut names: Vec<&str> = Dimension::all().into_iter().map(Dimension::name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
