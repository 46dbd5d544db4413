//! Bounds how much the task of a connection does before the other tasks of its worker get their turn.
//!
//! A client may send faster than a node handles. One poll for a client is therefore bounded by its cost, not by the
//! arrived input: some [`TURN_COST`] cheap packets. The task then waits until the worker has polled all connections for
//! new input, so every other client's first packet is handled before this client's next one.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use shared::limits::{HANDLER_COST, TURN_COST};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;

/// The rest of a turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    left: u32,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { left: TURN_COST }
    }

    /// Records work.
    pub(super) fn spend(&mut self, units: u32) {
        self.left = self.left.saturating_sub(units);
    }

    /// Records a handled packet of so many bytes.
    pub(super) fn spend_packet(&mut self, bytes: usize) {
        self.spend(1 + kib(bytes));
    }

    /// Records a read of so many bytes.
    pub(super) fn spend_read(&mut self, bytes: usize) {
        self.spend(1 + kib(bytes) / 4);
    }

    pub(super) fn is_over(self) -> bool {
        self.left == 0
    }

    /// If the turn is over, yields to other tasks and begins a new one.
    pub(super) async fn pass(&mut self) {
        if self.is_over() {
            yield_now().await;
            *self = Self::new();
        }
    }
}

/// Whole KiB, at most as many as a turn has units.
fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes / 1_024).unwrap_or(TURN_COST).min(TURN_COST)
}

/// Schedules another poll of the current task after the worker has polled for new input.
pub(super) fn wake_later(cx: &mut Context<'_>) {
    // The first poll of this future requests the wake-up and is pending; a second one is not needed.
    let _ = pin!(yield_now()).poll(cx);
}

/// A connection whose bytes are forwarded unparsed, in turns.
#[derive(Debug)]
pub(super) struct Paced<T> {
    inner: T,
    turn: Turn,
}

impl<T> Paced<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, turn: Turn::new() }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.turn.is_over() {
            self.turn = Turn::new();
            wake_later(cx);
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_ready() {
            // Everything read is also written.
            self.turn.spend(HANDLER_COST + kib(buf.filled().len() - before));
        } else {
            self.turn = Turn::new();
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::tasks::Tasks;

    #[test]
    fn a_turn_ends_after_its_cost_whatever_the_work_is_made_of() {
        let turns = |work: fn(&mut Turn)| {
            let (mut turn, mut count) = (Turn::new(), 0);
            while !turn.is_over() {
                work(&mut turn);
                count += 1;
            }
            count
        };
        assert_eq!(turns(|turn| turn.spend_packet(7)), TURN_COST);
        assert_eq!(turns(|turn| turn.spend_packet(1_024)), TURN_COST / 2);
        assert_eq!(turns(|turn| turn.spend_packet(usize::MAX)), 1);
        assert_eq!(turns(|turn| turn.spend(HANDLER_COST)), TURN_COST / HANDLER_COST);
    }

    /// Returns as many bytes as requested.
    struct Endless(Arc<AtomicUsize>);

    impl AsyncRead for Endless {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let count = buf.remaining();
            buf.put_slice(&vec![0; count]);
            self.0.fetch_add(count, Ordering::Relaxed);
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_connection_that_never_pauses_lets_the_others_run() {
        let read = Arc::new(AtomicUsize::new(0));
        let mut endless = Paced::new(Endless(Arc::clone(&read)));
        let reader = Tasks::default().spawn(async move {
            let mut bytes = [0; 8 * 1_024];
            loop {
                endless.read_exact(&mut bytes).await.unwrap();
            }
        });
        for turn in 1..=10 {
            yield_now().await;
            assert!(read.load(Ordering::Relaxed) <= turn * 64 * 1_024);
        }
        assert!(read.load(Ordering::Relaxed) > 0);
        reader.abort();
    }
}
