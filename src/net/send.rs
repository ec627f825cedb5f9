//! Owns the way of framed responses to the socket: memory leaves in vectored sends, file ranges straight from
//! the page cache where they are resident, else by a direct read that does not stall the core.

use std::io::{self, IoSlice};

use crate::io::FileRange;
use crate::io::file::resident;
use crate::io::socket::Socket;
use crate::io::turn;
use crate::limits::{COLD_READ_BYTES_LEAST, SEND_SLICES_MAX, YIELD_BYTES};
use crate::net::responses::Frame;
use crate::protocol::Part;
use crate::stages::{self, Stage};

/// Sends all frames, whole and in order. A cold read takes `read_bytes` at most; `on_sent` is called whenever the socket has taken
/// some bytes.
pub async fn frames(
    socket: &Socket,
    frames: &[Frame],
    read_bytes: usize,
    on_sent: impl Fn(),
) -> io::Result<()> {
    let mut memory = Vec::with_capacity(frames.len().min(SEND_SLICES_MAX));
    for part in frames.iter().flat_map(|frame| &frame.parts) {
        match part {
            Part::Memory(bytes) => {
                memory.push(IoSlice::new(bytes));
                if memory.len() == SEND_SLICES_MAX {
                    slices(socket, &mut memory, &on_sent).await?;
                }
            }
            Part::File(range) => {
                slices(socket, &mut memory, &on_sent).await?;
                file(socket, range, read_bytes, &on_sent).await?;
            }
        }
    }
    slices(socket, &mut memory, &on_sent).await
}

/// Sends what there is and leaves nothing.
async fn slices(
    socket: &Socket,
    slices: &mut Vec<IoSlice<'_>>,
    on_sent: &impl Fn(),
) -> io::Result<()> {
    let mut rest = &mut slices[..];
    // Empty pieces are passed over, so that a send always moves a byte.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let sent = socket.send(rest).await?;
        IoSlice::advance_slices(&mut rest, sent);
        on_sent();
        turn::yield_if_needed().await;
    }
    slices.clear();
    Ok(())
}

/// What is not resident is read past the page cache, which stays others'. What the socket does not take at
/// once of it is let go again: a peer that reads slowly holds no memory while it is waited for.
async fn file(
    socket: &Socket,
    range: &FileRange,
    read_bytes: usize,
    on_sent: &impl Fn(),
) -> io::Result<()> {
    let mut position = range.position;
    let mut piece = read_bytes;
    while position < range.end() {
        let length = range.up_to(position, YIELD_BYTES);
        let sent = if resident(&range.file, position, length as u32) {
            match socket.send_file(&range.file, position, length).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                sent => sent,
            }
        } else {
            socket.writable().await;
            let began = stages::begin();
            let bytes = range.read(position, piece).await?;
            stages::end(Stage::ColdRead, began);
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let sent = socket.try_send(&[IoSlice::new(&bytes)])?.unwrap_or(0);
            piece = (sent * 2).clamp(COLD_READ_BYTES_LEAST, read_bytes);
            sent
        };
        if sent > 0 {
            on_sent();
        }
        position += sent as u64;
        turn::yield_if_needed().await;
    }
    Ok(())
}
