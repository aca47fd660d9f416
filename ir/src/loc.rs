//! Source locations.

use crate::entity::{Entity, LocId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

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

/// Locations with their ids, which count from `first`.
#[derive(Clone, Debug, Default)]
struct Part {
    first: usize,
    locs: Vec<Loc>,
    ids: BTreeMap<Loc, LocId>,
}

impl Part {
    fn end(&self) -> usize {
        self.first + self.locs.len()
    }

    fn push(&mut self, loc: Loc) -> LocId {
        let id = LocId::new(self.end());
        self.locs.push(loc.clone());
        self.ids.insert(loc, id);
        id
    }
}

/// The locations of one graph, each stored once. Copies share what a finished graph knew: a pass, or the trial of one,
/// does not pay for the size of the model.
#[derive(Clone, Debug, Default)]
pub struct LocTable {
    shared: Arc<Part>,
    own: Part,
}

impl PartialEq for LocTable {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for LocTable {}

impl LocTable {
    /// The id of this location, added if it is new.
    pub fn intern(&mut self, loc: Loc) -> LocId {
        let known = self.shared.ids.get(&loc).or_else(|| self.own.ids.get(&loc));
        known.copied().unwrap_or_else(|| self.own.push(loc))
    }

    /// The location of this id.
    pub fn get(&self, id: LocId) -> &Loc {
        let part = if id.idx() < self.own.first { &self.shared } else { &self.own };
        id.idx().checked_sub(part.first).and_then(|i| part.locs.get(i)).unwrap_or(&Loc::Unknown)
    }

    /// Number of locations.
    pub fn len(&self) -> usize {
        self.own.end()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn iter(&self) -> impl Iterator<Item = &Loc> {
        self.shared.locs.iter().chain(&self.own.locs)
    }

    /// From here on copies share what there is. Little that was added to much stays with each copy, so that all calls
    /// together take time linear in the number of locations.
    pub(crate) fn share(&mut self) {
        if self.own.locs.len() < self.shared.locs.len() {
            return;
        }
        let own = std::mem::take(&mut self.own);
        let mut all = std::mem::take(&mut self.shared);
        let part = Arc::make_mut(&mut all);
        part.locs.extend(own.locs);
        part.ids.extend(own.ids);
        self.own.first = part.end();
        self.shared = all;
    }

    /// A person's description, such as `node "/layers.3/mixer/Exp" (Exp, output "dA")`.
    pub fn describe(&self, id: LocId) -> String {
        Describe { table: self, id, depth: 0 }.to_string()
    }

    /// The locations in files that this one goes back to, each once, in order of appearance.
    pub fn origins(&self, id: LocId) -> Vec<LocId> {
        let (mut out, mut stack, mut seen) = (Vec::new(), vec![id], BTreeSet::new());
        while let Some(id) = stack.pop() {
            if id.idx() >= self.len() || !seen.insert(id) {
                continue;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn module(i: usize) -> Loc {
        Loc::Module(i.to_string())
    }

    #[test]
    fn ids_stay_when_parts_are_shared() {
        let mut table = LocTable::default();
        for round in 0..6 {
            let n = table.len();
            let ids: Vec<LocId> = (0..=n + round).map(|i| table.intern(module(i))).collect();
            assert_eq!(ids, (0..=n + round).map(LocId::new).collect::<Vec<_>>());
            table.share();
            let copy = table.clone();
            assert_eq!(copy, table);
            assert_eq!(copy.len(), ids.len());
            assert!(ids.iter().all(|id| *copy.get(*id) == module(id.idx())));
            assert_eq!(*copy.get(LocId::new(copy.len())), Loc::Unknown);
        }
    }

    #[test]
    fn what_a_copy_adds_is_its_own() {
        let mut table = LocTable::default();
        table.intern(module(0));
        table.share();
        let mut copy = table.clone();
        let id = copy.intern(module(1));
        assert_eq!(*copy.get(id), module(1));
        assert_eq!(*table.get(id), Loc::Unknown);
        assert_ne!(copy, table);
        assert_eq!(table.intern(module(2)), id);
    }
}
