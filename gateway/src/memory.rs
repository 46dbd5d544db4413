//! Memory that a storm has left free is given back to the system.
//!
//! glibc keeps what is freed in the middle of its arenas. After 15,000 connections of strangers had come and gone, a
//! node held 58 MiB; the call in [`give_back`] left 23 MiB. [`Keeper`] decides when it is worth to call it, which is
//! this file's one call that the compiler cannot check.

use std::fs;
use std::time::Duration;

/// Between two looks at the resident memory.
pub(crate) const LOOK: Duration = Duration::from_secs(10);

/// Giving back less than this was not worth it; growing by more makes it worth another try.
const WORTH_BYTES: usize = 2 << 20;

/// Looks between two tries when they are not worth it: eight minutes at most.
const LOOKS_MAX: u32 = 48;

/// Decides when memory is given back: often while that frees some, ever more rarely while it does not, and soon
/// again when the node has grown or holds less than it did.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// Looks until the next try.
    left: u32,
    /// Looks between the last two tries.
    pause: u32,
    /// Resident memory after the last try.
    resident: usize,
    /// The most that clients held since then.
    held: usize,
}

impl Keeper {
    pub(crate) fn new() -> Self {
        Self { left: 1, pause: 1, resident: 0, held: 0 }
    }

    /// Whether to try now, with so much memory resident and about so much of it held for clients.
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

    /// What a try has come to.
    pub(crate) fn tried(&mut self, before: usize, after: usize, held: usize) {
        let was_worth_it = before.saturating_sub(after) >= WORTH_BYTES;
        self.pause = if was_worth_it { 1 } else { (self.pause * 2).min(LOOKS_MAX) };
        (self.left, self.resident, self.held) = (self.pause, after, held);
    }
}

/// Resident memory of the process in bytes; 0 where the system does not tell.
pub(crate) fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok());
    pages.unwrap_or_default() * rustix::param::page_size()
}

/// Gives free memory of the allocator back to the system. May take some milliseconds.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn give_back() {
    // SAFETY: `malloc_trim` takes a number and may be called from any thread at any time: it takes the locks of the
    // allocator's arenas itself and releases only pages that no allocation has bytes in.
    #[expect(unsafe_code, reason = "glibc has no other way to be asked")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators give free memory back by themselves.
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
    fn what_is_not_worth_it_is_tried_ever_more_rarely() {
        let mut keeper = Keeper::new();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.push(looks_until_due(&mut keeper, 20 * MIB, 0));
            keeper.tried(20 * MIB, 20 * MIB, 0);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 48, 48]);
        // It has grown, and then it holds less than it did.
        assert_eq!(looks_until_due(&mut keeper, 60 * MIB, 30 * MIB), 1);
        keeper.tried(60 * MIB, 60 * MIB, 30 * MIB);
        assert_eq!(looks_until_due(&mut keeper, 60 * MIB, MIB), 1);
        keeper.tried(60 * MIB, 22 * MIB, MIB);
        assert_eq!(looks_until_due(&mut keeper, 22 * MIB, MIB), 1);
    }

    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn what_was_freed_between_what_is_kept_is_given_back() {
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
