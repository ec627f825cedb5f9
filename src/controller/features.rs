//! Owns feature levels (KIP-584): which this version can run at, and changing the finalized ones.

use std::ops::RangeInclusive;

use super::{Controller, Outcome, Refusal};
use crate::protocol::{
    ErrorCode,
    messages::{
        UpdateFeaturesRequest, UpdateFeaturesResponse, update_features_request::FeatureUpdateKey,
        update_features_response::UpdatableFeatureResult,
    },
    records::metadata::{FeatureLevelRecord, MetadataRecord},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureRange {
    pub name: &'static str,
    pub min: i16,
    pub max: i16,
    /// What a new cluster starts with.
    pub initial: i16,
}

/// What ApiVersions tells. Only levels that are served: transactions and share groups
/// bring theirs when they work; records are written at one metadata version.
pub const SUPPORTED_FEATURES: [FeatureRange; 3] = [
    FeatureRange {
        name: "eligible.leader.replicas.version",
        min: 0,
        max: 1,
        initial: 1,
    },
    FeatureRange {
        name: GROUP_VERSION,
        min: 0,
        max: 1,
        initial: 1,
    },
    FeatureRange {
        name: METADATA_VERSION,
        min: *METADATA_VERSIONS.start(),
        max: *METADATA_VERSIONS.end(),
        initial: *METADATA_VERSIONS.end(),
    },
];

/// Which group protocols there are: 1 has that of KIP-848.
pub const GROUP_VERSION: &str = "group.version";
pub(super) const METADATA_VERSION: &str = "metadata.version";
pub(super) const METADATA_VERSIONS: RangeInclusive<i16> = 33..=33;

const UPGRADE: i8 = 1;
const SAFE_DOWNGRADE: i8 = 2;
const UNSAFE_DOWNGRADE: i8 = 3;

impl Controller {
    /// UpdateFeatures: all updates or none. Before version 2 each that was done is answered for itself too.
    pub fn update_features(
        &mut self,
        request: &UpdateFeaturesRequest,
        version: i16,
    ) -> Outcome<UpdateFeaturesResponse> {
        let planned: Result<Vec<_>, _> = request
            .feature_updates
            .iter()
            .map(|update| self.plan_level(update, version))
            .collect();
        match planned {
            Ok(records) => {
                let response = UpdateFeaturesResponse {
                    error_code: ErrorCode::None.code(),
                    error_message: None,
                    results: match version {
                        ..2 => request.feature_updates.iter().map(succeeded).collect(),
                        _ => Vec::new(),
                    },
                    ..Default::default()
                };
                let records = records.into_iter().flatten().collect();
                self.commit_unless(request.validate_only, records, response)
            }
            Err(refusal) => {
                let text = format!(
                    "The update failed for all features since the following feature had an error: {}",
                    refusal.message.unwrap_or_default()
                );
                let refusal = Refusal::new(refusal.code, text);
                let response = UpdateFeaturesResponse {
                    error_code: refusal.code.code(),
                    error_message: refusal.message.clone(),
                    ..Default::default()
                };
                self.commit(Vec::new(), response)
            }
        }
    }

    fn plan_level(
        &self,
        update: &FeatureUpdateKey,
        version: i16,
    ) -> Result<Option<MetadataRecord>, Refusal> {
        let level = update.max_version_level;
        let refuse = |reason: String| {
            Err(Refusal::new(
                ErrorCode::InvalidUpdateVersion,
                format!(
                    "Invalid update version {level} for feature {}. {reason}",
                    update.feature
                ),
            ))
        };
        let upgrade_type = match (version, update.allow_downgrade) {
            (0, true) => SAFE_DOWNGRADE,
            (0, false) => UPGRADE,
            _ => update.upgrade_type,
        };
        if !(UPGRADE..=UNSAFE_DOWNGRADE).contains(&upgrade_type) {
            return refuse("The controller does not support the given upgrade type.".into());
        }
        if level < 0 {
            return refuse("A feature version cannot be less than 0.".into());
        }
        let local = self.config.node_id;
        let Some(range) = SUPPORTED_FEATURES
            .iter()
            .find(|range| update.feature == *range.name)
        else {
            return refuse(format!(
                "Local controller {local} does not support this feature."
            ));
        };
        if !(range.min..=range.max).contains(&level) {
            let supported = match range.min == range.max {
                true => range.min.to_string(),
                false => format!("{}-{}", range.min, range.max),
            };
            return refuse(format!(
                "Local controller {local} only supports versions {supported}"
            ));
        }
        let current = self.image.feature(&update.feature);
        if level < current && upgrade_type == UPGRADE {
            return refuse(
                "Can't downgrade the version of this feature without setting the upgrade type to \
                 either safe or unsafe downgrade."
                    .into(),
            );
        }
        if level >= current && upgrade_type != UPGRADE {
            return refuse("Can't downgrade to a newer version.".into());
        }
        Ok((level != current).then(|| {
            MetadataRecord::from(FeatureLevelRecord {
                name: update.feature.clone(),
                feature_level: level,
            })
        }))
    }
}

fn succeeded(update: &FeatureUpdateKey) -> UpdatableFeatureResult {
    UpdatableFeatureResult {
        feature: update.feature.clone(),
        error_code: ErrorCode::None.code(),
        // Kafka's clients have met this text in place of none ever since.
        error_message: Some("NONE".into()),
    }
}
