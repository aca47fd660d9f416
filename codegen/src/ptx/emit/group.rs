//! Products of warp groups: both factors in shared memory, in rows of 128 bytes whose words are swizzled.

use super::Emitter;
use crate::kernel::{Mem, Reg};
use crate::ptx::isa::*;

/// Bits of a shared address that a descriptor holds.
const ADDRESS: i64 = 0x3ffff;

/// A matrix descriptor but for its address: eight rows are 1024 bytes apart from the next eight (in words of 16 bytes,
/// from bit 32), rows of 128 bytes are swizzled (1 from bit 62). The third field, from bit 16, is not looked at for
/// swizzled rows.
const DESCRIPTOR: i64 = 1 << 62 | (1024 / 16) << 32 | 1 << 16;

/// Words of 16 bytes between steps of 16 elements.
const STEP: i64 = 2;

impl Emitter<'_> {
    pub(super) fn group_mma(&mut self, acc: Reg, factors: [(Mem, Reg); 2], steps: u16) {
        let ty = super::arith(self.kernel.mem_elem(factors[0].0));
        let acc = self.vars(acc);
        let [a, b] = factors.map(|(mem, index)| self.descriptor(mem, index));
        let always = self.var(Class::Pred);
        self.push(Inst::SetPred {
            op: crate::kernel::CompareOp::Eq,
            ty: Ty::S64,
            dst: always,
            a: a.into(),
            b: a.into(),
        });
        self.push(Inst::GroupFence);
        for step in 0..i64::from(steps) {
            let [a, b] = [a, b].map(|first| match step {
                0 => first,
                _ => {
                    let at = self.var(Class::B64);
                    self.binary(Binary::Add, Ty::S64, at, first, Src::Int(step * STEP));
                    at
                }
            });
            self.push(Inst::GroupMma { ty, acc: acc.clone(), a, b, always });
        }
        self.push(Inst::GroupCommit);
    }

    fn descriptor(&mut self, mem: Mem, index: Reg) -> Var {
        let ((_, base), index) = (self.array(mem), self.scalar(index));
        let size = self.kernel.mem_elem(mem).size();
        let (bytes, address, field, descriptor) =
            (self.var(Class::B64), self.var(Class::B64), self.var(Class::B64), self.var(Class::B64));
        self.binary(Binary::Shl, Ty::B64, bytes, index, Src::Int(size.trailing_zeros().into()));
        self.binary(Binary::Add, Ty::S64, address, base, bytes);
        self.binary(Binary::And, Ty::B64, field, address, Src::Int(ADDRESS));
        self.binary(Binary::Shr, Ty::U64, field, field, Src::Int(4));
        self.binary(Binary::Or, Ty::B64, descriptor, field, Src::Int(DESCRIPTOR));
        descriptor
    }
}
