//! The two ops that own regions. A region is a graph whose inputs are bound to operands of the node; what it captures
//! from outside is an operand like any other.

use super::{
    ArgTypes, Args, AttrMut, AttrVisitor, EvalCtx, EvalError, Op, OpDef, OpError, Operand, Tolerance, arg,
    eval, req, variadic,
};
use crate::dim::Dim;
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::{DType, Shape, TensorType};

/// How the operands and results of a [`Loop`] divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct LoopCount {
    pub carried: usize,
    pub scanned: usize,
    pub captured: usize,
}

/// Repeats its region: ONNX `Loop` and `Scan`.
///
/// Operands: the carried values, the scanned tensors, the captured values. Region inputs: the iteration number
/// (i64 scalar), the carried values, one slice of each scanned tensor, the captured values; region outputs: the
/// carried values, then one slice for each stacked result. Results: the last carried values, the stacked tensors.
/// Slice `i` of a scanned tensor is taken along `scan_axes[i]`, from the end if `scan_reverse[i]`; slices are stacked
/// along `stack_axes`, the first one last if `stack_reverse`.
///
/// # Shapes
/// ```text
/// carried values keep their types; the extent of every scan axis is `trip_count`
/// ```
///
/// # Errors
/// an iteration that ends early (ONNX `Loop` with a data-dependent condition) is not expressible
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Loop {
    pub n_carried: usize,
    pub scan_axes: Vec<usize>,
    pub scan_reverse: Vec<bool>,
    pub stack_axes: Vec<usize>,
    pub stack_reverse: Vec<bool>,
    pub trip_count: Dim,
}

impl Loop {
    /// How the operands divide.
    ///
    /// # Errors
    /// There are fewer operands than carried and scanned values.
    pub fn count(&self, n_operands: usize) -> Result<LoopCount, OpError> {
        let fixed = self.n_carried.saturating_add(self.scan_axes.len());
        let captured =
            n_operands.checked_sub(fixed).ok_or(OpError::Arity { expected: fixed, found: n_operands })?;
        Ok(LoopCount { carried: self.n_carried, scanned: self.scan_axes.len(), captured })
    }
}

fn region<'a>(regions: &'a [Graph], i: usize, name: &'static str) -> Result<&'a Graph, OpError> {
    regions.get(i).ok_or_else(|| OpError::Region { region: name, message: "is missing".into() })
}

/// The inputs of the region have these types.
fn binds(region: &Graph, name: &'static str, types: &[TensorType]) -> Result<(), OpError> {
    let found: Vec<_> = region.inputs().iter().map(|i| region.ty(i.value).clone()).collect();
    if found == types {
        return Ok(());
    }
    let message = format!("expected inputs {types:?}, found {found:?}");
    Err(OpError::Region { region: name, message })
}

impl OpDef for Loop {
    const OPERANDS: &'static [Operand] = &[variadic("operands")];
    const RESULTS: &'static [&'static str] = &["results"];

    fn name(&self) -> &'static str {
        "loop"
    }

    fn templates() -> Vec<Op> {
        vec![
            Loop {
                n_carried: 0,
                scan_axes: Vec::new(),
                scan_reverse: Vec::new(),
                stack_axes: Vec::new(),
                stack_reverse: Vec::new(),
                trip_count: Dim::from(0),
            }
            .into(),
        ]
    }

    fn attrs(&mut self, v: &mut dyn AttrVisitor) {
        v.attr("n_carried", AttrMut::Usize(&mut self.n_carried));
        v.attr("scan_axes", AttrMut::Usizes(&mut self.scan_axes));
        v.attr("scan_reverse", AttrMut::Bools(&mut self.scan_reverse));
        v.attr("stack_axes", AttrMut::Usizes(&mut self.stack_axes));
        v.attr("stack_reverse", AttrMut::Bools(&mut self.stack_reverse));
        v.attr("trip_count", AttrMut::Dim(&mut self.trip_count));
    }

    fn infer(&self, x: &ArgTypes<'_>, regions: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let count = self.count(x.len())?;
        if self.scan_reverse.len() != count.scanned || self.stack_reverse.len() != self.stack_axes.len() {
            return Err(OpError::attr("scan_reverse", "directions and axes differ in number"));
        }
        let body = region(regions, 0, "body")?;
        let mut bound = vec![TensorType::new(DType::I64, Shape::scalar())];
        for i in 0..x.len() {
            let ty = arg(x, i);
            let is_scanned = (count.carried..count.carried + count.scanned).contains(&i);
            if !is_scanned {
                bound.push(ty.clone());
                continue;
            }
            let axis = self.scan_axes[i - count.carried];
            let mut dims = ty.shape.to_vec();
            if axis >= dims.len() || dims[axis] != self.trip_count {
                let expected = format!("{} on axis {axis}", self.trip_count);
                return Err(OpError::shape("operands", expected, &ty.shape));
            }
            dims.remove(axis);
            bound.push(ty.with_shape(dims));
        }
        binds(body, "body", &bound)?;
        let outputs: Vec<_> = body.outputs().iter().map(|o| body.ty(o.value)).collect();
        let expected = count.carried + self.stack_axes.len();
        if outputs.len() != expected {
            let message = format!("expected {expected} outputs, found {}", outputs.len());
            return Err(OpError::Region { region: "body", message });
        }
        let mut results = Vec::new();
        for (i, ty) in outputs.into_iter().enumerate() {
            if i < count.carried {
                if ty != arg(x, i) {
                    let message = format!("carried value {i}: expected {}, found {ty}", arg(x, i));
                    return Err(OpError::Region { region: "body", message });
                }
                results.push(ty.clone());
                continue;
            }
            let axis = self.stack_axes[i - count.carried];
            let mut dims = ty.shape.to_vec();
            if axis > dims.len() {
                return Err(OpError::attr("stack_axes", format!("{axis} is above {}", dims.len())));
            }
            dims.insert(axis, self.trip_count.clone());
            results.push(ty.with_shape(dims));
        }
        Ok(results)
    }

    fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::iterate(self, ctx, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::scan(dtype)
    }
}

/// Evaluates one of two regions. Operands: the condition, then the captured values, which are the inputs of both
/// regions. Results: the outputs of the region that is taken.
///
/// # Shapes
/// ```text
/// both regions give the same types
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct If;

impl OpDef for If {
    const OPERANDS: &'static [Operand] = &[req("cond"), variadic("captured")];
    const RESULTS: &'static [&'static str] = &["results"];

    fn name(&self) -> &'static str {
        "if"
    }

    fn templates() -> Vec<Op> {
        vec![If.into()]
    }

    fn infer(&self, x: &ArgTypes<'_>, regions: &[Graph]) -> Result<Vec<TensorType>, OpError> {
        let cond = arg(x, 0);
        if *cond != TensorType::new(DType::Bool, Shape::scalar()) {
            return Err(OpError::dtype("cond", "a bool scalar", cond.dtype));
        }
        let bound: Vec<_> = (1..x.len()).map(|i| arg(x, i).clone()).collect();
        let (yes, no) = (region(regions, 0, "then")?, region(regions, 1, "else")?);
        binds(yes, "then", &bound)?;
        binds(no, "else", &bound)?;
        let types = |g: &Graph| -> Vec<_> { g.outputs().iter().map(|o| g.ty(o.value).clone()).collect() };
        if types(yes) != types(no) {
            let message = format!("expected {:?}, found {:?}", types(yes), types(no));
            return Err(OpError::Region { region: "else", message });
        }
        Ok(types(yes))
    }

    fn eval(&self, ctx: &EvalCtx<'_>, x: &Args<'_>) -> Result<Vec<Tensor>, EvalError> {
        eval::branch(ctx, x)
    }

    fn tolerance(&self, dtype: DType) -> Tolerance {
        Tolerance::scan(dtype)
    }
}
