//! The list of all metrics with their help and labels, for the reference page: a recorder that collects what the node
//! describes and registers.

use std::collections::BTreeMap;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

/// A metric.
#[derive(Debug, Default, Clone)]
pub(crate) struct Entry {
    /// `counter`, `gauge` or `histogram`.
    pub(crate) kind: &'static str,
    pub(crate) help: String,
    /// The values of each label, in the order of the code.
    pub(crate) labels: BTreeMap<String, Vec<String>>,
}

/// Metrics by name.
type Catalogue = BTreeMap<String, Entry>;

#[derive(Debug, Default)]
struct Listing(Mutex<Catalogue>);

impl Listing {
    fn describe(&self, name: &KeyName, kind: &'static str, help: &SharedString) {
        let mut found = self.0.lock();
        let entry = found.entry(name.as_str().to_owned()).or_default();
        (entry.kind, entry.help) = (kind, help.to_string());
    }

    fn register(&self, key: &Key) {
        let mut found = self.0.lock();
        let entry = found.entry(key.name().to_owned()).or_default();
        for label in key.labels() {
            let values = entry.labels.entry(label.key().to_owned()).or_default();
            if !values.iter().any(|value| value == label.value()) {
                values.push(label.value().to_owned());
            }
        }
    }
}

impl Recorder for Listing {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, "counter", &help);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, "gauge", &help);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, "histogram", &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.register(key);
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.register(key);
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.register(key);
        Histogram::noop()
    }
}

/// Every metric of a node with these apps, including the process metrics.
pub(crate) fn catalogue(apps: &[&'static str]) -> Catalogue {
    let listing = Listing::default();
    metrics::with_local_recorder(&listing, || {
        super::describe();
        super::register_build();
        super::register_shares(&super::SHARES.map(|name| super::Share { name, used: 0, max: 0 }));
        drop(super::Metrics::new(apps));
    });
    let mut found = listing.0.into_inner();
    for line in super::process::render().lines() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        found.insert(name.to_owned(), Entry { kind, help: help.to_owned(), labels: BTreeMap::new() });
    }
    found
}
