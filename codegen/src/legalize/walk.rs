//! Rebuilding a kernel instruction by instruction.

use crate::kernel::{For, If, Inst, KernelBuilder, Stmt};

/// Appends to a builder what stands for each instruction of a kernel; loops and conditions stay.
pub(super) trait Walk {
    fn builder(&mut self) -> &mut KernelBuilder;

    /// Appends what stands for `inst`.
    fn inst(&mut self, inst: &Inst);

    fn list(&mut self, stmts: &[Stmt]) {
        for stmt in stmts {
            match stmt {
                Stmt::Inst(inst) => self.inst(inst),
                Stmt::For(l) => {
                    let body = self.nested(&l.body);
                    self.builder().push_stmt(Stmt::For(For { body, ..*l }));
                }
                Stmt::If(i) => {
                    let (on_true, on_false) = (self.nested(&i.on_true), self.nested(&i.on_false));
                    self.builder().push_stmt(Stmt::If(If { cond: i.cond, on_true, on_false }));
                }
            }
        }
    }

    fn nested(&mut self, stmts: &[Stmt]) -> Vec<Stmt> {
        self.builder().open_list();
        self.list(stmts);
        self.builder().close_list()
    }
}
