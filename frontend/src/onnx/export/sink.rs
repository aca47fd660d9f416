//! Views move behind the operators that act on each element by itself, and behind slices, where they meet other views
//! and vanish. Runtimes start a kernel for each view, which in a model of one step takes as long as its arithmetic, and
//! fuse a product with the sum behind it only if nothing stands between them.

use super::super::proto::{NodeProto, TensorProto};
use super::body::{i64_bytes, literal};
use super::views::{is_view, read, vector};
use ssmc_ir::DType;
use std::collections::{BTreeMap, BTreeSet};

/// Extents by name.
pub(super) type Shapes = BTreeMap<String, Vec<i64>>;

const UNARY: &[&str] = &[
    "Abs",
    "Cast",
    "Ceil",
    "Cos",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "IsNaN",
    "Log",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Sigmoid",
    "Sign",
    "Sin",
    "Softplus",
    "Sqrt",
    "Tanh",
];
const BINARY: &[&str] = &["Add", "Div", "Mul", "Pow", "Sub"];

/// A value that is a view of another one.
#[derive(Clone, Debug)]
struct View {
    base: String,
    from: Vec<i64>,
    to: Vec<i64>,
}

/// Moves views in a list of nodes in order, whose constants are `constants`. Only values in `shapes` take part; `kept`
/// are results of the list.
pub(super) fn sink(
    nodes: Vec<NodeProto>,
    constants: &mut Vec<TensorProto>,
    shapes: &Shapes,
    kept: &BTreeSet<String>,
) -> Vec<NodeProto> {
    let mut shapes = shapes.clone();
    shapes.extend(constants.iter().map(|t| (t.name().to_owned(), t.dims.clone())));
    let vectors = constants.iter().filter_map(|t| Some((vector(t)?, t.name().to_owned()))).collect();
    let mut sinker = Sinker {
        movable: movable(&nodes, kept),
        shapes,
        vectors,
        constants,
        views: BTreeMap::new(),
        done: BTreeSet::new(),
        nodes: Vec::new(),
    };
    for node in nodes {
        sinker.node(node);
    }
    sinker.keep(kept);
    sinker.nodes
}

/// Values that only nodes read which views can move behind.
fn movable(nodes: &[NodeProto], kept: &BTreeSet<String>) -> BTreeSet<String> {
    let moves = |n: &NodeProto| {
        is_view(n) || UNARY.contains(&n.op_type()) || BINARY.contains(&n.op_type()) || n.op_type() == "Slice"
    };
    let still: BTreeSet<&str> =
        nodes.iter().filter(|n| !moves(n)).flat_map(|n| read(std::slice::from_ref(n))).collect();
    let all = nodes.iter().flat_map(|n| &n.output);
    all.filter(|name| !still.contains(name.as_str()) && !kept.contains(*name)).cloned().collect()
}

struct Sinker<'a> {
    movable: BTreeSet<String>,
    shapes: Shapes,
    vectors: BTreeMap<Vec<i64>, String>,
    constants: &'a mut Vec<TensorProto>,
    views: BTreeMap<String, View>,
    /// Views that are nodes by now.
    done: BTreeSet<String>,
    nodes: Vec<NodeProto>,
}

impl Sinker<'_> {
    fn node(&mut self, mut node: NodeProto) {
        if is_view(&node)
            && let Some(view) = self.view_of(&node)
        {
            self.views.insert(node.output[0].clone(), view);
            return;
        }
        let moved = match node.op_type() {
            op if UNARY.contains(&op) && node.input.len() == 1 => self.unary(&node),
            op if BINARY.contains(&op) && node.input.len() == 2 => self.binary(&node),
            "Slice" => self.slice(&node),
            _ => None,
        };
        if moved.is_some() {
            return;
        }
        for name in &mut node.input {
            *name = self.concrete(name);
        }
        for name in read_inside(&node) {
            self.concrete(&name);
        }
        self.nodes.push(node);
    }

    fn view_of(&self, node: &NodeProto) -> Option<View> {
        let to = self.shapes.get(&node.output[0])?.clone();
        let x = &node.input[0];
        if let Some(view) = self.views.get(x) {
            return Some(View { to, ..view.clone() });
        }
        Some(View { base: x.clone(), from: self.shapes.get(x)?.clone(), to })
    }

    /// The name of a value that is there: a view becomes a node, or is the value that it is a view of.
    fn concrete(&mut self, name: &str) -> String {
        let Some(view) = self.views.get(name).cloned() else { return name.to_owned() };
        if view.from == view.to {
            return view.base;
        }
        if self.done.insert(name.to_owned()) {
            let shape = self.vector(&view.to);
            self.push("Reshape", &[&view.base, &shape], name, &NodeProto::default());
        }
        name.to_owned()
    }

    fn push(&mut self, op: &str, inputs: &[&str], output: &str, like: &NodeProto) {
        self.nodes.push(NodeProto {
            name: Some(format!("{op}.{output}")),
            op_type: Some(op.to_owned()),
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute: like.attribute.clone(),
            doc_string: like.doc_string.clone(),
            ..NodeProto::default()
        });
    }

    fn vector(&mut self, values: &[i64]) -> String {
        if let Some(name) = self.vectors.get(values) {
            return name.clone();
        }
        let name = format!("ssmc.vector.{}", self.vectors.len());
        self.constants.push(literal(&name, DType::I64, &[values.len() as i64], i64_bytes(values)));
        self.vectors.insert(values.to_vec(), name.clone());
        name
    }

    /// The view that an operand is, if it may move behind the node that reads it.
    fn movable_view(&self, name: &str) -> Option<View> {
        let view = self.views.get(name)?;
        (self.movable.contains(name) || view.from == view.to).then(|| view.clone())
    }

    /// Puts the node before the view: its result is a view of another result with extents `from`.
    fn behind(&mut self, node: &NodeProto, inputs: &[&str], from: Vec<i64>) -> Option<()> {
        let out = &node.output[0];
        let to = self.shapes.get(out)?.clone();
        let base = format!("{out}.flat");
        self.push(node.op_type(), inputs, &base, node);
        self.views.insert(out.clone(), View { base, from, to });
        Some(())
    }

    fn unary(&mut self, node: &NodeProto) -> Option<()> {
        let view = self.movable_view(&node.input[0])?;
        self.shapes.get(&node.output[0])?;
        self.behind(node, &[&view.base], view.from)
    }

    fn binary(&mut self, node: &NodeProto) -> Option<()> {
        let out = self.shapes.get(&node.output[0])?.clone();
        let views = [0, 1].map(|i| self.movable_view(&node.input[i]));
        if let [Some(x), Some(y)] = &views
            && x.to == out
            && y.to == out
            && trailing(&x.from) == trailing(&y.from)
        {
            let from = if x.from.len() >= y.from.len() { &x.from } else { &y.from };
            return self.behind(node, &[&x.base, &y.base], from.clone());
        }
        let i = views.iter().position(|view| view.as_ref().is_some_and(|view| view.to == out))?;
        let view = views[i].clone()?;
        let shape = self.shapes.get(&node.input[1 - i])?.clone();
        let n = trailing(&shape).len();
        let ends = |all: &[i64]| all.len().checked_sub(n).map(|at| all[at..].to_vec());
        let fits = shape.len() <= view.from.len() && ends(&view.from)? == ends(&view.to)?;
        let only_leading = trailing(&view.from) == trailing(&view.to) && shape.len() == out.len();
        if !fits && !only_leading {
            return None;
        }
        let other = self.concrete(&node.input[1 - i]);
        let inputs =
            if i == 0 { [view.base.as_str(), other.as_str()] } else { [other.as_str(), view.base.as_str()] };
        if fits {
            return self.behind(node, &inputs, view.from.clone());
        }
        // The other operand has all axes: those in front need no view.
        self.push(node.op_type(), &inputs, &node.output[0], node);
        Some(())
    }

    fn slice(&mut self, node: &NodeProto) -> Option<()> {
        let view = self.movable_view(&node.input[0])?;
        let out = self.shapes.get(&node.output[0])?.clone();
        let axes = node.input.get(3)?;
        let [axis] = self.vectors.iter().find(|(_, name)| *name == axes)?.0[..] else { return None };
        let axis = usize::try_from(if axis < 0 { axis + view.to.len() as i64 } else { axis }).ok()?;
        let behind = view.to.len().checked_sub(axis)?;
        let at = view.from.len().checked_sub(behind)?;
        if view.from[at..] != view.to[axis..] {
            return None;
        }
        let mut from = view.from.clone();
        from[at] = out[axis];
        let axes = self.vector(&[at as i64]);
        let mut inputs: Vec<&str> = node.input.iter().map(String::as_str).collect();
        (inputs[0], inputs[3]) = (&view.base, &axes);
        self.behind(node, &inputs, from)
    }

    /// Gives results of the list their names.
    fn keep(&mut self, kept: &BTreeSet<String>) {
        for name in kept {
            if self.concrete(name) == *name {
                continue;
            }
            let base = self.views[name].base.clone();
            let made = self.nodes.iter().any(|n| n.output.contains(&base));
            if !made || kept.contains(&base) {
                self.push("Identity", &[&base], name, &NodeProto::default());
                continue;
            }
            let names = self.nodes.iter_mut().flat_map(|n| n.input.iter_mut().chain(&mut n.output));
            names.filter(|n| **n == base).for_each(|n| n.clone_from(name));
            for view in self.views.values_mut().filter(|view| view.base == base) {
                view.base.clone_from(name);
            }
        }
    }
}

/// The extents without ones in front.
fn trailing(shape: &[i64]) -> &[i64] {
    let first = shape.iter().position(|n| *n != 1).unwrap_or(shape.len());
    &shape[first..]
}

/// Names that graphs inside a node read.
fn read_inside(node: &NodeProto) -> Vec<String> {
    let graphs = node.attribute.iter().filter_map(|a| a.g.as_ref());
    graphs.flat_map(|g| read(&g.node)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::super::body::{Body, int};
    use super::*;

    /// Operators that are left, with the inputs of the first one.
    fn sunk(shapes: &[(&str, &[i64])], build: impl FnOnce(&mut Body, &mut Shapes) -> String) -> Vec<String> {
        let mut body = Body::new(18, "v");
        let mut known: Shapes = shapes.iter().map(|(n, s)| ((*n).to_owned(), s.to_vec())).collect();
        let kept = BTreeSet::from([build(&mut body, &mut known)]);
        let nodes = sink(body.nodes, &mut body.constants, &known, &kept);
        assert!(kept.iter().all(|name| nodes.iter().any(|n| n.output.contains(name))), "{nodes:?}");
        nodes.iter().map(|n| n.op_type().to_owned()).collect()
    }

    #[test]
    fn sums_stand_behind_their_products() {
        let found = sunk(&[("x", &[2, 8]), ("w", &[8, 4]), ("b", &[4])], |body, known| {
            let product = body.op("MatMul", &["x", "w"]);
            known.insert(product.clone(), vec![2, 4]);
            let view = body.unsqueeze(&product, &[1]);
            known.insert(view.clone(), vec![2, 1, 4]);
            let sum = body.op("Add", &["b", &view]);
            known.insert(sum.clone(), vec![2, 1, 4]);
            let gate = body.op("Sigmoid", &[&sum]);
            known.insert(gate.clone(), vec![2, 1, 4]);
            let gated = body.op("Mul", &[&sum, &gate]);
            known.insert(gated.clone(), vec![2, 1, 4]);
            let part = body.slice(&gated, 2, 0, 2);
            known.insert(part.clone(), vec![2, 1, 2]);
            let y = body.squeeze(&part, &[1]);
            known.insert(y.clone(), vec![2, 2]);
            y
        });
        assert_eq!(found, ["MatMul", "Add", "Sigmoid", "Mul", "Slice"]);
    }

    #[test]
    fn views_that_others_need_stay() {
        let found = sunk(&[("x", &[8])], |body, known| {
            let view = body.unsqueeze("x", &[0]);
            known.insert(view.clone(), vec![1, 8]);
            let tanh = body.op("Tanh", &[&view]);
            known.insert(tanh.clone(), vec![1, 8]);
            let turned = body.transpose(&view, &[1, 0]);
            known.insert(turned.clone(), vec![8, 1]);
            body.op("MatMul", &[&turned, &tanh])
        });
        assert_eq!(found, ["Reshape", "Tanh", "Transpose", "MatMul"]);
    }

    #[test]
    fn an_operand_along_an_axis_that_the_view_makes_holds_it() {
        let found = sunk(&[("x", &[8]), ("c", &[2, 4])], |body, known| {
            let shape = body.vector(&[2, 4]);
            let view = body.op("Reshape", &["x", &shape]);
            known.insert(view.clone(), vec![2, 4]);
            let y = body.op("Mul", &[&view, "c"]);
            known.insert(y.clone(), vec![2, 4]);
            let z = body.with("Softmax", &[&y], vec![int("axis", 1)]);
            known.insert(z.clone(), vec![2, 4]);
            z
        });
        assert_eq!(found, ["Reshape", "Mul", "Softmax"]);
    }
}
