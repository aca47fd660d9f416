//! From an imported model to kernels.

use crate::Error;
use ssmc_codegen::assemble::{Kernels, ProgramInput};
use ssmc_codegen::target::{CpuLevel, CpuTarget};
use ssmc_ir::{Graph, Model, Plan, Weights};
use ssmc_passes::egraph::{RewriteOptions, RewriteReport, rewrite};
use ssmc_passes::partition::partition;
use ssmc_passes::programs;

/// How to compile.
#[derive(Clone, Debug)]
pub struct CompileOptions {
    /// CPU levels, least demanding first.
    pub targets: Vec<CpuTarget>,
    /// Rules and limits of rewriting.
    pub rewrite: RewriteOptions,
}

impl Default for CompileOptions {
    /// Levels v3 and v4, all rules.
    fn default() -> Self {
        let targets = [CpuLevel::X86_64V3, CpuLevel::X86_64V4].map(CpuTarget::of_level).to_vec();
        Self { targets, rewrite: RewriteOptions::default() }
    }
}

/// One program at every stage.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are the stages")]
pub struct CompiledProgram {
    pub name: &'static str,
    pub states: Vec<String>,
    pub imported: Graph,
    pub raised: Graph,
    pub rewritten: Graph,
    pub plan: Plan,
    /// The model's weights and what was folded.
    pub weights: Weights,
    pub report: RewriteReport,
}

/// A model as kernels and launch lists, with the stages that led there.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub struct Compiled {
    pub programs: Vec<CompiledProgram>,
    pub kernels: Kernels,
}

/// Compiles models.
#[derive(Clone, Debug, Default)]
pub struct Compiler {
    options: CompileOptions,
}

impl Compiler {
    /// A compiler with these options.
    pub fn new(options: CompileOptions) -> Self {
        Self { options }
    }

    /// Runs every stage up to kernels.
    ///
    /// # Errors
    /// The first stage that cannot go on, with the node.
    pub fn compile(&self, model: &Model) -> Result<Compiled, Error> {
        let mut compiled = Vec::new();
        for program in programs::derive(&model.graph)? {
            let raised = program.graph.clone();
            let mut options = self.options.rewrite.clone();
            if program.name == "step" {
                options.seq_len_hint = 1;
            }
            let rewritten = rewrite(&raised, &options)?;
            let plan = partition(&rewritten.graph)?;
            compiled.push(CompiledProgram {
                name: program.name,
                states: program.states,
                imported: program.graph,
                raised,
                rewritten: rewritten.graph,
                plan,
                weights: model.weights.clone(),
                report: rewritten.report,
            });
        }
        let inputs: Vec<ProgramInput<'_>> = compiled
            .iter()
            .map(|p| ProgramInput { name: p.name, plan: &p.plan, weights: &p.weights, states: &p.states })
            .collect();
        let kernels = Kernels::lower(&inputs, &self.options.targets)?;
        Ok(Compiled { programs: compiled, kernels })
    }
}
