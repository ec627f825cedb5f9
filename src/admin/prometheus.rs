//! Owns Prometheus' text format (0.0.4): families of samples, in the order they are written.
//!
//! The crate `prometheus-client` wants metrics of its own that all threads share and count atomically; ours
//! are plain numbers that each core counts for itself and hands over when asked, so there is nothing left but to write them.

use std::fmt::{Display, Write};

use bytes::Bytes;

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    Summary,
}

/// A text of thousands of samples is made in pieces of about this size: none grows, and none is copied together with others.
const PIECE_BYTES: usize = 64 << 10;

/// More than one sample takes.
const SAMPLE_BYTES_MAX: usize = 1 << 10;

#[derive(Default)]
pub struct Text {
    done: Vec<String>,
    last: String,
}

/// Names and values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Text {
    /// Begins a family; its samples follow at once.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Summary => "summary",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { text: self, name }
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &'static str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help).sample(&[], value);
    }

    /// More samples of a family, for a text that [`Family::add`] puts behind others.
    pub fn more_of(&mut self, name: &'static str) -> Family<'_> {
        Family { text: self, name }
    }

    /// In pieces.
    pub fn finish(self) -> Vec<Bytes> {
        let pieces = self.done.into_iter().chain([self.last]);
        pieces.map(Bytes::from).collect()
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.piece().write_fmt(text).expect("a string takes all");
    }

    /// What the next sample goes into.
    fn piece(&mut self) -> &mut String {
        if self.last.len() >= PIECE_BYTES {
            let fresh = String::with_capacity(PIECE_BYTES + SAMPLE_BYTES_MAX);
            self.done.push(std::mem::replace(&mut self.last, fresh));
        }
        &mut self.last
    }
}

/// Labels as they are written, for many samples.
#[derive(Default)]
pub struct WrittenLabels(String);

impl WrittenLabels {
    pub fn write(&mut self, labels: Labels<'_>) -> &WrittenLabels {
        self.0.clear();
        write_labels(&mut self.0, labels);
        self
    }
}

fn write_labels(text: &mut String, labels: Labels<'_>) {
    for (place, (label, value)) in labels.iter().enumerate() {
        text.push(if place == 0 { '{' } else { ',' });
        text.push_str(label);
        text.push_str("=\"");
        let mut rest = *value;
        while let Some(at) = rest.find(['\\', '"', '\n']) {
            let (plain, special) = rest.split_at(at);
            text.push_str(plain);
            text.push_str(match special.as_bytes()[0] {
                b'\n' => "\\n",
                b'"' => "\\\"",
                _ => "\\\\",
            });
            rest = &special[1..];
        }
        text.push_str(rest);
        text.push('"');
    }
    if !labels.is_empty() {
        text.push('}');
    }
}

/// Where the samples of one family go.
pub struct Family<'a> {
    text: &'a mut Text,
    name: &'static str,
}

impl Family<'_> {
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.sample_of("", labels, value);
    }

    /// A sample whose name ends so: `_count` or `_sum` of a summary.
    pub fn sample_of(&mut self, suffix: &str, labels: Labels<'_>, value: impl Display) {
        let name = self.name;
        let text = self.text.piece();
        text.push_str(name);
        text.push_str(suffix);
        write_labels(text, labels);
        writeln!(text, " {value}").expect("a string takes all");
    }

    pub fn number(&mut self, labels: &WrittenLabels, value: i64) {
        let name = self.name;
        let text = self.text.piece();
        text.push_str(name);
        text.push_str(&labels.0);
        text.push(' ');
        text.push_str(itoa::Buffer::new().format(value));
        text.push('\n');
    }

    /// What [`Text::more_of`] has made.
    pub fn add(&mut self, more: Text) {
        let before = std::mem::replace(&mut self.text.last, more.last);
        self.text.done.push(before);
        self.text.done.extend(more.done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_comes_in_pieces_that_end_with_a_line() {
        let mut text = Text::default();
        let mut family = text.family("times", Kind::Gauge, "how long");
        let mut labels = WrittenLabels::default();
        for value in 0..10_000 {
            family.number(labels.write(&[("of", "x")]), value);
        }
        let pieces = text.finish();
        assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece.ends_with(b"\n")));
        let most = PIECE_BYTES + SAMPLE_BYTES_MAX;
        assert!(pieces.iter().all(|piece| piece.len() <= most));
        assert_eq!(
            pieces
                .concat()
                .iter()
                .filter(|byte| **byte == b'\n')
                .count(),
            10_002
        );
    }

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.single("up", Kind::Gauge, "whether\nit \\ is", 1);
        let mut family = text.family("times", Kind::Summary, "how long");
        family.sample(&[("of", "a\"b\\c\nd"), ("quantile", "0.5")], 0.25);
        family.sample_of("_count", &[("of", "x")], 3u64);
        let mut labels = WrittenLabels::default();
        let mut more = Text::default();
        for value in [i64::MIN, 7] {
            more.more_of("times")
                .number(labels.write(&[("of", "\"")]), value);
        }
        family.add(more);
        assert_eq!(
            String::from_utf8(text.finish().concat()).unwrap(),
            "# HELP up whether\\nit \\\\ is\n# TYPE up gauge\nup 1\n\
             # HELP times how long\n# TYPE times summary\n\
             times{of=\"a\\\"b\\\\c\\nd\",quantile=\"0.5\"} 0.25\n\
             times_count{of=\"x\"} 3\n\
             times{of=\"\\\"\"} -9223372036854775808\n\
             times{of=\"\\\"\"} 7\n"
        );
    }
}
