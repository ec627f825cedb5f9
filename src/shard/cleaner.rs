//! Owns which log of this core is compacted next, and how fast: the dirtiest first, one at a time, never more bytes a
//! second than `log.cleaner.io.max.bytes.per.second` nor more than its part of the core (a fifth, if no profile says otherwise), and everybody else's turn after
//! each step. It never decides what a log keeps.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use crate::config::CleanerSettings;
use crate::ids::PartitionIndex;
use crate::io::{clock, entropy, timer, turn};
use crate::log::compaction::{CleaningError, Dirt, Pace, Round};
use crate::partition::Partition;
use crate::protocol::Uuid;
use crate::shard::Shard;
use crate::shard::checkpoints::{self, Kind};
use crate::stages::tasks::{self, Task};

/// Less is no use to sleep.
const SLEEP_MIN: Duration = Duration::from_micros(50);
/// With no pause at all an idle core would never sleep.
const BACKOFF_MIN: Duration = Duration::from_millis(10);
/// How often a long pause looks whether the broker stops.
const PAUSE_STEP: Duration = Duration::from_millis(500);

/// A log whose cleaning failed, and until when it is passed over so that others get their turn.
struct PassedOver {
    topic_id: Uuid,
    index: PartitionIndex,
    until: Instant,
}

/// Compacts what is worth it, until the shard stops.
pub async fn run(shard: Rc<Shard>) {
    if !shard.broker.config.cleaner.is_enabled {
        return;
    }
    let mut passed_over: Vec<PassedOver> = Vec::new();
    while !shard.stopping() {
        let settings = settings(&shard);
        let backoff = Duration::from_millis(settings.backoff_ms).max(BACKOFF_MIN);
        passed_over.retain(|log| log.until > clock::now());
        let Some((partition, dirt)) = dirtiest(&shard, &passed_over).await else {
            pause(&shard, backoff).await;
            continue;
        };
        if let Err(error) = make_ready(&shard).await {
            warn!(%error, "nothing is compacted while checkpoints cannot be written");
            pause(&shard, backoff).await;
            continue;
        }
        if !clean(&shard, &partition, &dirt, &settings).await {
            passed_over.push(PassedOver {
                topic_id: partition.topic_id,
                index: partition.index,
                until: clock::now() + backoff,
            });
        }
    }
}

/// Those of now.
fn settings(shard: &Shard) -> CleanerSettings {
    let dynamic = shard.image().dynamic_configs(shard.broker.id());
    shard.broker.config.cleaner_with(&dynamic)
}

async fn pause(shard: &Shard, time: Duration) {
    let due = clock::now() + time;
    while !shard.stopping() && clock::now() < due {
        timer::sleep(due.saturating_duration_since(clock::now()).min(PAUSE_STEP)).await;
    }
}

/// The journal may hold what is about to be taken out: a start must not look for it there. What is found dirty lies
/// below the recovery point of now. What an earlier round left out, as it lay before the log, must not come back. The
/// third row says to a start that offsets need not follow each other any more.
async fn make_ready(shard: &Rc<Shard>) -> io::Result<()> {
    checkpoints::write(shard, &Kind::READ_AT_START).await
}

/// Whether that went well.
async fn clean(
    shard: &Rc<Shard>,
    partition: &Partition,
    dirt: &Dirt,
    settings: &CleanerSettings,
) -> bool {
    let cores = shard.broker.layout.partitions().len();
    let round = Round {
        now_ms: clock::wall_ms(),
        upto: dirt.upto,
        map_bytes: settings.dedupe_bytes / cores,
        map_load: settings.load_factor,
        salt: [entropy::seed(), entropy::seed()],
        pace: pace(
            settings.bytes_per_second / cores as f64,
            shard.plan().cleaner_percent,
        ),
    };
    let (topic, index) = (&partition.topic, partition.index);
    match partition.log().clean(&round).await {
        Ok(cleaned) => {
            debug!(%topic, partition = %index, ?cleaned, "compacted");
            if let Err(error) = checkpoints::write(shard, &[Kind::Cleaner]).await {
                warn!(%error, "how far logs are compacted could not be written");
            }
            true
        }
        Err(CleaningError::Aborted) => {
            debug!(%topic, partition = %index, "compacting began anew, as the log changed");
            false
        }
        Err(error @ CleaningError::Unreadable { .. }) => {
            warn!(%topic, partition = %index, %error, "the log is not compacted any more");
            false
        }
        Err(error @ CleaningError::Storage { .. }) => {
            warn!(%topic, partition = %index, %error, "compacting is tried again later");
            false
        }
        // The log says so itself.
        Err(CleaningError::Log(_)) => false,
    }
}

async fn dirtiest(shard: &Shard, passed_over: &[PassedOver]) -> Option<(Rc<Partition>, Dirt)> {
    let mut dirtiest: Option<(Rc<Partition>, Dirt)> = None;
    let mut walk = shard.walk();
    while let Some(some) = walk.next().await {
        for partition in some {
            let is_this = |log: &PassedOver| {
                (log.topic_id, log.index) == (partition.topic_id, partition.index)
            };
            if passed_over.iter().any(is_this) {
                continue;
            }
            let stable = partition.marks().last_stable;
            let dirt = partition.log().dirt(clock::wall_ms(), stable).await;
            turn::yield_if_needed().await;
            // A log that fails says so itself.
            let Ok(Some(dirt)) = dirt else { continue };
            let known = dirtiest.as_ref().map_or(-1.0, |(_, dirt)| dirt.ratio());
            if dirt.ratio() > known {
                dirtiest = Some((partition, dirt));
            }
        }
    }
    dirtiest
}

/// Lets others have their turn, and keeps to the disk's and the core's share.
fn pace(per_second: f64, percent: u32) -> Pace {
    let known = Cell::new(tasks::held(Task::CLEANER));
    Rc::new(move |bytes| {
        let held = tasks::held(Task::CLEANER);
        let step = held.saturating_sub(known.replace(held));
        let rest = rest(bytes, step, per_second, percent);
        Box::pin(async move {
            match rest >= SLEEP_MIN {
                true => timer::sleep(rest).await,
                false => turn::yield_now().await,
            }
        })
    })
}

/// How long to keep still after a step that moved so many bytes and held the core, of which it may have `percent`, for so long.
fn rest(bytes: u64, held: Duration, per_second: f64, percent: u32) -> Duration {
    let moving = Duration::try_from_secs_f64(bytes as f64 / per_second.max(1.0));
    let moving = moving.expect("a step is no more than a segment");
    moving.max(held * (100 - percent) / percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_followed_by_rest_for_the_disk_and_for_the_core() {
        let held = Duration::from_micros(100);
        let four = Duration::from_micros(400);
        assert_eq!(rest(65_536, held, f64::MAX, 20), four);
        assert_eq!(rest(65_536, held, 1e9, 20), four);
        assert_eq!(rest(65_536, held, f64::MAX, 50), held);
        assert_eq!(rest(1_000_000, held, 1e6, 20), Duration::from_secs(1));
        assert_eq!(rest(1_000, held, 0.0, 20), Duration::from_secs(1_000));
    }
}
