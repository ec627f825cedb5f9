//! Owns the settings: which exist (Kafka's own property names and a few of ours), what values they
//! take, where a running broker's values come from, and how DescribeConfigs tells them. It reads
//! no file and no environment; the command line hands it text.

mod admin;
mod broker;
mod definition;
pub mod definitions;
pub mod describe;
mod layers;
mod listener;
mod load;
mod properties;
pub mod topic;

pub use admin::AdminListener;
pub use broker::{BrokerConfig, CleanerSettings};
pub use definition::{Definition, Importance, Kind, UpdateMode, Value};
pub use layers::{DynamicConfigs, Layers};
pub use listener::{Listener, SecurityProtocol};
pub use load::{ConfigFile, Loaded, Sources, load};
pub use topic::{Compression, TimestampType, TopicConfig};

/// Settings of one resource as given: name to text.
pub type Settings = std::collections::BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value that its setting does not take; the text is shown to clients as it is.
    #[error("{0}")]
    Invalid(String),
    #[error("unknown setting '{name}'{}", nearest.map(|known| format!("; did you mean '{known}'?")).unwrap_or_default())]
    Unknown {
        name: String,
        nearest: Option<&'static str>,
    },
    #[error("{0}")]
    Syntax(String),
}
