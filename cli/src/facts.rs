//! What an artefact says about its model.

use crate::Compiled;
use sha2::{Digest, Sha256};
use ssmc_artifact::{Property, ReportEntry, ReportKind};
use ssmc_ir::Model;
use ssmc_passes::pass::RemarkKind;

/// sha256 over the text of the imported graph and the name, type and bytes of every weight.
///
/// Models with one hash compute the same function, so that a saved state of one fits the other.
pub fn model_hash(model: &Model) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(model.graph.to_string());
    for (name, weight) in model.weights.iter() {
        let bytes = weight.bytes.as_slice();
        hash.update(format!("\n{name:?} {} {}\n", weight.ty, bytes.len()));
        hash.update(bytes);
    }
    hash.finalize().to_vec()
}

/// What tools want to know of a model: `family`, `eos_token_ids` (decimal, separated by commas), `chunk_size`,
/// `n_weights` and `n_parameters`. Unknown ones are left out.
pub fn properties(model: &Model) -> Vec<Property> {
    let mut all = Vec::new();
    let mut push = |key: &str, value: String| all.push(Property { key: key.to_owned(), value });
    if !model.meta.family.is_empty() {
        push("family", model.meta.family.clone());
    }
    if !model.meta.eos_token_ids.is_empty() {
        let ids: Vec<String> = model.meta.eos_token_ids.iter().map(i64::to_string).collect();
        push("eos_token_ids", ids.join(","));
    }
    if let Some(chunk) = model.meta.chunk_size {
        push("chunk_size", chunk.to_string());
    }
    let sizes = model.weights.iter().filter_map(|(_, w)| w.ty.shape.n_elems().as_const());
    push("n_weights", model.weights.len().to_string());
    push("n_parameters", sizes.sum::<i64>().to_string());
    all
}

/// What rewriting fused and what stayed outside, program by program.
pub fn report(compiled: &Compiled) -> Vec<ReportEntry> {
    let mut entries = Vec::new();
    if let Some(streaming) = &compiled.streaming {
        let mut note = |subject: &str, reason: String| {
            entries.push(ReportEntry {
                kind: ReportKind::Note.into(),
                program: String::new(),
                subject: subject.to_owned(),
                reason,
            });
        };
        for kernel in &streaming.kernels {
            note("frozen kernel", kernel.to_string());
        }
        if let Some(max) = streaming.max_context {
            note("longest sequence", format!("{max} steps"));
        }
    }
    for program in &compiled.programs {
        let mut push = |kind: ReportKind, subject: String, reason: String| {
            entries.push(ReportEntry {
                kind: kind.into(),
                program: program.name.to_owned(),
                subject,
                reason,
            });
        };
        for remark in &program.remarks {
            let reason = match &remark.kind {
                RemarkKind::Raised { evidence, scans } => format!("raised to {scans} scan ops ({evidence})"),
                RemarkKind::Kept { reason } => format!("not raised: {reason}"),
                RemarkKind::State { input, output } => {
                    format!("output {output:?} is the next state of input {input:?}")
                }
            };
            push(ReportKind::Note, format!("recurrence at {}", remark.place), reason);
        }
        for scan in &program.report.scans {
            let absorbed: Vec<String> =
                scan.absorbed.iter().map(|a| format!("{} x{}", a.op, a.count)).collect();
            let subject = format!("{} at {}", scan.op, scan.place);
            push(ReportKind::Fused, subject, format!("replaces {}", absorbed.join(", ")));
        }
        for outside in &program.report.outside {
            let subject = format!("{} at {}", outside.what, outside.place);
            push(ReportKind::Outside, subject, outside.reason.clone());
        }
    }
    entries
}
