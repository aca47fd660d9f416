//! Loads, stores and asynchronous copies.

use super::{Emitter, class};
use crate::kernel::{CompareOp, Elem, Mem, Reg};
use crate::ptx::arrays::SWIZZLED_ALIGN;
use crate::ptx::isa::*;

/// Most bytes of one access.
const WIDEST: usize = 16;

/// The suffix of an access to one element, as it lies in memory.
fn memory(elem: Elem) -> Ty {
    match elem {
        Elem::Bool | Elem::U8 => Ty::U8,
        Elem::I8 => Ty::S8,
        Elem::I16 | Elem::U16 | Elem::F16 | Elem::Bf16 => Ty::B16,
        Elem::I32 | Elem::U32 => Ty::B32,
        Elem::I64 | Elem::U64 => Ty::B64,
        Elem::F32 => Ty::F32,
        Elem::F64 => Ty::F64,
    }
}

impl Emitter<'_> {
    /// The address of element `index` of an array.
    pub(super) fn element(&mut self, mem: Mem, index: Var) -> (Space, Address) {
        let (space, base) = self.array(mem);
        let size = self.kernel.mem_elem(mem).size();
        if self.is_swizzled(mem) {
            return (space, self.swizzled(base, index, size));
        }
        (space, self.linear(base, index, size))
    }

    pub(super) fn is_swizzled(&self, mem: Mem) -> bool {
        matches!(mem, Mem::Shared(id) if self.kernel.shared[id.0 as usize].swizzled)
    }

    /// base + index * size, with the words of each 128 bytes in their order of memory.
    fn swizzled(&mut self, base: Var, index: Var, size: usize) -> Address {
        let (bytes, row, place, address) =
            (self.var(Class::B64), self.var(Class::B64), self.var(Class::B64), self.var(Class::B64));
        self.binary(Binary::Shl, Ty::B64, bytes, index, Src::Int(size.trailing_zeros().into()));
        self.binary(Binary::Shr, Ty::U64, row, bytes, Src::Int(3));
        self.binary(Binary::And, Ty::B64, row, row, Src::Int(0x70));
        self.binary(Binary::Xor, Ty::B64, place, bytes, row);
        self.binary(Binary::Add, Ty::S64, address, base, place);
        Address { base: address, offset: 0 }
    }

    /// The address of an element of a swizzled array. The parts of its index that move whole KiB are added after the
    /// words are swizzled, so that the rest stays the same from buffer to buffer.
    fn swizzled_at(&mut self, mem: Mem, index: Reg, beyond: i64) -> (Space, Address) {
        let (space, mut base) = self.array(mem);
        let size = self.kernel.mem_elem(mem).size();
        let period = i64::from(SWIZZLED_ALIGN) / size as i64;
        let (terms, constant) = self.offsets.terms(index);
        let constant = constant + beyond;
        let within = constant.rem_euclid(period);
        let mut rest = self.var(Class::B64);
        self.mov(rest, Src::Int(within));
        for term in terms {
            let is_whole = 1i64 << self.alignment.exponent(term).min(32) >= period;
            let (var, sum) = (self.scalar(term), self.var(Class::B64));
            if is_whole {
                base = self.linear(base, var, size).base;
            } else {
                self.binary(Binary::Add, Ty::S64, sum, rest, var);
                rest = sum;
            }
        }
        let offset = (constant - within) * size as i64;
        (space, Address { offset, ..self.swizzled(base, rest, size) })
    }

    fn linear(&mut self, base: Var, index: Var, size: usize) -> Address {
        let address = self.var(Class::B64);
        if size == 1 {
            self.binary(Binary::Add, Ty::S64, address, base, index);
        } else {
            let bytes = self.var(Class::B64);
            self.binary(Binary::Shl, Ty::B64, bytes, index, Src::Int(size.trailing_zeros().into()));
            self.binary(Binary::Add, Ty::S64, address, base, bytes);
        }
        Address { base: address, offset: 0 }
    }

    /// As [`Emitter::element`] for an index whose constant part becomes the offset of the address.
    fn element_at(&mut self, mem: Mem, index: Reg) -> (Space, Address) {
        self.element_beyond(mem, index, 0)
    }

    /// The address of element `index + beyond`.
    fn element_beyond(&mut self, mem: Mem, index: Reg, beyond: i64) -> (Space, Address) {
        if self.is_swizzled(mem) {
            return self.swizzled_at(mem, index, beyond);
        }
        let (base, constant) = self.offsets.parts(index);
        let base = self.scalar(base);
        let (space, address) = self.element(mem, base);
        (space, Address { offset: (constant + beyond) * self.kernel.mem_elem(mem).size() as i64, ..address })
    }

    /// The address of the element `i` after the one at `index`, which is at `first`.
    fn part(&mut self, mem: Mem, index: Reg, first: Address, i: usize) -> Address {
        if i > 0 && self.is_swizzled(mem) {
            return self.element_beyond(mem, index, i as i64).1;
        }
        Address { offset: first.offset + (i * self.kernel.mem_elem(mem).size()) as i64, ..first }
    }

    /// How many contiguous elements from `index` may be accessed at once: 1, 2 or 4, or 8 of two bytes.
    fn run(&self, mem: Mem, index: Reg, lanes: usize) -> usize {
        let size = self.kernel.mem_elem(mem).size();
        let aligned = size << self.alignment.exponent(index).min(4);
        let fits =
            |n: &usize| (*n <= 4 || size == 2) && lanes.is_multiple_of(*n) && n * size <= aligned.min(WIDEST);
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }

    pub(super) fn load(&mut self, dst: Reg, mem: Mem, index: Reg, mask: Option<Reg>) {
        let (elem, lanes) = (self.elem(dst), self.vars(dst));
        let run = if mask.is_none() && elem != Elem::Bool { self.run(mem, index, lanes.len()) } else { 1 };
        let mask = mask.map(|m| self.vars(m));
        let (space, first) = self.element_at(mem, index);
        for (i, part) in lanes.chunks(run).enumerate() {
            let from = self.part(mem, index, first, i * run);
            self.load_lanes((space, elem), part, from, mask.as_ref().map(|m| m[i]));
        }
    }

    /// Loads neighbors; one that a mask switches off is 0.
    fn load_lanes(&mut self, (space, elem): (Space, Elem), dst: &[Var], from: Address, mask: Option<Var>) {
        if dst.len() > 4 {
            // Two to a register.
            let words: Vec<Var> = (0..dst.len() / 2).map(|_| self.var(Class::B32)).collect();
            self.push(Inst::Load { space, ty: Ty::B32, dst: words.clone(), from });
            for (pair, word) in dst.chunks(2).zip(words) {
                self.push(Inst::Unpack { ty: Ty::B32, low: pair[0], high: pair[1], src: word });
            }
            return;
        }
        // The mask may be among the registers that are written.
        let fresh: Vec<Var> = dst
            .iter()
            .map(|d| {
                if elem == Elem::Bool {
                    self.var(Class::B16)
                } else if mask.is_some() {
                    self.var(d.class)
                } else {
                    *d
                }
            })
            .collect();
        let inst = Inst::Load { space, ty: memory(elem), dst: fresh.clone(), from };
        match mask {
            None => self.push(inst),
            Some(mask) => {
                for var in &fresh {
                    let zero = match var.class {
                        Class::F32 => Src::F32(0),
                        Class::F64 => Src::F64(0),
                        _ => Src::Int(0),
                    };
                    self.mov(*var, zero);
                }
                self.push_if((mask, true), inst);
            }
        }
        for (dst, loaded) in dst.iter().zip(fresh) {
            if elem == Elem::Bool {
                let zero = Src::Int(0);
                self.push(Inst::SetPred {
                    op: CompareOp::Ne,
                    ty: Ty::S16,
                    dst: *dst,
                    a: loaded.into(),
                    b: zero,
                });
            } else if loaded != *dst {
                self.mov(*dst, loaded);
            }
        }
    }

    pub(super) fn store(&mut self, mem: Mem, index: Reg, src: Reg, mask: Option<Reg>) {
        let (elem, lanes) = (self.elem(src), self.vars(src));
        let run = if mask.is_none() && elem != Elem::Bool { self.run(mem, index, lanes.len()) } else { 1 };
        let mask = mask.map(|m| self.vars(m));
        let (space, first) = self.element_at(mem, index);
        for (i, part) in lanes.chunks(run).enumerate() {
            let to = self.part(mem, index, first, i * run);
            self.store_lanes((space, elem), part, to, mask.as_ref().map(|m| m[i]));
        }
    }

    fn store_lanes(&mut self, (space, elem): (Space, Elem), src: &[Var], to: Address, mask: Option<Var>) {
        let src = match (elem, src) {
            (Elem::Bool, [cond]) => {
                let byte = self.var(Class::B16);
                let (on_true, on_false) = (Src::Int(1), Src::Int(0));
                self.push(Inst::Select { ty: Ty::B16, dst: byte, on_true, on_false, cond: *cond });
                vec![byte]
            }
            _ if src.len() > 4 => {
                let mut words = Vec::new();
                for pair in src.chunks(2) {
                    let word = self.var(Class::B32);
                    self.push(Inst::Pack { ty: Ty::B32, dst: word, low: pair[0], high: pair[1] });
                    words.push(word);
                }
                self.push(Inst::Store { space, ty: Ty::B32, src: words, to });
                return;
            }
            _ => src.to_vec(),
        };
        let inst = Inst::Store { space, ty: memory(elem), src, to };
        match mask {
            None => self.push(inst),
            Some(mask) => self.push_if((mask, true), inst),
        }
    }

    pub(super) fn gather(&mut self, dst: Reg, mem: Mem, index: Reg, mask: Option<Reg>) {
        let elem = self.elem(dst);
        let (dst, index, mask) = (self.vars(dst), self.vars(index), mask.map(|m| self.vars(m)));
        // A lane that is written may be the index of a later one.
        let fresh: Vec<Var> = dst.iter().map(|d| self.var(d.class)).collect();
        for i in 0..dst.len() {
            let (space, from) = self.element(mem, index[i]);
            self.load_lanes((space, elem), &fresh[i..=i], from, mask.as_ref().map(|m| m[i]));
        }
        for (dst, loaded) in dst.into_iter().zip(fresh) {
            self.mov(dst, loaded);
        }
    }

    pub(super) fn scatter(&mut self, mem: Mem, index: Reg, src: Reg, mask: Option<Reg>) {
        let elem = self.elem(src);
        let (src, index, mask) = (self.vars(src), self.vars(index), mask.map(|m| self.vars(m)));
        for i in 0..src.len() {
            let (space, to) = self.element(mem, index[i]);
            self.store_lanes((space, elem), &src[i..=i], to, mask.as_ref().map(|m| m[i]));
        }
    }

    pub(super) fn async_copy(
        &mut self,
        (dst, dst_index): (Mem, Reg),
        (src, src_index): (Mem, Reg),
        elems: u16,
        pred: Option<Reg>,
    ) {
        let size = u32::from(elems) * self.kernel.mem_elem(src).size() as u32;
        let ((_, to), (_, from)) = (self.element_at(dst, dst_index), self.element_at(src, src_index));
        let read = match pred {
            None => Src::Int(size.into()),
            Some(pred) => {
                let (read, cond) = (self.var(class(Elem::U32)), self.scalar(pred));
                let (on_true, on_false) = (Src::Int(size.into()), Src::Int(0));
                self.push(Inst::Select { ty: Ty::B32, dst: read, on_true, on_false, cond });
                read.into()
            }
        };
        self.push(Inst::AsyncCopy { to, from, size, read });
    }
}
