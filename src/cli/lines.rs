//! Owns reading lines from stdin without holding up the executor: sends go on while a person types.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use bytes::{Buf, Bytes, BytesMut};
use glommio::io::PollableFd;

const READ_BYTES: usize = 64 << 10;

/// A line becomes a record; no broker takes one larger than this.
const LINE_BYTES_MAX: usize = 256 << 20;

pub struct Lines {
    input: PollableFd<File>,
    buffer: BytesMut,
    /// Up to here the buffer holds no end of line.
    searched: usize,
    is_over: bool,
}

impl Lines {
    pub fn of_stdin() -> io::Result<Lines> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        Lines::of(File::from(stdin))
    }

    fn of(file: File) -> io::Result<Lines> {
        Ok(Lines {
            input: PollableFd::new(file).map_err(io::Error::from)?,
            buffer: BytesMut::new(),
            searched: 0,
            is_over: false,
        })
    }

    /// The next line without its end; `None` at the end of the input.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let unsearched = &self.buffer[self.searched..];
            if let Some(found) = unsearched.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + found).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.is_over {
                // The last line may lack its end.
                self.searched = 0;
                let rest = self.buffer.split().freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                let text = format!("a line of more than {LINE_BYTES_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        // Once readable, a read gives what is there and does not wait for more.
        self.input.readable().await.map_err(io::Error::from)?;
        let start = self.buffer.len();
        self.buffer.resize(start + READ_BYTES, 0);
        let read = self.input.get_ref().read(&mut self.buffer[start..]);
        let count = match read {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            read => {
                let count = read?;
                self.is_over = count == 0;
                count
            }
        };
        self.buffer.truncate(start + count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    #[test]
    fn lines_come_whole_and_the_last_may_lack_its_end() {
        let long = "x".repeat(READ_BYTES + 10);
        for (text, expected) in [
            (String::new(), vec![]),
            ("a\n\nbc".to_owned(), vec!["a", "", "bc"]),
            (format!("{long}\r\nb\n"), vec![&format!("{long}\r"), "b"]),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.rewind().unwrap();
            let executor = glommio::LocalExecutorBuilder::default().make().unwrap();
            let lines = executor.run(async {
                let mut lines = Lines::of(file).unwrap();
                let mut all = Vec::new();
                while let Some(line) = lines.next().await.unwrap() {
                    all.push(String::from_utf8(line.to_vec()).unwrap());
                }
                all
            });
            assert_eq!(lines, expected);
        }
    }
}
