//! Collects the migrations: every SQL file in a folder `migrations` of the sources, of the platform and of each app.
//!
//! A file is called `NNNN_what.sql`, or `NNNN_what.sqlite.sql` and `NNNN_what.postgres.sql` where the two databases need
//! different statements. Two migrations of one database with the same number stop the build.
#![expect(clippy::disallowed_methods, reason = "Cargo tells a build script by its environment")]

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The databases, as the names of files have them.
const DATABASES: [&str; 2] = ["sqlite", "postgres"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=src");
    let sources = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("src");
    let mut files = Vec::new();
    find(&sources, false, &mut files)?;
    let mut found = BTreeMap::new();
    for path in files {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let (number, what) = name
            .strip_suffix(".sql")
            .and_then(|name| name.split_once('_'))
            .ok_or_else(|| format!("{name}: expected NNNN_what.sql"))?;
        let version: i64 = number.parse()?;
        let only = DATABASES.into_iter().find(|database| what.ends_with(&format!(".{database}")));
        let what = only.map_or(what, |only| &what[..what.len() - only.len() - 1]).replace('_', " ");
        for database in DATABASES.into_iter().filter(|database| only.is_none_or(|only| only == *database)) {
            let sql = path.display();
            let entry = format!("({version}, {what:?}, include_str!({:?}))", sql.to_string());
            if found.insert((database, version), entry).is_some() {
                return Err(format!("{sql}: another migration has the number {version}").into());
            }
        }
    }
    let mut code = String::new();
    for database in DATABASES {
        let of_database = found.iter().filter(|((other, _), _)| *other == database);
        let entries: Vec<&str> = of_database.map(|(_, entry)| entry.as_str()).collect();
        let constant = database.to_uppercase();
        writeln!(code, "const {constant}_FILES: &[(i64, &str, &str)] = &[{}];", entries.join(", "))?;
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("migrations.rs"), code)?;
    Ok(())
}

/// Adds the SQL files of all folders called `migrations` in `folder`.
fn find(folder: &Path, is_migrations: bool, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, path.ends_with("migrations"), files)?;
        } else if is_migrations && path.extension().is_some_and(|end| end == "sql") {
            files.push(path);
        }
    }
    Ok(())
}
