//! Products of warp groups: both factors in shared memory, in rows of 128 bytes whose words are swizzled.

use super::Emitter;
use crate::kernel::{self, GroupLeft, Mem, Reg};
use crate::ptx::isa::*;

/// Bits of a shared address that a descriptor holds.
const ADDRESS: i64 = 0x3ffff;

/// A matrix descriptor but for its address: eight rows are 1024 bytes apart from the next eight (in words of 16 bytes,
/// from bit 32), rows of 128 bytes are swizzled (1 from bit 62). The third field, from bit 16, is not looked at for
/// swizzled rows, nor for turned factors whose rows hold all that they have beside each other.
const DESCRIPTOR: i64 = 1 << 62 | (1024 / 16) << 32 | 1 << 16;

/// Words of 16 bytes between steps of 16 elements: along a row, or from row to row of a turned factor.
const STEP: i64 = 2;
const TURNED_STEP: i64 = 16 * 128 / 16;

/// Registers of a tile for one step.
const TILE_STEP: usize = 4;

impl Emitter<'_> {
    pub(super) fn group_mma(&mut self, acc: Reg, a: GroupLeft, b: kernel::GroupFactor, steps: u16) {
        let ty = super::arith(self.kernel.mem_elem(b.mem));
        let acc = self.vars(acc);
        let tile = match a {
            GroupLeft::Shared(_) => Vec::new(),
            GroupLeft::Tile(a) => self.vars(a),
        };
        let descriptor = |e: &mut Self, factor: kernel::GroupFactor| e.descriptor(factor.mem, factor.index);
        let left = match a {
            GroupLeft::Shared(a) => Some((descriptor(self, a), a.is_turned)),
            GroupLeft::Tile(_) => None,
        };
        let right = descriptor(self, b);
        let always = self.var(Class::Pred);
        self.push(Inst::SetPred {
            op: kernel::CompareOp::Eq,
            ty: Ty::S64,
            dst: always,
            a: right.into(),
            b: right.into(),
        });
        self.push(Inst::GroupFence);
        for step in 0..steps.into() {
            let a = match left {
                Some((a, is_turned)) => GroupFactor::Shared(self.at_step(a, is_turned, step), is_turned),
                None => {
                    let first = step as usize * TILE_STEP;
                    GroupFactor::Tile([0, 1, 2, 3].map(|i| tile[first + i]))
                }
            };
            let b = (self.at_step(right, b.is_turned, step), b.is_turned);
            self.push(Inst::GroupMma { ty, acc: acc.clone(), a, b, always });
        }
        self.push(Inst::GroupCommit);
    }

    /// The descriptor of a factor's step.
    fn at_step(&mut self, first: Var, is_turned: bool, step: i64) -> Var {
        if step == 0 {
            return first;
        }
        let at = self.var(Class::B64);
        let words = step * if is_turned { TURNED_STEP } else { STEP };
        self.binary(Binary::Add, Ty::S64, at, first, Src::Int(words));
        at
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
