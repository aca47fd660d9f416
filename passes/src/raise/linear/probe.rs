//! Which linear values are the states of a recurrence: impulses show its decay, random inputs that nothing else is
//! computed.

use super::region::Region;
use ssmc_ir::edit::Rewriter;
use ssmc_ir::{Bindings, Graph, Interpreter, Port, Tensor, ValueId, Weights};
use std::collections::{BTreeMap, BTreeSet};

/// The fewest steps of which a recurrence is told from a sum of neighbors.
const MIN_STEPS: usize = 4;
/// What the sequence and what lies beside it may have elements, for one run of the interpreter.
const MAX_ELEMS: usize = 1 << 20;
/// The extent of axes that are symbols.
const EXTENT: i64 = 2;

/// Decays of every element of a state.
pub(super) struct Decay {
    /// The real, and if there is one the imaginary part.
    pub(super) parts: Vec<Vec<f64>>,
    /// The extents of the parts: 1 for steps, and where the decay is the same all along the axis.
    pub(super) dims: Vec<usize>,
}

/// Values that are the states of a recurrence.
pub(super) struct Proof {
    pub(super) bases: Vec<ValueId>,
    pub(super) axis: usize,
    pub(super) reverse: bool,
    pub(super) decay: Decay,
    /// The states, and which part of them.
    pub(super) states: Vec<(ValueId, usize)>,
}

/// The shape of the inputs with one axis of steps.
struct Line<'s> {
    shape: &'s [usize],
    axis: usize,
    reverse: bool,
}

impl Line<'_> {
    fn n_steps(&self) -> usize {
        self.shape[self.axis]
    }

    fn stride(&self) -> usize {
        self.shape[self.axis + 1..].iter().product()
    }

    /// The elements of the first step, each the start of a sequence.
    fn starts(&self) -> Vec<usize> {
        let (n, stride) = (self.shape.iter().product::<usize>(), self.stride());
        (0..n).filter(|i| (i / stride).is_multiple_of(self.n_steps())).collect()
    }

    /// The element of step `t` of the sequence that starts at `start`.
    fn at(&self, start: usize, t: usize) -> usize {
        start + self.stride() * if self.reverse { self.n_steps() - 1 - t } else { t }
    }
}

/// The states among what is linear.
pub(super) fn prove(graph: &Graph, weights: &Weights, region: &Region) -> Option<Proof> {
    let ty = graph.ty(region.bases[0]);
    let candidates: Vec<ValueId> =
        (region.linear.iter().copied()).filter(|v| !region.bases.contains(v) && graph.ty(*v) == ty).collect();
    if candidates.is_empty() {
        return None;
    }
    let run = Run::new(graph, weights, region, &candidates)?;
    let is_long = |axis: &usize| ty.shape[*axis].as_const().is_some_and(|n| n >= MIN_STEPS as i64);
    for axis in (0..ty.rank()).filter(is_long) {
        for reverse in [false, true] {
            let line = Line { shape: &run.shape, axis, reverse };
            if let Some(proof) = run.prove(graph, region, &candidates, &line) {
                return Some(proof);
            }
        }
    }
    None
}

/// The region as a graph of its own.
struct Run<'w> {
    graph: Graph,
    weights: &'w Weights,
    shape: Vec<usize>,
    n_bases: usize,
    ty: ssmc_ir::DType,
    names: Vec<String>,
    bindings: Bindings,
}

impl<'w> Run<'w> {
    fn new(graph: &Graph, weights: &'w Weights, region: &Region, candidates: &[ValueId]) -> Option<Self> {
        let ty = graph.ty(region.bases[0]);
        let mut symbols = BTreeSet::new();
        let values = region.nodes.iter().flat_map(|id| &graph.node(*id).results);
        for dim in values.flat_map(|v| graph.ty(*v).shape.iter()).chain(ty.shape.iter()) {
            dim.collect_symbols(&mut symbols);
        }
        let bindings: Bindings = symbols.into_iter().map(|s| (s, EXTENT)).collect();
        let dims = ty.shape.iter().map(|d| usize::try_from(d.eval(&bindings).ok()?).ok());
        let shape = dims.collect::<Option<Vec<usize>>>()?;
        if shape.iter().product::<usize>() * region.linear.len() > MAX_ELEMS * 16
            || shape.iter().product::<usize>() > MAX_ELEMS
        {
            return None;
        }
        let mut r = Rewriter::without_inputs(graph);
        for (i, base) in region.bases.iter().enumerate() {
            let input = r.builder().input(format!("b{i}"), graph.ty(*base).clone());
            r.set(*base, input);
        }
        for id in &region.nodes {
            r.copy(graph.node(*id)).ok()?;
        }
        let names: Vec<String> = (0..candidates.len()).map(|i| format!("h{i}")).collect();
        let ports: Vec<Port> =
            names.iter().zip(candidates).map(|(n, v)| Port { name: n.clone(), value: *v }).collect();
        let graph = r.finish_with(&ports).ok()?;
        Some(Self { graph, weights, shape, n_bases: region.bases.len(), ty: ty.dtype, names, bindings })
    }

    /// What the candidates are for these inputs.
    fn of(&self, inputs: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
        let tensors = inputs.iter().enumerate().map(|(i, x)| {
            let tensor = Tensor::floats(self.ty, self.shape.clone(), x.clone()).ok()?;
            Some((format!("b{i}"), tensor))
        });
        let tensors = tensors.collect::<Option<BTreeMap<_, _>>>()?;
        let mut interpreter = Interpreter::new(&self.graph, self.weights);
        for (symbol, n) in &self.bindings {
            interpreter = interpreter.bind(symbol.clone(), *n);
        }
        let outputs = interpreter.run(&tensors).ok()?;
        self.names.iter().map(|name| Some(outputs.get(name)?.to_f64())).collect()
    }

    fn prove(
        &self,
        graph: &Graph,
        region: &Region,
        candidates: &[ValueId],
        line: &Line<'_>,
    ) -> Option<Proof> {
        let n = self.shape.iter().product::<usize>();
        let starts = line.starts();
        // What an impulse at the first step leaves behind.
        let mut impulses = Vec::new();
        for k in 0..self.n_bases {
            let mut inputs = vec![vec![0.0; n]; self.n_bases];
            starts.iter().for_each(|s| inputs[k][line.at(*s, 0)] = 1.0);
            impulses.push(self.of(&inputs)?);
        }
        let is = |c: usize, k: usize, x: f64| starts.iter().all(|s| impulses[k][c][line.at(*s, 0)] == x);
        let second = |c: usize, k: usize| -> Vec<f64> {
            starts.iter().map(|s| impulses[k][c][line.at(*s, 1)]).collect()
        };
        let inputs: Vec<Vec<f64>> = (0..self.n_bases).map(|k| noise(k as u64, n)).collect();
        let found = self.of(&inputs)?;
        for c in 0..candidates.len() {
            let Some(part) =
                (0..self.n_bases).find(|k| (0..self.n_bases).all(|j| is(c, j, f64::from(j == *k))))
            else {
                continue;
            };
            // The real part of the decay takes each part to itself.
            let mut parts = vec![second(c, part)];
            if self.n_bases == 2 {
                let other = second(c, 1 - part);
                parts.push(if part == 0 { other.iter().map(|x| -x).collect() } else { other });
            }
            let expected = line.recurrence(&parts, &inputs);
            let tolerance = line.n_steps() as f64 * 4.0 * epsilon(self.ty);
            let seen =
                (0..starts.len()).any(|s| parts.iter().map(|p| p[s] * p[s]).sum::<f64>() > 1e3 * tolerance);
            if !seen || !line.agree(&found[c], &expected[part], tolerance) {
                continue;
            }
            let states = (0..candidates.len()).filter_map(|c| {
                let part = (0..self.n_bases).find(|k| line.agree(&found[c], &expected[*k], tolerance))?;
                Some((candidates[c], part))
            });
            let states = states.collect();
            let decay = self.decay(graph, region, line, &parts)?;
            let (bases, axis, reverse) = (region.bases.clone(), line.axis, line.reverse);
            return Some(Proof { bases, axis, reverse, decay, states });
        }
        None
    }

    /// The decays without axes along which they are the same.
    fn decay(&self, graph: &Graph, region: &Region, line: &Line<'_>, parts: &[Vec<f64>]) -> Option<Decay> {
        let shape = &graph.ty(region.bases[0]).shape;
        let mut dims = self.shape.clone();
        dims[line.axis] = 1;
        let mut parts = parts.to_vec();
        for axis in 0..dims.len() {
            let (n, stride) = (dims[axis], dims[axis + 1..].iter().product::<usize>());
            let first = |i: usize| i - (i / stride % n) * stride;
            let is_same = |part: &Vec<f64>| (0..part.len()).all(|i| part[i] == part[first(i)]);
            if parts.iter().all(is_same) {
                for part in &mut parts {
                    *part = (0..part.len()).filter(|i| first(*i) == *i).map(|i| part[i]).collect();
                }
                dims[axis] = 1;
            } else if shape[axis].as_const().is_none() {
                return None;
            }
        }
        Some(Decay { parts, dims })
    }
}

impl Line<'_> {
    /// `h[t] = a * h[t-1] + b[t]`, complex if there are two parts.
    fn recurrence(&self, a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let mut h = b.to_vec();
        for (s, start) in self.starts().into_iter().enumerate() {
            for t in 1..self.n_steps() {
                let (now, before) = (self.at(start, t), self.at(start, t - 1));
                match (a, b.len()) {
                    ([re, im], 2) => {
                        let (x, y) = (h[0][before], h[1][before]);
                        h[0][now] += re[s] * x - im[s] * y;
                        h[1][now] += re[s] * y + im[s] * x;
                    }
                    _ => h[0][now] += a[0][s] * h[0][before],
                }
            }
        }
        h
    }

    /// Whether the sequences are equal but for rounding, relative to the largest state of each.
    fn agree(&self, found: &[f64], expected: &[f64], tolerance: f64) -> bool {
        self.starts().into_iter().all(|start| {
            let elems: Vec<usize> = (0..self.n_steps()).map(|t| self.at(start, t)).collect();
            let largest = elems.iter().map(|i| expected[*i].abs()).fold(1.0, f64::max);
            elems.iter().all(|i| (found[*i] - expected[*i]).abs() <= tolerance * largest)
        })
    }
}

/// The distance from 1 to the next number below, in this type.
fn epsilon(dtype: ssmc_ir::DType) -> f64 {
    match dtype {
        ssmc_ir::DType::F64 => f64::EPSILON / 2.0,
        ssmc_ir::DType::F16 => 2f64.powi(-11),
        ssmc_ir::DType::BF16 => 2f64.powi(-8),
        _ => 2f64.powi(-24),
    }
}

/// Numbers between -1 and 1, the same in every run.
fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed + 1).wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}
