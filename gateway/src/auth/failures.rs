//! The counts of failed logins, and the rule that decides which logins must wait. Values and functions;
//! [`super::attempts`] shares them between nodes.
//!
//! The rule (`gateway/docs/operate/security.md`, "Failed logins"). Failures count for the e-mail, for the address and for
//! the pair of both.
//!
//! - An unknown pair waits if its e-mail or its address has five failures within a minute, from any client.
//! - A known pair has logged in within 30 days. It waits only for its own failures, so that no other client can lock
//!   it out. If its e-mail or address has fifty failures within a minute, a known pair that has failed itself in that
//!   minute waits too.
//! - A pair with five failures within a minute waits for a minute, and twice as long after each further failure, up to
//!   15 minutes. So an attacker who keeps guessing soon stops using up the e-mail's five failures a minute.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use parking_lot::Mutex;
use shared::limits::{
    LOGIN_BACK_OFF_KEPT_S, LOGIN_BACK_OFF_MAX_S, LOGIN_BACK_OFF_S, LOGIN_FAILURES_OF_ALL,
    LOGIN_FAILURES_PER_MINUTE, LOGIN_PLACE_KEPT_DAYS, LOGIN_PLACES_MAX,
};

/// Milliseconds in which failures are counted.
pub(super) const WINDOW_MS: u64 = 60_000;
const BACK_OFF_MS: u64 = LOGIN_BACK_OFF_S * 1_000;
const BACK_OFF_MAX_MS: u64 = LOGIN_BACK_OFF_MAX_S * 1_000;
/// Milliseconds that a pair's failures are remembered once it has been made to wait.
pub(super) const BACK_OFF_KEPT_MS: u64 = LOGIN_BACK_OFF_KEPT_S * 1_000;
const DAY_MS: u64 = 86_400_000;
/// How far other nodes' clocks may be ahead. A failure further ahead was recorded before the clock was set back, so its
/// time is unknown.
const AHEAD_MS: u64 = 10_000;

/// Part of a digest of an e-mail, an address, or both. Neither is stored as plain text.
pub(super) type Key = u128;

/// When something failed lately: milliseconds since the epoch, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct History(Vec<u64>);

impl History {
    /// Parses the output of [`Self::text`]; skips invalid numbers.
    pub(super) fn parse(text: &str) -> Self {
        let mut history = Self(text.split(' ').filter_map(|at| at.parse().ok()).collect());
        history.tidy();
        history
    }

    pub(super) fn text(&self) -> String {
        let times: Vec<String> = self.0.iter().map(u64::to_string).collect();
        times.join(" ")
    }

    fn tidy(&mut self) {
        self.0.sort_unstable();
        let more = self.0.len().saturating_sub(LOGIN_FAILURES_OF_ALL);
        self.0.drain(..more);
    }

    /// Adds a failure.
    pub(super) fn note(&mut self, now: u64) {
        self.0.push(now);
        self.tidy();
    }

    /// Adds the failures that other nodes have counted and this one has not.
    fn learn(&mut self, other: &Self) {
        self.0.extend(other.0.iter().filter(|at| !self.0.contains(at)).copied().collect::<Vec<_>>());
        self.tidy();
    }

    /// Milliseconds until fewer than `max` have failed within a minute.
    fn window(&self, max: usize, now: u64) -> Option<u64> {
        let oldest = *self.0.get(self.0.len().checked_sub(max)?)?;
        if oldest > now + AHEAD_MS {
            return None;
        }
        (oldest + WINDOW_MS).checked_sub(now).filter(|wait| *wait > 0)
    }

    /// How often the pair had to wait: once for five failures within a minute, and once for each later failure. Half an
    /// hour without a failure resets it.
    fn strikes(&self) -> u32 {
        let mut strikes: u32 = 0;
        let mut since = 0;
        for (at, time) in self.0.iter().enumerate() {
            if at > 0 && time.saturating_sub(self.0[at - 1]) >= BACK_OFF_KEPT_MS {
                (strikes, since) = (0, at);
            }
            let fifth = (at + 1).checked_sub(LOGIN_FAILURES_PER_MINUTE).filter(|first| *first >= since);
            if strikes > 0 || fifth.is_some_and(|first| time - self.0[first] < WINDOW_MS) {
                strikes += 1;
            }
        }
        strikes
    }

    /// Milliseconds until the pair may try again.
    fn back_off(&self, now: u64) -> Option<u64> {
        let strikes = self.strikes().checked_sub(1)?;
        if *self.0.last()? > now + AHEAD_MS {
            return None;
        }
        let wait =
            BACK_OFF_MS.saturating_mul(1_u64.checked_shl(strikes).unwrap_or(u64::MAX)).min(BACK_OFF_MAX_MS);
        (self.0.last()? + wait).checked_sub(now).filter(|wait| *wait > 0)
    }

    /// Milliseconds after the last failure in which the history matters.
    pub(super) fn kept_ms(&self) -> u64 {
        if self.strikes() > 0 { BACK_OFF_KEPT_MS } else { WINDOW_MS }
    }

    fn is_over(&self, now: u64) -> bool {
        self.0.last().is_none_or(|last| last + self.kept_ms() <= now)
    }
}

/// From where a user has logged in: digests of addresses and the day since the epoch, the latest last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Places(Vec<(Key, u64)>);

impl Places {
    /// Parses the output of [`Self::text`]; skips invalid entries.
    pub(super) fn parse(text: &str) -> Self {
        let place = |text: &str| {
            let (address, day) = text.split_once(':')?;
            Some((Key::from_str_radix(address, 16).ok()?, day.parse().ok()?))
        };
        Self(text.split(' ').filter_map(place).collect())
    }

    pub(super) fn text(&self) -> String {
        let places: Vec<String> =
            self.0.iter().map(|(address, day)| format!("{address:032x}:{day}")).collect();
        places.join(" ")
    }

    /// Records a login from an address.
    pub(super) fn note(&mut self, address: Key, now: u64) {
        let today = now / DAY_MS;
        self.0.retain(|(other, day)| *other != address && day + LOGIN_PLACE_KEPT_DAYS >= today);
        self.0.push((address, today));
        let more = self.0.len().saturating_sub(LOGIN_PLACES_MAX);
        self.0.drain(..more);
    }

    fn learn(&mut self, other: &Self) {
        for place in &other.0 {
            if !self.0.contains(place) {
                self.0.retain(|(address, _)| *address != place.0);
                self.0.push(*place);
            }
        }
        self.0.sort_by_key(|(_, day)| *day);
        let more = self.0.len().saturating_sub(LOGIN_PLACES_MAX);
        self.0.drain(..more);
    }

    fn has(&self, address: Key, now: u64) -> bool {
        let today = now / DAY_MS;
        self.0.iter().any(|(other, day)| *other == address && day + LOGIN_PLACE_KEPT_DAYS >= today)
    }
}

/// The e-mail and the address of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) email: Key,
    pub(super) address: Key,
    pub(super) pair: Key,
}

/// A bounded number of failed and successful logins that a node knows.
#[derive(Debug)]
pub(super) struct Ledger {
    max_keys: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: HashMap<Key, History>,
    places: HashMap<Key, Places>,
    /// When expired entries were last removed.
    tidied_at: u64,
}

impl Ledger {
    pub(super) fn new(max_keys: usize) -> Self {
        Self { max_keys, state: Mutex::default() }
    }

    /// Whether the pair has logged in recently.
    pub(super) fn is_known(&self, who: &Who, now: u64) -> bool {
        self.state.lock().is_known(who, now)
    }

    /// Milliseconds until the pair may try again because of its own failures.
    pub(super) fn back_off(&self, who: &Who, now: u64) -> Option<u64> {
        self.state.lock().failures.get(&who.pair)?.back_off(now)
    }

    /// Milliseconds until `who` may try; `None` if they may now.
    pub(super) fn wait(&self, who: &Who, now: u64) -> Option<u64> {
        let state = self.state.lock();
        let of = |key| state.failures.get(&key);
        let window = |key, max| of(key).and_then(|history| history.window(max, now));
        let back_off = of(who.pair).and_then(|pair| pair.back_off(now));
        let max = if !state.is_known(who, now) {
            LOGIN_FAILURES_PER_MINUTE
        } else if window(who.pair, 1).is_some() {
            LOGIN_FAILURES_OF_ALL
        } else {
            return back_off;
        };
        [back_off, window(who.email, max), window(who.address, max)].into_iter().flatten().max()
    }

    /// Records a failure, and returns how long to remember the pair's.
    pub(super) fn failed(&self, who: &Who, now: u64) -> u64 {
        let mut state = self.state.lock();
        state.make_room(self.max_keys, now);
        for key in [who.email, who.address, who.pair] {
            state.failures.entry(key).or_default().note(now);
        }
        state.failures.get(&who.pair).map_or(WINDOW_MS, History::kept_ms)
    }

    /// Records a successful login. It resets the pair's failures; those of the e-mail and the address still count.
    pub(super) fn succeeded(&self, who: &Who, now: u64) {
        let mut state = self.state.lock();
        state.make_room(self.max_keys, now);
        state.failures.remove(&who.pair);
        state.places.entry(who.email).or_default().note(who.address, now);
    }

    /// Adds the failures that other nodes know for a key.
    pub(super) fn learn_failures(&self, key: Key, history: &History, now: u64) {
        let mut state = self.state.lock();
        state.make_room(self.max_keys, now);
        match state.failures.entry(key) {
            Entry::Occupied(mut known) => known.get_mut().learn(history),
            Entry::Vacant(new) => {
                new.insert(history.clone());
            }
        }
    }

    /// Adds the addresses from which an e-mail has logged in on other nodes.
    pub(super) fn learn_places(&self, email: Key, places: &Places, now: u64) {
        let mut state = self.state.lock();
        state.make_room(self.max_keys, now);
        state.places.entry(email).or_default().learn(places);
    }
}

impl State {
    fn is_known(&self, who: &Who, now: u64) -> bool {
        self.places.get(&who.email).is_some_and(|places| places.has(who.address, now))
    }

    /// Removes expired entries once a minute, and arbitrary ones if there are too many.
    fn make_room(&mut self, max: usize, now: u64) {
        if now.abs_diff(self.tidied_at) >= WINDOW_MS {
            self.failures.retain(|_, history| !history.is_over(now));
            self.tidied_at = now;
        }
        while self.failures.len() + 3 > max.max(3) {
            let Some(any) = self.failures.keys().next().copied() else { break };
            self.failures.remove(&any);
        }
        while self.places.len() + 1 > max.max(1) {
            let Some(any) = self.places.keys().next().copied() else { break };
            self.places.remove(&any);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000_000;
    const SECOND: u64 = 1_000;
    const MINUTE: u64 = 60 * SECOND;

    fn who(email: Key, address: Key) -> Who {
        Who { email, address: 1_000 + address, pair: 1_000_000 + email * 1_000 + address }
    }

    fn ledger() -> Ledger {
        Ledger::new(10_000)
    }

    #[test]
    fn five_failures_of_an_e_mail_or_an_address_within_a_minute_stop_strangers() {
        let ledger = ledger();
        for n in 0..5 {
            assert_eq!(ledger.wait(&who(1, n.into()), START + n), None);
            ledger.failed(&who(1, n.into()), START + n);
        }
        assert_eq!(ledger.wait(&who(1, 99), START + 4), Some(MINUTE - 4));
        assert_eq!(ledger.wait(&who(1, 99), START + MINUTE), None);
        assert_eq!(ledger.wait(&who(2, 99), START + 4), None);
        for n in 0..5 {
            ledger.failed(&who(10 + n, 7), START);
        }
        assert_eq!(ledger.wait(&who(20, 7), START), Some(MINUTE));
        assert_eq!(ledger.wait(&who(20, 8), START), None);
    }

    #[test]
    fn a_known_pair_is_not_stopped_by_failures_of_others() {
        let ledger = ledger();
        let victim = who(1, 1);
        ledger.succeeded(&victim, START);
        for n in 2..100 {
            // From another address, and with other e-mails from the same address.
            ledger.failed(&who(1, n), START);
            ledger.failed(&who(n, 1), START);
        }
        assert!(ledger.is_known(&victim, START));
        assert_eq!(ledger.wait(&victim, START), None);
        assert_eq!(ledger.wait(&who(1, 2), START), Some(MINUTE));
        // It has one failure of its own: then the wide bound applies.
        ledger.failed(&victim, START);
        assert_eq!(ledger.wait(&victim, START), Some(MINUTE));
        assert_eq!(ledger.wait(&victim, START + MINUTE), None);
    }

    #[test]
    fn a_known_pair_is_stopped_by_its_own_failures() {
        let ledger = ledger();
        let pair = who(1, 1);
        ledger.succeeded(&pair, START);
        for _ in 0..5 {
            assert_eq!(ledger.wait(&pair, START), None);
            ledger.failed(&pair, START);
        }
        assert_eq!(ledger.wait(&pair, START), Some(MINUTE));
        // A login with the right password ends that.
        ledger.succeeded(&pair, START + MINUTE);
        assert_eq!(ledger.wait(&pair, START + MINUTE), None);
    }

    #[test]
    fn continued_guessing_doubles_the_wait_and_leaves_the_e_mail_to_others() {
        let ledger = ledger();
        let (guesser, honest) = (who(1, 1), who(1, 2));
        let mut now = START;
        for _ in 0..5 {
            ledger.failed(&guesser, now);
        }
        let mut waits = Vec::new();
        for _ in 0..6 {
            let wait = ledger.wait(&guesser, now).unwrap();
            waits.push(wait / SECOND);
            now += wait;
            assert_eq!(ledger.wait(&guesser, now), None);
            assert_eq!(ledger.wait(&honest, now), None);
            ledger.failed(&guesser, now);
        }
        assert_eq!(waits, [60, 120, 240, 480, 900, 900]);
        // Half an hour without a failure resets it.
        now += BACK_OFF_KEPT_MS;
        ledger.failed(&guesser, now);
        assert_eq!(ledger.wait(&guesser, now), None);
    }

    #[test]
    fn a_login_clears_the_pair_and_neither_the_e_mail_nor_the_address() {
        let ledger = ledger();
        for n in 0..4 {
            ledger.failed(&who(10 + n, 1), START);
        }
        ledger.succeeded(&who(1, 1), START);
        ledger.failed(&who(20, 1), START);
        assert_eq!(ledger.wait(&who(30, 1), START), Some(MINUTE));
    }

    #[test]
    fn places_are_few_and_forgotten_in_a_month() {
        let mut places = Places::default();
        for address in 0..100 {
            places.note(address, START);
        }
        assert_eq!(places.0.len(), LOGIN_PLACES_MAX);
        assert!(places.has(99, START) && !places.has(0, START));
        assert!(places.has(99, START + 30 * DAY_MS) && !places.has(99, START + 31 * DAY_MS));
        assert_eq!(Places::parse(&places.text()), places);
        assert_eq!(Places::parse("rubbish :: 12:"), Places::default());
        let mut other = Places::default();
        other.learn(&places);
        other.learn(&places);
        assert_eq!(other.0.len(), places.0.len());
    }

    #[test]
    fn histories_are_shared_as_text() {
        let mut history = History::default();
        for n in 0..100 {
            history.note(START + n);
        }
        assert_eq!(history.0.len(), LOGIN_FAILURES_OF_ALL);
        assert_eq!(History::parse(&history.text()), history);
        assert_eq!(History::parse("x  -1 7"), History(vec![7]));
        let mut other = History(vec![START + 99, START + 200]);
        other.learn(&history);
        assert_eq!(other.0.iter().filter(|at| **at == START + 99).count(), 1);
        assert_eq!(other.0.last(), Some(&(START + 200)));
    }

    #[test]
    fn the_ledger_is_bounded_and_forgets() {
        let ledger = Ledger::new(100);
        for n in 0..1_000 {
            ledger.failed(&who(n, n), START);
            ledger.succeeded(&who(n, n), START);
        }
        assert!(ledger.state.lock().failures.len() <= 100);
        assert!(ledger.state.lock().places.len() <= 100);
        ledger.failed(&who(1, 1), START + 2 * MINUTE);
        assert_eq!(ledger.state.lock().failures.len(), 3);
    }
}
