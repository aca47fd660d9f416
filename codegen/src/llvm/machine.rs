//! LLVM's target machine: the pass pipeline, object code and assembly.

use inkwell::OptimizationLevel;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple,
};

use super::error::LlvmError;
use crate::target::{CpuArch, CpuTarget};

/// The module pipeline.
///
/// Registers and local arrays become SSA values, address arithmetic is shared and hoisted, and dead
/// code goes away. Neither vectorizer runs: kernels are written as vectors. Loops are not unrolled
/// either: a lowering that wants an unrolled loop writes it so.
const PASSES: &str = "function(\
    sroa,early-cse<memssa>,simplifycfg,instcombine<no-verify-fixpoint>,\
    loop-simplify,lcssa,loop-mssa(loop-instsimplify,loop-rotate,licm),\
    gvn,instcombine<no-verify-fixpoint>,simplifycfg,adce)";

/// The machine that code is generated for.
pub(super) struct Machine {
    machine: TargetMachine,
    triple: TargetTriple,
}

impl Machine {
    /// # Errors
    /// [`LlvmError::Target`] if LLVM was built without the target.
    pub(super) fn new(target: &CpuTarget) -> Result<Machine, LlvmError> {
        let parts = InitializationConfig::default();
        match target.level.arch() {
            CpuArch::X86_64 => Target::initialize_x86(&parts),
            CpuArch::Aarch64 => Target::initialize_aarch64(&parts),
        }
        let triple = TargetTriple::create(target.triple);
        let unknown = |message: String| LlvmError::Target {
            triple: target.triple.to_owned(),
            cpu: target.llvm_cpu.to_owned(),
            message,
        };
        let machine = Target::from_triple(&triple)
            .map_err(|message| unknown(message.to_string()))?
            .create_target_machine(
                &triple,
                target.llvm_cpu,
                target.llvm_features,
                OptimizationLevel::Default,
                RelocMode::PIC,
                CodeModel::Small,
            )
            .ok_or_else(|| unknown("no target machine".to_owned()))?;
        Ok(Machine { machine, triple })
    }

    /// Gives an empty module the machine's triple and data layout.
    pub(super) fn prepare(&self, module: &Module<'_>) {
        module.set_triple(&self.triple);
        module.set_data_layout(&self.machine.get_target_data().get_data_layout());
    }

    /// Checks the module, then runs the pass pipeline over it.
    ///
    /// # Errors
    /// [`LlvmError::Verify`] and [`LlvmError::Backend`].
    pub(super) fn optimize(&self, module: &Module<'_>) -> Result<(), LlvmError> {
        module.verify().map_err(|message| LlvmError::Verify { message: message.to_string() })?;
        let options = PassBuilderOptions::create();
        options.set_loop_vectorization(false);
        options.set_loop_slp_vectorization(false);
        options.set_loop_interleaving(false);
        options.set_loop_unrolling(false);
        module
            .run_passes(PASSES, &self.machine, options)
            .map_err(|message| backend("running passes", message))
    }

    /// The relocatable object file of an optimized module.
    ///
    /// # Errors
    /// [`LlvmError::Backend`].
    pub(super) fn object(&self, module: &Module<'_>) -> Result<Vec<u8>, LlvmError> {
        self.write(module, FileType::Object)
    }

    /// The assembly text of an optimized module, AT&T syntax.
    ///
    /// # Errors
    /// [`LlvmError::Backend`].
    pub(super) fn assembly(&self, module: &Module<'_>) -> Result<String, LlvmError> {
        self.write(module, FileType::Assembly).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn write(&self, module: &Module<'_>, kind: FileType) -> Result<Vec<u8>, LlvmError> {
        let buffer = self
            .machine
            .write_to_memory_buffer(module, kind)
            .map_err(|message| backend("generating code", message))?;
        Ok(buffer.as_slice().to_vec())
    }
}

fn backend(stage: &'static str, message: inkwell::support::LLVMString) -> LlvmError {
    LlvmError::Backend { stage, message: message.to_string() }
}
