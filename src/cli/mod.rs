//! Owns the command line: what people type, what they read. One file a command; the work itself is in `client` and
//! `shard`. Results go to stdout, everything else to stderr; a failed command says why in one sentence and exits 1,
//! one that a signal ended early exits 130, a check that found something bad says how bad by its code.

mod bench;
mod connect;
mod consume;
mod format;
mod group;
mod lines;
mod log_dump;
mod produce;
mod progress;
mod start;
mod topic;
mod tune;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A Kafka-compatible event-streaming broker, and the daily commands for any Kafka.
#[derive(Debug, Parser)]
#[command(name = "coati", version, arg_required_else_help = true)]
struct Coati {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Start(start::StartArgs),
    /// Create, list, describe, alter and delete topics.
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// List, describe, reset and delete consumer groups.
    #[command(subcommand)]
    Group(group::GroupCommand),
    Produce(produce::ProduceArgs),
    Consume(consume::ConsumeArgs),
    Bench(Box<coati_bench::BenchArgs>),
    Tune(coati_tuning::TuneArgs),
    /// Look at log files; needs no broker.
    #[command(subcommand)]
    Log(LogCommand),
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    Dump(log_dump::DumpArgs),
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub enum Failure {
    /// In one sentence.
    Because(String),
    /// By a signal; the command has said what there was to say.
    Interrupted,
    /// It did what was asked, and what it found is not well: the code to exit with.
    Found(u8),
}

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::Because(error.to_string())
    }
}

type Outcome = Result<(), Failure>;

/// Runs what the process was started with.
pub fn main() -> ExitCode {
    let coati = Coati::parse();
    log_to_stderr();
    let outcome = match coati.command {
        Command::Start(args) => start::run(args),
        Command::Topic(command) => topic::run(command),
        Command::Group(command) => group::run(command),
        Command::Produce(args) => produce::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Bench(args) => bench::run(*args),
        Command::Tune(args) => tune::run(args),
        Command::Log(LogCommand::Dump(args)) => log_dump::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Interrupted) => ExitCode::from(coati_bench::INTERRUPTED_EXIT_CODE),
        Err(Failure::Found(code)) => ExitCode::from(code),
        Err(Failure::Because(reason)) => {
            eprintln!("coati: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a result; a reader that went away has seen enough.
fn print(text: &str) -> Outcome {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// `RUST_LOG` chooses what is logged; info and above without it.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Coati::command().debug_assert();
    }
}
