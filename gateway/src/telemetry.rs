//! Logging: readable lines for people, one JSON object per line for machines, always on standard error.
//!
//! A separate thread writes the lines, so that no task waits for a slow reader; lines that do not fit into its queue
//! are dropped and counted. The same thread removes secrets, because libraries' error messages may contain them.

use std::io::{self, IsTerminal as _, Write};
use std::sync::OnceLock;

use shared::config::{LogFormat, Scrubber};
use shared::limits::LOG_LINES_MAX;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::util::TryInitError;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts logging. The caller has checked `filter` with [`check_filter`]; `scrubber` knows which secrets to remove.
/// Dropping the returned guard writes the queued lines, as far as possible within a second.
///
/// # Errors
/// If logging was started before.
pub(crate) fn start(
    filter: &str,
    format: LogFormat,
    scrubber: Scrubber,
) -> Result<WorkerGuard, TryInitError> {
    let pretty = match format {
        LogFormat::Pretty => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_LINES_MAX)
        .finish(Scrubbed { scrubber, out: io::stderr() });
    let _ = DROPPED.set(writer.error_counter());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(with_quiet_libraries(filter)))
        .with_writer(writer);
    if pretty {
        builder.compact().with_target(false).finish().try_init()?;
    } else {
        let builder = builder.json().flatten_event(true).with_current_span(false).with_span_list(false);
        builder.finish().try_init()?;
    }
    Ok(guard)
}

/// Writes lines without their secrets. Each write holds one or more whole lines.
struct Scrubbed<W> {
    scrubber: Scrubber,
    out: W,
}

impl<W: Write> Write for Scrubbed<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match str::from_utf8(line).ok().and_then(|line| self.scrubber.scrub(line)) {
            Some(scrubbed) => self.out.write_all(scrubbed.as_bytes())?,
            None => self.out.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Lines dropped since the start because the queue was full.
pub(crate) fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |dropped| u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX))
}

/// Libraries whose lines below `info` do not concern clients: every statement, frame and TLS handshake.
const LIBRARIES: &[&str] =
    &["sqlx", "hyper", "hyper_util", "h2", "reqwest", "rustls", "redis", "tower", "mio", "want"];

/// Adds directives to `filter` so that a global `debug` or `trace` does not apply to libraries; those need their own
/// target.
fn with_quiet_libraries(filter: &str) -> String {
    let is_fine = |item: &str| ["debug", "trace"].iter().any(|level| item.trim().eq_ignore_ascii_case(level));
    if !filter.split(',').any(is_fine) {
        return filter.to_owned();
    }
    // Later directives win, so an operator's directive for a library applies.
    let quiet = LIBRARIES.iter().map(|library| format!("{library}=info"));
    quiet.chain([filter.to_owned()]).collect::<Vec<_>>().join(",")
}

/// Whether `filter` is a valid log filter.
pub(crate) fn check_filter(filter: &str) -> bool {
    EnvFilter::try_new(filter).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_is_about_clients_and_a_library_needs_its_target() {
        for filter in ["info", "warn,sqlx=debug", "gateway=debug"] {
            assert_eq!(with_quiet_libraries(filter), filter);
        }
        for filter in ["debug", "TRACE", "debug,fanout=trace"] {
            let all = with_quiet_libraries(filter);
            assert!(all.contains("sqlx=info,") && all.ends_with(filter) && check_filter(&all), "{all}");
        }
        let directives = EnvFilter::new(with_quiet_libraries("debug,sqlx=debug")).to_string();
        assert!(directives.contains("sqlx=debug") && !directives.contains("sqlx=info"), "{directives}");
    }

    #[test]
    fn a_line_is_written_without_its_secrets() {
        let mut scrubber = Scrubber::default();
        scrubber.secret("hush-hush");
        let mut writer = Scrubbed { scrubber, out: Vec::new() };
        writer.write_all(b"{\"error\":\"no hush-hush here\"}\n").unwrap();
        writer.write_all(b"plain\n").unwrap();
        writer.write_all(b"\xff\n").unwrap();
        assert_eq!(
            writer.out,
            "{\"error\":\"no … here\"}\nplain\n".bytes().chain(*b"\xff\n").collect::<Vec<_>>()
        );
    }
}
