//! The walk over the graph.

use super::flow::{Flow, Reason, Stream, Time};
use super::state::State;
use super::{KernelInfo, PIECE, StateInfo, StreamError};
use ssmc_ir::edit::{self, Rewriter};
use ssmc_ir::ops::Op;
use ssmc_ir::{
    Dim, Entity, Graph, Interpreter, Node, NodeId, Port, Shape, Symbol, Tensor, ValueId, Weight, Weights,
};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A graph that takes pieces, and its states.
pub(super) struct Done {
    pub(super) graph: Graph,
    pub(super) states: Vec<StateInfo>,
    /// The longest sequence, if something bounds it.
    pub(super) max_context: Option<i64>,
    pub(super) kernels: Vec<KernelInfo>,
    pub(super) weights: Vec<(String, Weight)>,
}

/// How far back pairs of steps may reach.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    /// The steps before a piece that are kept; `None` refuses pairs of steps.
    pub(super) past: Option<i64>,
    /// Whether the first of two time axes is that of the keys.
    pub(super) keys_first: bool,
}

/// More steps than any op reaches back.
const LONG: i64 = 1 << 32;

pub(super) struct Walker<'a> {
    pub(super) old: &'a Graph,
    pub(super) weights: &'a Weights,
    pub(super) rewriter: Rewriter<'a>,
    /// The extent of time in the old graph and in a piece.
    pub(super) len: Dim,
    pub(super) piece: Dim,
    pub(super) states: Vec<State>,
    /// The number of steps before the piece, once it is needed.
    pub(super) position: Option<ValueId>,
    /// The node that is visited.
    pub(super) at: NodeId,
    pub(super) restricted: BTreeMap<(ValueId, usize, i64), ValueId>,
    /// The steps before a piece that windows hold, if there may be windows.
    pub(super) past: Option<i64>,
    /// Whether the first of two time axes is that of the keys.
    pub(super) keys_first: bool,
    /// Whether a window or a constant bounds the length of sequences.
    pub(super) is_bounded: bool,
    /// The windows of streams.
    pub(super) windows: BTreeMap<ValueId, ValueId>,
    /// The indices of the steps of the window, and which of them the steps of a piece see, once they are needed.
    pub(super) window_steps: Option<ValueId>,
    pub(super) visible: Option<ValueId>,
    /// What became of frozen kernels, and the weights of those that are state spaces.
    pub(super) kernels: Vec<KernelInfo>,
    pub(super) new_weights: Vec<(String, Weight)>,
    used: Vec<bool>,
    evaluated: BTreeMap<ValueId, Option<Rc<Tensor>>>,
    flows: Vec<Option<Flow>>,
    temporal: bool,
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        old: &'a Graph,
        weights: &'a Weights,
        time: &Time,
        piece: Dim,
        window: &Window,
    ) -> Result<Self, StreamError> {
        let mut walker = Self {
            old,
            weights,
            rewriter: Rewriter::without_inputs(old),
            len: time.len.clone(),
            piece,
            states: Vec::new(),
            position: None,
            at: Entity::new(0),
            restricted: BTreeMap::new(),
            past: window.past,
            keys_first: window.keys_first,
            is_bounded: false,
            windows: BTreeMap::new(),
            window_steps: None,
            visible: None,
            kernels: Vec::new(),
            new_weights: Vec::new(),
            used: vec![false; old.values().len()],
            evaluated: BTreeMap::new(),
            flows: vec![None; old.values().len()],
            temporal: false,
        };
        let operands = old.nodes().flat_map(|(_, node)| node.operands.iter().flatten().copied());
        for value in operands.chain(old.outputs().iter().map(|port| port.value)) {
            walker.used[value.idx()] = true;
        }
        for port in old.inputs() {
            let mut ty = old.ty(port.value).clone();
            let flow = match time.axes.get(&port.name) {
                Some(axis) => {
                    ty = ty.with_shape(with_dim(&ty.shape, *axis, &walker.piece));
                    Flow::Stream(Stream::on(*axis))
                }
                None => Flow::Fixed,
            };
            let value = walker.rewriter.builder().input(&port.name, ty);
            walker.set(port.value, value, flow);
        }
        Ok(walker)
    }

    /// Whether an op looks back along the time axis.
    pub(super) fn temporal(&self) -> bool {
        self.temporal
    }

    pub(super) fn is_used(&self, old: ValueId) -> bool {
        self.used[old.idx()]
    }

    pub(super) fn set_temporal(&mut self) {
        self.temporal = true;
    }

    pub(super) fn set(&mut self, old: ValueId, new: ValueId, flow: Flow) {
        self.rewriter.set(old, new);
        self.flows[old.idx()] = Some(flow);
    }

    pub(super) fn flow(&self, old: ValueId) -> &Flow {
        self.flows[old.idx()].as_ref().expect("operands come before their users")
    }

    pub(super) fn stream(&self, old: ValueId) -> Option<&Stream> {
        match self.flow(old) {
            Flow::Stream(stream) => Some(stream),
            _ => None,
        }
    }

    pub(super) fn new_of(&self, old: ValueId) -> Result<ValueId, StreamError> {
        Ok(self.rewriter.get(old)?)
    }

    pub(super) fn refuse<T>(&self, reason: Reason) -> Result<T, StreamError> {
        Err(self.refused_at(self.at, reason))
    }

    fn refused_at(&self, id: NodeId, reason: Reason) -> StreamError {
        let node = self.old.node(id);
        StreamError::Refused { place: self.old.locs().describe(node.loc), op: node.op.name(), reason }
    }

    /// The elements of a stream beyond those of the sequence: the extent of its axis is that of time plus this.
    pub(super) fn surplus(&self, old: ValueId, stream: &Stream) -> Result<i64, StreamError> {
        let extent = &self.old.ty(old).shape[stream.axis];
        let steps = extent.div_exact(&(stream.outer.clone() * &stream.inner));
        // Any sequence is long enough: what is clamped for short ones is not clamped for this one.
        let long = self.len.as_symbol().map(|len| (len.clone(), self.len.clone() + LONG));
        let long: BTreeMap<Symbol, Dim> = long.into_iter().collect();
        let surplus = steps.and_then(|steps| (steps - &self.len).substitute(&long).as_const());
        match surplus {
            Some(surplus) => Ok(surplus),
            None => self.refuse(Reason::Length(extent.to_string())),
        }
    }

    pub(super) fn walk(&mut self) -> Result<(), StreamError> {
        for (id, node) in self.old.nodes() {
            self.at = id;
            self.rewriter.builder().set_loc_id(node.loc);
            self.node(node)?;
        }
        Ok(())
    }

    fn node(&mut self, node: &'a Node) -> Result<(), StreamError> {
        let operands: Vec<ValueId> = node.operands.iter().flatten().copied().collect();
        let has_pairs = operands.iter().any(|v| matches!(self.flow(*v), Flow::Pairs(_)));
        if has_pairs {
            return self.pairwise(node);
        }
        if operands.iter().all(|v| self.stream(*v).is_none()) {
            return self.copy(node, &operands);
        }
        match &node.op {
            Op::Unary(_) | Op::Binary(_) | Op::Compare(_) | Op::Select(_) | Op::Cast(_) => {
                self.pointwise(node)
            }
            Op::Contract(op) => self.contract(node, op),
            Op::Broadcast(op) => self.broadcast(node, op),
            Op::Reshape(op) => self.reshape(node, op),
            Op::Transpose(op) => self.transpose(node, op),
            Op::Slice(op) => self.slice(node, op),
            Op::Reverse(op) => self.reverse(node, op),
            Op::Concat(op) => self.concat(node, op),
            Op::Pad(op) => self.pad(node, op),
            Op::Gather(op) => self.gather(node, op),
            Op::Reduce(op) => self.reduce(node, op),
            Op::ArgMax(op) => self.argmax(node, op),
            Op::TopK(op) => self.top_k(node, op),
            Op::CumSum(op) => self.cumsum(node, op),
            Op::Conv(op) => self.conv(node, op),
            Op::CausalConv1d(op) => self.causal_conv(node, op),
            Op::LongConv(op) => self.long_conv(node, op),
            Op::Scan(op) => self.scan(node, op),
            Op::Loop(op) => self.looped(node, op),
            Op::ComplexScan(op) => self.recurrent(node, op.reverse, 0..4, &[(4, 2, 0.0), (5, 3, 0.0)]),
            Op::LinearAttention(op) => self.recurrent(node, op.reverse, 0..7, &[(7, 1, 0.0)]),
            Op::Wkv(op) => {
                let states = [(4, 1, 0.0), (5, 2, 0.0), (6, 3, f64::NEG_INFINITY)];
                self.recurrent(node, op.reverse, 0..3, &states)
            }
            _ => self.refuse(Reason::NoForm),
        }
    }

    /// The elements of a value that depends on weights and constants alone, if it has a size.
    pub(super) fn evaluate(&mut self, old: ValueId) -> Option<Rc<Tensor>> {
        if let Some(known) = self.evaluated.get(&old) {
            return known.clone();
        }
        let tensor = self.evaluate_anew(old).map(Rc::new);
        self.evaluated.insert(old, tensor.clone());
        tensor
    }

    fn evaluate_anew(&self, old: ValueId) -> Option<Tensor> {
        let mut needed: BTreeSet<NodeId> = BTreeSet::new();
        let mut stack = vec![old];
        while let Some(value) = stack.pop() {
            let node = defining(self.old, value)?;
            if needed.insert(node) {
                stack.extend(self.old.node(node).operands.iter().flatten());
            }
        }
        let mut rewriter = Rewriter::without_inputs(self.old);
        for id in needed {
            rewriter.copy(self.old.node(id)).ok()?;
        }
        let graph = rewriter.finish_with(&[Port { name: "value".into(), value: old }]).ok()?;
        let mut outputs = Interpreter::new(&graph, self.weights).run(&BTreeMap::new()).ok()?;
        outputs.remove("value")
    }

    /// A node without a time axis is what it was.
    fn copy(&mut self, node: &Node, operands: &[ValueId]) -> Result<(), StreamError> {
        let mut flow = Flow::Fixed;
        for operand in operands {
            if let Flow::Latest { padded } = self.flow(*operand) {
                let before = match flow {
                    Flow::Latest { padded } => padded,
                    _ => None,
                };
                flow = Flow::Latest { padded: before.or(*padded) };
            }
        }
        self.rewriter.copy(node)?;
        for result in &node.results {
            self.flows[result.idx()] = Some(flow.clone());
        }
        Ok(())
    }

    /// The graph that takes pieces: every output must be one element per step, or what is known so far.
    pub(super) fn finish(mut self) -> Result<Done, StreamError> {
        for port in self.old.outputs() {
            if let Some(node) = defining(self.old, port.value) {
                self.at = node;
            }
            match self.flow(port.value).clone() {
                Flow::Fixed | Flow::Latest { padded: None } => {}
                Flow::Latest { padded: Some(node) } => {
                    return Err(self.refused_at(node, Reason::PaddedAfter));
                }
                Flow::Stream(stream) => self.check_output(port.value, &stream)?,
                Flow::Pairs(_) => return self.refuse(Reason::AllPairs),
            }
            let value = self.new_of(port.value)?;
            self.rewriter.builder().output(&port.name, value);
        }
        self.advance_position()?;
        let states: Vec<State> = std::mem::take(&mut self.states);
        let mut infos = Vec::new();
        for state in states {
            let b = self.rewriter.builder();
            let ty = b.ty(state.after).clone();
            b.output(&state.name, state.after);
            infos.push(StateInfo { name: state.name, ty, place: state.place });
        }
        let (kernels, weights) = (self.kernels, self.new_weights);
        let graph = edit::dce(&self.rewriter.finish_with(&[])?)?;
        self.at = Entity::new(0);
        no_total_length(&graph, &self.len)?;
        let max_context = self.past.filter(|_| self.is_bounded).map(|past| past + 1);
        Ok(Done { graph, states: infos, max_context, kernels, weights })
    }

    fn check_output(&self, value: ValueId, stream: &Stream) -> Result<(), StreamError> {
        if stream.lead < 0 {
            let node = stream.since.unwrap_or(self.at);
            return Err(self.refused_at(node, Reason::Lookahead(-stream.lead)));
        }
        let surplus = self.surplus(value, stream)?;
        if stream.lead != 0 || surplus != 0 {
            let extent = &self.old.ty(value).shape[stream.axis];
            return self.refuse(Reason::Length(format!("{extent} elements")));
        }
        Ok(())
    }
}

/// The node that defines a value, unless it is an input.
fn defining(graph: &Graph, value: ValueId) -> Option<NodeId> {
    match graph.def(value) {
        ssmc_ir::Def::Input(_) => None,
        ssmc_ir::Def::Result(node, _) => Some(node),
    }
}

/// Nothing in the graph mentions the length of the whole sequence any more.
fn no_total_length(graph: &Graph, len: &Dim) -> Result<(), StreamError> {
    let Some(len) = len.as_symbol() else { return Ok(()) };
    for port in graph.inputs() {
        let mut symbols: BTreeSet<Symbol> = BTreeSet::new();
        graph.ty(port.value).shape.iter().for_each(|d| d.collect_symbols(&mut symbols));
        if symbols.contains(len) {
            let place = format!("input {:?}", port.name);
            return Err(StreamError::Refused { place, op: "input", reason: Reason::TotalLength });
        }
    }
    for (_, node) in graph.nodes() {
        let mut symbols: BTreeSet<Symbol> = BTreeSet::new();
        for result in &node.results {
            graph.ty(*result).shape.iter().for_each(|d| d.collect_symbols(&mut symbols));
        }
        if let Op::DimValue(op) = &node.op {
            op.value.collect_symbols(&mut symbols);
        }
        if symbols.contains(len) && len.name() != PIECE {
            return Err(StreamError::Refused {
                place: graph.locs().describe(node.loc),
                op: node.op.name(),
                reason: Reason::TotalLength,
            });
        }
    }
    Ok(())
}

/// A shape with another extent on one axis.
pub(super) fn with_dim(shape: &Shape, axis: usize, dim: &Dim) -> Shape {
    let mut dims = shape.to_vec();
    dims[axis] = dim.clone();
    dims.into()
}
