//! `coati start`: from what was typed to a running broker.

use std::path::{Path, PathBuf};

use clap::Args;
use coati_tuning::profile::{self, Facts, Profile, ReadError};

use super::{Failure, Outcome};
use crate::config::{self, BrokerConfig, ConfigFile, Sources};

/// Start a broker.
///
/// Without any argument it serves on 127.0.0.1:9092, keeps its data in ./coati-data and uses every core. SIGTERM or
/// SIGINT stops it cleanly; a second one ends it at once. On http://127.0.0.1:9192 is a live view for a browser; programs
/// find metrics, health and where its time goes beside it (/metrics, /healthz, /readyz, /debug/stages, /debug/watch).
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Configuration file: Kafka's server.properties by its ending, else TOML with the same setting names
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,

    /// One broker setting, such as log.retention.hours=24; repeatable, wins over the file
    #[arg(short = 'o', long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,

    /// Data folder; short for -o log.dirs=...
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,

    /// Where to listen: host:port or NAME://host:port; short for -o listeners=...
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,

    /// Number of cores to use; all when not given
    #[arg(long, value_name = "N")]
    cores: Option<usize>,

    /// What each core is for and how much it may take, as `coati tune profile` writes it; instead of --cores. A setting that is
    /// given (log.tail.cache.bytes, queued.max.request.bytes) wins over it
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,

    /// Where metrics, health and timings are served over HTTP, to anybody who can connect; port 0 takes any that is free
    #[arg(long, value_name = "HOST:PORT|off")]
    admin: Option<String>,
}

pub fn run(args: StartArgs) -> Outcome {
    let profile = args.profile.clone();
    let mut loaded = config::load(&sources(args)?)?;
    if let Some(path) = profile {
        let (profile, interrupted) = load_profile(&path, &loaded.config)?;
        loaded.config.use_profile(profile)?;
        loaded.notices.extend(interrupted);
    }
    for notice in &loaded.notices {
        tracing::warn!("{notice}");
    }
    Ok(crate::shard::start::run(loaded.config)?)
}

/// The profile, and what of the machine is not as it has it.
fn load_profile(path: &Path, config: &BrokerConfig) -> Result<(Profile, Vec<String>), ReadError> {
    let name = path.display();
    let facts = Facts::of_this_machine(&config.data_dir);
    let profile = profile::read(path, &facts)?;
    let notices = facts.disturbing(&profile.irq_free_cpus).map(|(device, cpus)| {
        format!(
            "interrupts of {device} arrive on CPU {cpus}, which the profile wants free of them: `sudo coati tune apply \
             disk-interrupts nic-interrupts --profile {name}` moves them"
        )
    });
    let notices = notices.collect();
    Ok((profile, notices))
}

fn sources(args: StartArgs) -> Result<Sources, Failure> {
    let data_dir = args.data_dir.map(|folder| {
        let text = folder.into_os_string().into_string();
        text.map_err(|text| format!("the data folder's name {text:?} is not UTF-8"))
    });
    Ok(Sources {
        file: args.config.as_deref().map(read).transpose()?,
        data_dir: data_dir.transpose()?,
        listen: args.listen,
        cores: args.cores,
        admin: args.admin,
        overrides: args.overrides,
    })
}

fn read(path: &Path) -> Result<ConfigFile, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(ConfigFile::from_named(&name, text))
}
