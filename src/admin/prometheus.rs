//! Owns Prometheus' text format (0.0.4): families of samples, in the order they are written.
//!
//! The crate `prometheus-client` wants metrics of its own that all threads share and count atomically; ours
//! are plain numbers that each core counts for itself and hands over when asked, so there is nothing left but to write them.

use std::fmt::{Display, Write};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
    Summary,
}

#[derive(Default)]
pub struct Text(String);

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

    pub fn finish(self) -> String {
        self.0
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a string takes all");
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
        let (text, name) = (&mut self.text.0, self.name);
        text.push_str(name);
        text.push_str(suffix);
        for (place, (label, value)) in labels.iter().enumerate() {
            text.push(if place == 0 { '{' } else { ',' });
            text.push_str(label);
            text.push_str("=\"");
            for character in value.chars() {
                match character {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    other => text.push(other),
                }
            }
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        self.text.write(format_args!(" {value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let mut text = Text::default();
        text.single("up", Kind::Gauge, "whether\nit \\ is", 1);
        let mut family = text.family("times", Kind::Summary, "how long");
        family.sample(&[("of", "a\"b\\c\nd"), ("quantile", "0.5")], 0.25);
        family.sample_of("_count", &[("of", "x")], 3u64);
        assert_eq!(
            text.finish(),
            "# HELP up whether\\nit \\\\ is\n# TYPE up gauge\nup 1\n\
             # HELP times how long\n# TYPE times summary\n\
             times{of=\"a\\\"b\\\\c\\nd\",quantile=\"0.5\"} 0.25\n\
             times_count{of=\"x\"} 3\n"
        );
    }
}
