//! Text in and out of token ids.

use crate::failure::{Failure, Outcome};
use std::path::Path;
use tokenizers::Tokenizer;

/// Loads a `tokenizer.json`.
pub(crate) fn load(path: &Path) -> Outcome<Tokenizer> {
    Tokenizer::from_file(path).map_err(|error| Failure::file(path, error))
}

/// Turns ids into text piece by piece, holding back bytes that do not yet make a character.
pub(crate) struct TextStream<D> {
    decode: D,
    /// The ids since the last piece, behind those of the piece before, which give them their context.
    ids: Vec<u32>,
    n_shown: usize,
    shown: String,
}

impl<D: FnMut(&[u32]) -> Outcome<String>> TextStream<D> {
    pub(crate) fn new(decode: D) -> Self {
        Self { decode, ids: Vec::new(), n_shown: 0, shown: String::new() }
    }

    /// The text that this id completes; empty if it ends within a character.
    pub(crate) fn push(&mut self, id: u32) -> Outcome<String> {
        self.ids.push(id);
        let text = (self.decode)(&self.ids)?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        let piece = self.behind(&text);
        self.ids.drain(..self.n_shown);
        self.n_shown = self.ids.len();
        self.shown = (self.decode)(&self.ids)?;
        Ok(piece)
    }

    /// What is held back, with U+FFFD for bytes that are no character.
    pub(crate) fn finish(mut self) -> Outcome<String> {
        let text = (self.decode)(&self.ids)?;
        Ok(self.behind(&text))
    }

    fn behind(&self, text: &str) -> String {
        text.strip_prefix(&self.shown).unwrap_or(text).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One id per byte.
    fn stream() -> TextStream<impl FnMut(&[u32]) -> Outcome<String>> {
        TextStream::new(|ids: &[u32]| {
            let bytes: Vec<u8> = ids.iter().map(|id| *id as u8).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        })
    }

    #[test]
    fn characters_come_whole() {
        let mut stream = stream();
        let pieces: Vec<String> = "aé状b".bytes().map(|b| stream.push(b.into()).unwrap()).collect();
        assert_eq!(pieces, ["a", "", "é", "", "", "状", "b"]);
        assert_eq!(stream.finish().unwrap(), "");
    }

    #[test]
    fn a_broken_end_is_replaced() {
        let mut stream = stream();
        assert_eq!(stream.push(b'x'.into()).unwrap(), "x");
        assert_eq!(stream.push(0xe7).unwrap(), "");
        assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    }
}
