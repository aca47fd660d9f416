//! The op set: one struct per op, one list.
//!
//! An op file holds everything about its ops: attributes, operands, type rule, reference evaluation, tolerance and
//! docs. `ops!` turns the list into the [`Op`] enum.

mod attr;
mod complex_scan;
mod contract;
mod control;
mod conv;
mod elementwise;
mod error;
mod eval;
mod layout;
mod linear_attention;
mod long_conv;
mod norm;
mod quantized;
mod reduce;
mod scan;
mod scatter;
mod source;
mod wkv;

pub use attr::{Attr, AttrError, AttrMut, AttrVisitor, F64, Keyword};
pub use complex_scan::ComplexScan;
pub use contract::{Contract, Label, Spec};
pub use control::{If, Loop, LoopCount};
pub use conv::{Activation, CausalConv1d, Conv};
pub use elementwise::{Binary, BinaryFn, Bitcast, Cast, Cmp, Compare, Select, Unary, UnaryFn};
pub use error::OpError;
pub use eval::{Args, EvalCtx, EvalError, RunRegion, Tolerance};
pub use layout::{Broadcast, Concat, Gather, Pad, Reshape, Reverse, Slice, Transpose};
pub use linear_attention::LinearAttention;
pub use long_conv::{Dft, LongConv};
pub use norm::{GatedRmsNorm, LayerNorm, RmsNorm};
pub use quantized::Dequantize;
pub use reduce::{ArgMax, CumSum, Reduce, ReduceFn};
pub use scan::{Discretization, DiscretizedScan, Mode, ReadOut, Scan, SelectiveScan, Ssd};
pub use scatter::{Scatter, ScatterFn, TopK};
pub use source::{Constant, DimValue, Iota, WeightRef};
pub use wkv::Wkv;

use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, TensorType};

/// How often an operand occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly once.
    Required,
    /// Once or not at all; an absent one prints as `_`.
    Optional,
    /// Any number of times; only as the last operand.
    Variadic,
}

/// Name and arity of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Operand {
    pub name: &'static str,
    pub arity: Arity,
}

const fn req(name: &'static str) -> Operand {
    Operand { name, arity: Arity::Required }
}

const fn opt(name: &'static str) -> Operand {
    Operand { name, arity: Arity::Optional }
}

const fn variadic(name: &'static str) -> Operand {
    Operand { name, arity: Arity::Variadic }
}

/// The operand types of a node, `None` where an optional operand is absent.
pub type ArgTypes<'a> = [Option<&'a TensorType>];

/// Definition of an op: everything that the rest of the compiler may ask it.
pub trait OpDef {
    /// Operands in order.
    const OPERANDS: &'static [Operand];
    /// Names of the results in order; ops with regions have any number.
    const RESULTS: &'static [&'static str];

    /// The spelling in the text form.
    fn name(&self) -> &'static str;

    /// One op for each spelling, with default attributes; the parser starts from these.
    fn templates() -> Vec<Op>
    where
        Self: Sized;

    /// Shows every attribute to the visitor, by name in alphabetical order.
    fn attrs(&mut self, _visitor: &mut dyn AttrVisitor) {}

    /// The result types, or why the operands do not fit. This is the type rule and the verifier.
    ///
    /// # Errors
    /// The first operand or attribute that does not fit.
    fn infer(&self, x: &ArgTypes<'_>, regions: &[Graph]) -> Result<Vec<TensorType>, OpError>;

    /// The result values: the meaning of the op, slow and obvious, with sums in `f64`. Results are not rounded.
    ///
    /// # Errors
    /// The op has no value for these elements or extents, such as an index outside its axis.
    fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError>;

    /// How far a backend may stray from [`OpDef::eval`] for results of this element type. Ops that only move or
    /// compare elements are exact.
    fn tolerance(&self, _dtype: DType) -> Tolerance {
        Tolerance::EXACT
    }

    /// Whether only rewrites may create this op.
    fn fused(&self) -> bool {
        false
    }
}

macro_rules! ops {
    ($($variant:ident),* $(,)?) => {
        /// An operation with its attributes.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[expect(missing_docs, reason = "each variant is documented at its struct")]
        pub enum Op { $($variant($variant)),* }

        $(impl From<$variant> for Op {
            fn from(op: $variant) -> Op { Op::$variant(op) }
        })*

        impl Op {
            /// The spelling in the text form.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$variant(op) => op.name()),* }
            }
            /// Operands in order.
            pub fn operands(&self) -> &'static [Operand] {
                match self { $(Op::$variant(_) => <$variant as OpDef>::OPERANDS),* }
            }
            /// Names of the results; see [`OpDef::RESULTS`].
            pub fn results(&self) -> &'static [&'static str] {
                match self { $(Op::$variant(_) => <$variant as OpDef>::RESULTS),* }
            }
            /// Shows every attribute to the visitor.
            pub fn attrs(&mut self, visitor: &mut dyn AttrVisitor) {
                match self { $(Op::$variant(op) => op.attrs(visitor)),* }
            }
            /// Whether only rewrites may create this op.
            pub fn fused(&self) -> bool {
                match self { $(Op::$variant(op) => op.fused()),* }
            }
            /// The result values; see [`OpDef::eval`].
            ///
            /// # Errors
            /// The op has no value for these elements or extents.
            pub fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
                match self { $(Op::$variant(op) => op.eval(ctx, x)),* }
            }
            /// How far a backend may stray; see [`OpDef::tolerance`].
            pub fn tolerance(&self, dtype: DType) -> Tolerance {
                match self { $(Op::$variant(op) => op.tolerance(dtype)),* }
            }
            /// Every op with default attributes, one for each spelling.
            pub fn templates() -> Vec<Op> {
                [$(<$variant as OpDef>::templates()),*].concat()
            }
            fn infer_unchecked(&self, x: &ArgTypes<'_>, regions: &[Graph]) -> Result<Vec<TensorType>, OpError> {
                match self { $(Op::$variant(op) => op.infer(x, regions)),* }
            }
        }
    };
}

ops! {
    Constant, WeightRef, DimValue, Iota,
    Unary, Binary, Compare, Select, Cast, Bitcast, Dequantize,
    Broadcast, Reshape, Transpose, Slice, Reverse, Concat, Pad, Gather, Scatter,
    Reduce, CumSum, ArgMax, TopK,
    Contract,
    Conv, CausalConv1d, LongConv, Dft,
    Scan, ComplexScan, DiscretizedScan, SelectiveScan, Ssd, LinearAttention, Wkv,
    RmsNorm, LayerNorm, GatedRmsNorm,
    Loop, If,
}

impl Op {
    /// The result types, or why the operands do not fit.
    ///
    /// # Errors
    /// The first operand or attribute that does not fit.
    pub fn infer(&self, x: &ArgTypes<'_>, regions: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let specs = self.operands();
        let is_variadic = specs.last().is_some_and(|o| o.arity == Arity::Variadic);
        let fixed = specs.len() - usize::from(is_variadic);
        if x.len() < fixed || (!is_variadic && x.len() > fixed) {
            return Err(OpError::Arity { expected: fixed, found: x.len() });
        }
        for (i, arg) in x.iter().enumerate() {
            let spec = specs[i.min(specs.len() - 1)];
            if arg.is_none() && spec.arity != Arity::Optional {
                return Err(OpError::Missing { operand: spec.name });
            }
        }
        self.infer_unchecked(x, regions)
    }

    /// The op with default attributes that has this spelling.
    pub fn template(name: &str) -> Option<Op> {
        Self::templates().into_iter().find(|op| op.name() == name)
    }
}

/// The type of a required operand, whose presence [`Op::infer`] has checked.
fn arg<'a>(x: &ArgTypes<'a>, i: usize) -> &'a TensorType {
    x[i].expect("Op::infer checks that required operands are present")
}

#[cfg(test)]
mod tests;
