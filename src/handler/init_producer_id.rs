//! InitProducerId (key 22), for idempotent producers (KIP-98). Transactional ids are refused until transactions work.

use std::rc::Rc;

use crate::handler::Context;
use crate::protocol::ErrorCode;
use crate::protocol::messages::InitProducerIdRequest;
use crate::protocol::messages::init_producer_id_response::InitProducerIdResponse;

pub async fn handle(
    context: Rc<Context>,
    request: InitProducerIdRequest,
    _version: i16,
) -> InitProducerIdResponse {
    let allocated = if !is_valid(&request) {
        Err(ErrorCode::InvalidRequest)
    } else if request.transactional_id.is_some() {
        // Clients that want transactions look for a coordinator first, which nobody here is.
        Err(ErrorCode::CoordinatorNotAvailable)
    } else {
        let next = context.shard.producer_ids.next(&context.shard).await;
        next.map_err(|refusal| refusal.code)
    };
    match allocated {
        Ok(id) => InitProducerIdResponse {
            producer_id: id.0,
            producer_epoch: 0,
            ..Default::default()
        },
        Err(error) => InitProducerIdResponse {
            error_code: error.code(),
            producer_epoch: -1,
            ..Default::default()
        },
    }
}

/// A producer that has an id has an epoch too (KIP-360); a transactional id has at least a letter.
fn is_valid(request: &InitProducerIdRequest) -> bool {
    let has_id = request.producer_id != NONE;
    let has_epoch = request.producer_epoch != NONE as i16;
    has_id == has_epoch && request.transactional_id.as_deref() != Some("")
}

const NONE: i64 = -1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_and_epoch_come_together() {
        let valid = |producer_id, producer_epoch, transactional_id: Option<&'static str>| {
            is_valid(&InitProducerIdRequest {
                transactional_id: transactional_id.map(Into::into),
                producer_id,
                producer_epoch,
                ..Default::default()
            })
        };
        assert!(valid(-1, -1, None) && valid(5, 0, None) && valid(-1, -1, Some("t")));
        assert!(!valid(-1, 0, None) && !valid(5, -1, None) && !valid(-1, -1, Some("")));
    }
}
