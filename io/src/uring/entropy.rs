//! Random numbers from the kernel, drawn in blocks: good enough for secrets, cheap enough for ids.

use std::cell::{Cell, RefCell};

const BLOCK: usize = 256;

/// Unused random bytes of this shard.
pub(super) struct Pool {
    bytes: RefCell<[u8; BLOCK]>,
    /// Bytes of the block given out: `used ≤ BLOCK`, a multiple of 8.
    used: Cell<usize>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { bytes: RefCell::new([0; BLOCK]), used: Cell::new(BLOCK) }
    }
}

impl Pool {
    pub(super) fn next_u64(&self) -> u64 {
        let mut bytes = self.bytes.borrow_mut();
        if self.used.get() == BLOCK {
            refill(&mut *bytes);
            self.used.set(0);
        }
        let at = self.used.get();
        self.used.set(at + 8);
        let word: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes");
        // What was given out must not be found in memory later.
        bytes[at..at + 8].fill(0);
        u64::from_ne_bytes(word)
    }
}

fn refill(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: pointer and length are those of a live, writable slice.
        #[allow(unsafe_code)]
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => filled += got,
            Err(_) => {
                let error = std::io::Error::last_os_error();
                assert_eq!(error.kind(), std::io::ErrorKind::Interrupted, "getrandom: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_across_refills() {
        let pool = Pool::default();
        let drawn: std::collections::HashSet<u64> = (0..1000).map(|_| pool.next_u64()).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
