//! The content of a message: a stamp, and letters after it that show whether it arrived completely.

use anyhow::{Result, bail};

use crate::stamp;
use crate::text;

/// Replaces `{content}` in every message.
#[derive(Debug)]
pub(crate) struct Content {
    letters: String,
    /// The expected bytes after the stamp: letters and the closing quote.
    filler: Vec<u8>,
}

impl Content {
    /// Content of `bytes` bytes; an `Err` if a stamp does not fit.
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        if bytes < stamp::LEN {
            bail!("--payload must be at least {}", stamp::LEN);
        }
        let letters: String = ('a'..='z').cycle().take(bytes).collect();
        let mut filler = letters.as_bytes()[stamp::LEN..].to_vec();
        filler.push(b'"');
        Ok(Self { letters, filler })
    }

    /// Fills the template of `flag`. Returns the arguments and the position of the stamp in them.
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

    /// Whether the bytes after the stamp at `at` are as sent.
    #[inline]
    pub(crate) fn is_whole(&self, array: &[u8], at: usize) -> bool {
        array[at + stamp::LEN..].starts_with(&self.filler)
    }
}
