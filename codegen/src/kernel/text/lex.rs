//! Tokens.

use super::{ParseError, ParseErrorKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'t> {
    /// Identifier or keyword.
    Word(&'t str),
    /// Number as written, sign included; `inf` is one after a minus sign.
    Number(&'t str),
    /// `%12` or `%12.name`.
    Reg {
        number: &'t str,
        name: Option<&'t str>,
    },
    /// One of `{ } [ ] < > : , =` or `..`.
    Punct(&'static str),
    End,
}

impl Token<'_> {
    pub(super) fn describe(&self) -> String {
        match self {
            Token::Word(s) | Token::Number(s) => format!("`{s}`"),
            Token::Reg { number, .. } => format!("`%{number}`"),
            Token::Punct(s) => format!("`{s}`"),
            Token::End => "the end".to_owned(),
        }
    }
}

/// A token and the byte where it starts.
pub(super) type Placed<'t> = (Token<'t>, usize);

/// Splits a text; the last token is [`Token::End`].
pub(super) fn lex(text: &str) -> Result<Vec<Placed<'_>>, ParseError> {
    let mut tokens = Vec::new();
    let mut pos = 0;
    while let Some(c) = text[pos..].chars().next() {
        let rest = &text[pos..];
        if c.is_whitespace() {
            pos += c.len_utf8();
        } else if rest.starts_with("//") {
            pos += rest.find('\n').unwrap_or(rest.len());
        } else {
            let (token, len) =
                token(rest, c).ok_or_else(|| error_at(text, pos, ParseErrorKind::Character(c)))?;
            tokens.push((token, pos));
            pos += len;
        }
    }
    tokens.push((Token::End, pos));
    Ok(tokens)
}

fn token(rest: &str, c: char) -> Option<(Token<'_>, usize)> {
    if let Some(punct) =
        ["..", "{", "}", "[", "]", "<", ">", ":", ",", "="].into_iter().find(|p| rest.starts_with(p))
    {
        return Some((Token::Punct(punct), punct.len()));
    }
    if c == '%' {
        let number = prefix(&rest[1..], |c| c.is_ascii_digit());
        let after = &rest[1 + number.len()..];
        let name = after.strip_prefix('.').map(|r| prefix(r, is_word)).filter(|n| !n.is_empty());
        let len = 1 + number.len() + name.map_or(0, |n| 1 + n.len());
        return (!number.is_empty()).then_some((Token::Reg { number, name }, len));
    }
    if c.is_ascii_digit() || c == '-' {
        let len = number_len(rest);
        return (len > 1 || c != '-').then_some((Token::Number(&rest[..len]), len));
    }
    let word = prefix(rest, is_word);
    (!word.is_empty()).then_some((Token::Word(word), word.len()))
}

/// Length of a number at the start: digits, letters, a point not followed by another, an exponent's sign.
fn number_len(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut len = 1;
    while let Some(&b) = bytes.get(len) {
        let exponent = bytes[len - 1] == b'e' && matches!(b, b'-' | b'+');
        let point = b == b'.' && bytes.get(len + 1) != Some(&b'.');
        if !(b.is_ascii_alphanumeric() || exponent || point) {
            break;
        }
        len += 1;
    }
    len
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn prefix(s: &str, f: impl Fn(char) -> bool) -> &str {
    &s[..s.find(|c| !f(c)).unwrap_or(s.len())]
}

/// The error with line and column, from 1, of a byte position.
pub(super) fn error_at(text: &str, pos: usize, kind: ParseErrorKind) -> ParseError {
    let before = &text[..pos];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
    ParseError { line, column, kind }
}
