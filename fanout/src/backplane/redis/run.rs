//! The tasks that run until the node stops: connections, presence and follow-ups of requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future;
use shared::limits::{CANARY_EVERY_MS, REDIS_CONNECT_MS};

use super::backplane::{Inputs, RedisBackplane};
use super::connection::Commands;
use super::incoming::SubscriptionHandler;
use super::presence::store::Store;
use crate::events::Control;
use crate::local::hub::Hub;
use crate::stats::{Distributions, Stats};

impl RedisBackplane {
    /// Runs all tasks until the node stops. Call it once.
    pub(crate) async fn run(self: &Arc<Self>) {
        let Some(Inputs { follow_ups, mut changes }) = self.inputs.lock().take() else { return };
        let handler = Arc::new(SubscriptionHandler { backplane: Arc::clone(self) });
        let lanes = self.node.hubs.iter().map(|hub| self.keep_order(hub));
        let report = async {
            while let Some(change) = changes.recv().await {
                self.node.report(change).await;
            }
        };
        let connections = async {
            tokio::join!(
                self.commands.run(),
                self.posts.run(&self.commands),
                Arc::clone(&self.subscriber).run(handler),
                self.publish_canary(),
                self.watch_commands(),
                self.watch_other_adapters(),
                self.watch_subscriptions(),
            );
        };
        let work = async {
            tokio::join!(
                self.presence.run(),
                future::join_all(lanes),
                Self::run_follow_ups(follow_ups),
                report
            );
        };
        // Apart, so that neither the type nor the size of this future grows with both.
        tokio::join!(connections.boxed(), work.boxed());
    }

    /// Renews the lease on a separate connection, for a thread that no client's work can block.
    pub(crate) async fn run_apart(&self) {
        // The other connections count the same failures.
        let stats = Arc::new(Stats::new(Distributions::ignored()));
        let commands = Arc::new(Commands::new(self.link.clone(), "lease", &self.prefix, stats));
        let store = Store::redis(Arc::clone(&commands), &self.prefix);
        tokio::join!(commands.run(), self.presence.renew_apart(&store));
    }

    /// Looks for servers with another wire format.
    async fn watch_other_adapters(&self) {
        let name = |hub: &Arc<Hub>| self.channels.namespace(hub.name.as_str());
        let channels: Vec<String> = self.node.hubs.iter().map(name).collect();
        self.other_adapters.watch(&self.commands, &channels, self.channels.prefix()).await;
    }

    /// Publishes the canary: a node that does not receive its own messages receives no other's.
    async fn publish_canary(&self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(CANARY_EVERY_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Once a canary does not come back, its lag grows until one does.
            let waits = &self.stats.canary_waits_us;
            let _ = waits.compare_exchange(0, self.now_us().max(1), Ordering::Relaxed, Ordering::Relaxed);
            // A canary that does not come back shows the failure.
            let _ =
                self.publish_plain(self.subscriber.canary(), &self.now_us().to_string().into_bytes()).await;
        }
    }

    /// A new connection may lead to another server, or to one that has lost its data.
    async fn watch_commands(&self) {
        let mut connections = self.commands.connections();
        while connections.changed().await.is_ok() {
            self.presence.reconnected();
        }
    }

    /// After a new connection of the subscriptions something may have been missed.
    async fn watch_subscriptions(&self) {
        let mut connections = self.subscriber.connections();
        while connections.changed().await.is_ok() {
            if *connections.borrow() > 1 {
                self.resync_all();
            }
            self.node.control(Control::Resubscribed).await;
            // The commands' connection may be restored later than the subscriptions', and a server of a
            // Redis Cluster later still.
            while self.check_stamps().await.is_err() && !connections.has_changed().unwrap_or(true) {
                tokio::time::sleep(Duration::from_millis(REDIS_CONNECT_MS)).await;
            }
        }
    }
}
