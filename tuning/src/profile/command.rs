//! Owns the command line of `coati tune profile`.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use super::choose::{ChooseError, Chosen, choose};
use super::{Facts, Preset, Profile};
use crate::disk::Verdict;
use crate::machine::Machine;
use crate::root::Root;

/// Figures of a disk are some hundred KiB.
const FIGURES_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// What it is for; without one, shared where a CPU quota or two CPUs are all there is, else throughput
    #[arg(long, value_name = "PRESET")]
    preset: Option<Preset>,

    /// Figures of the data folder's disk, as `coati tune disk DIR --json=FILE` writes them
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,

    /// How many cores the broker has at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    cores: Option<u16>,

    /// Where the profile is written, if there is nothing yet; - is stdout
    #[arg(long, value_name = "FILE", default_value = "profile.toml")]
    output: PathBuf,

    /// Data folder of the broker: which memory node its disk is on counts
    #[arg(long, value_name = "FOLDER", default_value = "./coati-data")]
    data_dir: PathBuf,

    /// Where /proc and /sys are: a container may have the host's below another folder
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ProfileCommandError {
    #[error(transparent)]
    Choose(#[from] ChooseError),
    #[error("cannot read {path}: {error}")]
    Figures { path: String, error: io::Error },
    #[error("{path} holds no figures of `coati tune disk --json=FILE`: {reason}")]
    NoFigures { path: String, reason: String },
    #[error("{0} is there already; another --output writes another, - shows it")]
    Exists(String),
    #[error("cannot write {path}: {error}")]
    Output { path: String, error: io::Error },
}

/// What of the figures is needed.
#[derive(Deserialize)]
struct Figures {
    verdict: Verdict,
}

impl ProfileArgs {
    /// The text for stdout.
    pub fn run(self) -> Result<String, ProfileCommandError> {
        let disk = self.disk.as_deref().map(figures).transpose()?;
        let machine = Machine::look(Root::new(&self.root), &self.data_dir, None, None);
        let facts = Facts::of(&machine);
        let cores = self.cores.map(usize::from);
        let chosen = choose(&facts, disk.as_ref(), self.preset, cores)?;
        let text = chosen.to_toml();
        if self.output == Path::new("-") {
            return Ok(text);
        }
        write_new(&self.output, &text)?;
        Ok(told(&chosen, &self.output))
    }
}

fn figures(path: &Path) -> Result<Verdict, ProfileCommandError> {
    let name = path.display().to_string();
    let refused = |error| ProfileCommandError::Figures {
        path: name.clone(),
        error,
    };
    let size = std::fs::metadata(path).map_err(refused)?.len();
    if size > FIGURES_BYTES_MAX {
        return Err(ProfileCommandError::NoFigures {
            path: name,
            reason: format!("it has {size} bytes"),
        });
    }
    let text = std::fs::read_to_string(path).map_err(refused)?;
    match serde_json::from_str::<Figures>(&text) {
        Ok(figures) => Ok(figures.verdict),
        Err(error) => Err(ProfileCommandError::NoFigures {
            path: name,
            reason: error.to_string(),
        }),
    }
}

/// Somebody may have changed the one that is there.
fn write_new(path: &Path, text: &str) -> Result<(), ProfileCommandError> {
    let name = path.display().to_string();
    let opened = OpenOptions::new().write(true).create_new(true).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => ProfileCommandError::Exists(name),
        _ => ProfileCommandError::Output { path: name, error },
    })
}

fn told(chosen: &Chosen, path: &Path) -> String {
    let profile: &Profile = &chosen.profile;
    let mut text = format!("{}: preset {}\n", path.display(), chosen.preset.name());
    for core in &profile.cores {
        let awake = if core.stay_awake { ", stays awake" } else { "" };
        let line = writeln!(text, "CPU {:<3} {}{awake}", core.cpu, core.roles);
        line.expect("a string takes all");
    }
    let line = writeln!(text, "use it: coati start --profile {}", path.display());
    line.expect("a string takes all");
    text
}
