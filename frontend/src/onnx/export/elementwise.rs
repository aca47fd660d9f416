//! Ops that act on each element by itself. Operands that repeat rely on the operators' own broadcasting.

use super::body::{Name, int};
use super::type_number;
use super::writer::Writer;
use ssmc_ir::ops::{Binary, BinaryFn, Cast, Cmp, Compare, Dequantize, Op, Unary, UnaryFn};
use ssmc_ir::{DType, Graph, Node, ValueId};
use std::f64::consts::{FRAC_1_SQRT_2, SQRT_2};

impl Writer<'_> {
    /// The operands, of which at least one has the full extent of each axis.
    fn repeating(&mut self, node: &Node) -> Result<Vec<Name>, String> {
        let values: Vec<_> = node.operands.iter().flatten().copied().collect();
        let mut names = Vec::new();
        let mut full = vec![false; self.ty(values[0]).rank()];
        for value in &values {
            let (name, axes) = self.broadcastable(*value)?;
            full.iter_mut().zip(axes).for_each(|(all, one)| *all |= one);
            names.push(name);
        }
        if full.contains(&false) {
            names[0] = self.full(values[0])?;
        }
        Ok(names)
    }

    fn one(&mut self, dtype: DType) -> Name {
        self.body.scalar(dtype, 1.0)
    }

    pub(super) fn unary(&mut self, node: &Node, op: &Unary) -> Result<Name, String> {
        let x = self.operand(node, 0)?;
        let dtype = self.ty(node.results[0]).dtype;
        let operator = match op.f {
            UnaryFn::Neg => "Neg",
            UnaryFn::Abs => "Abs",
            UnaryFn::Exp => "Exp",
            UnaryFn::Log => "Log",
            UnaryFn::Sqrt => "Sqrt",
            UnaryFn::Reciprocal => "Reciprocal",
            UnaryFn::Sin => "Sin",
            UnaryFn::Cos => "Cos",
            UnaryFn::Tanh => "Tanh",
            UnaryFn::Sigmoid => "Sigmoid",
            UnaryFn::Softplus => "Softplus",
            UnaryFn::Erf => "Erf",
            UnaryFn::Relu => "Relu",
            UnaryFn::Floor => "Floor",
            UnaryFn::Ceil => "Ceil",
            UnaryFn::Round => "Round",
            UnaryFn::Sign => "Sign",
            UnaryFn::Not => "Not",
            UnaryFn::IsNan => "IsNaN",
            UnaryFn::Silu => return Ok(self.body.silu(&x)),
            UnaryFn::Rsqrt => {
                let root = self.body.op("Sqrt", &[&x]);
                return Ok(self.body.op("Reciprocal", &[&root]));
            }
            UnaryFn::Log1p => {
                let one = self.one(dtype);
                let sum = self.body.op("Add", &[&x, &one]);
                return Ok(self.body.op("Log", &[&sum]));
            }
            UnaryFn::Expm1 => {
                let power = self.body.op("Exp", &[&x]);
                let one = self.one(dtype);
                return Ok(self.body.op("Sub", &[&power, &one]));
            }
        };
        Ok(self.body.op(operator, &[&x]))
    }

    pub(super) fn binary(&mut self, node: &Node, op: &Binary) -> Result<Name, String> {
        let dtype = self.ty(node.results[0]).dtype;
        if let Some(x) = gelu(self.graph, node) {
            let x = self.full(x)?;
            return Ok(self.write_gelu(&x, dtype));
        }
        let names = self.repeating(node)?;
        let (x, y) = (names[0].as_str(), names[1].as_str());
        let logical = dtype == DType::Bool;
        let operator = match op.f {
            BinaryFn::Add => "Add",
            BinaryFn::Sub => "Sub",
            BinaryFn::Mul => "Mul",
            BinaryFn::Div => "Div",
            BinaryFn::Pow => "Pow",
            BinaryFn::Min => "Min",
            BinaryFn::Max => "Max",
            BinaryFn::And if logical => "And",
            BinaryFn::Or if logical => "Or",
            BinaryFn::Xor if logical => "Xor",
            BinaryFn::And | BinaryFn::Or | BinaryFn::Xor if self.body.opset < 18 => {
                return Err("bitwise operators need opset 18".to_owned());
            }
            BinaryFn::And => "BitwiseAnd",
            BinaryFn::Or => "BitwiseOr",
            BinaryFn::Xor => "BitwiseXor",
            BinaryFn::Rem if dtype.is_int() => "Mod",
            BinaryFn::Rem => {
                let quotient = self.body.op("Div", &[x, y]);
                let whole = self.body.op("Floor", &[&quotient]);
                let multiple = self.body.op("Mul", &[&whole, y]);
                return Ok(self.body.op("Sub", &[x, &multiple]));
            }
        };
        Ok(self.body.op(operator, &[x, y]))
    }

    /// x * (1 + erf(x / sqrt(2))) / 2, in the spelling that runtimes know.
    fn write_gelu(&mut self, x: &str, dtype: DType) -> Name {
        if self.body.opset >= 20 {
            return self.body.op("Gelu", &[x]);
        }
        let root = self.body.scalar(dtype, SQRT_2);
        let scaled = self.body.op("Div", &[x, &root]);
        let erf = self.body.op("Erf", &[&scaled]);
        let one = self.one(dtype);
        let sum = self.body.op("Add", &[&erf, &one]);
        let product = self.body.op("Mul", &[x, &sum]);
        let half = self.body.scalar(dtype, 0.5);
        self.body.op("Mul", &[&product, &half])
    }

    pub(super) fn compare(&mut self, node: &Node, op: &Compare) -> Result<Name, String> {
        let names = self.repeating(node)?;
        let (x, y) = (names[0].as_str(), names[1].as_str());
        let operator = match op.cmp {
            Cmp::Eq | Cmp::Ne => "Equal",
            Cmp::Lt => "Less",
            Cmp::Le => "LessOrEqual",
            Cmp::Gt => "Greater",
            Cmp::Ge => "GreaterOrEqual",
        };
        let result = self.body.op(operator, &[x, y]);
        Ok(if op.cmp == Cmp::Ne { self.body.op("Not", &[&result]) } else { result })
    }

    pub(super) fn select(&mut self, node: &Node) -> Result<Name, String> {
        let names = self.repeating(node)?;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(self.body.op("Where", &names))
    }

    /// Scales are repeated along their axis by a shape that divides it into groups.
    pub(super) fn dequantize(&mut self, node: &Node, op: &Dequantize) -> Result<Name, String> {
        let (q, scale) = (self.operand(node, 0)?, self.operand(node, 1)?);
        let mut shape = self.ty(node.results[0]).shape.as_const().ok_or("a quantized value with a symbol")?;
        let whole = self.body.vector(&shape);
        let group = op.group as i64;
        shape[op.axis] /= group;
        shape.insert(op.axis + 1, group);
        let divided = self.body.vector(&shape);
        let to = || vec![int("to", i64::from(type_number(DType::F32)))];
        let (q, scale) = (self.body.with("Cast", &[&q], to()), self.body.with("Cast", &[&scale], to()));
        let q = self.body.op("Reshape", &[&q, &divided]);
        let scale = self.body.unsqueeze(&scale, &[op.axis as i64 + 1]);
        let y = self.body.op("Mul", &[&q, &scale]);
        Ok(self.body.op("Reshape", &[&y, &whole]))
    }

    pub(super) fn cast(&mut self, node: &Node, op: &Cast) -> Result<Name, String> {
        let x = self.operand(node, 0)?;
        Ok(self.body.with("Cast", &[&x], vec![int("to", i64::from(type_number(op.to)))]))
    }
}

/// The operand of a gelu by the error function that this product is.
fn gelu(graph: &Graph, node: &Node) -> Option<ValueId> {
    let pairs = |node: &Node| match node.operands[..] {
        [Some(x), Some(y)] => Some([(x, y), (y, x)]),
        _ => None,
    };
    let binary = |value: ValueId, f: BinaryFn| {
        let node = graph.def_node(value)?;
        matches!(&node.op, Op::Binary(op) if op.f == f).then(|| pairs(node)).flatten()
    };
    let is = |value: ValueId, x: f64| splat(graph, value).is_some_and(|y| (x - y).abs() < 1e-6);
    // 1 + erf(x / sqrt(2))
    let gate = |value: ValueId| {
        let (erf, _) = binary(value, BinaryFn::Add)?.into_iter().find(|(_, one)| is(*one, 1.0))?;
        let node = graph.def_node(erf)?;
        let scaled =
            node.operands[0].filter(|_| matches!(&node.op, Op::Unary(op) if op.f == UnaryFn::Erf))?;
        let product =
            binary(scaled, BinaryFn::Mul).into_iter().flatten().find(|(_, c)| is(*c, FRAC_1_SQRT_2));
        let quotient = binary(scaled, BinaryFn::Div).map(|pairs| pairs[0]).filter(|(_, c)| is(*c, SQRT_2));
        product.or(quotient).map(|(x, _)| x)
    };
    let halved = |value: ValueId, x: ValueId| {
        binary(value, BinaryFn::Mul).into_iter().flatten().any(|(y, half)| x == y && is(half, 0.5))
    };
    if !matches!(&node.op, Op::Binary(op) if op.f == BinaryFn::Mul) {
        return None;
    }
    for (p, q) in pairs(node)? {
        if let Some(x) = gate(q).filter(|x| halved(p, *x)) {
            return Some(x);
        }
        let gated = binary(p, BinaryFn::Mul).into_iter().flatten();
        if let Some((x, _)) = gated.filter(|_| is(q, 0.5)).find(|(x, y)| gate(*y) == Some(*x)) {
            return Some(x);
        }
        let half_gates = binary(q, BinaryFn::Mul).into_iter().flatten();
        if half_gates.filter(|(half, _)| is(*half, 0.5)).any(|(_, y)| gate(y) == Some(p)) {
            return Some(p);
        }
    }
    None
}

/// The number that every element is.
fn splat(graph: &Graph, value: ValueId) -> Option<f64> {
    let node = graph.def_node(value)?;
    match &node.op {
        Op::Broadcast(_) => splat(graph, node.operands[0]?),
        Op::Constant(op) => op.as_scalar(),
        _ => None,
    }
}
