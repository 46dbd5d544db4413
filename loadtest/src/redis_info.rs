//! Reads Redis' own counters: its CPU time, and how often commands were called.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection to Redis.
pub(crate) struct RedisInfo {
    stream: BufReader<TcpStream>,
}

/// The counters at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RedisReading {
    cpu_us: f64,
    messages: u64,
    scripts: u64,
}

/// Redis' work for each event.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct RedisSpan {
    pub(crate) redis_cpu_us_per_publish: f64,
    /// Calls of PUBLISH, those of scripts among them.
    pub(crate) redis_messages_per_publish: f64,
    /// Calls of EVAL and EVALSHA.
    pub(crate) redis_scripts_per_publish: f64,
}

impl RedisInfo {
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT).with_context(|| format!("{address}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Reads the counters now.
    pub(crate) fn read(&mut self) -> Result<RedisReading> {
        let mut text = self.info("cpu")?;
        text.push_str(&self.info("commandstats")?);
        Ok(reading(&text))
    }

    fn info(&mut self, section: &str) -> Result<String> {
        self.stream.get_mut().write_all(format!("INFO {section}\r\n").as_bytes())?;
        let mut head = String::new();
        self.stream.read_line(&mut head)?;
        let Some(length) = head.strip_prefix('$').and_then(|length| length.trim().parse::<usize>().ok())
        else {
            bail!("Redis answers {head:?}");
        };
        // A line break follows the text.
        let mut text = vec![0; length + 2];
        self.stream.read_exact(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn reading(text: &str) -> RedisReading {
    let mut reading = RedisReading::default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let calls = || {
            let calls = value.strip_prefix("calls=").and_then(|rest| rest.split(',').next()?.parse().ok());
            calls.unwrap_or_default()
        };
        match name {
            "used_cpu_sys" | "used_cpu_user" => {
                reading.cpu_us += 1e6 * value.trim().parse::<f64>().unwrap_or_default();
            }
            "cmdstat_publish" => reading.messages = calls(),
            "cmdstat_eval" | "cmdstat_evalsha" => reading.scripts += calls(),
            _ => {}
        }
    }
    reading
}

impl RedisSpan {
    /// The difference of two readings, for each of `publishes`.
    pub(crate) fn between(before: &RedisReading, after: &RedisReading, publishes: u64) -> Self {
        let each = |count: f64| count / publishes.max(1) as f64;
        let grown = |before: u64, after: u64| each(after.saturating_sub(before) as f64);
        Self {
            redis_cpu_us_per_publish: each(after.cpu_us - before.cpu_us),
            redis_messages_per_publish: grown(before.messages, after.messages),
            redis_scripts_per_publish: grown(before.scripts, after.scripts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_found_in_the_output_of_redis() {
        let text = "# CPU\r\nused_cpu_sys:1.5\r\nused_cpu_user:2.25\r\nused_cpu_sys_children:9\r\n\r\n\
            # Commandstats\r\ncmdstat_publish:calls=7,usec=1\r\ncmdstat_eval:calls=1,usec=2\r\n\
            cmdstat_evalsha:calls=4,usec=9\r\ncmdstat_get:calls=100,usec=1\r\n";
        let read = reading(text);
        assert_eq!(read, RedisReading { cpu_us: 3.75e6, messages: 7, scripts: 5 });
        let later = RedisReading { cpu_us: 3.75e6 + 100.0, messages: 17, scripts: 6 };
        let span = RedisSpan::between(&read, &later, 10);
        assert!((span.redis_cpu_us_per_publish - 10.0).abs() < 1e-6);
        assert!((span.redis_messages_per_publish - 1.0).abs() < 1e-9);
        assert!((span.redis_scripts_per_publish - 0.1).abs() < 1e-9);
    }
}
