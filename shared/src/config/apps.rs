//! Declarations of apps and their settings. The gateway declares its apps; this module defines the form of a declaration,
//! and holds the values that were set.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::parse::{self, Expected};
use super::settings::Setting;
use super::{Secret, SecretUrl};

/// An app that may be mounted, with its settings.
#[derive(Debug)]
pub struct AppDeclaration {
    /// Its name in settings, metrics and documents.
    pub name: &'static str,
    /// Its default namespace.
    pub namespace: &'static str,
    /// Whether it keeps records, which all nodes must share.
    pub keeps_records: bool,
    /// Its settings, each an [`AppSetting`]. Several apps may declare the same one.
    pub settings: &'static [&'static dyn AnyAppSetting],
}

impl PartialEq for AppDeclaration {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for AppDeclaration {}

/// The sensitivity of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sensitivity {
    /// Nothing.
    Plain,
    /// A secret: never shown; a guessable one causes a warning.
    Secret,
    /// The address of an external service: its credentials are never shown.
    WebAddress {
        /// The risk without https, as the end of a warning.
        open_line: &'static str,
    },
}

/// A setting of an app, with the type of its value.
pub struct AppSetting<T> {
    setting: Setting,
    sensitivity: Sensitivity,
    parse: fn(&str) -> Result<T, Expected>,
}

impl<T> AppSetting<T> {
    const fn plain(setting: Setting, parse: fn(&str) -> Result<T, Expected>) -> Self {
        Self { setting, sensitivity: Sensitivity::Plain, parse }
    }
}

impl<T> fmt::Debug for AppSetting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AppSetting").field(&self.setting.key).finish()
    }
}

impl AppSetting<Duration> {
    /// A duration of at most 24 hours; `default` in the syntax of settings.
    #[must_use]
    pub const fn duration(key: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::plain(Setting::new(key, default, help), parse::duration)
    }

    /// A duration of at most 30 days.
    #[must_use]
    pub const fn age(key: &'static str, default: &'static str, help: &'static str) -> Self {
        Self::plain(Setting::new(key, default, help), parse::age)
    }
}

impl AppSetting<u32> {
    /// A whole number, 0 for no limit; larger numbers than a `u32` become its maximum.
    #[must_use]
    pub const fn number(key: &'static str, default: &'static str, help: &'static str) -> Self {
        let parse = |text: &str| parse::number(text).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        Self::plain(Setting::new(key, default, help), parse)
    }
}

impl AppSetting<Option<SecretUrl>> {
    /// An `http://` or `https://` address, empty by default; `open_line` as in [`Sensitivity::WebAddress`].
    #[must_use]
    pub const fn web_address(key: &'static str, help: &'static str, open_line: &'static str) -> Self {
        let parse =
            |text: &str| parse::web_address(text).map(|url| (!url.is_empty()).then(|| SecretUrl::new(url)));
        let sensitivity = Sensitivity::WebAddress { open_line };
        Self { setting: Setting::new(key, "", help), sensitivity, parse }
    }
}

impl AppSetting<Option<Secret>> {
    /// A secret, empty by default.
    #[must_use]
    pub const fn secret(key: &'static str, help: &'static str) -> Self {
        let parse = |text: &str| Ok((!text.is_empty()).then(|| Secret(text.to_owned())));
        Self { setting: Setting::secret(key, help), sensitivity: Sensitivity::Secret, parse }
    }
}

/// A setting of an app, of any type.
pub trait AnyAppSetting: fmt::Debug + Sync {
    /// Its key, default and meaning.
    fn setting(&self) -> &Setting;

    /// The sensitivity of its value.
    fn sensitivity(&self) -> Sensitivity;

    /// Whether a text is a valid value.
    ///
    /// # Errors
    /// The expected form.
    fn check(&self, text: &str) -> Result<(), String>;
}

impl<T> AnyAppSetting for AppSetting<T> {
    fn setting(&self) -> &Setting {
        &self.setting
    }

    fn sensitivity(&self) -> Sensitivity {
        self.sensitivity
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
        // Free texts are left out: they may contain anything.
        f.debug_set().entries(self.texts.keys()).finish()
    }
}

impl AppSettings {
    /// Stores the text of a checked setting.
    pub(super) fn set(&mut self, key: &'static str, text: &str) {
        self.texts.insert(key, text.to_owned());
    }

    /// The text of a setting; `None` where it is empty.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.texts.get(key).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// The effective value. Read it once, when the app starts.
    #[must_use]
    pub fn get<T: Default>(&self, setting: &AppSetting<T>) -> T {
        let Setting { key, default, .. } = &setting.setting;
        let text = self.texts.get(key).map_or(&**default, String::as_str);
        // Every text was checked, and a test checks every default.
        (setting.parse)(text).unwrap_or_default()
    }
}

/// Apps for the tests of settings.
#[cfg(test)]
pub(super) mod testing {
    use super::{AppDeclaration, AppSetting, Duration, Secret, SecretUrl};

    static AGE: AppSetting<Duration> = AppSetting::age("sos_age", "24h", "An age.");
    static RING: AppSetting<Duration> = AppSetting::duration("call_ring", "30s", "A duration.");
    static CALLS: AppSetting<u32> = AppSetting::number("calls_per_minute", "10", "A number.");

    static WEBHOOK: AppSetting<Option<SecretUrl>> =
        AppSetting::web_address("push_webhook_url", "An address.", "an attacker on the network can read it");
    static KEY: AppSetting<Option<Secret>> = AppSetting::secret("push_webhook_secret", "A secret.");

    const PLAIN: AppDeclaration =
        AppDeclaration { name: "chat", namespace: "/", keeps_records: true, settings: &[] };

    /// The apps.
    pub(crate) static APPS: [&AppDeclaration; 4] = [
        &AppDeclaration { name: "sos", settings: &[&AGE], ..PLAIN },
        &AppDeclaration {
            name: "emergencies",
            namespace: "/emergencies",
            settings: &[&WEBHOOK, &KEY],
            ..PLAIN
        },
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
        use super::super::{Config, Layer, Layers};
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
        let url = |config: Config| config.apps.get(&WEBHOOK).map(|url| url.expose().to_owned());
        assert_eq!(
            url(set("push_webhook_url", "https://p.example/x").unwrap()).unwrap(),
            "https://p.example/x"
        );
        assert_eq!(url(set("sos_age", "3d").unwrap()), None);
        let said = set("push_webhook_url", "p.example").map(drop).unwrap_err()[0].to_string();
        assert!(said.starts_with("PUSH_WEBHOOK_URL = \"p.example\": expected an http://"), "{said}");
        assert_eq!(set("push_webhook_secret", "hush").unwrap().apps.get(&KEY).unwrap().0, "hush");
    }
}
