//! Removal of arithmetic whose result nobody reads.
//!
//! Indices are taken apart and put together again; what that leaves, divisions by arguments above all, is a call in machine
//! code of GPUs, which assemblers keep, and around which they let no product of a warp group run.

use crate::kernel::{Inst, Kernel, Stmt};

/// Removes instructions without effect other than a register that is never read.
pub(super) fn remove_unused(kernel: &mut Kernel) {
    let mut uses = vec![0usize; kernel.regs.len()];
    count(&kernel.body, &mut uses);
    while sweep(&mut kernel.body, &mut uses) {}
}

fn count(body: &[Stmt], uses: &mut [usize]) {
    for stmt in body {
        match stmt {
            Stmt::Inst(inst) => inst.for_each_use(|reg| uses[reg.0 as usize] += 1),
            Stmt::For(l) => {
                uses[l.lo.0 as usize] += 1;
                uses[l.hi.0 as usize] += 1;
                count(&l.body, uses);
            }
            Stmt::If(i) => {
                uses[i.cond.0 as usize] += 1;
                count(&i.on_true, uses);
                count(&i.on_false, uses);
            }
        }
    }
}

/// Removes what is unused, from the end on, so that what only that reads goes with it. Whether anything was.
fn sweep(body: &mut Vec<Stmt>, uses: &mut [usize]) -> bool {
    let mut removed = false;
    let mut kept = Vec::with_capacity(body.len());
    for mut stmt in std::mem::take(body).into_iter().rev() {
        match &mut stmt {
            Stmt::Inst(inst) => {
                let is_unused = inst.dst().is_some_and(|dst| uses[dst.0 as usize] == 0);
                if is_unused && is_arithmetic(inst) {
                    inst.for_each_use(|reg| uses[reg.0 as usize] -= 1);
                    removed = true;
                    continue;
                }
            }
            Stmt::For(l) => removed |= sweep(&mut l.body, uses),
            Stmt::If(i) => {
                removed |= sweep(&mut i.on_false, uses);
                removed |= sweep(&mut i.on_true, uses);
            }
        }
        kept.push(stmt);
    }
    kept.reverse();
    *body = kept;
    removed
}

fn is_arithmetic(inst: &Inst) -> bool {
    matches!(
        inst,
        Inst::Const { .. }
            | Inst::Dim { .. }
            | Inst::BlockIdx { .. }
            | Inst::ThreadIdx { .. }
            | Inst::Copy { .. }
            | Inst::Unary { .. }
            | Inst::Binary { .. }
            | Inst::Compare { .. }
            | Inst::Select { .. }
            | Inst::Cast { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::text;

    #[test]
    fn chains_go_but_not_what_is_stored_or_decides() {
        let kernel = "kernel k {
  block 1 1 1
  param y: i64 write
  dim n

  %0: i64 = dim n
  %1: i64 = const 3
  %2: i64 = div %0, %1
  %3: i64 = rem %0, %1
  %4: i64 = mul %3, %3
  %5: bool = lt %2, %0
  if %5 {
    %6: i64 = sub %4, %2
    store y[%2], %0
  }
}
";
        let mut found = text::parse(kernel).unwrap_or_else(|fault| panic!("{fault:?}"));
        remove_unused(&mut found);
        let left = found.to_string();
        for op in ["div", "lt", "store"] {
            assert!(left.contains(op), "{left}");
        }
        for op in ["rem", "mul", "sub"] {
            assert!(!left.contains(op), "{left}");
        }
    }
}
