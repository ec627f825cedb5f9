//! Owns what can go wrong for a client, and whether trying again may help.

use crate::protocol::batch::BatchError;
use crate::protocol::{DecodeError, EncodeError, ErrorCode, api};

/// Cloneable, for one broken connection fails many requests.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClientError {
    #[error("'{address}' is not an address of the form host:port")]
    BadAddress { address: String },
    #[error("cannot find the host of {address}: {reason}")]
    Resolve { address: String, reason: String },
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: String, reason: String },
    #[error("no bootstrap broker answers: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Bootstrap(Vec<ClientError>),
    #[error("the connection to {address} ended: {reason}")]
    Disconnected { address: String, reason: String },
    #[error("{address} did not answer {} within {waited_ms} ms", api_name(*.api_key))]
    TimedOut {
        address: String,
        api_key: i16,
        waited_ms: u64,
    },
    #[error("{address} lacks {} in versions {ours_min} to {ours_max}{}", api_name(*.api_key), has(*.theirs))]
    Unsupported {
        address: String,
        api_key: i16,
        ours_min: i16,
        ours_max: i16,
        theirs: Option<(i16, i16)>,
    },
    #[error("the answer of {address} to {} cannot be read: {error}", api_name(*.api_key))]
    Malformed {
        address: String,
        api_key: i16,
        error: DecodeError,
    },
    #[error("{} cannot be asked so of this broker: {error}", api_name(*.api_key))]
    Unwritable { api_key: i16, error: EncodeError },
    /// An error code from a broker; `subject` is what it is about, such as `topic 'a'`.
    #[error("{subject}: {message} ({code})")]
    Broker {
        code: ErrorCode,
        subject: String,
        message: String,
    },
    #[error("{subject}: a batch cannot be read: {error}")]
    BadBatch { subject: String, error: BatchError },
    #[error("{subject}: not delivered within {waited_ms} ms; last: {last}")]
    Undelivered {
        subject: String,
        waited_ms: u64,
        last: Box<ClientError>,
    },
    #[error("{0}")]
    Refused(String),
}

impl ClientError {
    /// The error that `code` stands for, in the broker's words where it has any. `None` when it stands for none.
    pub fn from_code(
        code: i16,
        message: Option<&str>,
        subject: impl FnOnce() -> String,
    ) -> Option<ClientError> {
        let code = (code != 0).then(|| ErrorCode::from_code(code))?;
        let message = message.filter(|text| !text.is_empty());
        Some(ClientError::Broker {
            code,
            subject: subject(),
            message: message.unwrap_or(code.default_message()).to_owned(),
        })
    }

    /// The same as a result, to be followed by `?`.
    pub fn check(
        code: i16,
        message: Option<&str>,
        subject: impl FnOnce() -> String,
    ) -> Result<(), ClientError> {
        ClientError::from_code(code, message, subject).map_or(Ok(()), Err)
    }

    /// Whether the same request may succeed later, perhaps with newer metadata.
    pub fn retriable(&self) -> bool {
        match self {
            ClientError::Connect { .. }
            | ClientError::Resolve { .. }
            | ClientError::Bootstrap(_)
            | ClientError::Disconnected { .. }
            | ClientError::TimedOut { .. } => true,
            ClientError::Broker { code, .. } => code.retriable(),
            ClientError::BadAddress { .. }
            | ClientError::Unsupported { .. }
            | ClientError::Malformed { .. }
            | ClientError::Unwritable { .. }
            | ClientError::BadBatch { .. }
            | ClientError::Undelivered { .. }
            | ClientError::Refused(_) => false,
        }
    }

    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Broker { code, .. } => Some(*code),
            _ => None,
        }
    }
}

fn api_name(key: i16) -> &'static str {
    api::name(key).unwrap_or("an unknown API")
}

fn has(theirs: Option<(i16, i16)>) -> String {
    theirs.map_or(String::new(), |(min, max)| {
        format!("; it has {min} to {max}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_one_sentence() {
        let error = ClientError::Unsupported {
            address: "a:1".into(),
            api_key: 0,
            ours_min: 3,
            ours_max: 13,
            theirs: Some((0, 2)),
        };
        assert_eq!(
            error.to_string(),
            "a:1 lacks Produce in versions 3 to 13; it has 0 to 2"
        );
        let error = ClientError::from_code(3, None, || "topic 'a'".into()).unwrap();
        assert!(error.retriable());
        assert_eq!(
            error.to_string(),
            "topic 'a': This broker knows no such topic or partition. (UNKNOWN_TOPIC_OR_PARTITION)"
        );
        assert_eq!(ClientError::check(0, None, String::new), Ok(()));
    }
}
