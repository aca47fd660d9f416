//! Rows of a weight that lies packed for a product: a table is stored once, though it is looked up and multiplied with.

use super::{Cx, Work};
use crate::assemble::{PANEL, Packing};
use crate::kernel::{Elem, KernelBuilder, Reg};
use crate::lower::index::Idx;
use crate::lower::{LowerError, matmul};
use ssmc_ir::ValueId;
use ssmc_ir::ops::Op;

impl Cx<'_> {
    /// Remembers how products have the weight packed whose rows a lookup along `axis` of `table` takes.
    pub(super) fn find_packing(&mut self, b: &KernelBuilder, table: ValueId, axis: usize) {
        // Blocks of threads read weights as they are.
        if axis != 0 || self.work != Work::Vectors || b.n_threads() > 1 {
            return;
        }
        let mut weight = table;
        while let Some(node) = self.graph.def_node(weight).filter(|_| self.is_inside(weight)) {
            match (&node.op, node.operands.first().copied().flatten()) {
                (Op::Cast(_) | Op::Dequantize(_), Some(x)) => weight = x,
                _ => return,
            }
        }
        // Half bytes are not taken apart here.
        let packing = matmul::packing_of_rows(self.graph, weight);
        if let Some(packing) = packing.filter(|p| !matches!(p, Packing::Quads { bits: 4, .. })) {
            self.packed.insert(weight, packing);
        }
    }

    /// The element of a packed weight of two axes, the second of which is summed.
    pub(super) fn load_packed(
        &mut self,
        b: &mut KernelBuilder,
        value: ValueId,
        packing: &Packing,
        idx: &[Idx],
    ) -> Result<Reg, LowerError> {
        let is_bytes = matches!(packing, Packing::Quads { .. });
        let param = match self.params.get(&value) {
            Some(param) => *param,
            None if is_bytes => self.packed_bytes(b, value, packing.clone()),
            None => self.packed_param(b, value, packing.clone())?,
        };
        self.params.insert(value, param);
        let beside = b.const_i64(packing.beside());
        let k = self.dim(b, &self.graph.ty(value).shape[1]);
        let panel = b.const_i64(PANEL);
        let rounded_up = b.add(k, packing.beside() - 1);
        let groups = b.div(rounded_up, beside);
        let mut ib = self.index(b);
        let (panel_idx, column) = ib.div_rem(idx[0], panel);
        let (group, place) = ib.div_rem(idx[1], beside);
        let mut at = ib.mul(panel_idx, groups);
        for (next, extent) in [(group, panel), (column, beside), (place, ib.b.const_i64(1))] {
            at = ib.add(at, next);
            at = ib.mul(at, extent);
        }
        let x = match at {
            Idx::Uniform(at) => b.load(param, at, 1),
            at => {
                let at = self.index(b).vector(at);
                b.gather(param, at, self.mask)
            }
        };
        // Bytes have 128 added.
        Ok(if is_bytes {
            let x = b.xor(x, 0x80);
            b.bitcast(x, Elem::I8)
        } else {
            x
        })
    }
}
