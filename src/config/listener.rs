//! Owns one listener: `NAME://host:port` and the security protocol its name stands for.

use super::{BrokerConfig, ConfigError};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    /// Empty listens on every address.
    pub host: String,
    pub port: u16,
    pub protocol: SecurityProtocol,
}

/// The numbers are Kafka's, as endpoint records store them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum SecurityProtocol {
    Plaintext = 0,
    Ssl = 1,
    SaslPlaintext = 2,
    SaslSsl = 3,
}

impl SecurityProtocol {
    fn from_name(name: &str) -> Option<SecurityProtocol> {
        match name {
            "PLAINTEXT" => Some(SecurityProtocol::Plaintext),
            "SSL" => Some(SecurityProtocol::Ssl),
            "SASL_PLAINTEXT" => Some(SecurityProtocol::SaslPlaintext),
            "SASL_SSL" => Some(SecurityProtocol::SaslSsl),
            _ => None,
        }
    }
}

/// Parses one list of listeners; `protocols` maps listener names to protocols (`NAME:PROTOCOL`).
pub(super) fn parse(list: &[String], protocols: &[String]) -> Result<Vec<Listener>, ConfigError> {
    let mut listeners: Vec<Listener> = Vec::with_capacity(list.len());
    for text in list {
        let listener = one(text, protocols)?;
        if listeners.iter().any(|other| other.name == listener.name) {
            return Err(ConfigError::Invalid(format!(
                "Each listener must have a different name, listeners: {}",
                list.join(",")
            )));
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

fn one(text: &str, protocols: &[String]) -> Result<Listener, ConfigError> {
    let malformed = || ConfigError::Invalid(format!("Unable to parse {text} to a broker endpoint"));
    let (name, address) = text.split_once("://").ok_or_else(malformed)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(malformed)?;
    let name = name.to_ascii_uppercase();
    let protocol = protocols
        .iter()
        .filter_map(|entry| entry.split_once(':'))
        .find(|(listener, _)| listener.eq_ignore_ascii_case(&name))
        .map_or(name.as_str(), |(_, protocol)| protocol);
    let protocol = SecurityProtocol::from_name(&protocol.to_ascii_uppercase()).ok_or_else(|| {
        ConfigError::Invalid(format!(
            "No security protocol defined for listener {name}; name it in listener.security.protocol.map"
        ))
    })?;
    Ok(Listener {
        host: host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned(),
        port: port.parse().map_err(|_| malformed())?,
        name,
        protocol,
    })
}

impl BrokerConfig {
    /// What clients are told: the advertised address of each listener, or the one it listens on.
    /// A listener on every address is advertised under `hostname`.
    pub fn advertised(&self, hostname: &str) -> Vec<Listener> {
        self.listeners
            .iter()
            .map(|listener| {
                let mut told = self
                    .advertised_listeners
                    .iter()
                    .find(|advertised| advertised.name == listener.name)
                    .unwrap_or(listener)
                    .clone();
                if matches!(told.host.as_str(), "" | "0.0.0.0" | "::") {
                    hostname.clone_into(&mut told.host);
                }
                told
            })
            .collect()
    }
}
