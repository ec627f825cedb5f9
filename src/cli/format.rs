//! Owns how records are printed: a format string in kcat's manner, or JSON.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use crate::ids::PartitionIndex;
use crate::protocol::Str;
use crate::protocol::batch::Record;

#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// One object a line.
    Json,
    Pieces(Vec<Piece>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    Literal(Vec<u8>),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    KeyLength,
    Value,
    ValueLength,
    Headers,
}

impl Format {
    pub fn parse(text: &str) -> Result<Format, String> {
        if text == "json" {
            return Ok(Format::Json);
        }
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text.chars();
        while let Some(char) = rest.next() {
            match char {
                '%' => {
                    let Some(piece) = piece(rest.next())? else {
                        literal.push(b'%');
                        continue;
                    };
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(piece);
                }
                '\\' => literal.push(escaped(&mut rest)?),
                plain => literal.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Format::Pieces(pieces))
    }

    pub fn write(
        &self,
        out: &mut impl Write,
        topic: &Str,
        partition: PartitionIndex,
        record: &Record,
    ) -> io::Result<()> {
        match self {
            Format::Json => {
                serde_json::to_writer(&mut *out, &object(topic, partition, record))?;
                out.write_all(b"\n")
            }
            Format::Pieces(pieces) => pieces
                .iter()
                .try_for_each(|piece| write_piece(piece, out, topic, partition, record)),
        }
    }
}

/// What follows a `%`; `None` is the percent sign itself.
fn piece(letter: Option<char>) -> Result<Option<Piece>, String> {
    Ok(Some(match letter {
        Some('%') => return Ok(None),
        Some('t') => Piece::Topic,
        Some('p') => Piece::Partition,
        Some('o') => Piece::Offset,
        Some('T') => Piece::Timestamp,
        Some('k') => Piece::Key,
        Some('K') => Piece::KeyLength,
        Some('v' | 's') => Piece::Value,
        Some('S') => Piece::ValueLength,
        Some('h') => Piece::Headers,
        Some(other) => return Err(format!("%{other} means nothing")),
        None => return Err("a % at the end means nothing".into()),
    }))
}

/// What follows a backslash.
fn escaped(rest: &mut std::str::Chars<'_>) -> Result<u8, String> {
    Ok(match rest.next() {
        Some('n') => b'\n',
        Some('t') => b'\t',
        Some('r') => b'\r',
        Some('0') => 0,
        Some('\\') => b'\\',
        Some('x') => {
            let digits: String = rest.by_ref().take(2).collect();
            u8::from_str_radix(&digits, 16)
                .map_err(|_| format!("\\x{digits} is not a byte of two hexadecimal digits"))?
        }
        Some(other) => return Err(format!("\\{other} means nothing")),
        None => return Err("a \\ at the end means nothing".into()),
    })
}

fn write_piece(
    piece: &Piece,
    out: &mut impl Write,
    topic: &Str,
    partition: PartitionIndex,
    record: &Record,
) -> io::Result<()> {
    // As kcat does it: -1 is the length of what is null, and null itself prints nothing.
    let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(-1, |b| b.len() as i64);
    match piece {
        Piece::Literal(bytes) => out.write_all(bytes),
        Piece::Topic => out.write_all(topic.as_bytes()),
        Piece::Partition => write!(out, "{partition}"),
        Piece::Offset => write!(out, "{}", record.offset),
        Piece::Timestamp => write!(out, "{}", record.timestamp),
        Piece::Key => out.write_all(record.key.as_deref().unwrap_or_default()),
        Piece::KeyLength => write!(out, "{}", length(&record.key)),
        Piece::Value => out.write_all(record.value.as_deref().unwrap_or_default()),
        Piece::ValueLength => write!(out, "{}", length(&record.value)),
        Piece::Headers => {
            for (index, header) in record.headers.iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                write!(out, "{comma}{}=", header.key)?;
                out.write_all(header.value.as_deref().unwrap_or(b"NULL"))?;
            }
            Ok(())
        }
    }
}

fn object(topic: &Str, partition: PartitionIndex, record: &Record) -> Value {
    let mut object = Map::new();
    object.insert("topic".into(), json!(topic.as_str()));
    object.insert("partition".into(), json!(partition.0));
    object.insert("offset".into(), json!(record.offset.0));
    object.insert("timestamp".into(), json!(record.timestamp));
    put_bytes(&mut object, "key", record.key.as_deref());
    put_bytes(&mut object, "value", record.value.as_deref());
    // A list, for a key may come twice.
    let headers = record.headers.iter().map(|header| {
        let mut object = Map::new();
        object.insert("key".into(), json!(header.key.as_str()));
        put_bytes(&mut object, "value", header.value.as_deref());
        Value::Object(object)
    });
    object.insert("headers".into(), headers.collect());
    Value::Object(object)
}

/// Text as text; what is not text as hexadecimal digits under `<name>_hex`, for JSON has no bytes.
fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    let (name, value) = match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => (name.to_owned(), Value::Null),
        Some((_, Ok(text))) => (name.to_owned(), json!(text)),
        Some((bytes, Err(_))) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            (format!("{name}_hex"), json!(digits))
        }
    };
    object.insert(name, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Offset;
    use crate::protocol::batch::RecordHeader;

    fn printed(format: &str, record: &Record) -> String {
        let mut out = Vec::new();
        let format = Format::parse(format).unwrap();
        format
            .write(&mut out, &Str::from("t"), PartitionIndex(3), record)
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    fn record() -> Record {
        Record {
            offset: Offset(7),
            timestamp: 1700,
            key: Some("k".into()),
            value: Some("väl".into()),
            headers: vec![
                RecordHeader {
                    key: "a".into(),
                    value: Some("1".into()),
                },
                RecordHeader {
                    key: "a".into(),
                    value: None,
                },
            ],
        }
    }

    #[test]
    fn formats_are_kcats() {
        assert_eq!(
            printed(r"%t %p %o %T %k %v %s\n", &record()),
            "t 3 7 1700 k väl väl\n"
        );
        assert_eq!(
            printed(r"%h|%K|%S%%\t\x41\\", &record()),
            "a=1,a=NULL|1|4%\tA\\"
        );
        let null = Record {
            key: None,
            value: None,
            headers: vec![],
            ..record()
        };
        assert_eq!(printed("[%k%v%h]%K%S", &null), "[]-1-1");
        for wrong in ["%", "%q", "\\", "\\q", "\\xzz"] {
            assert!(Format::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn json_keeps_text_and_shows_bytes() {
        let mut record = record();
        record.key = Some(bytes::Bytes::from_static(&[0xff, 0]));
        let value: Value = serde_json::from_str(&printed("json", &record)).unwrap();
        assert_eq!(
            value,
            json!({"topic": "t", "partition": 3, "offset": 7, "timestamp": 1700, "key_hex": "ff00", "value": "väl",
                "headers": [{"key": "a", "value": "1"}, {"key": "a", "value": null}]})
        );
    }
}
