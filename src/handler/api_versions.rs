//! ApiVersions (key 18, versions 0 to 5). KIP-35, KIP-511 (client software), KIP-584 (features).

use std::rc::Rc;

use crate::controller::SUPPORTED_FEATURES;
use crate::handler::Context;
use crate::protocol::messages::ApiVersionsRequest;
use crate::protocol::messages::api_versions_response::{
    ApiVersion, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};
use crate::protocol::{ErrorCode, Str, api};

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

/// The answer to a version that is newer than ours: in version 0, with what we do serve.
pub fn unsupported() -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: served(),
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
    fn software_names_follow_kip_511() {
        for good in ["librdkafka", "apache-kafka-java", "4.4.0", "x"] {
            assert!(valid(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", ".1"] {
            assert!(!valid(bad), "{bad}");
        }
    }
}
