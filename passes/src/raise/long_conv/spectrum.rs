//! Convolutions by Fourier transforms: transform, complex product, inverse transform, cut.

use super::fourier;
use super::lags::{self, Circle};
use super::{Finder, Kernel, Obstacle, Plan};
use crate::pass::Evidence;
use crate::raise::product::{Term, terms};
use crate::view::{self, Label, Labels, View};
use ssmc_ir::ops::{Binary, BinaryFn, Dft, Op, Slice};
use ssmc_ir::{Complex, Def, Dim, Graph, GraphBuilder, Interpreter, Node, NodeId, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// The part of a frozen kernel that may be dropped, as a fraction of its norm: what rounding its spectrum left there.
const NOISE: f64 = 1e-6;

/// One part of the transform of a real signal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wave {
    node: NodeId,
    is_imaginary: bool,
    labels: Labels,
}

/// A signal, where zeros were put around it, and its extent.
struct Padded {
    view: View,
    low: Dim,
    extent: Dim,
}

/// An inverse transform seen from where it is cut.
struct Inverse<'a> {
    op: &'a Dft,
    node: &'a Node,
    /// Of its operands and result, by the axes of what is cut.
    labels: Labels,
    scale: f64,
}

/// A slice whose axes bear labels.
struct Part<'a> {
    id: NodeId,
    op: &'a Slice,
    labels: Labels,
}

/// The first operand of a node.
fn op_input(graph: &Graph, node: NodeId) -> Option<ValueId> {
    graph.node(node).operands.first().copied().flatten()
}

/// What is cut out of a circle: its first element and how many follow.
struct Cut {
    axis: usize,
    from: Dim,
    kept: Dim,
}

impl<'a> Finder<'a> {
    /// Convolutions that end in a slice, or in two slices that were joined across the ends.
    pub(super) fn cut_transforms(&self, found: &mut BTreeMap<NodeId, Result<Plan, Obstacle>>) {
        let mut joined: BTreeSet<NodeId> = BTreeSet::new();
        for (id, node) in self.graph.nodes() {
            if let Some((view, cut, parts)) = self.joined(node)
                && let Some(result) = self.transformed(&view, &self.graph.ty(node.results[0]).shape, &cut)
            {
                joined.extend(parts);
                found.insert(id, result);
            }
        }
        for (id, node) in self.graph.nodes() {
            let Op::Slice(op) = &node.op else { continue };
            if op.stride != 1 || joined.contains(&id) {
                continue;
            }
            let Some(x) = node.operands[0] else { continue };
            let cut = Cut { axis: op.axis, from: op.start.clone(), kept: op.len.clone() };
            if let Some(result) =
                self.transformed(&View::numbered(self.graph, x), &self.graph.ty(x).shape, &cut)
            {
                found.insert(id, result);
            }
        }
    }

    /// A concatenation of the end of a value with its beginning: the value, the cut, and the slices.
    fn joined(&self, node: &Node) -> Option<(View, Cut, Vec<NodeId>)> {
        let Op::Concat(concat) = &node.op else { return None };
        let ([Some(end), Some(start)], [result]) = (&node.operands[..], &node.results[..]) else {
            return None;
        };
        let labels = View::numbered(self.graph, *result).labels;
        let (end, start) = (self.sliced(*end, &labels)?, self.sliced(*start, &labels)?);
        let (op, first) = (end.op, start.op);
        let x = op_input(self.graph, end.id)?;
        let extent = &self.graph.ty(x).shape[op.axis];
        let is_end = op.start.clone() + &op.len == *extent && first.start.is(0);
        let sequence = end.labels[op.axis];
        let same = op_input(self.graph, start.id) == Some(x) && first.axis == op.axis;
        if !same || !is_end || sequence.is_none() || sequence != labels[concat.axis] {
            return None;
        }
        let cut = Cut { axis: concat.axis, from: op.start.clone(), kept: op.len.clone() + &first.len };
        Some((View { value: x, labels: end.labels }, cut, vec![end.id, start.id]))
    }

    /// The slice that a value is, seen through unit axes, if nothing else uses it.
    fn sliced(&self, value: ValueId, labels: &[Option<Label>]) -> Option<Part<'a>> {
        let graph = self.graph;
        let shape = &graph.ty(value).shape;
        let labels = labels.iter().zip(shape.iter()).map(|(l, d)| if d.is(1) { None } else { *l }).collect();
        self.only_user(value)?;
        let view = View { value, labels }.base(graph);
        let Def::Result(id, _) = graph.def(view.value) else { return None };
        let Op::Slice(op) = &graph.node(id).op else { return None };
        self.only_user(view.value)?;
        (op.stride == 1).then_some(Part { id, op, labels: view.labels })
    }

    /// The convolution whose circle this is; `None` if it is no inverse transform. `dims` are the extents by label.
    fn transformed(&self, view: &View, dims: &[Dim], cut: &Cut) -> Option<Result<Plan, Obstacle>> {
        let inverse = self.inverse(view.clone())?;
        let sequence = inverse.labels[inverse.op.axis]?;
        (sequence as usize == cut.axis).then(|| self.convolution(&inverse, dims.to_vec(), sequence, cut))
    }

    /// Walks from what is cut to the real result of an inverse transform; multiplications by a number lie between.
    fn inverse(&self, mut view: View) -> Option<Inverse<'a>> {
        let graph = self.graph;
        let mut scale = 1.0;
        loop {
            view = view.base(graph);
            let Def::Result(by, result) = graph.def(view.value) else { return None };
            let node = graph.node(by);
            let splat =
                |i: usize| node.operands.get(i).copied().flatten().and_then(|v| view::splat(graph, v));
            let (factor, i) = match &node.op {
                Op::Dft(op) if op.inverse && result == 0 => {
                    return Some(Inverse { op, node, labels: view.labels, scale });
                }
                Op::Binary(Binary { f: BinaryFn::Mul }) => match (splat(0), splat(1)) {
                    (Some(factor), None) => (factor, 1),
                    (None, Some(factor)) => (factor, 0),
                    _ => return None,
                },
                Op::Binary(Binary { f: BinaryFn::Div }) => (1.0 / splat(1)?, 0),
                _ => return None,
            };
            scale *= factor;
            view.value = node.operands[i]?;
        }
    }

    fn convolution(
        &self,
        inverse: &Inverse<'a>,
        dims: Vec<Dim>,
        sequence: Label,
        cut: &Cut,
    ) -> Result<Plan, Obstacle> {
        let part = |i: usize| {
            let value = inverse.node.operands.get(i).copied().flatten().ok_or(Obstacle::NoProduct)?;
            terms(self.graph, View { value, labels: inverse.labels.clone() }, &|_| true)
                .ok_or(Obstacle::NoProduct)
        };
        let (re, im) = (part(0)?, part(1)?);
        let wave = |view: &View| self.wave(view, inverse.op, sequence);
        let nodes: BTreeSet<NodeId> =
            re.iter().flat_map(|t| &t.factors).filter_map(|view| Some(wave(view)?.node)).collect();
        let split: Vec<(Wave, Spectrum)> = nodes
            .into_iter()
            .filter_map(|node| Spectrum::times(&re, &im, &|view| wave(view).filter(|w| w.node == node)))
            .collect();
        // Of two transforms the one with more axes is the signal: kernels are shared.
        let n_axes = |w: &Wave| w.labels.iter().flatten().count();
        let best = split.into_iter().reduce(|a, b| if n_axes(&b.0) > n_axes(&a.0) { b } else { a });
        let (signal, spectrum) = best.ok_or(Obstacle::NoProduct)?;
        let length = &inverse.op.length;
        let signal = self.padded(&signal, sequence, length).ok_or(Obstacle::NoProduct)?;
        let circle = |low: &Dim| {
            Some(Circle {
                length: length.as_const()?,
                low: low.as_const()?,
                signal: signal.extent.as_const()?,
                from: cut.from.as_const()?,
                kept: cut.kept.as_const()?,
            })
        };
        let (kernel, evidence) = if let Some((other, is_conjugate)) = spectrum.of_signal(&wave) {
            let kernel = self.padded(&other, sequence, length).ok_or(Obstacle::NoProduct)?;
            let is_plain = signal.low.is(0) && kernel.low.is(0) && cut.from.is(0) && !is_conjugate;
            let lags = match (circle(&signal.low), kernel.low.as_const(), kernel.extent.as_const()) {
                (Some(circle), Some(low), Some(width)) => circle.pieces(low, width, is_conjugate)?,
                _ if is_plain => lags::symbolic(length, &signal.extent, &kernel.extent)?,
                _ => return Err(unproven(&signal, &kernel.extent, length)),
            };
            let scale = inverse.scale * spectrum.scale;
            (Kernel::Value { view: kernel.view, lags, scale }, Evidence::Structural)
        } else if spectrum.is_constant(self) {
            let circle = circle(&signal.low).ok_or_else(|| unproven(&signal, length, length))?;
            self.frozen(inverse, &spectrum, sequence, circle)?
        } else {
            return Err(Obstacle::NoProduct);
        };
        let lengths = [signal.extent, cut.kept.clone()];
        Ok(Plan { signal: signal.view, sequence, dims, lengths, kernel, bias: None, evidence })
    }

    /// The transform that a value is a part of, if it is that of a real signal along the sequence with all the elements
    /// that the inverse transform needs.
    fn wave(&self, view: &View, inverse: &Dft, sequence: Label) -> Option<Wave> {
        let graph = self.graph;
        let needed = if inverse.onesided { inverse.half() } else { inverse.length.clone() };
        let mut view = view.clone();
        if let Some(Op::Slice(s)) = graph.def_op(view.value) {
            // The first half of a whole spectrum.
            if view.labels[s.axis] != Some(sequence) || !s.start.is(0) || s.stride != 1 || s.len != needed {
                return None;
            }
            view.value = graph.def_node(view.value)?.operands[0]?;
            view = view.base(graph);
        } else if !view
            .labels
            .iter()
            .zip(graph.ty(view.value).shape.iter())
            .any(|(l, d)| *l == Some(sequence) && *d == needed)
        {
            return None;
        }
        let Def::Result(node, result) = graph.def(view.value) else { return None };
        let Op::Dft(op) = &graph.node(node).op else { return None };
        let is_real = graph.node(node).operands.get(1).copied().flatten().is_none();
        let fits =
            !op.inverse && is_real && op.length == inverse.length && view.labels[op.axis] == Some(sequence);
        fits.then_some(Wave { node, is_imaginary: result == 1, labels: view.labels })
    }

    /// The signal of a transform without the zeros around it.
    fn padded(&self, wave: &Wave, sequence: Label, length: &Dim) -> Option<Padded> {
        let graph = self.graph;
        let mut low = Dim::from(0);
        let mut view = View { value: graph.node(wave.node).operands[0]?, labels: wave.labels.clone() };
        let mut fits = false;
        loop {
            view = view.base(graph);
            let axis = view.labels.iter().position(|l| *l == Some(sequence))?;
            let extent = graph.ty(view.value).shape[axis].clone();
            // Where the transform is shorter than its operand it takes the first elements.
            let end = low.clone() + &extent;
            fits |= length.at_least(&end) == *length;
            let node = graph.def_node(view.value);
            let zero = |v: Option<ValueId>| v.is_some_and(|v| view::splat(graph, v) == Some(0.0));
            let inner = match node.map(|n| (&n.op, &n.operands[..])) {
                Some((Op::Pad(op), [x, fill])) if op.axis == axis && zero(*fill) => {
                    low = low + &op.low;
                    *x
                }
                Some((Op::Concat(op), [first, second])) if op.axis == axis && zero(*second) => *first,
                Some((Op::Concat(op), [first, second])) if op.axis == axis && zero(*first) => {
                    low = low + &graph.ty((*first)?).shape[axis];
                    *second
                }
                _ => return fits.then_some(Padded { view, low, extent }),
            };
            view.value = inner?;
        }
    }

    /// The taps of a constant spectrum.
    fn frozen(
        &self,
        inverse: &Inverse<'_>,
        spectrum: &Spectrum,
        sequence: Label,
        circle: Circle,
    ) -> Result<(Kernel, Evidence), Obstacle> {
        let n = usize::try_from(circle.length).map_err(|_| Obstacle::NoProduct)?;
        let labels: Vec<Label> = spectrum.labels().into_iter().filter(|l| *l != sequence).collect();
        let stored = if inverse.op.onesided { n / 2 + 1 } else { n };
        let re = self.constant(&spectrum.re, (sequence, stored), &labels)?;
        let im = match &spectrum.im {
            Some(factors) => self.constant(factors, (sequence, stored), &labels)?,
            None => vec![0.0; re.len()],
        };
        let n_kernels = re.len() / stored.max(1);
        let scale = spectrum.scale * inverse.scale;
        let mut circular = vec![0.0; n * n_kernels];
        for i in 0..n_kernels {
            let at = |k: usize| {
                let k = k * n_kernels + i;
                Complex::new(re[k] * scale, im[k] * spectrum.turn * scale)
            };
            let mut whole: Vec<Complex> = (0..stored).map(at).collect();
            if inverse.op.onesided {
                whole = fourier::mirrored(&whole, n);
            }
            for (m, x) in fourier::inverse(&whole).into_iter().enumerate() {
                circular[m * n_kernels + i] = x.re;
            }
        }
        let row = |m: i64| &circular[m as usize * n_kernels..][..n_kernels];
        let energy: Vec<f64> = (0..circle.length).map(|m| row(m).iter().map(|x| x * x).sum()).collect();
        let budget = NOISE * NOISE * energy.iter().sum::<f64>();
        let at = |lag: i64| energy[circle.element(lag, false) as usize];
        let lags = circle.lags();
        // What looks ahead is dropped if it is noise, and so is the end of the kernel.
        let mut dropped = 0.0;
        let mut first = lags.start;
        while first < lags.end.min(0) && dropped + at(first) <= budget {
            dropped += at(first);
            first += 1;
        }
        let mut last = lags.end - 1;
        while last > first && dropped + at(last) <= budget {
            dropped += at(last);
            last -= 1;
        }
        if first > last || budget == 0.0 {
            return Err(Obstacle::Empty);
        }
        if last - first >= circle.length {
            return Err(Obstacle::Circular { length: circle.length.into() });
        }
        // A kernel that starts late keeps its zeros.
        let lead = (-first).max(0);
        let width = usize::try_from(last + lead + 1).map_err(|_| Obstacle::Empty)?;
        let mut taps = vec![0.0; width * n_kernels];
        for lag in first..=last {
            let to = (lag + lead) as usize * n_kernels;
            taps[to..to + n_kernels].copy_from_slice(row(circle.element(lag, false)));
        }
        let evidence = if dropped > 0.0 { Evidence::Numeric } else { Evidence::Structural };
        Ok((Kernel::Constant { taps, width, labels, lead }, evidence))
    }

    /// The product of constants with these axes, in order; those that it lacks are repeated.
    fn constant(
        &self,
        factors: &[View],
        (sequence, n): (Label, usize),
        labels: &[Label],
    ) -> Result<Vec<f64>, Obstacle> {
        let fault = |error: &dyn std::fmt::Display| Obstacle::Constant(error.to_string());
        let target: Labels = std::iter::once(sequence).chain(labels.iter().copied()).map(Some).collect();
        let mut product: Option<Vec<f64>> = None;
        let extent = |label: Label| {
            let axis = |f: &View| f.labels.iter().position(|l| *l == Some(label)).map(|axis| (f.value, axis));
            self.spectrum_extent(factors.iter().find_map(axis))
        };
        for factor in factors {
            let mut shape = vec![Dim::from(n)];
            for label in labels {
                shape.push(extent(*label).ok_or(Obstacle::NoProduct)?);
            }
            let mut b = GraphBuilder::new("spectrum");
            let op = self.graph.def_op(factor.value).ok_or(Obstacle::NoProduct)?.clone();
            let x = b.op(op, &[]).map_err(|e| fault(&e))?;
            let x = view::spread(&mut b, x, &factor.labels, &target, &shape).map_err(|e| fault(&e))?;
            b.output("x", x);
            let graph = b.finish();
            let mut outputs =
                Interpreter::new(&graph, self.weights).run(&BTreeMap::new()).map_err(|e| fault(&e))?;
            let elems = outputs.remove("x").map(|x| x.to_f64()).unwrap_or_default();
            product = Some(match product {
                None => elems,
                Some(product) => product.iter().zip(&elems).map(|(x, y)| x * y).collect(),
            });
        }
        product.ok_or(Obstacle::NoProduct)
    }

    fn spectrum_extent(&self, place: Option<(ValueId, usize)>) -> Option<Dim> {
        place.map(|(value, axis)| self.graph.ty(value).shape[axis].clone())
    }
}

fn unproven(signal: &Padded, kernel: &Dim, length: &Dim) -> Obstacle {
    Obstacle::Unproven { signal: signal.extent.clone(), kernel: kernel.clone(), length: length.clone() }
}

/// The spectrum that a signal's is multiplied by: scale * (re + turn * i * im).
struct Spectrum {
    scale: f64,
    re: Vec<View>,
    im: Option<Vec<View>>,
    turn: f64,
}

impl Spectrum {
    /// Reads re + i*im as the transform that `of` accepts times something.
    fn times(re: &[Term], im: &[Term], of: &dyn Fn(&View) -> Option<Wave>) -> Option<(Wave, Self)> {
        let mut wave: Option<Wave> = None;
        // The coefficients of the real and imaginary part of the signal.
        let mut split = |terms: &[Term]| -> Option<[Option<Term>; 2]> {
            let mut parts = [None, None];
            for term in terms {
                let (i, found) = term.factors.iter().enumerate().find_map(|(i, v)| Some((i, of(v)?)))?;
                let mut rest = term.clone();
                rest.factors.remove(i);
                if rest.factors.iter().any(|v| of(v).is_some()) {
                    return None;
                }
                if wave.as_ref().is_some_and(|w| w.labels != found.labels) {
                    return None;
                }
                let slot = &mut parts[usize::from(found.is_imaginary)];
                if slot.replace(rest).is_some() {
                    return None;
                }
                wave.get_or_insert(found);
            }
            Some(parts)
        };
        let ([re_of_re, re_of_im], [im_of_re, im_of_im]) = (split(re)?, split(im)?);
        let (p, p2) = (re_of_re?, im_of_im?);
        if p != p2 || p.scale == 0.0 {
            return None;
        }
        let (im, turn) = match (re_of_im, im_of_re) {
            (None, None) => (None, 0.0),
            (Some(q), Some(q2)) if q.factors == q2.factors && q.scale == -q2.scale => {
                (Some(q2.factors), q2.scale / p.scale)
            }
            _ => return None,
        };
        Some((wave?, Self { scale: p.scale, re: p.factors, im, turn }))
    }

    /// The transform that this is, or the conjugate of.
    fn of_signal(&self, wave: &dyn Fn(&View) -> Option<Wave>) -> Option<(Wave, bool)> {
        let ([re], Some([im])) = (&self.re[..], self.im.as_deref()) else { return None };
        let (re, im) = (wave(re)?, wave(im)?);
        let same = re.node == im.node && re.labels == im.labels && !re.is_imaginary && im.is_imaginary;
        let is_conjugate = match self.turn {
            1.0 => false,
            -1.0 => true,
            _ => return None,
        };
        same.then_some((re, is_conjugate))
    }

    fn factors(&self) -> impl Iterator<Item = &View> {
        self.re.iter().chain(self.im.iter().flatten())
    }

    fn is_constant(&self, finder: &Finder<'_>) -> bool {
        let is_literal =
            |v: &View| matches!(finder.graph.def_op(v.value), Some(Op::WeightRef(_) | Op::Constant(_)));
        !self.re.is_empty() && self.factors().all(is_literal)
    }

    fn labels(&self) -> BTreeSet<Label> {
        self.factors().flat_map(|v| v.labels.iter().flatten().copied()).collect()
    }
}
