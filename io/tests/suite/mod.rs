//! What every backend promises: cases that run on any [`Runtime`]. A backend's own file (`sim.rs`, `uring.rs`) makes a
//! test of each through `for_each_case!`.
//!
//! A case gets a fresh, empty directory and an address to listen on. It must not depend on how long anything takes.

pub(crate) mod dirs;
pub(crate) mod files;
pub(crate) mod net;
pub(crate) mod tasks;

use bytes::{Bytes, BytesMut};
use coreline_io::{IoError, IoErrorKind, Stream};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where a case may work.
#[derive(Clone, Debug)]
pub(crate) struct Env {
    /// An empty directory.
    pub(crate) dir: PathBuf,
    /// An address of this machine that only the test uses.
    pub(crate) ip: IpAddr,
}

impl Env {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.dir).join(name)
    }

    /// A free port of the test's address.
    pub(crate) fn any_port(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 0)
    }
}

/// Calls the macro `$with` with the list of all cases, by module.
macro_rules! for_each_case {
    ($with:ident) => {
        $with! {
            files: [
                write_then_read, reads_at_any_alignment, reads_stop_at_the_end, gathers_parts_of_any_length,
                truncate_cuts_and_pads, what_is_reserved_keeps_its_length, open_options_are_obeyed, dsync_writes_read_back, writes_in_flight_together,
                a_large_write, overwriting_in_place, sparse_files_read_as_zero, two_handles_see_one_file,
                durable_writes_read_back,
            ]
            dirs: [
                atomic_replace, atomic_replace_leaves_nothing_behind, directories_are_made_and_listed, directories_are_read_whole,
                new_files_are_made_with_their_directories, rename_replaces, directories_are_renamed, removal, missing_things_are_not_found, lock_twice,
                space_is_reported,
            ]
            net: [
                echo, many_parts, reads_of_at_least_so_much, the_end_of_a_stream, shutdown_wakes_a_reader, refused, addresses,
                listening_twice, shared_port, handing_over, a_dropped_parcel_closes, flood_both_ways,
                many_connections,
            ]
            tasks: [
                timers_fire_in_order, a_sleep_is_long_enough, spawn_and_join, a_dropped_handle_runs_on,
                yielding_lets_others_run, every_group_runs, a_dropped_sleep_is_harmless, clocks, entropy,
                semaphore_is_fair, semaphore_bounds, semaphore_given_up, notify_wakes_all, oneshot_between_tasks,
            ]
        }
    };
}

/// `len` bytes that differ by place and by `seed`.
pub(crate) fn pattern(seed: u64, len: usize) -> Bytes {
    let byte = |i: usize| ((i as u64).wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    (0..len).map(byte).collect::<Vec<u8>>().into()
}

/// The bytes of a stream until it ends.
pub(crate) async fn read_to_end(stream: &impl Stream) -> Result<BytesMut, IoError> {
    let mut buf = BytesMut::new();
    loop {
        buf.reserve(4096);
        if stream.read(&mut buf).await? == 0 {
            return Ok(buf);
        }
    }
}

/// Reads exactly `len` bytes.
pub(crate) async fn read_exact(stream: &impl Stream, len: usize) -> BytesMut {
    let mut buf = BytesMut::with_capacity(len.max(1));
    while buf.len() < len {
        let n = stream.read(&mut buf).await.expect("the stream is whole");
        assert!(n > 0, "the stream ended after {} of {len} bytes", buf.len());
    }
    assert_eq!(buf.len(), len, "more bytes than were sent");
    buf
}

/// Sends one piece.
pub(crate) async fn send(stream: &impl Stream, bytes: impl Into<Bytes>) {
    stream.write_all(&mut [bytes.into()].into()).await.expect("the stream is whole");
}

pub(crate) fn kind<T>(result: Result<T, IoError>) -> Option<IoErrorKind> {
    result.err().map(|e| e.kind)
}
