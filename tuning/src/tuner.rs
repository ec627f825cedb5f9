//! Owns what a tuner is: one value that says what it looks at and why, and a check that answers with what it found and
//! what would mend it. Never writes: `apply` carries out changes, the same way for all tuners.

use serde::Serialize;

use crate::machine::Machine;
use crate::root::{Form, Read};

#[derive(Debug)]
pub struct Tuner {
    /// As people type it.
    pub name: &'static str,
    pub area: Area,
    /// What it looks at, in the kernel's words.
    pub title: &'static str,
    /// What a throughput server needs.
    pub needs: &'static str,
    /// What it costs to leave it otherwise.
    pub cost: &'static str,
    /// Where that can be read: the kernel's documentation, or a manual page.
    pub source: &'static str,
    /// Reads only. An entry that tells nothing makes the verdict `Unknown`.
    pub check: fn(&Machine) -> Read<Finding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    Processor,
    Memory,
    Disk,
    Network,
    Kernel,
}

/// From what needs no attention to what needs most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There is nothing of the kind here.
    Absent,
    Good,
    /// An entry is missing, unreadable or malformed.
    Unknown,
    /// Costs little, or only some; applied when it is named.
    Hint,
    /// Costs throughput or latency.
    Warning,
    /// The broker does not run, or breaks its promises.
    Critical,
}

impl Verdict {
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Absent => "absent",
            Verdict::Good => "good",
            Verdict::Unknown => "unknown",
            Verdict::Hint => "hint",
            Verdict::Warning => "warning",
            Verdict::Critical => "critical",
        }
    }
}

/// One entry to be written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    pub path: String,
    #[serde(skip)]
    pub form: Form,
    /// `None`: it is not written, but the kernel changes it along with others of the tuner, so undoing brings it back.
    pub to: Option<String>,
}

impl Change {
    pub fn new(path: impl Into<String>, form: Form, to: impl ToString) -> Change {
        let to = to.to_string();
        let to = form
            .value(&to)
            .expect("what a tuner writes has the entry's form");
        Change {
            path: path.into(),
            form,
            to: Some(to),
        }
    }

    pub fn along(path: impl Into<String>, form: Form) -> Change {
        Change {
            path: path.into(),
            form,
            to: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub verdict: Verdict,
    /// What this machine has.
    pub has: String,
    /// What else to do, where writing entries is not all of it.
    pub advice: Option<String>,
    /// None where all is well.
    pub changes: Vec<Change>,
}

impl Finding {
    pub fn new(verdict: Verdict, has: impl Into<String>) -> Finding {
        Finding {
            verdict,
            has: has.into(),
            advice: None,
            changes: Vec::new(),
        }
    }

    pub fn good(has: impl Into<String>) -> Finding {
        Finding::new(Verdict::Good, has)
    }

    pub fn absent(has: impl Into<String>) -> Finding {
        Finding::new(Verdict::Absent, has)
    }

    /// `verdict` if there is something to mend by writing, else good.
    pub fn by_changes(verdict: Verdict, has: impl Into<String>, changes: Vec<Change>) -> Finding {
        let verdict = match changes.is_empty() {
            true => Verdict::Good,
            false => verdict,
        };
        Finding {
            changes,
            ..Finding::new(verdict, has)
        }
    }

    pub fn advise(mut self, advice: impl Into<String>) -> Finding {
        self.advice = Some(advice.into());
        self
    }
}

/// A tuner and what it found.
#[derive(Debug)]
pub struct Row {
    pub tuner: &'static Tuner,
    pub finding: Finding,
}

impl Row {
    pub fn of(tuner: &'static Tuner, machine: &Machine) -> Row {
        let finding = (tuner.check)(machine);
        Row {
            tuner,
            finding: finding
                .unwrap_or_else(|error| Finding::new(Verdict::Unknown, error.to_string())),
        }
    }
}
