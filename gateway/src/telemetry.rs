//! Log lines: pretty for people, one JSON object a line for machines, always on standard error.

use std::io::IsTerminal as _;

use shared::config::LogFormat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::util::TryInitError;

/// Starts logging; `filter` has been checked with [`check_filter`].
///
/// # Errors
/// When logging has been started already.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<(), TryInitError> {
    let pretty = match format {
        LogFormat::Pretty => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let builder =
        tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_writer(std::io::stderr);
    if pretty {
        builder.compact().with_target(false).finish().try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).finish().try_init()
    }
}

/// Whether `filter` is a log filter.
pub(crate) fn check_filter(filter: &str) -> bool {
    EnvFilter::try_new(filter).is_ok()
}
