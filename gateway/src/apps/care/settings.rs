//! The settings of `care`.

use std::time::Duration;

use shared::config::{AnyAppSetting, AppSetting, AppSettings};

static CALLS_PER_MINUTE: AppSetting<u32> = AppSetting::number(
    "calls_per_minute",
    "10",
    "Calls of `care` that one user may start in a minute, in a burst or spread out. The same caller may call the same user three tenths as often. All callers together may call one user twice as often. 0: no limit.",
);

static CALL_RING: AppSetting<Duration> =
    AppSetting::duration("call_ring", "30s", "How long a call of `care` rings before it is missed.");

static PRESENCE_GRACE: AppSetting<Duration> = AppSetting::duration(
    "presence_grace",
    "15s",
    "How long a disconnected user of `care` keeps their presence and their call.",
);

static PRESENCE_AWAY: AppSetting<Duration> = AppSetting::duration(
    "presence_away",
    "5m",
    "How long a user of `care` is idle before they count as away.",
);

pub(super) static ALL: &[&dyn AnyAppSetting] =
    &[&CALLS_PER_MINUTE, &CALL_RING, &PRESENCE_GRACE, &PRESENCE_AWAY];

/// The values of the settings.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) calls_per_minute: u32,
    pub(super) call_ring: Duration,
    pub(super) presence_grace: Duration,
    pub(super) presence_away: Duration,
}

impl Settings {
    pub(super) fn of(settings: &AppSettings) -> Self {
        Self {
            calls_per_minute: settings.get(&CALLS_PER_MINUTE),
            call_ring: settings.get(&CALL_RING),
            presence_grace: settings.get(&PRESENCE_GRACE),
            presence_away: settings.get(&PRESENCE_AWAY),
        }
    }
}
