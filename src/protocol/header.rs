//! Owns the headers ahead of requests and responses: which version, and reading and writing them.

use super::messages::{self, APIS};
use super::wire::{API_VERSIONS, DecodeError, EncodeError, Message, Reader, Str, Writer};

/// What goes ahead of every request.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestHeader {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: Option<Str>,
}

/// Version of the request header that goes with a version of an API, `None` for an API that Kafka lacks.
/// The answer is right also for versions newer than any known: none goes back to being inflexible.
pub fn request_header_version(api_key: i16, version: i16) -> Option<i16> {
    Some(if version >= first_flexible(api_key)? {
        2
    } else {
        1
    })
}

/// Version of the response header that goes with a version of an API, `None` for an API that Kafka lacks.
/// That of ApiVersions is always 0 (KIP-511).
pub fn response_header_version(api_key: i16, version: i16) -> Option<i16> {
    let flexible = version >= first_flexible(api_key)? && api_key != API_VERSIONS;
    Some(if flexible { 1 } else { 0 })
}

fn first_flexible(api_key: i16) -> Option<i16> {
    let index = APIS.binary_search_by_key(&api_key, |api| api.0).ok()?;
    Some(APIS[index].4)
}

/// Reads the header that its own first fields tell the version of.
pub fn read_request_header(reader: &mut Reader) -> Result<RequestHeader, DecodeError> {
    let mut ahead = reader.clone();
    let (key, version) = (ahead.i16()?, ahead.i16()?);
    let header_version =
        request_header_version(key, version).ok_or(DecodeError::UnknownApi { key })?;
    let header = messages::RequestHeader::decode(reader, header_version)?;
    Ok(RequestHeader {
        api_key: header.request_api_key,
        api_version: header.request_api_version,
        correlation_id: header.correlation_id,
        client_id: header.client_id,
    })
}

/// Writes the header of a request, in the version that its API and version ask for.
///
/// # Panics
/// When Kafka has no such API.
pub fn write_request_header(
    writer: &mut Writer,
    header: &RequestHeader,
) -> Result<(), EncodeError> {
    let version = request_header_version(header.api_key, header.api_version);
    messages::RequestHeader {
        request_api_key: header.api_key,
        request_api_version: header.api_version,
        correlation_id: header.correlation_id,
        client_id: header.client_id.clone(),
    }
    .encode(writer, version.expect("one of Kafka's APIs"))
}

/// Writes the header of a response to a request of this API and version.
///
/// # Panics
/// When Kafka has no such API.
pub fn write_response_header(writer: &mut Writer, api_key: i16, version: i16, correlation_id: i32) {
    let version = response_header_version(api_key, version).expect("one of Kafka's APIs");
    writer.i32(correlation_id);
    if version >= 1 {
        writer.u8(0);
    }
}

/// Reads the correlation id of a response to a request of this API and version.
pub fn read_response_header(
    reader: &mut Reader,
    api_key: i16,
    version: i16,
) -> Result<i32, DecodeError> {
    let version = response_header_version(api_key, version)
        .ok_or(DecodeError::UnknownApi { key: api_key })?;
    Ok(messages::ResponseHeader::decode(reader, version)?.correlation_id)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn the_version_follows_from_api_and_version() {
        assert_eq!(request_header_version(18, 2), Some(1));
        assert_eq!(request_header_version(18, 99), Some(2));
        assert_eq!(response_header_version(18, 4), Some(0));
        assert_eq!(response_header_version(0, 9), Some(1));
        assert_eq!(request_header_version(12345, 0), None);
        assert!(APIS.is_sorted_by_key(|api| api.0));
    }

    #[test]
    fn reads_what_it_writes() {
        for (api_key, api_version) in [(0, 3), (0, 9), (18, 0), (18, 4), (17, 1)] {
            let client_id = Some(Str::from("client"));
            let header = RequestHeader {
                api_key,
                api_version,
                correlation_id: 7,
                client_id,
            };
            let mut writer = Writer::new();
            write_request_header(&mut writer, &header).unwrap();
            let mut reader = Reader::new(writer.into_bytes());
            assert_eq!(read_request_header(&mut reader), Ok(header));
            assert_eq!(reader.expect_end(), Ok(()));

            let mut writer = Writer::new();
            write_response_header(&mut writer, api_key, api_version, -5);
            let mut reader = Reader::new(writer.into_bytes());
            assert_eq!(
                read_response_header(&mut reader, api_key, api_version),
                Ok(-5)
            );
            assert_eq!(reader.expect_end(), Ok(()));
        }
    }

    #[test]
    fn unknown_api_is_an_error() {
        let mut reader = Reader::new(Bytes::from_static(&[0x7f, 0, 0, 0, 0, 0, 0, 0]));
        assert_eq!(
            read_request_header(&mut reader),
            Err(DecodeError::UnknownApi { key: 0x7f00 })
        );
    }
}
