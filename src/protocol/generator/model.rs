//! What a table says: messages, their structs and fields, and in which versions each exists.

/// One file of `schema/`.
#[derive(Debug)]
pub struct Table {
    /// File name without `.txt`.
    pub name: String,
    pub messages: Vec<Message>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Header,
    Request,
    Response,
    /// A record or payload with no frame of its own, or one that its reader knows.
    Data,
    /// A record of the metadata log: frame version, type and version go ahead of it.
    Metadata,
    /// Key of a coordinator's record: its type goes ahead of it.
    CoordinatorKey,
    /// Value of a coordinator's record: its version goes ahead of it.
    CoordinatorValue,
}

#[derive(Debug)]
pub struct Message {
    pub kind: Kind,
    pub name: String,
    /// API key or record type; -1 where there is none.
    pub key: i16,
    pub min_version: i16,
    pub max_version: i16,
    /// First version with compact lengths and tagged fields (KIP-482).
    pub flexible: Option<i16>,
    /// The message itself, then every struct inside it; names are unique here.
    pub structs: Vec<Struct>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Struct {
    pub name: String,
    pub fields: Vec<Field>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub kind: FieldKind,
    pub versions: Versions,
    /// Versions in which null may be on the wire. Any at all makes the field an `Option`.
    pub nullable: Option<Versions>,
    /// A tagged field: its tag. It then is tagged in every version that has it.
    pub tag: Option<u32>,
    pub default: DefaultValue,
    /// Left out without complaint in versions that lack it.
    pub ignorable: bool,
    /// Never compact, whatever the version (the client id of request headers).
    pub never_flexible: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum FieldKind {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint16,
    Uint32,
    Float64,
    Uuid,
    String,
    Bytes,
    Records,
    Struct(String),
    Array(Box<FieldKind>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum DefaultValue {
    /// Zero, false, empty, or a struct of defaults.
    Zero,
    Null,
    Number(i64),
    True,
}

/// An inclusive range of versions, perhaps open at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    pub first: i16,
    pub last: i16,
}

impl Message {
    pub fn versions(&self) -> Versions {
        Versions {
            first: self.min_version,
            last: self.max_version,
        }
    }
}

impl Field {
    pub fn is_optional(&self) -> bool {
        self.nullable.is_some()
    }
}
