//! Owns HTTP/1.1 as the admin endpoint speaks it: the head of a request read and judged, a response framed.
//! GET and HEAD, no bodies. It is pure: it has no socket, and knows no page.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

/// The head of a request may have so many bytes.
pub const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Ok,
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    ContentTooLarge,
    HeadersTooLarge,
    Unavailable,
    VersionNotSupported,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "200 OK",
            Status::BadRequest => "400 Bad Request",
            Status::Forbidden => "403 Forbidden",
            Status::NotFound => "404 Not Found",
            Status::MethodNotAllowed => "405 Method Not Allowed",
            Status::ContentTooLarge => "413 Content Too Large",
            Status::HeadersTooLarge => "431 Request Header Fields Too Large",
            Status::Unavailable => "503 Service Unavailable",
            Status::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    pub path: String,
    /// Behind the question mark.
    pub query: String,
    /// Only the head of the answer is wanted.
    pub head_only: bool,
    /// The connection goes on afterwards.
    pub keep_alive: bool,
}

/// What stands behind the question mark, `name=value` by `name=value`, decoded.
#[derive(Debug)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub fn new(query: &str) -> Parameters {
        let pairs = query.split('&').map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        Parameters(pairs.collect())
    }

    /// The first of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What is no `%XX` stays as it is; what is no UTF-8 is told by its replacement.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let code = match (first, behind) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match code {
            Some((high, low)) => {
                bytes.push(high * 16 + low);
                rest = &behind[2..];
            }
            None => {
                bytes.push(if *first == b'+' { b' ' } else { *first });
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|digit| digit as u8)
}

/// A request that is answered with an error, and the connection's last one: where the next would begin is not known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub status: Status,
    pub reason: &'static str,
}

fn refuse<T>(status: Status, reason: &'static str) -> Result<T, Refusal> {
    Err(Refusal { status, reason })
}

/// Reads the head of the first request in `received`, and how many bytes it has; `None` while it is incomplete.
/// On `bound`, an address of this machine alone, only requests that were meant for this machine are answered: a
/// page of the web whose name is made to lead here must not read what is here (DNS rebinding).
pub fn parse(received: &[u8], bound: SocketAddr) -> Result<Option<(Request, usize)>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let length = match parsed.parse(received) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if received.len() < HEAD_BYTES_MAX => return Ok(None),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return refuse(Status::HeadersTooLarge, "the request's head is too large");
        }
        Err(httparse::Error::Version) => {
            return refuse(Status::VersionNotSupported, "HTTP/1.1 is spoken here");
        }
        Err(_) => return refuse(Status::BadRequest, "this is no HTTP request"),
    };
    if length > HEAD_BYTES_MAX {
        return refuse(Status::HeadersTooLarge, "the request's head is too large");
    }
    let request = judge(&parsed, bound)?;
    Ok(Some((request, length)))
}

fn judge(parsed: &httparse::Request<'_, '_>, bound: SocketAddr) -> Result<Request, Refusal> {
    let is_old = parsed.version == Some(0);
    let target = parsed.path.unwrap_or_default();
    let (authority, target) = split_target(target)?;
    let mut host = None;
    let mut keep_alive = !is_old;
    let mut has_body = false;
    for header in parsed.headers.iter() {
        let Ok(value) = str::from_utf8(header.value) else {
            continue;
        };
        let value = value.trim();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("host") {
            if host.replace(value).is_some() {
                return refuse(Status::BadRequest, "a request has one Host");
            }
        } else if is("connection") {
            let has = |wanted: &str| {
                let mut words = value.split(',');
                words.any(|word| word.trim().eq_ignore_ascii_case(wanted))
            };
            keep_alive = (keep_alive || has("keep-alive")) && !has("close");
        } else if is("transfer-encoding") || (is("content-length") && value != "0") {
            has_body = true;
        }
    }
    if host.is_none() && !is_old {
        return refuse(Status::BadRequest, "a request names its Host");
    }
    let named = authority.into_iter().chain(host);
    if bound.ip().is_loopback() && !named.into_iter().all(is_this_machine) {
        return refuse(
            Status::Forbidden,
            "this is served to this machine only, as localhost or by its address",
        );
    }
    let head_only = match parsed.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => {
            return refuse(
                Status::MethodNotAllowed,
                "only GET and HEAD are served here",
            );
        }
    };
    if has_body {
        return refuse(Status::ContentTooLarge, "requests have no body here");
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Ok(Request {
        path: path.to_owned(),
        query: query.to_owned(),
        head_only,
        keep_alive,
    })
}

/// A target may be a whole URI, as proxies are sent it: its host, and its path.
fn split_target(target: &str) -> Result<(Option<&str>, &str), Refusal> {
    if target.starts_with('/') {
        return Ok((None, target));
    }
    match target.strip_prefix("http://") {
        Some(rest) => {
            let path = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, target) = rest.split_at(path);
            Ok((
                Some(authority),
                if target.is_empty() { "/" } else { target },
            ))
        }
        None => refuse(Status::BadRequest, "a target begins with a slash"),
    }
}

/// Whatever the port: it may be forwarded.
fn is_this_machine(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or_default(),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let is_port = |port: &str| port.bytes().all(|digit| digit.is_ascii_digit());
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return false;
    }
    let address = name.parse::<IpAddr>();
    address.is_ok_and(|address| address.is_loopback()) || name.eq_ignore_ascii_case("localhost")
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    pub status: Status,
    pub content_type: &'static str,
    /// In pieces.
    pub body: Vec<Bytes>,
    /// Marks the styles and scripts that a browser may heed; none without it.
    pub nonce: Option<String>,
}

impl Response {
    pub fn ok(content_type: &'static str, body: impl Into<Bytes>) -> Response {
        Response::of_pieces(content_type, vec![body.into()])
    }

    pub fn of_pieces(content_type: &'static str, body: Vec<Bytes>) -> Response {
        Response {
            status: Status::Ok,
            content_type,
            body,
            nonce: None,
        }
    }

    /// A line of text.
    pub fn text(status: Status, line: &str) -> Response {
        Response {
            status,
            ..Response::ok("text/plain; charset=utf-8", format!("{line}\n"))
        }
    }

    /// All that goes before the body.
    pub fn head(&self, keep_alive: bool) -> String {
        let allow = match self.status {
            Status::MethodNotAllowed => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        let allowed = self.nonce.as_ref().map_or(String::new(), |nonce| {
            format!("; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:")
        });
        format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\n\
             Content-Security-Policy: default-src 'none'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'{allowed}\r\n{allow}Connection: {}\r\n\r\n",
            self.status.line(),
            self.content_type,
            self.body.iter().map(Bytes::len).sum::<usize>(),
            if keep_alive { "keep-alive" } else { "close" },
        )
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Response {
        Response::text(refusal.status, refusal.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9192);
    const OPEN: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 9192);

    fn status(text: &str) -> Status {
        match parse(text.as_bytes(), LOOPBACK) {
            Ok(_) => Status::Ok,
            Err(refusal) => refusal.status,
        }
    }

    #[test]
    fn requests_are_cut_one_by_one_wherever_they_end() {
        let one = "GET /metrics?name=1 HTTP/1.1\r\nHost: localhost:9192\r\n\r\n";
        let other = "HEAD /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        for end in 0..one.len() {
            assert_eq!(parse(&one.as_bytes()[..end], LOOPBACK), Ok(None), "{end}");
        }
        let both = [one, other].concat();
        let (first, length) = parse(both.as_bytes(), LOOPBACK).unwrap().unwrap();
        assert_eq!(
            (first.path.as_str(), first.query.as_str()),
            ("/metrics", "name=1")
        );
        assert!(first.keep_alive && !first.head_only && length == one.len());
        let (second, _) = parse(&both.as_bytes()[length..], LOOPBACK)
            .unwrap()
            .unwrap();
        assert!(second.head_only && !second.keep_alive);
    }

    #[test]
    fn only_who_means_this_machine_is_answered() {
        let ask = |host: &str, bound| {
            let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let refused = parse(text.as_bytes(), bound).err();
            refused.map(|refusal| refusal.status)
        };
        for ours in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:9192",
            "127.8.8.8",
            "[::1]:80",
        ] {
            assert_eq!(ask(ours, LOOPBACK), None, "{ours}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "",
            "127.0.0.1.nip.io",
            "localhost:1@evil.example",
            "[::1]evil",
        ] {
            assert_eq!(ask(foreign, LOOPBACK), Some(Status::Forbidden), "{foreign}");
            assert_eq!(ask(foreign, OPEN), None, "{foreign}");
        }
        assert_eq!(
            status("GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            Status::Forbidden
        );
        assert_eq!(
            status("GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            Status::Ok
        );
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), Status::BadRequest);
        assert_eq!(status("GET / HTTP/1.0\r\n\r\n"), Status::Ok);
        assert_eq!(
            status("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"),
            Status::BadRequest
        );
    }

    #[test]
    fn what_is_not_served_is_refused_by_its_name() {
        let with =
            |line: &str, headers: &str| format!("{line}\r\nHost: localhost\r\n{headers}\r\n");
        assert_eq!(
            status(&with("POST / HTTP/1.1", "Content-Length: 5\r\n")),
            Status::MethodNotAllowed
        );
        assert_eq!(
            status(&with("GET / HTTP/3.0", "")),
            Status::VersionNotSupported
        );
        assert_eq!(
            status(&with("GET metrics HTTP/1.1", "")),
            Status::BadRequest
        );
        assert_eq!(status("\x16\x03\x01\x02\0\x01"), Status::BadRequest);
        for body in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
            assert_eq!(
                status(&with("GET / HTTP/1.1", body)),
                Status::ContentTooLarge
            );
        }
        let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(
            status(&with("GET / HTTP/1.1", &many)),
            Status::HeadersTooLarge
        );
        let long = "a".repeat(HEAD_BYTES_MAX);
        assert_eq!(status(&format!("GET /{long}")), Status::HeadersTooLarge);
        assert_eq!(
            status(&with(&format!("GET /{long} HTTP/1.1"), "")),
            Status::HeadersTooLarge
        );
    }

    #[test]
    fn parameters_are_decoded() {
        let parameters = Parameters::new("find=%3Cb%3E+%26%c3%a9%zz%4&lines=5&find=2&empty");
        assert_eq!(parameters.get("find"), Some("<b> &\u{e9}%zz%4"));
        assert_eq!(parameters.get("lines"), Some("5"));
        assert_eq!(parameters.get("empty"), Some(""));
        assert_eq!(parameters.get("sort"), None);
        assert_eq!(Parameters::new("a=%ff").get("a"), Some("\u{fffd}"));
    }

    #[test]
    fn a_browser_heeds_no_script_but_the_marked() {
        let policy = |nonce: Option<&str>| {
            let response = Response {
                nonce: nonce.map(str::to_owned),
                ..Response::text(Status::Ok, "")
            };
            let head = response.head(true);
            let line = head.split("Content-Security-Policy: ").nth(1).unwrap();
            line.lines().next().unwrap().to_owned()
        };
        assert!(policy(None).starts_with("default-src 'none'; "));
        assert!(!policy(None).contains("-src 'nonce") && !policy(None).contains("unsafe"));
        let marked = policy(Some("abc"));
        assert!(marked.contains("; script-src 'nonce-abc';") && !marked.contains("unsafe"));
    }

    #[test]
    fn a_response_says_how_long_it_is_and_what_follows() {
        let response = Response::text(Status::MethodNotAllowed, "no");
        let head = response.head(false);
        assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        for line in ["Content-Length: 3", "Allow: GET, HEAD", "Connection: close"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
        }
        assert!(head.ends_with("\r\n\r\n"));
    }
}
