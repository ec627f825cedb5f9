//! Owns the search itself: which point is tried next, and what a trial's figures decide. Pure: whoever drives it runs the
//! trials and tells how much time is left.
//!
//! A host drifts, so nothing is compared with what was measured long ago: trials of the best and of a candidate alternate, and each trial
//! of the candidate is held against the mean of the two beside it. What the same statistic says of equal points is the noise.
//! It goes through one dimension after the other, each in rungs: points that are tried in turn as long as each wins. At the
//! end what was found has to win once more, in trials of its own, against the point that it all began with: whoever takes the
//! best of many has also taken the luckiest.

use std::collections::VecDeque;
use std::time::Duration;

/// Trials of the first point alone, from which the noise is learnt; fewer where there is little time.
const FIRST_TRIALS: usize = 6;
const FIRST_TRIALS_LEAST: usize = 4;

/// With less than so many trials for all there is little time.
const TRIALS_FEW: usize = 40;

/// Comparisons that a candidate needs to win, and after which nothing changes any more.
const COMPARISONS_LEAST: usize = 3;
const COMPARISONS_MOST: usize = 6;

/// Comparisons at the end of the best with the first.
const CONFIRMING: usize = 5;

/// Trials that so many comparisons take.
const fn trials_of(comparisons: usize) -> usize {
    2 * comparisons + 1
}

/// What is kept for the end.
const RESERVE: usize = trials_of(COMPARISONS_LEAST);

/// The fewest trials in which anything can win.
pub const TRIALS_LEAST: usize = FIRST_TRIALS_LEAST + trials_of(COMPARISONS_LEAST) + RESERVE;

/// How far from zero the median of equal points may be, in standard deviations of it.
const DEVIATIONS: f64 = 2.25;

/// The median of normal values spreads so much wider than their mean.
const MEDIAN_SPREAD: f64 = 1.2533;

/// The standard deviation of normal values, from the median of their sizes.
const DEVIATION_OF_MEDIAN: f64 = 1.4826;

/// No noise is taken for less: figures are rounded, and nobody needs a win that small.
const NOISE_LEAST: f64 = 0.01;

/// How often the dimensions are gone through at most.
const PASSES_MAX: usize = 3;

/// Failures one after the other of a point that had worked.
const FAILURES_MAX: usize = 2;

/// What a trial came to: natural logarithms, more is better. First what the search is for, then what must not get much worse.
pub type Figures = Vec<f64>;

/// A point, and what it has that the best has not.
#[derive(Clone, Debug, PartialEq)]
pub struct Rung<P> {
    pub point: P,
    pub change: String,
}

/// Points to be tried in turn as long as each wins.
pub type Ladder<P> = VecDeque<Rung<P>>;

/// The ladders of a dimension, from a point on.
type Ladders<P> = Box<dyn Fn(&P, usize) -> Vec<Ladder<P>>>;

/// What a trial is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To learn the noise.
    Noise,
    /// The best so far, beside a candidate.
    Best,
    Candidate,
    /// The first point and what was found, once more at the end.
    First,
    Found,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step<P> {
    Try {
        point: P,
        purpose: Purpose,
        /// Of a candidate what it has that the best has not.
        change: String,
    },
    End(End),
}

/// Why it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All was tried.
    Tried,
    /// There was more to be tried.
    OutOfTime,
    /// The point it began with does not work.
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Won,
    /// Its median is below nothing.
    Worse,
    /// It is above, by no more than the noise.
    Noise,
    /// It won, and this other figure, by its place, got worse than it may.
    Guard(usize),
    Failed(String),
    OutOfTime,
}

/// What was decided of a candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub change: String,
    /// At the end, against the first point.
    pub confirming: bool,
    pub comparisons: usize,
    /// The median of each figure's, as logarithms; empty without a comparison.
    pub gains: Vec<f64>,
    /// By which the median of equal points may differ from zero after so many comparisons.
    pub noise: Vec<f64>,
    pub reason: Reason,
}

impl Verdict {
    pub fn is_kept(&self) -> bool {
        self.reason == Reason::Won
    }
}

/// Trials of two points in turn.
#[derive(Clone, Debug)]
struct Contest<P> {
    candidate: Rung<P>,
    against: P,
    confirming: bool,
    /// Of `against`, the last trial.
    before: Option<Figures>,
    /// Of the candidate, since then.
    between: Option<Figures>,
    /// A list a comparison.
    gains: Vec<Figures>,
}

#[derive(Debug)]
enum Phase {
    First,
    Looking,
    Confirming,
    Ended(End),
}

pub struct Search<P> {
    ladders: Ladders<P>,
    dimensions: usize,
    /// By how much each figure may get worse, as logarithms; of the first it means nothing.
    worse_max: Vec<f64>,
    first: P,
    best: P,
    /// What the best has that the first has not.
    changes: Vec<String>,
    phase: Phase,
    first_trials: Vec<Figures>,
    /// What equal points came to, against zero.
    residuals: Vec<Figures>,
    /// The last trial, if it was of the best.
    last_of_best: Option<Figures>,
    contest: Option<Contest<P>>,
    waiting: VecDeque<Ladder<P>>,
    /// The next one whose ladders are taken.
    dimension: usize,
    pass: usize,
    pass_won: bool,
    /// What has lost against the best, or against what that has beaten.
    lost: Vec<P>,
    trials: usize,
    taken: Duration,
    failures: usize,
    is_out_of_time: bool,
}

impl<P: Clone + PartialEq> Search<P> {
    /// From `first` on, through so many dimensions. `worse_max` has one value a figure.
    pub fn new(
        first: P,
        dimensions: usize,
        worse_max: Vec<f64>,
        ladders: impl Fn(&P, usize) -> Vec<Ladder<P>> + 'static,
    ) -> Search<P> {
        assert!(!worse_max.is_empty(), "a search is for something");
        Search {
            ladders: Box::new(ladders),
            dimensions,
            worse_max,
            best: first.clone(),
            first,
            changes: Vec::new(),
            phase: Phase::First,
            first_trials: Vec::new(),
            residuals: Vec::new(),
            last_of_best: None,
            contest: None,
            waiting: VecDeque::new(),
            dimension: 0,
            pass: 1,
            pass_won: false,
            lost: Vec::new(),
            trials: 0,
            taken: Duration::ZERO,
            failures: 0,
            is_out_of_time: false,
        }
    }

    /// The best known: until the end what has won up to now, then what has also won at the end.
    pub fn best(&self) -> &P {
        &self.best
    }

    /// What the best has that the first has not, in the order in which it won.
    pub fn changes(&self) -> &[String] {
        &self.changes
    }

    /// What is to be done now, with so much time left. Call it again after [`Search::on_trial`].
    pub fn next(&mut self, left: Duration) -> Step<P> {
        loop {
            match &self.phase {
                Phase::Ended(end) => return Step::End(end.clone()),
                Phase::First if self.first_trials.len() < self.first_trials_wanted(left) => {
                    return Step::Try {
                        point: self.first.clone(),
                        purpose: Purpose::Noise,
                        change: String::new(),
                    };
                }
                Phase::First => self.learn_noise(),
                Phase::Looking | Phase::Confirming => {
                    if let Some(contest) = &self.contest {
                        return contest.next();
                    }
                    self.begin_contest(left);
                }
            }
        }
    }

    /// What the trial of the last step came to, and how long it took. The verdict, where that decided one. With no time left for
    /// another comparison a contest is decided by what there is.
    pub fn on_trial(
        &mut self,
        result: Result<Figures, String>,
        took: Duration,
        left: Duration,
    ) -> Option<Verdict> {
        self.trials += 1;
        self.taken += took;
        let figures = match result {
            Ok(figures) => figures,
            Err(reason) => return self.on_failure(reason),
        };
        assert_eq!(figures.len(), self.worse_max.len(), "one value a figure");
        self.failures = 0;
        let Some(contest) = &mut self.contest else {
            self.first_trials.push(figures);
            return None;
        };
        contest.on_figures(figures);
        if contest.between.is_some() || contest.gains.is_empty() {
            return None;
        }
        self.last_of_best = contest.before.clone();
        let reason = self.decide(left)?;
        Some(self.close(reason))
    }

    fn on_failure(&mut self, reason: String) -> Option<Verdict> {
        let of_candidate = self.contest.as_ref().is_some_and(Contest::is_candidates);
        if of_candidate {
            self.last_of_best = None;
            return Some(self.close(Reason::Failed(reason)));
        }
        self.failures += 1;
        if self.failures >= FAILURES_MAX {
            self.phase = Phase::Ended(End::Failed(reason));
        }
        None
    }

    fn first_trials_wanted(&self, left: Duration) -> usize {
        match self.affordable(left) {
            Some(trials) if self.trials + trials < TRIALS_FEW => FIRST_TRIALS_LEAST,
            _ => FIRST_TRIALS,
        }
    }

    /// How many trials there is time for; `None` before the first.
    fn affordable(&self, left: Duration) -> Option<usize> {
        let each = self.taken.as_secs_f64() / self.trials as f64;
        (self.trials > 0).then(|| (left.as_secs_f64() / each.max(1e-9)) as usize)
    }

    fn learn_noise(&mut self) {
        for three in self.first_trials.windows(3) {
            self.residuals.push(gains(&three[1], &three[0], &three[2]));
        }
        self.last_of_best = self.first_trials.last().cloned();
        self.phase = Phase::Looking;
    }

    fn begin_contest(&mut self, left: Duration) {
        let affordable = self.affordable(left).unwrap_or(usize::MAX);
        if matches!(self.phase, Phase::Looking) {
            let needed = trials_of(COMPARISONS_LEAST) + RESERVE;
            let rung = self.next_rung();
            if rung.is_some() && affordable < needed {
                self.is_out_of_time = true;
            }
            let rung = rung.filter(|_| affordable >= needed);
            if let Some(rung) = rung {
                let before = self.last_of_best.take();
                let contest = Contest::new(rung, self.best.clone(), before);
                self.contest = Some(contest);
                return;
            }
        }
        if self.best == self.first {
            let end = match self.is_out_of_time {
                true => End::OutOfTime,
                false => End::Tried,
            };
            self.phase = Phase::Ended(end);
            return;
        }
        self.phase = Phase::Confirming;
        let rung = Rung {
            point: self.best.clone(),
            change: self.changes.join(", "),
        };
        self.contest = Some(Contest {
            confirming: true,
            ..Contest::new(rung, self.first.clone(), None)
        });
    }

    /// The next that has not lost against the best yet.
    fn next_rung(&mut self) -> Option<Rung<P>> {
        loop {
            while let Some(ladder) = self.waiting.front_mut() {
                let rung = ladder.pop_front();
                match rung {
                    None => drop(self.waiting.pop_front()),
                    Some(rung) if rung.point == self.best => {}
                    // What is behind it is worse still.
                    Some(rung) if self.lost.contains(&rung.point) => ladder.clear(),
                    Some(rung) => return Some(rung),
                }
            }
            if self.dimension == self.dimensions {
                if !self.pass_won || self.pass == PASSES_MAX {
                    return None;
                }
                (self.pass_won, self.dimension) = (false, 0);
                self.pass += 1;
            }
            if self.dimensions == 0 {
                return None;
            }
            self.waiting = (self.ladders)(&self.best, self.dimension).into();
            self.dimension += 1;
        }
    }

    /// Whether the contest is over, and how it came out.
    fn decide(&self, left: Duration) -> Option<Reason> {
        let contest = self.contest.as_ref().expect("a contest has been compared");
        let (count, medians) = (contest.gains.len(), contest.medians());
        let noise = self.noise(&contest.gains);
        let (gain, goal_noise) = (medians[0], noise[0]);
        // So many more trials a comparison needs, and what comes after it.
        let reserve = if contest.confirming { 0 } else { RESERVE };
        let affordable = self.affordable(left).unwrap_or(usize::MAX);
        let is_last = affordable < 2 + reserve;
        let wanted = match contest.confirming {
            true => CONFIRMING,
            false => COMPARISONS_LEAST,
        };
        if count < wanted && !is_last {
            // What does not even look better is not looked at again.
            let hopeless = gain <= 0.0 && !contest.confirming;
            return hopeless.then_some(Reason::Worse);
        }
        if count >= COMPARISONS_LEAST && gain > goal_noise {
            let worse = (1..medians.len()).find(|figure| {
                let may = self.worse_max[*figure];
                medians[*figure] < -may.max(noise[*figure])
            });
            return Some(worse.map_or(Reason::Won, Reason::Guard));
        }
        let goes_on = gain > goal_noise / 2.0 && count < COMPARISONS_MOST;
        match goes_on && !contest.confirming {
            true if is_last => Some(Reason::OutOfTime),
            true => None,
            false if gain <= 0.0 => Some(Reason::Worse),
            false if count < COMPARISONS_LEAST => Some(Reason::OutOfTime),
            false => Some(Reason::Noise),
        }
    }

    /// How far from zero the medians of so many comparisons of equal points may be, by figure. What contests have shown up to
    /// now counts, around their own means, this one included.
    fn noise(&self, compared: &[Figures]) -> Vec<f64> {
        let own = residuals(compared);
        let by_figure = (0..self.worse_max.len()).map(|figure| {
            let all = self.residuals.iter().chain(&own);
            let sizes: Vec<f64> = all.map(|residual| residual[figure].abs()).collect();
            // A trial that the host has spoilt counts as one, by however much.
            let few = 1.0 + 1.0 / sizes.len().max(1) as f64;
            let deviation = median(sizes.into_iter()) * DEVIATION_OF_MEDIAN * few;
            let of_median = deviation * MEDIAN_SPREAD / (compared.len().max(1) as f64).sqrt();
            (DEVIATIONS * of_median).max(NOISE_LEAST)
        });
        by_figure.collect()
    }

    fn close(&mut self, reason: Reason) -> Verdict {
        let contest = self.contest.take().expect("a contest is closed once");
        let verdict = Verdict {
            change: contest.candidate.change.clone(),
            confirming: contest.confirming,
            comparisons: contest.gains.len(),
            gains: contest.medians(),
            noise: self.noise(&contest.gains),
            reason,
        };
        self.residuals.extend(residuals(&contest.gains));
        if contest.confirming {
            if !verdict.is_kept() {
                self.best = self.first.clone();
                self.changes.clear();
            }
            self.phase = Phase::Ended(match self.is_out_of_time {
                true => End::OutOfTime,
                false => End::Tried,
            });
        } else if verdict.is_kept() {
            self.best = contest.candidate.point;
            self.changes.push(contest.candidate.change);
            self.pass_won = true;
            self.lost.push(contest.against);
            // The same dimension, from there on.
            self.waiting.clear();
            self.dimension -= 1;
            // The last trial was of what is the best no more.
            self.last_of_best = None;
        } else {
            self.lost.push(contest.candidate.point);
            if let Some(ladder) = self.waiting.front_mut() {
                ladder.clear();
            }
        }
        verdict
    }
}

impl<P: Clone> Contest<P> {
    fn new(candidate: Rung<P>, against: P, before: Option<Figures>) -> Contest<P> {
        Contest {
            candidate,
            against,
            confirming: false,
            before,
            between: None,
            gains: Vec::new(),
        }
    }

    /// Whether the next trial is the candidate's.
    fn is_candidates(&self) -> bool {
        self.before.is_some() && self.between.is_none()
    }

    fn next(&self) -> Step<P> {
        let (point, purpose) = match (self.is_candidates(), self.confirming) {
            (true, false) => (&self.candidate.point, Purpose::Candidate),
            (true, true) => (&self.candidate.point, Purpose::Found),
            (false, false) => (&self.against, Purpose::Best),
            (false, true) => (&self.against, Purpose::First),
        };
        Step::Try {
            point: point.clone(),
            purpose,
            change: self.candidate.change.clone(),
        }
    }

    fn on_figures(&mut self, figures: Figures) {
        if self.is_candidates() {
            self.between = Some(figures);
        } else {
            if let (Some(before), Some(between)) = (&self.before, self.between.take()) {
                self.gains.push(gains(&between, before, &figures));
            }
            self.before = Some(figures);
        }
    }

    fn medians(&self) -> Vec<f64> {
        let figures = self.gains.first().map_or(0, Vec::len);
        let of_figure = |figure: usize| median(self.gains.iter().map(|gains| gains[figure]));
        (0..figures).map(of_figure).collect()
    }
}

/// What a trial has over the mean of the two beside it.
fn gains(one: &[f64], before: &[f64], after: &[f64]) -> Figures {
    let beside = before.iter().zip(after);
    let pairs = one.iter().zip(beside);
    pairs
        .map(|(one, (before, after))| one - (before + after) / 2.0)
        .collect()
}

/// What several comparisons of the same two differ from their mean, as wide as if the mean were known from elsewhere.
fn residuals(compared: &[Figures]) -> Vec<Figures> {
    let count = compared.len() as f64;
    if compared.len() < 2 {
        return Vec::new();
    }
    let wider = (count / (count - 1.0)).sqrt();
    let mean = |figure: usize| compared.iter().map(|gains| gains[figure]).sum::<f64>() / count;
    let means: Vec<f64> = (0..compared[0].len()).map(mean).collect();
    let around = |gains: &Figures| {
        let pairs = gains.iter().zip(&means);
        pairs.map(|(gain, mean)| (gain - mean) * wider).collect()
    };
    compared.iter().map(around).collect()
}

/// Of nothing it is 0.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.is_empty() {
        return 0.0;
    }
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use coati_bench::random::Random;

    use super::*;

    const TRIAL: Duration = Duration::from_secs(7);
    const MINUTES: Duration = Duration::from_secs(600);

    /// Points are one number a dimension, of `0..VALUES`.
    type Point = Vec<usize>;
    const VALUES: usize = 4;

    fn set(point: &Point, dimension: usize, value: usize) -> Rung<Point> {
        let mut point = point.clone();
        let change = format!("{dimension}: {value} instead of {}", point[dimension]);
        point[dimension] = value;
        Rung { point, change }
    }

    fn up_and_down(point: &Point, dimension: usize) -> Vec<Ladder<Point>> {
        let at = point[dimension];
        let up = (at + 1..VALUES).map(|value| set(point, dimension, value));
        let down = (0..at).rev().map(|value| set(point, dimension, value));
        vec![up.collect(), down.collect()]
    }

    /// Nearly normal, of deviation 1.
    fn deviate(random: &mut Random) -> f64 {
        (0..12).map(|_| random.next_fraction()).sum::<f64>() - 6.0
    }

    struct World {
        random: Random,
        noise: f64,
        /// Of the host's speed, a trial.
        drift: f64,
        left: Duration,
    }

    impl World {
        fn new(seed: u64, noise: f64) -> World {
            World {
                random: Random::new(seed),
                noise,
                drift: 0.0,
                left: MINUTES,
            }
        }

        /// Until it ends: the end, the verdicts, and how many trials that took.
        fn run(
            &mut self,
            search: &mut Search<Point>,
            landscape: impl Fn(&Point) -> Vec<f64>,
        ) -> (End, Vec<Verdict>, usize) {
            let (mut verdicts, mut trials) = (Vec::new(), 0);
            let mut host = 0.0;
            loop {
                let point = match search.next(self.left) {
                    Step::End(end) => return (end, verdicts, trials),
                    Step::Try { point, .. } => point,
                };
                trials += 1;
                assert!(trials < 1000, "it goes on for ever");
                host += self.drift;
                let figures = landscape(&point).into_iter();
                let figures =
                    figures.map(|figure| figure + host + self.noise * deviate(&mut self.random));
                self.left = self.left.saturating_sub(TRIAL);
                verdicts.extend(search.on_trial(Ok(figures.collect()), TRIAL, self.left));
            }
        }
    }

    fn search(first: Point) -> Search<Point> {
        let dimensions = first.len();
        Search::new(first, dimensions, vec![0.0, 0.2], up_and_down)
    }

    #[test]
    fn where_nothing_is_better_the_first_is_kept_in_nearly_all_worlds_and_soon() {
        let mut kept = 0;
        for seed in 0..300 {
            let mut search = search(vec![1, 1, 1, 1, 1]);
            let (_, _, trials) = World::new(seed, 0.05).run(&mut search, |_| vec![0.0, 0.0]);
            kept += usize::from(search.best() == &[1, 1, 1, 1, 1]);
            assert!(trials <= MINUTES.as_secs() as usize / 7 + 1, "{trials}");
        }
        assert!(kept >= 297, "{kept} of 300");
    }

    #[test]
    fn a_gain_well_over_the_noise_is_found_and_confirmed() {
        let mut found = 0;
        for seed in 0..100 {
            let mut search = search(vec![1, 1, 1]);
            // The second dimension alone matters: a fifth better at 2.
            let landscape = |point: &Point| vec![if point[1] == 2 { 0.2 } else { 0.0 }, 0.0];
            let (end, verdicts, _) = World::new(seed, 0.03).run(&mut search, landscape);
            if search.best()[1] == 2 {
                found += 1;
                let last = verdicts.last().unwrap();
                assert!(last.confirming && last.is_kept() && (last.gains[0] - 0.2).abs() < 0.1);
                assert_eq!(end, End::Tried);
            }
        }
        assert!(found >= 97, "{found} of 100");
    }

    #[test]
    fn a_ladder_is_climbed_to_its_top_in_both_directions() {
        for (first, top) in [(0, 3), (3, 0), (1, 3), (2, 0)] {
            let mut search = search(vec![first, 1]);
            let landscape = move |point: &Point| {
                let away = (point[0] as f64 - top as f64).abs();
                vec![-0.3 * away, 0.0]
            };
            World::new(1, 0.01).run(&mut search, landscape);
            assert_eq!(search.best()[0], top, "from {first}");
        }
    }

    #[test]
    fn a_host_that_slows_down_or_speeds_up_fools_nobody() {
        for (seed, drift) in [(1, -0.02), (2, 0.02), (3, -0.05), (4, 0.05)] {
            let mut world = World::new(seed, 0.01);
            world.drift = drift;
            let mut search = search(vec![1, 1, 1]);
            world.run(&mut search, |_| vec![0.0, 0.0]);
            assert_eq!(search.best(), &[1, 1, 1], "{drift}");
            let mut world = World::new(seed, 0.01);
            world.drift = drift;
            let mut search = self::search(vec![1, 1, 1]);
            world.run(&mut search, |point| vec![0.1 * point[2] as f64, 0.0]);
            assert_eq!(search.best()[2], 3, "{drift}");
        }
    }

    #[test]
    fn what_is_won_at_too_high_a_price_is_refused() {
        let mut search = search(vec![1]);
        let landscape = |point: &Point| vec![0.3 * point[0] as f64, -0.5 * point[0] as f64];
        let (_, verdicts, _) = World::new(1, 0.01).run(&mut search, landscape);
        assert_eq!(search.best(), &[1]);
        let refused: Vec<_> = verdicts.iter().map(|verdict| &verdict.reason).collect();
        assert_eq!(refused, [&Reason::Guard(1), &Reason::Worse]);
    }

    #[test]
    fn small_prices_that_add_up_are_refused_at_the_end() {
        let mut search = search(vec![0]);
        let landscape = |point: &Point| vec![0.3 * point[0] as f64, -0.15 * point[0] as f64];
        let (_, verdicts, _) = World::new(1, 0.001).run(&mut search, landscape);
        let last = verdicts.last().unwrap();
        assert!(
            last.confirming && last.reason == Reason::Guard(1),
            "{last:?}"
        );
        assert_eq!((search.best(), search.changes().len()), (&vec![0], 0));
    }

    #[test]
    fn without_time_for_more_it_confirms_what_it_has_and_stops() {
        let mut world = World::new(1, 0.01);
        world.left = TRIAL * 30;
        let mut search = search(vec![1, 1, 1, 1, 1, 1]);
        let (end, verdicts, trials) =
            world.run(&mut search, |point| vec![0.2 * point[0] as f64, 0.0]);
        assert_eq!(end, End::OutOfTime);
        assert!((TRIALS_LEAST..=30).contains(&trials), "{trials}");
        assert!(verdicts.last().unwrap().confirming && search.best()[0] > 1);
        let mut world = World::new(1, 0.01);
        world.left = TRIAL * 5;
        let mut search = self::search(vec![1]);
        let (end, verdicts, _) = world.run(&mut search, |_| vec![0.0, 0.0]);
        assert_eq!((end, verdicts.len()), (End::OutOfTime, 0));
    }

    #[test]
    fn a_candidate_that_fails_loses_and_a_first_point_that_fails_twice_ends_it() {
        let mut search = search(vec![0]);
        let mut failed = Vec::new();
        loop {
            let point = match search.next(MINUTES) {
                Step::End(end) => break assert_eq!(end, End::Tried),
                Step::Try { point, .. } => point,
            };
            let result = match point[0] {
                1 => Err("no such core".to_owned()),
                _ => Ok(vec![0.0, 0.0]),
            };
            failed.extend(search.on_trial(result, TRIAL, MINUTES));
        }
        // The rungs behind it are of no use.
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].reason, Reason::Failed("no such core".into()));

        let mut search = self::search(vec![0]);
        for _ in 0..FAILURES_MAX {
            assert!(matches!(search.next(MINUTES), Step::Try { .. }));
            assert_eq!(search.on_trial(Err("no disk".into()), TRIAL, MINUTES), None);
        }
        assert_eq!(
            search.next(MINUTES),
            Step::End(End::Failed("no disk".into()))
        );
    }

    #[test]
    fn one_trial_that_the_host_has_spoilt_hides_nothing() {
        let mut search = search(vec![1, 1]);
        let (mut trials, mut left) = (0, MINUTES);
        while let Step::Try { point, .. } = search.next(left) {
            trials += 1;
            left = left.saturating_sub(TRIAL);
            let mut figure = 0.2 * point[1] as f64 + 0.005 * f64::from(trials % 3);
            if trials == 3 {
                figure -= 1.0;
            }
            search.on_trial(Ok(vec![figure, 0.0]), TRIAL, left);
        }
        assert_eq!(search.best(), &[1, 3]);
    }

    #[test]
    fn medians_and_residuals() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median(std::iter::empty()), 0.0);
        let root = 2_f64.sqrt();
        assert_eq!(residuals(&[vec![1.0], vec![3.0]]), [[-root], [root]]);
        assert_eq!(gains(&[4.0], &[1.0], &[2.0]), [2.5]);
    }
}
