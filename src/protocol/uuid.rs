//! Owns `Uuid` as Kafka writes it: 16 bytes, shown as 22 letters of url-safe base64. Makes no random ones.

use std::fmt;
use std::str::FromStr;

/// A topic's, directory's or incarnation's id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Uuid {
    /// "None", in every field that Kafka lets be without one.
    pub const ZERO: Uuid = Uuid([0; 16]);
    /// The topic id of `__cluster_metadata`.
    pub const ONE: Uuid = Uuid(1u128.to_be_bytes());

    pub fn is_zero(&self) -> bool {
        *self == Uuid::ZERO
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 128 bits are 21 letters of 6 bits and one of 2, whose other 4 bits are zero.
        let bits = u128::from_be_bytes(self.0);
        let mut text = [0u8; 22];
        for (index, letter) in text[..21].iter_mut().enumerate() {
            *letter = ALPHABET[(bits >> (122 - 6 * index)) as usize & 63];
        }
        text[21] = ALPHABET[(bits << 4) as usize & 63];
        f.pad(std::str::from_utf8(&text).expect("letters of the alphabet"))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not 22 letters of url-safe base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 22 letters of url-safe base64")]
pub struct UuidError;

impl FromStr for Uuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Uuid, UuidError> {
        // Kafka prints no padding but reads it.
        let letters = text.trim_end_matches('=').as_bytes();
        if letters.len() != 22 {
            return Err(UuidError);
        }
        let mut bits = 0u128;
        for (index, letter) in letters.iter().enumerate() {
            let value = ALPHABET
                .iter()
                .position(|known| known == letter)
                .ok_or(UuidError)? as u128;
            bits = if index < 21 {
                bits << 6 | value
            } else {
                bits << 2 | value >> 4
            };
        }
        Ok(Uuid(bits.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_as_kafka_does() {
        assert_eq!(Uuid::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(Uuid::ONE.to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        for text in ["I07WAHk1StyBxMlueEv1Nw", "XeKCDcRMdZCReNSxDHdATg"] {
            assert_eq!(text.parse::<Uuid>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "I07WAHk1StyBxMlueEv1N",
            "I07WAHk1StyBxMlueEv1N!",
            "I07WAHk1StyBxMlueEv1Nww",
        ] {
            assert_eq!(bad.parse::<Uuid>(), Err(UuidError));
        }
    }
}
