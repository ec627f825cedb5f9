//! Owns one trial: this program as a broker on an empty folder, this program as its load, and that both are gone afterwards with
//! all that they have written.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use coati_bench::clock;

use super::goal::Measured;
use crate::profile::Profile;
use crate::scratch::{self, Folder};

const DATA: &str = "data";
const PROFILE: &str = "profile.toml";

/// What trials make.
pub const SCRATCH: scratch::Kind = scratch::Kind {
    name: "coati-tune-auto",
    marker: "made-by-coati-tune-auto",
    marker_text: "Brokers of `coati tune auto` have their data here. If none runs, it is a leftover of one that was killed; the next one removes it.\n",
    files: &[PROFILE],
    folders: &[DATA],
};

/// A broker has logged this when it serves.
const SERVES: &str = "Kafka Server started";
const START_PATIENCE: Duration = Duration::from_secs(60);

/// What a load may take beyond the time it was told: topics, the last answers.
const LOAD_PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at whether a signal came.
const LOOK: Duration = Duration::from_millis(50);

/// Of what a process has said, the last lines are told when it fails.
const LINES_KEPT: usize = 5;

/// Reports have an entry a second.
const REPORT_BYTES_MAX: u64 = 64 << 20;

/// What is the same for all trials.
#[derive(Debug)]
pub struct Setup {
    /// This one.
    pub program: PathBuf,
    pub workload: PathBuf,
    pub seconds: f64,
    pub warm_up: f64,
    /// The generator's own.
    pub bench_cpu: Option<u32>,
    /// Settings of the broker, `key=value`.
    pub settings: Vec<String>,
    pub folder: Folder,
    /// A signal came.
    pub interrupted: Arc<AtomicBool>,
}

#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("{0}")]
    Failed(String),
    #[error("interrupted")]
    Interrupted,
}

impl From<String> for TrialError {
    fn from(reason: String) -> TrialError {
        TrialError::Failed(reason)
    }
}

/// What a thread has to tell that reads what a process says.
enum Told {
    /// Somewhere it has said what it was waited for.
    Sign,
    /// It says no more: all of it, or the last lines.
    End(String),
}

/// A child process. Dropped, it is killed and waited for.
struct Running {
    child: Child,
    told: Receiver<Told>,
}

impl Running {
    /// In a process group of its own: Ctrl-C is for us, and we end it.
    fn start(
        command: &mut Command,
        read: impl FnOnce(&mut Child, Sender<Told>),
    ) -> Result<Running, String> {
        let child = command.stdin(Stdio::null()).process_group(0).spawn();
        let mut child =
            child.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let (tell, told) = mpsc::channel();
        read(&mut child, tell);
        Ok(Running { child, told })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

impl Setup {
    /// What the workload comes to with this profile.
    pub fn run(&self, profile: &Profile) -> Result<Measured, TrialError> {
        let data = self.folder.path_of(DATA);
        remove(&data)?;
        let ran = self.measure(profile, &data);
        remove(&data)?;
        ran
    }

    fn measure(&self, profile: &Profile, data: &Path) -> Result<Measured, TrialError> {
        let written = self.folder.path_of(PROFILE);
        fs::write(&written, profile.to_toml())
            .map_err(|error| format!("{}: {error}", written.display()))?;
        let port = free_port().map_err(|error| format!("a free port: {error}"))?;
        let address = format!("127.0.0.1:{port}");
        let broker = self.start_broker(&written, data, &address)?;
        let load = self.start_load(&address, broker.child.id())?;
        let most = Duration::from_secs_f64(self.seconds + self.warm_up) + LOAD_PATIENCE;
        let due = clock::now() + most;
        let report = loop {
            match self.wait(&load.told, due, "the load takes too long")? {
                Told::Sign => {}
                Told::End(report) => break report,
            }
            if let Ok(Told::End(last)) = broker.told.try_recv() {
                return Err(TrialError::Failed(format!("the broker has ended: {last}")));
            }
        };
        Ok(Measured::from_report(&report)?)
    }

    fn start_broker(
        &self,
        profile: &Path,
        data: &Path,
        address: &str,
    ) -> Result<Running, TrialError> {
        let mut command = Command::new(&self.program);
        command.arg("start").arg("--profile").arg(profile);
        command.arg("--data-dir").arg(data);
        command.args(["--listen", address, "--admin", "off"]);
        for setting in &self.settings {
            command.args(["-o", setting]);
        }
        // The line that is waited for is of this level.
        command
            .env("RUST_LOG", "info")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let broker = Running::start(&mut command, |child, tell| {
            let said = child.stderr.take().expect("it is piped");
            std::thread::spawn(move || follow(said, &tell));
        })?;
        let due = clock::now() + START_PATIENCE;
        match self.wait(&broker.told, due, "the broker does not come up")? {
            Told::Sign => Ok(broker),
            Told::End(last) => Err(TrialError::Failed(format!(
                "the broker does not start: {last}"
            ))),
        }
    }

    fn start_load(&self, address: &str, broker: u32) -> Result<Running, TrialError> {
        let mut command = Command::new(&self.program);
        command.args(["bench", "run"]).arg(&self.workload);
        command.args(["-b", address, "--json", "--broker-pid", &broker.to_string()]);
        command.args(["--seconds", &self.seconds.to_string()]);
        command.args(["--warm-up", &self.warm_up.to_string()]);
        if let Some(cpu) = self.bench_cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Running::start(&mut command, |child, tell| {
            let report = child.stdout.take().expect("it is piped");
            let said = child.stderr.take().expect("it is piped");
            std::thread::spawn(move || {
                let (unheard, _) = mpsc::channel();
                let complaint = std::thread::spawn(move || last_lines(said, &unheard));
                let mut text = String::new();
                let read = report.take(REPORT_BYTES_MAX).read_to_string(&mut text);
                let complaint = complaint.join().unwrap_or_default();
                let told = match (read, text.is_empty()) {
                    (Ok(_), false) => Told::End(text),
                    (Ok(_), true) => Told::End(complaint),
                    (Err(error), _) => Told::End(error.to_string()),
                };
                // Nobody waits any more if it fails.
                let _unheard = tell.send(told);
            });
        })?)
    }

    fn wait(
        &self,
        told: &Receiver<Told>,
        due: Instant,
        too_late: &str,
    ) -> Result<Told, TrialError> {
        loop {
            match told.recv_timeout(LOOK) {
                Ok(told) => return Ok(told),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(TrialError::Failed("a process of the trial is lost".into()));
                }
            }
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(TrialError::Interrupted);
            }
            if clock::now() >= due {
                return Err(TrialError::Failed(too_late.to_owned()));
            }
        }
    }
}

/// Until it says no more: that it serves, and at the end its last lines.
fn follow(said: impl Read, tell: &Sender<Told>) {
    let last = last_lines(said, tell);
    let _unheard = tell.send(Told::End(last));
}

fn last_lines(said: impl Read, tell: &Sender<Told>) -> String {
    let mut last = VecDeque::new();
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        if line.contains(SERVES) {
            let _unheard = tell.send(Told::Sign);
        }
        if last.len() == LINES_KEPT {
            last.pop_front();
        }
        last.push_back(line);
    }
    Vec::from(last).join("; ")
}

/// Free a moment ago.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn remove(data: &Path) -> Result<(), String> {
    match fs::remove_dir_all(data) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", data.display()))
        }
        _ => Ok(()),
    }
}
