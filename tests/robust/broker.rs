//! Owns one real broker process in its own temporary folder: started on a free port, watched through its log
//! lines, stopped by signals.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use coati::io::clock;

/// Long enough for a crowded machine; a test that gets there has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Broker {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Log>,
    folder: Arc<tempfile::TempDir>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Broker {
    pub fn start(cores: usize, settings: &[&str]) -> Broker {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Broker::start_in(
            Arc::new(folder),
            cores,
            &["--admin", "127.0.0.1:0"],
            settings,
        )
    }

    /// One that takes the default address for its admin endpoint, if nobody else has it.
    pub fn start_with_default_admin() -> Broker {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Broker::start_in(Arc::new(folder), 1, &[], &[])
    }

    /// Another one on the folder of this one, which has ended.
    pub fn start_again(self, settings: &[&str]) -> Broker {
        let admin = ["--admin", "127.0.0.1:0"];
        Broker::start_in(self.folder.clone(), 2, &admin, settings)
    }

    fn start_in(
        folder: Arc<tempfile::TempDir>,
        cores: usize,
        admin: &[&str],
        settings: &[&str],
    ) -> Broker {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut command = Command::new(env!("CARGO_BIN_EXE_coati"));
        command
            .args(["start", "--listen", "127.0.0.1:0"])
            .args(admin)
            .arg("--cores")
            .arg(cores.min(cpus).to_string())
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped());
        for setting in settings {
            command.args(["-o", setting]);
        }
        let mut child = command.spawn().expect("the broker's binary runs");
        let log = Arc::new(Log::default());
        let errors = child.stderr.take().expect("stderr is piped");
        let reader = log.clone();
        std::thread::spawn(move || reader.follow(errors));
        let mut broker = Broker {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            log,
            folder,
        };
        let started = broker.wait_for_line("Kafka Server started");
        broker.address = address_in(&started[0]);
        broker
    }

    /// Where it keeps its data.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where its admin endpoint is.
    pub fn admin(&self) -> SocketAddr {
        address_in(&self.wait_for_line("admin endpoint")[0])
    }

    /// Waits until some log line contains `text`, and gives all that do.
    pub fn wait_for_line(&self, text: &str) -> Vec<String> {
        self.log.wait_for(text, |lines| {
            let found = containing(lines, text);
            (!found.is_empty()).then_some(found)
        })
    }

    /// Waits until the log lines have what `found` looks for.
    pub fn wait_for<T>(&self, what: &str, found: impl Fn(&[String]) -> Option<T>) -> T {
        self.log.wait_for(what, found)
    }

    /// The log lines so far that contain `text`.
    pub fn lines_with(&self, text: &str) -> Vec<String> {
        containing(&self.log.lines.lock().expect("nobody panics here"), text)
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a child can be waited for")
    }

    /// Memory of the process that is in RAM.
    pub fn resident_bytes(&self) -> usize {
        self.status_kib("VmRSS:") << 10
    }

    /// CPU time that the process has used, in the kernel's ticks (1/100 s).
    pub fn cpu_ticks(&self) -> u64 {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(path).expect("the broker runs");
        let after_name = stat.rsplit(')').next().expect("a name in brackets");
        let fields = after_name.split_whitespace().skip(11).take(2);
        fields
            .map(|ticks| ticks.parse::<u64>().expect("a number"))
            .sum()
    }

    fn status_kib(&self, field: &str) -> usize {
        let path = PathBuf::from(format!("/proc/{}/status", self.child.id()));
        let status = std::fs::read_to_string(path).expect("the broker runs");
        status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .expect("the kernel tells")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped_already = self.child.wait();
        if std::thread::panicking() {
            let lines = self.log.lines.lock().expect("nobody panics here");
            eprintln!("the broker's log:\n{}", lines.join("\n"));
        }
    }
}

impl Log {
    fn follow(&self, errors: ChildStderr) {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            self.lines.lock().expect("nobody panics here").push(line);
            self.more.notify_all();
        }
    }

    fn wait_for<T>(&self, what: &str, found: impl Fn(&[String]) -> Option<T>) -> T {
        let deadline: Instant = clock::now() + PATIENCE;
        let mut lines = self.lines.lock().expect("nobody panics here");
        loop {
            if let Some(found) = found(&lines) {
                return found;
            }
            let left = deadline.saturating_duration_since(clock::now());
            assert!(
                !left.is_zero(),
                "waited for {what}; the broker's log:\n{}",
                lines.join("\n")
            );
            let (guard, _) = self
                .more
                .wait_timeout(lines, left)
                .expect("nobody panics here");
            lines = guard;
        }
    }
}

fn containing(lines: &[String], text: &str) -> Vec<String> {
    let found = lines.iter().filter(|line| line.contains(text));
    found.cloned().collect()
}

fn address_in(line: &str) -> SocketAddr {
    let after = line.split("://").nth(1).expect("the line names a listener");
    let end = after
        .find(|letter: char| !(letter.is_ascii_digit() || ".:".contains(letter)))
        .unwrap_or(after.len());
    after[..end].parse().expect("an address and a port")
}
