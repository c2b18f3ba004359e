//! What the host must offer, checked before the first executor starts, with the fix in the message.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Locked memory that glommio insists on, in bytes.
const MEMLOCK_MIN: u64 = 512 * 1024;

/// Why this backend cannot run here, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum HostProblem {
    /// The kernel has no io_uring, or it is switched off for this process.
    #[error("io_uring is not available: {cause}. {fix}")]
    NoIoUring {
        /// The kernel's word.
        cause: io::Error,
        /// What to do about it.
        fix: String,
    },
    /// The limit of locked memory is too low.
    #[error(
        "the limit of locked memory is {limit} bytes, at least {needed} are needed. In this shell: `ulimit -l {}`; \
         in a systemd unit: `LimitMEMLOCK={needed}`; in a container: `--ulimit memlock={needed}:{needed}`; \
         for a user: `* - memlock {}` in /etc/security/limits.conf",
        needed / 1024, needed / 1024
    )]
    MemlockTooLow {
        /// The soft limit, in bytes.
        limit: u64,
        /// What is needed, in bytes.
        needed: u64,
    },
    /// The file system has no direct I/O.
    #[error(
        "{} is on a file system without direct I/O (O_DIRECT): {cause}. Choose a data directory on ext4 or xfs \
         (not tmpfs, not an overlay), or allow buffered files, which is slower and for trials only",
        directory.display()
    )]
    NoDirectIo {
        /// The directory that was tried.
        directory: PathBuf,
        /// The kernel's word.
        cause: io::Error,
    },
    /// The directory cannot be written at all.
    #[error("{} cannot be written: {cause}", directory.display())]
    Directory {
        /// The directory that was tried.
        directory: PathBuf,
        /// The kernel's word.
        cause: io::Error,
    },
}

/// What this process has used of memory and processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsed {
    /// Resident memory.
    pub resident_bytes: u64,
    /// Processor time, user and system.
    pub cpu: std::time::Duration,
}

/// What the system says that this process has used; 0 where it says nothing.
#[must_use]
pub fn process_usage() -> ProcessUsed {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Linux, and the structure is live.
    #[allow(unsafe_code)]
    let page = unsafe {
        libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time);
        libc::sysconf(libc::_SC_PAGESIZE)
    };
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages: u64 = pages.and_then(|text| text.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
    ProcessUsed {
        resident_bytes: pages * u64::try_from(page).unwrap_or(0),
        cpu: std::time::Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)),
    }
}

/// Checks for io_uring and for enough locked memory.
pub fn check_host() -> Result<(), HostProblem> {
    let (soft, hard) = memlock_limit();
    if soft < MEMLOCK_MIN && !(hard >= MEMLOCK_MIN && raise_memlock(hard)) {
        return Err(HostProblem::MemlockTooLow { limit: soft, needed: MEMLOCK_MIN });
    }
    match try_io_uring() {
        Ok(()) => Ok(()),
        Err(cause) if cause.raw_os_error() == Some(libc::ENOMEM) => {
            Err(HostProblem::MemlockTooLow { limit: soft, needed: (8 * MEMLOCK_MIN).max(soft.saturating_mul(2)) })
        }
        Err(cause) => {
            let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
            let fix = match (cause.raw_os_error(), disabled.trim()) {
                (Some(libc::ENOSYS), _) => "The kernel must be 5.8 or later and built with it".to_string(),
                (_, state @ ("1" | "2")) => {
                    format!("kernel.io_uring_disabled is {state}: `sudo sysctl kernel.io_uring_disabled=0`")
                }
                _ => "The container's seccomp profile forbids it: `--security-opt seccomp=unconfined`, \
                      or a profile that allows io_uring_setup, io_uring_enter and io_uring_register"
                    .to_string(),
            };
            Err(HostProblem::NoIoUring { cause, fix })
        }
    }
}

/// Checks that direct I/O works in `directory`, by one write of a block to a file without a name.
pub fn check_directory(directory: &Path) -> Result<(), HostProblem> {
    let fail = |cause| HostProblem::Directory { directory: directory.to_path_buf(), cause };
    let plain = open_unnamed(directory, 0).map_err(fail)?;
    drop(plain);
    let refused = |cause: io::Error| match cause.raw_os_error() {
        Some(libc::EINVAL | libc::EOPNOTSUPP) => HostProblem::NoDirectIo { directory: directory.to_path_buf(), cause },
        _ => fail(cause),
    };
    let direct = open_unnamed(directory, libc::O_DIRECT).map_err(refused)?;
    #[repr(align(4096))]
    struct Block([u8; crate::BLOCK]);
    let block = Box::new(Block([0; crate::BLOCK]));
    // SAFETY: pointer and length are those of a live buffer.
    #[allow(unsafe_code)]
    let wrote = unsafe { libc::pwrite(direct.as_raw_fd(), block.0.as_ptr().cast(), block.0.len(), 0) };
    if wrote < 0 { Err(refused(io::Error::last_os_error())) } else { Ok(()) }
}

/// Memory to register with each executor's ring (`io_memory` of glommio's builder) so that all of them together fit
/// the limit of locked memory; what does not fit comes from the allocator and is merely a little slower.
#[must_use]
pub fn io_memory_per_shard(shards: usize) -> usize {
    const MOST: u64 = 8 << 20;
    let (soft, _) = memlock_limit();
    let share = soft.saturating_sub(MEMLOCK_MIN) / 2 / (shards.max(1) as u64);
    // Registered with three rings, and each is counted.
    let fits = (share / 3).min(MOST);
    usize::try_from(fits).unwrap_or(0) / crate::BLOCK * crate::BLOCK
}

/// Soft and hard limit of locked memory; without limit is `u64::MAX`.
fn memlock_limit() -> (u64, u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is live and writable.
    #[allow(unsafe_code)]
    let got = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    assert_eq!(got, 0, "getrlimit: {}", io::Error::last_os_error());
    (limit.rlim_cur, limit.rlim_max)
}

/// Tells the C library to keep freed memory for the next buffer. By default it gives a megabyte back to the kernel when
/// it is freed, and each of its pages is faulted in and cleared again for the next request.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, bytes) in [(libc::M_TRIM_THRESHOLD, 256 << 20), (libc::M_MMAP_THRESHOLD, 32 << 20)] {
        // SAFETY: a call without pointers. A refusal leaves the default.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(parameter, bytes);
        }
    }
}

/// Gives what the C library kept of freed memory back to the kernel, after work that needed much and does not come again soon.
/// Takes some milliseconds for each 100 MiB: not for an executor's thread.
pub fn give_back_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a call without pointers, which takes the allocator's own locks.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Raises the soft limit of open descriptors to the hard one, which needs no privilege; the limit that then holds.
/// Many systems start a process with 1,024, a courtesy to programs that use `select`.
#[must_use]
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is live and writable.
    #[allow(unsafe_code)]
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(got, 0, "getrlimit: {}", io::Error::last_os_error());
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: the struct is live.
    #[allow(unsafe_code)]
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) };
    if set == 0 { limit.rlim_max } else { limit.rlim_cur }
}

/// Raises the soft limit to the hard one, which needs no privilege.
fn raise_memlock(hard: u64) -> bool {
    let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: the struct is live.
    #[allow(unsafe_code)]
    let set = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    set == 0
}

/// Sets up a ring of two entries and closes it.
fn try_io_uring() -> io::Result<()> {
    // `struct io_uring_params`: 120 bytes, all zero is a plain ring.
    let mut params = [0u64; 15];
    // SAFETY: the kernel reads and writes 120 bytes at the pointer, which are there.
    #[allow(unsafe_code)]
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, params.as_mut_ptr()) };
    if ring < 0 {
        return Err(io::Error::last_os_error());
    }
    let ring = i32::try_from(ring).expect("a descriptor");
    // SAFETY: a descriptor that was just made for us.
    #[allow(unsafe_code)]
    drop(unsafe { OwnedFd::from_raw_fd(ring) });
    Ok(())
}

/// Opens a file without a name in `directory` for writing; where the file system has none of those, a named one that
/// is removed at once.
fn open_unnamed(directory: &Path, flags: i32) -> io::Result<OwnedFd> {
    match open(directory, libc::O_TMPFILE | libc::O_WRONLY | flags) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let path = directory.join(format!(".coreline-check-{}", std::process::id()));
            let file = open(&path, libc::O_CREAT | libc::O_WRONLY | flags);
            let _ = std::fs::remove_file(&path);
            file
        }
        other => other,
    }
}

fn open(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a live, terminated string.
    #[allow(unsafe_code)]
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o600) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just made for us.
    #[allow(unsafe_code)]
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_fix() {
        let message = HostProblem::MemlockTooLow { limit: 65536, needed: 1 << 20 }.to_string();
        assert!(message.contains("ulimit -l 1024") && message.contains("LimitMEMLOCK=1048576"), "{message}");
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = check_directory(Path::new("/nonexistent/coreline")).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/coreline cannot be written"), "{error}");
    }

    #[test]
    fn what_is_registered_fits_the_limit() {
        let (soft, _) = memlock_limit();
        for shards in [1, 2, 64, 10_000] {
            let each = io_memory_per_shard(shards) as u64;
            assert!(each.saturating_mul(3).saturating_mul(shards as u64) <= soft);
        }
    }
}
