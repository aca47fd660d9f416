//! Labelled contractions: every product with broadcasting, transposition and summation in one op.

use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, Op, OpDef, OpError, Operand, Tolerance, arg,
    eval, req, variadic,
};
use crate::dim::Dim;
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, Shape, TensorType};
use std::collections::BTreeMap;
use std::fmt;

/// An axis label of a contraction: a letter from `a`.
pub type Label = u8;

/// The labels of every operand and of the result. Prints as `bld,ed->ble`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Spec {
    pub inputs: Vec<Vec<Label>>,
    pub output: Vec<Label>,
}

impl Spec {
    /// Reads `bld,ed->ble`. `None` if it is not of that form or a label is no lower-case or upper-case letter.
    pub fn parse(text: &str) -> Option<Self> {
        let (inputs, output) = text.split_once("->")?;
        let labels = |part: &str| -> Option<Vec<Label>> {
            part.bytes().map(|c| c.is_ascii_alphabetic().then_some(c)).collect()
        };
        Some(Self { inputs: inputs.split(',').map(labels).collect::<Option<_>>()?, output: labels(output)? })
    }

    /// The same contraction with labels `a, b, ..` in order of first appearance.
    pub fn renamed(&self) -> Self {
        let mut names: BTreeMap<Label, Label> = BTreeMap::new();
        let mut rename = |labels: &[Label]| -> Vec<Label> {
            labels
                .iter()
                .map(|l| {
                    let n = names.len() as u8;
                    *names.entry(*l).or_insert(if n < 26 { b'a' + n } else { b'A' + n - 26 })
                })
                .collect()
        };
        let inputs = self.inputs.iter().map(|labels| rename(labels)).collect();
        Self { inputs, output: rename(&self.output) }
    }

    /// Labels that are summed over: those absent from the result, in order of first appearance.
    pub fn summed(&self) -> Vec<Label> {
        let mut out = Vec::new();
        for label in self.inputs.iter().flatten() {
            if !self.output.contains(label) && !out.contains(label) {
                out.push(*label);
            }
        }
        out
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, labels) in self.inputs.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { "," }, String::from_utf8_lossy(labels))?;
        }
        write!(f, "->{}", String::from_utf8_lossy(&self.output))
    }
}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Sum of products over the labels that the result lacks.
///
/// # Equation
/// ```text
/// `contract[bld,ed->ble](x, w)`: y[b,l,e] = sum over d of x[b,l,d] * w[e,d]
/// ```
///
/// # Shapes
/// ```text
/// one label per axis of each operand; equal labels have equal extents; no label twice in one operand;
/// every label of the result occurs in an operand
/// ```
///
/// # Numerics
/// accumulates in f32 or wider
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Contract {
    pub spec: Spec,
}

impl Contract {
    /// The contraction written as `bld,ed->ble`; for specs in source code.
    pub fn new(spec: &str) -> Self {
        Self { spec: Spec::parse(spec).expect("a spec in source code is well formed") }
    }

    /// The extent of every label.
    ///
    /// # Errors
    /// Labels and operands do not fit.
    pub fn extents(&self, x: &ArgTypes<'_>) -> Result<BTreeMap<Label, Dim>, OpError> {
        if x.len() != self.spec.inputs.len() {
            return Err(OpError::Arity { expected: self.spec.inputs.len(), found: x.len() });
        }
        let mut extents: BTreeMap<Label, Dim> = BTreeMap::new();
        for (i, labels) in self.spec.inputs.iter().enumerate() {
            let x = arg(x, i);
            if x.rank() != labels.len() {
                return Err(OpError::Rank { operand: "x", expected: labels.len(), found: x.rank() });
            }
            for (j, (label, dim)) in labels.iter().zip(x.shape.iter()).enumerate() {
                if labels[..j].contains(label) {
                    let message = format!("label {} occurs twice in operand {i}", *label as char);
                    return Err(OpError::attr("spec", message));
                }
                let known = extents.entry(*label).or_insert_with(|| dim.clone());
                if known != dim {
                    return Err(OpError::shape("x", format!("{known} for label {}", *label as char), dim));
                }
            }
        }
        Ok(extents)
    }
}

impl OpDef for Contract {
    const OPERANDS: &'static [Operand] = &[req("x"), variadic("more")];
    const RESULTS: &'static [&'static str] = &["y"];

    fn name(&self) -> &'static str {
        "contract"
    }

    fn templates() -> Vec<Op> {
        vec![Contract { spec: Spec::default() }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("spec", AttrMut::Spec(&mut self.spec));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let extents = self.extents(x)?;
        let first = arg(x, 0);
        if first.dtype == DType::Bool {
            return Err(OpError::dtype("x", "a number", first.dtype));
        }
        for i in 1..x.len() {
            if arg(x, i).dtype != first.dtype {
                return Err(OpError::dtype("more", first.dtype, arg(x, i).dtype));
            }
        }
        for (i, label) in self.spec.output.iter().enumerate() {
            if self.spec.output[..i].contains(label) {
                return Err(OpError::attr(
                    "spec",
                    format!("label {} occurs twice in the result", *label as char),
                ));
            }
            if !extents.contains_key(label) {
                return Err(OpError::attr("spec", format!("label {} is in no operand", *label as char)));
            }
        }
        Ok(vec![first.with_shape(self.spec.output.iter().map(|l| &extents[l]).collect::<Shape>())])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::contract(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::sum(dtype)
    }
}
