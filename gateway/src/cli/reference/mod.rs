//! The reference pages of the documentation, generated from the code: settings, limits, metrics, close codes, the API,
//! the command line. `gateway docs` writes or checks them.

mod api;
mod close_codes;
mod commands;
mod limits;
mod metrics;
mod settings;
mod text;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{fail, say};
use crate::apps;
use crate::http;

/// The pages' folder in the repository.
const FOLDER: &str = "gateway/docs/reference";

/// Follows the title of each page.
const MADE: &str =
    "<!-- `gateway docs --write` makes this page from the code. Change the code, not the page. -->\n";

/// A page of the reference.
#[derive(Debug)]
pub struct Page {
    /// Its file name in the folder of the reference.
    pub name: String,
    /// Its Markdown text.
    pub text: String,
}

impl Page {
    fn new(name: &str, title: &str, body: &str) -> Self {
        Self { name: name.to_owned(), text: format!("# {title}\n\n{MADE}\n{body}") }
    }
}

/// Generates the pages of the reference.
///
/// # Errors
/// If the apps' endpoints and events cannot be read.
pub fn reference_pages() -> Result<Vec<Page>, String> {
    let documents = super::runtime(Some(1))
        .map_err(|error| error.to_string())?
        .block_on(async { http::everything().await.map_err(|error| error.to_string()) });
    let (openapi, asyncapi) = documents?;
    let mut pages = vec![
        Page::new("settings.md", "Settings", &settings::body()),
        Page::new("limits.md", "Fixed limits", &limits::body()),
        Page::new("metrics.md", "Metrics", &metrics::body()),
        Page::new("close-codes.md", "Close codes and refusals", &close_codes::body()),
        Page::new("cli.md", "Command line", &commands::body()),
        Page::new("api-node.md", "API of the node", &api::body("gateway", &openapi, &asyncapi)),
    ];
    for app in apps::names() {
        let body = api::body(app, &openapi, &asyncapi);
        pages.push(Page::new(&format!("api-{app}.md"), &format!("API of `{app}`"), &body));
    }
    Ok(pages)
}

pub(super) fn command() -> Command {
    Command::new("docs")
        .about("Check the documentation's reference pages against this program, or write them")
        .arg(
            Arg::new("write")
                .long("write")
                .action(ArgAction::SetTrue)
                .help("Write the pages instead of checking them"),
        )
        .arg(
            Arg::new("folder")
                .long("folder")
                .value_name("FOLDER")
                .default_value(FOLDER)
                .help("Folder of the pages"),
        )
}

/// Writes the pages, or fails and names those that differ.
pub(super) fn run(args: &ArgMatches) -> ExitCode {
    let folder = Path::new(args.get_one::<String>("folder").map_or(FOLDER, String::as_str));
    let writes = args.get_flag("write");
    let mut differ = Vec::new();
    let pages = match reference_pages() {
        Ok(pages) => pages,
        Err(error) => return fail(&error),
    };
    for Page { name, text } in pages {
        let file = folder.join(name);
        if fs::read_to_string(&file).is_ok_and(|found| found == text) {
            continue;
        }
        if writes && let Err(error) = fs::create_dir_all(folder).and_then(|()| fs::write(&file, text)) {
            return fail(&format!("{}: {error}", file.display()));
        }
        differ.push(file.display().to_string());
    }
    match (writes, differ.as_slice()) {
        (_, []) => say("The reference pages match this program."),
        (true, changed) => say(&format!("Written: {}", changed.join(", "))),
        (false, changed) => {
            fail(&format!("{} differ; `gateway docs --write` writes them", changed.join(", ")))
        }
    }
}
