//! The book in `gateway/docs` and the README: the reference is what the code makes, nothing is missing, links lead
//! somewhere, and pages can be read on a phone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]
#![allow(clippy::print_stdout, reason = "how long and wide the pages are")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Characters of a line of prose, and of a cell of a table.
const LINE_MAX: usize = 130;
const CELL_MAX: usize = 120;
const COLUMNS_MAX: usize = 3;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The Markdown files of a folder and below, by their paths in the repository.
fn pages_of(folder: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                found.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

fn book() -> BTreeMap<String, String> {
    pages_of("gateway/docs")
}

/// The book and what stands beside it.
fn everything() -> BTreeMap<String, String> {
    let mut pages = book();
    pages.extend(pages_of(".github"));
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        pages.insert(name.to_owned(), read(name));
    }
    pages
}

/// The lines that are not in a fenced block.
fn prose(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push(line);
        }
    }
    lines
}

/// The targets of the links and pictures of a page, without code.
fn links(text: &str) -> Vec<String> {
    let text = prose(text).join("\n");
    let plain: String = text.split('`').step_by(2).collect::<Vec<_>>().join("``");
    let ends = plain.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    ends.map(|(target, _)| target.to_owned()).collect()
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let lower = heading.trim().to_lowercase();
    let kept = lower.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).into_iter().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// `folder/../a` as `a`.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                out.pop();
            }
            std::path::Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

#[test]
fn the_reference_is_what_the_code_makes() {
    let folder = "gateway/docs/reference";
    let made = gateway::reference_pages().unwrap();
    for page in &made {
        let found = read(&format!("{folder}/{}", page.name));
        assert!(
            found == page.text,
            "{folder}/{} is not what the code makes: run `cargo run -- docs --write`",
            page.name
        );
    }
    let names: BTreeSet<String> = made.into_iter().map(|page| format!("{folder}/{}", page.name)).collect();
    for name in pages_of(folder).keys().filter(|name| !name.ends_with("/README.md")) {
        assert!(names.contains(name), "{name} is no page of the reference any more");
    }
}

#[test]
fn every_limit_is_in_the_reference() {
    let page = read("gateway/docs/reference/limits.md");
    let apps = fs::read_dir(root().join("gateway/src/apps")).unwrap();
    let mut files: Vec<_> = apps.map(|entry| entry.unwrap().path().join("limits.rs")).collect();
    files.retain(|file| file.is_file());
    assert!(files.len() > 3, "four apps have limits");
    files.push(root().join("shared/src/limits.rs"));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let constants = text
            .lines()
            .filter_map(|line| line.strip_prefix("pub const ").or(line.strip_prefix("pub(super) const ")));
        for name in constants.filter_map(|rest| Some(rest.split_once(':')?.0)) {
            assert!(page.contains(&format!("### `{name}`\n")), "{name} of {} has no entry", file.display());
        }
    }
}

#[test]
fn every_metric_is_described() {
    let page = read("gateway/docs/reference/metrics.md");
    let code: String = read("gateway/src/metrics/mod.rs").split_whitespace().collect::<Vec<_>>().join(" ");
    let mut names: Vec<&str> =
        code.split('"').filter(|text| text.starts_with("muster_") && !text.contains(' ')).collect();
    names.sort_unstable();
    names.dedup();
    assert!(names.len() > 15);
    for name in names {
        let (_, rest) =
            page.split_once(&format!("### `{name}`\n\n*")).unwrap_or_else(|| panic!("{name} has no entry"));
        let described = ["counter.* ", "gauge.* ", "histogram.* "].iter().any(|kind| rest.starts_with(kind));
        assert!(described, "{name} has no description");
    }
}

#[test]
fn every_app_has_a_page_that_leads_to_its_api() {
    let mut apps = 0;
    for page in gateway::reference_pages().unwrap() {
        let Some(app) = page.name.strip_prefix("api-").and_then(|name| name.strip_suffix(".md")) else {
            continue;
        };
        if app != "node" {
            let text = read(&format!("gateway/docs/apps/{app}.md"));
            assert!(text.contains(&format!("(../reference/{})", page.name)), "apps/{app}.md");
            apps += 1;
        }
    }
    assert!(apps > 4);
}

#[test]
fn every_alert_has_a_page_and_leads_there() {
    let rules = read("charts/muster/files/rules.yaml");
    let mut alerts = BTreeSet::new();
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().unwrap();
        let page = read(&format!("gateway/docs/operate/alerts/{name}.md"));
        let severity = rule.split("severity: ").nth(1).unwrap().lines().next().unwrap();
        let start = format!("# {name}\n\nSeverity: {severity}.\n");
        assert!(page.starts_with(&start), "operate/alerts/{name}.md begins with {start}");
        assert!(page.contains("\n## What to do\n"), "operate/alerts/{name}.md says what to do");
        let url = format!("\n          runbook_url: /docs/operate/alerts/{name}\n");
        assert!(rule.contains(&url), "{name}: {}", url.trim());
        alerts.insert(format!("gateway/docs/operate/alerts/{name}.md"));
    }
    assert!(alerts.len() > 25);
    for page in pages_of("gateway/docs/operate/alerts").keys().filter(|name| !name.ends_with("/README.md")) {
        assert!(alerts.contains(page), "{page} is of no alert");
    }
}

#[test]
fn every_page_is_in_the_index() {
    let listed: BTreeSet<String> = ["gateway/docs/README.md", "gateway/docs/operate/alerts/README.md"]
        .iter()
        .flat_map(|index| {
            let folder = Path::new(index).parent().unwrap();
            let targets = links(&read(index)).into_iter();
            targets.map(|target| normal(&folder.join(target)).display().to_string()).collect::<Vec<_>>()
        })
        .collect();
    for page in book().keys().filter(|page| *page != "gateway/docs/README.md") {
        assert!(listed.contains(page), "{page} is not in gateway/docs/README.md");
    }
}

#[test]
fn links_lead_somewhere() {
    let pages = everything();
    let mut checked = 0;
    for (name, text) in &pages {
        for target in links(text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (path, fragment) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() {
                PathBuf::from(name)
            } else {
                normal(&Path::new(name).parent().unwrap().join(path))
            };
            assert!(root().join(&file).exists(), "{name}: {target} is not there");
            let file = file.display().to_string();
            if name.starts_with("gateway/docs/") {
                assert!(file.starts_with("gateway/docs/"), "{name}: {target} leads out of the book");
            }
            if !fragment.is_empty() {
                let text = pages.get(&file).unwrap_or_else(|| panic!("{name}: {target}"));
                assert!(anchors(text).contains(fragment), "{name}: {target} has no such heading");
            }
        }
    }
    assert!(checked > 200, "{checked} links");
}

#[test]
fn pages_fit_a_narrow_screen() {
    let mut pages = book();
    pages.insert("README.md".to_owned(), read("README.md"));
    let (mut longest, mut widest, mut words) = (0, 0, 0);
    for (name, text) in &pages {
        for line in prose(text) {
            words += line.split_whitespace().count();
            if line.starts_with('|') {
                let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
                widest = widest.max(cells.len());
                assert!(cells.len() <= COLUMNS_MAX, "{name}: more than {COLUMNS_MAX} columns: {line}");
                for cell in cells {
                    assert!(cell.chars().count() <= CELL_MAX, "{name}: a long cell: {cell}");
                }
            } else {
                let length = line.chars().count();
                // A name that cannot be broken may stand alone.
                assert!(
                    length <= LINE_MAX || line.split_whitespace().count() <= 2,
                    "{name}: a long line: {line}"
                );
                longest = longest.max(length);
            }
        }
    }
    println!("{} pages, {words} words, longest line {longest}, widest table {widest} columns", pages.len());
}

#[test]
fn the_readme_is_a_landing_page() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 160, "{lines} lines: details belong into gateway/docs");
}

#[test]
fn no_page_has_a_conflict_of_a_merge() {
    for (name, text) in everything() {
        for mark in ["<<<<<<< ", ">>>>>>> "] {
            assert!(!text.contains(mark), "{name} has a conflict");
        }
    }
}

#[test]
fn every_library_is_listed_and_says_what_it_is_for() {
    let (page, manifest) = (read("gateway/docs/develop/libraries.md"), read("Cargo.toml"));
    let mut listed: Vec<String> = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let (names, purpose) = row.trim_matches('|').split_once('|').unwrap();
        assert!(!purpose.trim().is_empty(), "{names} is for something");
        listed.extend(names.split(',').map(|name| name.trim().trim_matches('`').to_owned()));
    }
    let (_, rest) = manifest.split_once("[workspace.dependencies]\n").unwrap();
    let (entries, _) = rest.split_once("\n[").unwrap();
    let entries = entries.lines().filter(|line| !line.starts_with('#') && !line.contains("path = "));
    let mut used: Vec<&str> = entries.filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
    listed.sort_unstable();
    used.sort_unstable();
    assert_eq!(listed, used, "the table in develop/libraries.md is the manifest's list");
}
