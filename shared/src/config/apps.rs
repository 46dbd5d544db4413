//! What settings know of apps. The gateway declares its apps and their settings beside the apps; here is only what a
//! declaration looks like, and what was set.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::parse::{self, Expected};
use super::settings::Setting;

/// An app that may be mounted, as far as settings go.
#[derive(Debug)]
pub struct AppDeclaration {
    /// Its name in settings, metrics and documents.
    pub name: &'static str,
    /// Where it is mounted unless `mounts` is set.
    pub namespace: &'static str,
    /// Whether it keeps records, which all nodes must share then.
    pub keeps_records: bool,
    /// Whether it asks for push notifications.
    pub pushes: bool,
    /// Settings of its own, each an [`AppSetting`].
    pub settings: &'static [&'static dyn AnyAppSetting],
}

impl PartialEq for AppDeclaration {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for AppDeclaration {}

/// A setting of an app, with the type of its value.
pub struct AppSetting<T> {
    setting: Setting,
    parse: fn(&str) -> Result<T, Expected>,
}

impl<T> fmt::Debug for AppSetting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AppSetting").field(&self.setting.key).finish()
    }
}

impl AppSetting<Duration> {
    /// A duration of 24 hours at most; `default` as it is written in settings.
    #[must_use]
    pub const fn duration(key: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { setting: Setting::new(key, default, help), parse: parse::duration }
    }

    /// A duration of 30 days at most.
    #[must_use]
    pub const fn age(key: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { setting: Setting::new(key, default, help), parse: parse::age }
    }
}

impl AppSetting<u32> {
    /// A whole number, 0 for no limit; what is larger than a `u32` is the largest.
    #[must_use]
    pub const fn number(key: &'static str, default: &'static str, help: &'static str) -> Self {
        let parse = |text: &str| parse::number(text).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        Self { setting: Setting::new(key, default, help), parse }
    }
}

/// A setting of an app, whatever its type.
pub trait AnyAppSetting: fmt::Debug + Sync {
    /// Its key, default and meaning.
    fn setting(&self) -> &Setting;

    /// Whether a text can be its value.
    ///
    /// # Errors
    /// What should have stood there.
    fn check(&self, text: &str) -> Result<(), String>;
}

impl<T> AnyAppSetting for AppSetting<T> {
    fn setting(&self) -> &Setting {
        &self.setting
    }

    fn check(&self, text: &str) -> Result<(), String> {
        (self.parse)(text).map(drop).map_err(String::from)
    }
}

/// The apps' settings, checked.
#[derive(Clone, Default)]
pub struct AppSettings {
    texts: BTreeMap<&'static str, String>,
}

impl fmt::Debug for AppSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Free texts are left out: anything may have been written there.
        f.debug_set().entries(self.texts.keys()).finish()
    }
}

impl AppSettings {
    /// Notes the text of a setting that was checked.
    pub(super) fn set(&mut self, key: &'static str, text: &str) {
        self.texts.insert(key, text.to_owned());
    }

    /// The value in force. To be read once, when the app starts.
    #[must_use]
    pub fn get<T: Default>(&self, setting: &AppSetting<T>) -> T {
        let Setting { key, default, .. } = &setting.setting;
        let text = self.texts.get(key).map_or(&**default, String::as_str);
        // Every text was checked, and every default is by a test.
        (setting.parse)(text).unwrap_or_default()
    }
}

/// Apps for the tests of settings.
#[cfg(test)]
pub(super) mod testing {
    use super::{AppDeclaration, AppSetting, Duration};

    static AGE: AppSetting<Duration> = AppSetting::age("sos_age", "24h", "An age.");
    static RING: AppSetting<Duration> = AppSetting::duration("call_ring", "30s", "A duration.");
    static CALLS: AppSetting<u32> = AppSetting::number("calls_per_minute", "10", "A number.");

    const PLAIN: AppDeclaration =
        AppDeclaration { name: "chat", namespace: "/", keeps_records: true, pushes: false, settings: &[] };

    /// The apps.
    pub(crate) static APPS: [&AppDeclaration; 4] = [
        &AppDeclaration { name: "sos", settings: &[&AGE], ..PLAIN },
        &AppDeclaration { name: "emergencies", namespace: "/emergencies", pushes: true, ..PLAIN },
        &AppDeclaration { settings: &[&CALLS, &RING], ..PLAIN },
        &AppDeclaration { name: "relay", namespace: "/relay", keeps_records: false, ..PLAIN },
    ];

    impl Default for super::super::Layers {
        fn default() -> Self {
            Self::new(APPS.to_vec())
        }
    }

    #[test]
    fn a_setting_of_an_app_is_checked_and_has_its_type() {
        use super::super::{Layer, Layers};
        let set = |key, text| {
            let mut layers = Layers::default();
            layers.set(Layer::Environment, key, text);
            layers.resolve()
        };
        assert_eq!(set("sos_age", "3d").unwrap().apps.get(&AGE), Duration::from_hours(72));
        assert_eq!(set("sos_age", "3d").unwrap().apps.get(&RING), Duration::from_secs(30));
        assert_eq!(set("calls_per_minute", "5000000000").unwrap().apps.get(&CALLS), u32::MAX);
        let said = set("call_ring", "3d").unwrap_err()[0].to_string();
        assert!(said.starts_with("CALL_RING = \"3d\": expected a duration up to 24h"), "{said}");
    }
}
