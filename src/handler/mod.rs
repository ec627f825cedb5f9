//! Owns the way from a request to its response: one file an API, one match that finds it.
//! Errors of a request's content become Kafka error codes here; what cannot be decoded closes the connection.

pub mod alter_configs;
pub mod api_versions;
mod append;
pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_quorum;
pub mod describe_topic_partitions;
pub mod errors;
pub mod fetch;
pub mod fetch_session;
pub mod find_coordinator;
pub mod groups;
pub mod heartbeat;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leader_hints;
pub mod leave_group;
pub mod list_config_resources;
pub mod list_groups;
pub mod list_offsets;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sync_group;
pub mod update_features;

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use crate::ids::PartitionIndex;
use crate::io::clock::Ticks;
use crate::limits::LOGGED_NAME_CHARS_MAX;
use crate::net::budget::ResponseAccount;
use crate::net::home::Home;
use crate::net::responses::Frame;
use crate::protocol::header::{self, RequestHeader};
use crate::protocol::messages::*;
use crate::protocol::{
    DecodeError, EncodeError, ErrorCode, Message, Reader, Request, Str, Uuid, Writer, api,
};
use crate::shard::Shard;
use crate::stages::Stage;
use crate::stages::timing::Timing;

/// A request that cannot be answered: its connection is closed.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    #[error("request header: {0}")]
    Header(DecodeError),
    #[error("request for api key {key}, which nobody here serves (client {client_id:?})")]
    UnknownApi { key: i16, client_id: String },
    #[error("request {api} version {version} of client {client_id:?}: {error}")]
    Body {
        api: &'static str,
        version: i16,
        client_id: String,
        error: DecodeError,
    },
    #[error("response {api} version {version}: {error}")]
    Response {
        api: &'static str,
        version: i16,
        error: EncodeError,
    },
    /// acks=0 has no other way to tell.
    #[error("produce with acks=0 failed: {0}")]
    Unacknowledged(&'static str),
}

/// What a handler knows of where its request came from.
pub struct Context {
    pub shard: Rc<Shard>,
    pub peer: SocketAddr,
    /// Name of the listener: clients are told the addresses that belong to it.
    pub listener: Str,
    pub response_memory: Rc<ResponseAccount>,
    /// Told which coordinator a request is for, and where the partitions of records are.
    pub home: Home,
}

impl Context {
    /// The id of a topic that has this partition.
    fn topic_id(&self, topic: &str, index: PartitionIndex) -> Result<Uuid, ErrorCode> {
        let image = self.shard.image();
        match image.topic(topic) {
            Some(topic) if topic.partition(index).is_some() => Ok(topic.id),
            _ => Err(ErrorCode::UnknownTopicOrPartition),
        }
    }
}

/// A response on its way: `None` when the client wants none.
pub type Response = LocalBoxFuture<'static, Result<Option<Frame>, Malformed>>;

/// A request that has begun, and how its connection goes on.
pub enum Begun {
    /// Ordered; the next request may begin.
    Produce(Response),
    /// The next request may begin.
    Fetch(Response),
    /// The next request begins after this response.
    Alone(Response),
    /// Likewise; it waits for other clients, and for nothing once its own has gone.
    Parked(Response),
}

/// A request's header and where its body begins.
pub struct Header {
    fields: RequestHeader,
    body: Reader,
    timing: Timing,
}

impl Header {
    /// Whether the request waits for what its connection produced before.
    pub fn runs_alone(&self) -> bool {
        !matches!(self.fields.api_key, ProduceRequest::KEY | FetchRequest::KEY)
    }

    /// Whether members send it again and again just to be known alive: a millisecond more or less is nothing to them.
    pub fn is_heartbeat(&self) -> bool {
        matches!(
            self.fields.api_key,
            HeartbeatRequest::KEY | ConsumerGroupHeartbeatRequest::KEY
        )
    }

    /// The request begins, which came whole with the receive that ended then.
    pub fn on_begin(&mut self, received: Option<Ticks>) {
        self.timing = Timing::begin(self.fields.api_key, received);
    }

    pub fn api_key(&self) -> i16 {
        self.fields.api_key
    }

    pub fn version(&self) -> i16 {
        self.fields.api_version
    }

    pub fn client_id(&self) -> &str {
        self.fields.client_id.as_deref().unwrap_or("")
    }

    fn api_name(&self) -> &'static str {
        api::name(self.fields.api_key).unwrap_or("of an unknown key")
    }

    fn logged_client_id(&self) -> String {
        self.client_id()
            .chars()
            .take(LOGGED_NAME_CHARS_MAX)
            .collect()
    }

    /// Decodes the body.
    fn body<R: Request>(&mut self) -> Result<R, Malformed> {
        R::decode(&mut self.body, self.fields.api_version).map_err(|error| Malformed::Body {
            api: self.api_name(),
            version: self.fields.api_version,
            client_id: self.logged_client_id(),
            error,
        })
    }

    /// Frames a response to this request.
    fn respond<M: Message>(&mut self, response: &M) -> Result<Frame, Malformed> {
        self.respond_as(response, self.fields.api_version)
    }

    fn respond_as<M: Message>(&mut self, response: &M, version: i16) -> Result<Frame, Malformed> {
        let key = self.fields.api_key;
        let mut writer = Writer::frame();
        header::write_response_header(&mut writer, key, version, self.fields.correlation_id);
        response
            .encode(&mut writer, version)
            .map_err(|error| Malformed::Response {
                api: self.api_name(),
                version,
                error,
            })?;
        Ok(Frame {
            length: writer.len(),
            parts: writer.finish(),
            timing: std::mem::take(&mut self.timing),
        })
    }
}

/// Reads a request's header.
pub fn header(request: &Bytes) -> Result<Header, Malformed> {
    let mut body = Reader::new(request.clone());
    let fields = header::read_request_header(&mut body).map_err(Malformed::Header)?;
    Ok(Header {
        fields,
        body,
        timing: Timing::default(),
    })
}

/// Begins a request. What decides its place in an order has happened when this returns.
pub fn begin(
    context: &Rc<Context>,
    mut header: Header,
    request: Bytes,
) -> Result<Begun, Malformed> {
    drop(request);
    let (key, version) = (header.fields.api_key, header.fields.api_version);
    let Some(range) = api::supported(key) else {
        return Err(Malformed::UnknownApi {
            key,
            client_id: header.logged_client_id(),
        });
    };
    if key == ApiVersionsRequest::KEY && !range.contains(version) {
        let frame = header.respond_as(&api_versions::unsupported(), 0);
        return Ok(Begun::Alone(async { frame.map(Some) }.boxed_local()));
    }
    if !range.contains(version) {
        return Err(Malformed::Body {
            api: range.name,
            version,
            client_id: header.logged_client_id(),
            error: DecodeError::UnsupportedVersion {
                message: range.name,
                version,
            },
        });
    }
    let context = context.clone();
    match key {
        ProduceRequest::KEY => {
            let request = header.body()?;
            Ok(Begun::Produce(produce::begin(&context, header, request)))
        }
        FetchRequest::KEY => {
            let request = header.body()?;
            header.timing.pass(Stage::Decode);
            Ok(Begun::Fetch(
                fetch::serve(context, header, request).boxed_local(),
            ))
        }
        JoinGroupRequest::KEY | SyncGroupRequest::KEY => {
            Ok(Begun::Parked(alone(context, header).boxed_local()))
        }
        _ => Ok(Begun::Alone(alone(context, header).boxed_local())),
    }
}

async fn alone(context: Rc<Context>, header: Header) -> Result<Option<Frame>, Malformed> {
    match header.fields.api_key {
        ApiVersionsRequest::KEY => run(context, header, api_versions::handle).await,
        MetadataRequest::KEY => run(context, header, metadata::handle).await,
        CreateTopicsRequest::KEY => run(context, header, create_topics::handle).await,
        ListOffsetsRequest::KEY => run(context, header, list_offsets::handle).await,
        OffsetForLeaderEpochRequest::KEY => {
            run(context, header, offset_for_leader_epoch::handle).await
        }
        InitProducerIdRequest::KEY => run(context, header, init_producer_id::handle).await,
        DeleteRecordsRequest::KEY => run(context, header, delete_records::handle).await,
        DescribeProducersRequest::KEY => run(context, header, describe_producers::handle).await,
        DeleteTopicsRequest::KEY => run(context, header, delete_topics::handle).await,
        CreatePartitionsRequest::KEY => run(context, header, create_partitions::handle).await,
        DescribeConfigsRequest::KEY => run(context, header, describe_configs::handle).await,
        IncrementalAlterConfigsRequest::KEY => {
            run(context, header, incremental_alter_configs::handle).await
        }
        AlterConfigsRequest::KEY => run(context, header, alter_configs::handle).await,
        ListConfigResourcesRequest::KEY => {
            run(context, header, list_config_resources::handle).await
        }
        UpdateFeaturesRequest::KEY => run(context, header, update_features::handle).await,
        DescribeQuorumRequest::KEY => run(context, header, describe_quorum::handle).await,
        DescribeLogDirsRequest::KEY => run(context, header, describe_log_dirs::handle).await,
        DescribeClusterRequest::KEY => run(context, header, describe_cluster::handle).await,
        DescribeTopicPartitionsRequest::KEY => {
            run(context, header, describe_topic_partitions::handle).await
        }
        FindCoordinatorRequest::KEY => run(context, header, find_coordinator::handle).await,
        JoinGroupRequest::KEY => {
            let client = groups::client(&context, header.client_id());
            let handle =
                |context, request, version| join_group::handle(context, client, request, version);
            run(context, header, handle).await
        }
        ConsumerGroupHeartbeatRequest::KEY => {
            let client = groups::client(&context, header.client_id());
            let handle = |context, request, version| {
                consumer_group_heartbeat::handle(context, client, request, version)
            };
            run(context, header, handle).await
        }
        ConsumerGroupDescribeRequest::KEY => {
            run(context, header, consumer_group_describe::handle).await
        }
        SyncGroupRequest::KEY => run(context, header, sync_group::handle).await,
        HeartbeatRequest::KEY => run(context, header, heartbeat::handle).await,
        LeaveGroupRequest::KEY => run(context, header, leave_group::handle).await,
        OffsetCommitRequest::KEY => run(context, header, offset_commit::handle).await,
        OffsetFetchRequest::KEY => run(context, header, offset_fetch::handle).await,
        OffsetDeleteRequest::KEY => run(context, header, offset_delete::handle).await,
        DescribeGroupsRequest::KEY => run(context, header, describe_groups::handle).await,
        ListGroupsRequest::KEY => run(context, header, list_groups::handle).await,
        DeleteGroupsRequest::KEY => run(context, header, delete_groups::handle).await,
        key => unreachable!("api key {key} is advertised and has no handler"),
    }
}

async fn run<R, H, F>(
    context: Rc<Context>,
    mut header: Header,
    handle: H,
) -> Result<Option<Frame>, Malformed>
where
    R: Request,
    H: FnOnce(Rc<Context>, R, i16) -> F,
    F: Future<Output = R::Response>,
{
    let request = header.body()?;
    header.timing.pass(Stage::Decode);
    let response = handle(context, request, header.version()).await;
    header.timing.pass(Stage::Handle);
    header.respond(&response).map(Some)
}
