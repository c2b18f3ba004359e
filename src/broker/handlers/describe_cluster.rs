//! DescribeCluster: the cluster's id, its controller, its brokers.

use super::metadata::CLUSTER_OPERATIONS;
use crate::broker::Shard;
use crate::broker::core_nodes::Told;
use crate::error_code::ErrorCode;
use crate::protocol::codec::text;
use coreline_io::Runtime;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};
use std::rc::Rc;

/// Endpoints of brokers.
const BROKERS: i8 = 1;
/// Endpoints of controllers, which have none of their own here.
const CONTROLLERS: i8 = 2;
/// The client did not ask.
const NO_OPERATIONS: i32 = i32::MIN;

/// Answers one request. Version 0 has no endpoint type, which the codec gives as brokers.
pub(super) async fn handle<R: Runtime>(
    shard: &Rc<Shard<R>>,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let image = shard.image();
    let asked = request.include_cluster_authorized_operations;
    let answer = DescribeClusterResponse::default()
        .with_endpoint_type(request.endpoint_type)
        .with_cluster_authorized_operations(NO_OPERATIONS);
    if request.endpoint_type != BROKERS {
        let (code, message) = if request.endpoint_type == CONTROLLERS {
            let message =
                "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER";
            (ErrorCode::MismatchedEndpointType, message.to_owned())
        } else {
            (ErrorCode::UnsupportedEndpointType, format!("Unsupported endpoint type {}", request.endpoint_type))
        };
        return answer
            .with_endpoint_type(BROKERS)
            .with_error_code(code.code())
            .with_error_message(Some(text(&message)));
    }
    let broker = |r: Told| {
        DescribeClusterBroker::default()
            .with_broker_id(r.id.0.into())
            .with_host(text(&r.host))
            .with_port(i32::from(r.port))
            .with_rack(r.rack.as_deref().map(text))
    };
    answer
        .with_cluster_authorized_operations(if asked { CLUSTER_OPERATIONS } else { NO_OPERATIONS })
        .with_error_message(None)
        .with_cluster_id(text(&image.cluster_id))
        .with_controller_id(shard.config.node_id.into())
        .with_brokers(shard.brokers_told(&image).into_iter().map(broker).collect())
}
