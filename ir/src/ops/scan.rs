//! Recurrences: the diagonal scan and what rewrites build around it.

use super::attr::keyword;
use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, F64, Op, OpDef, OpError, Operand, Tolerance,
    arg, eval, opt, req,
};
use crate::dim::Dim;
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, Shape, TensorType};

/// Checks operands against expected types.
pub(super) struct Check<'a, 'b> {
    pub(super) x: &'a ArgTypes<'b>,
    pub(super) operands: &'static [Operand],
    pub(super) dtype: DType,
}

impl<'b> Check<'_, 'b> {
    pub(super) fn get(&self, i: usize) -> Option<&'b TensorType> {
        self.x.get(i).copied().flatten()
    }

    /// Operand `i`, if present, has this shape and the common element type.
    pub(super) fn shape(&self, i: usize, dims: &[&Dim]) -> Result<(), OpError> {
        let Some(ty) = self.get(i) else { return Ok(()) };
        let expected: Shape = dims.iter().copied().collect();
        if ty.dtype != self.dtype {
            return Err(OpError::dtype(self.operands[i].name, self.dtype, ty.dtype));
        }
        if ty.shape != expected {
            return Err(OpError::shape(self.operands[i].name, expected, &ty.shape));
        }
        Ok(())
    }

    /// The common element type is a floating-point one, or complex where that is allowed.
    pub(super) fn float(&self, or_complex: bool) -> Result<(), OpError> {
        if self.dtype.is_float() || (or_complex && self.dtype.is_complex()) {
            return Ok(());
        }
        let expected = if or_complex { "a floating-point or complex one" } else { "a floating-point one" };
        Err(OpError::dtype(self.operands[0].name, expected, self.dtype))
    }

    pub(super) fn rank(&self, i: usize, expected: usize) -> Result<&'b TensorType, OpError> {
        let ty = arg(self.x, i);
        if ty.rank() != expected {
            return Err(OpError::Rank { operand: self.operands[i].name, expected, found: ty.rank() });
        }
        Ok(ty)
    }

    /// `seq_idx: i32[B,L]`.
    pub(super) fn seq_idx(&self, i: usize, like: &TensorType) -> Result<(), OpError> {
        let Some(ty) = self.get(i) else { return Ok(()) };
        if ty.dtype != DType::I32 {
            return Err(OpError::dtype("seq_idx", DType::I32, ty.dtype));
        }
        if ty.shape[..] != like.shape[..2] {
            return Err(OpError::shape("seq_idx", Shape::from(&like.shape[..2]), &ty.shape));
        }
        Ok(())
    }

    /// Operand `i`, if present, has this shape, or 1 on some axes, and the common element type.
    pub(super) fn broadcast(&self, i: usize, dims: &[&Dim]) -> Result<(), OpError> {
        let Some(ty) = self.get(i) else { return Ok(()) };
        if ty.dtype != self.dtype {
            return Err(OpError::dtype(self.operands[i].name, self.dtype, ty.dtype));
        }
        if ty.rank() != dims.len() || ty.shape.iter().zip(dims).any(|(d, dim)| d != *dim && !d.is(1)) {
            let expected: Shape = dims.iter().copied().collect();
            return Err(OpError::shape(
                self.operands[i].name,
                format!("{expected} or 1 on some axes"),
                &ty.shape,
            ));
        }
        Ok(())
    }

    /// Rows of the states: as many as the batch has, or with `slots: i32[B]` as many as operand `h0` has.
    pub(super) fn slots(&self, i: usize, h0: usize, batch: &'b Dim) -> Result<&'b Dim, OpError> {
        let Some(ty) = self.get(i) else { return Ok(batch) };
        if ty.dtype != DType::I32 {
            return Err(OpError::dtype("slots", DType::I32, ty.dtype));
        }
        if ty.shape[..] != std::slice::from_ref(batch)[..] {
            return Err(OpError::shape("slots", format!("[{batch}]"), &ty.shape));
        }
        let missing = OpError::Missing { operand: self.operands[h0].name };
        self.get(h0).and_then(|h0| h0.shape.first()).ok_or(missing)
    }
}

/// Which state a step reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadOut {
    /// That after the step's own update.
    #[default]
    After,
    /// That before it: the state of the step before, which has not decayed yet.
    Before,
}

keyword!(ReadOut { After = "after", Before = "before" });

/// Diagonal scan: a first-order recurrence along the sequence, element by element.
///
/// # Equation
/// ```text
/// h[t] = a[t] * h[t-1] + b[t], h[-1] = h0 (zeros if absent); `reverse` runs from the last step to the
/// first; where `seq_idx` differs from that of the step before, h[t-1] counts as zeros; with `slots` the batch row i
/// starts from row slots[i] of h0 and replaces it in h_last
/// ```
///
/// # Shapes
/// ```text
/// a, b: T[B,L,s..], h0: T[B,s..], seq_idx: i32[B,L] -> h: T[B,L,s..], h_last: T[B,s..];
/// an axis of a may be 1 where that of b is not;
/// with slots: i32[B] h0 and h_last have P rows, those that no slot names are equal
/// ```
///
/// # Numerics
/// the carried state is f32 or wider; h_last is h0 if L = 0; of several batch rows with one slot the last one's state
/// is kept
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Scan {
    pub reverse: bool,
}

impl OpDef for Scan {
    const OPERANDS: &'static [Operand] = &[req("a"), req("b"), opt("h0"), opt("seq_idx"), opt("slots")];
    const RESULTS: &'static [&'static str] = &["h", "h_last"];

    fn name(&self) -> &'static str {
        "ssm.scan"
    }

    fn templates() -> Vec<Op> {
        vec![Scan { reverse: false }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("reverse", AttrMut::Bool(&mut self.reverse));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let (a, b) = (arg(x, 0), arg(x, 1));
        let c = Check { x, operands: Self::OPERANDS, dtype: b.dtype };
        c.float(true)?;
        if b.rank() < 2 {
            return Err(OpError::Rank { operand: "b", expected: 2, found: b.rank() });
        }
        c.rank(0, b.rank())?;
        if a.dtype != b.dtype {
            return Err(OpError::dtype("a", b.dtype, a.dtype));
        }
        if a.shape.iter().zip(b.shape.iter()).any(|(a, b)| a != b && !a.is(1)) {
            return Err(OpError::shape("a", format!("{} or 1 on some axes", b.shape), &a.shape));
        }
        let mut state: Vec<_> = b.shape.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, d)| d).collect();
        state[0] = c.slots(4, 2, &b.shape[0])?;
        c.shape(2, &state)?;
        c.seq_idx(3, b)?;
        Ok(vec![b.clone(), b.with_shape(state.into_iter().collect::<Shape>())])
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::scan(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::scan(dtype)
    }
}

/// How a continuous system becomes a discrete one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Discretization {
    /// a_bar = exp(dt*a), b_bar = dt*b: what Mamba-1 and Mamba-2 compute.
    ExpEuler,
    /// a_bar = exp(dt*a), b_bar = (exp(dt*a) - 1)/a * b.
    Zoh,
    /// a_bar = (1 + dt*a/2)/(1 - dt*a/2), b_bar = dt/(1 - dt*a/2) * b.
    Bilinear,
}

keyword!(Discretization { ExpEuler = "exp_euler", Zoh = "zoh", Bilinear = "bilinear" });

/// A diagonal scan together with its discretization; every state of every step is a result.
///
/// # Equation
/// ```text
/// h[t] = a_bar * h[t-1] + b_bar * x[t], with (a_bar, b_bar) by `discretization` from dt[t], a, b[t];
/// exp_euler: h[t] = exp(dt[t]*a) * h[t-1] + dt[t]*b[t]*x[t]
/// ```
///
/// # Shapes
/// ```text
/// per-state decay: x, dt: T[B,L,G,E], a: T[G,E,N], b: T[B,L,G,N], h0: T[B,G,E,N]
/// -> h: T[B,L,G,E,N], h_last: T[B,G,E,N];
/// scalar decay: x: T[B,L,G,R,P], dt: T[B,L,G,R], a: T[G,R], b: T[B,L,G,N], h0: T[B,G,R,P,N]
/// -> h: T[B,L,G,R,P,N], h_last: T[B,G,R,P,N]; seq_idx: i32[B,L], slots: i32[B] as for `ssm.scan`
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct DiscretizedScan {
    pub discretization: Discretization,
    pub reverse: bool,
}

impl OpDef for DiscretizedScan {
    const OPERANDS: &'static [Operand] =
        &[req("x"), req("dt"), req("a"), req("b"), opt("h0"), opt("seq_idx"), opt("slots")];
    const RESULTS: &'static [&'static str] = &["h", "h_last"];

    fn name(&self) -> &'static str {
        "ssm.discretized_scan"
    }

    fn templates() -> Vec<Op> {
        vec![DiscretizedScan { discretization: Discretization::ExpEuler, reverse: false }.into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("discretization", AttrMut::Word(&mut self.discretization));
        v.attr("reverse", AttrMut::Bool(&mut self.reverse));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let ty = arg(x, 0);
        let c = Check { x, operands: Self::OPERANDS, dtype: ty.dtype };
        c.float(true)?;
        let scalar_decay = arg(x, 2).rank() == 2;
        c.rank(0, if scalar_decay { 5 } else { 4 })?;
        let d = &ty.shape;
        let b = c.rank(3, 4)?;
        let n = &b.shape[3];
        c.shape(3, &[&d[0], &d[1], &d[2], n])?;
        c.shape(1, &[&d[0], &d[1], &d[2], &d[3]])?;
        let rows = c.slots(6, 4, &d[0])?;
        let (a, state): (Vec<_>, Vec<_>) = if scalar_decay {
            (vec![&d[2], &d[3]], vec![rows, &d[2], &d[3], &d[4], n])
        } else {
            (vec![&d[2], &d[3], n], vec![rows, &d[2], &d[3], n])
        };
        c.shape(2, &a)?;
        c.shape(4, &state)?;
        c.seq_idx(5, ty)?;
        let mut all = state.clone();
        all[0] = &d[0];
        all.insert(1, &d[1]);
        Ok(vec![
            ty.with_shape(all.into_iter().collect::<Shape>()),
            ty.with_shape(state.into_iter().collect::<Shape>()),
        ])
    }

    fn fused(&self) -> bool {
        true
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::discretized_scan(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::scan(dtype)
    }
}

/// How a scan is executed. All modes compute the same function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// One step after the other.
    Recurrent,
    /// Chunks of `chunk_size` steps in matrix form, states passed between chunks.
    Chunked,
}

keyword!(Mode { Recurrent = "recurrent", Chunked = "chunked" });

/// The Mamba-1 mixer core: discretization, diagonal scan, read-out, skip and gate in one op.
///
/// # Equation
/// ```text
/// dt' = clamp(softplus?(dt + dt_bias), dt_min, dt_max);
/// h[t,e,n] = exp(dt'[t,e]*a[e,n])*h[t-1,e,n] + dt'[t,e]*b[t,n]*x[t,e], or as `discretization` says;
/// y[t,e] = (sum over n of c[t,n]*h[t,e,n] + d[e]*x[t,e]) * silu(z[t,e]), with h[t-1] for h[t] if `read_out` is before
/// ```
///
/// # Shapes
/// ```text
/// x, dt, z: T[B,L,G,E], a: T[G,E,N], b, c: T[B,L,G,N], d, dt_bias: T[G,E], h0: T[B,G,E,N],
/// seq_idx: i32[B,L] -> y: T[B,L,G,E], h_last: T[B,G,E,N]; slots: i32[B] as for `ssm.scan`
/// ```
///
/// # Numerics
/// dynamics and state in f32
///
/// # Source
/// Gu & Dao 2023, algorithm 2; upstream selective_scan_ref
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct SelectiveScan {
    pub discretization: Discretization,
    pub dt_max: F64,
    pub dt_min: F64,
    pub dt_softplus: bool,
    pub read_out: ReadOut,
    pub reverse: bool,
}

impl Default for SelectiveScan {
    fn default() -> Self {
        Self {
            discretization: Discretization::ExpEuler,
            dt_max: f64::INFINITY.into(),
            dt_min: f64::NEG_INFINITY.into(),
            dt_softplus: false,
            read_out: ReadOut::After,
            reverse: false,
        }
    }
}

impl OpDef for SelectiveScan {
    const OPERANDS: &'static [Operand] = &[
        req("x"),
        req("dt"),
        req("a"),
        req("b"),
        req("c"),
        opt("d"),
        opt("z"),
        opt("dt_bias"),
        opt("h0"),
        opt("seq_idx"),
        opt("slots"),
    ];
    const RESULTS: &'static [&'static str] = &["y", "h_last"];

    fn name(&self) -> &'static str {
        "ssm.selective_scan"
    }

    fn templates() -> Vec<Op> {
        vec![SelectiveScan::default().into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("discretization", AttrMut::Word(&mut self.discretization));
        v.attr("dt_max", AttrMut::Float(&mut self.dt_max));
        v.attr("dt_min", AttrMut::Float(&mut self.dt_min));
        v.attr("dt_softplus", AttrMut::Bool(&mut self.dt_softplus));
        v.attr("read_out", AttrMut::Word(&mut self.read_out));
        v.attr("reverse", AttrMut::Bool(&mut self.reverse));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let ty = arg(x, 0);
        let c = Check { x, operands: Self::OPERANDS, dtype: ty.dtype };
        c.float(false)?;
        c.rank(0, 4)?;
        let d = &ty.shape;
        let n = &c.rank(2, 3)?.shape[2];
        c.shape(1, &[&d[0], &d[1], &d[2], &d[3]])?;
        c.shape(2, &[&d[2], &d[3], n])?;
        c.shape(3, &[&d[0], &d[1], &d[2], n])?;
        c.shape(4, &[&d[0], &d[1], &d[2], n])?;
        c.shape(5, &[&d[2], &d[3]])?;
        c.shape(6, &[&d[0], &d[1], &d[2], &d[3]])?;
        c.shape(7, &[&d[2], &d[3]])?;
        let state = [c.slots(10, 8, &d[0])?, &d[2], &d[3], n];
        c.shape(8, &state)?;
        c.seq_idx(9, ty)?;
        Ok(vec![ty.clone(), ty.with_shape(state.into_iter().collect::<Shape>())])
    }

    fn fused(&self) -> bool {
        true
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::selective_scan(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::scan(dtype)
    }
}

/// The Mamba-2 mixer core (state space duality): a matrix-state scan with one decay per head.
///
/// # Equation
/// ```text
/// dt' = clamp(softplus?(dt + dt_bias), dt_min, dt_max);
/// S[t,p,n] = exp(dt'[t]*a)*S[t-1,p,n] + dt'[t]*x[t,p]*b[t,n], or as `discretization` says;
/// y[t,p] = (sum over n of c[t,n]*S[t,p,n] + d[p]*x[t,p]) * silu(z[t,p]), for each group g and head r, with S[t-1] for
/// S[t] if `read_out` is before
/// ```
///
/// # Shapes
/// ```text
/// x, z: T[B,L,G,R,P], dt: T[B,L,G,R], a: T[G,R], b, c: T[B,L,G,N], d: T[G,R,1] or T[G,R,P],
/// dt_bias: T[G,R], h0: T[B,G,R,P,N], seq_idx: i32[B,L] -> y: T[B,L,G,R,P], h_last: T[B,G,R,P,N];
/// slots: i32[B] as for `ssm.scan`
/// ```
///
/// # Numerics
/// dynamics and state in f32; the chunked mode masks segment sums before exp. It reads after the update, has no slots,
/// and needs the logarithm of the decay, which that of bilinear need not have
///
/// # Source
/// Dao & Gu 2024, listing 1; upstream ssd_minimal
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Ssd {
    pub chunk_size: usize,
    pub discretization: Discretization,
    pub dt_max: F64,
    pub dt_min: F64,
    pub dt_softplus: bool,
    pub mode: Mode,
    pub read_out: ReadOut,
    pub reverse: bool,
}

impl Default for Ssd {
    fn default() -> Self {
        Self {
            chunk_size: 0,
            discretization: Discretization::ExpEuler,
            dt_max: f64::INFINITY.into(),
            dt_min: f64::NEG_INFINITY.into(),
            dt_softplus: false,
            mode: Mode::Recurrent,
            read_out: ReadOut::After,
            reverse: false,
        }
    }
}

impl OpDef for Ssd {
    const OPERANDS: &'static [Operand] = SelectiveScan::OPERANDS;
    const RESULTS: &'static [&'static str] = &["y", "h_last"];

    fn name(&self) -> &'static str {
        "ssm.ssd"
    }

    fn templates() -> Vec<Op> {
        vec![Ssd::default().into()]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("chunk_size", AttrMut::Usize(&mut self.chunk_size));
        v.attr("discretization", AttrMut::Word(&mut self.discretization));
        v.attr("dt_max", AttrMut::Float(&mut self.dt_max));
        v.attr("dt_min", AttrMut::Float(&mut self.dt_min));
        v.attr("dt_softplus", AttrMut::Bool(&mut self.dt_softplus));
        v.attr("mode", AttrMut::Word(&mut self.mode));
        v.attr("read_out", AttrMut::Word(&mut self.read_out));
        v.attr("reverse", AttrMut::Bool(&mut self.reverse));
    }

    fn infer(&self, x: &ArgTypes<'_>, _: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        if (self.mode == Mode::Chunked) != (self.chunk_size > 0) {
            return Err(OpError::attr("chunk_size", "is positive in chunked mode and 0 in recurrent mode"));
        }
        let ty = arg(x, 0);
        let c = Check { x, operands: Self::OPERANDS, dtype: ty.dtype };
        if self.mode == Mode::Chunked {
            if self.discretization == Discretization::Bilinear {
                let message =
                    "a decay by bilinear may be negative, so that it has no logarithm to sum in chunks";
                return Err(OpError::attr("discretization", message));
            }
            if self.read_out != ReadOut::After {
                return Err(OpError::attr("read_out", "is after the update in chunked mode"));
            }
            if let Some(slots) = c.get(10) {
                return Err(OpError::shape("slots", "none in chunked mode", &slots.shape));
            }
        }
        c.float(false)?;
        c.rank(0, 5)?;
        let d = &ty.shape;
        let n = &c.rank(3, 4)?.shape[3];
        c.shape(1, &[&d[0], &d[1], &d[2], &d[3]])?;
        c.shape(2, &[&d[2], &d[3]])?;
        c.shape(3, &[&d[0], &d[1], &d[2], n])?;
        c.shape(4, &[&d[0], &d[1], &d[2], n])?;
        let one = Dim::from(1);
        let skip_is_scalar = c.get(5).is_some_and(|t| t.shape.last() == Some(&one));
        c.shape(5, &[&d[2], &d[3], if skip_is_scalar { &one } else { &d[4] }])?;
        c.shape(6, &[&d[0], &d[1], &d[2], &d[3], &d[4]])?;
        c.shape(7, &[&d[2], &d[3]])?;
        let state = [c.slots(10, 8, &d[0])?, &d[2], &d[3], &d[4], n];
        c.shape(8, &state)?;
        c.seq_idx(9, ty)?;
        Ok(vec![ty.clone(), ty.with_shape(state.into_iter().collect::<Shape>())])
    }

    fn fused(&self) -> bool {
        true
    }

    fn eval(&self, _: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::ssd(self, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::scan(dtype)
    }
}
