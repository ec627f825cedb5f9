//! Owns tuners of the network above its cards: TCP and the queues in front of the broker.

use crate::machine::Machine;
use crate::root::{Form, Read, Unreadable};
use crate::tuner::{Area, Change, Finding, Tuner, Verdict};

use super::bytes;

const CORE: &str = "/proc/sys/net/core";
const TCP: &str = "/proc/sys/net/ipv4";

/// 10 Gbit/s over 3 ms, or 100 Gbit/s over 0.3 ms, is under way in so many bytes.
const TCP_BUFFER_BYTES_MIN: u64 = 4 << 20;
const TCP_BUFFER_BYTES: u64 = 16 << 20;

const SOCKET_BUFFER_BYTES: u64 = 4 << 20;

/// As the broker asks for when nothing is configured.
const BACKLOG: u64 = 4096;

const DEVICE_BACKLOG: u64 = 1000;

pub const TUNERS: &[Tuner] = &[
    Tuner {
        name: "tcp-buffers",
        area: Area::Network,
        title: "largest TCP buffers (net.ipv4.tcp_rmem, tcp_wmem)",
        needs: "4 MiB each at the most of the three numbers",
        cost: "one connection moves no more than a buffer in a round trip: with 1 MiB and 2 ms that is 500 MB/s, with 128 KiB 65 MB/s",
        source: "Documentation/networking/ip-sysctl.rst (tcp_rmem, tcp_wmem)",
        check: tcp_buffers,
    },
    Tuner {
        name: "socket-buffers",
        area: Area::Network,
        title: "largest buffers a program may ask for (net.core.rmem_max, wmem_max)",
        needs: "4 MiB",
        cost: "socket.send.buffer.bytes and socket.receive.buffer.bytes above it are cut without a word",
        source: "Documentation/admin-guide/sysctl/net.rst (rmem_max, wmem_max)",
        check: socket_buffers,
    },
    Tuner {
        name: "listen-backlog",
        area: Area::Network,
        title: "connections that wait to be accepted (net.core.somaxconn)",
        needs: "4096, which the broker asks for",
        cost: "of a crowd of clients that come back at once those beyond it try again after 1 s, 3 s, 7 s",
        source: "Documentation/networking/ip-sysctl.rst (somaxconn)",
        check: listen_backlog,
    },
    Tuner {
        name: "device-backlog",
        area: Area::Network,
        title: "packets that wait for their CPU (net.core.netdev_max_backlog)",
        needs: "1000",
        cost: "packets that another CPU is to work on (RPS, loopback) are dropped and sent again",
        source: "Documentation/admin-guide/sysctl/net.rst (netdev_max_backlog)",
        check: device_backlog,
    },
    Tuner {
        name: "congestion-control",
        area: Area::Network,
        title: "TCP congestion control",
        needs: "cubic, bbr, or dctcp in a network made for it",
        cost: "others need longer until a connection is as fast as the network again, after each loss",
        source: "Documentation/networking/ip-sysctl.rst (tcp_congestion_control)",
        check: congestion_control,
    },
    Tuner {
        name: "tcp-idle",
        area: Area::Network,
        title: "slow start after idling (net.ipv4.tcp_slow_start_after_idle)",
        needs: "0",
        cost: "a connection that was still for some 200 ms begins with 10 packets a round trip: a consumer that waited gets 1 MiB only after several",
        source: "Documentation/networking/ip-sysctl.rst (tcp_slow_start_after_idle)",
        check: slow_start,
    },
];

fn tcp_buffers(machine: &Machine) -> Read<Finding> {
    let mut has = Vec::new();
    let mut changes = Vec::new();
    for name in ["tcp_rmem", "tcp_wmem"] {
        let path = format!("{TCP}/{name}");
        let numbers = machine.root.numbers(&path)?;
        let [least, usual, most] = numbers[..] else {
            let text = machine.root.text(&path)?;
            return Err(Unreadable::malformed(&path, &text, "three numbers"));
        };
        has.push(format!("{name} {}", bytes(most)));
        if most < TCP_BUFFER_BYTES_MIN {
            let to = format!("{least} {usual} {TCP_BUFFER_BYTES}");
            changes.push(Change::new(path, Form::Words, to));
        }
    }
    Ok(Finding::by_changes(
        Verdict::Warning,
        has.join(", "),
        changes,
    ))
}

/// Entries that are to be at least so much.
fn at_least(
    machine: &Machine,
    names: &[&str],
    wanted: u64,
    said: fn(u64) -> String,
    verdict: Verdict,
) -> Read<Finding> {
    let mut has = Vec::new();
    let mut changes = Vec::new();
    for name in names {
        let path = format!("{CORE}/{name}");
        let number: u64 = machine.root.number(&path)?;
        has.push(format!("{name} {}", said(number)));
        if number < wanted {
            changes.push(Change::new(path, Form::Words, wanted));
        }
    }
    Ok(Finding::by_changes(verdict, has.join(", "), changes))
}

fn socket_buffers(machine: &Machine) -> Read<Finding> {
    at_least(
        machine,
        &["rmem_max", "wmem_max"],
        SOCKET_BUFFER_BYTES,
        bytes,
        Verdict::Hint,
    )
}

fn listen_backlog(machine: &Machine) -> Read<Finding> {
    at_least(
        machine,
        &["somaxconn"],
        BACKLOG,
        |number| number.to_string(),
        Verdict::Warning,
    )
}

fn device_backlog(machine: &Machine) -> Read<Finding> {
    at_least(
        machine,
        &["netdev_max_backlog"],
        DEVICE_BACKLOG,
        |number| number.to_string(),
        Verdict::Hint,
    )
}

fn congestion_control(machine: &Machine) -> Read<Finding> {
    const GOOD: [&str; 4] = ["cubic", "bbr", "bbr2", "dctcp"];
    const OTHERS: [&str; 13] = [
        "reno",
        "bic",
        "cdg",
        "highspeed",
        "htcp",
        "hybla",
        "illinois",
        "lp",
        "nv",
        "scalable",
        "vegas",
        "veno",
        "westwood",
    ];
    let path = format!("{TCP}/tcp_congestion_control");
    let control = machine.root.value(&path, Form::Words)?;
    if GOOD.contains(&&*control) {
        return Ok(Finding::good(control));
    }
    if !OTHERS.contains(&&*control) {
        return Err(Unreadable::malformed(
            &path,
            &control,
            "a congestion control that is known",
        ));
    }
    let offered = format!("{TCP}/tcp_available_congestion_control");
    Ok(match machine.root.offers(&offered, "cubic", &control)? {
        true => {
            let changes = vec![Change::new(path, Form::Words, "cubic")];
            Finding::by_changes(Verdict::Hint, control, changes)
        }
        false => Finding::new(Verdict::Hint, control)
            .advise("`modprobe tcp_cubic` (or tcp_bbr) makes one available"),
    })
}

fn slow_start(machine: &Machine) -> Read<Finding> {
    let path = format!("{TCP}/tcp_slow_start_after_idle");
    let mode: u64 = machine.root.number(&path)?;
    let changes = match mode {
        0 => Vec::new(),
        _ => vec![Change::new(path, Form::Words, 0)],
    };
    Ok(Finding::by_changes(
        Verdict::Hint,
        mode.to_string(),
        changes,
    ))
}
