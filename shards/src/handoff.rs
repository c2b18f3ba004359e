//! A connection on its way to another shard: the stream, what was read and not handled, and whatever it remembers.

use bytes::BytesMut;
use coreline_io::{IoResult, Net};
use std::any::Any;

/// A connection between two shards. Send it in a mesh event ([`crate::Mesh::post`]) and [`HandOff::adopt`] it there.
/// Dropping it, also when the mesh is closed under way, closes the connection.
///
/// The type of the backend's parcel is not part of this type, so that mesh messages need not be generic over a runtime.
pub struct HandOff {
    parcel: Box<dyn Any + Send>,
    /// Bytes that were read from the connection and not handled yet.
    pub unread: BytesMut,
    /// What the connection remembers.
    pub session: Box<dyn Any + Send>,
}

impl std::fmt::Debug for HandOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandOff").field("unread", &self.unread.len()).finish_non_exhaustive()
    }
}

/// A connection that has arrived.
#[derive(Debug)]
pub struct Adopted<S, T> {
    /// The stream, of this shard now.
    pub stream: S,
    /// Bytes to handle before reading more.
    pub unread: BytesMut,
    /// What the connection remembers.
    pub session: T,
}

impl HandOff {
    /// Takes `stream` off this shard. No read or write of it may be under way.
    pub fn pack<N: Net>(net: &N, stream: N::Stream, unread: BytesMut, session: impl Any + Send) -> Self {
        Self { parcel: Box::new(net.pack(stream)), unread, session: Box::new(session) }
    }

    /// Takes the connection over. Fails, and closes it, if this shard cannot take it on (out of descriptors).
    ///
    /// # Panics
    /// If the parcel was packed by another backend, or the session is not a `T`: both ends are this program.
    pub fn adopt<N: Net, T: Any>(self, net: &N) -> IoResult<Adopted<N::Stream, T>> {
        let parcel = self.parcel.downcast::<N::Parcel>().expect("a parcel of the backend that both shards run on");
        let Ok(session) = self.session.downcast::<T>() else {
            panic!("the session of a connection handed over must be a {}", std::any::type_name::<T>())
        };
        let stream = net.unpack(*parcel)?;
        Ok(Adopted { stream, unread: self.unread, session: *session })
    }
}
