//! Returns memory that a burst of clients left free to the operating system.
//!
//! glibc keeps memory that is freed in the middle of its arenas. After 15,000 unauthenticated connections had come and
//! gone, a node held 58 MiB; the call in [`give_back`] reduced that to 23 MiB. [`Keeper`] decides when the call is
//! worthwhile. It is the only unsafe call of this file.

use std::fs;
use std::time::Duration;

/// Between two checks of the resident memory.
pub(crate) const LOOK: Duration = Duration::from_secs(10);

/// A trim that frees less is not worth its cost; growth by more makes the next one worthwhile.
const WORTH_BYTES: usize = 2 << 20;

/// Checks between two trims while they free too little: at most eight minutes.
const LOOKS_MAX: u32 = 48;

/// Decides when to trim: often while trims free memory, ever more rarely while they do not, and soon again when the
/// node has grown or its clients hold less than before.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// Checks until the next trim.
    left: u32,
    /// Checks between the last two trims.
    pause: u32,
    /// Resident memory after the last trim.
    resident: usize,
    /// The most memory that clients have held since then.
    held: usize,
}

impl Keeper {
    pub(crate) fn new() -> Self {
        Self { left: 1, pause: 1, resident: 0, held: 0 }
    }

    /// Whether to trim now, with `resident` bytes in memory and about `held` of them in use for clients.
    pub(crate) fn is_due(&mut self, resident: usize, held: usize) -> bool {
        self.held = self.held.max(held);
        let has_grown = resident > self.resident + WORTH_BYTES;
        let holds_less = held + WORTH_BYTES < self.held;
        if has_grown || holds_less {
            self.left = self.left.min(1);
            self.pause = 1;
        }
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }

    /// Records the result of a trim.
    pub(crate) fn tried(&mut self, before: usize, after: usize, held: usize) {
        let was_worth_it = before.saturating_sub(after) >= WORTH_BYTES;
        self.pause = if was_worth_it { 1 } else { (self.pause * 2).min(LOOKS_MAX) };
        (self.left, self.resident, self.held) = (self.pause, after, held);
    }
}

/// Resident memory of the process in bytes; 0 if the system does not report it.
pub(crate) fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or_default() * rustix::param::page_size()
}

/// Returns free memory of the allocator to the operating system. May take some milliseconds.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn give_back() {
    // SAFETY: `malloc_trim` takes a number and may be called from any thread at any time: it takes the locks of the
    // allocator's arenas itself and releases only pages that no allocation has bytes in.
    #[expect(unsafe_code, reason = "glibc has no safe interface for it")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators return free memory by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn looks_until_due(keeper: &mut Keeper, resident: usize, held: usize) -> u32 {
        (1..1_000).find(|_| keeper.is_due(resident, held)).unwrap()
    }

    #[test]
    fn trims_that_free_little_become_ever_rarer() {
        let mut keeper = Keeper::new();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.push(looks_until_due(&mut keeper, 20 * MIB, 0));
            keeper.tried(20 * MIB, 20 * MIB, 0);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 48, 48]);
        // The node has grown, and then its clients hold less than before.
        assert_eq!(looks_until_due(&mut keeper, 60 * MIB, 30 * MIB), 1);
        keeper.tried(60 * MIB, 60 * MIB, 30 * MIB);
        assert_eq!(looks_until_due(&mut keeper, 60 * MIB, MIB), 1);
        keeper.tried(60 * MIB, 22 * MIB, MIB);
        assert_eq!(looks_until_due(&mut keeper, 22 * MIB, MIB), 1);
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn memory_freed_between_live_allocations_is_given_back() {
        let mut blocks: Vec<_> = (0..40_000).map(|_| vec![1_u8; 4_096]).collect();
        let kept: Vec<_> = blocks.iter_mut().step_by(64).map(std::mem::take).collect();
        drop(blocks);
        let before = resident();
        give_back();
        let freed = before.saturating_sub(resident());
        assert!(freed > 64 * MIB, "{freed} bytes");
        drop(kept);
    }
}
