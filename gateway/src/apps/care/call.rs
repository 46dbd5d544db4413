//! A call: its states, and the one function that moves it from one to the next (document 004, "Call States";
//! contract, "care").

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// Asked for; nobody knows of it yet.
    Initiating,
    /// At the recipient's.
    Ringing,
    /// Taken by the recipient.
    Accepted,
    /// The two talk.
    InProgress,
    /// Ended by a party.
    Ended,
    /// Declined.
    Rejected,
    /// Not taken in time.
    Missed,
    /// A party was lost.
    Failed,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Happening {
    /// It is brought to the recipient.
    Ring,
    /// The recipient takes it.
    Accept,
    /// The recipient declines it.
    Reject,
    /// A party sends something of WebRTC.
    Signal,
    /// A party ends it.
    End,
    /// It has rung long enough.
    RingTimeout,
    /// The caller's last socket was lost and did not come back.
    CallerLost,
    /// Likewise the recipient's.
    RecipientLost,
}

/// Why something cannot happen to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is over.
    Over,
    /// It does not ring any more, or not yet.
    NotRinging,
    /// Nobody talks in it.
    NotActive,
    /// Nothing that matters in this state.
    Nothing,
}

impl State {
    /// Every state.
    pub(super) const ALL: [Self; 8] = [
        Self::Initiating,
        Self::Ringing,
        Self::Accepted,
        Self::InProgress,
        Self::Ended,
        Self::Rejected,
        Self::Missed,
        Self::Failed,
    ];

    /// The word in records and on the wire.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Initiating => "initiating",
            Self::Ringing => "ringing",
            Self::Accepted => "accepted",
            Self::InProgress => "in_progress",
            Self::Ended => "ended",
            Self::Rejected => "rejected",
            Self::Missed => "missed",
            Self::Failed => "failed",
        }
    }

    /// The state of a record.
    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether nothing can happen any more.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Ended | Self::Rejected | Self::Missed | Self::Failed)
    }

    /// Whether the two are connected.
    pub(super) fn is_active(self) -> bool {
        matches!(self, Self::Accepted | Self::InProgress)
    }

    /// Where the call stands after something has happened.
    ///
    /// # Errors
    /// Why it cannot happen now.
    pub(super) fn after(self, happening: Happening) -> Result<Self, Refusal> {
        use Happening as H;
        match (self, happening) {
            (Self::Ended | Self::Rejected | Self::Missed | Self::Failed, _) => Err(Refusal::Over),
            (Self::Initiating, H::Ring) => Ok(Self::Ringing),
            (Self::Ringing, H::Accept) => Ok(Self::Accepted),
            (Self::Ringing, H::Reject) => Ok(Self::Rejected),
            (Self::Ringing, H::RingTimeout) => Ok(Self::Missed),
            (Self::Accepted | Self::InProgress, H::Signal) => Ok(Self::InProgress),
            (Self::Ringing | Self::Accepted | Self::InProgress, H::End) => Ok(Self::Ended),
            (Self::Ringing | Self::Accepted | Self::InProgress, H::CallerLost)
            | (Self::Accepted | Self::InProgress, H::RecipientLost) => Ok(Self::Failed),
            (_, H::Accept | H::Reject | H::Ring) => Err(Refusal::NotRinging),
            (Self::Initiating | Self::Ringing, H::Signal) | (Self::Initiating, H::End) => {
                Err(Refusal::NotActive)
            }
            // Who was called may come back while it rings: a push notification wakes them.
            (Self::Initiating | Self::Ringing, H::RecipientLost)
            | (Self::Initiating, H::CallerLost)
            | (Self::Initiating | Self::Accepted | Self::InProgress, H::RingTimeout) => Err(Refusal::Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair, in the order of the columns below.
    const HAPPENINGS: [Happening; 8] = [
        Happening::Ring,
        Happening::Accept,
        Happening::Reject,
        Happening::Signal,
        Happening::End,
        Happening::RingTimeout,
        Happening::CallerLost,
        Happening::RecipientLost,
    ];

    #[test]
    fn every_state_meets_every_happening() {
        // over, not ringing, not active, nothing that matters; else the next state.
        let table = [
            // ring accept reject signal end timeout caller-lost recipient-lost
            ("initiating", "ringing ring? ring? active? active? - - -"),
            ("ringing", "ring? accepted rejected active? ended missed failed -"),
            ("accepted", "ring? ring? ring? in_progress ended - failed failed"),
            ("in_progress", "ring? ring? ring? in_progress ended - failed failed"),
            ("ended", "over over over over over over over over"),
            ("rejected", "over over over over over over over over"),
            ("missed", "over over over over over over over over"),
            ("failed", "over over over over over over over over"),
        ];
        assert_eq!(table.len(), State::ALL.len());
        for (state, row) in table {
            let state = State::parse(state).unwrap();
            let expected: Vec<&str> = row.split(' ').collect();
            assert_eq!(expected.len(), HAPPENINGS.len());
            for (happening, expected) in HAPPENINGS.into_iter().zip(expected) {
                let found = match state.after(happening) {
                    Ok(next) => next.as_str(),
                    Err(Refusal::Over) => "over",
                    Err(Refusal::NotRinging) => "ring?",
                    Err(Refusal::NotActive) => "active?",
                    Err(Refusal::Nothing) => "-",
                };
                assert_eq!(found, expected, "{state:?} {happening:?}");
            }
        }
    }

    #[test]
    fn over_is_over() {
        for state in State::ALL {
            let ends = HAPPENINGS.iter().all(|happening| state.after(*happening) == Err(Refusal::Over));
            assert_eq!(state.is_over(), ends, "{state:?}");
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
    }
}
