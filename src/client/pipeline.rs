//! Owns requests of one API whose answers nobody waits for one by one: they are taken together, as they come, in the order
//! of the requests.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

use bytes::Bytes;

use super::ClientError;
use super::connection::{Connection, Taker};
use super::notify::Notify;
use crate::protocol::Request;

/// A way to send many requests over one connection, beside others that use it.
#[derive(Debug)]
pub struct Pipeline<R> {
    connection: Connection,
    version: i16,
    answers: Rc<Answers>,
    request: PhantomData<fn(R)>,
}

/// What has come and is not taken yet.
#[derive(Debug, Default)]
pub(super) struct Answers {
    frames: RefCell<Vec<Result<Bytes, ClientError>>>,
    come: Notify,
}

impl Answers {
    pub(super) fn put(&self, frame: Result<Bytes, ClientError>) {
        self.frames.borrow_mut().push(frame);
        self.come.notify();
    }
}

impl<R: Request> Pipeline<R> {
    pub fn new(connection: Connection, version: i16) -> Pipeline<R> {
        Pipeline {
            connection,
            version,
            answers: Rc::default(),
            request: PhantomData,
        }
    }

    /// Puts a request in line at once, as [`Connection::submit`] does.
    pub fn submit(&self, request: &R) -> Result<(), ClientError> {
        let taker = Taker::Pipeline(Rc::clone(&self.answers));
        self.connection.submit_for(request, self.version, taker)
    }

    /// Resolves when answers have come: how many, after `each` has had them. The first error ends it.
    pub async fn take(
        &self,
        mut each: impl FnMut(R::Response) -> Result<(), ClientError>,
    ) -> Result<usize, ClientError> {
        let answers = &self.answers;
        let is_there = || !answers.frames.borrow().is_empty();
        answers.come.wait_until(is_there).await;
        let frames = answers.frames.take();
        let count = frames.len();
        for frame in frames {
            each(self.connection.decode::<R>(&frame?, self.version)?)?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ConnectionOptions;
    use super::super::fake_broker::{FakeBroker, Reply, on_executor};
    use super::*;
    use crate::protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};

    const VERSION: i16 = 4;

    fn number(transaction_timeout_ms: i32) -> InitProducerIdRequest {
        InitProducerIdRequest {
            transaction_timeout_ms,
            ..InitProducerIdRequest::default()
        }
    }

    async fn connect(broker: &FakeBroker) -> Connection {
        let options = ConnectionOptions::default();
        Connection::connect(&broker.address, &options)
            .await
            .unwrap()
    }

    #[test]
    fn answers_are_taken_in_order_beside_those_that_somebody_waits_for() {
        on_executor(async {
            let broker = FakeBroker::echo();
            let connection = connect(&broker).await;
            let pipeline = Pipeline::new(connection.clone(), VERSION);
            for turn in 0..100 {
                pipeline.submit(&number(turn)).unwrap();
            }
            let single = connection.call_at(&number(7), VERSION).await.unwrap();
            assert_eq!(single.producer_id, 7);
            let mut taken = Vec::new();
            let count = pipeline.take(|response: InitProducerIdResponse| {
                taken.push(response.producer_id);
                Ok(())
            });
            assert_eq!(count.await, Ok(100));
            assert_eq!(taken, Vec::from_iter(0..100));
        });
    }

    #[test]
    fn whoever_takes_answers_hears_of_the_end() {
        on_executor(async {
            let broker = FakeBroker::start(|_, _| Reply::Close);
            let pipeline = Pipeline::new(connect(&broker).await, VERSION);
            pipeline.submit(&number(1)).unwrap();
            let ended = pipeline.take(|_| Ok(())).await.unwrap_err();
            assert!(matches!(ended, ClientError::Disconnected { .. }), "{ended}");
            assert!(pipeline.submit(&number(2)).is_err());
        });
    }
}
