//! Owns subscriptions by pattern: which patterns are valid, and when and how the topics of a group's patterns are
//! looked up. Kafka's patterns are those of RE2, which the `regex` crate shares: both are descended from the same
//! automaton, without look-around and back-references, and in time linear in the text.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::controller::MetadataImage;
use crate::coordinator::effects::Effects;
use crate::coordinator::timers::Timer;
use crate::ids::TimestampMs;
use crate::protocol::{ErrorCode, Str};

use super::{ConsumerGroup, Refused, records, topics};

/// Patterns of one group are not looked up more often, as in Kafka.
const REFRESH_INTERVAL_MIN_MS: i64 = 10_000;

/// The topics of a pattern.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Resolved {
    pub topics: BTreeSet<Str>,
    /// Of the metadata that they were looked up in.
    pub version: i64,
    pub at: TimestampMs,
}

/// What a member's change of pattern means for its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// The topics of the new pattern are not known yet.
    Unresolved,
    Resolved,
}

/// A pattern that matches whole names. RE2 quotes with `\Q` and `\E`, which the crate does not know.
fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    let mut plain = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(at) = quote(rest) {
        plain.push_str(&rest[..at]);
        let quoted = &rest[at + 2..];
        let (literal, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
        plain.push_str(&regex::escape(literal));
        rest = after;
    }
    plain.push_str(rest);
    // By itself first, so that an open group cannot be closed by what is put around it.
    Regex::new(&plain)?;
    Regex::new(&format!("^(?:{plain})$"))
}

/// Where a quotation begins: at a `\Q` whose backslash is not itself escaped.
fn quote(pattern: &str) -> Option<usize> {
    let bytes = pattern.as_bytes();
    let mut at = 0;
    while at + 1 < bytes.len() {
        match (bytes[at], bytes[at + 1]) {
            (b'\\', b'Q') => return Some(at),
            (b'\\', _) => at += 2,
            _ => at += 1,
        }
    }
    None
}

pub(super) fn check(pattern: &str) -> Result<(), Refused> {
    compile(pattern).map(drop).map_err(|error| {
        let reason = match error {
            regex::Error::CompiledTooBig(_) => "expression too large".into(),
            error => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                last.trim_start_matches("error: ").to_string()
            }
        };
        let message = format!(
            "SubscribedTopicRegex `{pattern}` is not a valid regular expression: {reason}."
        );
        Refused::new(ErrorCode::InvalidRegularExpression, message)
    })
}

fn look_up(image: &MetadataImage, pattern: &str, at: TimestampMs) -> Resolved {
    let names = match compile(pattern) {
        Ok(regex) => {
            let all = image.topics().map(|topic| &topic.name);
            all.filter(|name| regex.is_match(name)).cloned().collect()
        }
        // Another broker took it.
        Err(_) => BTreeSet::new(),
    };
    Resolved {
        topics: names,
        version: image.offset,
        at,
    }
}

impl ConsumerGroup {
    /// A new pattern must be one, unless another member has it already.
    pub(super) fn check_pattern(&self, pattern: &Str) -> Result<(), Refused> {
        match pattern.is_empty() || self.members.values().any(|m| m.regex == *pattern) {
            true => Ok(()),
            false => check(pattern),
        }
    }

    /// A member's pattern is now `new`, where it was `old`; the member is updated already.
    pub(super) fn pattern_changed(&mut self, fx: &mut Effects<'_>, old: &Str, new: &Str) -> Change {
        let mut change = Change::None;
        let is_new = *old != *new && self.patterns().get(new) == Some(&1);
        if *old != *new {
            change = Change::Unresolved;
            if !old.is_empty() && !self.patterns().contains_key(old) {
                self.resolved.remove(old);
                fx.out.records.push(records::no_regex(&self.id, old));
            }
            let is_known = !is_new && self.resolved.contains_key(new);
            if new.is_empty() || is_known {
                change = Change::Resolved;
            }
        }
        self.maybe_look_up(fx, is_new);
        change
    }

    /// Looks patterns up, in a moment, if it is time to: a new one, topics that are new, or the last look is long ago.
    fn maybe_look_up(&mut self, fx: &mut Effects<'_>, is_new: bool) {
        if self.resolving.is_some() {
            return;
        }
        let patterns: BTreeMap<&Str, usize> = self.patterns();
        if patterns.is_empty() {
            return;
        }
        let any = self.resolved.values().next();
        let last = any.map(|resolved| resolved.at);
        let elapsed = |ms: i64| last.is_none_or(|last| fx.now.wall_ms > last + ms);
        if !elapsed(REFRESH_INTERVAL_MIN_MS) {
            return;
        }
        let is_due = is_new
            || patterns.len() != self.resolved.len()
            || any.map_or(0, |resolved| resolved.version) < fx.new_topics_at
            || elapsed(fx.settings.consumer.regex_refresh_interval_ms);
        if is_due {
            let group = self.id.clone();
            let timer = Timer::Patterns { group };
            self.resolving = Some(fx.timers.schedule(fx.now.monotonic_ms, timer));
        }
    }

    /// Looks all patterns up. Should that give the group other topics, its next heartbeat assigns them.
    pub(in crate::coordinator) fn look_patterns_up(&mut self, fx: &mut Effects<'_>) {
        self.resolving = None;
        let patterns: Vec<Str> = self.patterns().into_keys().cloned().collect();
        let mut differs = false;
        for pattern in patterns {
            let resolved = look_up(fx.image, &pattern, fx.now.wall_ms);
            let known = self.resolved.get(&pattern).map(|known| &known.topics);
            differs |= known.unwrap_or(&BTreeSet::new()) != &resolved.topics;
            let record = records::regex(&self.id, &pattern, &resolved);
            fx.out.records.push(record);
            self.resolved.insert(pattern, resolved);
        }
        let hash = topics::group_hash(fx.image, self.topic_names());
        if differs || hash != self.metadata_hash {
            self.bump(fx, hash);
            self.is_outdated = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names_as_re2_has_them() {
        let matches = |pattern: &str, name: &str| compile(pattern).expect(pattern).is_match(name);
        assert!(matches("foo.*", "foo-1"));
        assert!(!matches("foo", "foo-1"));
        assert!(matches("a|b", "b"));
        assert!(!matches("a|b", "ab"));
        assert!(matches(r"\Qa.b\E-\d+", "a.b-7"));
        assert!(!matches(r"\Qa.b\E-\d+", "axb-7"));
        assert!(matches(r"(?i)FOO", "foo"));
        assert!(matches(r"(?P<name>x)\pL", "xy"));
    }

    #[test]
    fn what_re2_has_not_is_refused() {
        for pattern in [
            "(foo",
            "foo)|(bar",
            r"(a)\1",
            "(?=a)",
            "a**b(",
            "[",
            r"\x{zz}",
        ] {
            let refused = check(pattern).expect_err(pattern);
            assert_eq!(refused.code, ErrorCode::InvalidRegularExpression);
        }
    }
}
