//! The interface between a kernel and its caller, with results computed by hand.

use super::harness::{Buffer, ExecutableImage};
use crate::kernel::{Access, Elem, Kernel, KernelBuilder, UnaryOp};
use crate::llvm::{EmitError, LlvmError, compile, emit_asm, emit_llvm_ir};
use crate::target::{CpuLevel, CpuTarget};

fn v3() -> CpuTarget {
    CpuTarget::of_level(CpuLevel::X86_64V3)
}

/// y[i] = 2 * x[i] + shift for the elements of each block, eight at a time with a masked tail.
fn affine() -> Kernel {
    let mut b = KernelBuilder::cpu("affine");
    let x = b.param("x", Elem::F32, Access::Read);
    let y = b.param("y", Elem::F32, Access::Write);
    let len = b.dim("len");
    let shift = b.dim("shift");
    let block = b.block_idx();
    let start = b.mul(block, 8);
    let left = b.sub(len, start);
    let mask = b.lane_mask(left, 8);
    let value = b.load_masked(x, start, 8, mask);
    let shift = b.cast(shift, Elem::F32);
    let shift = b.splat(shift, 8);
    let value = b.fma(value, 2.0, shift);
    b.store_masked(y, start, value, mask);
    b.finish()
}

#[test]
fn blocks_dims_and_buffers_arrive() {
    let code = ExecutableImage::map(&compile(&[affine()], &v3()).unwrap());
    let mut buffers = [Buffer::f32((0..21).map(|i| i as f32)), Buffer::f32([-1.0; 21])];
    code.run("affine", &mut buffers, &[21, 5], 1, 3);
    let expected = (0..21).map(|i| if i < 8 { -1.0 } else { 2.0 * i as f32 + 5.0 });
    assert_eq!(buffers[1], Buffer::f32(expected));
}

#[test]
fn an_empty_range_does_nothing() {
    let code = ExecutableImage::map(&compile(&[affine()], &v3()).unwrap());
    let mut buffers = [Buffer::f32([1.0; 8]), Buffer::f32([-1.0; 8])];
    code.run("affine", &mut buffers, &[8, 0], 1, 1);
    code.run("affine", &mut buffers, &[8, 0], 2, 0);
    assert_eq!(buffers[1], Buffer::f32([-1.0; 8]));
}

#[test]
fn kernels_share_an_image_and_the_output_repeats() {
    let kernels = ["first", "second"].map(|name| Kernel { name: name.to_owned(), ..affine() });
    let image = compile(&kernels, &v3()).unwrap();
    assert_eq!(image.entries.keys().collect::<Vec<_>>(), ["first", "second"]);
    assert_eq!(image, compile(&kernels, &v3()).unwrap());
    assert_eq!(emit_llvm_ir(&kernels, &v3()).unwrap(), emit_llvm_ir(&kernels, &v3()).unwrap());
}

#[test]
fn the_llvm_ir_of_a_small_kernel() {
    let ir = emit_llvm_ir(&[affine()], &v3()).unwrap();
    let start = ir.find("define").expect("the module has a function");
    let end = ir.find("\n}").expect("the function ends") + 2;
    insta::assert_snapshot!(&ir[start..end], @r"
    define void @affine(ptr %bufs, ptr %dims, i64 %begin, i64 %end) #0 {
    entry:
      %x = load ptr, ptr %bufs, align 8
      %0 = getelementptr inbounds nuw i8, ptr %bufs, i64 8
      %y = load ptr, ptr %0, align 8
      %len = load i64, ptr %dims, align 8
      %more22 = icmp slt i64 %begin, %end
      br i1 %more22, label %block.lr.ph, label %done

    block.lr.ph:                                      ; preds = %entry
      %1 = getelementptr inbounds nuw i8, ptr %dims, i64 8
      %shift = load i64, ptr %1, align 8
      %2 = sitofp i64 %shift to float
      %3 = insertelement <8 x float> poison, float %2, i64 0
      %4 = shufflevector <8 x float> %3, <8 x float> poison, <8 x i32> zeroinitializer
      br label %block

    block:                                            ; preds = %block.lr.ph, %block
      %block_idx23 = phi i64 [ %begin, %block.lr.ph ], [ %next_block, %block ]
      %5 = shl i64 %block_idx23, 3
      %6 = sub i64 %len, %5
      %7 = insertelement <8 x i64> poison, i64 %6, i64 0
      %8 = shufflevector <8 x i64> %7, <8 x i64> poison, <8 x i32> zeroinitializer
      %9 = icmp sgt <8 x i64> %8, <i64 0, i64 1, i64 2, i64 3, i64 4, i64 5, i64 6, i64 7>
      %10 = getelementptr float, ptr %x, i64 %5
      %11 = call <8 x float> @llvm.masked.load.v8f32.p0(ptr align 4 %10, <8 x i1> %9, <8 x float> zeroinitializer)
      %12 = call <8 x float> @llvm.fma.v8f32(<8 x float> %11, <8 x float> splat (float 2.000000e+00), <8 x float> %4)
      %13 = getelementptr float, ptr %y, i64 %5
      call void @llvm.masked.store.v8f32.p0(<8 x float> %12, ptr align 4 %13, <8 x i1> %9)
      %next_block = add nsw i64 %block_idx23, 1
      %more = icmp slt i64 %next_block, %end
      br i1 %more, label %block, label %done

    done:                                             ; preds = %block, %entry
      ret void
    }
    ");
}

#[test]
fn texts_hold_what_was_asked_for() {
    let ir = emit_llvm_ir(&[affine()], &v3()).unwrap();
    assert!(
        ir.contains("@llvm.fma.v8f32") && ir.contains("\"no-builtins\"") && !ir.contains(" fast "),
        "{ir}"
    );
    let asm = emit_asm(&[affine()], &v3()).unwrap();
    assert!(asm.contains("vfmadd") && asm.contains("%ymm") && !asm.contains("%zmm"), "{asm}");
}

#[test]
fn wide_vectors_use_wide_registers() {
    let mut b = KernelBuilder::cpu("wide");
    let x = b.param("x", Elem::F32, Access::ReadWrite);
    let value = b.load(x, 0, 16);
    let value = b.unary(UnaryOp::Sqrt, value);
    b.store(x, 0, value);
    let asm = emit_asm(&[b.finish()], &CpuTarget::of_level(CpuLevel::X86_64V4)).unwrap();
    assert!(asm.contains("vsqrtps") && asm.contains("%zmm"), "{asm}");
}

#[test]
fn a_level_without_fma_names_the_missing_symbol() {
    let mut b = KernelBuilder::cpu("scalar_fma");
    let x = b.param("x", Elem::F32, Access::ReadWrite);
    let value = b.load(x, 0, 1);
    let value = b.fma(value, value, value);
    b.store(x, 0, value);
    let error = compile(&[b.finish()], &CpuTarget::of_level(CpuLevel::X86_64V2)).unwrap_err();
    let LlvmError::Image(error) = error else { panic!("{error:?}") };
    assert_eq!(error.to_string(), "kernel `scalar_fma` needs the symbol `fmaf`, which no kernel defines");
}

#[test]
fn two_kernels_of_one_name_are_rejected() {
    let error = compile(&[affine(), affine()], &v3()).unwrap_err();
    assert_eq!(error.to_string(), "two kernels are named `affine`");
}

fn rejects(kernel: Kernel, place: &str, message: &str) {
    let LlvmError::Kernel { kernel: _, path, source } = compile(&[kernel], &v3()).unwrap_err() else {
        panic!("the kernel is rejected by the emitter");
    };
    assert_eq!((path.to_string().as_str(), source.to_string().as_str()), (place, message));
}

#[test]
fn kernels_that_the_verifier_rejects_are_rejected() {
    let mut kernel = affine();
    kernel.params[1].access = Access::Read;
    let LlvmError::Invalid { kernel, faults } = compile(&[kernel], &v3()).unwrap_err() else {
        panic!("the kernel is rejected by the verifier");
    };
    assert_eq!((kernel.as_str(), faults.len()), ("affine", 1));
}

#[test]
fn thread_blocks_are_rejected() {
    let kernel = Kernel { block: [32, 2, 1], ..affine() };
    rejects(kernel, "kernel", "a block has 32 x 2 x 1 threads, on CPUs it has one");
}

#[test]
fn large_arrays_are_rejected() {
    let mut b = KernelBuilder::cpu("large");
    b.local("scratch", Elem::F64, 1 << 17);
    rejects(b.finish(), "kernel", "local arrays take 1048576 bytes, the limit is 524288");
}

#[test]
fn functions_that_legalization_replaces_are_rejected_with_their_place() {
    let mut b = KernelBuilder::cpu("exp");
    let x = b.param("x", Elem::F32, Access::ReadWrite);
    b.for_("i", 0, 4, 1, |b, i| {
        let value = b.load(x, i, 1);
        let value = b.exp(value);
        b.store(x, i, value);
    });
    let LlvmError::Kernel { kernel, path, source } = compile(&[b.finish()], &v3()).unwrap_err() else {
        panic!("the kernel is rejected by the emitter");
    };
    assert_eq!(kernel, "exp");
    assert!(path.to_string().ends_with(".for[1]"), "{path}");
    assert!(matches!(source, EmitError::Unsupported { .. }), "{source}");
}
