//! How long a start after a crash would take, by what it would find, and how much journal that leaves room for.
//!
//! ```text
//! start   [ process, metadata ][ journal: read, checked ][ partitions: by their state, or by their directory ]
//!           fixed                bytes × measured          known × little + unknown × more
//! ```
//! `coreline.recovery.max.ms` is the whole; what partitions take is given, so the journal gets the rest.

use std::time::Duration;

/// The process, its metadata, the first connection.
const FIXED: Duration = Duration::from_millis(60);
/// A partition whose state is known, until it has answered: measured, with the record that asks, on one core.
const KNOWN_NANOS: u64 = 30_000;
/// One whose directory is looked at and settled: measured at 6,000 a second, on one core.
const UNKNOWN_NANOS: u64 = 170_000;
/// A MiB of journal before the first measurement: read at 640 MB/s, with its checksum.
const NANOS_PER_MIB: u64 = 1_600_000;
/// What a measurement may say: a device of 5 GB/s, and one of 50 MB/s.
const NANOS_PER_MIB_BOUNDS: (u64, u64) = (200_000, 20_000_000);
/// Less is not measured: it says more of the process than of the device.
const MEASURED_BYTES_MIN: u64 = 4 << 20;
const MIB: u64 = 1 << 20;

/// What a start after a crash would find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// Bytes of the journal that would be read.
    pub journal_bytes: u64,
    /// Partitions whose state is written down.
    pub known: u64,
    /// Partitions that would have to be looked for.
    pub unknown: u64,
}

/// What each part of a start costs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryCosts {
    nanos_per_mib: u64,
}

impl Default for RecoveryCosts {
    fn default() -> Self {
        Self { nanos_per_mib: NANOS_PER_MIB }
    }
}

impl RecoveryCosts {
    /// As the last start has measured: so many bytes of the journal took so long. Within bounds: a machine that was busy
    /// once does not make the journal useless.
    #[must_use]
    pub fn measured(bytes: u64, took: Duration) -> Self {
        if bytes < MEASURED_BYTES_MIN {
            return Self::default();
        }
        let nanos = took.as_nanos().saturating_mul(u128::from(MIB)) / u128::from(bytes);
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        let (least, most) = NANOS_PER_MIB_BOUNDS;
        Self { nanos_per_mib: nanos.clamp(least, most) }
    }

    /// How long the start would take.
    #[must_use]
    pub fn estimate(&self, remains: Remains) -> Duration {
        let journal = (u128::from(remains.journal_bytes) * u128::from(self.nanos_per_mib) / u128::from(MIB)) as u64;
        FIXED + Self::partitions(remains) + Duration::from_nanos(journal)
    }

    /// So many bytes of journal may be left for a start within `target`; 0: partitions alone take longer.
    #[must_use]
    pub fn journal_bytes_max(&self, target: Duration, remains: Remains) -> u64 {
        let rest = target.saturating_sub(FIXED + Self::partitions(remains));
        let bytes = rest.as_nanos() * u128::from(MIB) / u128::from(self.nanos_per_mib);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    fn partitions(remains: Remains) -> Duration {
        let known = remains.known.saturating_mul(KNOWN_NANOS);
        Duration::from_nanos(known.saturating_add(remains.unknown.saturating_mul(UNKNOWN_NANOS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_journal_gets_what_partitions_leave() {
        let costs = RecoveryCosts::default();
        let second = Duration::from_secs(1);
        // target, known, unknown → MiB
        for (ms, known, unknown, mib) in [
            (1000, 1, 0, 587),
            (1000, 1_000, 0, 568),
            (1000, 10_000, 0, 400),
            (1000, 8_000, 2_000, 225),
            (1000, 0, 10_000, 0),
            (200, 1, 0, 87),
            (200, 1_000, 0, 68),
            (50, 1, 0, 0),
        ] {
            let remains = Remains { journal_bytes: 0, known, unknown };
            let max = costs.journal_bytes_max(Duration::from_millis(ms), remains);
            assert_eq!(max / MIB, mib, "{ms} ms, {known} known and {unknown} unknown partitions");
        }
        let slow = RecoveryCosts::measured(64 << 20, second);
        assert_eq!(slow.estimate(Remains { journal_bytes: 64 << 20, ..Remains::default() }), FIXED + second);
    }

    #[test]
    fn measurements_are_bounded() {
        assert_eq!(RecoveryCosts::measured(1000, Duration::from_secs(9)), RecoveryCosts::default());
        let fast = RecoveryCosts::measured(1 << 30, Duration::from_millis(1));
        let slow = RecoveryCosts::measured(8 << 20, Duration::from_secs(3600));
        assert_eq!((fast.nanos_per_mib, slow.nanos_per_mib), NANOS_PER_MIB_BOUNDS);
    }

    proptest! {
        #[test]
        fn what_is_allowed_is_estimated_within_the_target(
            bytes in any::<u64>(), took in any::<u64>(), target in any::<u32>(), known in any::<u64>(), unknown in any::<u64>(),
        ) {
            let costs = RecoveryCosts::measured(bytes, Duration::from_nanos(took));
            let target = Duration::from_millis(target.into());
            let remains = Remains { journal_bytes: 0, known, unknown };
            let journal_bytes = costs.journal_bytes_max(target, remains);
            if journal_bytes > 0 {
                let estimate = costs.estimate(Remains { journal_bytes, ..remains });
                prop_assert!(estimate <= target, "{:?}", estimate);
            }
        }
    }
}
