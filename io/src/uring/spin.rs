//! Whether a core that has nothing to do polls for a while before it sleeps: pure, the clock's values are arguments.
//!
//! Waking a core costs tens of microseconds that whoever waits for the answer pays. Polling saves them where the next thing
//! comes soon, and is waste everywhere else. So *adaptive* polling looks at what the last waits were: only where most of them
//! were short it polls, never longer than [`SPIN_MOST`], and not for a while after something else wanted the core.

use std::time::{Duration, Instant};

/// What a core does that has nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Polling {
    /// It sleeps at once.
    #[default]
    Never,
    /// It polls for some microseconds where the last waits were short, and sleeps then.
    Adaptive,
    /// It polls until there is something: the core is never idle, and nothing else should run there.
    Dedicated,
}

/// Longest time that adaptive polling takes of a wait.
const SPIN_MOST: Duration = Duration::from_micros(50);
/// A wait that was slept through and this long would have been short enough, but for the waking.
const SLEPT_SHORT: Duration = Duration::from_micros(100);
/// Of the last eight waits as many must have been short.
const SHORT_LEAST: u32 = 5;
/// Two looks of a core that polls are a microsecond apart. So far apart, and something else had it meanwhile.
const TAKEN: Duration = Duration::from_micros(100);
/// So long adaptive polling pauses then.
const PAUSE: Duration = Duration::from_secs(1);

/// What a core knows of its last waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spin {
    polling: Polling,
    /// A bit for each of the last eight waits, the newest first: it was short.
    short: u8,
    paused_until: Option<Instant>,
}

impl Spin {
    pub(super) fn new(polling: Polling) -> Self {
        Self { polling, short: 0, paused_until: None }
    }

    /// How long to poll now, at most; zero: sleep at once. `helped`: a thread on this core works for it, and has to wake up
    /// here when it is done.
    pub(super) fn budget(&mut self, now: Instant, helped: bool) -> Duration {
        match self.polling {
            Polling::Never => Duration::ZERO,
            Polling::Dedicated => Duration::MAX,
            Polling::Adaptive => {
                self.paused_until = self.paused_until.filter(|until| now < *until);
                let worth = self.short.count_ones() >= SHORT_LEAST && self.paused_until.is_none() && !helped;
                if worth { SPIN_MOST } else { Duration::ZERO }
            }
        }
    }

    /// A wait has ended: it was `polled` through, or slept.
    pub(super) fn waited(&mut self, took: Duration, polled: bool) {
        let short = took <= if polled { SPIN_MOST } else { SLEPT_SHORT };
        self.short = self.short << 1 | u8::from(short);
    }

    /// Two looks were `apart`. True: something else had the core, do not go on polling.
    pub(super) fn looked(&mut self, apart: Duration, now: Instant) -> bool {
        let taken = self.polling == Polling::Adaptive && apart >= TAKEN;
        if taken {
            self.paused_until = Some(now + PAUSE);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(20);
    const LONG: Duration = Duration::from_millis(5);

    fn after(waits: &[Duration]) -> Spin {
        let mut spin = Spin::new(Polling::Adaptive);
        waits.iter().for_each(|took| spin.waited(*took, false));
        spin
    }

    #[test]
    fn only_where_most_of_the_last_waits_were_short() {
        let now = Instant::now();
        let budget = |waits: &[Duration]| after(waits).budget(now, false);
        assert_eq!(budget(&[]), Duration::ZERO, "a new core sleeps");
        assert_eq!(budget(&[SHORT; 4]), Duration::ZERO);
        assert_eq!(budget(&[SHORT; 5]), SPIN_MOST);
        assert_eq!(budget(&[SHORT, LONG, SHORT, SHORT, LONG, SHORT, LONG, SHORT]), SPIN_MOST);
        let mut waits = vec![SHORT; 100];
        waits.extend([LONG; 4]);
        assert_eq!(budget(&waits), Duration::ZERO, "four long ones end it");
        assert_eq!(after(&[SHORT; 8]).budget(now, true), Duration::ZERO, "the core is a helper's");
    }

    #[test]
    fn a_wait_that_was_slept_through_counts_its_waking_up() {
        let between = (SPIN_MOST + SLEPT_SHORT) / 2;
        let now = Instant::now();
        for (polled, expected) in [(true, Duration::ZERO), (false, SPIN_MOST)] {
            let mut spin = Spin::new(Polling::Adaptive);
            (0..8).for_each(|_| spin.waited(between, polled));
            assert_eq!(spin.budget(now, false), expected, "polled: {polled}");
        }
    }

    #[test]
    fn a_core_that_others_want_is_left_alone_for_a_while() {
        let mut now = Instant::now();
        let mut spin = after(&[SHORT; 8]);
        assert!(!spin.looked(Duration::from_micros(3), now));
        assert_eq!(spin.budget(now, false), SPIN_MOST);
        assert!(spin.looked(TAKEN, now));
        now += PAUSE - Duration::from_nanos(1);
        assert_eq!(spin.budget(now, false), Duration::ZERO);
        now += Duration::from_nanos(1);
        assert_eq!(spin.budget(now, false), SPIN_MOST);
    }

    #[test]
    fn the_other_two_do_what_they_say_whatever_happens() {
        let now = Instant::now();
        for (polling, budget) in [(Polling::Never, Duration::ZERO), (Polling::Dedicated, Duration::MAX)] {
            let mut spin = Spin::new(polling);
            for took in [SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, LONG, LONG, LONG, LONG, LONG, LONG] {
                spin.waited(took, true);
                assert!(!spin.looked(LONG, now));
                assert_eq!([spin.budget(now, false), spin.budget(now, true)], [budget; 2]);
            }
        }
    }
}
