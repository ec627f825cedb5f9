//! Owns how far apart a journal's frames begin. As soon as one is written the next may go, and with few appends in each
//! most of a core's time then goes into writes and syncs; so such frames come further apart, in which time more gathers.
//! That is worth it only while clients send regardless: those that wait for their acknowledgements would only send
//! less. Which of the two it is nobody tells, so it is tried: for as long as appends come as fast as without it.
//! A pure machine: it is handed the time.

use std::time::Duration;

/// Frames that come further apart than this by themselves are left alone.
const CLOSE: Duration = Duration::from_micros(170);

/// Kept apart, frames begin so many times as far from each other as they came by themselves, within this. Clients that
/// wait take every second frame in turn, so two times would not slow them, and not be told from those that do not wait.
const STRETCH: u32 = 4;
const APART_MAX: Duration = Duration::from_micros(450);

/// Appends, and bytes of them, that wait no longer.
const APPENDS_ENOUGH: usize = 16;
const BYTES_ENOUGH: usize = 64 << 10;

/// Frames of more appends than this are worth a write each.
const APPENDS_FEW: u64 = 8;

/// Appends that take up to so many times as long count as being as fast: the rest is chance.
const SLOWER: (u64, u64) = (5, 4);

/// After so many windows apart it is looked again how fast appends come without.
const WINDOWS_APART: u32 = 32;

/// Windows at once before the next try, after many that were for nothing.
const REST_MAX: u32 = 256;

/// After so long without a frame nothing is known any more.
const FORGOTTEN: Duration = Duration::from_millis(10);

pub(super) struct Pace {
    /// Appends that tell how fast they come.
    window_appends: u64,
    /// When the last frame began.
    began: Duration,
    window: Window,
    phase: Phase,
    /// Windows until frames may be kept apart again, and how many it will be after the next that slowed appends.
    rest: u32,
    next_rest: u32,
    waiting: Waiting,
}

/// What has come since a frame began.
#[derive(Default)]
struct Window {
    since: Duration,
    frames: u32,
    appends: u64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    AtOnce,
    Apart {
        apart: Duration,
        /// An append must not take longer to come.
        append_nanos_max: u64,
        windows: u32,
    },
}

/// What the next frame will hold.
#[derive(Clone, Copy, Default)]
struct Waiting {
    appends: usize,
    bytes: usize,
}

impl Pace {
    pub fn new(window_appends: u64) -> Pace {
        Pace {
            window_appends,
            began: Duration::ZERO,
            window: Window::default(),
            phase: Phase::AtOnce,
            rest: 0,
            next_rest: 1,
            waiting: Waiting::default(),
        }
    }

    /// An append waits for the next frame. Whether enough do.
    pub fn on_append(&mut self, bytes: usize) -> bool {
        self.waiting.appends += 1;
        self.waiting.bytes += bytes;
        self.is_enough()
    }

    /// What waited goes another way.
    pub fn on_none(&mut self) {
        self.waiting = Waiting::default();
    }

    pub fn is_enough(&self) -> bool {
        self.waiting.appends >= APPENDS_ENOUGH || self.waiting.bytes >= BYTES_ENOUGH
    }

    /// For how long the next frame is to wait, unless enough appends come.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        let Phase::Apart { apart, .. } = self.phase else {
            return None;
        };
        let left = (self.began + apart).saturating_sub(now);
        (!left.is_zero() && !self.is_enough()).then_some(left)
    }

    /// A frame begins, of all that waits, or of a part if there was no room for more.
    pub fn on_frame(&mut self, now: Duration, is_all: bool) {
        let appends = self.waiting.appends as u64;
        if is_all {
            self.waiting = Waiting::default();
        }
        let is_forgotten = now.saturating_sub(self.began) > FORGOTTEN;
        self.began = now;
        if is_forgotten {
            return self.enter(now, Phase::AtOnce);
        }
        self.window.frames += 1;
        self.window.appends += if is_all { appends } else { 0 };
        let span = now.saturating_sub(self.window.since);
        let is_full = self.window.appends >= self.window_appends;
        match self.phase {
            Phase::AtOnce if is_full => self.judge_at_once(now, span),
            Phase::AtOnce => {}
            Phase::Apart {
                append_nanos_max, ..
            } => {
                let appends = self.window.appends.max(self.window_appends);
                if span.as_nanos() as u64 > append_nanos_max.saturating_mul(appends) {
                    self.rest = self.next_rest;
                    self.next_rest = (2 * self.next_rest).min(REST_MAX);
                    self.enter(now, Phase::AtOnce);
                } else if is_full {
                    self.next_rest = 1;
                    self.enter_next_apart(now);
                }
            }
        }
    }

    fn judge_at_once(&mut self, now: Duration, span: Duration) {
        let Window {
            frames, appends, ..
        } = self.window;
        let interval = span / frames;
        let is_worth_it = interval <= CLOSE && appends <= APPENDS_FEW * u64::from(frames);
        let phase = if self.rest > 0 || !is_worth_it {
            self.rest = self.rest.saturating_sub(1);
            Phase::AtOnce
        } else {
            Phase::Apart {
                apart: (interval * STRETCH).min(APART_MAX),
                append_nanos_max: span.as_nanos() as u64 * SLOWER.0 / SLOWER.1 / appends,
                windows: WINDOWS_APART,
            }
        };
        self.enter(now, phase);
    }

    fn enter_next_apart(&mut self, now: Duration) {
        if let Phase::Apart { windows, .. } = &mut self.phase {
            *windows -= 1;
            let phase = match *windows {
                0 => Phase::AtOnce,
                _ => self.phase,
            };
            self.enter(now, phase);
        }
    }

    fn enter(&mut self, now: Duration, phase: Phase) {
        self.phase = phase;
        self.window = Window {
            since: now,
            ..Window::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeSet;

    /// What a frame takes until the next may go.
    const WRITE: Duration = Duration::from_micros(120);

    /// From an acknowledgement to the client's next append.
    const ROUND: Duration = Duration::from_micros(30);

    #[derive(Clone, Copy)]
    enum Load {
        /// An append each so often, whatever becomes of the others.
        Every(Duration),
        /// Each client waits for its acknowledgement.
        Clients(usize),
    }

    #[derive(Default, PartialEq, Debug)]
    struct Done {
        appends: u64,
        frames: u64,
    }

    struct Core {
        /// None: frames go at once.
        pace: Option<Pace>,
        now: Duration,
    }

    impl Core {
        fn new() -> Core {
            Core {
                pace: Some(Pace::new(256)),
                now: Duration::ZERO,
            }
        }

        fn run(&mut self, load: Load, time: Duration) -> Done {
            let until = self.now + time;
            let mut arrivals = BTreeSet::new();
            match load {
                Load::Every(_) => drop(arrivals.insert((self.now, 0))),
                Load::Clients(count) => arrivals.extend((0..count).map(|each| (self.now, each))),
            }
            let mut done = Done::default();
            while self.now < until {
                let first = arrivals.first().expect("clients go on").0;
                self.now = self.now.max(first);
                let mut taken = Vec::new();
                self.take(load, &mut arrivals, &mut taken);
                let wait = self.pace.as_ref().and_then(|pace| pace.wait(self.now));
                let end = self.now + wait.unwrap_or_default();
                while self.now < end {
                    let next = arrivals.first().map_or(end, |next| next.0.min(end));
                    self.now = next;
                    if self.take(load, &mut arrivals, &mut taken) {
                        break;
                    }
                }
                if let Some(pace) = &mut self.pace {
                    pace.on_frame(self.now, true);
                }
                done.frames += 1;
                done.appends += taken.len() as u64;
                self.now += WRITE;
                if let Load::Clients(_) = load {
                    // Not all are as quick.
                    let back = |each: usize| self.now + ROUND + Duration::from_micros(each as u64);
                    arrivals.extend(taken.into_iter().map(|each| (back(each), each)));
                }
            }
            done
        }

        /// Takes what has arrived. Whether that is enough.
        fn take(
            &mut self,
            load: Load,
            arrivals: &mut BTreeSet<(Duration, usize)>,
            taken: &mut Vec<usize>,
        ) -> bool {
            let mut is_enough = false;
            while let Some((at, who)) = arrivals.first().copied()
                && at <= self.now
            {
                arrivals.pop_first();
                taken.push(who);
                is_enough = self.pace.as_mut().is_some_and(|pace| pace.on_append(100));
                if let Load::Every(gap) = load {
                    arrivals.insert((at + gap, 0));
                }
            }
            is_enough
        }
    }

    fn at_once(load: Load, time: Duration) -> Done {
        let mut core = Core::new();
        core.pace = None;
        core.run(load, time)
    }

    fn paced(load: Load, time: Duration) -> Done {
        Core::new().run(load, time)
    }

    #[test]
    fn what_comes_regardless_goes_in_fewer_frames() {
        for gap in [20, 50, 100] {
            let load = Load::Every(Duration::from_micros(gap));
            let time = Duration::from_secs(2);
            let (before, after) = (at_once(load, time), paced(load, time));
            assert!(after.frames * 2 < before.frames, "{before:?} {after:?}");
        }
    }

    #[test]
    fn clients_that_wait_for_their_acknowledgements_are_not_slowed() {
        for clients in [1, 2, 3, 4, 5, 10, 16, 40] {
            let load = Load::Clients(clients);
            let time = Duration::from_secs(10);
            let (before, after) = (at_once(load, time), paced(load, time));
            let least = before.appends * 97 / 100;
            assert!(after.appends > least, "{clients}: {before:?} {after:?}");
        }
    }

    #[test]
    fn a_client_that_waits_after_many_that_did_not_is_soon_as_fast() {
        let mut core = Core::new();
        core.run(
            Load::Every(Duration::from_micros(50)),
            Duration::from_secs(1),
        );
        core.run(Load::Clients(1), Duration::from_secs(1));
        let second = Duration::from_secs(1);
        let after = core.run(Load::Clients(1), second);
        let before = at_once(Load::Clients(1), second);
        assert!(
            after.appends > before.appends * 9 / 10,
            "{before:?} {after:?}"
        );
    }

    #[test]
    fn frames_that_are_far_apart_do_not_wait() {
        for gap in [250, 1_000, 20_000] {
            let load = Load::Every(Duration::from_micros(gap));
            let time = Duration::from_secs(5);
            assert_eq!(at_once(load, time), paced(load, time));
        }
    }

    #[test]
    fn enough_ends_a_wait() {
        let mut core = Core::new();
        core.run(
            Load::Every(Duration::from_micros(50)),
            Duration::from_millis(100),
        );
        let pace = core.pace.as_mut().unwrap();
        assert_ne!(pace.phase, Phase::AtOnce);
        pace.on_frame(core.now, true);
        assert!(pace.wait(core.now).is_some());
        for _ in 1..APPENDS_ENOUGH {
            assert!(!pace.on_append(100));
        }
        assert!(pace.on_append(100));
        assert_eq!(pace.wait(core.now), None);
        pace.on_frame(core.now, true);
        assert!(pace.wait(core.now).is_some());
        assert!(pace.on_append(BYTES_ENOUGH));
        assert_eq!(pace.wait(core.now), None);
        // What there was no room for has waited enough.
        pace.on_frame(core.now, false);
        assert_eq!(pace.wait(core.now), None);
    }
}
