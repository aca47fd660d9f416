//! Graphs to text.

use super::lexer::is_ident;
use crate::entity::{Entity, LocId, ValueId};
use crate::graph::{Graph, Node, Port};
use crate::loc::Loc;
use crate::ops::{Attr, AttrMut, Op};
use crate::tensor::{Data, Tensor};
use crate::types::{DType, Shape};
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// Literal tensors of at most this many elements print as numbers.
const MAX_LISTED: usize = 32;

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let templates = Op::templates().into_iter().map(|op| (op.name(), op)).collect();
        Printer::new(self, &templates, 0).print(f)
    }
}

struct Printer<'a> {
    graph: &'a Graph,
    templates: &'a BTreeMap<&'static str, Op>,
    indent: usize,
    /// Inputs that print under their own names.
    named: BTreeMap<ValueId, &'a str>,
    /// Numbers of derived locations.
    locs: BTreeMap<LocId, usize>,
}

impl<'a> Printer<'a> {
    fn new(graph: &'a Graph, templates: &'a BTreeMap<&'static str, Op>, indent: usize) -> Self {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for port in graph.inputs() {
            *counts.entry(&port.name).or_default() += 1;
        }
        let is_named = |port: &&Port| is_ident(&port.name) && counts.get(port.name.as_str()) == Some(&1);
        let named = graph.inputs().iter().filter(is_named).map(|p| (p.value, p.name.as_str())).collect();
        Self { graph, templates, indent, named, locs: BTreeMap::new() }
    }

    fn print(mut self, f: &mut dyn Write) -> fmt::Result {
        let pad = " ".repeat(self.indent);
        write!(f, "{pad}func @{}(", quoted(self.graph.name()))?;
        for (i, port) in self.graph.inputs().iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let ty = self.graph.ty(port.value);
            let value = self.value(port.value);
            if self.named.contains_key(&port.value) {
                write!(f, "{comma}{value}: {ty}")?;
            } else {
                write!(f, "{comma}{value} {:?}: {ty}", port.name)?;
            }
        }
        writeln!(f, ") {{")?;
        for (_, node) in self.graph.nodes() {
            self.define_loc(node.loc, f)?;
        }
        for (_, node) in self.graph.nodes() {
            self.node(node, f)?;
        }
        write!(f, "{pad}  return")?;
        for (i, port) in self.graph.outputs().iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma} {} {:?}", self.value(port.value), port.name)?;
        }
        writeln!(f, "\n{pad}}}")
    }

    fn value(&self, value: ValueId) -> String {
        match self.named.get(&value) {
            Some(name) => format!("%{name}"),
            None => value.to_string(),
        }
    }

    fn node(&self, node: &Node, f: &mut dyn Write) -> fmt::Result {
        let pad = " ".repeat(self.indent + 2);
        f.write_str(&pad)?;
        for (i, result) in node.results.iter().enumerate() {
            write!(f, "{}{result}", if i == 0 { "" } else { ", " })?;
        }
        let equals = if node.results.is_empty() { "" } else { " = " };
        write!(f, "{equals}{}", node.op.name())?;
        let attrs = self.attrs(&node.op);
        for (_, value) in &attrs {
            if let Attr::Spec(spec) = value {
                write!(f, "[{spec}]")?;
            }
        }
        let present = node.operands.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        for (i, operand) in node.operands[..present].iter().enumerate() {
            let comma = if i == 0 { " " } else { ", " };
            match operand {
                Some(value) => write!(f, "{comma}{}", self.value(*value))?,
                None => write!(f, "{comma}_")?,
            }
        }
        let mut listed = attrs.iter().filter(|(_, value)| !matches!(value, Attr::Spec(_))).peekable();
        if listed.peek().is_some() {
            f.write_str(" {")?;
            for (i, (name, value)) in listed.enumerate() {
                write!(f, "{}{name}={}", if i == 0 { "" } else { ", " }, attr(value, &node.op))?;
            }
            f.write_str("}")?;
        }
        for (i, result) in node.results.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { " : " } else { ", " }, self.graph.ty(*result))?;
        }
        if !node.regions.is_empty() {
            f.write_str(" {\n")?;
            for region in &node.regions {
                Printer::new(region, self.templates, self.indent + 4).print(f)?;
            }
            write!(f, "{pad}}}")?;
        }
        if !matches!(self.graph.locs().get(node.loc), Loc::Unknown) {
            write!(f, " {}", self.loc(node.loc))?;
        }
        f.write_str("\n")
    }

    /// The attributes that do not have their default values.
    fn attrs(&self, op: &Op) -> Vec<(&'static str, Attr)> {
        let read = |op: &Op| {
            let mut attrs = Vec::new();
            op.clone().attrs(&mut |name: &'static str, value: AttrMut<'_>| attrs.push((name, value.get())));
            attrs
        };
        let defaults = self.templates.get(op.name()).map(read).unwrap_or_default();
        read(op).into_iter().filter(|attr| !defaults.contains(attr)).collect()
    }

    /// Prints the definitions that a location needs.
    fn define_loc(&mut self, id: LocId, f: &mut dyn Write) -> fmt::Result {
        if self.locs.contains_key(&id) {
            return Ok(());
        }
        let Loc::Derived { by, from } = self.graph.locs().get(id) else { return Ok(()) };
        // A location can only be derived from earlier ones, so this ends.
        for from in from.iter().filter(|from| from.idx() < id.idx()) {
            self.define_loc(*from, f)?;
        }
        let from: Vec<_> = from.iter().map(|from| self.loc(*from)).collect();
        let number = self.locs.len();
        self.locs.insert(id, number);
        writeln!(f, "{}!{number} = {by:?} [{}]", " ".repeat(self.indent + 2), from.join(", "))
    }

    fn loc(&self, id: LocId) -> String {
        match self.graph.locs().get(id) {
            Loc::Unknown => "!unknown".to_owned(),
            Loc::OnnxNode { name, op, output } => format!("!onnx {name:?} {op:?} {output:?}"),
            Loc::Module(path) => format!("!module {path:?}"),
            Loc::Text { line, column } => format!("!text {line}:{column}"),
            Loc::Derived { .. } => match self.locs.get(&id) {
                Some(number) => format!("!{number}"),
                None => "!unknown".to_owned(),
            },
        }
    }
}

fn quoted(name: &str) -> String {
    if is_ident(name) { name.to_owned() } else { format!("{name:?}") }
}

fn attr(value: &Attr, op: &Op) -> String {
    match value {
        Attr::Bool(v) => v.to_string(),
        Attr::Usize(v) => v.to_string(),
        Attr::Usizes(v) => format!("{v:?}"),
        Attr::Int(v) => v.to_string(),
        Attr::Float(v) => float(v.get()),
        Attr::Str(v) => format!("{v:?}"),
        Attr::Dim(v) => v.to_string(),
        Attr::Shape(v) => v.to_string(),
        Attr::DType(v) => v.to_string(),
        Attr::Word(v) => v.clone(),
        Attr::Spec(v) => v.to_string(),
        Attr::Bytes(v) => literal(v, op),
        Attr::Bools(v) => format!("{v:?}"),
    }
}

/// The shortest text that gives these bits again; the bits themselves for a NaN of another kind than the usual one.
fn float(x: f64) -> String {
    if x.is_nan() && x.to_bits() != f64::NAN.to_bits() {
        format!("0x{:016x}", x.to_bits())
    } else {
        format!("{x:?}")
    }
}

/// The elements of a literal: a list of numbers if it is short and exact, else bytes.
fn literal(bytes: &[u8], op: &Op) -> String {
    if let Some(text) = listed(bytes, op) {
        return text;
    }
    bytes.iter().fold("0x".to_owned(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn listed(bytes: &[u8], op: &Op) -> Option<String> {
    let (dtype, shape) = literal_type(op)?;
    let n = shape.n_elems().as_const().and_then(|n| usize::try_from(n).ok())?;
    if n > MAX_LISTED {
        return None;
    }
    let tensor = Tensor::from_bytes(dtype, [n], bytes).ok()?;
    let has_nan = matches!(tensor.data(), Data::Float(v) if v.iter().any(|x| x.is_nan()));
    if tensor.to_bytes() != bytes || has_nan || dtype.bits() < 8 {
        return None;
    }
    Some(match tensor.data() {
        Data::Float(v) if dtype == DType::F32 => {
            format!("{:?}", v.iter().map(|x| *x as f32).collect::<Vec<_>>())
        }
        Data::Float(v) => format!("{v:?}"),
        Data::Int(v) if dtype == DType::U64 => {
            format!("{:?}", v.iter().map(|x| *x as u64).collect::<Vec<_>>())
        }
        Data::Int(v) => format!("{v:?}"),
        Data::Bool(v) => format!("{v:?}"),
        Data::Complex(_) => return None,
    })
}

/// Element type and shape of the literal that an op holds.
pub(super) fn literal_type(op: &Op) -> Option<(DType, Shape)> {
    let (mut dtype, mut shape) = (None, None);
    op.clone().attrs(&mut |_: &'static str, value: AttrMut<'_>| match value {
        AttrMut::DType(v) => dtype = Some(*v),
        AttrMut::Shape(v) => shape = Some(v.clone()),
        _ => {}
    });
    dtype.zip(shape)
}
