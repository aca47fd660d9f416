//! Long convolutions: their kernels become state spaces, or the inputs of all taps are kept.

use super::flow::{Flow, Reason, Stream};
use super::realize::{Realization, realize};
use super::walk::Walker;
use super::{KernelInfo, StreamError};
use ssmc_ir::ops::{BinaryFn, Broadcast, ComplexScan, LongConv};
use ssmc_ir::{Dim, Node, Shape, ValueId, Weight, scalar};

impl Walker<'_> {
    /// A causal convolution whose kernel is the same for every piece.
    pub(super) fn long_conv(&mut self, node: &Node, op: &LongConv) -> Result<(), StreamError> {
        let with = self.along(node, 1)?;
        let (x, k) = (
            node.operands[0].expect("the operand is required"),
            node.operands[1].expect("the operand is required"),
        );
        if !op.lead.is(0) || self.stream(x).is_none() || self.stream(k).is_some() {
            return self.refuse(Reason::NoForm);
        }
        let initial = self.initial(node.operands[2])?;
        if with.lead > 0 && !(with.zeros_before && initial.is_none()) {
            return self.refuse(Reason::PaddedBefore);
        }
        let new = self.new_of(x)?;
        let new = self.masked(new, &with, 0.0)?;
        if initial.is_none()
            && !self.is_used(node.results[1])
            && let Some(channels) = self.realized(k)
        {
            let y = self.state_space(new, &channels)?;
            self.set(node.results[0], y, Flow::Stream(Stream { zeros_before: false, ..with }));
            return Ok(());
        }
        let k = self.new_of(k)?;
        let tail = self.old.ty(node.results[1]).clone();
        let before = if tail.shape[1].is(0) { None } else { Some(self.state("conv", tail, initial)?) };
        let results = self.rewriter.builder().node(op.clone(), &[Some(new), Some(k), before], Vec::new())?;
        if before.is_some() {
            self.state_becomes(results[1]);
        }
        let last = self.last(node.results[0], &with)?;
        self.set(node.results[0], results[0], Flow::Stream(with));
        self.set(node.results[1], results[1], last);
        Ok(())
    }

    /// The kernel of every channel as a state space, if all of them are one.
    fn realized(&mut self, k: ValueId) -> Option<Vec<Realization>> {
        let ty = self.old.ty(k).clone();
        let &[width, channels] = &ty.shape.as_const()?[..] else { return None };
        let (taps, n) = (usize::try_from(width).ok()?, usize::try_from(channels).ok()?);
        let data = self.evaluate(k)?.to_f64();
        // A kernel as long as the sequence says nothing of what comes after it.
        let ends = self.len.as_const() != Some(width);
        let kernel = |channel: usize| -> Vec<f64> { (0..taps).map(|t| data[t * n + channel]).collect() };
        let found: Option<Vec<Realization>> =
            (0..n).map(|channel| realize(&kernel(channel), ends, ty.dtype)).collect();
        let place = self.old.locs().describe(self.old.node(self.at).loc);
        let order = found.as_ref().map(|all| all.iter().map(Realization::order).max().unwrap_or(0));
        let residual = found.iter().flatten().map(|r| r.residual).fold(0.0, f64::max);
        self.kernels.push(KernelInfo { place, taps, order, residual });
        found
    }

    /// A convolution as a complex recurrence for every channel, and a sum over its states.
    fn state_space(&mut self, x: ValueId, channels: &[Realization]) -> Result<ValueId, StreamError> {
        let ty = self.rewriter.builder().ty(x).clone();
        let n = channels.iter().map(|c| c.poles.len()).max().unwrap_or(0).max(1);
        let e = channels.len() as i64;
        let k = self.kernels.len() - 1;
        let mut weight = |name: &str, shape: &[i64], of: &dyn Fn(&Realization, usize) -> Option<f64>| {
            let elements = channels.iter().flat_map(|c| (0..n).map(move |i| (c, i)));
            let bytes = elements.flat_map(|(c, i)| scalar::encode(ty.dtype, of(c, i).unwrap_or(0.0)));
            let ty = ty.with_shape(shape.iter().map(|d| Dim::from(*d)).collect::<Shape>());
            let name = format!("kernel.{k}.{name}");
            let value = self.rewriter.builder().weight(&name, &ty)?;
            self.new_weights.push((name, Weight { ty, bytes: bytes.collect::<Vec<u8>>().into() }));
            Ok::<_, StreamError>(value)
        };
        let (along, of_state) = ([1, 1, e, n as i64], [e, n as i64]);
        let a_re = weight("a_re", &along, &|c, i| c.poles.get(i).map(|p| p.re))?;
        let a_im = weight("a_im", &along, &|c, i| c.poles.get(i).map(|p| p.im))?;
        let c_re = weight("c_re", &of_state, &|c, i| c.weights.get(i).map(|c| c.re))?;
        let c_im = weight("c_im", &of_state, &|c, i| c.weights.get(i).map(|c| c.im))?;
        let state = ty.with_shape([ty.shape[0].clone(), ty.shape[2].clone(), (n as i64).into()]);
        let re = self.state("scan", state.clone(), None)?;
        let im = self.state("scan", state, None)?;
        let at = self.states.len() - 2;
        let b = self.rewriter.builder();
        let full: Shape = ty.shape.iter().cloned().chain([Dim::from(n as i64)]).collect();
        let x = b.op(Broadcast { axes: vec![0, 1, 2], shape: full }, &[x])?;
        let zero = b.splat(0.0, x)?;
        let operands = [a_re, a_im, x, zero, re, im].map(Some);
        let h = b.node(ComplexScan { reverse: false }, &operands, Vec::new())?;
        let y_re = b.contract("blen,en->ble", &[h[0], c_re])?;
        let y_im = b.contract("blen,en->ble", &[h[1], c_im])?;
        let y = b.binary(BinaryFn::Sub, y_re, y_im)?;
        (self.states[at].after, self.states[at + 1].after) = (h[2], h[3]);
        Ok(y)
    }
}
