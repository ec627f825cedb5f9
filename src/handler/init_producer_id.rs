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
    let allocated = if request.transactional_id.is_some() {
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
