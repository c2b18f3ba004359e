//! Which cores the shards run on: shard `i` on the `i`-th core of what [`CoreSelection::resolve`] gives.

use std::collections::BTreeSet;
use std::str::FromStr;

/// Which cores to run on: the value of a setting such as `all`, `4` or `0,2,4-7`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CoreSelection {
    /// Every core that this process may use.
    #[default]
    All,
    /// The first so many of those.
    Count(usize),
    /// These, by the kernel's numbers, in this order.
    List(Vec<usize>),
}

/// Why the cores asked for cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// Not a selection at all.
    #[error("`{text}` does not name cores: expected `all`, a count such as `4`, or a list such as `0,2,4-7`")]
    Syntax {
        /// What was given.
        text: String,
    },
    /// The system did not say what may be used.
    #[error("the system did not say which cores this process may use (sched_getaffinity)")]
    Unknown,
    /// None were asked for.
    #[error("no cores were asked for: at least one is needed")]
    None,
    /// More than there are.
    #[error("{wanted} cores were asked for, this process may use {}: {allowed:?}. \
             Ask for fewer, or widen its CPU set (taskset, cgroup cpuset, AllowedCPUs= of systemd)", allowed.len())]
    TooMany {
        /// How many were asked for.
        wanted: usize,
        /// What may be used.
        allowed: Vec<usize>,
    },
    /// A core that the process may not use, or that is not there.
    #[error(
        "core {core} was asked for, this process may use {allowed:?}. \
             Leave it out, or widen the process's CPU set (taskset, cgroup cpuset, AllowedCPUs= of systemd)"
    )]
    NotAllowed {
        /// The core.
        core: usize,
        /// What may be used.
        allowed: Vec<usize>,
    },
    /// The same core for two shards.
    #[error("core {core} was asked for twice: two shards on one core would only take turns")]
    Twice {
        /// The core.
        core: usize,
    },
}

impl CoreSelection {
    /// The cores, among those the process may use now.
    pub fn resolve(&self) -> Result<Vec<usize>, CoreError> {
        let mut allowed: Vec<usize> =
            core_affinity::get_core_ids().ok_or(CoreError::Unknown)?.into_iter().map(|core| core.id).collect();
        allowed.sort_unstable();
        self.resolve_among(&allowed)
    }

    /// The same, of a given set in ascending order.
    pub fn resolve_among(&self, allowed: &[usize]) -> Result<Vec<usize>, CoreError> {
        if allowed.is_empty() {
            return Err(CoreError::Unknown);
        }
        match self {
            Self::All => Ok(allowed.to_vec()),
            Self::Count(0) => Err(CoreError::None),
            Self::Count(wanted) => match allowed.get(..*wanted) {
                Some(cores) => Ok(cores.to_vec()),
                None => Err(CoreError::TooMany { wanted: *wanted, allowed: allowed.to_vec() }),
            },
            Self::List(cores) => {
                let mut seen = BTreeSet::new();
                for &core in cores {
                    if !allowed.contains(&core) {
                        return Err(CoreError::NotAllowed { core, allowed: allowed.to_vec() });
                    }
                    if !seen.insert(core) {
                        return Err(CoreError::Twice { core });
                    }
                }
                if cores.is_empty() { Err(CoreError::None) } else { Ok(cores.clone()) }
            }
        }
    }
}

impl FromStr for CoreSelection {
    type Err = CoreError;

    /// `all`; a count (`4`); a list with a comma or a range (`0,1`, `2-5`, `3,` for core 3 alone).
    fn from_str(text: &str) -> Result<Self, CoreError> {
        // No machine has more; a range must not be the way to ask for all memory.
        const CORE_MAX: usize = 65_535;
        let text = text.trim();
        let wrong = || CoreError::Syntax { text: text.to_string() };
        let number = |part: &str| match part.trim().parse::<usize>() {
            Ok(number) if number <= CORE_MAX => Ok(number),
            _ => Err(wrong()),
        };
        if text.eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        if !text.contains([',', '-']) {
            return Ok(Self::Count(number(text)?));
        }
        let mut cores = Vec::new();
        for part in text.strip_suffix(',').unwrap_or(text).split(',') {
            match part.split_once('-') {
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last || cores.len() > CORE_MAX {
                        return Err(wrong());
                    }
                    cores.extend(first..=last);
                }
                None => cores.push(number(part)?),
            }
        }
        Ok(Self::List(cores))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_read() {
        for (text, expected) in [
            ("all", CoreSelection::All),
            (" ALL ", CoreSelection::All),
            ("4", CoreSelection::Count(4)),
            ("0,1", CoreSelection::List(vec![0, 1])),
            ("3,", CoreSelection::List(vec![3])),
            ("0, 4-6 ,2", CoreSelection::List(vec![0, 4, 5, 6, 2])),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in ["", "some", "-1", "1-", "3-1", ",", "1,,2", "0x1", "99999999999999999999", "0-99999999999"] {
            assert_eq!(text.parse::<CoreSelection>(), Err(CoreError::Syntax { text: text.to_string() }), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let allowed = [0, 2, 4];
        let resolve = |selection: CoreSelection| selection.resolve_among(&allowed);
        assert_eq!(resolve(CoreSelection::All), Ok(vec![0, 2, 4]));
        assert_eq!(resolve(CoreSelection::Count(2)), Ok(vec![0, 2]));
        assert_eq!(resolve(CoreSelection::List(vec![4, 0])), Ok(vec![4, 0]));
        assert_eq!(resolve(CoreSelection::Count(0)), Err(CoreError::None));
        assert_eq!(resolve(CoreSelection::List(vec![])), Err(CoreError::None));
        assert_eq!(resolve(CoreSelection::List(vec![2, 2])), Err(CoreError::Twice { core: 2 }));
        let error = resolve(CoreSelection::Count(4)).unwrap_err().to_string();
        assert!(error.starts_with("4 cores were asked for, this process may use 3: [0, 2, 4]."), "{error}");
        let error = resolve(CoreSelection::List(vec![0, 3])).unwrap_err().to_string();
        assert!(error.starts_with("core 3 was asked for, this process may use [0, 2, 4]."), "{error}");
        assert_eq!(CoreSelection::All.resolve_among(&[]), Err(CoreError::Unknown));
    }

    #[test]
    fn this_machine_has_a_core() {
        let cores = CoreSelection::All.resolve().unwrap();
        assert_eq!(CoreSelection::Count(1).resolve().unwrap(), cores[..1]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9,\\- al]{0,20}|.{0,20}") {
            let _ = text.parse::<CoreSelection>();
        }
    }
}
