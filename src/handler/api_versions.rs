//! ApiVersions (key 18, versions 0 to 5). KIP-35, KIP-511 (client software), KIP-584 (features), KIP-1242 (is it
//! the broker that the client means).

use std::rc::Rc;

use crate::controller::SUPPORTED_FEATURES;
use crate::handler::Context;
use crate::protocol::messages::ApiVersionsRequest;
use crate::protocol::messages::api_versions_response::{
    ApiVersion, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};
use crate::protocol::{ErrorCode, Request, Str, api};

pub async fn handle(
    context: Rc<Context>,
    request: ApiVersionsRequest,
    version: i16,
) -> ApiVersionsResponse {
    if version >= 3
        && !(valid(&request.client_software_name) && valid(&request.client_software_version))
    {
        return ApiVersionsResponse {
            error_code: ErrorCode::InvalidRequest.code(),
            ..Default::default()
        };
    }
    let image = context.shard.image();
    if let Err(error) = check_identity(&request, &image.cluster_id, context.shard.broker.id().0) {
        return ApiVersionsResponse {
            error_code: error.code(),
            ..Default::default()
        };
    }
    let finalized = image.features();
    ApiVersionsResponse {
        api_keys: served(),
        supported_features: SUPPORTED_FEATURES
            .iter()
            // A range that begins at 0 is more than clients before version 4 can read (KAFKA-17011).
            .filter(|feature| version >= 4 || feature.min > 0)
            .map(|feature| SupportedFeatureKey {
                name: Str::from(feature.name),
                min_version: feature.min,
                max_version: feature.max,
            })
            .collect(),
        finalized_features_epoch: image.offset,
        finalized_features: finalized
            .iter()
            .map(|(name, level)| FinalizedFeatureKey {
                name: name.clone(),
                max_version_level: *level,
                min_version_level: *level,
            })
            .collect(),
        ..Default::default()
    }
}

/// The answer to a version that is newer than ours: in version 0, with the versions of this request alone.
pub fn unsupported() -> ApiVersionsResponse {
    let of_this = |api: &ApiVersion| api.api_key == ApiVersionsRequest::KEY;
    ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: served().into_iter().filter(of_this).collect(),
        ..Default::default()
    }
}

fn served() -> Vec<ApiVersion> {
    api::SUPPORTED
        .iter()
        .map(|range| ApiVersion {
            api_key: range.key,
            min_version: range.min,
            max_version: range.max,
        })
        .collect()
}

/// A client that came by an old address learns that someone else lives there. It names both or nothing.
fn check_identity(
    request: &ApiVersionsRequest,
    cluster_id: &str,
    node_id: i32,
) -> Result<(), ErrorCode> {
    match (request.cluster_id.as_deref(), request.node_id) {
        (None, -1) => Ok(()),
        (None, _) | (_, -1) => Err(ErrorCode::InvalidRequest),
        (Some(cluster), node) if cluster == cluster_id && node == node_id => Ok(()),
        _ => Err(ErrorCode::RebootstrapRequired),
    }
}

/// Letters and digits, with dashes and dots inside (KIP-511).
fn valid(software: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_alphanumeric();
    let bytes = software.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            alphanumeric(first)
                && alphanumeric(last)
                && bytes
                    .iter()
                    .all(|&byte| alphanumeric(byte) || matches!(byte, b'-' | b'.'))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_means_another_broker_is_told_so() {
        let check = |cluster: Option<&'static str>, node_id| {
            let request = ApiVersionsRequest {
                cluster_id: cluster.map(Str::from),
                node_id,
                ..Default::default()
            };
            check_identity(&request, "c", 1)
        };
        assert_eq!(check(None, -1), Ok(()));
        assert_eq!(check(Some("c"), 1), Ok(()));
        assert_eq!(check(None, 1), Err(ErrorCode::InvalidRequest));
        assert_eq!(check(Some("c"), -1), Err(ErrorCode::InvalidRequest));
        assert_eq!(check(Some("d"), 1), Err(ErrorCode::RebootstrapRequired));
        assert_eq!(check(Some("c"), 2), Err(ErrorCode::RebootstrapRequired));
    }

    #[test]
    fn software_names_follow_kip_511() {
        for good in ["librdkafka", "apache-kafka-java", "4.4.0", "x"] {
            assert!(valid(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", ".1"] {
            assert!(!valid(bad), "{bad}");
        }
    }
}
