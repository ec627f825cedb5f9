//! `world`: a few logs and the journals of their cores against a simulated disk: random appends, reads, rolls,
//! retention, ticks, topics deleted and made again, then a power cut, a kill -9 or a clean stop at any point, recovery
//! (perhaps crashing too, perhaps on another number of cores), and a full comparison with a model.
//! `clean_stop`: a log that begins another segment right after a start, with a power cut at any step.
//! `compaction`: a log of few keys, cleaned again and again, with crashes between any two steps of it.
//! `groups`: a group of the classic protocol on a simulated network; `consumer_groups`: one whose members move between
//! that and the consumer protocol. One seed is one run, replayed by its number:
//!
//! ```text
//! COATI_SEED=1234 cargo test --features simulation --test simulation
//! COATI_SEEDS=20000 cargo test --profile simulation --features simulation --test simulation
//! ```

mod clean_stop;
mod compaction;
mod consumer_groups;
mod groups;
mod model;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use coati::coordinator;
use coati::log::Sabotage;
use world::World;

/// Seeds run where COATI_SEEDS says nothing.
const SEEDS_DEFAULT: u64 = 1_000;
/// No more are looked for.
const FAILURES_SHOWN: usize = 10;
/// A planted fault must show within so many seeds.
const SEEDS_TO_FIND_A_FAULT: u64 = 500;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

/// One run of the log; what is wrong with it, if anything.
fn run(seed: u64, sabotage: Sabotage) -> Result<(), String> {
    let mut world = World::new(seed, sabotage);
    let outcome = unpanicked(|| world.run());
    if number_from("COATI_SEED").is_some() {
        println!("{:#?}", world.trace());
    }
    outcome
}

/// One run of a compacted log.
fn run_compaction(seed: u64, sabotage: Sabotage) -> Result<(), String> {
    let mut world = compaction::World::new(seed, sabotage);
    let outcome = unpanicked(|| world.run());
    if number_from("COATI_SEED").is_some() {
        println!("{}", world.trace().join("\n"));
    }
    outcome
}

#[test]
fn a_compacted_log_keeps_the_last_of_each_key() {
    holds(|seed| run_compaction(seed, Sabotage::None));
}

#[test]
fn a_segment_swapped_in_before_it_is_synced_is_found_out() {
    let mut seeds = 0..SEEDS_TO_FIND_A_FAULT;
    let found = seeds.find(|seed| run_compaction(*seed, Sabotage::SwapBeforeSync).is_err());
    assert!(found.is_some(), "swapped before the sync, unnoticed");
}

#[test]
fn a_cleaning_that_counts_what_was_aborted_is_found_out() {
    let mut seeds = 0..SEEDS_TO_FIND_A_FAULT;
    let found = seeds.find(|seed| run_compaction(*seed, Sabotage::CountAborted).is_err());
    assert!(found.is_some(), "aborted records counted, unnoticed");
}

/// One run of a group.
fn run_group(seed: u64, sabotage: coordinator::Sabotage) -> Result<(), String> {
    let mut world = groups::World::new(seed, sabotage);
    let outcome = unpanicked(|| world.run());
    if number_from("COATI_SEED").is_some() {
        println!("{}", world.trace().join("\n"));
    }
    outcome
}

/// One run of a group whose members change their protocol.
fn run_consumer_group(seed: u64, sabotage: coordinator::Sabotage) -> Result<(), String> {
    let mut world = consumer_groups::World::new(seed, sabotage);
    let outcome = unpanicked(|| world.run());
    if number_from("COATI_SEED").is_some() {
        println!("{}", world.trace().join("\n"));
    }
    outcome
}

fn unpanicked(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_else_is_served() {
    holds(|seed| run(seed, Sabotage::None));
}

#[test]
fn what_a_clean_stop_left_survives_a_power_cut_in_the_life_behind_it() {
    for seed in 0..50 {
        for steps in 0..60 {
            let outcome = unpanicked(|| clean_stop::run(seed, steps));
            assert_eq!(outcome, Ok(()), "seed {seed}, {steps} steps");
        }
    }
}

#[test]
fn a_group_agrees_whatever_happens_and_nobody_fenced_commits() {
    holds(|seed| run_group(seed, coordinator::Sabotage::None));
}

#[test]
fn members_of_both_protocols_come_to_what_they_are_to_have() {
    holds(|seed| run_consumer_group(seed, coordinator::Sabotage::None));
}

/// Runs all seeds that were asked for.
fn holds(run: impl Fn(u64) -> Result<(), String> + Sync) {
    let seeds = match number_from("COATI_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from("COATI_SEEDS").unwrap_or(SEEDS_DEFAULT),
    };
    let (next, failures) = (AtomicU64::new(seeds.start), AtomicUsize::new(0));
    let work = || {
        while failures.load(Ordering::Relaxed) < FAILURES_SHOWN {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            if let Err(problem) = run(seed) {
                println!("COATI_SEED={seed}: {problem}");
                failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    // Runs know nothing of each other.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    assert_eq!(failures.into_inner(), 0, "seeds failed: see above");
}

/// The test of the test: a log broken on purpose is found out.
fn finds(sabotage: Sabotage) {
    let found = (0..SEEDS_TO_FIND_A_FAULT).find(|seed| run(*seed, sabotage).is_err());
    assert!(found.is_some(), "{sabotage:?} went unnoticed");
}

#[test]
fn an_appender_that_acknowledges_before_the_sync_is_found_out() {
    finds(Sabotage::AcknowledgeBeforeSync);
}

#[test]
fn a_recovery_that_checks_no_crc_is_found_out() {
    finds(Sabotage::SkipChecksums);
}

/// And so is a coordinator.
fn finds_in_group(sabotage: coordinator::Sabotage) {
    let found = (0..SEEDS_TO_FIND_A_FAULT).find(|seed| run_group(*seed, sabotage).is_err());
    assert!(found.is_some(), "{sabotage:?} went unnoticed");
}

#[test]
fn a_coordinator_that_fences_nobody_is_found_out() {
    finds_in_group(coordinator::Sabotage::NoFencing);
}

#[test]
fn a_coordinator_that_forgets_assignments_is_found_out() {
    finds_in_group(coordinator::Sabotage::ForgetsAssignments);
}

#[test]
fn a_coordinator_that_lets_old_leaders_assign_is_found_out() {
    finds_in_group(coordinator::Sabotage::OldLeaderAssigns);
}

fn finds_in_consumer_group(sabotage: coordinator::Sabotage) {
    let mut seeds = 0..SEEDS_TO_FIND_A_FAULT;
    let found = seeds.find(|seed| run_consumer_group(*seed, sabotage).is_err());
    assert!(found.is_some(), "{sabotage:?} went unnoticed");
}

#[test]
fn a_consumer_group_that_fences_nobody_is_found_out() {
    finds_in_consumer_group(coordinator::Sabotage::NoFencing);
}

#[test]
fn a_consumer_group_that_takes_any_member_epoch_is_found_out() {
    finds_in_consumer_group(coordinator::Sabotage::NoMemberEpochs);
}

#[test]
fn a_consumer_group_that_gives_what_others_have_is_found_out() {
    finds_in_consumer_group(coordinator::Sabotage::GivesOwned);
}

#[test]
fn a_journal_used_again_before_the_segments_are_synced_is_found_out() {
    finds(Sabotage::RecycleBeforeSync);
}

#[test]
fn a_journal_that_promises_over_a_hole_in_the_segment_is_found_out() {
    finds(Sabotage::PromiseOverAHole);
}

#[test]
fn a_start_that_believes_torn_and_stale_frames_is_found_out() {
    finds(Sabotage::TrustJournal);
}

#[test]
fn a_start_that_mixes_up_topics_in_the_journal_is_found_out() {
    finds(Sabotage::MixTopics);
}

#[test]
fn equal_seeds_run_alike() {
    let trace = |seed| {
        let mut world = World::new(seed, Sabotage::None);
        let result = world.run();
        (result, world.trace())
    };
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed));
    }
}
