//! A small pool of persistent threads that run a list of launches together.
//!
//! The partition is static: part `t` of `n` is the `t`-th contiguous range of a launch's blocks, and thread `t` takes
//! it if it is there. A thread that has finished also takes the parts that nobody has begun: one that the machine
//! gives no processor then holds nobody up. A block's work is the same whoever does it, so results do not depend on
//! the threads.
//!
//! All launches of a list are one region: threads are woken once and meet after each launch at a counter, without the
//! operating system as long as none is late.
#![expect(unsafe_code, reason = "borrowed work is lent to persistent threads")]

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::error::RuntimeError;

/// Polls before a thread parks: some ten microseconds, about what a wake-up costs. One that waits longer does so for
/// a thread that lacks a processor, which parking frees.
const SPINS: u32 = 256;

/// The blocks of launches.
pub(crate) trait Launches: Sync {
    /// The number of launches.
    fn len(&self) -> usize;
    /// Blocks of a launch.
    fn grid(&self, launch: usize) -> i64;
    /// Runs some blocks of a launch; all earlier launches are complete.
    fn run(&self, launch: usize, blocks: Range<i64>);
}

/// A launch panicked: the first one that did, as far as it is known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Panicked {
    pub(crate) launch: usize,
}

/// Launches that are being run. Launches have numbers that no two of a pool share.
#[derive(Clone, Copy)]
struct Region {
    launches: *const dyn Launches,
    numbers: (u64, u64),
}

impl Region {
    /// Launches with numbers from `first` on.
    fn new(launches: &dyn Launches, first: u64) -> Self {
        let numbers = (first, first + launches.len() as u64);
        // SAFETY: it lengthens the lifetime in the type of a pointer; `help` says when that is followed.
        let launches = unsafe {
            std::mem::transmute::<*const (dyn Launches + '_), *const (dyn Launches + 'static)>(launches)
        };
        Self { launches, numbers }
    }
}

// SAFETY: the pointer is followed only while `Pool::run` borrows what it points to, and that is `Sync`.
unsafe impl Send for Region {}

#[derive(Default)]
struct Slot {
    region: Option<Region>,
    shutdown: bool,
}

struct Shared {
    slot: Mutex<Slot>,
    /// Counts regions and the shutdown; changes only while `slot` is locked.
    epoch: AtomicU64,
    wake: Condvar,
    /// For each part, the number of the first launch of which nobody has taken it.
    next: Vec<AtomicU64>,
    /// Parts of all launches that are done: a launch may begin when those of all before it are.
    done: AtomicU64,
    /// Threads that sleep until a launch is complete.
    sleepers: AtomicUsize,
    asleep: Mutex<()>,
    complete: Condvar,
    panicked: AtomicBool,
    /// Number of the launch that panicked.
    panicked_at: AtomicU64,
}

/// The pool; the thread that calls [`Pool::run`] works as thread 0.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `n_threads` threads, the caller's included.
    pub(crate) fn new(n_threads: usize) -> Result<Self, RuntimeError> {
        let shared = Arc::new(Shared::new(n_threads));
        let mut pool = Self { shared, workers: Vec::new() };
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

    /// Runs the launches one after another, the blocks of each shared out among the threads.
    ///
    /// # Errors
    /// If a launch panicked in any thread; no later one has run then, and no thread runs any.
    pub(crate) fn run(&mut self, launches: &dyn Launches) -> Result<(), Panicked> {
        let shared = &*self.shared;
        let first = shared.done.load(Ordering::Relaxed) / shared.n_parts();
        let region = Region::new(launches, first);
        if !self.workers.is_empty() {
            let mut slot = lock(&shared.slot);
            slot.region = Some(region);
            shared.epoch.fetch_add(1, Ordering::Release);
            drop(slot);
            shared.wake.notify_all();
        }
        shared.help(&region, 0);
        lock(&shared.slot).region = None;
        if shared.panicked.swap(false, Ordering::Relaxed) {
            let number = shared.panicked_at.load(Ordering::Relaxed);
            return Err(Panicked { launch: (number - first) as usize });
        }
        Ok(())
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
            // Launches' panics are caught, so a worker ends only by the shutdown.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn new(n_threads: usize) -> Self {
        Self {
            slot: Mutex::default(),
            epoch: AtomicU64::new(0),
            wake: Condvar::new(),
            next: (0..n_threads.max(1)).map(|_| AtomicU64::new(0)).collect(),
            done: AtomicU64::new(0),
            sleepers: AtomicUsize::new(0),
            asleep: Mutex::default(),
            complete: Condvar::new(),
            panicked: AtomicBool::new(false),
            panicked_at: AtomicU64::new(0),
        }
    }

    fn n_parts(&self) -> u64 {
        self.next.len() as u64
    }

    /// Works on a region until all its launches are complete. It may be complete, and gone, at any time before.
    fn help(&self, region: &Region, thread: usize) {
        let n = self.next.len();
        loop {
            let number = self.done.load(Ordering::SeqCst) / self.n_parts();
            if number >= region.numbers.1 {
                return;
            }
            // One's own part first.
            for part in (thread..n).chain(0..thread) {
                let taken =
                    self.next[part].compare_exchange(number, number + 1, Ordering::AcqRel, Ordering::Relaxed);
                if taken.is_ok() {
                    self.run_part(region, number, part);
                }
            }
            self.await_launch(number);
        }
    }

    /// Runs a part that this thread has taken.
    fn run_part(&self, region: &Region, number: u64, part: usize) {
        if !self.panicked.load(Ordering::Relaxed) {
            // SAFETY: this part counts as done only below, and `Pool::run` does not return before every part of the
            // region is done; nobody takes a part of a region that is complete.
            let launches = unsafe { &*region.launches };
            let launch = (number - region.numbers.0) as usize;
            let run = || {
                let blocks = partition(launches.grid(launch), part, self.next.len());
                if !blocks.is_empty() {
                    launches.run(launch, blocks);
                }
            };
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                self.panicked_at.store(number, Ordering::Relaxed);
                self.panicked.store(true, Ordering::Relaxed);
            }
        }
        let done = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        if done.is_multiple_of(self.n_parts()) && self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.asleep));
            self.complete.notify_all();
        }
    }

    /// Waits until the launch is complete.
    fn await_launch(&self, number: u64) {
        let is_complete = || self.done.load(Ordering::SeqCst) / self.n_parts() > number;
        if spin(is_complete) {
            return;
        }
        // Who completes the launch looks for sleepers after counting; a sleeper looks at the count after that.
        let mut guard = lock(&self.asleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !is_complete() {
            guard = self.complete.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
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
        let region = slot.region;
        drop(slot);
        if let Some(region) = region {
            shared.help(&region, index);
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

/// The blocks of `part`: contiguous, in order, of sizes that differ by at most one.
fn partition(grid: i64, part: usize, n_parts: usize) -> Range<i64> {
    let (part, n_parts) = (part as i64, n_parts as i64);
    let (share, extra) = (grid / n_parts, grid % n_parts);
    let begin = part * share + part.min(extra);
    begin..begin + share + i64::from(part < extra)
}

#[cfg(test)]
mod tests;
