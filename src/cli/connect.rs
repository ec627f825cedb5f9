//! Owns what all commands that talk to a cluster share: how it is found, and the executor they run on.

use std::future::Future;
use std::time::Duration;

use clap::Args;

use super::Outcome;
use crate::client::{Cluster, ClusterOptions};
use crate::io::{process, watchdog};

#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// Brokers to begin with, host:port, separated by commas; one that answers is enough
    #[arg(
        long = "bootstrap",
        short = 'b',
        alias = "bootstrap-server",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9092",
        value_delimiter = ','
    )]
    bootstrap: Vec<String>,

    /// Seconds to go on trying while the cluster answers with errors that may pass
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u64,
}

/// Runs `work` with a cluster, on an executor of its own on this thread.
pub fn with_cluster<F>(args: &ClusterArgs, work: impl FnOnce(Cluster) -> F) -> Outcome
where
    F: Future<Output = Outcome>,
{
    let executor = glommio::LocalExecutorBuilder::default()
        .make()
        .map_err(|error| {
            format!(
                "cannot set up io_uring ({error}); the kernel must be 6.1 or later and allow it"
            )
        })?;
    let watch = watchdog::watch(process::thread_name());
    executor.run(async {
        drop(watch);
        let options = ClusterOptions {
            retry_for: Duration::from_secs(args.timeout),
            ..ClusterOptions::default()
        };
        let cluster = Cluster::connect(&args.bootstrap, options).await?;
        work(cluster).await
    })
}

/// `key=value`, as `--config` and `--header` take it.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "it is not of the form key=value".to_owned())?;
    Ok((key.trim().to_owned(), value.to_owned()))
}
