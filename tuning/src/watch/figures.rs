//! Owns the form of a broker's page `/debug/watch`: what its cores did in their last whole second. The broker fills it,
//! the view reads it. It has a bounded size whatever the broker holds.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    pub broker: i32,
    pub version: String,
    /// `starting`, `running` or `stopping`.
    pub state: String,
    /// Of this run of the process: another one means that the broker was started anew.
    pub incarnation: String,
    pub uptime_seconds: f64,
    /// Milliseconds since 1970, of the broker's clock.
    pub now_ms: i64,
    pub resident_bytes: u64,
    /// What the parts of a core's work are, by their names, in the order in which they are drawn.
    pub parts: Vec<(String, String)>,
    pub cores: Vec<Core>,
    /// Of all cores together.
    pub requests: Vec<Latency>,
    pub stages: Vec<Latency>,
    /// The last ones, the latest first.
    pub stalls: Vec<Stall>,
    pub partitions: Listed<Partition>,
    pub clients: Listed<Client>,
    pub groups: Listed<Group>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Core {
    pub core: usize,
    /// Seconds of a core follow each other in these numbers; 0 before the first is over.
    pub second: u64,
    /// How long this one was.
    pub seconds: f64,
    /// CPU time by time, from 0 to 1.
    pub utilisation: f64,
    /// The same by part of the work, in the order of `parts`.
    pub parts: Vec<f64>,
    /// These four are rates a second.
    pub requests: f64,
    pub records_in: f64,
    pub bytes_in: f64,
    pub bytes_out: f64,
    pub partitions: usize,
    pub offline: usize,
    pub connections: usize,
    pub queues: Vec<Queue>,
    /// In this second, and since the core began.
    pub stalls: u64,
    pub stalls_ever: u64,
    /// From receiving a request to having sent its response; those that came most.
    pub latencies: Vec<Latency>,
}

/// What waits on a core.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Queue {
    pub queue: String,
    /// `bytes`, `requests` or `connections`.
    pub unit: String,
    pub depth: u64,
    /// Where the core stops reading, or does without memory.
    pub limit: Option<u64>,
}

/// How long something took, of those that were timed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    pub name: String,
    /// A second, timed or not; of stages, the timed ones.
    pub rate: f64,
    pub timed: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p99_9_us: f64,
    pub max_us: f64,
}

/// A task held its core for over a millisecond.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stall {
    pub core: usize,
    pub task: String,
    pub us: f64,
    pub at_ms: i64,
}

/// Some of many.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Listed<T> {
    pub all: usize,
    /// As many of them were looked at.
    pub looked_at: usize,
    /// As many of those are what was asked for.
    pub found: usize,
    pub lines: Vec<T>,
}

impl<T> Default for Listed<T> {
    fn default() -> Listed<T> {
        Listed {
            all: 0,
            looked_at: 0,
            found: 0,
            lines: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Partition {
    pub topic: String,
    pub partition: i32,
    pub core: usize,
    /// Rates a second.
    pub records_in: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub size_bytes: u64,
    pub end_offset: i64,
}

/// All connections of clients that call themselves so.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Client {
    pub client_id: String,
    pub connections: usize,
    /// Requests without an answer, and the fetches among them, which may wait for records.
    pub requests: usize,
    pub fetches: usize,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Group {
    pub group_id: String,
    pub r#type: String,
    pub state: String,
    pub members: usize,
    pub core: usize,
}
