//! Owns asking the kernel, once and for `coati tune`, what it has of io_uring that a core's ring asks for. Never uses
//! what it finds.

use std::io;

use coati_tuning::RingFeature;
use io_uring::{IoUring, Probe, opcode};

/// `Err` when the kernel sets up no ring at all for this process.
pub fn features() -> io::Result<Vec<RingFeature>> {
    const ENTRIES: u32 = 4;
    let plain = IoUring::new(ENTRIES)?;
    let mut probe = Probe::new();
    plain.submitter().register_probe(&mut probe)?;
    let is_set_up = |ring: io::Result<IoUring>| ring.is_ok();
    let set_up = [
        (
            "single issuer",
            "6.0",
            is_set_up(IoUring::builder().setup_single_issuer().build(ENTRIES)),
        ),
        (
            "deferred task work",
            "6.1",
            is_set_up(
                IoUring::builder()
                    .setup_single_issuer()
                    .setup_defer_taskrun()
                    .setup_taskrun_flag()
                    .build(ENTRIES),
            ),
        ),
        (
            "wait with a timeout",
            "5.11",
            plain.params().is_feature_ext_arg(),
        ),
        (
            "completions that overflow are kept",
            "5.5",
            plain.params().is_feature_nodrop(),
        ),
    ];
    let operations = [
        ("poll", "5.1", opcode::PollAdd::CODE),
        ("cancel", "5.5", opcode::AsyncCancel::CODE),
        ("writev", "5.1", opcode::Writev::CODE),
        ("read", "5.6", opcode::Read::CODE),
        ("fsync", "5.1", opcode::Fsync::CODE),
        ("fallocate", "5.6", opcode::Fallocate::CODE),
        ("splice", "5.7", opcode::Splice::CODE),
        ("unlink", "5.11", opcode::UnlinkAt::CODE),
    ];
    let feature = |name, since, is_needed, is_there| RingFeature {
        name,
        since,
        is_needed,
        is_there,
    };
    let mut features: Vec<RingFeature> = set_up
        .into_iter()
        .map(|(name, since, is_there)| feature(name, since, true, is_there))
        .collect();
    features.extend(
        operations
            .into_iter()
            .map(|(name, since, code)| feature(name, since, true, probe.is_supported(code))),
    );
    // Without it a plain call holds the core meanwhile.
    features.push(feature(
        "ftruncate",
        "6.9",
        false,
        probe.is_supported(opcode::Ftruncate::CODE),
    ));
    Ok(features)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_runs_these_tests_has_what_is_needed() {
        let features = features().unwrap();
        let missing: Vec<&RingFeature> = features
            .iter()
            .filter(|of| of.is_needed && !of.is_there)
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
