//! Discretization: a diagonal scan whose coefficients are made from dt, a and b, and what makes dt.
//!
//! exp_euler: a_bar = exp(dt*a), b_bar*x = dt*b*x; zoh and bilinear by their definitions. The step size is
//! dt' = clamp(softplus?(dt + dt_bias), min, max).

use super::algebra::{apply1, apply2, binary, both_orders, splat, unary};
use super::fused::{self, DT, DT_BIAS, Dt, Fused};
use super::{Direction, Equation, Exactness, Rule};
use crate::egraph::{Chain, Expr, Factor, Graph, Label, Labels, Product, Term, readings_of, views};
use egg::Id;
use ssmc_ir::Dim;
use ssmc_ir::ops::{BinaryFn, Discretization, DiscretizedScan, Op, UnaryFn};
use std::collections::BTreeSet;

pub(super) static RULES: &[Rule] = &[
    Rule {
        name: "discretize-exp-euler",
        family: "discretize",
        equation: "scan(exp(dt[t,e]*a[e,n]), dt[t,e]*b[t,n]*x[t,e]) = discretized_scan{exp_euler}(x, dt, a, b)",
        reason: "definition of exp_euler with one decay per channel and state",
        source: "Gu & Dao 2023, as computed by selective_scan_ref",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: |egraph, id| discretize(egraph, id, false),
    },
    Rule {
        name: "discretize-scalar-decay",
        family: "discretize",
        equation: "scan(exp(dt[t,r]*a[r]), dt[t,r]*b[t,n]*x[t,r,p]) = discretized_scan{exp_euler}(x, dt, a, b)",
        reason: "definition of exp_euler with one decay per head",
        source: "Dao & Gu 2024, listing 1",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: |egraph, id| discretize(egraph, id, true),
    },
    Rule {
        name: "discretize-zoh",
        family: "discretize",
        equation: "scan(exp(dt*a), (exp(dt*a) - 1)/a * b*x) = discretized_scan{zoh}(x, dt, a, b), a per state or per head",
        reason: "definition of zoh, which takes the limit dt where a is 0 and the left side has no value",
        source: "Gu, Goel & Re 2022 (S4), zero-order hold",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: hold,
    },
    Rule {
        name: "discretize-bilinear",
        family: "discretize",
        equation: "scan((1 + dt*a/2)/(1 - dt*a/2), dt/(1 - dt*a/2) * b*x) = discretized_scan{bilinear}(x, dt, a, b), \
                   a per state or per head",
        reason: "definition of bilinear",
        source: "Gu, Goel & Re 2022 (S4), Tustin's method",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: bilinear,
    },
    Rule {
        name: "dt-min",
        family: "discretize",
        equation: "scan(dt = max(u, c)) = scan{dt_min = c}(dt = u)",
        reason: "definition of dt_min; min and max by ordered bounds commute",
        source: "zoo: SSD, clamp of dt",
        exactness: Exactness::Bitwise,
        direction: Direction::Forward,
        find: |egraph, id| dt_bound(egraph, id, BinaryFn::Max),
    },
    Rule {
        name: "dt-max",
        family: "discretize",
        equation: "scan(dt = min(u, c)) = scan{dt_max = c}(dt = u)",
        reason: "definition of dt_max; min and max by ordered bounds commute",
        source: "zoo: SSD, clamp of dt",
        exactness: Exactness::Bitwise,
        direction: Direction::Forward,
        find: |egraph, id| dt_bound(egraph, id, BinaryFn::Min),
    },
    Rule {
        name: "dt-softplus",
        family: "discretize",
        equation: "scan(dt = softplus(u)) = scan{dt_softplus}(dt = u)",
        reason: "definition of dt_softplus",
        source: "upstream selective_scan_ref, delta_softplus",
        exactness: Exactness::Reassociates,
        direction: Direction::Forward,
        find: dt_softplus,
    },
    Rule {
        name: "dt-bias",
        family: "discretize",
        equation: "scan(dt = u + dt_bias) = scan(dt = u, dt_bias)",
        reason: "definition of dt_bias",
        source: "upstream selective_scan_ref, delta_bias",
        exactness: Exactness::Bitwise,
        direction: Direction::Forward,
        find: dt_bias,
    },
];

/// The labels of the canonical axes of a discretized scan.
struct Roles {
    g: Option<Label>,
    /// Channel, or head if the decay is scalar.
    e: Option<Label>,
    /// Only if the decay is scalar.
    p: Option<Label>,
    n: Option<Label>,
}

/// The part of the sets that assigns factors to x and b.
struct Split {
    x: Vec<Factor>,
    b: Vec<Factor>,
    roles: Roles,
}

fn discretize(egraph: &Graph, id: Id, scalar_decay: bool) -> Vec<Equation> {
    let mut found = Vec::new();
    for term in &egraph[id].nodes {
        let Some(Op::Scan(scan)) = term.op() else { continue };
        let inputs = readings_of(egraph, &Factor::numbered(egraph, term.children[1]));
        for (_, exponent) in exponents(egraph, term.children[0]) {
            for (dt, a) in steps_and_rates(&exponent.factors) {
                for input in &inputs {
                    let same = |f: &Factor| f.is_same_view(&dt, egraph);
                    let Some(j) = input.factors.iter().position(same) else { continue };
                    let frame = Frame::new(egraph, term, (&dt, &a), input, Discretization::ExpEuler);
                    found.extend(frame.all(scan.reverse, &input.rest(&[j]), scalar_decay));
                }
            }
        }
    }
    found
}

/// q and its readings where the class is exp(q), with the axes of the scan as labels.
fn exponents(egraph: &Graph, a_bar: Id) -> Vec<(Factor, Product)> {
    let mut found = Vec::new();
    for base in Factor::numbered(egraph, a_bar).bases(egraph) {
        for q in unary(egraph, base.id, UnaryFn::Exp) {
            let q = Factor { id: q, labels: base.labels.clone() };
            found.extend(readings_of(egraph, &q).into_iter().map(|reading| (q.clone(), reading)));
        }
    }
    found
}

/// The ways to read a product as dt and a: a is what remains, and depends on neither batch nor step.
fn steps_and_rates(factors: &[Factor]) -> Vec<(Factor, Vec<Factor>)> {
    let split = |i: usize| {
        let a: Vec<Factor> = (0..factors.len()).filter(|j| *j != i).map(|j| factors[j].clone()).collect();
        let is_rate = !a.is_empty() && !a.iter().any(|f| f.has(0) || f.has(1));
        is_rate.then(|| (factors[i].clone(), a))
    };
    (0..factors.len()).filter_map(split).collect()
}

/// The quotients that a factor is a view of: numerator and denominator, under its labels.
fn quotients(egraph: &Graph, f: &Factor) -> Vec<[Factor; 2]> {
    let of = |base: Factor| {
        let pairs: Vec<_> = binary(egraph, base.id, BinaryFn::Div).collect();
        pairs.into_iter().map(move |pair| pair.map(|id| Factor { id, labels: base.labels.clone() }))
    };
    f.bases(egraph).into_iter().flat_map(of).collect()
}

/// What a factor is 1 more or less than, by `f`: x of 1 + x, of 1 - x, or of x - 1.
fn beside_one(egraph: &Graph, whole: &Factor, f: BinaryFn, one_first: bool) -> Vec<Factor> {
    let mut found = Vec::new();
    for base in whole.bases(egraph) {
        for pair in binary(egraph, base.id, f) {
            let orders = if f == BinaryFn::Add { both_orders(pair).to_vec() } else { vec![pair] };
            for [x, y] in orders {
                let (one, other) = if one_first { (x, y) } else { (y, x) };
                if splat(egraph, one) == Some(1.0) {
                    found.push(Factor { id: other, labels: base.labels.clone() });
                }
            }
        }
    }
    found
}

fn hold(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for term in &egraph[id].nodes {
        let Some(Op::Scan(scan)) = term.op() else { continue };
        let inputs = readings_of(egraph, &Factor::numbered(egraph, term.children[1]));
        for (q, exponent) in exponents(egraph, term.children[0]) {
            // exp(q) - 1, in one function or in two.
            let is_grown = |f: &Factor| {
                let is_exp = |f: &Factor, exp: UnaryFn| {
                    f.bases(egraph).iter().any(|base| {
                        unary(egraph, base.id, exp)
                            .any(|z| Factor { id: z, labels: base.labels.clone() }.is_same_view(&q, egraph))
                    })
                };
                let less_one = beside_one(egraph, f, BinaryFn::Sub, false);
                is_exp(f, UnaryFn::Expm1) || less_one.iter().any(|f| is_exp(f, UnaryFn::Exp))
            };
            for (dt, a) in steps_and_rates(&exponent.factors) {
                let [rate] = &a[..] else { continue };
                for input in &inputs {
                    let is_factor = |f: &Factor| {
                        let fits = |[n, d]: &[Factor; 2]| is_grown(n) && d.is_same_view(rate, egraph);
                        quotients(egraph, f).iter().any(fits)
                    };
                    let Some(j) = input.factors.iter().position(is_factor) else { continue };
                    let frame = Frame::new(egraph, term, (&dt, &a), input, Discretization::Zoh);
                    found.extend(frame.either(scan.reverse, &input.rest(&[j])));
                }
            }
        }
    }
    found
}

fn bilinear(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for term in &egraph[id].nodes {
        let Some(Op::Scan(scan)) = term.op() else { continue };
        let inputs = readings_of(egraph, &Factor::numbered(egraph, term.children[1]));
        for [above, below] in quotients(egraph, &Factor::numbered(egraph, term.children[0])) {
            let halves = beside_one(egraph, &above, BinaryFn::Add, true);
            let subtracted = beside_one(egraph, &below, BinaryFn::Sub, true);
            let is_half = |half: &&Factor| subtracted.iter().any(|f| f.is_same_view(half, egraph));
            for half in halves.iter().filter(is_half) {
                for reading in readings_of(egraph, half) {
                    let is_number = |f: &Factor| splat(egraph, f.id) == Some(0.5);
                    let Some(number) = reading.factors.iter().position(is_number) else { continue };
                    for (dt, a) in steps_and_rates(&reading.rest(&[number])) {
                        for input in &inputs {
                            let is_factor = |f: &Factor| {
                                let fits = |[n, d]: &[Factor; 2]| {
                                    n.is_same_view(&dt, egraph) && d.is_same_view(&below, egraph)
                                };
                                quotients(egraph, f).iter().any(fits)
                            };
                            let Some(j) = input.factors.iter().position(is_factor) else { continue };
                            let frame = Frame::new(egraph, term, (&dt, &a), input, Discretization::Bilinear);
                            found.extend(frame.either(scan.reverse, &input.rest(&[j])));
                        }
                    }
                }
            }
        }
    }
    found
}

fn label_set(factors: &[Factor]) -> BTreeSet<Label> {
    factors.iter().flat_map(Factor::label_set).collect()
}

/// A scan of which dt and a are found.
struct Frame<'a> {
    egraph: &'a Graph,
    scan: &'a Term,
    term: &'a [Id],
    dt: &'a Factor,
    a: &'a [Factor],
    /// The labels of the states: their axis numbers.
    output: &'a Labels,
    rule: Discretization,
}

impl<'a> Frame<'a> {
    fn new(
        egraph: &'a Graph,
        scan: &'a Term,
        (dt, a): (&'a Factor, &'a [Factor]),
        input: &'a Product,
        rule: Discretization,
    ) -> Self {
        Self { egraph, scan, term: &scan.children, dt, a, output: &input.output, rule }
    }

    /// The equations for a decay per state and for one per head.
    fn either(&self, reverse: bool, others: &[Factor]) -> Vec<Equation> {
        [false, true].into_iter().flat_map(|scalar_decay| self.all(reverse, others, scalar_decay)).collect()
    }

    /// The equations of every way to divide the other factors of the input into x and b.
    fn all(&self, reverse: bool, others: &[Factor], scalar_decay: bool) -> Vec<Equation> {
        let splits = self.splits(others, scalar_decay);
        splits.iter().flat_map(|split| self.equations(reverse, split, scalar_decay)).flatten().collect()
    }

    /// Batch and step.
    fn outer(&self) -> impl Iterator<Item = Label> + '_ {
        self.output[..2].iter().flatten().copied()
    }

    /// The ways to divide the other factors of the input into x and b.
    fn splits(&self, others: &[Factor], scalar_decay: bool) -> Vec<Split> {
        let states: BTreeSet<Label> = self.output[2..].iter().flatten().copied().collect();
        let of_dt: BTreeSet<Label> = self.dt.label_set().into_iter().filter(|l| *l > 1).collect();
        let of_a = label_set(self.a);
        let free: Vec<Label> = states.difference(&of_dt).copied().collect();
        let a_is_scalar = of_a.is_subset(&of_dt);
        let candidates: Vec<(Option<Label>, Option<Label>)> = match (scalar_decay, free.as_slice()) {
            (false, []) => vec![(None, None)],
            (false, [n]) if of_a.contains(n) => vec![(None, Some(*n))],
            (true, [n]) if a_is_scalar => vec![(None, Some(*n)), (Some(*n), None)],
            (true, [p, n]) if a_is_scalar => vec![(Some(*p), Some(*n)), (Some(*n), Some(*p))],
            _ => Vec::new(),
        };
        let mut found = Vec::new();
        for (p, n) in candidates {
            for b in input_maps(others, n) {
                let x: Vec<Factor> =
                    (0..others.len()).filter(|i| !b.contains(i)).map(|i| others[i].clone()).collect();
                let b: Vec<Factor> = b.into_iter().map(|i| others[i].clone()).collect();
                found.extend(self.split(x, b, &of_dt, p, n));
            }
        }
        found
    }

    fn split(
        &self,
        x: Vec<Factor>,
        b: Vec<Factor>,
        of_dt: &BTreeSet<Label>,
        p: Option<Label>,
        n: Option<Label>,
    ) -> Option<Split> {
        let outer: BTreeSet<Label> = self.outer().collect();
        let of_b = label_set(&b);
        let groups: Vec<Label> = of_b.intersection(of_dt).copied().collect();
        let channels: Vec<Label> = of_dt.difference(&of_b).copied().collect();
        if x.is_empty() || groups.len() > 1 || channels.len() > 1 {
            return None;
        }
        let with = |more: &[Label], last: Option<Label>| -> BTreeSet<Label> {
            outer.iter().chain(more).copied().chain(last).collect()
        };
        let all: Vec<Label> = of_dt.iter().copied().collect();
        let fits = label_set(&x) == with(&all, p)
            && of_b == with(&groups, n)
            && self.dt.label_set() == with(&all, None);
        let roles = Roles { g: groups.first().copied(), e: channels.first().copied(), p, n };
        fits.then_some(Split { x, b, roles })
    }

    fn dim(&self, label: Option<Label>) -> Dim {
        let shape = &self.egraph[self.term[1]].data.types[0].shape;
        label.map_or(Dim::from(1), |l| shape[l as usize].clone())
    }

    fn product(&self, factors: &[Factor], labels: &[Option<Label>]) -> Option<Expr> {
        let dims: Vec<Dim> = labels.iter().map(|l| self.dim(*l)).collect();
        Expr::product(factors.iter().map(|f| f.expr(self.egraph)).collect(), labels, &dims)
    }

    fn equations(&self, reverse: bool, split: &Split, scalar_decay: bool) -> Option<[Equation; 2]> {
        let Roles { g, e, p, n } = split.roles;
        let [batch, step] = [self.output[0], self.output[1]];
        let heads: &[Option<Label>] = if scalar_decay { &[g, e, p] } else { &[g, e] };
        let decays: &[Option<Label>] = if scalar_decay { &[g, e] } else { &[g, e, n] };
        let states = [&[batch], heads, &[n]].concat();
        let mut all_states = states.clone();
        all_states.insert(1, step);

        let x = self.product(&split.x, &[&[batch, step], heads].concat())?;
        let dt = self.product(std::slice::from_ref(self.dt), &[batch, step, g, e])?;
        let a = self.product(self.a, decays)?;
        let b = self.product(&split.b, &[batch, step, g, n])?;
        let mut state_labels = self.output.clone();
        state_labels.remove(1);
        let class = |i: usize| Expr::class(self.egraph, self.term[i]);
        let h0 =
            if class(2).types().is_empty() { class(2) } else { class(2).place(&state_labels, &states)? };
        let op = DiscretizedScan { discretization: self.rule, reverse };
        let tuple = Expr::op(op, vec![x, dt, a, b, h0, class(3), class(4)])?;
        let left = Expr::term(self.egraph, self.scan);
        let h = tuple.clone().proj(0)?.place(&all_states, self.output)?;
        let h_last = tuple.proj(1)?.place(&states, &state_labels)?;
        Some([Equation::between(left.clone().proj(0)?, h), Equation::between(left.proj(1)?, h_last)])
    }
}

/// The factors that make b: those along n; if there is no such axis, any one of them.
fn input_maps(others: &[Factor], n: Option<Label>) -> Vec<Vec<usize>> {
    match n {
        Some(n) => {
            let along: Vec<usize> = (0..others.len()).filter(|i| others[*i].has(n)).collect();
            if along.is_empty() { Vec::new() } else { vec![along] }
        }
        None => (0..others.len()).map(|i| vec![i]).collect(),
    }
}

/// The scan on dt = chain(outer(u)) is the scan `to` on chain(u).
fn absorb(
    egraph: &Graph,
    scan: &Fused,
    chain: &Chain,
    outer: Option<Expr>,
    u: Id,
    to: impl FnOnce(Expr) -> Fused,
) -> Option<Equation> {
    let left = scan.clone().with(DT, chain.apply(outer?)?).tuple()?;
    let right = to(chain.apply(Expr::class(egraph, u))?).tuple()?;
    Some(Equation::between(left, right))
}

fn dt_bound(egraph: &Graph, id: Id, f: BinaryFn) -> Vec<Equation> {
    let mut found = Vec::new();
    for scan in fused::in_tuple(egraph, id) {
        let dt = scan.dt();
        if dt.softplus || scan.has(DT_BIAS) {
            continue;
        }
        for (inner, chain) in views(egraph, scan.class(DT)) {
            let pairs = binary(egraph, inner, f).flat_map(|pair| both_orders(pair).map(|o| (pair, o)));
            for (pair, [u, constant]) in pairs {
                let Some(bound) = splat(egraph, constant) else { continue };
                let absorbed = match f {
                    BinaryFn::Max if dt.min == f64::NEG_INFINITY => Dt { min: bound, ..dt },
                    BinaryFn::Min if dt.max == f64::INFINITY => Dt { max: bound, ..dt },
                    _ => continue,
                };
                if bound.is_nan() || absorbed.min > absorbed.max {
                    continue;
                }
                let bounded = apply2(egraph, f, pair);
                let to = |u| scan.clone().with(DT, u).with_dt(absorbed);
                found.extend(absorb(egraph, &scan, &chain, bounded, u, to));
            }
        }
    }
    found
}

fn dt_softplus(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for scan in fused::in_tuple(egraph, id) {
        let dt = scan.dt();
        if dt.softplus || scan.has(DT_BIAS) {
            continue;
        }
        for (inner, chain) in views(egraph, scan.class(DT)) {
            for u in unary(egraph, inner, UnaryFn::Softplus) {
                let softplus = apply1(egraph, UnaryFn::Softplus, u);
                let to = |u| scan.clone().with(DT, u).with_dt(Dt { softplus: true, ..dt });
                found.extend(absorb(egraph, &scan, &chain, softplus, u, to));
            }
        }
    }
    found
}

fn dt_bias(egraph: &Graph, id: Id) -> Vec<Equation> {
    let mut found = Vec::new();
    for scan in fused::in_tuple(egraph, id).into_iter().filter(|s| !s.has(DT_BIAS)) {
        for (inner, chain) in views(egraph, scan.class(DT)) {
            let pairs =
                binary(egraph, inner, BinaryFn::Add).flat_map(|pair| both_orders(pair).map(|o| (pair, o)));
            for (pair, [u, addend]) in pairs {
                for base in Factor::numbered(egraph, addend).bases(egraph) {
                    let bias = || {
                        let labels = base.label_set();
                        let axes: Vec<usize> = labels.iter().map(|l| *l as usize).collect();
                        let dense: Labels = labels.into_iter().map(Some).collect();
                        let bias = Expr::class(egraph, base.id).place(&base.labels, &dense)?;
                        let (axes, bias) = chain.push(axes, bias)?;
                        let frame = scan.operand(DT).shape();
                        // A bias that is the same for all channels stays outside: it has no operand of its own.
                        let covers = (2..4).all(|axis| frame[axis].is(1) || axes.contains(&axis));
                        if axes.is_empty() || axes.iter().any(|axis| *axis < 2) || !covers {
                            return None;
                        }
                        bias.reshape(&frame[2..])
                    };
                    let Some(bias) = bias() else { continue };
                    let sum = apply2(egraph, BinaryFn::Add, pair);
                    let to = |u| scan.clone().with(DT, u).with(DT_BIAS, bias);
                    found.extend(absorb(egraph, &scan, &chain, sum, u, to));
                }
            }
        }
    }
    found
}
