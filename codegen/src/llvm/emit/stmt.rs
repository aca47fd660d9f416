//! Structured statements.

use inkwell::IntPredicate;

use super::Emitter;
use crate::kernel::verify::{List, Step};
use crate::kernel::{For, If, Stmt};
use crate::llvm::error::EmitError;

impl Emitter<'_, '_> {
    pub(super) fn statements(&mut self, list: List, body: &[Stmt]) -> Result<(), EmitError> {
        for (idx, stmt) in body.iter().enumerate() {
            self.path.0.push(Step { list, idx });
            match stmt {
                Stmt::Inst(inst) => self.inst(inst)?,
                Stmt::For(stmt) => self.for_loop(stmt)?,
                Stmt::If(stmt) => self.branch(stmt)?,
            }
            self.path.0.pop();
        }
        Ok(())
    }

    fn for_loop(&mut self, stmt: &For) -> Result<(), EmitError> {
        let (lo, hi) = (self.read(stmt.lo)?, self.read(stmt.hi)?.into_int_value());
        let [head, body, exit] =
            ["for", "for_body", "for_end"].map(|name| self.context.append_basic_block(self.function, name));
        self.write(stmt.var, lo)?;
        self.builder.build_unconditional_branch(head)?;

        self.builder.position_at_end(head);
        let var = self.read(stmt.var)?.into_int_value();
        let more = self.builder.build_int_compare(IntPredicate::SLT, var, hi, "more")?;
        self.builder.build_conditional_branch(more, body, exit)?;

        self.builder.position_at_end(body);
        self.statements(List::For, &stmt.body)?;
        let step = self.context.i64_type().const_int(stmt.step.cast_unsigned(), true);
        let next = self.builder.build_int_add(self.read(stmt.var)?.into_int_value(), step, "next")?;
        self.write(stmt.var, next.into())?;
        self.builder.build_unconditional_branch(head)?;

        self.builder.position_at_end(exit);
        Ok(())
    }

    fn branch(&mut self, stmt: &If) -> Result<(), EmitError> {
        let cond = self.read(stmt.cond)?.into_int_value();
        let [on_true, on_false, join] =
            ["then", "else", "endif"].map(|name| self.context.append_basic_block(self.function, name));
        self.builder.build_conditional_branch(cond, on_true, on_false)?;
        let arms = [(on_true, List::Then, &stmt.on_true), (on_false, List::Else, &stmt.on_false)];
        for (block, list, body) in arms {
            self.builder.position_at_end(block);
            self.statements(list, body)?;
            self.builder.build_unconditional_branch(join)?;
        }
        self.builder.position_at_end(join);
        Ok(())
    }
}
