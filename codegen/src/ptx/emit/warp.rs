//! Exchange among the threads of a warp.

use super::Emitter;
use crate::kernel::{CompareOp, Reg, WARP_SIZE, WarpShuffleOp};
use crate::ptx::isa::*;

impl Emitter<'_> {
    pub(super) fn warp_shuffle(&mut self, dst: Reg, op: WarpShuffleOp, src: Reg, amount: Reg) {
        let (dst, src, amount) = (self.scalar(dst), self.scalar(src), self.scalar(amount));
        let op = match op {
            WarpShuffleOp::Up => Shuffle::Up,
            WarpShuffleOp::Down => Shuffle::Down,
            WarpShuffleOp::Xor => Shuffle::Xor,
            WarpShuffleOp::Idx => Shuffle::Idx,
        };
        let received = self.var(src.class);
        self.exchange(op, received, src, amount);
        // The machine takes larger amounts modulo the warp.
        let is_inside = self.var(Class::Pred);
        let warp = Src::Int(WARP_SIZE.into());
        self.push(Inst::SetPred {
            op: CompareOp::Lt,
            ty: Ty::U32,
            dst: is_inside,
            a: amount.into(),
            b: warp,
        });
        self.choose(dst, is_inside, received, src);
    }

    /// Exchanges words of 32 bits.
    fn exchange(&mut self, op: Shuffle, dst: Var, src: Var, amount: Var) {
        match src.class {
            Class::B32 | Class::F32 => self.push(Inst::Shuffle { op, dst, src, amount }),
            Class::B64 | Class::F64 => {
                let [low, high, new_low, new_high] = [(); 4].map(|()| self.var(Class::B32));
                self.push(Inst::Unpack { ty: Ty::B64, low, high, src });
                self.push(Inst::Shuffle { op, dst: new_low, src: low, amount });
                self.push(Inst::Shuffle { op, dst: new_high, src: high, amount });
                self.push(Inst::Pack { ty: Ty::B64, dst, low: new_low, high: new_high });
            }
            Class::B16 => {
                let (word, new) = (self.var(Class::B32), self.var(Class::B32));
                self.convert((Ty::U32, Ty::U16), Rounding::None, word, src);
                self.push(Inst::Shuffle { op, dst: new, src: word, amount });
                self.convert((Ty::U16, Ty::U32), Rounding::None, dst, new);
            }
            Class::Pred => {
                let (word, new) = (self.var(Class::B32), self.var(Class::B32));
                let (on_true, on_false) = (Src::Int(1), Src::Int(0));
                self.push(Inst::Select { ty: Ty::B32, dst: word, on_true, on_false, cond: src });
                self.push(Inst::Shuffle { op, dst: new, src: word, amount });
                let zero = Src::Int(0);
                self.push(Inst::SetPred { op: CompareOp::Ne, ty: Ty::S32, dst, a: new.into(), b: zero });
            }
        }
    }
}
