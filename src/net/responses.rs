//! Owns the order of one connection's responses: each request takes a slot when it is read, responses are
//! put in as they become ready, and leave in the order of the slots. It never touches the socket.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use futures::task::AtomicWaker;
use smallvec::smallvec;

use crate::limits::{RESPONSE_PIECE_BYTES_LEAST, SEND_BYTES};
use crate::protocol::{Part, Parts, Records};
use crate::stages::timing::Timing;

/// A response, framed: its parts begin with the length that Kafka's frames begin with.
#[derive(Debug)]
pub struct Frame {
    pub parts: Parts,
    pub length: usize,
    /// Of its request.
    pub timing: Timing,
}

impl Frame {
    /// What the frame counts in the response memory: a piece of another buffer keeps all of that alive.
    pub fn memory(&self) -> usize {
        let pieces = self.parts.iter().enumerate();
        let cost = |(place, part): (usize, &Part)| match part {
            Part::File(_) => 0,
            Part::Memory(bytes) if place == 0 => bytes.len(),
            Part::Memory(bytes) => bytes.len().max(RESPONSE_PIECE_BYTES_LEAST),
        };
        pieces.map(cost).sum()
    }

    /// Copies its pieces into a buffer of its own, if it is small and all of it lies in memory.
    pub fn detach(&mut self) {
        let small = self.length <= RESPONSE_PIECE_BYTES_LEAST && self.parts.len() > 1;
        let in_file = |part: &Part| matches!(part, Part::File(_));
        if small && !self.parts.iter().any(in_file) {
            let records = Records::from(std::mem::take(&mut self.parts));
            self.parts = smallvec![Part::Memory(records.to_bytes())];
        }
    }
}

enum Slot {
    InProgress,
    Ready(Frame),
    /// Nothing will be sent, as for a produce with acks=0.
    Silent,
}

/// Where a request's response belongs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SlotId(u64);

#[derive(Default)]
pub struct Responses {
    slots: RefCell<VecDeque<Slot>>,
    /// Id of the first slot of `slots`.
    first: Cell<u64>,
    ready_bytes: Cell<usize>,
    closed: Cell<bool>,
    sender: AtomicWaker,
}

impl Responses {
    /// The next slot in order. Every slot taken must be filled, else all later responses wait for ever.
    pub fn take_slot(&self) -> SlotId {
        let mut slots = self.slots.borrow_mut();
        slots.push_back(Slot::InProgress);
        SlotId(self.first.get() + slots.len() as u64 - 1)
    }

    /// Puts the response in its place; `None` sends nothing.
    pub fn fill(&self, id: SlotId, frame: Option<Frame>) {
        let index = (id.0 - self.first.get()) as usize;
        let mut slots = self.slots.borrow_mut();
        assert!(
            matches!(slots[index], Slot::InProgress),
            "a slot is filled once"
        );
        slots[index] = match frame {
            Some(frame) => {
                self.ready_bytes.set(self.ready_bytes.get() + frame.length);
                Slot::Ready(frame)
            }
            None => Slot::Silent,
        };
        if index == 0 {
            self.sender.wake();
        }
    }

    /// Requests whose response has not been taken to be sent.
    pub fn outstanding(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Bytes that are ready or being sent.
    pub fn bytes(&self) -> usize {
        self.ready_bytes.get()
    }

    /// Call when a frame handed out by [`Responses::next`] has left.
    pub fn sent(&self, bytes: usize) {
        self.ready_bytes.set(self.ready_bytes.get() - bytes);
    }

    /// No slot will be taken any more: [`Responses::next`] ends after the last.
    pub fn close(&self) {
        self.closed.set(true);
        self.sender.wake();
    }

    /// Moves frames whose turn it is into `frames`, about as many bytes as one send should have, waiting for the
    /// first; `false` when there will be none.
    pub async fn next(&self, frames: &mut Vec<Frame>) -> bool {
        poll_fn(|context| {
            self.sender.register(context.waker());
            self.take_ready(frames);
            if !frames.is_empty() {
                return Poll::Ready(true);
            }
            if self.closed.get() && self.slots.borrow().is_empty() {
                return Poll::Ready(false);
            }
            Poll::Pending
        })
        .await
    }

    fn take_ready(&self, frames: &mut Vec<Frame>) {
        let mut slots = self.slots.borrow_mut();
        let mut bytes = 0;
        while bytes < SEND_BYTES && !matches!(slots.front(), None | Some(Slot::InProgress)) {
            if let Some(Slot::Ready(frame)) = slots.pop_front() {
                bytes += frame.length;
                frames.push(frame);
            }
            self.first.set(self.first.get() + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn frame(length: usize) -> Frame {
        Frame {
            parts: Parts::new(),
            length,
            timing: Timing::default(),
        }
    }

    fn lengths(responses: &Responses) -> Option<Vec<usize>> {
        let mut frames = Vec::new();
        responses.next(&mut frames).now_or_never()?;
        Some(frames.iter().map(|frame| frame.length).collect())
    }

    #[test]
    fn responses_leave_in_the_order_of_their_requests() {
        let responses = Responses::default();
        let slots = [(); 3].map(|()| responses.take_slot());
        responses.fill(slots[2], Some(frame(3)));
        responses.fill(slots[1], None);
        assert_eq!(lengths(&responses), None);
        responses.fill(slots[0], Some(frame(1)));
        assert_eq!(lengths(&responses), Some(vec![1, 3]));
        assert_eq!(responses.outstanding(), 0);
        assert_eq!(responses.bytes(), 4);
    }

    #[test]
    fn one_send_gets_about_as_much_as_it_should_have() {
        let responses = Responses::default();
        for _ in 0..3 {
            let slot = responses.take_slot();
            responses.fill(slot, Some(frame(SEND_BYTES / 2)));
        }
        assert_eq!(lengths(&responses), Some(vec![SEND_BYTES / 2; 2]));
        assert_eq!(lengths(&responses), Some(vec![SEND_BYTES / 2]));
    }

    #[test]
    fn a_small_frame_is_detached_from_the_buffers_of_its_pieces() {
        let piece = |bytes: &'static [u8]| Part::Memory(bytes.into());
        let mut frame = Frame {
            parts: smallvec![piece(b"head"), piece(b"records")],
            length: 11,
            timing: Timing::default(),
        };
        assert_eq!(frame.memory(), 4 + RESPONSE_PIECE_BYTES_LEAST);
        frame.detach();
        assert_eq!(frame.parts[..], [piece(b"headrecords")]);
        assert_eq!(frame.memory(), 11);
    }

    #[test]
    fn a_closed_queue_ends_after_what_is_in_progress() {
        let responses = Responses::default();
        let slot = responses.take_slot();
        responses.close();
        assert_eq!(lengths(&responses), None);
        responses.fill(slot, Some(frame(1)));
        assert_eq!(lengths(&responses), Some(vec![1]));
        assert_eq!(responses.next(&mut Vec::new()).now_or_never(), Some(false));
    }
}
