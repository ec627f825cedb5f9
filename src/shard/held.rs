//! Owns the answers of one coordinator that wait until what was appended before them is committed: in order, and each
//! with the time from which on nobody waits for it any more (`offsets.commit.timeout.ms`). It appends nothing.

use std::collections::VecDeque;

use futures::channel::oneshot;

use crate::coordinator::Answer;
use crate::protocol::ErrorCode;

/// Who waits for an answer.
pub type Caller = oneshot::Sender<Result<Answer, ErrorCode>>;

#[derive(Default)]
pub struct HeldAnswers {
    steps: VecDeque<Step>,
    /// So many of the first were given up; their places stay until their records are committed after all.
    given_up: usize,
}

/// The answers that one commit lets out.
struct Step {
    due_ms: i64,
    answers: Vec<(Caller, Answer)>,
}

impl HeldAnswers {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The answers wait for a commit behind all that wait already.
    pub fn push(&mut self, due_ms: i64, answers: Vec<(Caller, Answer)>) {
        self.steps.push_back(Step { due_ms, answers });
    }

    /// The first commit is done: what it lets out, but for what was given up.
    pub fn pop(&mut self) -> Vec<(Caller, Answer)> {
        self.given_up = self.given_up.saturating_sub(1);
        let first = self.steps.pop_front();
        first.expect("a commit has its step").answers
    }

    /// When the next is to be given up.
    pub fn next_due(&self) -> Option<i64> {
        self.steps.get(self.given_up).map(|step| step.due_ms)
    }

    /// Whoever has waited until now for a commit.
    pub fn give_up(&mut self, now_ms: i64) -> Vec<Caller> {
        let mut callers = Vec::new();
        while let Some(step) = self.steps.get_mut(self.given_up)
            && step.due_ms <= now_ms
        {
            callers.extend(step.answers.drain(..).map(|(caller, _)| caller));
            self.given_up += 1;
        }
        callers
    }

    /// Nothing will be committed any more; whoever waits learns it by the drop.
    pub fn clear(&mut self) {
        *self = HeldAnswers::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> (
        (Caller, Answer),
        oneshot::Receiver<Result<Answer, ErrorCode>>,
    ) {
        let (caller, receiver) = oneshot::channel();
        ((caller, Answer::Heartbeat(ErrorCode::None)), receiver)
    }

    #[test]
    fn answers_that_wait_too_long_are_given_up_and_their_commits_still_count() {
        let mut held = HeldAnswers::default();
        let ((first, _one), (second, _two), (third, _three)) = (answer(), answer(), answer());
        held.push(5_000, vec![first]);
        held.push(5_010, vec![second]);
        assert_eq!(held.next_due(), Some(5_000));
        assert!(held.give_up(4_999).is_empty());
        assert_eq!(held.give_up(5_000).len(), 1);
        assert!(held.give_up(5_000).is_empty());
        assert_eq!(held.next_due(), Some(5_010));
        held.push(5_020, vec![third]);
        assert!(held.pop().is_empty(), "given up before it was committed");
        assert_eq!(held.next_due(), Some(5_010));
        assert_eq!(held.pop().len(), 1);
        assert_eq!(held.give_up(6_000).len(), 1);
        assert_eq!(held.next_due(), None);
        assert!(held.pop().is_empty() && held.is_empty());
    }
}
