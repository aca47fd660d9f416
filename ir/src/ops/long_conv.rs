//! Long convolutions along the sequence.

use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, Op, OpDef, OpError, Operand, Tolerance, arg,
    eval, opt, req,
};
use crate::dim::Dim;
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, Shape, TensorType};

/// Long convolution of every channel with a kernel of its own.
///
/// # Equation
/// ```text
/// y[b,t,e] = sum over j < K of k[j,e] * u[b, t + lead - j, e], where u is x preceded by the K-1 columns of
/// `history` (zeros if absent) and followed by zeros
/// ```
/// The convolution is causal if `lead` is 0. A kernel with a part that looks ahead is two-sided: its first `lead` taps
/// act on the inputs after t. There is no wrap around the ends.
///
/// # Shapes
/// ```text
/// x: T[B,L,E], k: T[K,E], or T[B,K,E] if it depends on the input, history: T[B,K-1,E] (only with lead = 0)
/// -> y: T[B,L,E], history_out: T[B,K-1,E], the last K-1 columns of u
/// ```
///
/// # Numerics
/// sums are f32 or wider; K may be smaller or larger than L
///
/// # Source
/// Gu et al. 2022 (S4), Poli et al. 2023 (Hyena); zoo "long convolutions" and "two-sided"
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LongConv {
    /// How many taps look ahead.
    pub lead: Dim,
}

impl OpDef for LongConv {
    const OPERANDS: &'static [Operand] = &[req("x"), req("k"), opt("history")];
    const RESULTS: &'static [&'static str] = &["y", "history_out"];

    fn name(&self) -> &'static str {
        "ssm.long_conv"
    }

    fn templates() -> Vec<Op> {
        vec![LongConv { lead: Dim::from(0) }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("lead", AttrMut::Dim(&mut self.lead));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let history = x.get(2).copied().flatten();
        let (x, k) = (arg(x, 0), arg(x, 1));
        if x.rank() != 3 {
            return Err(OpError::Rank { operand: "x", expected: 3, found: x.rank() });
        }
        if !x.dtype.is_float() {
            return Err(OpError::dtype("x", "a floating-point one", x.dtype));
        }
        for (operand, ty) in [("k", Some(k)), ("history", history)] {
            if let Some(ty) = ty
                && ty.dtype != x.dtype
            {
                return Err(OpError::dtype(operand, x.dtype, ty.dtype));
            }
        }
        let (batch, channels) = (&x.shape[0], &x.shape[2]);
        let width = match &k.shape[..] {
            [width, e] if e == channels && !width.is(0) => width,
            [b, width, e] if b == batch && e == channels && !width.is(0) => width,
            _ => {
                let expected = format!("[K, {channels}] or [{batch}, K, {channels}] with K > 0");
                return Err(OpError::shape("k", expected, &k.shape));
            }
        };
        if self.lead.as_const().is_some_and(|lead| lead < 0) {
            return Err(OpError::attr("lead", format!("expected a number from 0, found {}", self.lead)));
        }
        let tail = (width.clone() - 1i64).at_least(&Dim::from(0));
        let tail = x.with_shape([batch.clone(), tail, channels.clone()]);
        if let Some(history) = history {
            if !self.lead.is(0) {
                return Err(OpError::attr("lead", format!("a history needs lead 0, found {}", self.lead)));
            }
            if history.shape != tail.shape {
                return Err(OpError::shape("history", &tail.shape, &history.shape));
            }
        }
        Ok(vec![x.clone(), tail])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::long_conv(self, ctx, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::sum(dtype)
    }
}

/// Discrete Fourier transform along one axis; complex numbers are two tensors.
///
/// # Equation
/// ```text
/// forward: X[k] = sum over n < length of x[n] * exp(-2*pi*i*k*n / length)
/// inverse: x[n] = 1/length * sum over k < length of X[k] * exp(2*pi*i*k*n / length)
/// ```
/// What the operand lacks of `length` elements counts as 0, what it has beyond them is ignored. `onesided`: the spectrum
/// of a real signal, of which only the first floor(length/2) + 1 elements are stored; `X[length - k]` is the conjugate of
/// `X[k]`. The imaginary part of an element that is its own mirror image is ignored by the inverse.
///
/// # Shapes
/// ```text
/// re: T[..,N,..], im: T[..,N,..] (absent: zeros; forward and onesided: must be absent)
/// -> re, im: T[..,M,..], M = floor(length/2) + 1 for forward and onesided, else length
/// ```
///
/// # Numerics
/// the imaginary result of an inverse onesided transform is 0
///
/// # Source
/// ONNX `DFT`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Dft {
    pub axis: usize,
    pub inverse: bool,
    pub length: Dim,
    pub onesided: bool,
}

impl Dft {
    /// The number of elements that a onesided spectrum stores.
    pub fn half(&self) -> Dim {
        self.length.floordiv(&Dim::from(2)) + 1i64
    }
}

impl OpDef for Dft {
    const OPERANDS: &'static [Operand] = &[req("re"), opt("im")];
    const RESULTS: &'static [&'static str] = &["re", "im"];

    fn name(&self) -> &'static str {
        "dft"
    }

    fn templates() -> Vec<Op> {
        vec![Dft { axis: 0, inverse: false, length: Dim::from(1), onesided: false }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("axis", AttrMut::Usize(&mut self.axis));
        v.attr("inverse", AttrMut::Bool(&mut self.inverse));
        v.attr("length", AttrMut::Dim(&mut self.length));
        v.attr("onesided", AttrMut::Bool(&mut self.onesided));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let im = x.get(1).copied().flatten();
        let re = arg(x, 0);
        if !re.dtype.is_float() {
            return Err(OpError::dtype("re", "a floating-point one", re.dtype));
        }
        if self.axis >= re.rank() {
            return Err(OpError::attr("axis", format!("{} of a tensor of rank {}", self.axis, re.rank())));
        }
        if self.length.as_const().is_some_and(|n| n < 1) {
            return Err(OpError::attr(
                "length",
                format!("expected a positive number, found {}", self.length),
            ));
        }
        if let Some(im) = im {
            if self.onesided && !self.inverse {
                return Err(OpError::attr("onesided", "the signal of a onesided transform is real"));
            }
            if im.dtype != re.dtype {
                return Err(OpError::dtype("im", re.dtype, im.dtype));
            }
            if im.shape != re.shape {
                return Err(OpError::shape("im", &re.shape, &im.shape));
            }
        }
        let mut dims = re.shape.to_vec();
        dims[self.axis] = if self.onesided && !self.inverse { self.half() } else { self.length.clone() };
        let ty = re.with_shape(Shape::from(&dims[..]));
        Ok(vec![ty.clone(), ty])
    }

    fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::dft(self, ctx, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::sum(dtype)
    }
}
