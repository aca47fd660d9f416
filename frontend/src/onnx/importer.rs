//! The state of one import: values by name, open regions, weights, faults.

use super::attrs::Attrs;
use super::check::{Faults, Functions, Opsets, function_key, opsets, place};
use super::ctx::Ctx;
use super::external::ExternalFiles;
use super::fault::Fault;
use super::inputs::{is_taken, part};
use super::narrow::Narrow;
use super::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use super::registry;
use super::shape::{Known, MAX_KNOWN, check_shape};
use super::tensor::{Literal, literal};
use super::types::{check_output, declared};
use ssmc_ir::dim::Bindings;
use ssmc_ir::ops::{Constant, DimValue, EvalCtx, Op};
use ssmc_ir::{
    DType, Dim, Graph, GraphBuilder, Loc, Rewriter, Shape, Tensor, TensorType, ValueId, Weight, Weights,
};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The most nodes of a model, every call of a local function counted with its body.
const MAX_NODES: usize = 1 << 20;
/// The most integers that are followed in one model, those of all values together.
const MAX_FOLLOWED: usize = 1 << 22;
/// The most nodes of loops that are written out because they cannot stay loops.
const MAX_UNROLLED: usize = 1 << 12;
/// The operators that take narrow values; all others would see bytes.
const TAKES_NARROW: &[&str] = &["Cast", "CastLike", "DequantizeLinear", "Identity", "QuantizeLinear"];
/// Literals up to this many elements become `constant` nodes, larger ones weights.
const MAX_INLINE: usize = 16;

/// A value of the ONNX graph. It becomes an IR value where it is used as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Val(usize);

/// A value that is no tensor.
#[derive(Clone, Debug)]
pub(crate) enum Special {
    /// A sequence of known length.
    List(Vec<Val>),
    /// A sequence that a loop carries: what one iteration has appended so far.
    Open(Vec<Val>),
    /// A sequence that a loop has made: its equally shaped tensors along axis 0.
    Stacked(Val),
    /// An optional value that is not there.
    Absent,
}

struct Entry {
    /// Of no meaning where `special` is something.
    ty: TensorType,
    special: Option<Special>,
    /// What the elements mean, if they are narrow values one to a byte.
    narrow: Option<Narrow>,
    /// The elements, if they are integers known when compiling.
    known: Option<Known>,
    /// The elements of an initializer or constant, and its name.
    literal: Option<(Rc<Literal>, String)>,
    loc: Loc,
    /// The IR value in each region where there is one.
    in_region: BTreeMap<usize, ValueId>,
}

/// A graph under construction: the model's, or the body of a loop or branch.
struct Region {
    id: usize,
    builder: GraphBuilder,
    /// Values of the region around, in the order of the inputs that stand for them.
    captures: Vec<Val>,
}

/// Names visible to the nodes of one graph or function.
struct Frame<'m> {
    /// `None`: the value's node failed, and its users are skipped without another fault.
    names: BTreeMap<&'m str, Option<Val>>,
    opsets: Rc<Opsets<'m>>,
    /// The attributes of the function call, for references in the function's body.
    call: Option<Rc<BTreeMap<&'m str, &'m AttributeProto>>>,
    /// A function does not see the names around its call.
    is_function: bool,
}

/// Why a node gave no value.
pub(crate) enum Failure {
    /// This fault, not yet reported.
    Fault(Fault),
    /// An earlier fault, already reported.
    Reported,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A result of importing a node, or why there is none.
pub(crate) type Imported<T> = Result<T, Failure>;

pub(crate) struct Importer<'m> {
    functions: Functions<'m>,
    files: ExternalFiles,
    entries: Vec<Entry>,
    regions: Vec<Region>,
    frames: Vec<Frame<'m>>,
    weights: Weights,
    pub(crate) faults: Faults,
    n_nodes: usize,
    n_regions: usize,
    /// Elements of all known integer tensors.
    n_followed: usize,
    /// Nodes of loops that were written out.
    n_unrolled: usize,
    /// Whether a limit on the whole import was passed.
    stopped: bool,
}

impl<'m> Importer<'m> {
    /// An import into an empty graph of this name.
    pub(crate) fn new(
        name: &str,
        functions: Functions<'m>,
        model_opsets: Opsets<'m>,
        files: ExternalFiles,
        faults: Faults,
    ) -> Self {
        let root = Region { id: 0, builder: GraphBuilder::new(name), captures: Vec::new() };
        let frame =
            Frame { names: BTreeMap::new(), opsets: Rc::new(model_opsets), call: None, is_function: true };
        Self {
            functions,
            files,
            entries: Vec::new(),
            regions: vec![root],
            frames: vec![frame],
            weights: Weights::new(),
            faults,
            n_nodes: 0,
            n_regions: 1,
            n_followed: 0,
            n_unrolled: 0,
            stopped: false,
        }
    }

    /// The finished graph, its weights, and the faults.
    pub(crate) fn finish(mut self) -> (Graph, Weights, Faults) {
        let root = self.regions.swap_remove(0);
        (root.builder.finish(), self.weights, self.faults)
    }

    // ---- values

    fn push_entry(&mut self, entry: Entry) -> Val {
        self.n_followed += entry.known.as_ref().map_or(0, |k| k.elems.len());
        self.entries.push(entry);
        Val(self.entries.len() - 1)
    }

    /// The value for an IR value of the present region.
    pub(crate) fn value(&mut self, value: ValueId) -> Val {
        let region = self.region();
        let (ty, id) = (region.builder.ty(value).clone(), region.id);
        let in_region = BTreeMap::from([(id, value)]);
        self.push_entry(Entry {
            ty,
            special: None,
            narrow: None,
            known: None,
            literal: None,
            loc: Loc::Unknown,
            in_region,
        })
    }

    /// The value of an integer tensor known when compiling.
    pub(crate) fn known_value(&mut self, known: Known, loc: Loc) -> Val {
        let (ty, known) = (known.ty(), Some(known));
        self.push_entry(Entry {
            ty,
            special: None,
            narrow: None,
            known,
            literal: None,
            loc,
            in_region: BTreeMap::new(),
        })
    }

    /// The value of a sequence or optional.
    pub(crate) fn special_value(&mut self, special: Special) -> Val {
        let ty = TensorType::new(DType::Bool, Shape::from([0]));
        let (special, loc, in_region) = (Some(special), Loc::Unknown, BTreeMap::new());
        self.push_entry(Entry { ty, special, narrow: None, known: None, literal: None, loc, in_region })
    }

    /// What a value is, if it is no tensor.
    pub(crate) fn special(&self, v: Val) -> Option<&Special> {
        self.entries[v.0].special.as_ref()
    }

    /// The value of a literal tensor.
    pub(crate) fn literal_value(&mut self, literal: Literal, name: &str, loc: Loc) -> Val {
        let known = known_of(&literal);
        let (ty, narrow) = (literal.ty(), literal.narrow);
        let literal = Some((Rc::new(literal), name.to_owned()));
        self.push_entry(Entry { ty, special: None, narrow, known, literal, loc, in_region: BTreeMap::new() })
    }

    /// What the elements of a value mean, if they are narrow.
    pub(crate) fn narrow(&self, v: Val) -> Option<Narrow> {
        self.entries[v.0].narrow
    }

    /// The value, whose elements are narrow.
    pub(crate) fn as_narrow(&mut self, v: Val, narrow: Narrow) -> Val {
        self.entries[v.0].narrow = Some(narrow);
        v
    }

    /// Decodes a tensor of the model.
    pub(crate) fn decode(&self, tensor: &TensorProto) -> Result<Literal, Fault> {
        let literal = literal(tensor, &self.files)?;
        check_shape(&literal.ty().shape)?;
        Ok(literal)
    }

    pub(crate) fn ty(&self, v: Val) -> &TensorType {
        &self.entries[v.0].ty
    }

    pub(crate) fn known(&self, v: Val) -> Option<&Known> {
        self.entries[v.0].known.as_ref()
    }

    pub(crate) fn literal(&self, v: Val) -> Option<&Literal> {
        self.entries[v.0].literal.as_ref().map(|(l, _)| &**l)
    }

    fn region(&mut self) -> &mut Region {
        self.regions.last_mut().expect("the root region stays open")
    }

    fn frame(&mut self) -> &mut Frame<'m> {
        self.frames.last_mut().expect("the root frame stays open")
    }

    /// The IR value of `v` in the present region; captured from the regions around where needed.
    pub(crate) fn data(&mut self, v: Val) -> Result<ValueId, Fault> {
        self.data_in(v, self.regions.len() - 1)
    }

    fn data_in(&mut self, v: Val, depth: usize) -> Result<ValueId, Fault> {
        let id = self.regions[depth].id;
        if let Some(value) = self.entries[v.0].in_region.get(&id) {
            return Ok(*value);
        }
        let entry = &self.entries[v.0];
        if entry.special.is_some() {
            return Err(Fault::Unsupported("a sequence or optional value in place of a tensor".into()));
        }
        let (loc, literal, known) = (entry.loc.clone(), entry.literal.clone(), entry.known.clone());
        let value = match (literal, known) {
            (Some((literal, _)), _) if literal.n_elems() <= MAX_INLINE => {
                let op = Constant {
                    dtype: literal.dtype,
                    shape: literal.ty().shape,
                    data: literal.bytes.as_slice().to_vec(),
                };
                self.source(depth, loc, op)?
            }
            (Some((literal, name)), _) if depth == 0 => self.weight(&literal, &name, loc)?,
            (None, Some(known)) => self.known_data(&known, loc, depth)?,
            _ if depth == 0 => return Err(Fault::Ir("a value outside its region".into())),
            _ => {
                self.data_in(v, depth - 1)?;
                let ty = self.entries[v.0].ty.clone();
                let region = &mut self.regions[depth];
                let name = format!("capture_{}", region.captures.len());
                region.captures.push(v);
                region.builder.input(name, ty)
            }
        };
        self.entries[v.0].in_region.insert(id, value);
        Ok(value)
    }

    fn source(&mut self, depth: usize, loc: Loc, op: impl Into<Op>) -> Result<ValueId, Fault> {
        self.emit_in(depth, loc, op.into(), &[])
    }

    fn emit_in(&mut self, depth: usize, loc: Loc, op: Op, operands: &[ValueId]) -> Result<ValueId, Fault> {
        let builder = &mut self.regions[depth].builder;
        builder.set_loc(loc);
        builder.op(op, operands).map_err(|e| Fault::Ir(e.source.to_string()))
    }

    fn weight(&mut self, literal: &Literal, name: &str, loc: Loc) -> Result<ValueId, Fault> {
        let mut unique = name.to_owned();
        let mut n = 1;
        while self.weights.get(&unique).is_some() {
            n += 1;
            unique = format!("{name}#{n}");
        }
        let ty = literal.ty();
        self.weights.insert(unique.clone(), Weight { ty: ty.clone(), bytes: literal.bytes.clone() });
        let builder = &mut self.regions[0].builder;
        builder.set_loc(loc);
        builder.weight(unique, &ty).map_err(|e| Fault::Ir(e.source.to_string()))
    }

    /// Nodes that make a known integer tensor: a constant, or dims put together.
    fn known_data(&mut self, known: &Known, loc: Loc, depth: usize) -> Result<ValueId, Fault> {
        use ssmc_ir::ops::{Cast, Concat, Reshape};
        let shape = known.ty().shape;
        if let Some(ints) = known.as_consts() {
            let data = ints.iter().flat_map(|x| x.to_le_bytes()[..known.dtype.bits() / 8].to_vec()).collect();
            return self.source(depth, loc, Constant { dtype: known.dtype, shape, data });
        }
        let mut parts = Vec::new();
        for dim in &known.elems {
            let scalar = self.source(depth, loc.clone(), DimValue { value: dim.clone() })?;
            let op = Reshape { shape: Shape::from([1]) }.into();
            parts.push(self.emit_in(depth, loc.clone(), op, &[scalar])?);
        }
        let mut whole = match parts.as_slice() {
            [one] => *one,
            _ => self.emit_in(depth, loc.clone(), Concat { axis: 0 }.into(), &parts)?,
        };
        if known.shape.len() != 1 {
            whole = self.emit_in(depth, loc.clone(), Reshape { shape }.into(), &[whole])?;
        }
        if known.dtype != DType::I64 {
            whole = self.emit_in(depth, loc, Cast { to: known.dtype }.into(), &[whole])?;
        }
        Ok(whole)
    }

    /// Adds a node to the present region.
    pub(crate) fn emit(
        &mut self,
        loc: &Loc,
        op: Op,
        operands: &[Option<Val>],
        regions: Vec<Graph>,
    ) -> Result<Vec<Val>, Fault> {
        let values: Vec<Option<ValueId>> =
            operands.iter().map(|v| v.map(|v| self.data(v)).transpose()).collect::<Result<_, _>>()?;
        let builder = &mut self.region().builder;
        builder.set_loc(loc.clone());
        let op_of_numbers = op.clone();
        let values =
            builder.node(op, &values, regions).map_err(|e| Fault::Ir(format!("{}: {}", e.op, e.source)))?;
        for value in &values {
            check_shape(&builder.ty(*value).shape)?;
        }
        let results: Vec<Val> = values.into_iter().map(|v| self.value(v)).collect();
        if let [result] = results[..]
            && let Some(literal) = self.number(&op_of_numbers, operands)
        {
            self.entries[result.0].known = known_of(&literal);
            self.entries[result.0].literal = Some((Rc::new(literal), String::new()));
        }
        Ok(results)
    }

    /// The value of an elementwise op on single numbers of which one at least is a literal float; integers are followed as dims.
    fn number(&self, op: &Op, operands: &[Option<Val>]) -> Option<Literal> {
        if !matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_)) {
            return None;
        }
        let entries: Vec<&Entry> =
            operands.iter().map(|v| v.map(|v| &self.entries[v.0])).collect::<Option<_>>()?;
        let is_float = |e: &&Entry| e.literal.is_some() && e.ty.dtype.is_float();
        if !entries.iter().any(is_float) || entries.iter().any(|e| !e.ty.shape.n_elems().is(1)) {
            return None;
        }
        let types: Vec<Option<&TensorType>> = entries.iter().map(|e| Some(&e.ty)).collect();
        let results = op.infer(&types, &[]).ok()?;
        let tensors: Vec<Tensor> = entries.into_iter().map(single).collect::<Option<_>>()?;
        let (bindings, weights) = (Bindings::new(), Weights::new());
        let ctx = EvalCtx {
            bindings: &bindings,
            weights: &weights,
            results: &results,
            regions: &[],
            run: &|_, _| Ok(Vec::new()),
        };
        let args: Vec<Option<&Tensor>> = tensors.iter().map(Some).collect();
        let [y] = <[Tensor; 1]>::try_from(op.eval(&ctx, &args).ok()?).ok()?;
        let (dtype, dims) = (y.dtype(), y.shape().to_vec());
        Some(Literal { dtype, narrow: None, dims, bytes: y.to_bytes().into() })
    }

    // ---- names

    /// Binds a name in the present frame.
    pub(crate) fn bind(&mut self, name: &'m str, value: Option<Val>) {
        if !name.is_empty() {
            self.frame().names.insert(name, value);
        }
    }

    /// The value of a name: `Ok(None)` for the empty name of an absent input.
    fn lookup(&self, name: &str) -> Imported<Option<Val>> {
        if name.is_empty() {
            return Ok(None);
        }
        for frame in self.frames.iter().rev() {
            match frame.names.get(name) {
                Some(Some(value)) => return Ok(Some(*value)),
                Some(None) => return Err(Failure::Reported),
                None if frame.is_function => break,
                None => {}
            }
        }
        Err(Fault::Mismatch {
            what: "input".into(),
            expected: "a defined value".into(),
            found: format!("{name:?}"),
        }
        .into())
    }

    // ---- nodes

    /// Binds the initializers of a graph.
    pub(crate) fn initializers(&mut self, graph: &'m GraphProto) {
        for tensor in &graph.initializer {
            let name = tensor.name();
            let loc = Loc::OnnxNode { name: String::new(), op: "initializer".into(), output: name.into() };
            let value = match self.decode(tensor) {
                Ok(literal) => Some(self.literal_value(literal, name, loc)),
                Err(fault) => {
                    self.faults.push(format!("initializer {name:?}"), &fault);
                    None
                }
            };
            self.bind(name, value);
        }
    }

    /// Imports nodes in order into the present region; faults are collected.
    ///
    /// # Errors
    /// The limit on nodes is passed; nothing more is imported then.
    pub(crate) fn nodes(&mut self, nodes: &'m [NodeProto]) -> Imported<()> {
        for node in nodes {
            self.n_nodes += 1;
            self.check_limits(node)?;
            let values = match self.node(node) {
                Ok(values) => values.into_iter().map(Some).collect(),
                Err(failure) => {
                    if let Failure::Fault(fault) = failure {
                        self.faults.push(place(node), &fault);
                    }
                    vec![None; node.output.len()]
                }
            };
            for (name, value) in node.output.iter().zip(values) {
                self.bind(name, value);
            }
        }
        Ok(())
    }

    /// The limits on the whole import; the first one passed is reported once.
    fn check_limits(&mut self, node: &NodeProto) -> Imported<()> {
        let passed = if self.n_nodes > MAX_NODES {
            Some(Fault::Limit { what: "number of nodes", limit: MAX_NODES as u64 })
        } else if self.n_followed > MAX_FOLLOWED {
            Some(Fault::Limit { what: "integers followed when compiling", limit: MAX_FOLLOWED as u64 })
        } else {
            None
        };
        if let Some(fault) = passed.filter(|_| !self.stopped) {
            self.faults.push(place(node), &fault);
            self.stopped = true;
        }
        if self.stopped { Err(Failure::Reported) } else { Ok(()) }
    }

    fn node(&mut self, node: &'m NodeProto) -> Imported<Vec<Val>> {
        let inputs = node.input.iter().map(|name| self.lookup(name)).collect::<Imported<Vec<_>>>()?;
        let frame = self.frame();
        let attrs = Attrs::new(&node.attribute, frame.call.as_deref())?;
        let key = function_key(node);
        let version = frame.opsets.get(key.0).copied();
        let values = if let Some(function) = self.functions.get(&key).copied() {
            self.call(function, &attrs, inputs)?
        } else {
            let op = version.and_then(|v| registry::find(key.0, key.1, v));
            let (Some(op), Some(version)) = (op, version) else {
                return Err(Fault::Unsupported(format!("operator {}", key.1)).into());
            };
            if let Some(narrow) = inputs.iter().flatten().find_map(|v| self.narrow(*v))
                && !TAKES_NARROW.contains(&key.1)
            {
                return Err(Fault::Unsupported(format!("{narrow:?} as the element type of {}", key.1)).into());
            }
            let mut ctx = Ctx::new(self, node, attrs, inputs, version);
            let values = (op.import)(&mut ctx)?;
            ctx.all_read()?;
            values
        };
        if values.len() < node.output.len() {
            let expected = format!("at most {}", values.len());
            return Err(Fault::OutputCount { expected, found: node.output.len() }.into());
        }
        Ok(values)
    }

    /// Imports the body of a local function in place of a call.
    fn call(
        &mut self,
        function: &'m FunctionProto,
        attrs: &Attrs<'m>,
        inputs: Vec<Option<Val>>,
    ) -> Imported<Vec<Val>> {
        if inputs.len() > function.input.len() {
            let expected = format!("at most {}", function.input.len());
            return Err(Fault::InputCount { expected, found: inputs.len() }.into());
        }
        let mut call: BTreeMap<&'m str, &'m AttributeProto> =
            function.attribute_proto.iter().map(|a| (a.name(), a)).collect();
        call.extend(attrs.as_map());
        let mut frame = Frame {
            names: BTreeMap::new(),
            opsets: Rc::new(opsets(&function.opset_import)),
            call: Some(Rc::new(call)),
            is_function: true,
        };
        let mut absent = Vec::new();
        for (i, name) in function.input.iter().enumerate() {
            match inputs.get(i).copied().flatten() {
                Some(value) => {
                    frame.names.insert(name, Some(value));
                }
                None => absent.push(name.as_str()),
            }
        }
        if let Some(name) = absent.iter().find(|name| reads(&function.node, name)) {
            return Err(Fault::Unsupported(format!("a call without the function's input {name:?}")).into());
        }
        self.frames.push(frame);
        let result = self.nodes(&function.node).and_then(|()| {
            function
                .output
                .iter()
                .map(|name| self.lookup(name)?.ok_or_else(|| Fault::MissingInput { idx: 0 }.into()))
                .collect::<Imported<Vec<Val>>>()
        });
        self.frames.pop();
        result
    }

    // ---- regions

    /// Opens a region with a frame of its own inside the present ones.
    pub(crate) fn open_region(&mut self, name: &str) {
        let region = Region { id: self.n_regions, builder: GraphBuilder::new(name), captures: Vec::new() };
        self.n_regions += 1;
        self.regions.push(region);
        self.open_scope();
    }

    /// The graph of a region: of the present one, or so many outwards.
    pub(crate) fn graph(&self, outwards: usize) -> &Graph {
        self.regions[self.regions.len() - 1 - outwards].builder.graph()
    }

    /// The IR value of `v` in the region around the present one, if there is one already.
    pub(crate) fn data_around(&self, v: Val) -> Option<ValueId> {
        let around = self.regions.len().checked_sub(2)?;
        self.entries[v.0].in_region.get(&self.regions[around].id).copied()
    }

    /// Adds an input to the present region.
    pub(crate) fn region_input(&mut self, name: &str, ty: TensorType) -> Val {
        let value = self.region().builder.input(name, ty);
        self.value(value)
    }

    /// Captures values into the present region, in this order.
    pub(crate) fn capture_all(&mut self, values: &[Val]) -> Result<(), Fault> {
        for v in values {
            self.data(*v)?;
        }
        Ok(())
    }

    /// The values of a subgraph's outputs.
    pub(crate) fn outputs(&mut self, graph: &'m GraphProto) -> Imported<Vec<Val>> {
        graph
            .output
            .iter()
            .map(|o| {
                self.lookup(o.name())?.ok_or_else(|| {
                    Fault::Mismatch { what: "output".into(), expected: "a name".into(), found: "none".into() }
                        .into()
                })
            })
            .collect()
    }

    /// Gives the present region these outputs.
    pub(crate) fn region_outputs(&mut self, outputs: &[(String, Val)]) -> Result<(), Fault> {
        for (name, v) in outputs {
            let value = self.data(*v)?;
            self.region().builder.output(name.clone(), value);
        }
        Ok(())
    }

    /// Closes the present region; gives its graph and what it captures from the region around.
    pub(crate) fn close_region(&mut self) -> (Graph, Vec<Val>) {
        self.frames.pop();
        let region = self.regions.pop().expect("a region was opened");
        (inputs_first(&region.builder.finish()), region.captures)
    }

    /// Opens a frame in the present region, for names that end with it.
    pub(crate) fn open_scope(&mut self) {
        let frame = self.frame();
        let (opsets, call) = (frame.opsets.clone(), frame.call.clone());
        self.frames.push(Frame { names: BTreeMap::new(), opsets, call, is_function: false });
    }

    /// Closes the innermost frame.
    pub(crate) fn close_scope(&mut self) {
        self.frames.pop();
    }

    /// The value of a name, if a region opened now would have to capture it.
    pub(crate) fn outer_data(&self, name: &str) -> Option<Val> {
        let v = self.lookup(name).ok().flatten()?;
        let entry = &self.entries[v.0];
        let made_inside = match (&entry.literal, &entry.known) {
            (Some((literal, _)), _) => literal.n_elems() <= MAX_INLINE,
            (None, known) => known.is_some(),
        };
        (!made_inside).then_some(v)
    }

    /// Adds an output to the model's graph, as declared; a sequence as an output for each of its tensors.
    pub(crate) fn graph_output(&mut self, info: &ValueInfoProto, graph: &GraphProto) -> Result<(), Fault> {
        let v = match self.lookup(info.name()) {
            Ok(Some(v)) => v,
            Ok(None) | Err(Failure::Reported) => return Ok(()),
            Err(Failure::Fault(fault)) => return Err(fault),
        };
        let declared = declared(info)?;
        let tensors = match self.special(v) {
            None => vec![(info.name().to_owned(), v)],
            Some(Special::List(all)) => {
                all.iter().enumerate().map(|(i, v)| (part(info.name(), i), *v)).collect()
            }
            Some(Special::Open(_) | Special::Stacked(_)) => {
                return Err(Fault::Unsupported("an output that is a sequence made by a loop".into()));
            }
            Some(Special::Absent) => {
                return Err(Fault::Unsupported("an output that is an optional value not there".into()));
            }
        };
        for (name, v) in &tensors {
            if name != info.name() && is_taken(graph, name) {
                return Err(Fault::Unsupported(format!("a sequence one of whose tensors would be {name:?}")));
            }
            if self.special(*v).is_some() {
                return Err(Fault::Unsupported("an output that is a sequence of sequences".into()));
            }
            check_output(&declared, self.ty(*v), self.narrow(*v))?;
        }
        self.region_outputs(&tensors)
    }

    // ---- attempts

    /// Number of the faults so far, for [`Importer::retry_from`].
    pub(crate) fn n_faults(&self) -> usize {
        self.faults.list.len()
    }

    /// Takes back the faults from the given one on, so that what led to them can be imported another way, `n_nodes`
    /// nodes written out; whether that may be tried: never after a fault of the model itself.
    pub(crate) fn retry_from(&mut self, first: usize, n_nodes: usize) -> bool {
        self.n_unrolled = self.n_unrolled.saturating_add(n_nodes);
        if self.faults.invalid || self.stopped || self.n_unrolled > MAX_UNROLLED {
            return false;
        }
        self.faults.list.truncate(first);
        true
    }
}

/// The elements of a literal, if they are integers and not too many to follow.
fn known_of(literal: &Literal) -> Option<Known> {
    let ints = (literal.n_elems() <= MAX_KNOWN).then(|| literal.ints()).flatten()?;
    let elems = ints.into_iter().map(Dim::from).collect();
    Some(Known { dtype: literal.dtype, shape: literal.dims.clone(), elems })
}

/// The tensor of a value of one element that is known when compiling.
fn single(entry: &Entry) -> Option<Tensor> {
    if entry.narrow.is_some() {
        return None;
    }
    if let Some((literal, _)) = &entry.literal {
        return Tensor::from_bytes(literal.dtype, literal.dims.clone(), literal.bytes.as_slice()).ok();
    }
    let known = entry.known.as_ref()?;
    let one = *known.as_consts()?.first()?;
    let bytes = &one.to_le_bytes()[..known.dtype.bits().div_ceil(8)];
    Tensor::from_bytes(known.dtype, known.shape.clone(), bytes).ok()
}

/// Whether nodes, or graphs inside them, read a name.
fn reads(nodes: &[NodeProto], name: &str) -> bool {
    nodes.iter().any(|n| {
        let graphs = n.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
        n.input.iter().any(|i| i == name) || graphs.into_iter().any(|g| reads(&g.node, name))
    })
}

/// The same graph with its inputs numbered before its nodes, as the text form numbers them; captures are found only
/// while the nodes are made.
fn inputs_first(graph: &Graph) -> Graph {
    const SAME: &str = "a copy has the operands of its original";
    let mut copy = Rewriter::new(graph);
    for (_, node) in graph.nodes() {
        copy.copy(node).expect(SAME);
    }
    copy.finish().expect(SAME)
}
