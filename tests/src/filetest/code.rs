//! What can be done with kernels: lowering to them, legalizing them, printing their LLVM IR, running them.

use super::header::Header;
use super::subtests::valid;
use super::values;
use ssmc_codegen::kernel::interp::{Arg, Interpreter};
use ssmc_codegen::kernel::text::parse;
use ssmc_codegen::kernel::verify::verify;
use ssmc_codegen::kernel::{Elem, Kernel};
use ssmc_codegen::legalize::cpu::{CpuOptions, legalize};
use ssmc_codegen::lower;
use ssmc_ir::{DType, Tensor};
use ssmc_passes::partition::partition;
use std::collections::BTreeMap;

/// Indented as printed, so that loops can be seen.
fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn kernel(text: &str) -> Result<Kernel, String> {
    let source: String = text
        .lines()
        .map(|line| if line.starts_with(";;!") { "\n".to_owned() } else { format!("{line}\n") })
        .collect();
    let kernel = parse(&source).map_err(|error| error.to_string())?;
    let list = |faults: Vec<ssmc_codegen::kernel::verify::Fault>| {
        faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    verify(&kernel).map_err(list)?;
    Ok(kernel)
}

/// The kernels of a rewritten graph, in the order of their launches.
pub(super) fn lowered(text: &str, header: &Header) -> Result<Vec<String>, String> {
    let plan = partition(&valid(text)?).map_err(|error| error.to_string())?;
    let target = header.target();
    let mut out = Vec::new();
    for group in &plan.groups {
        let lowered = lower::lower(&plan.graph, group, &target).map_err(|error| error.to_string())?;
        out.push(format!("grid {}", lowered.grid));
        out.extend(lines(&lowered.kernel.to_string()));
    }
    Ok(out)
}

fn legal(text: &str, header: &Header) -> Result<Kernel, String> {
    let options = CpuOptions::of(&header.target());
    legalize(&kernel(text)?, options).map_err(|error| error.to_string())
}

/// The kernel as emitters want it.
pub(super) fn legalized(text: &str, header: &Header) -> Result<Vec<String>, String> {
    Ok(lines(&legal(text, header)?.to_string()))
}

/// The LLVM IR of the legalized kernel.
#[cfg(feature = "llvm")]
pub(super) fn llvm(text: &str, header: &Header) -> Result<Vec<String>, String> {
    let legal = legal(text, header)?;
    let ir =
        ssmc_codegen::llvm::emit_llvm_ir(&[legal], &header.target()).map_err(|error| error.to_string())?;
    Ok(lines(ir.trim_end()))
}

fn dtype(elem: Elem) -> DType {
    match elem {
        Elem::Bool => DType::Bool,
        Elem::I8 => DType::I8,
        Elem::U8 => DType::U8,
        Elem::I16 => DType::I16,
        Elem::U16 => DType::U16,
        Elem::I32 => DType::I32,
        Elem::U32 => DType::U32,
        Elem::I64 => DType::I64,
        Elem::U64 => DType::U64,
        Elem::F16 => DType::F16,
        Elem::Bf16 => DType::BF16,
        Elem::F32 => DType::F32,
        Elem::F64 => DType::F64,
    }
}

/// The run lines `run: grid=2 n=[3] x=[..]` (dims as lists of one number), each with what the kernel interpreter
/// leaves in the parameters that are written, or with the fault that it reports.
pub(super) fn interpreted(text: &str, expected: &[&str]) -> Result<Vec<String>, String> {
    let kernel = kernel(text)?;
    let interpreter = Interpreter::new(&kernel).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    for line in expected.iter().filter(|line| line.starts_with("run:")) {
        let given = values::lists(&line["run:".len()..]).map_err(|fault| format!("{line}: {fault}"))?;
        let number = |name: &str| -> Result<i64, String> {
            match given.get(name).map(Vec::as_slice) {
                Some([n]) => Ok(*n as i64),
                _ => Err(format!("{line}: expected {name}=[N]")),
            }
        };
        let dims = kernel.dims.iter().map(|dim| number(dim)).collect::<Result<Vec<_>, _>>()?;
        let mut buffers = Vec::new();
        for param in &kernel.params {
            let list = given.get(&param.name).ok_or_else(|| format!("{line}: no {}", param.name))?;
            buffers.push(values::tensor(dtype(param.elem), vec![list.len()], list.clone())?.to_bytes());
        }
        let args: Vec<Arg> = (0..buffers.len()).map(|buffer| Arg { buffer, byte_offset: 0 }).collect();
        let mut views: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        out.push((*line).to_owned());
        if let Err(fault) = interpreter.run(0..number("grid")?, &dims, &args, &mut views) {
            out.push(format!("=> fault: {fault}"));
            continue;
        }
        let mut written = BTreeMap::new();
        for (param, bytes) in kernel.params.iter().zip(&buffers).filter(|(param, _)| param.access.writes()) {
            let n = bytes.len() / param.elem.size();
            let tensor =
                Tensor::from_bytes(dtype(param.elem), [n], bytes).map_err(|error| error.to_string())?;
            written.insert(&param.name, tensor);
        }
        out.extend(written.iter().map(|(name, tensor)| format!("=> {name}={}", values::print(tensor))));
    }
    if out.is_empty() { Err("expected a line \";; run: grid=[1] NAME=[..]\"".into()) } else { Ok(out) }
}
