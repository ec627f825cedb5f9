//! Writes Rust for the model. The code leans on `protocol/wire.rs`, which knows how
//! each type looks on the wire; what is written here is only which field exists in which version.
//!
//! A module a message, because names of structs are unique within a message alone.

use std::fmt::Write;

use super::model::{DefaultValue, Field, FieldKind, Kind, Message, Struct, Table, Versions};
use super::names;

/// `writeln!` to a String cannot fail.
macro_rules! line {
    ($out:expr, $($argument:tt)*) => {
        writeln!($out, $($argument)*).expect("writing to a string")
    };
}

/// Requests and responses, and what request and response headers need to know of every API.
pub fn messages(tables: &[Table]) -> String {
    let mut out = String::new();
    let all: Vec<&Message> = tables
        .iter()
        .flat_map(|table| &table.messages)
        .filter(|message| matches!(message.kind, Kind::Header | Kind::Request | Kind::Response))
        .collect();
    for message in &all {
        module(&mut out, message);
    }
    let requests = || all.iter().filter(|message| message.kind == Kind::Request);

    out += "/// Every API that Kafka has: key, name, oldest and newest version, first flexible version.\n";
    out += "pub const APIS: &[(i16, &str, i16, i16, i16)] = &[\n";
    for request in requests() {
        let name = request.name.trim_end_matches("Request");
        let flexible = request.flexible.unwrap_or(i16::MAX);
        let (min, max) = (request.min_version, request.max_version);
        line!(
            out,
            "({}, {name:?}, {min}, {max}, {flexible}),",
            request.key
        );
    }
    out += "];\n";
    round_trips(&mut out, all.iter().copied());
    out
}

/// Records, a module a table: `records_metadata.txt` becomes `metadata`.
pub fn records(tables: &[Table]) -> String {
    let mut out = String::new();
    for table in tables {
        let Some(name) = table.name.strip_prefix("records_") else {
            continue;
        };
        line!(
            out,
            "pub mod {name} {{ use crate::protocol::wire::{{self, Message as _}};"
        );
        for message in &table.messages {
            module(&mut out, message);
        }
        for (kind, union) in [
            (Kind::Metadata, "MetadataRecord"),
            (Kind::CoordinatorKey, "Key"),
            (Kind::CoordinatorValue, "Value"),
        ] {
            let members: Vec<&Message> = table
                .messages
                .iter()
                .filter(|message| message.kind == kind)
                .collect();
            if !members.is_empty() {
                record_enum(&mut out, kind, union, &members);
            }
        }
        round_trips(&mut out, table.messages.iter());
        out += "}\n";
    }
    out
}

fn module(out: &mut String, message: &Message) {
    let name = &message.name;
    let module = names::snake(name);
    line!(out, "pub use {module}::{name};");
    line!(out, "pub mod {module} {{ use crate::protocol::wire;");
    for definition in &message.structs {
        struct_definition(out, definition);
        default_implementation(out, definition);
        wire_implementation(out, message, definition);
    }
    message_implementation(out, message);
    out.push_str("}\n");
}

fn message_implementation(out: &mut String, message: &Message) {
    let name = &message.name;
    line!(out, "impl wire::Message for {name} {{");
    line!(out, "const NAME: &'static str = {name:?};");
    line!(out, "const MIN_VERSION: i16 = {};", message.min_version);
    line!(out, "const MAX_VERSION: i16 = {};", message.max_version);
    line!(
        out,
        "const FIRST_FLEXIBLE: i16 = {};",
        message.flexible.unwrap_or(i16::MAX)
    );
    line!(out, "}}");
    let key = message.key;
    match message.kind {
        Kind::Request => {
            let response = name.replace("Request", "Response");
            line!(
                out,
                "impl wire::Request for {name} {{ const KEY: i16 = {key};"
            );
            line!(out, "type Response = super::{response}; }}");
        }
        Kind::Response => {
            line!(
                out,
                "impl wire::Response for {name} {{ const KEY: i16 = {key}; }}"
            );
        }
        Kind::CoordinatorKey => {
            line!(
                out,
                "impl wire::CoordinatorKey for {name} {{ const TYPE: i16 = {key}; }}"
            );
        }
        Kind::CoordinatorValue => {
            line!(
                out,
                "impl wire::CoordinatorValue for {name} {{ const TYPE: i16 = {key}; }}"
            );
        }
        Kind::Metadata => {
            line!(
                out,
                "impl wire::MetadataMessage for {name} {{ const TYPE: i16 = {key}; }}"
            );
        }
        Kind::Header | Kind::Data => {}
    }
}

fn struct_definition(out: &mut String, definition: &Struct) {
    let derived = if definition.fields.iter().all(has_zero_default) {
        ", Default"
    } else {
        ""
    };
    line!(out, "#[derive(Clone, Debug, PartialEq{derived})]");
    line!(out, "pub struct {} {{", definition.name);
    for field in &definition.fields {
        line!(
            out,
            "pub {}: {},",
            names::field(&field.name),
            field_type(field)
        );
    }
    line!(out, "}}");
}

/// Whether the default in the table is also the Rust type's.
fn has_zero_default(field: &Field) -> bool {
    match field.default {
        DefaultValue::Zero => !field.is_optional(),
        DefaultValue::Null => true,
        DefaultValue::Number(_) | DefaultValue::True => false,
    }
}

fn default_implementation(out: &mut String, definition: &Struct) {
    if definition.fields.iter().all(has_zero_default) {
        return;
    }
    line!(
        out,
        "impl Default for {0} {{ fn default() -> Self {{ Self {{",
        definition.name
    );
    for field in &definition.fields {
        let value = match field.default {
            DefaultValue::Zero if field.is_optional() => "Some(Default::default())".to_string(),
            DefaultValue::Zero | DefaultValue::Null => "Default::default()".to_string(),
            DefaultValue::Number(number) => number.to_string(),
            DefaultValue::True => "true".to_string(),
        };
        line!(out, "{}: {value},", names::field(&field.name));
    }
    line!(out, "}} }} }}");
}

fn wire_implementation(out: &mut String, message: &Message, definition: &Struct) {
    line!(out, "impl wire::Wire for {} {{", definition.name);
    read_function(out, message, definition);
    write_function(out, message, definition);
    line!(out, "}}");
}

fn read_function(out: &mut String, message: &Message, definition: &Struct) {
    let valid = message.versions();
    let mut body = String::new();
    for field in definition.fields.iter().filter(|field| field.tag.is_none()) {
        let read = read_field(field, valid);
        match condition(field.versions, valid) {
            Presence::Always => line!(body, "{read}"),
            Presence::When(test) => line!(body, "if {test} {{ {read} }}"),
            Presence::Never => {}
        }
    }
    let tagged = tagged_fields(definition, valid);
    if tagged.is_empty() {
        line!(body, "r.skip_tags(c)?;");
    } else {
        line!(body, "r.tags(c, |r, tag| {{ match tag {{");
        for (tag, field) in &tagged {
            let guard = match condition(field.versions, flexible_versions(message)) {
                Presence::When(test) => format!(" if {test}"),
                Presence::Always | Presence::Never => String::new(),
            };
            line!(
                body,
                "{tag}{guard} => {}",
                read_field(field, valid).replace(';', ",")
            );
        }
        line!(body, "_ => return Ok(false), }} Ok(true) }})?;");
    }
    line!(
        out,
        "fn read(r: &mut wire::Reader, c: wire::Context) -> Result<Self, wire::DecodeError> {{"
    );
    open_function(out, &body, "let mut m = Self::default();");
    out.push_str(&body);
    line!(out, "Ok(m) }}");
}

/// `v` and `m` are declared only where the body needs them (so).
fn open_function(out: &mut String, body: &str, declaration: &str) {
    if body.contains("v <") || body.contains("v >") || body.contains("v =") {
        line!(out, "let v = c.version;");
    }
    let declaration = if body.contains("m.") || declaration.is_empty() {
        declaration.to_string()
    } else {
        declaration.replace("let mut", "let")
    };
    line!(out, "{declaration}");
}

fn read_field(field: &Field, valid: Versions) -> String {
    let name = names::field(&field.name);
    let context = context(field);
    let plain = format!("m.{name} = r.get({context})?;");
    let Some(nullable) = field.nullable else {
        return plain;
    };
    let present = intersection(field.versions, valid);
    match condition(nullable, present) {
        Presence::Always => plain,
        Presence::Never => format!("m.{name} = Some(r.get({context})?);"),
        Presence::When(test) => format!(
            "m.{name} = if {test} {{ r.get({context})? }} else {{ Some(r.get({context})?) }};"
        ),
    }
}

fn write_function(out: &mut String, message: &Message, definition: &Struct) {
    let valid = message.versions();
    let mut body = String::new();
    for field in &definition.fields {
        let write = match field.tag {
            None => write_field(definition, field, valid),
            Some(_) => String::new(),
        };
        let otherwise = if field.ignorable {
            String::new()
        } else {
            let test = differs_from_default(field);
            format!(
                "if {test} {{ return Err(c.lacks({:?}, {:?})); }}",
                definition.name, field.name
            )
        };
        match condition(field.versions, valid) {
            Presence::Always => line!(body, "{write}"),
            Presence::When(test) if otherwise.is_empty() && !write.is_empty() => {
                line!(body, "if {test} {{ {write} }}")
            }
            Presence::When(test) if write.is_empty() && !otherwise.is_empty() => {
                line!(body, "if !({test}) {{ {otherwise} }}")
            }
            Presence::When(test) if !otherwise.is_empty() => {
                line!(body, "if {test} {{ {write} }} else {{ {otherwise} }}")
            }
            Presence::When(_) => {}
            Presence::Never => line!(body, "{otherwise}"),
        }
    }
    let tagged = tagged_fields(definition, valid);
    if tagged.is_empty() {
        line!(body, "w.no_tags(c);");
    } else {
        line!(body, "if c.flexible {{ let tags = w.begin_tags();");
        for (tag, field) in &tagged {
            let mut test = differs_from_default(field);
            if let Presence::When(present) = condition(field.versions, flexible_versions(message)) {
                test = format!("{present} && {test}");
            }
            let (name, context) = (names::field(&field.name), context(field));
            line!(
                body,
                "if {test} {{ w.tag(tags, {tag}, &self.{name}, {context})?; }}"
            );
        }
        line!(body, "}}");
    }
    line!(
        out,
        "fn write(&self, w: &mut wire::Writer, c: wire::Context) -> Result<(), wire::EncodeError> {{"
    );
    open_function(out, &body, "");
    out.push_str(&body);
    line!(out, "Ok(()) }}");
}

fn write_field(definition: &Struct, field: &Field, valid: Versions) -> String {
    let name = names::field(&field.name);
    let context = context(field);
    let plain = format!("w.put(&self.{name}, {context})?;");
    let Some(nullable) = field.nullable else {
        return plain;
    };
    let required = format!(
        "w.put(c.required(&self.{name}, {:?}, {:?})?, {context})?;",
        definition.name, field.name
    );
    match condition(nullable, intersection(field.versions, valid)) {
        Presence::Always => plain,
        Presence::Never => required,
        Presence::When(test) => format!("if {test} {{ {plain} }} else {{ {required} }}"),
    }
}

fn context(field: &Field) -> &'static str {
    match field.kind {
        FieldKind::Struct(_) if field.tag.is_some() && field.is_optional() => "c.tagged()",
        _ if field.never_flexible => "c.rigid()",
        _ => "c",
    }
}

fn differs_from_default(field: &Field) -> String {
    let name = format!("self.{}", names::field(&field.name));
    match (&field.default, &field.kind) {
        (DefaultValue::Null, _) => format!("{name}.is_some()"),
        (DefaultValue::Zero, FieldKind::Bool) => name,
        (DefaultValue::True, _) => format!("!{name}"),
        (DefaultValue::Number(number), _) => format!("{name} != {number}"),
        (DefaultValue::Zero, _) if field.is_optional() => {
            format!("{name} != Some(Default::default())")
        }
        (DefaultValue::Zero, kind) => match kind {
            FieldKind::String | FieldKind::Bytes | FieldKind::Records | FieldKind::Array(_) => {
                format!("!{name}.is_empty()")
            }
            FieldKind::Struct(_) | FieldKind::Uuid => format!("{name} != Default::default()"),
            FieldKind::Float64 => format!("{name} != 0.0"),
            _ => format!("{name} != 0"),
        },
    }
}

fn tagged_fields(definition: &Struct, valid: Versions) -> Vec<(u32, &Field)> {
    let mut tagged: Vec<(u32, &Field)> = definition
        .fields
        .iter()
        .filter(|field| !matches!(condition(field.versions, valid), Presence::Never))
        .filter_map(|field| Some((field.tag?, field)))
        .collect();
    tagged.sort_by_key(|(tag, _)| *tag);
    tagged
}

fn flexible_versions(message: &Message) -> Versions {
    let first = message
        .flexible
        .unwrap_or(i16::MAX)
        .max(message.min_version);
    Versions {
        first,
        last: message.max_version,
    }
}

fn intersection(left: Versions, right: Versions) -> Versions {
    Versions {
        first: left.first.max(right.first),
        last: left.last.min(right.last),
    }
}

enum Presence {
    Always,
    When(String),
    Never,
}

/// When a version out of `among` is in `wanted`, as a test of `v`.
fn condition(wanted: Versions, among: Versions) -> Presence {
    let both = intersection(wanted, among);
    if both.first > both.last {
        return Presence::Never;
    }
    match (both.first > among.first, both.last < among.last) {
        (false, false) => Presence::Always,
        _ if both.first == both.last => Presence::When(format!("v == {}", both.first)),
        (true, false) => Presence::When(format!("v >= {}", both.first)),
        (false, true) => Presence::When(format!("v <= {}", both.last)),
        (true, true) => Presence::When(format!("v >= {} && v <= {}", both.first, both.last)),
    }
}

fn field_type(field: &Field) -> String {
    let inner = kind_type(&field.kind);
    if field.is_optional() {
        format!("Option<{inner}>")
    } else {
        inner
    }
}

fn kind_type(kind: &FieldKind) -> String {
    match kind {
        FieldKind::Bool => "bool".into(),
        FieldKind::Int8 => "i8".into(),
        FieldKind::Int16 => "i16".into(),
        FieldKind::Int32 => "i32".into(),
        FieldKind::Int64 => "i64".into(),
        FieldKind::Uint16 => "u16".into(),
        FieldKind::Uint32 => "u32".into(),
        FieldKind::Float64 => "f64".into(),
        FieldKind::Uuid => "wire::Uuid".into(),
        FieldKind::String => "wire::Str".into(),
        FieldKind::Bytes => "wire::Bytes".into(),
        FieldKind::Records => "wire::Records".into(),
        FieldKind::Struct(name) => name.clone(),
        FieldKind::Array(element) => format!("Vec<{}>", kind_type(element)),
    }
}

/// One enum for all records of a table that share a place: metadata records, keys, or values.
fn record_enum(out: &mut String, kind: Kind, union: &str, members: &[&Message]) {
    let short = |member: &Message| {
        let suffix = match kind {
            Kind::CoordinatorKey => "Key",
            Kind::CoordinatorValue => "Value",
            _ => "Record",
        };
        member.name.trim_end_matches(suffix).to_string()
    };
    line!(
        out,
        "/// Any of this table's, by the type that is written with it."
    );
    line!(
        out,
        "#[derive(Clone, Debug, PartialEq)] pub enum {union} {{"
    );
    for member in members {
        line!(out, "{}({}),", short(member), member.name);
    }
    line!(out, "}}");
    for member in members {
        line!(
            out,
            "impl From<{0}> for {union} {{ fn from(record: {0}) -> Self {{",
            member.name
        );
        line!(out, "Self::{}(record) }} }}", short(member));
    }
    let mut arms = [String::new(), String::new(), String::new(), String::new()];
    for member in members {
        let (name, variant) = (&member.name, short(member));
        line!(arms[0], "Self::{variant}(_) => {},", member.key);
        line!(arms[1], "Self::{variant}(_) => {name:?},");
        line!(arms[2], "Self::{variant}(_) => {},", member.max_version);
        line!(
            arms[3],
            "Self::{variant}(record) => record.encode(w, version),"
        );
    }
    line!(out, "impl {union} {{");
    line!(
        out,
        "pub fn record_type(&self) -> i16 {{ match self {{ {} }} }}",
        arms[0]
    );
    line!(
        out,
        "pub fn name(&self) -> &'static str {{ match self {{ {} }} }}",
        arms[1]
    );
    line!(
        out,
        "pub fn max_version(&self) -> i16 {{ match self {{ {} }} }}",
        arms[2]
    );
    line!(
        out,
        "fn write_fields(&self, w: &mut wire::Writer, version: i16) -> Result<(), wire::EncodeError>"
    );
    line!(out, "{{ match self {{ {} }} }}", arms[3]);
    line!(
        out,
        "fn read_fields(r: &mut wire::Reader, record_type: i16, version: i16)"
    );
    line!(
        out,
        "-> Result<Self, wire::DecodeError> {{ Ok(match record_type {{"
    );
    for member in members {
        line!(
            out,
            "{} => {}::decode(r, version)?.into(),",
            member.key,
            member.name
        );
    }
    line!(
        out,
        "_ => return Err(wire::DecodeError::UnknownRecordType {{ record_type }}), }}) }}"
    );
    framing(out, kind);
    line!(out, "}}");
}

/// What surrounds the fields: see `wire.rs`, which does the work.
fn framing(out: &mut String, kind: Kind) {
    out.push_str(match kind {
        Kind::Metadata => {
            "/// Reads a record of the metadata log: frame version, type, version, fields.
            pub fn decode(value: &wire::Bytes) -> Result<Self, wire::DecodeError> {
                wire::decode_metadata(value, Self::read_fields)
            }
            pub fn encode(&self, version: i16) -> Result<wire::Bytes, wire::EncodeError> {
                wire::encode_metadata(self.record_type(), version, |w| self.write_fields(w, version))
            }\n"
        }
        Kind::CoordinatorKey => {
            "/// Reads a key: type, fields. Keys have one version alone.
            pub fn decode(key: &wire::Bytes) -> Result<Self, wire::DecodeError> {
                wire::decode_prefixed(key, |r, record_type| Self::read_fields(r, record_type, 0))
            }
            pub fn encode(&self) -> Result<wire::Bytes, wire::EncodeError> {
                wire::encode_prefixed(self.record_type(), |w| self.write_fields(w, 0))
            }\n"
        }
        _ => {
            "/// Reads a value: version, fields. Its type is in the record's key.
            pub fn decode(record_type: i16, value: &wire::Bytes) -> Result<Self, wire::DecodeError> {
                wire::decode_prefixed(value, |r, version| Self::read_fields(r, record_type, version))
            }
            pub fn encode(&self, version: i16) -> Result<wire::Bytes, wire::EncodeError> {
                wire::encode_prefixed(version, |w| self.write_fields(w, version))
            }\n"
        }
    });
}

/// For tests: decodes and encodes each message by its name.
fn round_trips<'a>(out: &mut String, messages: impl Iterator<Item = &'a Message>) {
    line!(out, "#[cfg(test)]");
    line!(
        out,
        "pub(crate) const ROUND_TRIPS: &[crate::protocol::round_trip::RoundTrip] = &["
    );
    for message in messages {
        line!(
            out,
            "crate::protocol::round_trip::RoundTrip::of::<{}>(),",
            message.name
        );
    }
    line!(out, "];");
}
