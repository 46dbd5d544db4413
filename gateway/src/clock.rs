//! The wall clock, and durations that ignore its jumps.
//!
//! Points in time come from the wall clock: people see them, tokens expire at them, other nodes read them. Durations do
//! not, because the wall clock may be set and a laptop may sleep. Within a process, durations come from `Instant`. A
//! duration that starts at a wall-clock time, which another node may have written, comes from [`passed_ms`], which
//! ignores the jumps that this process has observed.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// How many jumps are kept.
const JUMPS_MAX: usize = 16;

/// The smallest jump: larger than the corrections of a running clock.
const JUMP_MIN_MS: u64 = 1_000;

/// How far other nodes' clocks may be ahead of this one's.
const AHEAD_MS: u64 = 10_000;

/// The wall clock in milliseconds at the start of the process' monotonic clock; moves with each jump.
static OFFSET: AtomicI64 = AtomicI64::new(i64::MIN);
static JUMPED: AtomicU32 = AtomicU32::new(0);
static JUMPS: Mutex<Jumps> = Mutex::new(Jumps(Vec::new()));

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    look().0
}

/// Seconds since the epoch.
pub(crate) fn now_s() -> u64 {
    now_ms() / 1_000
}

/// How often the wall clock has jumped, this moment included.
pub(crate) fn jumps() -> u32 {
    look().1
}

/// How often the wall clock had jumped when it was last read.
pub(crate) fn jumps_seen() -> u32 {
    JUMPED.load(Ordering::Acquire)
}

/// How many milliseconds ago a wall-clock time was, ignoring jumps since then. A future time counts as now.
pub(crate) fn passed_ms(since_ms: u64) -> u64 {
    let (now, _) = look();
    JUMPS.lock().passed(since_ms, now)
}

/// The wall-clock time so many milliseconds ago, ignoring jumps.
pub(crate) fn ago_ms(passed_ms: u64) -> u64 {
    let (now, _) = look();
    JUMPS.lock().ago(passed_ms, now)
}

/// The wall clock and the number of its jumps, including one that this call detects.
fn look() -> (u64, u32) {
    let (since, even) = (SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), even_ms());
    let wall = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let offset = signed(wall) - signed(even);
    let known = OFFSET.load(Ordering::Relaxed);
    if known != i64::MIN && known.abs_diff(offset) <= JUMP_MIN_MS {
        if known != offset {
            // Follows a clock that runs fast or slow.
            let _ = OFFSET.compare_exchange(known, offset, Ordering::Relaxed, Ordering::Relaxed);
        }
        return (wall, JUMPED.load(Ordering::Acquire));
    }
    let mut jumps = JUMPS.lock();
    let known = OFFSET.swap(offset, Ordering::Relaxed);
    if known != i64::MIN && known.abs_diff(offset) > JUMP_MIN_MS {
        let from = u64::try_from(signed(even).saturating_add(known)).unwrap_or_default();
        jumps.note(Jump { from, to: wall });
        JUMPED.fetch_add(1, Ordering::AcqRel);
        drop(jumps);
        let seconds = (offset - known) / 1_000;
        tracing::warn!(seconds, "the wall clock has jumped");
    }
    (wall, JUMPED.load(Ordering::Acquire))
}

/// Milliseconds of the monotonic clock.
fn even_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// A jump: the wall clock was set, or the machine slept.
#[derive(Debug, Clone, Copy)]
struct Jump {
    from: u64,
    to: u64,
}

/// The latest jumps, the most recent one last. Between two of them the wall clock runs evenly.
#[derive(Debug)]
struct Jumps(Vec<Jump>);

impl Jumps {
    fn note(&mut self, jump: Jump) {
        if self.0.len() >= JUMPS_MAX {
            self.0.remove(0);
        }
        self.0.push(jump);
    }

    fn passed(&self, since: u64, now: u64) -> u64 {
        if (now..=now.saturating_add(AHEAD_MS)).contains(&since) {
            return 0;
        }
        let (mut end, mut passed) = (now, 0_u64);
        for jump in self.0.iter().rev() {
            if (jump.to..=end).contains(&since) {
                return passed + (end - since);
            }
            passed += end.saturating_sub(jump.to);
            if (jump.from..jump.to).contains(&since) {
                // The jump of this node's clock skipped that time.
                return passed;
            }
            end = jump.from;
        }
        end.checked_sub(since).map_or(0, |before| passed + before)
    }

    fn ago(&self, passed: u64, now: u64) -> u64 {
        let (mut end, mut left) = (now, passed);
        for jump in self.0.iter().rev() {
            let since_jump = end.saturating_sub(jump.to);
            if left <= since_jump {
                break;
            }
            left -= since_jump;
            end = jump.from;
        }
        end.saturating_sub(left)
    }
}

/// A time in the format of REST answers and events: ISO 8601 in UTC with milliseconds.
pub(crate) fn iso(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", at.unwrap_or(jiff::Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc_with_milliseconds() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(1_770_458_400_120), "2026-02-07T10:00:00.120Z");
    }

    const HOUR: u64 = 3_600_000;

    #[test]
    fn a_jump_is_no_time() {
        let mut jumps = Jumps(Vec::new());
        assert_eq!(jumps.passed(10_000, 18_000), 8_000);
        // Five seconds after 10,000 the clock is set forward by an hour; it is read three seconds later.
        jumps.note(Jump { from: 15_000, to: 15_000 + HOUR });
        let now = 18_000 + HOUR;
        assert_eq!(jumps.passed(10_000, now), 8_000);
        assert_eq!(jumps.passed(16_000 + HOUR, now), 2_000, "an instant after the jump");
        assert_eq!(jumps.passed(15_000 + HOUR / 2, now), 3_000, "an instant that the jump skipped");
        for ahead in [5_000, 60_000, 2 * HOUR] {
            assert_eq!(jumps.passed(now + ahead, now), 0, "a future instant counts as now");
        }
        assert_eq!((jumps.ago(2_000, now), jumps.ago(8_000, now)), (16_000 + HOUR, 10_000));
    }

    #[test]
    fn a_jump_back_is_no_time() {
        let mut jumps = Jumps(Vec::new());
        jumps.note(Jump { from: HOUR + 15_000, to: 15_000 });
        let now = 18_000;
        assert_eq!(jumps.passed(HOUR + 10_000, now), 8_000);
        assert_eq!(jumps.passed(16_000, now), 2_000);
        assert_eq!(jumps.passed(now + 500, now), 0, "another node's clock is ahead a little");
        assert_eq!((jumps.ago(2_000, now), jumps.ago(8_000, now)), (16_000, HOUR + 10_000));
    }

    #[test]
    fn many_jumps_add_up_and_few_are_kept() {
        let mut jumps = Jumps(Vec::new());
        for step in 0..u64::try_from(JUMPS_MAX).unwrap() + 4 {
            // The wall clock jumps by an hour every second of the monotonic clock.
            let from = step * HOUR + (step + 1) * 1_000;
            jumps.note(Jump { from, to: from + HOUR });
        }
        assert_eq!(jumps.0.len(), JUMPS_MAX);
        let last = jumps.0.last().unwrap().to;
        assert_eq!(jumps.passed(last - 3 * HOUR - 2_500, last + 500), 3_000);
    }
}
