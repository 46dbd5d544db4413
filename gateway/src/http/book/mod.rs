//! The documentation at `/docs`: the Markdown of `gateway/docs`, embedded in the binary and rendered on request.

mod render;

use std::fmt::Write as _;
use std::sync::OnceLock;

use axum::extract::Path;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use rust_embed::{EmbeddedFile, RustEmbed};
use serde_json::{Value, json};

use super::{Site, assets};
use crate::describe::Operation;
use crate::error::AppError;
use crate::rest::Routes;
use render::{Rendered, address, render};

/// The pages and their pictures.
#[derive(RustEmbed)]
#[folder = "docs"]
struct Pages;

/// The style of the pages.
#[derive(RustEmbed)]
#[folder = "assets/book"]
struct Frame;

/// The table of contents, which is also the first page.
const INDEX: &str = "README.md";

/// Maximum characters of a section's text in the search index.
const EXCERPT_MAX: usize = 400;

pub(super) fn routes() -> Routes<Site> {
    let first = Operation::get("/docs", "The first page of the documentation.").hidden();
    let page = Operation::get("/docs/{*page}", "A page of the documentation, or one of its files.").hidden();
    Routes::new()
        .route(first.file("text/html", "The page."), first_page)
        .route(page.file("*/*", "The page or file.").refuse(404, "Not found"), page_or_file)
}

async fn first_page(headers: HeaderMap) -> Response {
    page(INDEX, &headers)
}

async fn page_or_file(Path(path): Path<String>, headers: HeaderMap) -> Response {
    match path.as_str() {
        "search.json" => return assets::answer(search_index(), "search.json", &headers),
        "book.css" | "book.js" => return assets::serve(Frame::get(&path), &path, &headers),
        _ => {}
    }
    // Page addresses have no extension, nor do links to them.
    let candidates = [format!("{path}.md"), format!("{path}/{INDEX}")];
    match candidates.iter().find(|file| Pages::get(file).is_some()) {
        Some(file) => page(file, &headers),
        None if path.ends_with(".png") => assets::serve(Pages::get(&path), &path, &headers),
        None => AppError::NotFound("Not found".into()).into_response(),
    }
}

fn text(file: &EmbeddedFile) -> String {
    String::from_utf8_lossy(&file.data).into_owned()
}

fn rendered(file: &str) -> Option<Rendered> {
    Pages::get(file).map(|found| render(file, &text(&found)))
}

fn page(file: &str, headers: &HeaderMap) -> Response {
    let (Some(page), Some(frame)) = (rendered(file), Frame::get("page.html")) else {
        return AppError::NotFound("Not found".into()).into_response();
    };
    let html = text(&frame)
        .replace("{{title}}", &escaped(page.title()))
        .replace("{{contents}}", &contents(file))
        .replace("{{here}}", &here(&page))
        .replace("{{content}}", &page.html);
    assets::with_policy(assets::answer(html.into(), "page.html", headers))
}

/// The list of all pages, from the headings and links of the index.
fn contents(current: &str) -> String {
    let index = Pages::get(INDEX).map(|file| text(&file)).unwrap_or_default();
    let mut out = String::new();
    for section in index.split("\n## ").skip(1) {
        let (title, rest) = section.split_once('\n').unwrap_or((section, ""));
        // Writing to a String does not fail.
        let _ = write!(out, "<b>{}</b><ul>", escaped(title));
        for line in rest.lines().filter(|line| line.starts_with("- [")) {
            let Some((name, link)) = line.trim_start_matches("- [").split_once("](") else { continue };
            let link = link.split(')').next().unwrap_or_default();
            let mark = if link == current { " aria-current=\"page\"" } else { "" };
            let _ = write!(out, "<li><a href=\"{}\"{mark}>{}</a></li>", address(link), escaped(name));
        }
        out.push_str("</ul>");
    }
    out
}

/// The headings of a page.
fn here(page: &Rendered) -> String {
    let mut out = String::from("<ul>");
    for heading in page.headings.iter().filter(|heading| (2..=3).contains(&heading.level)) {
        let class = if heading.level > 2 { " class=\"deeper\"" } else { "" };
        // Writing to a String does not fail.
        let _ = write!(out, "<li><a{class} href=\"#{}\">{}</a></li>", heading.anchor, escaped(&heading.text));
    }
    out + "</ul>"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Every heading with its address and the beginning of the text below it, collected once.
fn search_index() -> Bytes {
    static INDEX_JSON: OnceLock<Bytes> = OnceLock::new();
    let made = INDEX_JSON.get_or_init(|| {
        let mut files: Vec<_> = Pages::iter().filter(|file| file.ends_with(".md")).collect();
        files.sort_unstable();
        let entries: Vec<Value> = files.iter().flat_map(|file| entries(file)).collect();
        Value::Array(entries).to_string().into()
    });
    made.clone()
}

fn entries(file: &str) -> Vec<Value> {
    let Some(page) = rendered(file) else { return Vec::new() };
    let (place, title) = (address(file), page.title().to_owned());
    let entry = |heading: &render::Heading| {
        let url = if heading.level == 1 { place.clone() } else { format!("{place}#{}", heading.anchor) };
        let text: String = heading.below.trim().chars().take(EXCERPT_MAX).collect();
        json!({"url": url, "title": title, "heading": heading.text, "text": text})
    };
    page.headings.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_found_by_its_address_and_has_a_title() {
        let files: Vec<_> = Pages::iter().filter(|file| file.ends_with(".md")).collect();
        assert!(files.len() > 60, "{}", files.len());
        for file in files {
            assert!(!rendered(&file).unwrap().title().is_empty(), "{file}");
            let path = address(&file);
            let path = path.strip_prefix("/docs").unwrap().trim_start_matches('/');
            let known = [format!("{path}.md"), format!("{path}/{INDEX}"), INDEX.to_owned()];
            assert!(known.contains(&file.to_string()), "{file}");
        }
    }

    #[test]
    fn the_index_of_the_search_has_settings_alerts_and_events() {
        let index: Vec<Value> = serde_json::from_slice(&search_index()).unwrap();
        for heading in ["PING_INTERVAL", "MusterRedisDown", "Send join_room", "POST /internal/emit"] {
            assert!(index.iter().any(|entry| entry["heading"] == heading), "{heading}");
        }
    }

    #[test]
    fn contents_lead_to_pages_and_mark_where_one_is() {
        let list = contents("start/install.md");
        assert!(list.contains("<a href=\"/docs/start/install\" aria-current=\"page\">Install</a>"), "{list}");
        assert!(list.contains("<a href=\"/docs/operate/alerts\">"));
    }
}
