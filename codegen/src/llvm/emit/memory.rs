//! Loads and stores.
//!
//! Addresses are those of elements, so accesses are aligned to one element only. Indices are signed 64-bit
//! numbers of elements.
#![expect(unsafe_code, reason = "inkwell marks the construction of address arithmetic unsafe")]

use inkwell::IntPredicate;
use inkwell::attributes::AttributeLoc;
use inkwell::builder::Builder;
use inkwell::types::{BasicTypeEnum, VectorType};
use inkwell::values::{
    AsValueRef, BasicValue, BasicValueEnum, InstructionOpcode, IntValue, PointerValue, VectorValue,
};

use super::{Emitter, result_of};
use crate::kernel::{Elem, Mem, Reg, RegTy};
use crate::llvm::error::EmitError;
use crate::llvm::types::{memory_type, vector_of, with_lanes};
use crate::target::CpuArch;

/// Whether an address is known to lie inside its array.
#[derive(Clone, Copy)]
pub(super) enum Bounds {
    /// The element is accessed for certain, so its address lies inside.
    Inside,
    /// A mask may switch the access off; the address may then be anything.
    Unknown,
}

/// The address of element `index` of the array of `ty` at `base`.
pub(super) fn element_address<'ctx>(
    builder: &Builder<'ctx>,
    ty: BasicTypeEnum<'ctx>,
    base: PointerValue<'ctx>,
    index: IntValue<'ctx>,
    bounds: Bounds,
) -> Result<PointerValue<'ctx>, EmitError> {
    // SAFETY: the one index steps over whole elements of a sized type, as LLVM asks; `inbounds` is claimed
    // only for addresses that are accessed.
    unsafe {
        Ok(match bounds {
            Bounds::Inside => builder.build_in_bounds_gep(ty, base, &[index], "")?,
            Bounds::Unknown => builder.build_gep(ty, base, &[index], "")?,
        })
    }
}

impl<'ctx> Emitter<'ctx, '_> {
    pub(super) fn load(
        &self,
        ty: RegTy,
        mem: Mem,
        index: Reg,
        mask: Option<Reg>,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        let access = self.access(mem, ty)?;
        let index = self.read(index)?.into_int_value();
        let value = match mask {
            None => {
                let address =
                    element_address(&self.builder, access.memory, access.base, index, Bounds::Inside)?;
                let value = self.builder.build_load(access.memory_lanes(), address, "")?;
                let load = value.as_instruction_value().expect("a load is an instruction");
                load.set_alignment(access.align)?;
                value
            }
            Some(mask) => {
                let address =
                    element_address(&self.builder, access.memory, access.base, index, Bounds::Unknown)?;
                let mask = self.as_vector(self.read(mask)?)?;
                let zero = access.memory_vector().const_zero();
                let types = [access.memory_vector().into(), address.get_type().into()];
                let args = [address.into(), mask.into(), zero.into()];
                let call = self.call("llvm.masked.load", &types, &args)?;
                call.set_alignment_attribute(AttributeLoc::Param(0), access.align);
                self.scalar_if_one_lane(result_of(call).into_vector_value())?
            }
        };
        self.loaded(value, access.elem)
    }

    pub(super) fn store(&self, mem: Mem, index: Reg, src: Reg, mask: Option<Reg>) -> Result<(), EmitError> {
        let access = self.access(mem, self.kernel.ty(src))?;
        let index = self.read(index)?.into_int_value();
        let value = self.stored(self.read(src)?, &access)?;
        match mask {
            None if self.stores_wrong_bytes(&access) => self.store_lanes(&access, index, value)?,
            None => {
                let address =
                    element_address(&self.builder, access.memory, access.base, index, Bounds::Inside)?;
                self.builder.build_store(address, value)?.set_alignment(access.align)?;
            }
            Some(mask) => {
                let address =
                    element_address(&self.builder, access.memory, access.base, index, Bounds::Unknown)?;
                let mask = self.as_vector(self.read(mask)?)?;
                self.store_masked(&access, address, self.as_vector(value)?, mask)?;
            }
        }
        Ok(())
    }

    /// Whether LLVM 22 gets a store wrong: for aarch64 it takes three bytes that were truncated from 64 bits from other
    /// lanes than it should.
    fn stores_wrong_bytes(&self, access: &Access<'ctx>) -> bool {
        self.arch == CpuArch::Aarch64 && access.elem.size() == 1 && access.lanes == 3
    }

    /// Stores lane after lane.
    fn store_lanes(
        &self,
        access: &Access<'ctx>,
        index: IntValue<'ctx>,
        value: BasicValueEnum<'ctx>,
    ) -> Result<(), EmitError> {
        for lane in 0..access.lanes {
            let offset = self.context.i64_type().const_int(lane.into(), false);
            let at = self.builder.build_int_add(index, offset, "")?;
            let address = element_address(&self.builder, access.memory, access.base, at, Bounds::Inside)?;
            let value = self.extract(value, lane)?;
            self.builder.build_store(address, value)?.set_alignment(access.align)?;
        }
        Ok(())
    }

    /// Stores the lanes of `value` that `mask` has to consecutive elements.
    ///
    /// LLVM 22 turns a masked store of truncated integers with one lane in a constant mask into a store of the wide
    /// integer, over the elements beside it. As floats of their width integers are not truncated; bytes, which have
    /// none, are scattered.
    fn store_masked(
        &self,
        access: &Access<'ctx>,
        address: PointerValue<'ctx>,
        value: VectorValue<'ctx>,
        mask: VectorValue<'ctx>,
    ) -> Result<(), EmitError> {
        let float = match access.elem.size() {
            1 => return self.scatter_bytes(access, address, value, mask),
            2 => self.context.f16_type(),
            4 => self.context.f32_type(),
            _ => self.context.f64_type(),
        };
        let ty = vector_of(float.into(), access.lanes);
        let value = self.builder.build_bit_cast(value, ty, "")?;
        let types = [ty.into(), address.get_type().into()];
        let call = self.call("llvm.masked.store", &types, &[value.into(), address.into(), mask.into()])?;
        call.set_alignment_attribute(AttributeLoc::Param(1), access.align);
        Ok(())
    }

    fn scatter_bytes(
        &self,
        access: &Access<'ctx>,
        address: PointerValue<'ctx>,
        value: VectorValue<'ctx>,
        mask: VectorValue<'ctx>,
    ) -> Result<(), EmitError> {
        let lanes: Vec<_> =
            (0..access.lanes).map(|lane| self.context.i64_type().const_int(lane.into(), false)).collect();
        let addresses = self.addresses(access, address, VectorType::const_vector(&lanes))?;
        let types = [access.memory_vector().into(), addresses.get_type().into()];
        let call =
            self.call("llvm.masked.scatter", &types, &[value.into(), addresses.into(), mask.into()])?;
        call.set_alignment_attribute(AttributeLoc::Param(1), access.align);
        Ok(())
    }

    pub(super) fn gather(
        &self,
        ty: RegTy,
        mem: Mem,
        index: Reg,
        mask: Option<Reg>,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        let access = self.access(mem, ty)?;
        let addresses = self.element_addresses(&access, index)?;
        let mask = self.mask_or_all(mask, access.lanes)?;
        let types = [access.memory_vector().into(), addresses.get_type().into()];
        let zero = access.memory_vector().const_zero();
        let call = self.call("llvm.masked.gather", &types, &[addresses.into(), mask.into(), zero.into()])?;
        call.set_alignment_attribute(AttributeLoc::Param(0), access.align);
        let value = self.scalar_if_one_lane(result_of(call).into_vector_value())?;
        self.loaded(value, access.elem)
    }

    pub(super) fn scatter(&self, mem: Mem, index: Reg, src: Reg, mask: Option<Reg>) -> Result<(), EmitError> {
        let access = self.access(mem, self.kernel.ty(src))?;
        let addresses = self.element_addresses(&access, index)?;
        let mask = self.mask_or_all(mask, access.lanes)?;
        let value = self.as_vector(self.stored(self.read(src)?, &access)?)?;
        let types = [access.memory_vector().into(), addresses.get_type().into()];
        let call =
            self.call("llvm.masked.scatter", &types, &[value.into(), addresses.into(), mask.into()])?;
        call.set_alignment_attribute(AttributeLoc::Param(1), access.align);
        Ok(())
    }

    /// The addresses of the elements whose indices are the lanes of `index`.
    fn element_addresses(&self, access: &Access<'ctx>, index: Reg) -> Result<VectorValue<'ctx>, EmitError> {
        self.addresses(access, access.base, self.as_vector(self.read(index)?)?)
    }

    /// The addresses of the elements `index` of the array at `base`.
    fn addresses(
        &self,
        access: &Access<'ctx>,
        base: PointerValue<'ctx>,
        index: VectorValue<'ctx>,
    ) -> Result<VectorValue<'ctx>, EmitError> {
        // SAFETY: LLVM's address instruction takes a vector of indices where it takes an index and then
        // gives a vector of addresses; inkwell's types know the scalar form only.
        unsafe {
            let index = IntValue::new(index.as_value_ref());
            let addresses = element_address(&self.builder, access.memory, base, index, Bounds::Unknown)?;
            Ok(VectorValue::new(addresses.as_value_ref()))
        }
    }

    fn mask_or_all(&self, mask: Option<Reg>, lanes: u16) -> Result<VectorValue<'ctx>, EmitError> {
        match mask {
            Some(mask) => self.as_vector(self.read(mask)?),
            None => {
                let on = self.context.bool_type().const_all_ones();
                Ok(VectorType::const_vector(&vec![on; usize::from(lanes)]))
            }
        }
    }

    /// A `bool` is a byte in memory and a bit in a register.
    fn loaded(&self, value: BasicValueEnum<'ctx>, elem: Elem) -> Result<BasicValueEnum<'ctx>, EmitError> {
        match elem {
            Elem::Bool => self.int_compare(IntPredicate::NE, value, value.get_type().const_zero()),
            _ => Ok(value),
        }
    }

    fn stored(
        &self,
        value: BasicValueEnum<'ctx>,
        access: &Access<'ctx>,
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        match access.elem {
            Elem::Bool => {
                Ok(self.builder.build_cast(InstructionOpcode::ZExt, value, access.memory_lanes(), "")?)
            }
            _ => Ok(value),
        }
    }

    /// The address of an element, and its size in bytes.
    pub(super) fn element(
        &self,
        mem: Mem,
        index: IntValue<'ctx>,
    ) -> Result<(PointerValue<'ctx>, usize), EmitError> {
        let access = self.access(mem, RegTy::scalar(self.kernel.mem_elem(mem)))?;
        let address = element_address(&self.builder, access.memory, access.base, index, Bounds::Inside)?;
        Ok((address, access.elem.size()))
    }

    fn access(&self, mem: Mem, ty: RegTy) -> Result<Access<'ctx>, EmitError> {
        let elem = ty.elem();
        let base = match mem {
            Mem::Param(id) => self.params[id.0 as usize],
            Mem::Shared(_) => return Err(EmitError::SharedMemory),
            Mem::Local(id) => self.locals[id.0 as usize],
        };
        Ok(Access {
            base,
            elem,
            lanes: ty.lanes().expect("tiles are rejected when the registers get their slots"),
            memory: memory_type(self.context, elem),
            align: u32::try_from(elem.size()).expect("an element has at most eight bytes"),
        })
    }
}

/// What an access to one array has to know.
struct Access<'ctx> {
    base: PointerValue<'ctx>,
    elem: Elem,
    lanes: u16,
    /// LLVM type of one element in memory.
    memory: BasicTypeEnum<'ctx>,
    /// Bytes that the address is a multiple of.
    align: u32,
}

impl<'ctx> Access<'ctx> {
    fn memory_lanes(&self) -> BasicTypeEnum<'ctx> {
        with_lanes(self.memory, self.lanes)
    }

    fn memory_vector(&self) -> VectorType<'ctx> {
        vector_of(self.memory, self.lanes)
    }
}
