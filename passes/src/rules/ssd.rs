//! State space duality: with one decay per head the scan carries a matrix state.

use super::{Direction, Exactness, Rule, scan};

pub(super) static RULES: &[Rule] = &[Rule {
    name: "ssd-read-out",
    family: "ssd",
    equation: "sum over n of c[t,n] * discretized_scan(x, dt, a, b).h[t,r,p,n] * rest.. = \
               ssd(x, dt, a, b, c).y[t,r,p] * rest.., for one decay per head; the final states are equal",
    reason: "definition of ssd; what does not depend on n leaves the sum",
    source: "Dao & Gu 2024, listing 1",
    exactness: Exactness::Reassociates,
    direction: Direction::Forward,
    find: |egraph, id| scan::read_out(egraph, id, true),
}];
