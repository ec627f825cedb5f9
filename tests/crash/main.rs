//! The real broker, killed with SIGKILL at random moments while clients write, delete and create; then everything is
//! read back. What was acknowledged is there, once and in order; what was answered as deleted stays deleted.
//! The moments and the load come from one seed, which is printed; what a machine makes of them varies.
//!
//! ```text
//! COATI_ROUNDS=50 cargo test --release --test crash -- --nocapture
//! COATI_SEED=1234 cargo test --test crash -- --nocapture
//! ```

mod administrator;
mod broker;
mod reader;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::spawn;
use std::time::Duration;

use coati::io::entropy::{self, Random};

use broker::Broker;
use writer::Promise;

/// Lives of a broker where COATI_ROUNDS says nothing.
const ROUNDS_DEFAULT: u64 = 5;

/// From the start of the process to its first served request: far more than it needs, on a crowded machine too.
const RESTART_MAX: Duration = Duration::from_secs(10);

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn killed_again_and_again_it_keeps_its_promises() {
    let seed = number_from("COATI_SEED").unwrap_or_else(entropy::seed);
    let rounds = number_from("COATI_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
    println!("COATI_SEED={seed} COATI_ROUNDS={rounds}");
    let mut random = Random::new(seed);
    let mut broker = Broker::new();
    broker.start(2);
    writer::create_topic(&broker.address());
    let stop = Arc::new(AtomicBool::new(false));
    let writers = [Promise::Once, Promise::Stored, Promise::Written].map(|promise| {
        let (address, stop) = (broker.address(), stop.clone());
        let seed = random.next_u64();
        spawn(move || writer::write(&address, promise, seed, &stop))
    });
    let (address, stopping) = (broker.address(), stop.clone());
    let administrator = spawn(move || administrator::work(&address, &stopping));
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        broker.live_for(Duration::from_millis(200 + random.below(800)));
        broker.kill();
        while random.chance(1, 4) {
            // Not even its start is spared.
            broker.begin(1 + random.below(2) as usize);
            broker.live_for(Duration::from_millis(random.below(60)));
            broker.kill();
        }
        slowest = slowest.max(broker.start(1 + random.below(2) as usize));
    }
    stop.store(true, Ordering::Relaxed);
    let written = writers.map(|writer| writer.join().expect("a writer that ends well"));
    let administered = administrator.join();
    reader::check(&broker.address(), &written);
    let administered = administered.expect("an administrator that ends well");
    broker.stop();
    broker.check_files();
    let acknowledged: usize = written.iter().map(|w| w.acknowledged.len()).sum();
    println!(
        "{acknowledged} records acknowledged, {administered} times administered, slowest start {slowest:?}"
    );
    assert!(acknowledged > 0 && administered > 0);
    assert!(
        slowest < RESTART_MAX,
        "a start after a crash took {slowest:?}"
    );
}
