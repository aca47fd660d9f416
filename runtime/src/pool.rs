//! A small pool of persistent threads that share out the blocks of a launch.
//!
//! The partition is static: thread `t` of `n` gets the `t`-th contiguous range of blocks. Nothing is stolen, so
//! what a thread computes depends on the number of threads only in which blocks it runs.
#![expect(unsafe_code, reason = "a borrowed job is lent to persistent threads")]

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::error::RuntimeError;

/// Polls before a thread parks: some ten microseconds, about what a wake-up costs.
const SPINS: u32 = 256;

type Job = &'static (dyn Fn(usize) + Sync);

/// A worker panicked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Panicked;

#[derive(Default)]
struct Slot {
    job: Option<Job>,
    shutdown: bool,
}

#[derive(Default)]
struct Shared {
    slot: Mutex<Slot>,
    /// Counts jobs and the shutdown; changes only while `slot` is locked.
    epoch: AtomicU64,
    wake: Condvar,
    /// Workers that have not finished the current job.
    pending: AtomicUsize,
    finished: Mutex<()>,
    done: Condvar,
    panicked: AtomicBool,
}

/// The pool; the thread that calls [`Pool::run`] works as thread 0.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `n_threads` threads, the caller's included.
    pub(crate) fn new(n_threads: usize) -> Result<Self, RuntimeError> {
        let mut pool = Self { shared: Arc::default(), workers: Vec::new() };
        for index in 1..n_threads {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name(format!("ssmc-{index}"))
                .spawn(move || work(&shared, index))
                .map_err(RuntimeError::Thread)?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Number of threads, the caller's included.
    pub(crate) fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `blocks` with disjoint ranges that cover `0..grid`, at most one per thread, and waits.
    ///
    /// # Errors
    /// If `blocks` panicked in any thread; all threads have finished by then.
    pub(crate) fn run(&mut self, grid: i64, blocks: &(dyn Fn(Range<i64>) + Sync)) -> Result<(), Panicked> {
        let n_threads = self.n_threads();
        let job = |thread: usize| {
            let range = partition(grid, thread, n_threads);
            if !range.is_empty() {
                blocks(range);
            }
        };
        if self.workers.is_empty() || grid <= 1 {
            return catch_unwind(AssertUnwindSafe(|| blocks(0..grid))).map_err(|_| Panicked);
        }
        self.start(&job);
        let own = catch_unwind(AssertUnwindSafe(|| job(0)));
        self.wait();
        let worker_panicked = self.shared.panicked.swap(false, Ordering::Relaxed);
        if own.is_err() || worker_panicked { Err(Panicked) } else { Ok(()) }
    }

    fn start(&self, job: &(dyn Fn(usize) + Sync)) {
        // SAFETY: the reference is used by workers only between here and the end of `wait`, which `run` calls
        // before it returns, whether or not its own part of the job panicked.
        let job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), Job>(job) };
        let mut slot = lock(&self.shared.slot);
        slot.job = Some(job);
        self.shared.pending.store(self.workers.len(), Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        drop(slot);
        self.shared.wake.notify_all();
    }

    fn wait(&self) {
        let is_done = || self.shared.pending.load(Ordering::Acquire) == 0;
        if !spin(is_done) {
            let mut guard = lock(&self.shared.finished);
            while !is_done() {
                guard = self.shared.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
        }
        lock(&self.shared.slot).job = None;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut slot = lock(&self.shared.slot);
        slot.shutdown = true;
        self.shared.epoch.fetch_add(1, Ordering::Release);
        drop(slot);
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // Jobs catch their panics, so a worker ends only by the shutdown.
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        spin(|| shared.epoch.load(Ordering::Acquire) != seen);
        let mut slot = lock(&shared.slot);
        while shared.epoch.load(Ordering::Acquire) == seen {
            slot = shared.wake.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
        seen = shared.epoch.load(Ordering::Acquire);
        if slot.shutdown {
            return;
        }
        let job = slot.job;
        drop(slot);
        if let Some(job) = job
            && catch_unwind(AssertUnwindSafe(|| job(index))).is_err()
        {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        if shared.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
            drop(lock(&shared.finished));
            shared.done.notify_all();
        }
    }
}

/// Polls `ready` a bounded number of times; returns whether it came true.
fn spin(ready: impl Fn() -> bool) -> bool {
    for _ in 0..SPINS {
        if ready() {
            return true;
        }
        std::hint::spin_loop();
    }
    false
}

/// Locks, also after a panic of another holder: the data is valid between any two statements here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The blocks of `thread`: contiguous, in order, of sizes that differ by at most one.
fn partition(grid: i64, thread: usize, n_threads: usize) -> Range<i64> {
    let (thread, n_threads) = (thread as i64, n_threads as i64);
    let (share, extra) = (grid / n_threads, grid % n_threads);
    let begin = thread * share + thread.min(extra);
    begin..begin + share + i64::from(thread < extra)
}

#[cfg(test)]
mod tests;
