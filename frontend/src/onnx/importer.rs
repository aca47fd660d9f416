//! The state of one import: values by name, open regions, weights, faults.

mod data;
mod nodes;
mod regions;
mod values;

use super::check::{Faults, Functions, Opsets};
use super::external::ExternalFiles;
use super::fault::Fault;
use super::narrow::Narrow;
use super::proto::AttributeProto;
use super::shape::Known;
use super::tensor::Literal;
use ssmc_ir::{Graph, GraphBuilder, Loc, TensorType, ValueId, Weights};
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

    fn region(&mut self) -> &mut Region {
        self.regions.last_mut().expect("the root region stays open")
    }

    fn frame(&mut self) -> &mut Frame<'m> {
        self.frames.last_mut().expect("the root frame stays open")
    }

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
