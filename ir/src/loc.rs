//! Source locations.

use crate::entity::{Entity, LocId, PrimaryMap};
use std::collections::BTreeMap;
use std::fmt;

/// Where a node came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Loc {
    /// Nothing is known.
    Unknown,
    /// A node of an ONNX graph.
    OnnxNode {
        /// Node name, or the empty string.
        name: String,
        /// Operator type.
        op: String,
        /// Name of its first output.
        output: String,
    },
    /// A module of a checkpoint, such as `backbone.layers.3.mixer.in_proj`.
    Module(String),
    /// A position in a text file.
    Text {
        /// Line, from 1.
        line: u32,
        /// Column, from 1.
        column: u32,
    },
    /// Made by a pass or rule out of nodes with these locations.
    Derived {
        /// Name of the pass or rule.
        by: String,
        /// Locations of the nodes that it replaced.
        from: Vec<LocId>,
    },
}

/// The locations of one graph, each stored once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocTable {
    locs: PrimaryMap<LocId, Loc>,
    ids: BTreeMap<Loc, LocId>,
}

impl LocTable {
    /// The id of this location, added if it is new.
    pub fn intern(&mut self, loc: Loc) -> LocId {
        if let Some(id) = self.ids.get(&loc) {
            return *id;
        }
        let id = self.locs.push(loc.clone());
        self.ids.insert(loc, id);
        id
    }

    /// The location of this id.
    pub fn get(&self, id: LocId) -> &Loc {
        self.locs.get(id).unwrap_or(&Loc::Unknown)
    }

    /// Number of locations.
    pub fn len(&self) -> usize {
        self.locs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.locs.is_empty()
    }

    /// A person's description, such as `node "/layers.3/mixer/Exp" (Exp, output "dA")`.
    pub fn describe(&self, id: LocId) -> String {
        Describe { table: self, id, depth: 0 }.to_string()
    }

    /// The locations in files that this one goes back to, each once, in order of appearance.
    pub fn origins(&self, id: LocId) -> Vec<LocId> {
        let (mut out, mut stack, mut seen) = (Vec::new(), vec![id], vec![false; self.locs.len()]);
        while let Some(id) = stack.pop() {
            if seen.get(id.idx()).copied().unwrap_or(true) {
                continue;
            }
            seen[id.idx()] = true;
            match self.get(id) {
                Loc::Derived { from, .. } => stack.extend(from.iter().rev()),
                Loc::Unknown => {}
                Loc::OnnxNode { .. } | Loc::Module(_) | Loc::Text { .. } => out.push(id),
            }
        }
        out
    }
}

struct Describe<'a> {
    table: &'a LocTable,
    id: LocId,
    depth: usize,
}

impl fmt::Display for Describe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.table.get(self.id) {
            Loc::Unknown => f.write_str("unknown location"),
            Loc::OnnxNode { name, op, output } => write!(f, "node {name:?} ({op}, output {output:?})"),
            Loc::Module(path) => write!(f, "module {path:?}"),
            Loc::Text { line, column } => write!(f, "line {line}, column {column}"),
            Loc::Derived { by, from } => {
                write!(f, "{by}")?;
                if self.depth < 2 {
                    for (i, id) in from.iter().take(3).enumerate() {
                        f.write_str(if i == 0 { " from " } else { ", " })?;
                        Describe { table: self.table, id: *id, depth: self.depth + 1 }.fmt(f)?;
                    }
                    if from.len() > 3 {
                        write!(f, " and {} more", from.len() - 3)?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Compares locations of two tables by what they say.
pub(crate) struct SameLocs<'a> {
    left: &'a LocTable,
    right: &'a LocTable,
    known: BTreeMap<LocId, LocId>,
}

impl<'a> SameLocs<'a> {
    pub(crate) fn new(left: &'a LocTable, right: &'a LocTable) -> Self {
        Self { left, right, known: BTreeMap::new() }
    }

    pub(crate) fn same(&mut self, left: LocId, right: LocId) -> bool {
        if self.known.get(&left) == Some(&right) {
            return true;
        }
        let same = match (self.left.get(left), self.right.get(right)) {
            (Loc::Derived { by: a, from: left }, Loc::Derived { by: b, from: right }) => {
                a == b && left.len() == right.len() && left.iter().zip(right).all(|(l, r)| self.same(*l, *r))
            }
            (left, right) => left == right,
        };
        if same {
            self.known.insert(left, right);
        }
        same
    }
}
