//! Log lines: pretty for people, one JSON object a line for machines, always on standard error.
//!
//! A thread of its own writes them, so that nobody waits for whoever reads them; what does not fit into its queue is
//! dropped and counted.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use shared::config::LogFormat;
use shared::limits::LOG_LINES_MAX;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::util::TryInitError;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts logging; `filter` has been checked with [`check_filter`]. What is dropped last writes what waits, as far as it
/// can within a second.
///
/// # Errors
/// When logging has been started already.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<WorkerGuard, TryInitError> {
    let pretty = match format {
        LogFormat::Pretty => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_LINES_MAX)
        .finish(std::io::stderr());
    let _ = DROPPED.set(writer.error_counter());
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_writer(writer);
    if pretty {
        builder.compact().with_target(false).finish().try_init()?;
    } else {
        let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
        builder.finish().try_init()?;
    }
    Ok(guard)
}

/// Lines that did not fit into the queue since the start.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX))
}

/// Whether `filter` is a log filter.
pub(crate) fn check_filter(filter: &str) -> bool {
    EnvFilter::try_new(filter).is_ok()
}
