//! Owns writing entries and bringing them back: what tuners found is carried out here, the same way for all. First
//! every value is kept, then the first is written.

use std::io;
use std::path::Path;

use crate::root::{Form, Root, if_there};
use crate::state::{Saved, State, StateError, StateFile, load};
use crate::tuner::{Change, Row};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What became, or would become, of one entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub tuner: String,
    pub path: String,
    /// `None`: it is not there, or cannot be read.
    pub from: Option<String>,
    pub to: String,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Of a dry run.
    Would,
    Written,
    /// The kernel has made something of it.
    Became(String),
    /// Its reason.
    Failed(String),
    /// It has neither the value that an apply has left nor the first: somebody else's.
    Foreign,
}

struct Planned<'a> {
    tuner: &'static str,
    change: &'a Change,
    now: String,
}

/// Carries out what the rows want. Nothing is touched, not even the state file, when there is nothing to write.
pub fn apply(
    root: &Root,
    rows: &[Row],
    state: &Path,
    is_dry: bool,
) -> Result<Vec<Step>, StateError> {
    let mut steps = Vec::new();
    let planned = plan(root, rows, &mut steps);
    if is_dry || !planned.iter().any(|planned| planned.change.to.is_some()) {
        steps.extend(
            planned
                .into_iter()
                .filter_map(|planned| planned.step(Outcome::Would)),
        );
        return Ok(steps);
    }
    let kept = keep(root, state, &planned);
    let (file, mut state) = kept.map_err(|error| StateError::NothingKept(Box::new(error)))?;
    for planned in &planned {
        if let Some(to) = &planned.change.to {
            let outcome = write(root, &planned.change.path, planned.change.form, to);
            steps.extend(planned.step(outcome));
        }
    }
    for planned in &planned {
        let path = &planned.change.path;
        if let Some(saved) = state.find(path) {
            saved.applied = root.value(path, saved.form).ok();
        }
    }
    // What could not be written is as it was.
    let untouched = |saved: &Saved| !saved.is_along && saved.applied.as_ref() == Some(&saved.first);
    state.saved.retain(|saved| !untouched(saved));
    if state.saved.iter().all(|saved| saved.is_along) {
        file.remove()?;
    } else {
        file.save(&state)?;
    }
    Ok(steps)
}

/// Puts every present value on stable storage, but those that are there already.
fn keep(
    root: &Root,
    path: &Path,
    planned: &[Planned<'_>],
) -> Result<(StateFile, State), StateError> {
    let file = StateFile::hold(path)?;
    let boot_id = root.text(BOOT_ID).ok();
    let kept = file.load()?.filter(|state| state.boot_id == boot_id);
    let mut state = kept.unwrap_or_else(|| State::new(boot_id));
    for planned in planned {
        planned.keep(&mut state);
    }
    file.save(&state)?;
    Ok((file, state))
}

/// What is to be written, each entry once, with its present value.
fn plan<'a>(root: &Root, rows: &'a [Row], steps: &mut Vec<Step>) -> Vec<Planned<'a>> {
    let mut planned: Vec<Planned<'a>> = Vec::new();
    for row in rows {
        for change in &row.finding.changes {
            if planned.iter().any(|other| other.change == change) {
                continue;
            }
            let tuner = row.tuner.name;
            match root.value(&change.path, change.form) {
                Ok(now) if change.to.as_ref() == Some(&now) => {}
                Ok(now) => planned.push(Planned { tuner, change, now }),
                // Without its present value it could not be undone. One that only goes along is missed by nobody.
                Err(error) if change.to.is_some() => steps.push(Step {
                    tuner: tuner.into(),
                    path: change.path.clone(),
                    from: None,
                    to: change.to.clone().unwrap_or_default(),
                    outcome: Outcome::Failed(error.to_string()),
                }),
                Err(_) => {}
            }
        }
    }
    planned
}

impl Planned<'_> {
    fn step(&self, outcome: Outcome) -> Option<Step> {
        Some(Step {
            tuner: self.tuner.into(),
            path: self.change.path.clone(),
            from: Some(self.now.clone()),
            to: self.change.to.clone()?,
            outcome,
        })
    }

    /// The value of the first apply stays.
    fn keep(&self, state: &mut State) {
        let is_along = self.change.to.is_none();
        match state.find(&self.change.path) {
            Some(saved) if is_along => saved.applied = None,
            Some(saved) => {
                saved.applied = self.change.to.clone();
                saved.is_along = false;
            }
            None => state.saved.push(Saved {
                tuner: self.tuner.into(),
                path: self.change.path.clone(),
                form: self.change.form,
                first: self.now.clone(),
                applied: self.change.to.clone(),
                is_along,
            }),
        }
    }
}

fn write(root: &Root, path: &str, form: Form, to: &str) -> Outcome {
    if let Err(error) = root.write(path, to) {
        return Outcome::Failed(refusal(&error));
    }
    match root.value(path, form) {
        Ok(now) if now == to => Outcome::Written,
        Ok(now) => Outcome::Became(now),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// In words that say what to do.
fn refusal(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; this needs root, and an entry that the kernel lets be written"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; in a container, tune its host",
        _ => "",
    };
    format!("cannot be written: {error}{advice}")
}

/// What there was to undo.
#[derive(Debug, PartialEq)]
pub enum Undone {
    Nothing,
    /// The machine has started anew since: nothing of it is in force.
    Gone,
    Steps(Vec<Step>),
}

/// Brings every kept entry back to its first value. One that somebody has changed since is left, unless `is_forced`.
pub fn undo(root: &Root, path: &Path, is_forced: bool, is_dry: bool) -> Result<Undone, StateError> {
    // A look without the lock, for which nobody has to be root.
    let Some(state) = load(path)? else {
        return Ok(Undone::Nothing);
    };
    let is_gone = state.boot_id != root.text(BOOT_ID).ok();
    if is_dry {
        return Ok(match is_gone {
            true => Undone::Gone,
            false => Undone::Steps(bring_back(root, &state, is_forced, None)),
        });
    }
    let file = StateFile::hold(path)?;
    if is_gone {
        file.remove()?;
        return Ok(Undone::Gone);
    }
    let Some(state) = file.load()? else {
        return Ok(Undone::Nothing);
    };
    let mut left = state.clone();
    let steps = bring_back(root, &state, is_forced, Some(&mut left));
    if left.saved.iter().all(|saved| saved.is_along) {
        file.remove()?;
    } else {
        file.save(&left)?;
    }
    Ok(Undone::Steps(steps))
}

/// Without `left` it only says what it would do; with it, only what is not back stays there.
fn bring_back(
    root: &Root,
    state: &State,
    is_forced: bool,
    mut left: Option<&mut State>,
) -> Vec<Step> {
    let value = |saved: &Saved| root.value(&saved.path, saved.form).ok();
    // Decided before the first is written: entries that go along move with it.
    let is_foreign = |saved: &Saved| {
        let now = value(saved);
        let is_ours = saved.applied.is_none() || saved.applied == now;
        !is_forced && now.is_some() && !is_ours && now.as_ref() != Some(&saved.first)
    };
    let foreign: Vec<bool> = state.saved.iter().map(is_foreign).collect();
    let mut steps = Vec::new();
    for (saved, is_foreign) in state.saved.iter().zip(foreign) {
        let now = value(saved);
        let outcome = match (&left, &now) {
            (_, Some(now)) if *now == saved.first => None,
            _ if is_foreign => Some(Outcome::Foreign),
            (_, None) if saved.is_along => None,
            (_, None) => Some(Outcome::Failed(match if_there(root.text(&saved.path)) {
                Ok(None) => "is not there any more".into(),
                Ok(Some(_)) => "has no value that can be read".into(),
                Err(error) => error.to_string(),
            })),
            (None, Some(_)) => Some(Outcome::Would),
            (Some(_), Some(_)) => Some(write(root, &saved.path, saved.form, &saved.first)),
        };
        if let Some(left) = &mut left
            && matches!(outcome, None | Some(Outcome::Written))
        {
            left.saved.retain(|other| other.path != saved.path);
        }
        steps.extend(outcome.map(|outcome| Step {
            tuner: saved.tuner.clone(),
            path: saved.path.clone(),
            from: now,
            to: saved.first.clone(),
            outcome,
        }));
    }
    steps
}
