//! A toy artefact whose kernels are hand-assembled x86-64 machine code.
//!
//! The model is `h[t] = 2*h[t-1] + x[t]`, `logits[t] = h[t]` in wrapping 32-bit integers, with a vocabulary
//! of one. Its value depends on the order of all tokens, so that a lost or doubled token shows.

use std::path::PathBuf;

use ssmc_artifact::*;
use ssmc_runtime::{Artifact, Session, SessionOptions};
use tempfile::TempDir;

/// Buffers x, h0, y, h_last of i32; dims len, y_row, y_step. Block b, with h = h0[b]:
/// for t in 0..len { h = 2*h + x[b*len + t]; y[b*y_row + t*y_step] = h }, then h_last[b] = h.
#[rustfmt::skip]
const SCAN: &[u8] = &[
    0x48, 0x39, 0xca,                                 // 0x00: cmp rdx,rcx
    0x7d, 0x56,                                       // 0x03: jge 0x5b
    0x4c, 0x8b, 0x07,                                 // 0x05: mov r8,QWORD PTR [rdi]
    0x48, 0x8b, 0x06,                                 // 0x08: mov rax,QWORD PTR [rsi]
    0x48, 0x0f, 0xaf, 0xc2,                           // 0x0b: imul rax,rdx
    0x4d, 0x8d, 0x04, 0x80,                           // 0x0f: lea r8,[r8+rax*4]
    0x4c, 0x8b, 0x4f, 0x10,                           // 0x13: mov r9,QWORD PTR [rdi+0x10]
    0x48, 0x8b, 0x46, 0x08,                           // 0x17: mov rax,QWORD PTR [rsi+0x8]
    0x48, 0x0f, 0xaf, 0xc2,                           // 0x1b: imul rax,rdx
    0x4d, 0x8d, 0x0c, 0x81,                           // 0x1f: lea r9,[r9+rax*4]
    0x48, 0x8b, 0x47, 0x08,                           // 0x23: mov rax,QWORD PTR [rdi+0x8]
    0x8b, 0x04, 0x90,                                 // 0x27: mov eax,DWORD PTR [rax+rdx*4]
    0x4c, 0x8b, 0x16,                                 // 0x2a: mov r10,QWORD PTR [rsi]
    0x4c, 0x8b, 0x5e, 0x10,                           // 0x2d: mov r11,QWORD PTR [rsi+0x10]
    0x4d, 0x85, 0xd2,                                 // 0x31: test r10,r10
    0x74, 0x15,                                       // 0x34: je 0x4b
    0x01, 0xc0,                                       // 0x36: add eax,eax
    0x41, 0x03, 0x00,                                 // 0x38: add eax,DWORD PTR [r8]
    0x41, 0x89, 0x01,                                 // 0x3b: mov DWORD PTR [r9],eax
    0x49, 0x83, 0xc0, 0x04,                           // 0x3e: add r8,0x4
    0x4f, 0x8d, 0x0c, 0x99,                           // 0x42: lea r9,[r9+r11*4]
    0x49, 0xff, 0xca,                                 // 0x46: dec r10
    0xeb, 0xe6,                                       // 0x49: jmp 0x31
    0x4c, 0x8b, 0x57, 0x18,                           // 0x4b: mov r10,QWORD PTR [rdi+0x18]
    0x41, 0x89, 0x04, 0x92,                           // 0x4f: mov DWORD PTR [r10+rdx*4],eax
    0x48, 0xff, 0xc2,                                 // 0x53: inc rdx
    0x48, 0x39, 0xca,                                 // 0x56: cmp rdx,rcx
    0x7c, 0xaa,                                       // 0x59: jl 0x5
    0xc3,                                             // 0x5b: ret
];

/// Buffers x, seq_idx, y of i32; dims len. One block: the same recurrence, h = 0 where seq_idx changes.
#[rustfmt::skip]
const PACKED: &[u8] = &[
    0x48, 0x39, 0xca,                                 // 0x00: cmp rdx,rcx
    0x7d, 0x38,                                       // 0x03: jge 0x3d
    0x4c, 0x8b, 0x07,                                 // 0x05: mov r8,QWORD PTR [rdi]
    0x4c, 0x8b, 0x4f, 0x08,                           // 0x08: mov r9,QWORD PTR [rdi+0x8]
    0x4c, 0x8b, 0x57, 0x10,                           // 0x0c: mov r10,QWORD PTR [rdi+0x10]
    0x48, 0x8b, 0x0e,                                 // 0x10: mov rcx,QWORD PTR [rsi]
    0x31, 0xd2,                                       // 0x13: xor edx,edx
    0x31, 0xc0,                                       // 0x15: xor eax,eax
    0x41, 0xbb, 0xff, 0xff, 0xff, 0xff,               // 0x17: mov r11d,0xffffffff
    0x48, 0x39, 0xca,                                 // 0x1d: cmp rdx,rcx
    0x7d, 0x1b,                                       // 0x20: jge 0x3d
    0x45, 0x3b, 0x1c, 0x91,                           // 0x22: cmp r11d,DWORD PTR [r9+rdx*4]
    0x74, 0x06,                                       // 0x26: je 0x2e
    0x45, 0x8b, 0x1c, 0x91,                           // 0x28: mov r11d,DWORD PTR [r9+rdx*4]
    0x31, 0xc0,                                       // 0x2c: xor eax,eax
    0x01, 0xc0,                                       // 0x2e: add eax,eax
    0x41, 0x03, 0x04, 0x90,                           // 0x30: add eax,DWORD PTR [r8+rdx*4]
    0x41, 0x89, 0x04, 0x92,                           // 0x34: mov DWORD PTR [r10+rdx*4],eax
    0x48, 0xff, 0xc2,                                 // 0x38: inc rdx
    0xeb, 0xe0,                                       // 0x3b: jmp 0x1d
    0xc3,                                             // 0x3d: ret
];

/// Buffers a, b, y of f32; dims n. Block i: y[k] = a[k] + b[k] for k in 16*i..min(16*i + 16, n).
#[rustfmt::skip]
const ADD: &[u8] = &[
    0x48, 0x8b, 0x06,                                 // 0x00: mov rax,QWORD PTR [rsi]
    0x48, 0xc1, 0xe2, 0x04,                           // 0x03: shl rdx,0x4
    0x48, 0xc1, 0xe1, 0x04,                           // 0x07: shl rcx,0x4
    0x48, 0x39, 0xc1,                                 // 0x0b: cmp rcx,rax
    0x48, 0x0f, 0x4f, 0xc8,                           // 0x0e: cmovg rcx,rax
    0x4c, 0x8b, 0x07,                                 // 0x12: mov r8,QWORD PTR [rdi]
    0x4c, 0x8b, 0x4f, 0x08,                           // 0x15: mov r9,QWORD PTR [rdi+0x8]
    0x4c, 0x8b, 0x57, 0x10,                           // 0x19: mov r10,QWORD PTR [rdi+0x10]
    0x48, 0x39, 0xca,                                 // 0x1d: cmp rdx,rcx
    0x7d, 0x17,                                       // 0x20: jge 0x39
    0xf3, 0x41, 0x0f, 0x10, 0x04, 0x90,               // 0x22: movss xmm0,DWORD PTR [r8+rdx*4]
    0xf3, 0x41, 0x0f, 0x58, 0x04, 0x91,               // 0x28: addss xmm0,DWORD PTR [r9+rdx*4]
    0xf3, 0x41, 0x0f, 0x11, 0x04, 0x92,               // 0x2e: movss DWORD PTR [r10+rdx*4],xmm0
    0x48, 0xff, 0xc2,                                 // 0x34: inc rdx
    0xeb, 0xe4,                                       // 0x37: jmp 0x1d
    0xc3,                                             // 0x39: ret
];

pub(crate) const MODEL_HASH: [u8; 32] = [0xab; 32];
/// What the program `add_weight` adds: k for k in 0..40.
pub(crate) const N_WEIGHT: usize = 40;

const BATCH: u32 = 0;
const SEQ_LEN: u32 = 1;
const N: u32 = 2;

/// The recurrence in Rust, from `h`.
pub(crate) fn scan_ref(mut h: i32, ids: &[u32]) -> Vec<i32> {
    let step = |&id: &u32| {
        h = h.wrapping_mul(2).wrapping_add(id as i32);
        h
    };
    ids.iter().map(step).collect()
}

fn symbol(name: &str, max: i64, role: SymbolRole) -> Symbol {
    Symbol { name: name.into(), min: 1, max, divisibility: 1, role: role.into() }
}

fn info(name: &str, dtype: DType, shape: Vec<Expr>) -> TensorInfo {
    TensorInfo { name: name.into(), dtype: dtype.into(), shape, min_value: None, max_value: None }
}

fn ids(shape: Vec<Expr>) -> TensorInfo {
    TensorInfo { min_value: Some(0), max_value: Some(999), ..info("input_ids", DType::I32, shape) }
}

fn logits(shape: Vec<Expr>) -> TensorInfo {
    info("logits", DType::I32, shape)
}

fn kernel(name: &str, entry: usize, dtype: DType, params: &[(&str, Access)], dims: &[&str]) -> Kernel {
    let param = |&(name, access): &(&str, Access)| KernelParam {
        name: name.into(),
        dtype: dtype.into(),
        access: access.into(),
    };
    Kernel {
        name: name.into(),
        entries: vec![entry as u64; 2],
        params: params.iter().map(param).collect(),
        dim_names: dims.iter().map(|&dim| dim.into()).collect(),
        block: vec![1, 1, 1],
        text_hash: vec![],
        dynamic_shared_bytes: 0,
    }
}

fn arg(kind: BufferKind, index: u32) -> BufferRef {
    BufferRef { kind: kind.into(), index, byte_offset: None }
}

fn launch(kernel: u32, grid: Expr, dims: Vec<Expr>, args: Vec<BufferRef>) -> Launch {
    Launch {
        kernel,
        grid: Some(grid.clone()),
        dims: dims.clone(),
        args,
        locations: vec![format!("toy: kernel {kernel}")],
        flops: Some(dims[0].clone() * grid * 2.into()),
        recurrence: if kernel < 2 { "diag".into() } else { String::new() },
        ..Launch::default()
    }
}

fn scan_launch(len: Expr, y: [Expr; 2], h0: BufferRef, h_last: BufferRef) -> Launch {
    let args = vec![arg(BufferKind::Input, 0), h0, arg(BufferKind::Output, 0), h_last];
    let [y_row, y_step] = y;
    launch(0, Expr::symbol(BATCH), vec![len, y_row, y_step], args)
}

/// Updates the state `h`; with `total`, also the state `total` that is updated in place.
fn stateful(name: &str, input: TensorInfo, len: Expr, total: bool) -> Program {
    let state = |kind, index| arg(kind, index);
    let mut launches = vec![scan_launch(
        len.clone(),
        [1.into(), 0.into()],
        state(BufferKind::StateIn, 0),
        state(BufferKind::StateOut, 0),
    )];
    if total {
        let in_place = state(BufferKind::StateOut, 1);
        launches.push(scan_launch(len, [1.into(), 0.into()], in_place.clone(), in_place));
    }
    Program {
        name: name.into(),
        inputs: vec![input],
        outputs: vec![logits(vec![Expr::symbol(BATCH), 1.into()])],
        launches,
        stateful: true,
        ..Program::default()
    }
}

fn programs() -> Vec<Program> {
    let batch = || Expr::symbol(BATCH);
    let seq_len = || Expr::symbol(SEQ_LEN);
    let n = || Expr::symbol(N);
    let forward = Program {
        name: "forward".into(),
        inputs: vec![ids(vec![batch(), seq_len()])],
        outputs: vec![logits(vec![batch(), seq_len(), 1.into()])],
        slots: vec![
            Slot { size_bytes: Some(seq_len() * 4.into()) },
            Slot { size_bytes: Some(batch() * 4.into()) },
        ],
        launches: vec![scan_launch(
            seq_len(),
            [seq_len(), 1.into()],
            arg(BufferKind::Weight, 1),
            arg(BufferKind::Slot, 1),
        )],
        ..Program::default()
    };
    let packed = Program {
        name: "forward_packed".into(),
        inputs: vec![ids(vec![1.into(), seq_len()]), info("seq_idx", DType::I32, vec![1.into(), seq_len()])],
        outputs: vec![logits(vec![1.into(), seq_len(), 1.into()])],
        launches: vec![launch(
            1,
            1.into(),
            vec![seq_len()],
            vec![arg(BufferKind::Input, 0), arg(BufferKind::Input, 1), arg(BufferKind::Output, 0)],
        )],
        ..Program::default()
    };
    let f32_info = |name| info(name, DType::F32, vec![n()]);
    let grid = || n().ceil_div(16.into());
    let (input, output) = (|index| arg(BufferKind::Input, index), arg(BufferKind::Output, 0));
    let slot = || arg(BufferKind::Slot, 0);
    let add = Program {
        name: "add_twice".into(),
        inputs: vec![f32_info("a"), f32_info("b")],
        outputs: vec![f32_info("y")],
        slots: vec![Slot { size_bytes: Some(n() * 4.into()) }],
        launches: vec![
            launch(2, grid(), vec![n()], vec![input(0), input(1), slot()]),
            launch(2, grid(), vec![n()], vec![slot(), input(1), output.clone()]),
        ],
        ..Program::default()
    };
    let tail = BufferRef {
        byte_offset: Some(Expr::constant(4 * N_WEIGHT as i64) + n() * (-4).into()),
        ..arg(BufferKind::Weight, 0)
    };
    let add_weight = Program {
        name: "add_weight_tail".into(),
        inputs: vec![f32_info("a")],
        outputs: vec![f32_info("y")],
        launches: vec![launch(2, grid(), vec![n()], vec![input(0), tail, output])],
        ..Program::default()
    };
    vec![
        forward,
        stateful("prefill", ids(vec![batch(), seq_len()]), seq_len(), false),
        stateful("step", ids(vec![batch(), 1.into()]), 1.into(), false),
        stateful("step_total", ids(vec![batch(), 1.into()]), 1.into(), true),
        packed,
        add,
        add_weight,
    ]
}

pub(crate) fn manifest() -> Manifest {
    let (read, write) = (Access::Read, Access::Write);
    let scan = [("x", read), ("h0", read), ("y", write), ("h_last", write)];
    let (packed, add) =
        ([("x", read), ("seq_idx", read), ("y", write)], [("a", read), ("b", read), ("y", write)]);
    let state = |name: &str, in_place| State {
        name: name.into(),
        kind: StateKind::Fixed.into(),
        dtype: DType::I32.into(),
        shape: vec![Expr::symbol(BATCH)],
        in_place,
    };
    Manifest {
        model_name: "toy".into(),
        model_hash: MODEL_HASH.to_vec(),
        symbols: vec![
            symbol("batch", 8, SymbolRole::Batch),
            symbol("seq_len", 0, SymbolRole::SeqLen),
            symbol("n", 1 << 20, SymbolRole::Other),
        ],
        kernels: vec![
            kernel("scan", 0, DType::I32, &scan, &["len", "y_row", "y_step"]),
            kernel("packed", SCAN.len(), DType::I32, &packed, &["len"]),
            kernel("add", SCAN.len() + PACKED.len(), DType::F32, &add, &["n"]),
        ],
        states: vec![state("h", false), state("total", true)],
        programs: programs(),
        ..Manifest::default()
    }
}

fn array(name: &str, dims: &[u64], values: &[i32]) -> NamedArray {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    NamedArray { name: name.into(), dtype: DType::I32.into(), dims: dims.to_vec(), data }
}

/// A prefill of 2, 3 and a step of `1`; the logits are 7 and `step_logit`.
pub(crate) fn golden(step_logit: i32) -> Golden {
    let call = |program: &str, ids: &[i32], logit| GoldenCall {
        program: program.into(),
        inputs: vec![array("input_ids", &[1, ids.len() as u64], ids)],
        outputs: vec![array("logits", &[1, 1], &[logit])],
    };
    let calls = vec![call("prefill", &[2, 3], 7), call("step", &[1], step_logit)];
    Golden { cases: vec![GoldenCase { name: "prefill then step".into(), calls, rtol: 0.0, atol: 0.5 }] }
}

/// An artefact file in a folder of its own.
pub(crate) struct Toy {
    pub(crate) path: PathBuf,
    _dir: TempDir,
}

impl Toy {
    pub(crate) fn write(manifest: Manifest, golden: Golden) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("toy.ssmc");
        let mut writer = ArtifactWriter::create(&path).unwrap();
        let level = |name: &str, features: &[&str]| Level {
            name: name.into(),
            arch: "x86_64".into(),
            features: features.iter().map(|&feature| feature.into()).collect(),
        };
        let image = [SCAN, PACKED, ADD].concat();
        writer.add_code(level("base", &[]), image.clone());
        writer.add_code(level("future", &["avx2", "not-yet-invented"]), image);
        let ramp = WeightInfo::plain("ramp", DType::F32, &[N_WEIGHT as u64]);
        writer
            .add_weight(ramp, |out| (0..N_WEIGHT).try_for_each(|k| out.write_all(&(k as f32).to_le_bytes())))
            .unwrap();
        writer
            .add_weight(WeightInfo::plain("zero", DType::I32, &[8]), |out| out.write_all(&[0; 32]))
            .unwrap();
        writer.set_golden(golden);
        writer.finish(manifest).unwrap();
        Self { path, _dir: dir }
    }

    pub(crate) fn open(&self) -> Artifact {
        Artifact::open(&self.path).unwrap()
    }
}

pub(crate) fn options() -> SessionOptions {
    SessionOptions { max_batch: 3, max_len: 8, threads: 2, ..SessionOptions::default() }
}

pub(crate) fn session_with(options: &SessionOptions) -> Session {
    Session::new(&Toy::write(manifest(), golden(15)).open(), options).unwrap()
}

pub(crate) fn session() -> Session {
    session_with(&options())
}
