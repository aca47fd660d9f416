//! Execution modes: one recurrence, computed step by step or in chunks.
//!
//! The combine of a first-order recurrence is associative, so the steps may be grouped; with one decay per head the
//! steps of a chunk are a masked matrix product.

use super::{Direction, Equation, Exactness, Rule};
use crate::egraph::{Expr, Graph};
use egg::Id;
use ssmc_ir::ops::{Mode, Op};

pub(super) static RULES: &[Rule] = &[Rule {
    name: "ssd-chunked",
    family: "modes",
    equation: "ssd{recurrent}(..) = ssd{chunked, chunk_size = q}(..) for any q",
    reason: "(a2, b2) o (a1, b1) = (a2*a1, a2*b1 + b2) is associative; a chunk with scalar decay is a masked product",
    source: "Dao & Gu 2024, section 6",
    exactness: Exactness::Reassociates,
    direction: Direction::Expand,
    find: chunked,
}];

/// The chunk sizes that the cost model chooses from.
const CHUNK_SIZES: [usize; 4] = [32, 64, 128, 256];

fn chunked(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for term in &egraph[id].nodes {
        let Some(Op::Ssd(ssd)) = term.op() else { continue };
        if ssd.mode != Mode::Recurrent {
            continue;
        }
        let operands: Vec<_> = term.children.iter().map(|c| Expr::class(egraph, *c)).collect();
        for chunk_size in CHUNK_SIZES {
            let op = ssmc_ir::ops::Ssd { mode: Mode::Chunked, chunk_size, ..ssd.clone() };
            let left = Expr::term(egraph, term);
            found.extend(Expr::op(op, operands.clone()).map(|right| Equation::between(left, right)));
        }
    }
    found
}
