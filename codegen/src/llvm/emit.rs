//! One kernel to one LLVM function.
//!
//! The function is `void(ptr bufs, ptr dims, i64 begin, i64 end)`. It loads the base address of every buffer
//! and every launch argument once, then runs the body for each block index in `begin..end`. Every register
//! lives in a stack slot of the entry block; LLVM turns the slots into values.

mod arith;
mod convert;
mod dot;
mod inst;
mod lanes;
mod memory;
mod stmt;
mod tile;

use std::collections::BTreeMap;

use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::builder::Builder;
use inkwell::context::Context;
use inkwell::intrinsics::Intrinsic;
use inkwell::module::Module;
use inkwell::types::{BasicType, BasicTypeEnum};
use inkwell::values::{
    BasicMetadataValueEnum, BasicValueEnum, CallSiteValue, FunctionValue, IntValue, PointerValue,
};
use inkwell::{AddressSpace, IntPredicate};

use super::error::{EmitError, LlvmError};
use super::types::{memory_type, register_type};
use crate::kernel::verify::{List, Path};
use crate::kernel::{Array, Kernel, Reg};
use crate::target::{CpuArch, CpuTarget};

/// Most bytes that the local arrays of a CPU kernel may take: they lie on the stack of whatever
/// thread runs the kernel.
pub const MAX_ARRAY_BYTES: u64 = 512 << 10;

/// Alignment of local arrays: that of the widest vector register.
const ARRAY_ALIGN: u32 = 64;

/// Adds `kernel` to `module` as a function of the same name.
///
/// # Errors
/// [`LlvmError::Kernel`] if the kernel holds something that CPUs do not run.
pub(super) fn emit_kernel<'ctx>(
    context: &'ctx Context,
    module: &Module<'ctx>,
    kernel: &Kernel,
    target: &CpuTarget,
) -> Result<(), LlvmError> {
    let mut path = Path::default();
    emit_function(context, module, kernel, target, &mut path).map_err(|source| LlvmError::Kernel {
        kernel: kernel.name.clone(),
        path,
        source,
    })
}

fn emit_function<'ctx>(
    context: &'ctx Context,
    module: &Module<'ctx>,
    kernel: &Kernel,
    target: &CpuTarget,
    path: &mut Path,
) -> Result<(), EmitError> {
    check_limits(kernel)?;
    let function = declare(context, module, kernel, target);
    let builder = context.create_builder();
    builder.position_at_end(context.append_basic_block(function, "entry"));
    let mut emitter = Emitter {
        context,
        module,
        kernel,
        function,
        params: load_params(context, &builder, function, kernel)?,
        dims: load_dims(context, &builder, function, kernel)?,
        locals: local_arrays(context, &builder, kernel)?,
        slots: register_slots(context, &builder, kernel)?,
        tiles: tile::registers(kernel)?,
        arch: target.level.arch(),
        builder,
        block_idx: context.i64_type().const_zero(),
        path,
    };
    emitter.block_loop()
}

fn check_limits(kernel: &Kernel) -> Result<(), EmitError> {
    if kernel.n_threads() != 1 {
        return Err(EmitError::ThreadBlock { block: kernel.block });
    }
    let bytes = kernel.locals.iter().map(|array| u64::from(array.len) * array.elem.size() as u64).sum();
    if bytes > MAX_ARRAY_BYTES {
        return Err(EmitError::ArraysTooLarge { bytes, limit: MAX_ARRAY_BYTES });
    }
    Ok(())
}

/// Creates the function with its attributes.
fn declare<'ctx>(
    context: &'ctx Context,
    module: &Module<'ctx>,
    kernel: &Kernel,
    target: &CpuTarget,
) -> FunctionValue<'ctx> {
    let pointer = context.ptr_type(AddressSpace::default());
    let int = context.i64_type();
    let ty = context.void_type().fn_type(&[pointer.into(), pointer.into(), int.into(), int.into()], false);
    let function = module.add_function(&kernel.name, ty, None);
    for (param, name) in function.get_param_iter().zip(["bufs", "dims", "begin", "end"]) {
        param.set_name(name);
    }
    let nounwind = Attribute::get_named_enum_kind_id("nounwind");
    function.add_attribute(AttributeLoc::Function, context.create_enum_attribute(nounwind, 0));
    let vector_bits = target.vector_bits.to_string();
    for (key, value) in [
        ("no-builtins", ""),
        ("target-cpu", target.llvm_cpu),
        ("target-features", target.llvm_features),
        ("prefer-vector-width", &vector_bits),
    ] {
        function.add_attribute(AttributeLoc::Function, context.create_string_attribute(key, value));
    }
    function
}

fn load_params<'ctx>(
    context: &'ctx Context,
    builder: &Builder<'ctx>,
    function: FunctionValue<'ctx>,
    kernel: &Kernel,
) -> Result<Vec<PointerValue<'ctx>>, EmitError> {
    let pointer = context.ptr_type(AddressSpace::default());
    let names = kernel.params.iter().map(|param| param.name.as_str());
    let loaded = load_table(context, builder, function, 0, pointer.into(), names)?;
    Ok(loaded.into_iter().map(BasicValueEnum::into_pointer_value).collect())
}

fn load_dims<'ctx>(
    context: &'ctx Context,
    builder: &Builder<'ctx>,
    function: FunctionValue<'ctx>,
    kernel: &Kernel,
) -> Result<Vec<IntValue<'ctx>>, EmitError> {
    let names = kernel.dims.iter().map(String::as_str);
    let loaded = load_table(context, builder, function, 1, context.i64_type().into(), names)?;
    Ok(loaded.into_iter().map(BasicValueEnum::into_int_value).collect())
}

/// Loads one value per name from the table that argument `argument` points to.
fn load_table<'ctx, 'name>(
    context: &'ctx Context,
    builder: &Builder<'ctx>,
    function: FunctionValue<'ctx>,
    argument: u32,
    ty: BasicTypeEnum<'ctx>,
    names: impl Iterator<Item = &'name str>,
) -> Result<Vec<BasicValueEnum<'ctx>>, EmitError> {
    let table =
        function.get_nth_param(argument).expect("the function has four parameters").into_pointer_value();
    names
        .zip(0u64..)
        .map(|(name, index)| {
            let index = context.i64_type().const_int(index, false);
            let address = memory::element_address(builder, ty, table, index, memory::Bounds::Inside)?;
            Ok(builder.build_load(ty, address, name)?)
        })
        .collect()
}

fn local_arrays<'ctx>(
    context: &'ctx Context,
    builder: &Builder<'ctx>,
    kernel: &Kernel,
) -> Result<Vec<PointerValue<'ctx>>, EmitError> {
    let local_array = |array: &Array| {
        let ty = memory_type(context, array.elem).array_type(array.len);
        let slot = builder.build_alloca(ty, &array.name)?;
        slot.as_instruction().expect("an alloca is an instruction").set_alignment(ARRAY_ALIGN)?;
        Ok(slot)
    };
    kernel.locals.iter().map(local_array).collect()
}

fn register_slots<'ctx>(
    context: &'ctx Context,
    builder: &Builder<'ctx>,
    kernel: &Kernel,
) -> Result<Vec<Slot<'ctx>>, EmitError> {
    let slot = |(index, info): (usize, &crate::kernel::RegInfo)| {
        let name = info.name.clone().unwrap_or_else(|| format!("r{index}"));
        // Tiles have registers of their own.
        let ty = register_type(context, info.ty).unwrap_or_else(|| context.i8_type().into());
        Ok(Slot { address: builder.build_alloca(ty, &name)?, ty, name })
    };
    kernel.regs.iter().enumerate().map(slot).collect()
}

/// Where a register lives.
struct Slot<'ctx> {
    address: PointerValue<'ctx>,
    ty: BasicTypeEnum<'ctx>,
    name: String,
}

/// The function being filled.
struct Emitter<'ctx, 'k> {
    context: &'ctx Context,
    module: &'k Module<'ctx>,
    kernel: &'k Kernel,
    function: FunctionValue<'ctx>,
    builder: Builder<'ctx>,
    params: Vec<PointerValue<'ctx>>,
    dims: Vec<IntValue<'ctx>>,
    locals: Vec<PointerValue<'ctx>>,
    slots: Vec<Slot<'ctx>>,
    /// The tile register of each register that is a tile.
    tiles: BTreeMap<Reg, u8>,
    /// Whose instructions there are.
    arch: CpuArch,
    block_idx: IntValue<'ctx>,
    /// Place of the statement being emitted.
    path: &'k mut Path,
}

impl<'ctx> Emitter<'ctx, '_> {
    /// `for block_idx in begin..end { body }`.
    fn block_loop(&mut self) -> Result<(), EmitError> {
        let kernel = self.kernel;
        let argument = |index| self.function.get_nth_param(index).expect("the function has four parameters");
        let (begin, end) = (argument(2).into_int_value(), argument(3).into_int_value());
        let entry = self.builder.get_insert_block().expect("the builder stands in the entry block");
        self.configure_tiles()?;
        let [head, body, exit] =
            ["blocks", "block", "done"].map(|name| self.context.append_basic_block(self.function, name));
        self.builder.build_unconditional_branch(head)?;

        self.builder.position_at_end(head);
        let phi = self.builder.build_phi(self.context.i64_type(), "block_idx")?;
        self.block_idx = phi.as_basic_value().into_int_value();
        let more = self.builder.build_int_compare(IntPredicate::SLT, self.block_idx, end, "more")?;
        self.builder.build_conditional_branch(more, body, exit)?;

        self.builder.position_at_end(body);
        self.statements(List::Body, &kernel.body)?;
        let one = self.context.i64_type().const_int(1, false);
        let next = self.builder.build_int_nsw_add(self.block_idx, one, "next_block")?;
        let latch = self.builder.get_insert_block().expect("the builder stands in a block");
        self.builder.build_unconditional_branch(head)?;
        phi.add_incoming(&[(&begin, entry), (&next, latch)]);

        self.builder.position_at_end(exit);
        self.release_tiles()?;
        self.builder.build_return(None)?;
        Ok(())
    }

    /// The register's current value.
    fn read(&self, reg: Reg) -> Result<BasicValueEnum<'ctx>, EmitError> {
        let slot = &self.slots[reg.0 as usize];
        Ok(self.builder.build_load(slot.ty, slot.address, &slot.name)?)
    }

    /// Assigns a register.
    fn write(&self, reg: Reg, value: BasicValueEnum<'ctx>) -> Result<(), EmitError> {
        let slot = &self.slots[reg.0 as usize];
        debug_assert_eq!(value.get_type(), slot.ty, "{}: {}", self.kernel.name, slot.name);
        self.builder.build_store(slot.address, value)?;
        Ok(())
    }

    /// The result of an intrinsic without side effects, overloaded on `types`.
    fn compute(
        &self,
        name: &'static str,
        types: &[BasicTypeEnum<'ctx>],
        args: &[BasicMetadataValueEnum<'ctx>],
    ) -> Result<BasicValueEnum<'ctx>, EmitError> {
        Ok(result_of(self.call(name, types, args)?))
    }

    /// The types that an intrinsic without overloads takes.
    fn parameter_types(&self, name: &'static str) -> Result<Vec<BasicTypeEnum<'ctx>>, EmitError> {
        let declaration =
            Intrinsic::find(name).and_then(|intrinsic| intrinsic.get_declaration(self.module, &[]));
        let declaration = declaration.ok_or(EmitError::Intrinsic { name })?;
        Ok(declaration.get_param_iter().map(|param| param.get_type()).collect())
    }

    /// Calls an intrinsic, overloaded on `types`.
    fn call(
        &self,
        name: &'static str,
        types: &[BasicTypeEnum<'ctx>],
        args: &[BasicMetadataValueEnum<'ctx>],
    ) -> Result<CallSiteValue<'ctx>, EmitError> {
        let declaration = Intrinsic::find(name)
            .and_then(|intrinsic| intrinsic.get_declaration(self.module, types))
            .ok_or(EmitError::Intrinsic { name })?;
        Ok(self.builder.build_call(declaration, args, "")?)
    }
}

/// The value that a call to an intrinsic with a result gives.
fn result_of(call: CallSiteValue<'_>) -> BasicValueEnum<'_> {
    call.try_as_basic_value().expect_basic("the intrinsic has a result")
}
