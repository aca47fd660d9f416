//! Epilogues of scans: read-out, skip and gate.
//!
//! `y[t] = sum over n of c[t,n]*h[t,..,n]` reads the state; y + d*x adds the skip; y * silu(z) gates. Each rule gives the
//! final state as well, so that a program which keeps it still holds one scan.

use super::fused::{self, D, Fused, X, Z};
use super::gate::{replaced, silus};
use super::{Direction, Equation, Exactness, Rule};
use crate::canonicalize::embeds;
use crate::egraph::{Expr, Factor, Graph, Label, Labels, Product, readings, readings_of};
use egg::Id;
use ssmc_ir::ops::{Binary, BinaryFn, Cast, DiscretizedScan, Op, SelectiveScan, Unary, UnaryFn};
use ssmc_ir::{DType, Dim};
use std::collections::BTreeSet;

pub(super) static RULES: &[Rule] = &[
    Rule {
        name: "scan-read-out",
        family: "scan",
        equation: "sum over n of c[t,n] * discretized_scan(x, dt, a, b).h[t,e,n] * rest.. = \
                   selective_scan(x, dt, a, b, c).y[t,e] * rest..; the final states are equal",
        reason: "definition of selective_scan; what does not depend on n leaves the sum",
        source: "Gu & Dao 2023, algorithm 2",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: |egraph, id| read_out(egraph, id, false),
    },
    Rule {
        name: "read-out-cast",
        family: "scan",
        equation: "sum over n of cast[narrow](h[t,e,n]) * rest.. = \
                   cast[narrow](sum over n of h[t,e,n] * cast[wide](rest)..) for states h of a scan of the wider type",
        reason: "a cast to a wider type is exact, and one to a narrower type rounds; \
                 the right side rounds the sum once where the left one rounds its terms",
        source: "half-precision models whose scan is computed in single precision",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: read_out_cast,
    },
    Rule {
        name: "scan-skip",
        family: "scan",
        equation: "scan(x, ..).y + d*x = scan(x, .., d).y for selective_scan and ssd without d and z",
        reason: "definition of the operand d",
        source: "Gu & Dao 2023; Dao & Gu 2024",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: skip,
    },
    Rule {
        name: "scan-gate",
        family: "scan",
        equation: "scan(..).y * silu(z) * rest.. = scan(.., z).y * rest.. for selective_scan and ssd without z",
        reason: "definition of the operand z; the gate acts element by element, so it passes reshapes and transposes",
        source: "Gu & Dao 2023; Dao & Gu 2024",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: gate,
    },
];

/// The discretized scans of which the class is the states: op and operands.
fn discretized(egraph: &Graph, id: Id) -> Vec<(DiscretizedScan, Vec<Expr>)> {
    let mut found = Vec::new();
    for tuple in fused::tuples(egraph, id) {
        for term in &egraph[tuple].nodes {
            if let Some(Op::DiscretizedScan(op)) = term.op() {
                let operands = term.children.iter().map(|c| Expr::class(egraph, *c)).collect();
                found.push((op.clone(), operands));
            }
        }
    }
    found
}

/// The final state of one tuple is that of another.
fn same_state(left: &Expr, right: &Expr) -> Option<Equation> {
    Some(Equation::between(left.clone().proj(1)?, right.clone().proj(1)?))
}

pub(super) fn read_out(egraph: &Graph, id: Id, scalar_decay: bool) -> Vec<Equation> {
    let mut found = Vec::new();
    for product in readings(egraph, id) {
        for (i, factor) in product.factors.iter().enumerate() {
            for base in factor.bases(egraph) {
                for (op, operands) in discretized(egraph, base.id) {
                    if (operands[2].shape().len() == 2) != scalar_decay {
                        continue;
                    }
                    for read_map in read_maps(&product, i, &base.labels) {
                        let equations = || {
                            let c = c_operand(egraph, &product, &read_map, &base.labels, &operands[3])?;
                            let from = Expr::op(op.clone(), operands.clone())?;
                            let to = read_scan(&op, operands.clone(), c, scalar_decay)?;
                            let h = vec![(from.clone().proj(0)?, base.labels.clone())];
                            let y_labels = base.labels[..base.labels.len() - 1].to_vec();
                            let y = vec![(to.clone().proj(0)?, y_labels)];
                            let seen = vec![(Expr::class(egraph, base.id), base.labels.clone())];
                            let seen = replaced(egraph, seen, &product, &[i], id)?;
                            let left = replaced(egraph, h, &product, &[i], id)?;
                            let positions = [&[i], &read_map[..]].concat();
                            let right = replaced(egraph, y, &product, &positions, id)?;
                            Some([
                                Equation::reading(Expr::term(egraph, &product.top), seen, left, right),
                                same_state(&from, &to)?,
                            ])
                        };
                        found.extend(equations().into_iter().flatten());
                    }
                }
            }
        }
    }
    found
}

fn read_out_cast(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    let narrow = egraph[id].data.types[0].dtype;
    for product in readings(egraph, id).into_iter().filter(|p| !p.is_plain()) {
        for (i, factor) in product.factors.iter().enumerate() {
            for base in factor.bases(egraph) {
                for h in casts(egraph, base.id, narrow) {
                    let h = Factor { id: h, labels: base.labels.clone() };
                    let wide = egraph[h.id].data.types[0].dtype;
                    if !is_states(egraph, &h) || !h.label_set().iter().any(|l| product.is_summed(*l)) {
                        continue;
                    }
                    let right = || {
                        let mut factors = vec![h.expr(egraph)];
                        for other in product.rest(&[i]) {
                            let (x, labels) = other.expr(egraph);
                            factors.push((Expr::op(Cast { to: wide }, vec![x])?, labels));
                        }
                        let y = Expr::product(factors, &product.output, &egraph[id].data.types[0].shape)?;
                        Expr::op(Cast { to: narrow }, vec![y])
                    };
                    let left = Expr::term(egraph, &product.top);
                    found.extend(right().map(|right| Equation::between(left, right)));
                }
            }
        }
    }
    found
}

/// What the class is, rounded to its type: values of a wider type.
fn casts(egraph: &Graph, id: Id, narrow: DType) -> Vec<Id> {
    let is_wider = |x: &Id| {
        let wide = egraph[*x].data.types[0].dtype;
        wide != narrow && wide.is_float() && embeds(narrow, wide)
    };
    let terms = egraph[id].nodes.iter().filter(|t| matches!(t.op(), Some(Op::Cast(c)) if c.to == narrow));
    terms.map(|t| egraph.find(t.children[0])).filter(is_wider).collect()
}

/// Whether the factor is a view of the states of a scan.
fn is_states(egraph: &Graph, factor: &Factor) -> bool {
    let is_scan = |tuple: Id| {
        let mut terms = egraph[tuple].nodes.iter();
        terms.any(|t| matches!(t.op(), Some(Op::Scan(_) | Op::DiscretizedScan(_))))
    };
    factor.bases(egraph).iter().any(|base| fused::tuples(egraph, base.id).any(is_scan))
}

/// The sets of factors that can make c for the states h at `i`: those that share n with h, which is summed over, alone
/// or with all that depend on batch and step only; together they bear batch, step, group and n.
fn read_maps(product: &Product, i: usize, h: &Labels) -> Vec<Vec<usize>> {
    let n = *h.last().expect("states have axes");
    let is_inner = |l: Label| product.is_summed(l) && Some(l) != n;
    let is_kept = n.is_some_and(|n| !product.is_summed(n));
    if is_kept || product.factors.iter().flat_map(Factor::label_set).any(is_inner) {
        return Vec::new();
    }
    let expected: BTreeSet<Label> = h[..3].iter().copied().chain([n]).flatten().collect();
    let outer: BTreeSet<Label> = h[..2].iter().copied().flatten().collect();
    let bears_all = |set: &Vec<usize>| {
        let labels: BTreeSet<Label> = set.iter().flat_map(|j| product.factors[*j].label_set()).collect();
        labels == expected
    };
    let others: Vec<usize> = (0..product.factors.len()).filter(|j| *j != i).collect();
    let Some(n) = n else {
        return others.into_iter().map(|j| vec![j]).filter(bears_all).collect();
    };
    let along: Vec<usize> = others.iter().copied().filter(|j| product.factors[*j].has(n)).collect();
    let is_outer = |j: &usize| product.factors[*j].label_set().is_subset(&outer);
    let scaled: Vec<usize> = along.iter().copied().chain(others.into_iter().filter(is_outer)).collect();
    let mut found = vec![along, scaled];
    found.dedup();
    found.retain(bears_all);
    found
}

/// The product of the factors at `positions` in the layout of the operand c, which is that of b.
fn c_operand(egraph: &Graph, product: &Product, positions: &[usize], h: &Labels, b: &Expr) -> Option<Expr> {
    let target: Labels = h[..3].iter().copied().chain([*h.last()?]).collect();
    let factors = positions.iter().map(|j| product.factors[*j].expr(egraph)).collect();
    Expr::product(factors, &target, b.shape())
}

fn read_scan(op: &DiscretizedScan, operands: Vec<Expr>, c: Expr, scalar_decay: bool) -> Option<Expr> {
    let [x, dt, a, b, h0, seq_idx, slots] = operands.try_into().ok()?;
    let absent = Expr::absent;
    let operands = vec![x, dt, a, b, c, absent(), absent(), absent(), h0, seq_idx, slots];
    let &DiscretizedScan { discretization, reverse } = op;
    let op: Op = if scalar_decay {
        ssmc_ir::ops::Ssd { discretization, reverse, ..Default::default() }.into()
    } else {
        SelectiveScan { discretization, reverse, ..Default::default() }.into()
    };
    Expr::op(op, operands)
}

fn skip(egraph: &Graph, id: Id) -> Vec<Equation> {
    use super::algebra::binary;
    let mut found = Vec::new();
    let pairs = binary(egraph, id, BinaryFn::Add).flat_map(|[p, q]| [(p, q, false), (q, p, true)]);
    for (y, skip, is_swapped) in pairs {
        for (scan, chain) in fused::behind(egraph, y) {
            if scan.has(D) || scan.has(Z) {
                continue;
            }
            let whole = Factor::numbered(egraph, skip);
            for product in readings_of(egraph, &whole) {
                for i in 0..product.factors.len() {
                    let equations = || {
                        let (x, labels) = product.factors[i].expr(egraph);
                        let x = chain.inverse().apply(x.place(&labels, &whole.labels)?)?.normalized()?;
                        if x.lookup(egraph)? != egraph.find(scan.class(X)) {
                            return None;
                        }
                        let d = skip_weight(egraph, &product, i, &chain, &scan)?;
                        let (from, to) = (scan.clone().tuple()?, scan.clone().with(D, d).tuple()?);
                        let y = chain.apply(from.clone().proj(0)?)?;
                        let mut operands = vec![y, Expr::class(egraph, skip)];
                        if is_swapped {
                            operands.reverse();
                        }
                        let left = Expr::op(Binary { f: BinaryFn::Add }, operands)?;
                        let right = chain.apply(to.clone().proj(0)?)?.normalized()?;
                        Some([Equation::between(left, right), same_state(&from, &to)?])
                    };
                    found.extend(equations().into_iter().flatten());
                }
            }
        }
    }
    found
}

/// The factors of the product other than that at `x` in the layout of the operand d.
fn skip_weight(
    egraph: &Graph,
    product: &Product,
    x: usize,
    chain: &crate::egraph::Chain,
    scan: &Fused,
) -> Option<Expr> {
    let rest = product.rest(&[x]);
    if rest.is_empty() {
        return None;
    }
    let labels: BTreeSet<Label> = rest.iter().flat_map(Factor::label_set).collect();
    let axes: Vec<usize> = labels.iter().map(|l| *l as usize).collect();
    if labels.iter().any(|l| product.is_summed(*l)) {
        return None;
    }
    let shape = egraph_shape(egraph, product, &labels)?;
    let dense: Labels = labels.into_iter().map(Some).collect();
    let d = Expr::product(rest.iter().map(|f| f.expr(egraph)).collect(), &dense, &shape)?;
    let (axes, d) = chain.inverse().push(axes, d)?;
    let frame = scan.operand(X).shape();
    if axes.iter().any(|axis| *axis < 2) {
        return None;
    }
    let target: Labels = (2..frame.len()).map(|axis| axes.contains(&axis).then_some(axis as Label)).collect();
    let mut dims = frame[2..].to_vec();
    if scan.is_ssd() && !axes.contains(&4) {
        dims[2] = Dim::from(1);
    }
    Expr::product(vec![(d, axes.iter().map(|axis| Some(*axis as Label)).collect())], &target, &dims)
}

/// The extents of these labels.
fn egraph_shape(egraph: &Graph, product: &Product, labels: &BTreeSet<Label>) -> Option<Vec<Dim>> {
    let extent = |label: &Label| {
        product.factors.iter().find_map(|f| {
            let axis = f.labels.iter().position(|l| *l == Some(*label))?;
            Some(egraph[f.id].data.types[0].shape[axis].clone())
        })
    };
    labels.iter().map(extent).collect()
}

fn gate(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for product in readings(egraph, id).into_iter().filter(Product::is_plain) {
        let gates = silus(egraph, &product);
        for (i, factor) in product.factors.iter().enumerate() {
            if gates.is_empty() {
                break;
            }
            for (scan, chain) in fused::behind(egraph, factor.id) {
                if scan.has(Z) {
                    continue;
                }
                for (j, z) in gates.iter().filter(|(j, _)| *j != i) {
                    let equations = || {
                        let silu = Expr::op(Unary { f: UnaryFn::Silu }, vec![Expr::class(egraph, z.id)])?;
                        let gate = (silu, z.labels.clone());
                        let z = Expr::class(egraph, z.id).place(&z.labels, &factor.labels)?;
                        let z = chain.inverse().apply(z)?.normalized()?;
                        let (from, to) = (scan.clone().tuple()?, scan.clone().with(Z, z).tuple()?);
                        let y = |tuple: &Expr| {
                            Some((chain.apply(tuple.clone().proj(0)?)?, factor.labels.clone()))
                        };
                        let seen = vec![factor.expr(egraph), gate.clone()];
                        let seen = replaced(egraph, seen, &product, &[i, *j], id)?;
                        let left = replaced(egraph, vec![y(&from)?, gate], &product, &[i, *j], id)?;
                        let right = replaced(egraph, vec![y(&to)?], &product, &[i, *j], id)?.normalized()?;
                        Some([
                            Equation::reading(Expr::term(egraph, &product.top), seen, left, right),
                            same_state(&from, &to)?,
                        ])
                    };
                    found.extend(equations().into_iter().flatten());
                }
            }
        }
    }
    found
}
