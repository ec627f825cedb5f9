//! Reads the notation of `schema/*.txt`: a line a message, then a line a field, indented under its struct.

use std::fs;
use std::path::Path;

use super::model::{DefaultValue, Field, FieldKind, Kind, Message, Struct, Table, Versions};

/// Every table of a directory, in the order of the file names.
pub fn read_directory(directory: &Path) -> Result<Vec<Table>, String> {
    let at = |error| format!("{}: {error}", directory.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(at)? {
        paths.push(entry.map_err(at)?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    let mut tables = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(at)?;
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let messages = table(&text).map_err(|error| format!("{name}: {error}"))?;
        tables.push(Table { name, messages });
    }
    Ok(tables)
}

/// The messages of one file. Those that Kafka keeps only as a name (`versions=none`) are left out.
pub fn table(text: &str) -> Result<Vec<Message>, String> {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let mut messages = Vec::new();
    let mut next = 0;
    while next < lines.len() {
        let head = lines[next];
        next += 1;
        let start = next;
        while next < lines.len() && lines[next].starts_with(' ') {
            next += 1;
        }
        if let Some(message) = message(head, &lines[start..next])? {
            messages.push(message);
        }
    }
    Ok(messages)
}

fn message(head: &str, body: &[&str]) -> Result<Option<Message>, String> {
    let mut words = head.split_whitespace();
    let kind = match words.next() {
        Some("header") => Kind::Header,
        Some("request") => Kind::Request,
        Some("response") => Kind::Response,
        Some("data") => Kind::Data,
        Some("metadata") => Kind::Metadata,
        Some("coordinator-key") => Kind::CoordinatorKey,
        Some("coordinator-value") => Kind::CoordinatorValue,
        _ => return Err(format!("no kind of message: {head}")),
    };
    let name = words
        .next()
        .ok_or_else(|| format!("no name: {head}"))?
        .to_string();
    let mut key = -1;
    let mut valid = None;
    let mut flexible = None;
    for word in words {
        match word.split_once('=') {
            Some(("key", value)) => key = number(value)?,
            Some(("versions", "none")) => return Ok(None),
            Some(("versions", value)) => valid = Some(versions(value)?),
            Some(("flexible", "none")) => {}
            Some(("flexible", value)) => flexible = Some(versions(value)?.first),
            Some(("listeners", _)) => {}
            None if word == "latest-unstable" => {}
            _ => return Err(format!("{name}: unknown word {word}")),
        }
    }
    let valid = valid.ok_or_else(|| format!("{name}: no versions"))?;
    let mut structs = vec![Struct {
        name: name.clone(),
        fields: Vec::new(),
    }];
    let mut lines = body.iter().copied().peekable();
    structs[0].fields =
        fields(&mut lines, 2, &mut structs).map_err(|error| format!("{name}: {error}"))?;
    Ok(Some(Message {
        kind,
        name,
        key,
        min_version: valid.first,
        max_version: valid.last,
        flexible,
        structs,
    }))
}

type Lines<'a> = std::iter::Peekable<std::iter::Copied<std::slice::Iter<'a, &'a str>>>;

/// The fields at one depth; structs found on the way are added to `structs`.
fn fields(
    lines: &mut Lines,
    indent: usize,
    structs: &mut Vec<Struct>,
) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    while let Some(line) = lines.next_if(|line| depth(line) == indent) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[0] == "struct" {
            let inner = self::fields(lines, indent + 2, structs)?;
            add_struct(structs, words[1], inner)?;
            continue;
        }
        let field = field(&words)?;
        if lines.peek().is_some_and(|next| depth(next) > indent) {
            let name = struct_name(&field.kind)
                .ok_or_else(|| format!("{} has fields and is no struct", field.name))?
                .to_string();
            let inner = self::fields(lines, indent + 2, structs)?;
            add_struct(structs, &name, inner)?;
        }
        fields.push(field);
    }
    match lines.peek() {
        Some(line) if depth(line) > indent => Err(format!("bad indentation: {line}")),
        _ => Ok(fields),
    }
}

fn add_struct(structs: &mut Vec<Struct>, name: &str, fields: Vec<Field>) -> Result<(), String> {
    match structs.iter().find(|known| known.name == name) {
        None => structs.push(Struct {
            name: name.to_string(),
            fields,
        }),
        Some(known) if known.fields == fields => {}
        Some(_) => return Err(format!("two different structs called {name}")),
    }
    Ok(())
}

fn depth(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn field(words: &[&str]) -> Result<Field, String> {
    let [name, kind, valid, notes @ ..] = words else {
        return Err(format!("a field needs name, type and versions: {words:?}"));
    };
    let mut field = Field {
        name: name.to_string(),
        kind: field_kind(kind),
        versions: versions(valid)?,
        nullable: None,
        tag: None,
        default: DefaultValue::Zero,
        ignorable: false,
        never_flexible: false,
    };
    for note in notes {
        match note.split_once('=').unwrap_or((note, "")) {
            ("nullable", value) => field.nullable = Some(versions(value)?),
            ("tag", value) => field.tag = Some(number(value)?),
            ("tagged", value) if versions(value)? == field.versions => {}
            ("default", value) => field.default = default_value(value)?,
            ("flexible", "none") => field.never_flexible = true,
            ("ignorable", "") => field.ignorable = true,
            // What names a field holds, which are unique, and which Kafka slices change nothing here.
            ("entity" | "key" | "slice", _) => {}
            _ => return Err(format!("{name}: unknown note {note}")),
        }
    }
    // Kafka never fills records by default, nor can they be told from absent ones.
    if field.kind == FieldKind::Records && field.is_optional() {
        field.default = DefaultValue::Null;
    }
    Ok(field)
}

fn default_value(text: &str) -> Result<DefaultValue, String> {
    Ok(match text {
        "null" => DefaultValue::Null,
        "\"\"" | "false" | "0" => DefaultValue::Zero,
        // A JSON null in Kafka's definitions is no default at all: the field is empty, not null.
        "None" => DefaultValue::Zero,
        "true" => DefaultValue::True,
        _ => DefaultValue::Number(match text.strip_prefix("0x") {
            Some(hex) => {
                i64::from_str_radix(hex, 16).map_err(|error| format!("{text}: {error}"))?
            }
            None => number(text)?,
        }),
    })
}

fn field_kind(text: &str) -> FieldKind {
    if let Some(element) = text.strip_prefix("[]") {
        return FieldKind::Array(Box::new(field_kind(element)));
    }
    match text {
        "bool" => FieldKind::Bool,
        "int8" => FieldKind::Int8,
        "int16" => FieldKind::Int16,
        "int32" => FieldKind::Int32,
        "int64" => FieldKind::Int64,
        "uint16" => FieldKind::Uint16,
        "uint32" => FieldKind::Uint32,
        "float64" => FieldKind::Float64,
        "uuid" => FieldKind::Uuid,
        "string" => FieldKind::String,
        "bytes" => FieldKind::Bytes,
        "records" => FieldKind::Records,
        name => FieldKind::Struct(name.to_string()),
    }
}

/// The struct that a field of this kind holds, directly or as elements.
fn struct_name(kind: &FieldKind) -> Option<&str> {
    match kind {
        FieldKind::Struct(name) => Some(name),
        FieldKind::Array(element) => struct_name(element),
        _ => None,
    }
}

/// `3`, `3+` or `3-7`.
fn versions(text: &str) -> Result<Versions, String> {
    if let Some(first) = text.strip_suffix('+') {
        return Ok(Versions {
            first: number(first)?,
            last: i16::MAX,
        });
    }
    match text.split_once('-') {
        Some((first, last)) => Ok(Versions {
            first: number(first)?,
            last: number(last)?,
        }),
        None => Ok(Versions {
            first: number(text)?,
            last: number(text)?,
        }),
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}
