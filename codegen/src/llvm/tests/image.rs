//! The object linker on LLVM IR written by hand.
#![expect(unsafe_code, reason = "tests call machine code")]

use inkwell::context::Context;
use inkwell::memory_buffer::MemoryBuffer;

use crate::llvm::image::{self, CodeImage, ImageError};
use crate::llvm::machine::Machine;
use crate::target::{CpuLevel, CpuTarget};

fn link(ir: &str) -> Result<CodeImage, ImageError> {
    let context = Context::create();
    let buffer = MemoryBuffer::create_from_memory_range_copy(format!("{ir}\0").as_bytes(), "test");
    let module = context.create_module_from_ir(buffer).expect("the test's IR parses");
    let machine = Machine::new(&CpuTarget::of_level(CpuLevel::X86_64V3)).unwrap();
    machine.prepare(&module);
    machine.optimize(&module).unwrap();
    image::link(&machine.object(&module).unwrap())
}

fn rejects(ir: &str, message: &str) {
    assert_eq!(link(ir).expect_err("the object is rejected").to_string(), message);
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
