//! Owns `Str`: text that is a slice of the frame it came in. It never holds bytes that are not UTF-8.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use bytes::Bytes;

/// Text out of a message: cheap to clone, and as long as a clone lives so does the frame behind it.
/// Call [`Str::detach`] before keeping one for long.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Str(Bytes);

impl Str {
    pub const EMPTY: Str = Str(Bytes::new());

    /// Checks that the bytes are UTF-8; they are not copied.
    pub fn from_utf8(bytes: Bytes) -> Result<Str, std::str::Utf8Error> {
        std::str::from_utf8(&bytes)?;
        Ok(Str(bytes))
    }

    pub fn as_str(&self) -> &str {
        // Checking again costs little at the length of names; skipping it would take `unsafe`.
        std::str::from_utf8(&self.0).expect("checked when it was made")
    }

    /// The same text in memory of its own.
    pub fn detach(&self) -> Str {
        Str(Bytes::copy_from_slice(&self.0))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for Str {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Str {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

// Text hashes as `str` does, so that maps keyed by Str can be asked with a &str.
impl Borrow<str> for Str {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl Hash for Str {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl From<&'static str> for Str {
    fn from(text: &'static str) -> Str {
        Str(Bytes::from_static(text.as_bytes()))
    }
}

impl From<String> for Str {
    fn from(text: String) -> Str {
        Str(Bytes::from(text))
    }
}

impl From<&String> for Str {
    fn from(text: &String) -> Str {
        Str::copied(text)
    }
}

impl Str {
    /// A copy of text that lives elsewhere.
    pub fn copied(text: &str) -> Str {
        Str(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl PartialEq<str> for Str {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for Str {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<String> for Str {
    fn eq(&self, other: &String) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Display for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Debug for Str {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn slices_without_copying_and_refuses_what_is_not_text() {
        let frame = Bytes::from_static(b"..topic..");
        let text = Str::from_utf8(frame.slice(2..7)).unwrap();
        assert_eq!(text, "topic");
        assert_eq!(text.as_bytes().as_ptr(), frame[2..].as_ptr());
        assert!(Str::from_utf8(Bytes::from_static(&[0xff])).is_err());
    }

    #[test]
    fn maps_can_be_asked_with_str() {
        let map = HashMap::from([(Str::from("a"), 1)]);
        assert_eq!(map.get("a"), Some(&1));
    }
}
