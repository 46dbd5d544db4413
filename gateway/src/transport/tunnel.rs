//! WebSockets that arrive at this node and are tunnelled to the node of their session.
//!
//! A client that begins with polling behind a load balancer without sticky sessions often gets one. Tunnels are this
//! node's connections, too: a drain ends them like sessions, spread over its window, so that their clients do not all
//! reconnect at the moment when the process ends. They also end when the lease of the session's node lapses, because
//! that node may have stalled with its connections open.

use std::time::Duration;

use ::metrics::Gauge;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::turn::Paced;
use crate::metrics;

/// The tunnels of a node.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    open: TaskTracker,
    /// When the last of them must end, once the node drains.
    until: watch::Sender<Option<Instant>>,
}

impl Tunnels {
    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }

    /// Copies bytes both ways until one side ends, the lease of the session's node has `lapsed`, or the drain ends this
    /// tunnel.
    pub(super) async fn carry(&self, client: OnUpgrade, server: OnUpgrade, lapsed: CancellationToken) {
        let (Ok(client), Ok(server)) = (client.await, server.await) else { return };
        let (mut client, mut server) = (Paced::new(TokioIo::new(client)), Paced::new(TokioIo::new(server)));
        let open = self.open.token();
        self.counted(|gauge| gauge.increment(1));
        tokio::select! {
            // Either end may fail: the session's own node handles the rest.
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
            () = async { tokio::select! { () = self.turn() => {}, () = lapsed.cancelled() => {} } } => {
                // Both sides see a closed transport, at worst in the middle of a frame.
                let _ = tokio::join!(client.shutdown(), server.shutdown());
            }
        }
        self.counted(|gauge| gauge.decrement(1));
        drop(open);
    }

    /// Changes the gauges that count a tunnel.
    fn counted(&self, by_one: impl Fn(&Gauge)) {
        by_one(&metrics::get().tunnels);
        if self.until.borrow().is_some() {
            by_one(&metrics::get().drain_remaining);
        }
    }

    /// Waits until the drain ends this tunnel: a random moment in the rest of the window.
    async fn turn(&self) {
        let mut until = self.until.subscribe();
        let Ok(until) = until.wait_for(Option::is_some).await.map(|until| *until) else { return };
        let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        tokio::time::sleep(left.mul_f64(rand::random())).await;
    }

    /// Ends all tunnels within `window`, including new ones.
    pub(crate) async fn drain(&self, window: Duration) {
        self.until.send_replace(Some(Instant::now() + window));
        self.open.close();
        self.open.wait().await;
    }
}
