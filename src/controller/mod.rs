//! Owns the cluster's metadata: the machine that turns admin requests into records (`Controller`),
//! the immutable image that replayed records make (`MetadataImage`), and the bytes both are stored
//! as. All of it is pure: no clock, no randomness, no I/O. `boot`, `driver` and `checkpoint` alone
//! meet the world: they hand in times, random ids and seeds, make records durable, apply them to
//! the image, and only then let answers out.
//!
//! One request and what the driver does with it:
//! ```
//! # use std::sync::Arc;
//! use coati::config::{Sources, load};
//! use coati::controller::{Controller, MetadataImage};
//!
//! let config = Arc::new(load(&Sources::default()).unwrap().config);
//! let mut image = MetadataImage::new("cluster".into());
//! let mut machine = Controller::new(config, image.clone(), 1);
//!
//! let outcome = machine.bootstrap();
//! let batch = outcome.batch.expect("a new cluster has first records");
//! let now_ms = 1_700_000_000_000;
//! let _bytes = batch.encode(now_ms); // Store these; when they are durable:
//! let delta = image.apply_batch(&batch).unwrap(); // tell every core,
//! assert!(delta.features_changed);
//! let () = outcome.response; // and let the answer out.
//! ```

pub mod boot;
pub mod checkpoint;
pub mod configs;
pub mod driver;
mod entropy;
mod features;
mod image;
mod internal;
pub mod metadata_log;
mod placement;
mod registration;
pub mod snapshot;
mod state;
mod topics;

pub use configs::ResourceType;
pub use entropy::Entropy;
pub use features::{FeatureRange, GROUP_VERSION, SUPPORTED_FEATURES};
pub use image::{
    BrokerRegistration, ControllerRegistration, Endpoint, ImageError, MetadataDelta, MetadataImage,
    PartitionImage, TopicImage,
};
pub use registration::{PRODUCER_ID_BLOCK, Registration};
pub use state::{Controller, MetadataBatch, Outcome};
pub use topics::{is_internal_topic, validate_topic_name};

use crate::protocol::{ErrorCode, Str};

/// Kafka's own bound: one request may not make more records than this, so that a batch stays
/// within what followers fetch at once.
pub const RECORDS_PER_REQUEST_MAX: usize = 10_000;

/// A leader that nobody is.
pub const NO_LEADER: i32 = -1;

/// What a client is told when its request, or one part of it, is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: Option<Str>,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            message: Some(Str::from(message.into())),
        }
    }

    /// With the error code's own text.
    pub fn plain(code: ErrorCode) -> Refusal {
        Refusal::new(code, code.default_message())
    }
}

impl From<crate::config::ConfigError> for Refusal {
    fn from(error: crate::config::ConfigError) -> Refusal {
        Refusal::new(ErrorCode::InvalidConfig, error.to_string())
    }
}

#[cfg(test)]
mod tests;
