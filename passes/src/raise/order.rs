//! Orders of nodes in which those of a group stand side by side.
//!
//! Several nodes that become one have to wait for the operands of all of them; what reads their results comes after.

use ssmc_ir::{Def, Entity, Graph, NodeId};

/// All nodes, each behind what it reads, with the nodes of a group one after the other in their order; `None` for groups
/// that cannot stand so, because one of their nodes needs what another one is needed for.
pub(super) fn together(graph: &Graph, groups: &[Vec<NodeId>]) -> (Vec<NodeId>, Vec<bool>) {
    let mut stand: Vec<bool> = groups.iter().map(|group| group.len() > 1).collect();
    loop {
        match (Walk::new(graph, groups, &stand)).run() {
            Ok(order) => return (order, stand),
            Err(group) => stand[group] = false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    New,
    Open,
    Done,
}

struct Walk<'a> {
    graph: &'a Graph,
    groups: &'a [Vec<NodeId>],
    /// The group of every node that has one.
    group_of: Vec<Option<usize>>,
    marks: Vec<Mark>,
    order: Vec<NodeId>,
}

impl<'a> Walk<'a> {
    fn new(graph: &'a Graph, groups: &'a [Vec<NodeId>], stand: &[bool]) -> Self {
        let n = graph.nodes().len();
        let mut group_of = vec![None; n];
        for (i, group) in groups.iter().enumerate().filter(|(i, _)| stand[*i]) {
            for id in group {
                group_of[id.idx()] = Some(i);
            }
        }
        Self { graph, groups, group_of, marks: vec![Mark::New; n], order: Vec::with_capacity(n) }
    }

    /// The node that stands for all that are placed together with this one, and these.
    fn unit(&self, id: NodeId) -> (NodeId, &[NodeId]) {
        match self.group_of[id.idx()] {
            Some(group) => (self.groups[group][0], &self.groups[group]),
            None => (id, &[]),
        }
    }

    /// The nodes that this one and those beside it read from.
    fn needs(&self, id: NodeId) -> Vec<NodeId> {
        let (first, all) = self.unit(id);
        let all = if all.is_empty() { std::slice::from_ref(&first) } else { all };
        let operands = all.iter().flat_map(|id| self.graph.node(*id).operands.iter().flatten());
        let makers = operands.filter_map(|v| match self.graph.def(*v) {
            Def::Result(maker, _) => Some(maker),
            Def::Input(_) => None,
        });
        makers.collect()
    }

    /// The order, or a group that stands in its own way.
    fn run(mut self) -> Result<Vec<NodeId>, usize> {
        for (id, _) in self.graph.nodes() {
            let mut stack = vec![self.unit(id).0];
            while let Some(&id) = stack.last() {
                match self.marks[id.idx()] {
                    Mark::Done => {
                        stack.pop();
                    }
                    Mark::Open => {
                        stack.pop();
                        self.marks[id.idx()] = Mark::Done;
                        match self.group_of[id.idx()] {
                            Some(group) => self.order.extend(&self.groups[group]),
                            None => self.order.push(id),
                        }
                    }
                    Mark::New => {
                        self.marks[id.idx()] = Mark::Open;
                        for maker in self.needs(id) {
                            let maker = self.unit(maker).0;
                            match self.marks[maker.idx()] {
                                Mark::New => stack.push(maker),
                                Mark::Done => {}
                                Mark::Open => return Err(self.circle(&stack, maker)),
                            }
                        }
                    }
                }
            }
        }
        Ok(self.order)
    }

    /// A group on the way from this node, which is open, back to it. There is one: a graph alone has no circles.
    fn circle(&self, stack: &[NodeId], from: NodeId) -> usize {
        let at = stack.iter().rposition(|id| *id == from).unwrap_or(0);
        let open = stack[at..].iter().filter(|id| self.marks[id.idx()] == Mark::Open);
        let mut groups = open.filter_map(|id| self.group_of[id.idx()]);
        groups.next_back().expect("every circle goes through a group")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "func @f(%x: f32[2], %y: f32[2]) {
        %p = neg %x : f32[2]
        %q = exp %p : f32[2]
        %r = neg %y : f32[2]
        %s = exp %r : f32[2]
        %t = add %q, %s : f32[2]
        return %t \"t\"
    }";

    fn ordered(groups: &[&[usize]]) -> (Vec<usize>, Vec<bool>) {
        let graph = ssmc_ir::parse(TEXT).unwrap();
        let groups: Vec<Vec<NodeId>> =
            groups.iter().map(|group| group.iter().map(|i| NodeId::new(*i)).collect()).collect();
        let (order, stand) = together(&graph, &groups);
        (order.into_iter().map(Entity::idx).collect(), stand)
    }

    #[test]
    fn readers_wait_for_the_whole_group() {
        assert_eq!(ordered(&[&[0, 2]]), (vec![0, 2, 1, 3, 4], vec![true]));
        assert_eq!(ordered(&[&[0, 3]]), (vec![2, 0, 3, 1, 4], vec![true]));
        assert_eq!(ordered(&[&[0, 2], &[1, 3]]), (vec![0, 2, 1, 3, 4], vec![true, true]));
    }

    #[test]
    fn groups_that_wait_for_themselves_are_left_apart() {
        assert_eq!(ordered(&[&[0, 1]]), (vec![0, 1, 2, 3, 4], vec![false]));
        // Each holds what a node of the other needs.
        let (order, stand) = ordered(&[&[0, 3], &[1, 2]]);
        assert_eq!((order.len(), stand.iter().filter(|stands| **stands).count()), (5, 1));
    }
}
