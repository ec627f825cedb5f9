//! Owns where the admin endpoint listens (`admin.listener`): an address, or nowhere.

use super::ConfigError;

/// `HOST:PORT` of `admin.listener`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminListener {
    pub host: String,
    pub port: u16,
    /// Somebody has named it: then it must be had.
    pub given: bool,
}

/// `None` for `off`.
pub(super) fn parse(text: &str, given: bool) -> Result<Option<AdminListener>, ConfigError> {
    if text.trim() == "off" {
        return Ok(None);
    }
    let malformed = || {
        ConfigError::Invalid(format!(
            "admin.listener={text}: it is HOST:PORT, with port 0 for any that is free, or off"
        ))
    };
    let (host, port) = text.trim().rsplit_once(':').ok_or_else(malformed)?;
    let host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').ok_or_else(malformed)?,
        None => host,
    };
    if host.is_empty() || host.contains('/') {
        return Err(malformed());
    }
    Ok(Some(AdminListener {
        host: host.to_owned(),
        port: port.parse().map_err(|_| malformed())?,
        given,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_or_nowhere() {
        let address = |text| {
            let listener = parse(text, true).unwrap()?;
            Some((listener.host, listener.port))
        };
        assert_eq!(address("127.0.0.1:0"), Some(("127.0.0.1".into(), 0)));
        assert_eq!(address("[::1]:9192"), Some(("::1".into(), 9192)));
        assert_eq!(address("off"), None);
        for nonsense in [
            "",
            "on",
            "9192",
            ":9192",
            "host:",
            "host:65536",
            "[::1:1",
            "http://a:1",
        ] {
            assert!(parse(nonsense, true).is_err(), "{nonsense}");
        }
    }
}
