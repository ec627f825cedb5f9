//! Owns what one setting is: its name, type, default and the values it accepts, and how a value
//! is parsed, checked and printed. The messages are shaped as Kafka's `ConfigDef` shapes them,
//! because clients show them to people. It never knows which settings exist (`definitions`).

use std::fmt;

use super::ConfigError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Boolean,
    String,
    Int,
    Short,
    Long,
    Double,
    List,
    Class,
    Password,
}

impl Kind {
    pub(super) fn from_name(name: &str) -> Kind {
        match name {
            "BOOLEAN" => Kind::Boolean,
            "STRING" => Kind::String,
            "INT" => Kind::Int,
            "SHORT" => Kind::Short,
            "LONG" => Kind::Long,
            "DOUBLE" => Kind::Double,
            "LIST" => Kind::List,
            "CLASS" => Kind::Class,
            "PASSWORD" => Kind::Password,
            other => panic!("unknown setting type {other} in a settings table"),
        }
    }

    /// `ConfigType` of a DescribeConfigs response.
    pub fn code(self) -> i8 {
        match self {
            Kind::Boolean => 1,
            Kind::String => 2,
            Kind::Int => 3,
            Kind::Short => 4,
            Kind::Long => 5,
            Kind::Double => 6,
            Kind::List => 7,
            Kind::Class => 8,
            Kind::Password => 9,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Boolean => "BOOLEAN",
            Kind::String => "STRING",
            Kind::Int => "INT",
            Kind::Short => "SHORT",
            Kind::Long => "LONG",
            Kind::Double => "DOUBLE",
            Kind::List => "LIST",
            Kind::Class => "CLASS",
            Kind::Password => "PASSWORD",
        }
    }
}

/// How a broker setting may change while the broker runs (KIP-226).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateMode {
    ReadOnly,
    PerBroker,
    ClusterWide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    High,
    Medium,
    Low,
}

/// The values a setting accepts beyond its type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Valid {
    Anything,
    Range {
        min: Option<f64>,
        max: Option<f64>,
        /// The bounds as the table writes them, for the message.
        min_text: &'static str,
        max_text: &'static str,
    },
    OneOf(Vec<&'static str>),
    OneOfAnyCase(Vec<&'static str>),
    /// List elements must come from here; empty allows any non-empty element.
    ListOf(Vec<&'static str>),
    NonEmpty,
    GzipLevel,
    ThrottledReplicas,
    ShareOffsetReset,
}

impl Valid {
    pub(super) fn from_notation(notation: &'static str) -> Valid {
        let (word, rest) = notation.split_once(' ').unwrap_or((notation, ""));
        let choices = || rest.split(',').filter(|c| !c.is_empty()).collect();
        match word {
            "" => Valid::Anything,
            "range" => {
                let (min_text, max_text) = rest.split_once(' ').unwrap_or((rest, ""));
                let bound = |text: &str| text.parse().ok();
                Valid::Range {
                    min: bound(min_text),
                    max: bound(max_text),
                    min_text,
                    max_text,
                }
            }
            "in" => Valid::OneOf(choices()),
            "anycase" => Valid::OneOfAnyCase(choices()),
            "list" => Valid::ListOf(choices()),
            "non-empty" => Valid::NonEmpty,
            "gzip-level" => Valid::GzipLevel,
            "throttled-replicas" => Valid::ThrottledReplicas,
            "share-offset-reset" => Valid::ShareOffsetReset,
            other => panic!("unknown validator {other} in a settings table"),
        }
    }
}

/// A parsed value; `Display` prints it the way Kafka prints values back to clients.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Boolean(bool),
    Integer(i64),
    Double(f64),
    Text(String),
    List(Vec<String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Boolean(value) => value.fmt(f),
            Value::Integer(value) => value.fmt(f),
            Value::Double(value) => f.write_str(&java_double(*value)),
            Value::Text(value) => f.write_str(value),
            Value::List(values) => f.write_str(&values.join(",")),
        }
    }
}

/// Java prints doubles with an exponent outside 1e-3..1e7, and always with a fraction.
fn java_double(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || (1e-3..1e7).contains(&magnitude) {
        return format!("{value:?}");
    }
    let text = format!("{value:E}");
    match text.split_once('E') {
        Some((mantissa, exponent)) if !mantissa.contains('.') => format!("{mantissa}.0E{exponent}"),
        _ => text,
    }
}

/// One row of a settings table.
#[derive(Debug)]
pub struct Definition {
    pub name: &'static str,
    pub kind: Kind,
    /// `None` is null: the setting has no value unless one is given.
    pub default: Option<&'static str>,
    pub update: UpdateMode,
    pub importance: Importance,
    /// Accepted, but not shown by DescribeConfigs.
    pub internal: bool,
    /// For topic and group settings: the broker setting that supplies the value when unset.
    pub synonym: Option<&'static str>,
    /// What it does here; `None` when it has no effect in Coati.
    pub documentation: Option<&'static str>,
    pub(super) valid: Valid,
}

impl Definition {
    pub fn has_effect(&self) -> bool {
        self.documentation.is_some()
    }

    /// What DescribeConfigs tells about it.
    pub fn describe(&self) -> &'static str {
        self.documentation
            .unwrap_or("Accepted under Kafka's name; it has no effect in Coati.")
    }

    pub fn is_sensitive(&self) -> bool {
        self.kind == Kind::Password
    }

    /// The default, parsed. The tables are checked by a test, so a default always parses.
    pub fn default_value(&self) -> Option<Value> {
        self.default.map(|text| {
            self.parse_type(text)
                .expect("the table's defaults are valid")
        })
    }

    /// Parses and validates.
    pub fn parse(&self, text: &str) -> Result<Value, ConfigError> {
        let value = self.parse_type(text)?;
        self.check(&value)?;
        Ok(value)
    }

    fn parse_type(&self, text: &str) -> Result<Value, ConfigError> {
        let trimmed = text.trim();
        let not_a_number =
            || self.invalid(text, format!("Not a number of type {}", self.kind.name()));
        let integer = |low: i64, high: i64| {
            trimmed
                .parse::<i64>()
                .ok()
                .filter(|value| (low..=high).contains(value))
                .map(Value::Integer)
                .ok_or_else(not_a_number)
        };
        match self.kind {
            Kind::Boolean if trimmed.eq_ignore_ascii_case("true") => Ok(Value::Boolean(true)),
            Kind::Boolean if trimmed.eq_ignore_ascii_case("false") => Ok(Value::Boolean(false)),
            Kind::Boolean => {
                Err(self.invalid(text, "Expected value to be either true or false".into()))
            }
            Kind::Short => integer(i16::MIN.into(), i16::MAX.into()),
            Kind::Int => integer(i32::MIN.into(), i32::MAX.into()),
            Kind::Long => integer(i64::MIN, i64::MAX),
            Kind::Double => trimmed
                .parse()
                .map(Value::Double)
                .map_err(|_| not_a_number()),
            Kind::List if trimmed.is_empty() => Ok(Value::List(Vec::new())),
            Kind::List => Ok(Value::List(
                trimmed
                    .split(',')
                    .map(|item| item.trim().to_owned())
                    .collect(),
            )),
            Kind::String | Kind::Class | Kind::Password => Ok(Value::Text(trimmed.to_owned())),
        }
    }

    fn invalid(&self, value: impl fmt::Display, reason: String) -> ConfigError {
        ConfigError::Invalid(format!(
            "Invalid value {value} for configuration {}: {reason}",
            self.name
        ))
    }

    fn check(&self, value: &Value) -> Result<(), ConfigError> {
        match (&self.valid, value) {
            (Valid::Range { .. }, Value::Double(number)) => self.check_range(value, *number),
            // Exact up to 2^53; the bounds of the tables are far below.
            (Valid::Range { .. }, Value::Integer(number)) => {
                self.check_range(value, *number as f64)
            }
            (Valid::GzipLevel, Value::Integer(level))
                if *level != -1 && !(1..=9).contains(level) =>
            {
                Err(self.invalid(level, "Value must be between 1 and 9 or equal to -1".into()))
            }
            (Valid::OneOf(choices), Value::Text(text)) if !choices.contains(&text.as_str()) => {
                Err(self.invalid(text, one_of(choices)))
            }
            (Valid::OneOfAnyCase(choices), Value::Text(text))
                if !choices
                    .iter()
                    .any(|choice| choice.eq_ignore_ascii_case(text)) =>
            {
                Err(self.invalid(
                    text,
                    format!(
                        "String must be one of (case insensitive): {}",
                        choices.join(", ")
                    ),
                ))
            }
            (Valid::ListOf(choices), Value::List(items)) => self.check_list(choices, items),
            (Valid::NonEmpty, Value::Text(text)) if text.is_empty() => {
                Err(self.invalid(text, "String must be non-empty".into()))
            }
            (Valid::ThrottledReplicas, Value::List(items)) if !throttled_replicas(items) => {
                Err(self.invalid(
                    format!("[{}]", items.join(", ")),
                    format!(
                        "{} must be the literal '*' or a list of replicas in the following format: \
                         [partitionId]:[brokerId],[partitionId]:[brokerId],...",
                        self.name
                    ),
                ))
            }
            (Valid::ShareOffsetReset, Value::Text(text))
                if !matches!(text.as_str(), "latest" | "earliest")
                    && !text.starts_with("by_duration:") =>
            {
                Err(self.invalid(
                    text,
                    "Value must be one of latest, earliest or by_duration:PnDTnHnMn.nS".into(),
                ))
            }
            _ => Ok(()),
        }
    }

    fn check_range(&self, value: &Value, number: f64) -> Result<(), ConfigError> {
        let Valid::Range {
            min,
            max,
            min_text,
            max_text,
        } = &self.valid
        else {
            return Ok(());
        };
        if min.is_some_and(|min| number < min) {
            Err(self.invalid(value, format!("Value must be at least {min_text}")))
        } else if max.is_some_and(|max| number > max) {
            Err(self.invalid(value, format!("Value must be no more than {max_text}")))
        } else {
            Ok(())
        }
    }

    fn check_list(&self, choices: &[&str], items: &[String]) -> Result<(), ConfigError> {
        if items.iter().any(String::is_empty) {
            return Err(ConfigError::Invalid(format!(
                "Configuration '{}' values must not be empty.",
                self.name
            )));
        }
        match items.iter().find(|item| !choices.contains(&item.as_str())) {
            Some(item) if !choices.is_empty() => Err(self.invalid(item, one_of(choices))),
            _ => Ok(()),
        }
    }
}

fn one_of(choices: &[&str]) -> String {
    format!("String must be one of: {}", choices.join(", "))
}

fn throttled_replicas(items: &[String]) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    items.is_empty()
        || items == ["*"]
        || items.iter().all(|item| {
            item.split_once(':')
                .is_some_and(|(p, b)| number(p) && number(b))
        })
}
