#![expect(unsafe_code, reason = "the allocator is replaced by one that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ssmc_runtime::{TensorMut, TensorRef};

use crate::toy;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: all calls are passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of this thread during `run`.
fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

#[test]
fn runs_into_given_memory_allocate_nothing() {
    let mut session = toy::session();
    let mut state = session.new_state(2).unwrap();
    let mut logits = [0i32; 2];
    let a = [1.0f32; 40];
    let mut y = [0.0f32; 40];
    let count = allocations(|| {
        for round in 0..30 {
            let logits = TensorMut::new(&[2, 1], &mut logits).unwrap();
            session.step_into(&mut state, &[round, 3], logits).unwrap();
            if round % 10 == 9 {
                state.rollback(5).unwrap();
            }
            let n = 30 + round as usize % 10;
            let dims = [n];
            let inputs = ["a", "b"].map(|name| (name, TensorRef::new(&dims, &a[..n]).unwrap()));
            let mut outputs = [("y", TensorMut::new(&dims, &mut y[..n]).unwrap())];
            session.run_into("add_twice", &inputs, &mut outputs).unwrap();
        }
    });
    assert_eq!(count, 0);
    let returned = allocations(|| drop(session.step(&mut state, &[1, 2]).unwrap()));
    assert!(returned > 0, "the counter counts");
}
