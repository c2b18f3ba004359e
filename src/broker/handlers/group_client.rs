//! Who asks, and what every group API checks before it asks a coordinator.

use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::error_code::ErrorCode;
use crate::groups::{Client, Response};
use coreline_io::Runtime;
use std::rc::Rc;
use std::sync::Arc;

/// What a client may do with a group while there is no authorizer: READ, DELETE, DESCRIBE, DESCRIBE_CONFIGS,
/// ALTER_CONFIGS, by the bits of their codes.
pub(super) const GROUP_OPERATIONS: i32 = 0b1101_0100_1000;

/// Bytes of a client's id that coordinators keep: ids of members are made of it, and must fit the protocol's 32,767.
const CLIENT_ID_MAX: usize = 32_000;

/// The client of a request, as coordinators know it.
pub(super) fn client(context: &RequestContext) -> Client {
    let header = &context.request.header;
    let mut id = header.client_id.clone().unwrap_or_default();
    if id.len() > CLIENT_ID_MAX {
        id = Arc::from(&id[..id.floor_char_boundary(CLIENT_ID_MAX)]);
    }
    Client { id, host: Arc::clone(&context.session.borrow().host), api_version: header.api_version }
}

/// Says to the connection on which shard the group is.
pub(super) fn touch<R: Runtime>(groups: &Rc<Groups<R>>, context: &RequestContext, group: &str) {
    if let Ok((_, shard)) = groups.find(group) {
        context.session.borrow_mut().touched.add(shard, 1);
    }
}

/// A group's id that must be there.
pub(super) fn not_empty(group: &str) -> Result<(), ErrorCode> {
    if group.is_empty() { Err(ErrorCode::InvalidGroupId) } else { Ok(()) }
}

/// The answer of the request's own kind, or why there is none.
macro_rules! of_kind {
    ($told:expr, $kind:ident) => {
        match $told {
            Ok(crate::groups::Response::$kind(answer)) => Ok(answer),
            Ok(other) => super::group_client::unexpected(stringify!($kind), &other),
            Err(code) => Err(code),
        }
    };
}
pub(super) use of_kind;

/// A coordinator that answers with another kind is wrong.
pub(super) fn unexpected(kind: &str, other: &Response) -> ! {
    unreachable!("{kind} is answered in kind, not with {other:?}")
}
