//! Owns the cluster's metadata: the machine that turns admin requests into records (`Controller`),
//! the immutable image that replayed records make (`MetadataImage`), and the bytes both are stored
//! as. Pure: no clock, no randomness, no I/O; the driver hands in times, random ids and seeds,
//! makes records durable, applies them to the image, and only then lets answers out.

pub mod boot;
pub mod configs;
pub mod driver;
mod entropy;
mod features;
mod image;
pub mod metadata_log;
mod placement;
mod registration;
pub mod snapshot;
mod state;
mod topics;

pub use configs::ResourceType;
pub use entropy::Entropy;
pub use features::{FeatureRange, SUPPORTED_FEATURES};
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
