//! Connects a whole swarm.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use mio::event::Event;
use mio::{Interest, Token};

use crate::client::conn::{Conn, Phase};
use crate::client::dial::dial;
use crate::client::{Driver, Outgoing, Party, Swarm};
use crate::sys;

/// Concurrent connection attempts: below the usual listen backlogs, beyond which a SYN is dropped and repeated a
/// second later.
const UNDER_WAY: usize = 256;
/// How long nothing may happen before the run is aborted.
const PATIENCE: Duration = Duration::from_secs(15);
/// The interval of checks of the ramp.
const STEP_NS: u64 = 5_000_000;
const NS_PER_S: u64 = 1_000_000_000;

impl Swarm {
    /// Opens connections until `count` are members of their rooms, at most `ramp` new ones a second
    /// (0: no limit), and returns how long it took. An `Err` names the first connection that failed.
    pub(crate) fn connect(&mut self, count: usize, ramp: u64) -> Result<Duration> {
        let limit = sys::raise_file_limit()?;
        if count as u64 + 16 > limit {
            bail!("{count} connections need more open files than the limit of {limit}");
        }
        let bar = progress_bar(count);
        let start = sys::now_ns();
        let (mut seen, mut seen_at) = (self.party.progress(), start);
        while self.party.tally.ready < count {
            let now = sys::now_ns();
            self.dial_due(count, allowed(ramp, now - start))?;
            self.turn(&mut IgnoreEvents, now + STEP_NS)?;
            let (progress, ready) = (self.party.progress(), self.party.tally.ready);
            if progress != seen {
                (seen, seen_at) = (progress, now);
                bar.set_position(ready as u64);
            } else if Duration::from_nanos(now - seen_at) > PATIENCE {
                bail!(
                    "nothing has happened for {} s, {} of {count} connections are ready; {}",
                    PATIENCE.as_secs(),
                    ready,
                    self.party.first_unready()
                );
            }
        }
        bar.finish_and_clear();
        Ok(Duration::from_nanos(sys::now_ns() - start))
    }

    /// The phase of the first connection that is not closed; empty if all are.
    pub(crate) fn first_open(&self) -> String {
        let conns = &self.party.conns;
        let at = conns.iter().position(|conn| conn.phase != Phase::Closed);
        at.map(|i| format!("connection {i} is {:?}", conns[i].phase)).unwrap_or_default()
    }

    fn dial_due(&mut self, count: usize, allowed: u64) -> Result<()> {
        loop {
            let i = self.party.conns.len();
            let under_way = i - self.party.tally.ready;
            if i >= count || i as u64 >= allowed || under_way >= UNDER_WAY {
                return Ok(());
            }
            self.dial(i)?;
        }
    }

    /// As [`Self::dial`], where clients return: an attempt that cannot even begin counts as refused. Returns whether
    /// it began.
    pub(crate) fn dial_again(&mut self, i: usize) -> bool {
        let Err(error) = self.dial(i) else {
            return true;
        };
        let tally = &mut self.party.tally;
        tally.refused += 1;
        tally.first_refusal.get_or_insert(format!("{error:#}"));
        false
    }

    /// Opens connection `i`: the next one, or a closed one again.
    pub(crate) fn dial(&mut self, i: usize) -> Result<()> {
        let mut stream =
            dial(self.to[i % self.to.len()], i).with_context(|| format!("dialling connection {i}"))?;
        self.poll.registry().register(&mut stream, Token(i), Interest::READABLE | Interest::WRITABLE)?;
        let conn = Conn::new(stream);
        match self.party.conns.get_mut(i) {
            Some(place) => {
                // It counted as ready if it ever was.
                self.party.tally.ready -= usize::from(place.was_ready);
                *place = conn;
            }
            None => self.party.conns.push(conn),
        }
        Ok(())
    }
}

impl Party {
    /// Whether the TCP handshake is over; if so the upgrade has been sent.
    pub(super) fn dialed(&mut self, i: usize, event: &Event) -> Result<bool> {
        let conn = &mut self.conns[i];
        let Some(stream) = &conn.stream else {
            return Ok(false);
        };
        if let Some(error) = stream.take_error()? {
            return Err(error).with_context(|| format!("connection {i}"));
        }
        if !event.is_writable() {
            return Ok(false);
        }
        conn.phase = Phase::Upgrading;
        conn.write(&self.script.upgrade(i).request).with_context(|| format!("connection {i}"))?;
        Ok(true)
    }

    /// Increases with every step of every connection's dialogue.
    fn progress(&self) -> (usize, usize, u64) {
        (self.conns.len(), self.tally.ready, self.tally.frames)
    }

    fn first_unready(&self) -> String {
        let at = self.conns.iter().position(|conn| conn.phase != Phase::Ready);
        at.map(|i| format!("connection {i} is {:?}", self.conns[i].phase)).unwrap_or_default()
    }
}

/// How many connections may have been dialled after `elapsed_ns`.
fn allowed(ramp: u64, elapsed_ns: u64) -> u64 {
    if ramp == 0 {
        return u64::MAX;
    }
    u64::try_from(u128::from(ramp) * u128::from(elapsed_ns) / u128::from(NS_PER_S))
        .unwrap_or(u64::MAX)
        .saturating_add(1)
}

/// On standard error, and only where that is a terminal.
fn progress_bar(count: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("connecting {bar:40} {pos}/{len} {per_sec}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(count as u64).with_style(style)
}

/// Ignores events: those before all connections are ready do not count.
struct IgnoreEvents;

impl Driver for IgnoreEvents {
    fn event(&mut self, _conn: usize, _array: &[u8], _at_ns: u64, _out: &mut Outgoing) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ramp_lets_one_start_at_once_and_the_rest_by_the_clock() {
        assert_eq!(allowed(0, 0), u64::MAX);
        assert_eq!(allowed(1000, 0), 1);
        assert_eq!(allowed(1000, NS_PER_S / 2), 501);
        assert_eq!(allowed(u64::MAX, u64::MAX), u64::MAX);
    }
}
