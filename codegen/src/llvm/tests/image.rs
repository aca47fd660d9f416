//! The object linker on LLVM IR written by hand.
#![expect(unsafe_code, reason = "tests call machine code")]

use inkwell::context::Context;
use inkwell::memory_buffer::MemoryBuffer;

use crate::emulate::EmulateError;
use crate::kernel::interp::Arg;
use crate::llvm::image::{self, CodeImage, ImageError};
use crate::llvm::machine::Machine;
use crate::target::{CpuLevel, CpuTarget};

fn link(ir: &str) -> Result<CodeImage, ImageError> {
    link_for(CpuLevel::X86_64V3, ir)
}

fn link_for(level: CpuLevel, ir: &str) -> Result<CodeImage, ImageError> {
    let context = Context::create();
    let buffer = MemoryBuffer::create_from_memory_range_copy(format!("{ir}\0").as_bytes(), "test");
    let module = context.create_module_from_ir(buffer).expect("the test's IR parses");
    let machine = Machine::new(&CpuTarget::of_level(level)).unwrap();
    machine.prepare(&module);
    machine.optimize(&module).unwrap();
    image::link(&machine.object(&module).unwrap())
}

fn rejects(ir: &str, message: &str) {
    rejects_for(CpuLevel::X86_64V3, ir, message);
}

fn rejects_for(level: CpuLevel, ir: &str, message: &str) {
    assert_eq!(link_for(level, ir).expect_err("the object is rejected").to_string(), message);
}

#[test]
fn constants_and_calls_inside_the_image_need_no_relocation() {
    let image = link(
        "define noundef float @scale(float %x) #0 {
           %y = fmul float %x, 3.5
           ret float %y
         }
         define noundef float @twice(float %x) #0 {
           %y = call float @scale(float %x)
           %z = call float @scale(float %y)
           %w = fadd float %z, 1.25
           ret float %w
         }
         attributes #0 = { noinline nounwind }",
    )
    .unwrap();
    assert_eq!(image.entries.keys().collect::<Vec<_>>(), ["scale", "twice"]);
    let code = super::harness::ExecutableImage::map(&image);
    // SAFETY: the image's function has this signature, as the IR above says.
    let twice: extern "C" fn(f32) -> f32 = unsafe { std::mem::transmute(code.entry("twice")) };
    assert_eq!(twice(2.0), 2.0 * 3.5 * 3.5 + 1.25);
}

#[test]
fn undefined_symbol_names_the_symbol_and_the_kernel() {
    rejects(
        "declare float @expf(float)
         define float @kernel(float %x) nounwind { %y = call float @expf(float %x) ret float %y }",
        "kernel `kernel` needs the symbol `expf`, which no kernel defines",
    );
}

#[test]
fn writable_data_is_rejected() {
    rejects(
        "@counter = global i32 7
         define i32 @kernel() nounwind { %y = load i32, ptr @counter ret i32 %y }",
        "section `.data` holds 4 bytes of Data, only code and read-only data can be placed",
    );
}

#[test]
fn zero_initialized_data_is_rejected() {
    rejects(
        "@counter = global [4 x i32] zeroinitializer
         define i32 @kernel() nounwind { %y = load i32, ptr @counter ret i32 %y }",
        "section `.bss` holds 16 bytes of UninitializedData, only code and read-only data can be placed",
    );
}

#[test]
fn an_absolute_address_is_rejected() {
    rejects(
        "define ptr @kernel() nounwind { %p = call ptr asm \"movabsq $$kernel, $0\", \"=r\"() ret ptr %p }",
        "`kernel` has a relocation against `kernel` that depends on the load address: Absolute of 64 bits",
    );
}

#[test]
fn a_table_of_addresses_is_rejected() {
    rejects(
        "@table = constant [1 x ptr] [ptr @kernel]
         define ptr @kernel() nounwind { ret ptr @table }",
        "section `.data.rel.ro` holds 8 bytes of Data, only code and read-only data can be placed",
    );
}

#[test]
fn a_global_offset_table_is_rejected() {
    rejects(
        "@elsewhere = external constant i32
         define i32 @kernel() nounwind { %y = load i32, ptr @elsewhere ret i32 %y }",
        "kernel `kernel` needs the symbol `elsewhere`, which no kernel defines",
    );
}

/// Constants of every size that aarch64 loads in one instruction, an address in a page, and a call.
const ARM_IR: &str = "
    @table = private constant [3 x i32] [i32 100, i32 200, i32 300]
    define float @scale(float %x) #0 {
      %y = fmul float %x, 1.3125
      ret float %y
    }
    define void @kernel(ptr %bufs, ptr %dims, i64 %begin, i64 %end) #0 {
      %buf = load ptr, ptr %bufs
      %at = load i64, ptr %dims
      %entry = getelementptr i32, ptr @table, i64 %at
      %number = load i32, ptr %entry
      %float = sitofp i32 %number to float
      %scaled = call float @scale(float %float)
      store float %scaled, ptr %buf
      %four = getelementptr float, ptr %buf, i64 1
      store <4 x float> <float 0.125, float 0.25, float 0.375, float 0.5>, ptr %four, align 4
      %six = getelementptr float, ptr %buf, i64 5
      store <2 x float> <float 0.75, float 0.875>, ptr %six, align 4
      ret void
    }
    attributes #0 = { noinline nounwind }";

#[test]
fn pages_and_calls_of_aarch64_need_no_relocation() {
    let level = CpuLevel::Aarch64;
    let image = link_for(level, ARM_IR).unwrap();
    assert_eq!(image.entries.keys().collect::<Vec<_>>(), ["kernel", "scale"]);
    assert!(image.bytes.len() < 4096);
    // Behind a gap of more than a page, places have other numbers.
    let far = "
        @gap = private constant [5000 x i8] zeroinitializer, align 1
        define ptr @gap_of() nounwind { ret ptr @gap }";
    let far = link_for(level, &format!("{far}{ARM_IR}")).unwrap();
    assert!(far.bytes.len() > 5000);
    let Some(mut emulator) = super::harness::emulator(level) else { return };
    for image in [image, far] {
        emulator.load(&image.bytes).unwrap();
        for (at, scaled) in [(0, 131.25f32), (2, 393.75)] {
            let mut buffers = [vec![0; 28]];
            emulator.run(image.entries["kernel"], &mut buffers, &[Arg::start(0)], &[at], 0..1).unwrap();
            let (found, _) = buffers[0].as_chunks::<4>();
            let found: Vec<f32> = found.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            assert_eq!(found, [scaled, 0.125, 0.25, 0.375, 0.5, 0.75, 0.875]);
        }
    }
}

#[test]
fn what_aarch64_cannot_place_is_rejected() {
    let rejects = |ir, message| rejects_for(CpuLevel::Aarch64I8mm, ir, message);
    rejects(
        "declare float @expf(float)
         define float @kernel(float %x) nounwind { %y = call float @expf(float %x) ret float %y }",
        "kernel `kernel` needs the symbol `expf`, which no kernel defines",
    );
    // Symbols that others could replace are reached through a table of addresses.
    rejects(
        "@shared = constant i32 7
         define ptr @kernel() nounwind { ret ptr @shared }",
        "`kernel` has a relocation against `shared` that depends on the load address: type 311",
    );
    rejects(
        "@table = constant [1 x ptr] [ptr @kernel]
         define ptr @kernel() nounwind { ret ptr @table }",
        "section `.data.rel.ro` holds 8 bytes of Data, only code and read-only data can be placed",
    );
}

#[test]
fn an_instruction_beyond_the_level_is_seen() {
    let level = CpuLevel::Aarch64;
    let Some(mut emulator) = super::harness::emulator(level) else { return };
    // Four bytes that are `udot v0.2s, v0.8b, v0.8b`.
    emulator.load(&0x2e80_9400u32.to_le_bytes()).unwrap();
    let error = emulator.run(0, &mut [], &[], &[], 0..1).unwrap_err();
    assert!(matches!(error, EmulateError::Ended { .. }), "{error}");
}
