//! Owns asking a broker's admin endpoint for a page: one request on a connection of its own, one answer. On an executor it
//! holds nobody up; elsewhere it blocks.

use std::io::{Read, Write};
use std::net::ToSocketAddrs;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use futures::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;

use crate::client::Outcome;
use crate::clock;

/// Where `coati start` serves it unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:9192";

const PAGE_BYTES_MAX: u64 = 64 << 20;

/// The page at this path. Errors: why there is none, in words that go behind its URL.
pub(crate) async fn get(address: &str, path: &str, patience: Duration) -> Outcome<String> {
    let too_late = pin!(glommio::timer::sleep(patience));
    match select(pin!(exchange(address, path)), too_late).await {
        Either::Left((answer, _)) => body(answer.map_err(|error| error.to_string())?),
        Either::Right(_) => Err(too_long(patience)),
    }
}

async fn exchange(address: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let connected = TcpStream::connect(address).await;
    let mut stream = connected.map_err(std::io::Error::from)?;
    stream.write_all(request(address, path).as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(PAGE_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The same for a thread that may block.
pub fn get_blocking(address: &str, path: &str, patience: Duration) -> Outcome<String> {
    let until = clock::now() + patience;
    let left = || match until.saturating_duration_since(clock::now()) {
        Duration::ZERO => Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut failed = std::io::Error::other("the name has no address");
        for place in address.to_socket_addrs()? {
            let mut stream = match std::net::TcpStream::connect_timeout(&place, left()?) {
                Ok(stream) => stream,
                Err(error) => {
                    failed = error;
                    continue;
                }
            };
            stream.set_write_timeout(Some(left()?))?;
            stream.write_all(request(address, path).as_bytes())?;
            let (mut answer, mut piece) = (Vec::new(), [0; 16 << 10]);
            while (answer.len() as u64) < PAGE_BYTES_MAX {
                stream.set_read_timeout(Some(left()?))?;
                match stream.read(&mut piece)? {
                    0 => break,
                    bytes => answer.extend_from_slice(&piece[..bytes]),
                }
            }
            return Ok(answer);
        }
        Err(failed)
    };
    match exchange() {
        Ok(answer) => body(answer),
        Err(error) => Err(match error.kind() {
            std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => too_long(patience),
            _ => error.to_string(),
        }),
    }
}

fn too_long(patience: Duration) -> String {
    format!("no answer for {} s", patience.as_secs())
}

fn request(address: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")
}

/// What an answer with a page has in it; it ended with its connection.
fn body(answer: Vec<u8>) -> Outcome<String> {
    let answer = String::from_utf8(answer).map_err(|error| error.to_string())?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or("that is no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => {}
        _ => return Err(format!("it answers {status}")),
    }
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let is_whole = length.is_none_or(|(_, length)| length.trim().parse() == Ok(body.len()));
    match is_whole {
        true => Ok(body.to_owned()),
        false => Err("its answer broke off".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn asked(answer: &'static str) -> Outcome<String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serves = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            let mut piece = [0; 100];
            while !received.ends_with(b"\r\n\r\n") {
                let bytes = stream.read(&mut piece).unwrap();
                received.extend_from_slice(&piece[..bytes]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(received).unwrap()
        });
        let told = get_blocking(&address, "/page?x=1", Duration::from_secs(5));
        let request = serves.join().unwrap();
        assert!(request.starts_with("GET /page?x=1 HTTP/1.1\r\n"));
        assert!(request.contains(&format!("\r\nHost: {address}\r\n")));
        told
    }

    #[test]
    fn a_page_is_what_is_in_a_whole_good_answer() {
        let good = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(asked(good), Ok("{}".to_owned()));
        assert_eq!(asked("HTTP/1.1 200 OK\r\n\r\n{}"), Ok("{}".to_owned()));
        for (answer, why) in [
            ("HTTP/1.1 404 Not Found\r\n\r\n", "404"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
                "broke off",
            ),
            ("\x16\x03\x01", "no HTTP"),
        ] {
            assert!(asked(answer).unwrap_err().contains(why), "{answer}");
        }
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let told = get_blocking(&address, "/", Duration::from_millis(50));
        assert_eq!(told, Err("no answer for 0 s".to_owned()));
        drop(silent);
        assert!(get_blocking(&address, "/", Duration::from_secs(5)).is_err());
        assert!(get_blocking("nonsense", "/", Duration::from_secs(5)).is_err());
    }
}
