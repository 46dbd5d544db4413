//! Renders a documentation page as HTML: headings get anchors, and links lead to the addresses of the node.

use std::borrow::Cow;

use pulldown_cmark::{CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd, html};

/// The address of a node in examples; links to it lead to the node that serves the page.
const EXAMPLE_NODE: &str = "http://127.0.0.1:8080";

/// A heading of a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heading {
    /// 1 for the title of the page.
    pub(super) level: usize,
    pub(super) text: String,
    /// The anchor, as GitHub generates it.
    pub(super) anchor: String,
    /// The text below it, without code blocks, up to the next heading.
    pub(super) below: String,
}

/// A page.
#[derive(Debug)]
pub(super) struct Rendered {
    pub(super) html: String,
    pub(super) headings: Vec<Heading>,
}

impl Rendered {
    /// The first heading.
    pub(super) fn title(&self) -> &str {
        self.headings.first().map_or("", |heading| heading.text.as_str())
    }
}

/// Renders the Markdown of the page at `file`, such as `start/install.md`.
pub(super) fn render(file: &str, markdown: &str) -> Rendered {
    let events: Vec<Event<'_>> = Parser::new_ext(markdown, Options::ENABLE_TABLES).collect();
    let headings = headings(&events);
    let mut at = 0;
    let events = events.into_iter().filter_map(|event| match event {
        // HTML comments are for the tests.
        Event::Html(_) | Event::InlineHtml(_) => None,
        Event::Start(Tag::Heading { level, classes, attrs, .. }) => {
            let anchor = headings.get(at).map(|heading| heading.anchor.clone());
            at += 1;
            Some(Event::Start(Tag::Heading { level, id: anchor.map(CowStr::from), classes, attrs }))
        }
        Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
            let dest_url = CowStr::from(target(file, &dest_url).into_owned());
            Some(Event::Start(Tag::Link { link_type, dest_url, title, id }))
        }
        Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
            let dest_url = CowStr::from(target(file, &dest_url).into_owned());
            Some(Event::Start(Tag::Image { link_type, dest_url, title, id }))
        }
        other => Some(other),
    });
    let mut html = String::with_capacity(markdown.len() * 2);
    html::push_html(&mut html, events);
    Rendered { html: with_anchors(html, &headings), headings }
}

/// Appends a link to itself to each heading except the title.
fn with_anchors(html: String, headings: &[Heading]) -> String {
    let mut html = html;
    for Heading { level, anchor, .. } in headings.iter().filter(|heading| heading.level > 1) {
        let (start, end) = (format!("<h{level} id=\"{anchor}\">"), format!("</h{level}>"));
        let Some(from) = html.find(&start) else { continue };
        let Some(length) = html.get(from..).and_then(|rest| rest.find(&end)) else { continue };
        html.insert_str(from + length, &format!("<a class=\"anchor\" href=\"#{anchor}\">#</a>"));
    }
    html
}

fn headings(events: &[Event<'_>]) -> Vec<Heading> {
    let mut found: Vec<Heading> = Vec::new();
    let (mut inside, mut code) = (false, false);
    for event in events {
        match event {
            Event::Start(Tag::Heading { level, .. }) => {
                inside = true;
                let (level, text) = (depth(*level), String::new());
                found.push(Heading { level, text, anchor: String::new(), below: String::new() });
            }
            Event::End(TagEnd::Heading(_)) => {
                inside = false;
                if let Some(heading) = found.last_mut() {
                    heading.anchor = anchor(&heading.text);
                }
            }
            Event::Start(Tag::CodeBlock(_)) => code = true,
            Event::End(TagEnd::CodeBlock) => code = false,
            Event::Text(text) | Event::Code(text) if !code => {
                if let Some(heading) = found.last_mut() {
                    (if inside { &mut heading.text } else { &mut heading.below }).push_str(text);
                }
            }
            Event::SoftBreak | Event::HardBreak | Event::End(_) => {
                if let Some(heading) = found.last_mut()
                    && !heading.below.ends_with(' ')
                    && !inside
                {
                    heading.below.push(' ');
                }
            }
            _ => {}
        }
    }
    found
}

fn depth(level: HeadingLevel) -> usize {
    match level {
        HeadingLevel::H1 => 1,
        HeadingLevel::H2 => 2,
        HeadingLevel::H3 => 3,
        HeadingLevel::H4 | HeadingLevel::H5 | HeadingLevel::H6 => 4,
    }
}

/// The anchor that GitHub generates for a heading.
fn anchor(heading: &str) -> String {
    let lower = heading.to_lowercase();
    let kept = lower.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The address on a node that a link of the page at `file` leads to.
pub(super) fn target<'a>(file: &str, link: &'a str) -> Cow<'a, str> {
    if let Some(path) = link.strip_prefix(EXAMPLE_NODE) {
        return if path.is_empty() { "/".into() } else { path.into() };
    }
    if link.contains("://") || link.starts_with(['#', '/']) || link.starts_with("mailto:") {
        return link.into();
    }
    let (path, fragment) = link.split_once('#').map_or((link, None), |(path, rest)| (path, Some(rest)));
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            other => parts.push(other),
        }
    }
    let address = address(&parts.join("/"));
    fragment.map_or_else(|| address.clone().into(), |fragment| format!("{address}#{fragment}").into())
}

/// The address at which a node serves a documentation file.
pub(super) fn address(file: &str) -> String {
    let page = file.strip_suffix(".md").unwrap_or(file);
    match page.strip_suffix("README") {
        Some("") => "/docs".to_owned(),
        Some(folder) => format!("/docs/{}", folder.trim_end_matches('/')),
        None => format!("/docs/{page}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_where_the_node_serves_them() {
        let from = |link| target("start/install.md", link).into_owned();
        assert_eq!(from("tokens.md"), "/docs/start/tokens");
        assert_eq!(from("../operate/alerts/README.md"), "/docs/operate/alerts");
        assert_eq!(from("../README.md"), "/docs");
        assert_eq!(from("../operate/redis.md#tls"), "/docs/operate/redis#tls");
        assert_eq!(from("#ports"), "#ports");
        assert_eq!(from("http://127.0.0.1:8080/api/docs"), "/api/docs");
        assert_eq!(from("https://example.org/a.md"), "https://example.org/a.md");
        assert_eq!(target("operate/rolling.md", "dashboard.png"), "/docs/operate/dashboard.png");
    }

    #[test]
    fn headings_have_the_addresses_that_github_gives_them() {
        let page =
            render("a.md", "# Title\n\nAbout it.\n\n## `GET /x` and *more*\n\n```js\ncode\n```\nText.\n");
        assert_eq!(page.title(), "Title");
        let anchors: Vec<&str> = page.headings.iter().map(|heading| heading.anchor.as_str()).collect();
        assert_eq!(anchors, ["title", "get-x-and-more"]);
        assert_eq!(page.headings[0].below.trim(), "About it.");
        assert_eq!(page.headings[1].below.trim(), "Text.");
        assert!(page.html.contains("<h2 id=\"get-x-and-more\">"));
        assert!(page.html.contains("href=\"#get-x-and-more\">#</a></h2>"));
    }

    #[test]
    fn comments_and_html_are_left_out() {
        let page = render("a.md", "# T\n\n<!-- run -->\n\n<script>alert(1)</script>\n");
        assert!(!page.html.contains("run") && !page.html.contains("script"), "{}", page.html);
    }
}
