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

#[test]
fn the_table_of_settings_is_the_one_in_the_code() {
    let readme = read("README.md");
    let (_, rest) = readme.split_once("<!-- settings").unwrap();
    let (_, rest) = rest.split_once("-->\n").unwrap();
    let (table, _) = rest.split_once("<!-- /settings -->").unwrap();
    let expected = gateway::settings_table();
    assert_eq!(table, expected, "README.md: put this table between the marks:\n{expected}");
}

#[test]
fn every_limit_is_in_the_readme() {
    let readme = read("README.md");
    for line in read("shared/src/limits.rs").lines() {
        let Some(name) = line.strip_prefix("pub const ").and_then(|rest| rest.split(':').next()) else {
            continue;
        };
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in README.md");
    }
}

#[test]
fn every_library_is_in_the_readme_and_says_what_it_is_for() {
    let (readme, manifest) = (read("README.md"), read("Cargo.toml"));
    let (_, rest) = readme.split_once("<!-- libraries -->\n").unwrap();
    let (table, _) = rest.split_once("<!-- /libraries -->").unwrap();
    let mut listed: Vec<&str> = Vec::new();
    for row in table.lines().skip(2) {
        let (names, purpose) = row.trim_matches('|').split_once('|').unwrap();
        assert!(!purpose.trim().is_empty(), "{names} is for something");
        listed.extend(names.split(',').map(|name| name.trim().trim_matches('`')));
    }
    let (_, rest) = manifest.split_once("[workspace.dependencies]\n").unwrap();
    let (entries, _) = rest.split_once("\n[").unwrap();
    let entries = entries.lines().filter(|line| !line.starts_with('#') && !line.contains("path = "));
    let mut used: Vec<&str> = entries.filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
    listed.sort_unstable();
    used.sort_unstable();
    assert_eq!(listed, used, "README.md's table of libraries is the manifest's list");
}

#[test]
fn every_metric_is_in_the_readme_and_described() {
    let readme = read("README.md");
    // The formatter breaks lines where it likes.
    let code: String = read("gateway/src/metrics/mod.rs").split_whitespace().collect::<Vec<_>>().join(" ");
    let code = code.replace("!( ", "!(");
    let mut names: Vec<&str> =
        code.split('"').filter(|text| text.starts_with("muster_") && !text.contains(' ')).collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() > 15);
    for name in names {
        assert!(readme.contains(&format!("`{name}`")), "{name} is not in README.md");
        let described = ["counter", "gauge", "histogram"]
            .iter()
            .any(|kind| code.contains(&format!("describe_{kind}!(\"{name}\"")));
        assert!(described, "{name} has no description");
    }
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

/// The modules that a file names by `crate::`, `super::` or `self::`, its tests apart, as `a/b/c`.
fn uses(file: &str, text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    let text: Vec<&str> = lines.collect();
    let own: Vec<&str> = module_of(file).split('/').collect();
    let mut found = Vec::new();
    for word in text.join("\n").split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
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
fn modules_use_what_is_below_them() {
    let all = layers();
    assert!(all.iter().any(|(folder, _)| folder == "gateway/src"), "no layers in ARCHITECTURE.md");
    for (folder, layers) in all {
        // The most specific listed module that a path belongs to, and its layer.
        let place = |path: &str| {
            let listed =
                layers.iter().enumerate().flat_map(|(at, layer)| layer.iter().map(move |name| (at, name)));
            let holds = |name: &str| path == name || path.starts_with(&format!("{name}/"));
            listed.filter(|(_, name)| holds(name)).max_by_key(|(_, name)| name.len())
        };
        for (name, text) in sources(&folder) {
            let file = name.strip_prefix(&format!("{folder}/")).unwrap();
            assert!(!text.contains("use crate::{"), "{name}: one `use crate::` for each module");
            let used = uses(file, &text);
            // The tests of an app's rules have a whole node (`testing`).
            let is_free = ["lib.rs", "main.rs"].contains(&file) || file.ends_with("/tests.rs");
            if is_free || used.is_empty() {
                continue;
            }
            let own =
                place(module_of(file)).unwrap_or_else(|| panic!("{name} has no place in ARCHITECTURE.md"));
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

/// `rest::Routes` mounts an endpoint by its description. A router that is given a path itself would serve what no document has.
#[test]
fn endpoints_are_mounted_by_their_descriptions() {
    for (name, text) in sources("gateway/src") {
        let text: String = text.split_whitespace().collect();
        let paths = text.matches(".route(\"").count();
        // A balancer's `OPTIONS /`, which is no endpoint for clients.
        let allowed = text.matches(".route(\"/\",options(probe))").count();
        assert_eq!(paths, allowed, "{name} mounts a path without a description");
    }
}

#[test]
fn apps_do_not_know_each_other() {
    let folders = fs::read_dir(root().join("gateway/src/apps")).unwrap().map(|entry| entry.unwrap());
    let apps: Vec<String> = folders
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    assert!(apps.len() > 4);
    for (name, text) in sources("gateway/src") {
        for app in apps.iter().filter(|app| !name.contains(&format!("/apps/{app}/"))) {
            assert!(!text.contains(&format!("apps::{app}")), "{name} knows {app}");
        }
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
