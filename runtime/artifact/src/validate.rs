//! Checks of the manifest against itself and the file.

use std::collections::BTreeSet;

use crate::error::{ArtifactError, ManifestFault as Fault};
use crate::format::WEIGHT_ALIGN;
use crate::proto::{
    Access, BufferKind, BufferRef, Dtype, Expr, Kernel, KernelParam, Launch, Manifest, Product, Program,
    ReportKind, State, StateKind, Symbol, SymbolRole, TensorInfo, Weight,
};

/// Entry offset of a kernel that a level does not have.
pub const NO_ENTRY: u64 = u64::MAX;

/// Lengths of the sections that a manifest points into.
pub(crate) struct Lengths {
    /// Of each level's code image.
    pub(crate) code: Vec<u64>,
    /// Of the weights section.
    pub(crate) weights: u64,
}

/// Checks everything in the manifest that does not depend on the other sections: names, indices, arities,
/// expressions, enum values. Returns the first fault.
pub fn check_manifest(manifest: &Manifest) -> Result<(), ArtifactError> {
    each("symbols", &manifest.symbols, |symbol| &symbol.name, check_symbol)?;
    each("levels", &manifest.levels, |level| &level.name, |_| Ok(()))?;
    each("weights", &manifest.weights, |weight| &weight.name, check_weight)?;
    each("kernels", &manifest.kernels, |kernel| &kernel.name, |kernel| check_kernel(manifest, kernel))?;
    each("states", &manifest.states, |state| &state.name, |state| check_state(manifest, state))?;
    for (index, entry) in manifest.report.iter().enumerate() {
        known("report kind", ReportKind::try_from(entry.kind).is_ok(), entry.kind)
            .map_err(|fault| located(format!("report[{index}]"), fault))?;
    }
    for (index, program) in manifest.programs.iter().enumerate() {
        let at = format!("programs[{index}] {:?}", program.name);
        check_program(manifest, program, &at)?;
        check_unambiguous(manifest, index).map_err(|fault| located(at.clone(), fault))?;
        check_symbols_bound(manifest, program).map_err(|fault| located(at, fault))?;
    }
    Ok(())
}

/// [`check_manifest`], and the ranges that point into other sections.
pub(crate) fn check_against(manifest: &Manifest, lengths: &Lengths) -> Result<(), ArtifactError> {
    check_manifest(manifest)?;
    for (index, weight) in manifest.weights.iter().enumerate() {
        let Weight { offset, length, .. } = *weight;
        if offset.checked_add(length).is_none_or(|end| end > lengths.weights) {
            let fault = Fault::Bounds { offset, length, limit: lengths.weights };
            return Err(located(format!("weights[{index}] {:?}", weight.name), fault));
        }
    }
    for (index, kernel) in manifest.kernels.iter().enumerate() {
        for (&entry, &limit) in kernel.entries.iter().zip(&lengths.code) {
            if entry != NO_ENTRY && entry >= limit {
                let fault = Fault::Bounds { offset: entry, length: 1, limit };
                return Err(located(format!("kernels[{index}] {:?}", kernel.name), fault));
            }
        }
    }
    Ok(())
}

fn located(at: String, fault: Fault) -> ArtifactError {
    ArtifactError::Manifest { at, fault }
}

/// Runs `check` on every item and refuses duplicate names.
fn each<T>(
    list: &str,
    items: &[T],
    name: impl Fn(&T) -> &String,
    check: impl Fn(&T) -> Result<(), Fault>,
) -> Result<(), ArtifactError> {
    let mut seen = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let name = name(item);
        let result =
            if seen.insert(name) { check(item) } else { Err(Fault::Duplicate { name: name.clone() }) };
        result.map_err(|fault| located(format!("{list}[{index}] {name:?}"), fault))?;
    }
    Ok(())
}

fn known(what: &'static str, is_known: bool, found: i32) -> Result<(), Fault> {
    if is_known { Ok(()) } else { Err(Fault::Enum { what, found }) }
}

fn check_dtype(found: i32) -> Result<Dtype, Fault> {
    match Dtype::try_from(found) {
        Ok(Dtype::Unspecified) | Err(_) => Err(Fault::Enum { what: "dtype", found }),
        Ok(dtype) => Ok(dtype),
    }
}

fn check_index(what: &'static str, found: u32, count: usize) -> Result<(), Fault> {
    if (found as usize) < count { Ok(()) } else { Err(Fault::Index { what, found: found.into(), count }) }
}

fn check_count(what: &'static str, expected: usize, found: usize) -> Result<(), Fault> {
    if expected == found { Ok(()) } else { Err(Fault::Count { what, expected, found }) }
}

fn check_expr(manifest: &Manifest, what: &'static str, expr: &Expr) -> Result<(), Fault> {
    expr.check(manifest.symbols.len()).map_err(|error| Fault::Expr { what, error })
}

fn check_required(manifest: &Manifest, what: &'static str, expr: Option<&Expr>) -> Result<(), Fault> {
    check_expr(manifest, what, expr.ok_or(Fault::Missing { what })?)
}

fn check_optional(manifest: &Manifest, what: &'static str, expr: Option<&Expr>) -> Result<(), Fault> {
    expr.map_or(Ok(()), |expr| check_expr(manifest, what, expr))
}

fn check_symbol(symbol: &Symbol) -> Result<(), Fault> {
    let Symbol { min, max, divisibility, .. } = *symbol;
    if min < 0 || (max != 0 && max < min) || divisibility < 0 {
        return Err(Fault::Symbol { min, max, divisibility });
    }
    known("symbol role", SymbolRole::try_from(symbol.role).is_ok(), symbol.role)
}

fn check_weight(weight: &Weight) -> Result<(), Fault> {
    let dtype = check_dtype(weight.dtype)?;
    if !weight.offset.is_multiple_of(WEIGHT_ALIGN) {
        return Err(Fault::Alignment { offset: weight.offset, alignment: WEIGHT_ALIGN });
    }
    let n_elements = weight.dims.iter().try_fold(1u64, |acc, &dim| acc.checked_mul(dim));
    let expected = n_elements.and_then(|n| dtype.byte_len(n)).ok_or(Fault::Overflow)?;
    if weight.packing.is_empty() && expected != weight.length {
        return Err(Fault::Length { expected, found: weight.length });
    }
    Ok(())
}

fn check_kernel(manifest: &Manifest, kernel: &Kernel) -> Result<(), Fault> {
    check_count("entries", manifest.levels.len(), kernel.entries.len())?;
    check_count("block dims", 3, kernel.block.len())?;
    for param in &kernel.params {
        check_dtype(param.dtype)?;
        let access = Access::try_from(param.access);
        known("access", matches!(access, Ok(a) if a != Access::Unspecified), param.access)?;
    }
    Ok(())
}

fn check_state(manifest: &Manifest, state: &State) -> Result<(), Fault> {
    check_dtype(state.dtype)?;
    let kind = StateKind::try_from(state.kind);
    known("state kind", matches!(kind, Ok(k) if k != StateKind::Unspecified), state.kind)?;
    state.shape.iter().try_for_each(|dim| check_expr(manifest, "shape", dim))?;
    check_bound(manifest, &batch_symbols(manifest), &state.shape)
}

fn batch_symbols(manifest: &Manifest) -> BTreeSet<usize> {
    let is_batch = |symbol: &Symbol| symbol.role == i32::from(SymbolRole::Batch);
    (0..manifest.symbols.len()).filter(|&index| is_batch(&manifest.symbols[index])).collect()
}

/// Checks that `exprs` use no symbol outside `bound`.
fn check_bound<'a>(
    manifest: &Manifest,
    bound: &BTreeSet<usize>,
    exprs: impl IntoIterator<Item = &'a Expr>,
) -> Result<(), Fault> {
    let mut unbound = None;
    for expr in exprs {
        expr.visit_symbols(&mut |index| {
            if !bound.contains(&index) {
                unbound = Some(index);
            }
        });
    }
    match unbound {
        Some(index) => Err(Fault::Unbound { symbol: manifest.symbols[index].name.clone() }),
        None => Ok(()),
    }
}

/// Checks that the inputs and the state fix every symbol that the program uses: a symbol counts as fixed if
/// it stands alone as a dim of an input, or is the batch of a stateful program.
fn check_symbols_bound(manifest: &Manifest, program: &Program) -> Result<(), Fault> {
    let mut bound = if program.stateful { batch_symbols(manifest) } else { BTreeSet::new() };
    bound.extend(program.inputs.iter().flat_map(|info| &info.shape).filter_map(Expr::as_symbol));
    let launches = program.launches.iter().flat_map(|launch| {
        let offsets = launch.args.iter().filter_map(|arg| arg.byte_offset.as_ref());
        let rows = launch.product.as_ref().and_then(|product| product.rows.as_ref());
        let work = [&launch.grid, &launch.flops, &launch.bytes].into_iter().flatten().chain(rows);
        work.chain(&launch.dims).chain(offsets)
    });
    let infos = program.inputs.iter().chain(&program.outputs).flat_map(|info| &info.shape);
    let slots = program.slots.iter().filter_map(|slot| slot.size_bytes.as_ref());
    check_bound(manifest, &bound, infos.chain(slots).chain(launches))
}

/// Checks that no other program of the same name serves one of the program's levels.
fn check_unambiguous(manifest: &Manifest, index: usize) -> Result<(), Fault> {
    let program = &manifest.programs[index];
    let meets = |other: &Program| {
        let all = program.levels.is_empty() || other.levels.is_empty();
        other.name == program.name && (all || other.levels.iter().any(|level| program.levels.contains(level)))
    };
    if manifest.programs[..index].iter().any(meets) {
        return Err(Fault::Duplicate { name: program.name.clone() });
    }
    Ok(())
}

fn check_program(manifest: &Manifest, program: &Program, at: &str) -> Result<(), ArtifactError> {
    let nested = |error| match error {
        ArtifactError::Manifest { at: inner, fault } => located(format!("{at}: {inner}"), fault),
        other => other,
    };
    let check_info = |info: &TensorInfo| check_tensor_info(manifest, info);
    each("inputs", &program.inputs, |info| &info.name, check_info).map_err(nested)?;
    each("outputs", &program.outputs, |info| &info.name, check_info).map_err(nested)?;
    for &level in &program.levels {
        check_index("level", level, manifest.levels.len()).map_err(|fault| located(at.to_owned(), fault))?;
    }
    for (index, slot) in program.slots.iter().enumerate() {
        check_required(manifest, "size_bytes", slot.size_bytes.as_ref())
            .map_err(|fault| located(format!("{at}: slots[{index}]"), fault))?;
    }
    for (index, launch) in program.launches.iter().enumerate() {
        check_launch(manifest, program, launch, &format!("{at}: launches[{index}]"))?;
    }
    Ok(())
}

fn check_tensor_info(manifest: &Manifest, info: &TensorInfo) -> Result<(), Fault> {
    check_dtype(info.dtype)?;
    info.shape.iter().try_for_each(|dim| check_expr(manifest, "shape", dim))
}

fn check_launch(
    manifest: &Manifest,
    program: &Program,
    launch: &Launch,
    at: &str,
) -> Result<(), ArtifactError> {
    let here = |fault| located(at.to_owned(), fault);
    check_index("kernel", launch.kernel, manifest.kernels.len()).map_err(here)?;
    let kernel = &manifest.kernels[launch.kernel as usize];
    check_count("dims", kernel.dim_names.len(), launch.dims.len()).map_err(here)?;
    check_count("args", kernel.params.len(), launch.args.len()).map_err(here)?;
    check_required(manifest, "grid", launch.grid.as_ref()).map_err(here)?;
    check_optional(manifest, "flops", launch.flops.as_ref()).map_err(here)?;
    check_optional(manifest, "bytes", launch.bytes.as_ref()).map_err(here)?;
    launch.dims.iter().try_for_each(|dim| check_expr(manifest, "dims", dim)).map_err(here)?;
    for (index, (arg, param)) in launch.args.iter().zip(&kernel.params).enumerate() {
        check_arg(manifest, program, arg, param)
            .map_err(|fault| located(format!("{at}: args[{index}] {:?}", param.name), fault))?;
    }
    let product = launch.product.as_ref();
    product.map_or(Ok(()), |product| check_product(manifest, kernel, product)).map_err(here)
}

/// Most columns, depth and elements from row to row of a product, so that what follows from them fits 64 bits.
const MAX_EXTENT: u64 = 1 << 31;

fn check_product(manifest: &Manifest, kernel: &Kernel, product: &Product) -> Result<(), Fault> {
    check_required(manifest, "rows", product.rows.as_ref())?;
    let Product { cols, depth, x_pitch, x_offset, .. } = *product;
    let least =
        [("columns", cols, 1), ("depth", depth, 1), ("x_pitch", x_pitch, depth), ("x_offset", x_offset, 0)];
    for (what, found, least) in least {
        if found < least || found > MAX_EXTENT {
            let expected = format!("{least} to {MAX_EXTENT}");
            return Err(Fault::Product { what, expected, found: found.to_string() });
        }
    }
    let param = |index: u32| {
        check_index("arg", index, kernel.params.len())?;
        Ok(&kernel.params[index as usize])
    };
    let (x, w, y) = (param(product.x)?, param(product.w)?, param(product.y)?);
    let one_of = |what: &'static str, param: &KernelParam, types: &[Dtype]| {
        let names: Vec<&str> = types.iter().map(|dtype| dtype.name()).collect();
        let (expected, found) = (names.join(" or "), param.dtype().name().to_owned());
        let is_one = types.contains(&param.dtype());
        if is_one { Ok(()) } else { Err(Fault::Product { what, expected, found }) }
    };
    one_of("x", x, &[Dtype::F16, Dtype::Bf16])?;
    one_of("w", w, &[x.dtype()])?;
    one_of("y", y, &[x.dtype(), Dtype::F32])?;
    for (what, operand) in [("addend", product.addend), ("bias", product.bias)] {
        if let Some(index) = operand {
            one_of(what, param(index)?, &[y.dtype()])?;
        }
    }
    if y.access == i32::from(Access::Read) {
        return Err(Fault::ReadOnly { what: "the result of a product" });
    }
    Ok(())
}

fn check_arg(
    manifest: &Manifest,
    program: &Program,
    arg: &BufferRef,
    param: &KernelParam,
) -> Result<(), Fault> {
    check_optional(manifest, "byte_offset", arg.byte_offset.as_ref())?;
    let unknown = Fault::Enum { what: "buffer kind", found: arg.kind };
    let kind = BufferKind::try_from(arg.kind).map_err(|_| unknown.clone())?;
    let (what, count, writable) = match kind {
        BufferKind::Unspecified => return Err(unknown),
        BufferKind::Input => ("input", program.inputs.len(), false),
        BufferKind::Output => ("output", program.outputs.len(), true),
        BufferKind::Slot => ("slot", program.slots.len(), true),
        BufferKind::Weight => ("weight", manifest.weights.len(), false),
        BufferKind::StateIn => ("state", manifest.states.len(), false),
        BufferKind::StateOut => ("state", manifest.states.len(), true),
    };
    if what == "state" && !program.stateful {
        return Err(Fault::Stateless);
    }
    check_index(what, arg.index, count)?;
    if !writable && param.access != i32::from(Access::Read) {
        return Err(Fault::ReadOnly { what });
    }
    Ok(())
}
