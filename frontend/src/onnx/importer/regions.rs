//! Graphs inside graphs, and the outputs of graphs.

use super::super::fault::Fault;
use super::super::inputs::{is_taken, part};
use super::super::proto::{GraphProto, ValueInfoProto};
use super::super::types::{check_output, declared};
use super::{Failure, Frame, Imported, Importer, MAX_INLINE, Region, Special, Val};
use ssmc_ir::{Graph, GraphBuilder, Rewriter, TensorType, ValueId};
use std::collections::BTreeMap;

impl<'m> Importer<'m> {
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
