//! Owns the broker's process in its temporary folder, on one address for all its lives.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use coati::io::clock;

/// `COATI_BIN`, or what is built beside the tests.
fn binary() -> PathBuf {
    let built = env!("CARGO_BIN_EXE_coati");
    std::env::var_os("COATI_BIN").map_or_else(|| built.into(), PathBuf::from)
}

/// Longer than any start; a test that gets there has failed.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Broker {
    folder: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
    lives: usize,
}

impl Broker {
    pub fn new() -> Broker {
        // Beside the build, which lies on a real disk; /tmp may be memory.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("bound").port();
        Broker {
            folder,
            port,
            child: None,
            lives: 0,
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts the process, without waiting for it to serve.
    pub fn begin(&mut self, cores: usize) {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        self.lives += 1;
        let log = File::create(self.log_path()).expect("a log file");
        let mut command = Command::new(binary());
        command
            .args(["start", "--listen", &self.address()])
            .args(["--cores", &cores.min(cpus).to_string()])
            .arg("--data-dir")
            .arg(self.folder.path().join("data"))
            .args(["-o", "log.flush.offset.checkpoint.interval.ms=200"])
            .args(["-o", "log.flush.start.offset.checkpoint.interval.ms=300"])
            .args(["-o", "replica.high.watermark.checkpoint.interval.ms=250"])
            .args(["-o", "log.segment.delete.delay.ms=500"])
            .args(["-o", "log.initial.task.delay.ms=400"])
            .args(["-o", "log.retention.check.interval.ms=400"])
            .args([
                "-o",
                "metadata.log.max.record.bytes.between.snapshots=20000",
            ])
            .env("RUST_LOG", "info")
            .stdout(Stdio::null())
            .stderr(log);
        self.child = Some(command.spawn().expect("the broker's binary runs"));
    }

    /// Starts the process and waits until it serves; tells how long that took.
    pub fn start(&mut self, cores: usize) -> Duration {
        let began = clock::now();
        self.begin(cores);
        loop {
            let log = self.log();
            if log.contains("Kafka Server started") {
                return began.elapsed();
            }
            let child = self.child.as_mut().expect("just begun");
            let ended = child.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "the broker ended, {ended:?}:\n{log}");
            assert!(
                began.elapsed() < PATIENCE,
                "the broker does not serve:\n{log}"
            );
            pause(Duration::from_millis(2));
        }
    }

    /// Lets it live on; it must not end by itself.
    pub fn live_for(&mut self, time: Duration) {
        pause(time);
        let child = self.child.as_mut().expect("it was begun");
        let ended = child.try_wait().expect("a child can be asked");
        assert!(
            ended.is_none(),
            "the broker ended by itself, {ended:?}:\n{}",
            self.log()
        );
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it was begun");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// A clean stop.
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("it was begun");
        let id = child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.is_ok_and(|status| status.success()));
        let status = child.wait().expect("a child can be waited for");
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }

    /// Every file of every log is whole. What was set aside nobody has recovered.
    pub fn check_files(&self) {
        for entry in std::fs::read_dir(self.folder.path().join("data")).expect("the data folder") {
            let path = entry.expect("an entry").path();
            let name = path.to_string_lossy();
            let left_alone = name.ends_with("-delete") || name.ends_with("-stray");
            if path.is_dir() && !left_alone {
                let dump = Command::new(binary())
                    .args(["log", "dump"])
                    .arg(&path)
                    .output()
                    .expect("the broker's binary runs");
                let said = String::from_utf8_lossy(&dump.stderr);
                assert!(dump.status.success(), "{}: {said}", path.display());
            }
        }
    }

    fn log_path(&self) -> std::path::PathBuf {
        self.folder.path().join(format!("{}.log", self.lives))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ended_already = child.kill();
            let _reaped_already = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the broker's last log:\n{}", self.log());
            self.folder.disable_cleanup(true);
            eprintln!("its folder stays: {}", self.folder.path().display());
        }
    }
}

/// The broker works by the real clock, and so does who kills it.
fn pause(time: Duration) {
    let (_nobody_sends, nothing) = mpsc::channel::<()>();
    let _time_is_over = nothing.recv_timeout(time);
}
