//! A TCP proxy that lets everything pass, and once, when it has passed so much, nothing for a while.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

pub struct Proxy {
    pub address: String,
    listener: TcpListener,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    passed_bytes: u64,
    freeze_after_bytes: u64,
    freezing: bool,
    frozen: bool,
}

impl Proxy {
    pub fn bind() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Proxy {
            address: listener.local_addr().expect("it is bound").to_string(),
            listener,
            gate: Arc::default(),
        }
    }

    /// Forwards to `broker` from now on.
    pub fn run(&self, broker: SocketAddr, freeze_after_bytes: u64, freeze: Duration) {
        self.gate.lock().freeze_after_bytes = freeze_after_bytes;
        let (gate, listener) = (
            self.gate.clone(),
            self.listener.try_clone().expect("a clone"),
        );
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(broker).expect("the broker listens");
                for socket in [&client, &server] {
                    socket.set_nodelay(true).expect("a TCP socket");
                }
                let there = (
                    client.try_clone().expect("a clone"),
                    server.try_clone().expect("a clone"),
                );
                for (from, to) in [there, (server, client)] {
                    let gate = gate.clone();
                    thread::spawn(move || gate.forward(from, to, freeze));
                }
            }
        });
    }

    pub fn has_frozen(&self) -> bool {
        self.gate.lock().frozen
    }
}

impl Gate {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    fn forward(&self, mut from: TcpStream, mut to: TcpStream, freeze: Duration) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(bytes @ 1..) = from.read(&mut buffer) {
            self.pass(bytes as u64, freeze);
            if to.write_all(&buffer[..bytes]).is_err() {
                break;
            }
        }
        let _gone = to.shutdown(Shutdown::Write);
    }

    /// Returns when these bytes may go on.
    fn pass(&self, bytes: u64, freeze: Duration) {
        let mut state = self.lock();
        state.passed_bytes += bytes;
        if !state.frozen && state.passed_bytes >= state.freeze_after_bytes {
            state.frozen = true;
            state.freezing = true;
            // Nobody notifies of this: the time passes.
            let frozen = self
                .changed
                .wait_timeout_while(state, freeze, |state| state.freezing);
            state = frozen.expect("nobody panics with it").0;
            state.freezing = false;
            self.changed.notify_all();
        }
        let waited = self.changed.wait_while(state, |state| state.freezing);
        drop(waited.expect("nobody panics with it"));
    }
}
