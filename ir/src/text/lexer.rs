//! Text to tokens.

use super::{SYNTAX, TextError};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A word, which may hold dots: `ssm.scan`, `f32`, `batch`.
    Ident(String),
    /// A number without its sign, as written.
    Number(String),
    /// A string in quotes, without them.
    Str(String),
    /// `%` and a number or word.
    Value(String),
    /// `@` and a word.
    Func(String),
    /// `!` and a number or word.
    Loc(String),
    /// `->`
    Arrow,
    /// One of `( ) [ ] { } , : = + - * _`.
    Punct(char),
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Ident(s) | Token::Number(s) => write!(f, "{s}"),
            Token::Str(s) => write!(f, "{s:?}"),
            Token::Value(s) => write!(f, "%{s}"),
            Token::Func(s) => write!(f, "@{s}"),
            Token::Loc(s) => write!(f, "!{s}"),
            Token::Arrow => f.write_str("->"),
            Token::Punct(c) => write!(f, "{c}"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

/// A place in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pos {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Pos {
    pub(super) fn error(self, code: &'static str, message: impl Into<String>) -> TextError {
        TextError { line: self.line, column: self.column, code, message: message.into() }
    }

    pub(super) fn syntax(self, message: impl Into<String>) -> TextError {
        self.error(SYNTAX, message)
    }
}

pub(super) fn is_ident_start(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

pub(super) fn is_ident_char(c: char) -> bool {
    is_ident_start(c) || c == '.' || c.is_ascii_digit()
}

/// Whether a name can stand behind `%`, `@` or `!` without quotes.
pub(super) fn is_ident(name: &str) -> bool {
    name.chars().next().is_some_and(is_ident_start) && name.chars().all(is_ident_char)
}

struct Lexer<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    pos: Pos,
}

/// All tokens with their places; the last one is [`Token::End`].
pub(super) fn lex(text: &str) -> Result<Vec<(Token, Pos)>, TextError> {
    let mut lexer = Lexer { rest: text.chars().peekable(), pos: Pos { line: 1, column: 1 } };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let pos = lexer.pos;
        let token = lexer.token()?;
        let is_end = token == Token::End;
        tokens.push((token, pos));
        if is_end {
            return Ok(tokens);
        }
    }
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.pos = Pos { line: self.pos.line.saturating_add(1), column: 1 };
        } else {
            self.pos.column = self.pos.column.saturating_add(1);
        }
        Some(c)
    }

    fn take_while(&mut self, mut f: impl FnMut(char) -> bool) -> String {
        let mut text = String::new();
        while let Some(c) = self.rest.peek().copied().filter(|c| f(*c)) {
            text.push(c);
            self.next();
        }
        text
    }

    fn skip_blank(&mut self) {
        while let Some(c) = self.rest.peek() {
            if *c == ';' {
                self.take_while(|c| c != '\n');
            } else if c.is_whitespace() {
                self.next();
            } else {
                return;
            }
        }
    }

    fn token(&mut self) -> Result<Token, TextError> {
        let pos = self.pos;
        let Some(c) = self.rest.peek().copied() else { return Ok(Token::End) };
        if is_ident_start(c) {
            let word = self.take_while(is_ident_char);
            return Ok(if word == "_" { Token::Punct('_') } else { Token::Ident(word) });
        }
        if c.is_ascii_digit() {
            return Ok(Token::Number(self.number()));
        }
        self.next();
        match c {
            '"' => Ok(Token::Str(self.string(pos)?)),
            '%' => Ok(Token::Value(self.name(pos)?)),
            '@' => Ok(Token::Func(self.name(pos)?)),
            '!' => Ok(Token::Loc(self.name(pos)?)),
            '-' if self.rest.peek() == Some(&'>') => {
                self.next();
                Ok(Token::Arrow)
            }
            '(' | ')' | '[' | ']' | '{' | '}' | ',' | ':' | '=' | '+' | '-' | '*' => Ok(Token::Punct(c)),
            _ => Err(pos.syntax(format!("unexpected character {c:?}"))),
        }
    }

    fn number(&mut self) -> String {
        let mut text = self.take_while(|c| c.is_ascii_alphanumeric() || c == '.');
        let exponent = text.ends_with(['e', 'E']) && !text.starts_with("0x");
        if exponent && matches!(self.rest.peek(), Some('+' | '-')) {
            text.extend(self.next());
            text += &self.take_while(|c| c.is_ascii_digit());
        }
        text
    }

    fn name(&mut self, pos: Pos) -> Result<String, TextError> {
        if self.rest.peek() == Some(&'"') {
            self.next();
            return self.string(pos);
        }
        let name = self.take_while(is_ident_char);
        if name.is_empty() { Err(pos.syntax("expected a name or a number")) } else { Ok(name) }
    }

    /// The rest of a string after its opening quote.
    fn string(&mut self, start: Pos) -> Result<String, TextError> {
        let mut text = String::new();
        loop {
            let pos = self.pos;
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape(pos)?),
                Some(c) => text.push(c),
                None => return Err(start.syntax("the string has no end")),
            }
        }
    }

    fn escape(&mut self, pos: Pos) -> Result<char, TextError> {
        match self.next() {
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('0') => Ok('\0'),
            Some(c @ ('\\' | '"' | '\'')) => Ok(c),
            Some('u') => {
                let code = self.take_while(|c| c == '{' || c.is_ascii_hexdigit());
                let closed = self.next() == Some('}');
                let c = code.strip_prefix('{').and_then(|hex| u32::from_str_radix(hex, 16).ok());
                let c = c.and_then(char::from_u32).filter(|_| closed);
                c.ok_or_else(|| pos.syntax("expected a character as \\u{..}"))
            }
            _ => Err(pos.syntax("unknown escape in a string")),
        }
    }
}
