//! The content of a message: a stamp, and letters after it that tell whether all of it has come.

use anyhow::{Result, bail};

use crate::stamp;
use crate::text;

/// What is put into every message in the place of `{content}`.
#[derive(Debug)]
pub(crate) struct Content {
    letters: String,
    /// What must follow the stamp: the rest of the letters and the quote that ends them.
    filler: Vec<u8>,
}

impl Content {
    /// Content of so many bytes; an `Err` if a stamp has no room in them.
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        if bytes < stamp::LEN {
            bail!("--payload must be at least {}", stamp::LEN);
        }
        let letters: String = ('a'..='z').cycle().take(bytes).collect();
        let mut filler = letters.as_bytes()[stamp::LEN..].to_vec();
        filler.push(b'"');
        Ok(Self { letters, filler })
    }

    /// Fills the template that `flag` gave; the arguments, and where in them the stamp is to be written.
    pub(crate) fn fill(
        &self,
        flag: &str,
        template: &str,
        room: &str,
        user: usize,
    ) -> Result<(String, usize)> {
        let Some((before, after)) = template.split_once("{content}") else {
            bail!("{flag} needs a {{content}}");
        };
        let before = text::fill(before, room, user);
        let arguments = format!("{before}{}{}", self.letters, text::fill(after, room, user));
        Ok((arguments, before.len()))
    }

    /// Whether what follows the stamp at `at` is as it was sent.
    #[inline]
    pub(crate) fn is_whole(&self, array: &[u8], at: usize) -> bool {
        array[at + stamp::LEN..].starts_with(&self.filler)
    }
}
