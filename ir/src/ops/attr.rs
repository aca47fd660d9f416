//! Attributes: one walk serves printer, parser and docs.

use super::contract::Spec;
use crate::dim::Dim;
use crate::types::{DType, Shape};
use std::fmt;

/// An `f64` that compares and hashes by its bits, so that ops can be ordered and hashed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct F64(u64);

impl F64 {
    /// The number.
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl From<f64> for F64 {
    fn from(x: f64) -> Self {
        Self(x.to_bits())
    }
}

impl fmt::Debug for F64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.get())
    }
}

/// An attribute with a fixed set of words.
pub trait Keyword {
    /// The spelling of the present value.
    fn word(&self) -> &'static str;
    /// Takes the value with this spelling; `false` if there is none.
    fn set_word(&mut self, word: &str) -> bool;
    /// All spellings.
    fn words(&self) -> Vec<&'static str>;
}

/// Implements [`Keyword`] for an enum without fields.
macro_rules! keyword {
    ($ty:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        impl $ty {
            /// Every value.
            pub const ALL: &'static [$ty] = &[$($ty::$variant),*];
            /// The spelling in the text form.
            pub fn name(self) -> &'static str {
                match self { $($ty::$variant => $word),* }
            }
        }
        impl $crate::ops::Keyword for $ty {
            fn word(&self) -> &'static str {
                self.name()
            }
            fn set_word(&mut self, word: &str) -> bool {
                match word { $($word => *self = $ty::$variant,)* _ => return false }
                true
            }
            fn words(&self) -> Vec<&'static str> {
                vec![$($word),*]
            }
        }
    };
}
pub(super) use keyword;

/// A mutable view of one attribute.
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum AttrMut<'a> {
    Bool(&'a mut bool),
    Usize(&'a mut usize),
    Usizes(&'a mut Vec<usize>),
    Int(&'a mut i64),
    Float(&'a mut F64),
    Str(&'a mut String),
    Dim(&'a mut Dim),
    Shape(&'a mut Shape),
    DType(&'a mut DType),
    Word(&'a mut dyn Keyword),
    Spec(&'a mut Spec),
    /// Little-endian elements of a literal tensor, whose type is the node's result type.
    Bytes(&'a mut Vec<u8>),
    Bools(&'a mut Vec<bool>),
}

/// The value of one attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum Attr {
    Bool(bool),
    Usize(usize),
    Usizes(Vec<usize>),
    Int(i64),
    Float(F64),
    Str(String),
    Dim(Dim),
    Shape(Shape),
    DType(DType),
    Word(String),
    Spec(Spec),
    Bytes(Vec<u8>),
    Bools(Vec<bool>),
}

/// A value that an attribute does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
#[expect(missing_docs, reason = "the fields are named in the message")]
pub struct AttrError {
    pub expected: String,
    pub found: String,
}

impl AttrMut<'_> {
    /// The present value.
    pub fn get(&self) -> Attr {
        match self {
            AttrMut::Bool(v) => Attr::Bool(**v),
            AttrMut::Usize(v) => Attr::Usize(**v),
            AttrMut::Usizes(v) => Attr::Usizes((**v).clone()),
            AttrMut::Int(v) => Attr::Int(**v),
            AttrMut::Float(v) => Attr::Float(**v),
            AttrMut::Str(v) => Attr::Str((**v).clone()),
            AttrMut::Dim(v) => Attr::Dim((**v).clone()),
            AttrMut::Shape(v) => Attr::Shape((**v).clone()),
            AttrMut::DType(v) => Attr::DType(**v),
            AttrMut::Word(v) => Attr::Word(v.word().to_owned()),
            AttrMut::Spec(v) => Attr::Spec((**v).clone()),
            AttrMut::Bytes(v) => Attr::Bytes((**v).clone()),
            AttrMut::Bools(v) => Attr::Bools((**v).clone()),
        }
    }

    /// Takes a value of the same kind.
    ///
    /// # Errors
    /// The value is of another kind, or not one of the words.
    pub fn set(self, value: Attr) -> Result<(), AttrError> {
        match (self, value) {
            (AttrMut::Bool(slot), Attr::Bool(v)) => *slot = v,
            (AttrMut::Usize(slot), Attr::Usize(v)) => *slot = v,
            (AttrMut::Usizes(slot), Attr::Usizes(v)) => *slot = v,
            (AttrMut::Int(slot), Attr::Int(v)) => *slot = v,
            (AttrMut::Float(slot), Attr::Float(v)) => *slot = v,
            (AttrMut::Str(slot), Attr::Str(v)) => *slot = v,
            (AttrMut::Dim(slot), Attr::Dim(v)) => *slot = v,
            (AttrMut::Shape(slot), Attr::Shape(v)) => *slot = v,
            (AttrMut::DType(slot), Attr::DType(v)) => *slot = v,
            (AttrMut::Spec(slot), Attr::Spec(v)) => *slot = v,
            (AttrMut::Bytes(slot), Attr::Bytes(v)) => *slot = v,
            (AttrMut::Bools(slot), Attr::Bools(v)) => *slot = v,
            (AttrMut::Word(slot), Attr::Word(v)) => {
                if !slot.set_word(&v) {
                    let expected = format!("one of {}", slot.words().join(", "));
                    return Err(AttrError { expected, found: v });
                }
            }
            (slot, v) => {
                return Err(AttrError {
                    expected: format!("a value like {:?}", slot.get()),
                    found: format!("{v:?}"),
                });
            }
        }
        Ok(())
    }
}

/// Sees every attribute of an op.
pub trait AttrVisitor {
    /// Called once per attribute.
    fn attr(&mut self, name: &'static str, value: AttrMut<'_>);
}

impl<F: FnMut(&'static str, AttrMut<'_>)> AttrVisitor for F {
    fn attr(&mut self, name: &'static str, value: AttrMut<'_>) {
        self(name, value);
    }
}
