//! `gateway serve`: the banner and log lines of the start, and signals.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use shared::config::{Config, redact};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::first_token::FirstToken;
use super::{fail, runtime, say};
use crate::auth::random_secret;
use crate::node::{Node, makes_secret};
use crate::telemetry;

/// The commit that the binary was built from, if the build provides it (`MUSTER_COMMIT`).
pub(super) const COMMIT: &str = match option_env!("MUSTER_COMMIT") {
    Some(commit) => commit,
    None => "commit unknown",
};

/// How many files the node asks for: as many as the kernel lets a process open (`fs.nr_open`).
const FILES_WANTED: u64 = 1 << 20;

/// Fewer files than this cause a warning: shells and services often start with 1,024.
const FILES_FEW: u64 = 10_000;

pub(super) fn serve(config: Config) -> ExitCode {
    let _log = match telemetry::start(&config.log, config.log_format, config.scrubber()) {
        Ok(log) => log,
        Err(error) => return fail(&error),
    };
    // Each connection is a file. A node that may not raise the limit works within it.
    if let Err(error) = rlimit::increase_nofile_limit(FILES_WANTED) {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
    match runtime(config.workers) {
        Ok(runtime) => runtime.block_on(run_node(config)),
        Err(error) => fail(&error),
    }
}

async fn run_node(config: Config) -> ExitCode {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(&error),
    };
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    let secret = random_secret();
    let mut token = makes_secret(&config).then(|| FirstToken::new(&secret, &config));
    let summary = Summary::of(&config);
    let node = match Node::start(config, &secret).await {
        Ok(node) => node,
        Err(error) => return fail(&error),
    };
    summary.log(&node);
    let is_printed = token.as_ref().map_or_else(|| std::io::stdout().is_terminal(), FirstToken::is_printed);
    if is_printed {
        say(&summary.banner(&node, token.as_mut()));
    } else if let Some(token) = &mut token {
        token.write_and_log();
    }
    node.log_when_ready();
    signals.end().await;
    node.drain(signals.end()).await;
    drop(token);
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

/// The settings that the start prints and logs, without secrets.
struct Summary {
    apps: String,
    records: String,
    redis: String,
    origins: String,
}

impl Summary {
    fn of(config: &Config) -> Self {
        let origins = if config.cors_origins.is_empty() {
            "its own pages".to_owned()
        } else {
            let rules: Vec<String> = config.cors_origins.iter().map(ToString::to_string).collect();
            format!("its own pages, {}", rules.join(", "))
        };
        let redis = config.cluster.as_ref();
        Self {
            apps: config.mounts_text(),
            records: redact(&config.database_url.0),
            redis: redis.map_or_else(|| "none (single node)".to_owned(), |cluster| cluster.redis.to_string()),
            origins: redact(&origins),
        }
    }

    fn log(&self, node: &Node) {
        tracing::info!(
            node = node.id.as_str(),
            public = %node.public,
            internal = %node.internal,
            version = env!("CARGO_PKG_VERSION"),
            commit = COMMIT,
            pid = std::process::id(),
            apps = %self.apps,
            records = %self.records,
            redis = %self.redis,
            origins = %self.origins,
            files = node.files,
            max_connections = %limit(node.max_connections),
            docs = %format!("http://{}/api/docs", node.public),
            "started"
        );
        if node.files < FILES_FEW {
            tracing::warn!(
                files = node.files,
                max_connections = %limit(node.max_connections),
                "the limit of open files is small, and each connection needs one: raise the hard limit (LimitNOFILE of a \
                 service, --ulimit nofile of a container, ulimit -Hn of a shell)"
            );
        } else if u64::try_from(node.max_connections).is_ok_and(|connections| connections >= node.files) {
            tracing::warn!(
                files = node.files,
                max_connections = %limit(node.max_connections),
                "MAX_CONNECTIONS is more than the limit of open files allows"
            );
        }
    }

    fn banner(&self, node: &Node, token: Option<&mut FirstToken>) -> String {
        let mut lines = vec![
            format!("Muster {} ({COMMIT}) has started (node {}).", env!("CARGO_PKG_VERSION"), node.id),
            format!("  console    http://{}/", node.public),
            format!("  docs       http://{}/docs", node.public),
            format!("  API        http://{}/api/docs", node.public),
            format!("  internal   http://{}/metrics", node.internal),
            format!("  apps       {}", self.apps),
            format!("  records    {}", self.records),
            format!("  redis      {}", self.redis),
            format!("  origins    {}", self.origins),
            format!("  files      {}, at most {} connections", node.files, limit(node.max_connections)),
        ];
        lines.extend(token.map(|token| token.printed(&node.public.to_string())).unwrap_or_default());
        lines.join("\n")
    }
}

fn limit(connections: usize) -> String {
    if connections == 0 { "unlimited".to_owned() } else { connections.to_string() }
}

/// The signals that the node handles; the default action of each would end it without notifying its clients.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hang_up: Signal,
    user_1: Signal,
    user_2: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hang_up: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for a signal that ends the node.
    async fn end(&mut self) {
        loop {
            let ignored = tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.quit.recv() => return,
                _ = self.hang_up.recv() => "SIGHUP",
                _ = self.user_1.recv() => "SIGUSR1",
                _ = self.user_2.recv() => "SIGUSR2",
            };
            tracing::info!(
                signal = ignored,
                "ignored a signal: the node reads its settings only at the start"
            );
        }
    }
}
