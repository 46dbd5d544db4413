//! Rules of the house that a machine can check: documents that must not drift from the code, and the
//! direction of the dependencies inside the gateway.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

/// The layers of the crates' modules, as ARCHITECTURE.md lists them: each folder with its layers, the topmost first.
fn layers() -> Vec<(String, Vec<Vec<String>>)> {
    let text = read("ARCHITECTURE.md");
    let blocks = text.split("<!-- layers ").skip(1).map(|block| {
        let (folder, rest) = block.split_once(" -->").unwrap();
        let (order, _) = rest.split_once("<!-- /layers -->").unwrap();
        let order = order.replace("```", " ");
        let layers =
            order.split('→').map(|layer| layer.split(',').map(|name| name.trim().to_owned()).collect());
        (folder.to_owned(), layers.collect())
    });
    blocks.collect()
}

/// The module of a file, as `a/b`.
fn module_of(file: &str) -> &str {
    let name = file.trim_end_matches(".rs");
    name.strip_suffix("/mod").unwrap_or(name)
}

/// The paths of a `use` tree: two of `a::{b, c::D}`.
fn paths_of(prefix: &str, tree: &str) -> Vec<String> {
    let mut depth = 0;
    let parts = tree.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    let mut found = Vec::new();
    for part in parts.map(str::trim) {
        match part.split_once('{') {
            Some((start, rest)) => {
                let inside = rest.strip_suffix('}').unwrap();
                found.extend(paths_of(&format!("{prefix}{start}"), inside));
            }
            None => found.push(format!("{prefix}{part}")),
        }
    }
    found
}

/// The modules of its crate that a file names by `crate::`, `super::` or `self::`, its tests apart, as `a/b/c`.
fn uses(file: &str, text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let trees = text.match_indices("use ").filter_map(|(at, _)| {
        let tree = text[at + "use ".len()..].split(';').next()?;
        let is_use = ["crate::", "super::", "self::"].iter().any(|start| tree.starts_with(start));
        is_use.then(|| paths_of("", tree))
    });
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).map(str::to_owned);
    let own: Vec<&str> = module_of(file).split('/').collect();
    let mut found = Vec::new();
    for word in trees.flatten().chain(words) {
        let Some((first, rest)) = word.split_once("::") else { continue };
        let mut path = match first {
            "crate" => Vec::new(),
            "self" => own.clone(),
            "super" => own[..own.len() - 1].to_vec(),
            _ => continue,
        };
        let mut parts = rest.split("::").peekable();
        while parts.next_if_eq(&"super").is_some() {
            path.pop();
        }
        path.extend(parts.take_while(|part| part.starts_with(|c: char| c.is_lowercase())));
        found.push(path.join("/"));
    }
    found
}

#[test]
fn the_modules_that_a_file_names_are_found() {
    let text =
        "use crate::{a::B, c};\nuse super::{d::{E, F}, self as g};\n// use crate::no;\n    self::h::i();\n";
    let mut found = uses("x/y.rs", text);
    found.retain(|path| !["", "x"].contains(&path.as_str()));
    assert_eq!(found, ["a", "c", "x/d", "x/d", "x/self as g", "x/y/h/i"]);
}

/// Whether a path is this module or one below it.
fn is_in(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[test]
fn modules_use_what_is_below_them() {
    let all = layers();
    for folder in ["gateway/src", "gateway/src/apps/care", "fanout/src", "loadtest/src"] {
        assert!(all.iter().any(|(listed, _)| listed == folder), "no layers of {folder} in ARCHITECTURE.md");
    }
    for (folder, layers) in all {
        // A block may be about a folder within a crate. What its `mod.rs` holds may be used by all of the folder.
        let (crate_name, within) = folder.split_once("/src").unwrap();
        let (source, within) = (format!("{crate_name}/src/"), within.trim_start_matches('/'));
        let in_folder = |path: &str| {
            let rest =
                if within.is_empty() { Some(path) } else { path.strip_prefix(within)?.strip_prefix('/') };
            rest.filter(|path| !path.is_empty()).map(str::to_owned)
        };
        // The most specific listed module that a path belongs to, and its layer.
        let place = |path: &str| {
            let listed =
                layers.iter().enumerate().flat_map(|(at, layer)| layer.iter().map(move |name| (at, name)));
            listed.filter(|(_, name)| is_in(path, name)).max_by_key(|(_, name)| name.len())
        };
        for (name, text) in sources(&folder) {
            let file = name.strip_prefix(&source).unwrap();
            // The tests of an app's rules have a whole node (`testing`).
            let is_free = ["lib.rs", "main.rs"].contains(&file) || file.ends_with("/tests.rs");
            let Some(module) = in_folder(module_of(file)).filter(|_| !is_free) else { continue };
            let used: Vec<String> = uses(file, &text).iter().filter_map(|path| in_folder(path)).collect();
            let holds_listed = layers.iter().flatten().any(|listed| is_in(listed, &module));
            let own = match place(&module) {
                Some(own) => own,
                None if used.is_empty() || holds_listed => continue,
                None => panic!("{name} has no place in ARCHITECTURE.md"),
            };
            for used in used {
                let Some(other) = place(&used) else { continue };
                let allowed = other.1 == own.1 || other.0 > own.0;
                assert!(allowed, "{name}, of {}, must not use {}", own.1, other.1);
            }
        }
        for module in layers.iter().flatten() {
            let path = root().join(&folder).join(module);
            assert!(path.is_dir() || path.with_extension("rs").is_file(), "{folder}/{module} is not there");
        }
    }
}

/// Every file and folder that ARCHITECTURE.md names is there, and no document has a conflict of a merge in it.
#[test]
fn documents_name_files_that_are_there() {
    let text = read("ARCHITECTURE.md");
    let mut named = 0;
    for word in text.split('`').skip(1).step_by(2) {
        // `a/{b,c}.rs` stands for two files.
        let (start, rest) = word.split_once('{').unwrap_or((word, ""));
        let (choices, end) = rest.split_once('}').unwrap_or(("", rest));
        for choice in choices.split(',') {
            let path = format!("{start}{choice}{end}");
            let is_path = ["gateway/", "fanout/", "shared/", "loadtest/", "charts/"]
                .iter()
                .any(|at| path.starts_with(at));
            if is_path && !path.contains(['*', ' ', 'N', '…']) {
                assert!(root().join(&path).exists(), "ARCHITECTURE.md names {path}");
                named += 1;
            }
        }
    }
    assert!(named > 50, "{named} paths");
    for document in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        for mark in ["<<<<<<< ", ">>>>>>> "] {
            assert!(!read(document).contains(mark), "{document} has a conflict");
        }
    }
}

/// `rest::Routes` mounts an endpoint by its description. A router that is given a path itself would serve what no document has.
#[test]
fn endpoints_are_mounted_by_their_descriptions() {
    for (name, text) in sources("gateway/src") {
        let text: String = text.split_whitespace().collect();
        let paths = text.matches(".route(\"").count();
        // A balancer's `OPTIONS /`, which is no endpoint for clients.
        let allowed = text.matches(".route(\"/\",options(probe))").count();
        assert_eq!(paths, allowed, "{name} mounts a path without a description");
        if name.ends_with("rest/route.rs") {
            continue;
        }
        for other in [".route_service(", ".nest(", ".nest_service(", ".fallback_service("] {
            assert!(!text.contains(other), "{name} has {other}");
        }
        let routers = text.matches("Router::new()").count();
        assert!(routers == 0 || name.ends_with("http/mod.rs"), "{name} makes a router of its own");
    }
}

#[test]
fn apps_do_not_know_each_other() {
    let folders = fs::read_dir(root().join("gateway/src/apps")).unwrap().map(|entry| entry.unwrap());
    let apps: Vec<String> = folders
        .filter(|entry| entry.path().is_dir())
        .map(|entry| format!("apps/{}", entry.file_name().into_string().unwrap()))
        .collect();
    assert!(apps.len() > 4);
    for (name, text) in sources("gateway/src") {
        let file = name.strip_prefix("gateway/src/").unwrap();
        for used in uses(file, &text) {
            let known = apps.iter().find(|app| is_in(&used, app) && !is_in(file, app));
            assert!(known.is_none(), "{name} knows {used}");
        }
    }
}

/// Settings that the chart has no use for: it sets the port, and takes Redis' whole URL.
const NOT_IN_CHART: [&str; 5] = ["PORT", "REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_PASSWORD"];

/// The chart has a value for every setting, or one of its own that it hands to the node.
#[test]
fn the_chart_knows_every_setting() {
    let schema: serde_json::Value = serde_json::from_str(&read("charts/muster/values.schema.json")).unwrap();
    let listed = schema["properties"]["settings"]["properties"].as_object().unwrap();
    let templates = fs::read_dir(root().join("charts/muster/templates")).unwrap();
    let templates = templates.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let templates: String = templates.map(|path| fs::read_to_string(path).unwrap()).collect();
    let is_handed = |name: &str| {
        let mut words = templates.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        words.any(|word| word == name)
    };
    let page = read("gateway/docs/reference/settings.md");
    let entries = page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    let settings: Vec<&str> = entries.collect();
    assert!(settings.len() > 40, "{} settings", settings.len());
    for name in settings.iter().filter(|name| !NOT_IN_CHART.contains(name)) {
        let is_known = listed.contains_key(*name) || is_handed(name);
        assert!(is_known, "charts/muster/values.schema.json lacks {name}");
    }
    for name in listed.keys() {
        assert!(settings.contains(&name.as_str()), "the chart's {name} is no setting");
    }
}

#[test]
fn the_pure_crate_has_no_clock_and_no_io() {
    for (name, text) in sources("shared/src") {
        if name.ends_with("/client.rs") {
            // Behind a feature that no crate of ours has but in tests.
            continue;
        }
        for word in ["Instant::now", "SystemTime::now", "tokio::", "std::net::Tcp", "env::var", "std::fs"] {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
}
