//! Seeded faults for tests: kernels with one statement taken out.

use crate::kernel::{Inst, Kernel, Stmt};

/// Number of instructions that `is_it` recognizes.
pub(crate) fn count(kernel: &Kernel, is_it: &dyn Fn(&Inst) -> bool) -> usize {
    let mut n = 0;
    edit(&mut kernel.body.clone(), &mut |inst| {
        n += usize::from(is_it(inst));
        false
    });
    n
}

/// The kernel without the `nth` instruction that `is_it` recognizes.
pub(crate) fn without(kernel: &Kernel, nth: usize, is_it: &dyn Fn(&Inst) -> bool) -> Kernel {
    let mut kernel = kernel.clone();
    let mut seen = 0;
    edit(&mut kernel.body, &mut |inst| {
        let found = is_it(inst);
        seen += usize::from(found);
        found && seen == nth + 1
    });
    assert!(seen > nth, "{}: there are {seen} such instructions", kernel.name);
    kernel
}

/// Removes every instruction for which `remove` says so, in program order.
fn edit(body: &mut Vec<Stmt>, remove: &mut dyn FnMut(&Inst) -> bool) {
    body.retain_mut(|stmt| match stmt {
        Stmt::Inst(inst) => !remove(inst),
        Stmt::For(l) => {
            edit(&mut l.body, remove);
            true
        }
        Stmt::If(i) => {
            edit(&mut i.on_true, remove);
            edit(&mut i.on_false, remove);
            true
        }
    });
}
