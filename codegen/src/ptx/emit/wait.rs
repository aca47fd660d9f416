//! Kernels that follow each other closely.
//!
//! A launch begins while the one before it is still at work, as soon as there is room for its blocks. It may compute
//! indices and read what never changes; before anything else it waits.

use super::Emitter;
use crate::kernel::{Access, Inst as K, Kernel, Mem, Stmt};
use crate::ptx::error::PtxError;
use crate::ptx::isa::Inst;

impl Emitter<'_> {
    /// The statements of the kernel; with `overlaps` the launch after it may begin at once, and it waits itself before it
    /// touches what others write.
    pub(super) fn body(&mut self, overlaps: bool) -> Result<(), PtxError> {
        let kernel = self.kernel;
        if !overlaps {
            return self.list(&kernel.body);
        }
        self.push(Inst::AllowLaunch);
        let first = kernel.body.iter().position(|stmt| touches(kernel, stmt)).unwrap_or(kernel.body.len());
        let (before, after) = kernel.body.split_at(first);
        self.list(before)?;
        self.push(Inst::WaitForLaunch);
        self.list(after)
    }
}

/// Whether a statement touches global memory that other kernels write, or may not write before they have read.
fn touches(kernel: &Kernel, stmt: &Stmt) -> bool {
    let any = |body: &[Stmt]| body.iter().any(|stmt| touches(kernel, stmt));
    let is_shared = |mem: &Mem| match mem {
        Mem::Param(id) => kernel.params[id.0 as usize].access != Access::Constant,
        Mem::Shared(_) | Mem::Local(_) => false,
    };
    match stmt {
        Stmt::For(l) => any(&l.body),
        Stmt::If(i) => any(&i.on_true) || any(&i.on_false),
        Stmt::Inst(inst) => match inst {
            K::Load { mem, .. }
            | K::Gather { mem, .. }
            | K::Store { mem, .. }
            | K::Scatter { mem, .. }
            | K::TileLoad { mem, .. }
            | K::TileStore { mem, .. } => is_shared(mem),
            K::AsyncCopy { dst, src, .. } => is_shared(dst) || is_shared(src),
            _ => false,
        },
    }
}
