//! The state machine of a call: its states, and the one function that moves it between them (document 004, "Call
//! States"; contract, "care").

/// The state of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum State {
    /// Requested, but not announced yet.
    Initiating,
    /// Ringing at the recipient's sockets.
    Ringing,
    /// Accepted by the recipient.
    Accepted,
    /// The parties are talking.
    InProgress,
    /// Ended by a party.
    Ended,
    /// Rejected by the recipient.
    Rejected,
    /// Not accepted in time.
    Missed,
    /// A party was lost.
    Failed,
}

/// An event in the life of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Happening {
    /// The call reaches the recipient.
    Ring,
    /// The recipient accepts it.
    Accept,
    /// The recipient rejects it.
    Reject,
    /// A party sends a WebRTC signal.
    Signal,
    /// A party ends it.
    End,
    /// The ringing time is over.
    RingTimeout,
    /// The caller's last socket was lost and did not return in time.
    CallerLost,
    /// The same for the recipient.
    RecipientLost,
}

/// Why an event is not possible in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The call is over.
    Over,
    /// The call is not ringing.
    NotRinging,
    /// The call is not active.
    NotActive,
    /// The event has no effect in this state.
    Nothing,
}

impl State {
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

    /// Parses the state of a record.
    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether the call is over.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Self::Ended | Self::Rejected | Self::Missed | Self::Failed)
    }

    /// Whether the recipient has accepted and the call goes on.
    pub(super) fn is_active(self) -> bool {
        matches!(self, Self::Accepted | Self::InProgress)
    }

    /// The state after an event.
    ///
    /// # Errors
    /// Why the event is not possible now.
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
            // The recipient may reconnect while it rings: a push notification wakes them.
            (Self::Initiating | Self::Ringing, H::RecipientLost)
            | (Self::Initiating, H::CallerLost)
            | (Self::Initiating | Self::Accepted | Self::InProgress, H::RingTimeout) => Err(Refusal::Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All events, in the order of the columns below.
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
        // Each cell is the next state, or a refusal: over, not ringing, not active, or no effect.
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
