//! Which of several schedules runs, by sizes that are known when kernels are launched.

use ssmc_ir::Dim;

/// 1 where `count` is at least `n`, a positive number, 0 elsewhere.
pub(super) fn reaches(count: &Dim, n: i64) -> Dim {
    count.floordiv(&Dim::from(n)).at_most(&Dim::from(1))
}

/// The schedules that may run, each with 1 where it does and 0 where another one does: the first whose number `count`
/// reaches, and the last one where it reaches none.
pub(super) fn shares<S>(count: &Dim, schedules: Vec<(i64, S)>) -> Vec<(S, Dim)> {
    let mut left = Dim::from(1);
    let mut all = Vec::new();
    let last = schedules.len().saturating_sub(1);
    for (i, (from, schedule)) in schedules.into_iter().enumerate() {
        let is_enough = if i == last { Dim::from(1) } else { reaches(count, from) };
        let share = left.clone() * &is_enough;
        left = left * &(Dim::from(1) - &is_enough);
        if share != Dim::from(0) {
            all.push((schedule, share));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use ssmc_ir::{Bindings, Symbol};

    #[test]
    fn one_schedule_runs_for_every_count() {
        let n = Symbol::new("n");
        let schedules = vec![(64, 'a'), (40, 'b'), (8, 'c')];
        let symbolic = shares(&Dim::symbol("n"), schedules.clone());
        for (count, expected) in [(0, 'c'), (7, 'c'), (39, 'c'), (40, 'b'), (63, 'b'), (64, 'a'), (500, 'a')]
        {
            assert_eq!(shares(&Dim::from(count), schedules.clone()), [(expected, Dim::from(1))]);
            let bindings = Bindings::from([(n.clone(), count)]);
            for (schedule, share) in &symbolic {
                let found = share.eval(&bindings).unwrap();
                assert_eq!(found, i64::from(*schedule == expected), "{schedule} of {count}");
            }
        }
        assert!(shares::<char>(&Dim::from(3), vec![]).is_empty());
    }
}
