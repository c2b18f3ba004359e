//! ApiVersions: what this broker speaks, from the one table (KIP-35, KIP-511).

use crate::broker::connection::{ClientSoftware, RequestContext};
use crate::broker::pipeline::Close;
use crate::error_code::ErrorCode;
use crate::protocol::{Api, ResponseFrame, codec};
use bytes::Bytes;
use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::StrBytes;

/// Which protocols of groups and of transactions there are.
const FEATURE_LEVELS: &[(&str, i16)] = &[("group.version", 1), ("transaction.version", 2)];
/// The first version with features.
const FEATURES: i16 = 3;
/// The first version whose features may begin at 0.
const FEATURES_FROM_ZERO: i16 = 4;

pub(super) fn handle(context: &RequestContext, body: Bytes) -> Result<ResponseFrame, Close> {
    let request = &context.request;
    if request.fallback {
        // The client learns which versions of this API it may ask in.
        let response = ApiVersionsResponse::default()
            .with_error_code(ErrorCode::UnsupportedVersion.code())
            .with_api_keys(vec![listed(request.api)]);
        return Ok(codec::encode(request, &response));
    }
    let asked: ApiVersionsRequest = codec::decode(request, body).map_err(Close::because)?;
    if request.header.api_version >= 3 {
        let software = ClientSoftware {
            name: asked.client_software_name.to_string(),
            version: asked.client_software_version.to_string(),
        };
        if !is_software_name(&software.name) || !is_software_name(&software.version) {
            let response = ApiVersionsResponse::default().with_error_code(ErrorCode::InvalidRequest.code());
            return Ok(codec::encode(request, &response));
        }
        context.session.borrow_mut().software = Some(software);
    }
    let response = ApiVersionsResponse::default()
        .with_api_keys(Api::all().iter().filter(|api| api.key.is_kafkas()).map(listed).collect());
    Ok(codec::encode(request, &with_features(request.header.api_version, response)))
}

/// The features that clients look for, their newest level, which is what this broker is at: `group.version` 1 is KIP-848,
/// `transaction.version` 2 is KIP-890. Before version 4 a feature that may be 0 cannot be said.
fn with_features(version: i16, response: ApiVersionsResponse) -> ApiVersionsResponse {
    if version < FEATURES {
        return response;
    }
    let supported = FEATURE_LEVELS.iter().map(|(name, level)| {
        let supported = SupportedFeatureKey::default().with_name(StrBytes::from_static_str(name));
        supported.with_min_version(0).with_max_version(*level)
    });
    let finalized = FEATURE_LEVELS.iter().map(|(name, level)| {
        let finalized = FinalizedFeatureKey::default().with_name(StrBytes::from_static_str(name));
        finalized.with_min_version_level(*level).with_max_version_level(*level)
    });
    let response = response.with_finalized_features(finalized.collect()).with_finalized_features_epoch(0);
    if version < FEATURES_FROM_ZERO { response } else { response.with_supported_features(supported.collect()) }
}

fn listed(api: &Api) -> ApiVersion {
    ApiVersion::default().with_api_key(api.key as i16).with_min_version(api.listed_min).with_max_version(api.max)
}

/// Letters, digits, `-` and `.`, the last two not at an end (KIP-511).
fn is_software_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    let end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    end(bytes.first()) && end(bytes.last()) && bytes.iter().all(|b| inner(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names() {
        for good in ["librdkafka", "a", "apache-kafka-java", "2.10.0", "9"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a.", "a b", "ä", "a_b"] {
            assert!(!is_software_name(bad), "{bad}");
        }
    }
}
