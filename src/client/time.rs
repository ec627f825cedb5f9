//! Owns waiting with an end: time limits and the pauses between attempts.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::future::{Either, select};

use super::ClientError;
use crate::io::clock;
use crate::io::timer;

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What `future` resolves to, or `None` when it takes longer than `limit`.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(pin!(future), pin!(timer::sleep(limit))).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(((), _)) => None,
    }
}

/// The attempts at one thing: pauses that double, until a deadline.
#[derive(Debug)]
pub struct Attempts {
    pause: Duration,
    deadline: Instant,
}

impl Attempts {
    pub fn within(limit: Duration) -> Attempts {
        Attempts::until(clock::now() + limit)
    }

    pub fn until(deadline: Instant) -> Attempts {
        Attempts {
            pause: BACKOFF_FIRST,
            deadline,
        }
    }

    /// Call after a failed attempt: resolves when it is time for the next one, or to the error when another
    /// attempt can't help or comes too late.
    pub async fn again(&mut self, error: ClientError) -> Result<(), ClientError> {
        if !error.retriable() || clock::now() + self.pause > self.deadline {
            return Err(error);
        }
        tracing::debug!(%error, pause_ms = self.pause.as_millis() as u64, "trying again");
        timer::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(BACKOFF_MAX);
        Ok(())
    }
}
