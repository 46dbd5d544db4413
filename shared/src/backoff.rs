//! Computes pauses between attempts.

use std::time::Duration;

/// Pauses that double, up to a bound, each with jitter: between half and all of it, so that callers that failed
/// together do not retry together.
///
/// It generates no random numbers: [`Backoff::pause`] takes one.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Begins with pauses of `first`; none is longer than `max`.
    #[must_use]
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// The next pause. `random` is from 0 to 1.
    pub fn pause(&mut self, random: f64) -> Duration {
        let whole = self.next.min(self.max);
        self.next = whole.saturating_mul(2);
        whole.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// Starts again with the first pause, after a successful attempt.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound_and_begin_again_after_a_success() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(350));
        assert_eq!([1.0; 4].map(|random| backoff.pause(random)), [ms(100), ms(200), ms(350), ms(350)]);
        backoff.reset();
        assert_eq!([0.0, 0.5].map(|random| backoff.pause(random)), [ms(50), ms(150)]);
    }
}
