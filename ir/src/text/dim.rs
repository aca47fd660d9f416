//! Extents, shapes and types.

use super::TextError;
use super::lexer::Token;
use super::parser::Parser;
use crate::dim::{Dim, DimFn};
use crate::types::{DType, Shape, TensorType};

/// Deepest nesting of functions in an extent.
const MAX_DEPTH: usize = 32;

impl Parser {
    /// `f32[batch, 2*seq_len + 1]`
    pub(super) fn tensor_type(&mut self) -> Result<TensorType, TextError> {
        let dtype = self.dtype()?;
        Ok(TensorType::new(dtype, self.shape()?))
    }

    pub(super) fn dtype(&mut self) -> Result<DType, TextError> {
        let pos = self.pos();
        let word = self.ident("an element type")?;
        DType::parse(&word).ok_or_else(|| {
            let known: Vec<_> = DType::ALL.iter().map(|d| d.name()).collect();
            pos.syntax(format!("expected an element type ({}), found {word}", known.join(", ")))
        })
    }

    pub(super) fn shape(&mut self) -> Result<Shape, TextError> {
        Ok(self.list(Self::dim)?.into())
    }

    pub(super) fn dim(&mut self) -> Result<Dim, TextError> {
        self.sum(0)
    }

    fn sum(&mut self, depth: usize) -> Result<Dim, TextError> {
        let pos = self.pos();
        if depth > MAX_DEPTH {
            return Err(pos.syntax(format!("functions are nested deeper than {MAX_DEPTH}")));
        }
        let mut negative = self.eat('-');
        let mut sum = self.product(negative, depth)?;
        loop {
            negative = match self.peek() {
                Token::Punct('+') => false,
                Token::Punct('-') => true,
                _ => return Ok(sum),
            };
            self.advance();
            sum = sum + self.product(negative, depth)?;
        }
    }

    fn product(&mut self, negative: bool, depth: usize) -> Result<Dim, TextError> {
        let mut product = match self.peek().clone() {
            Token::Number(text) => {
                let pos = self.pos();
                self.advance();
                let magnitude: Option<i128> = text.parse::<u64>().ok().map(i128::from);
                let n = magnitude.and_then(|n| i64::try_from(if negative { -n } else { n }).ok());
                Dim::from(n.ok_or_else(|| pos.syntax(format!("expected a 64-bit integer, found {text}")))?)
            }
            _ => self.atom(depth)? * Dim::from(if negative { -1 } else { 1 }),
        };
        while self.eat('*') {
            product = product * self.atom(depth)?;
        }
        Ok(product)
    }

    fn atom(&mut self, depth: usize) -> Result<Dim, TextError> {
        let pos = self.pos();
        match self.advance() {
            Token::Str(name) => Ok(Dim::symbol(&name)),
            Token::Ident(name) => {
                let Some(f) = DimFn::ALL.iter().copied().find(|f| f.name() == name) else {
                    return Ok(Dim::symbol(&name));
                };
                self.expect('(')?;
                let a = self.sum(depth + 1)?;
                self.expect(',')?;
                let b = self.sum(depth + 1)?;
                self.expect(')')?;
                Ok(Dim::apply(f, &a, &b))
            }
            other => Err(pos.syntax(format!("expected an extent, found {other}"))),
        }
    }
}
