//! Owns the way from a request about groups to the core of their coordinator, and the topic behind it.

use std::rc::Rc;

use futures::future::join_all;
use tracing::warn;

use crate::controller::GROUP_VERSION;
use crate::coordinator::{Answer, Client, OFFSETS_TOPIC, Request, partition_of};
use crate::handler::Context;
use crate::protocol::{ErrorCode, Str};
use crate::shard::Shard;

/// The level of `group.version` that has the consumer protocol.
const CONSUMER_PROTOCOL_SINCE: i16 = 1;

/// Who sends a request, as groups remember their members.
pub fn client(context: &Context, client_id: &str) -> Client {
    Client {
        id: Str::copied(client_id),
        host: Str::from(format!("/{}", context.peer.ip())),
    }
}

/// What any client may do to a group while nobody is refused anything: a bit an operation.
pub(super) const GROUP_OPERATIONS: i32 = 0b1101_0100_1000;

/// Whether groups may be of the consumer protocol (KIP-848): the cluster's level and this broker's setting say so.
pub fn have_consumer_protocol(context: &Context) -> bool {
    let shard = &context.shard;
    shard.image().feature(GROUP_VERSION) >= CONSUMER_PROTOCOL_SINCE
        && shard.broker.config.groups.consumer.is_served
}

/// Has the coordinator of `group` decide a request.
///
/// Errors: what clients are told when there is none that could.
pub async fn ask(context: &Context, group: &str, request: Request) -> Result<Answer, ErrorCode> {
    let shard = &context.shard;
    let image = shard.image();
    let topic = image
        .topic(OFFSETS_TOPIC)
        .ok_or(ErrorCode::NotCoordinator)?;
    let index = partition_of(group, topic.partitions.len());
    let target = shard.broker.shard_of(topic.id, index);
    context.home.on_asked(target);
    let call = shard.mesh.call(shard, target, move |shard| async move {
        shard.coordinators.ask(index, request).await
    });
    call.await
}

/// Has every coordinator of this broker decide a request.
///
/// Errors: one of them is still loading.
pub async fn ask_all(
    context: &Context,
    request: impl Fn() -> Request + Clone + Send + 'static,
) -> Result<Vec<Answer>, ErrorCode> {
    let answers = context.shard.everywhere(move |shard: Rc<Shard>| {
        let request = request.clone();
        async move {
            let coordinators = &shard.coordinators;
            let asked = coordinators.partitions().into_iter();
            join_all(asked.map(|index| coordinators.ask(index, request()))).await
        }
    });
    let mut all = Vec::new();
    for answer in answers.await.into_iter().flatten() {
        match answer {
            Ok(answer) => all.push(answer),
            // Another broker's, or nobody's.
            Err(ErrorCode::NotCoordinator) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Creates the topic that coordinators live on, on first need.
///
/// Errors: what a client that looks for a coordinator is told.
pub async fn have_offsets_topic(context: &Context) -> Result<(), ErrorCode> {
    if context.shard.image().topic(OFFSETS_TOPIC).is_some() {
        return Ok(());
    }
    let created = context.shard.on_controller(|_, driver| async move {
        driver
            .submit(|machine, entropy| machine.create_offsets_topic(entropy))
            .await
    });
    created.await.map_err(|refusal| {
        warn!(
            reason = refusal.message.as_deref(),
            "{OFFSETS_TOPIC} could not be created"
        );
        ErrorCode::CoordinatorNotAvailable
    })
}

/// A coordinator answers what it is asked.
macro_rules! answered {
    ($answer:expr, $kind:ident) => {
        match $answer {
            Ok($crate::coordinator::Answer::$kind(answer)) => Ok(answer),
            Ok(other) => unreachable!("a coordinator answered {other:?}"),
            Err(error) => Err(error),
        }
    };
}
pub(super) use answered;
