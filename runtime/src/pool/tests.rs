use std::sync::atomic::AtomicU32;

use super::*;

/// Launches of these grids, all with the same work.
struct Each<F> {
    grids: Vec<i64>,
    work: F,
}

impl<F: Fn(usize, Range<i64>) + Sync> Launches for Each<F> {
    fn len(&self) -> usize {
        self.grids.len()
    }

    fn grid(&self, launch: usize) -> i64 {
        self.grids[launch]
    }

    fn run(&self, launch: usize, blocks: Range<i64>) {
        (self.work)(launch, blocks);
    }
}

fn check_partition(grid: i64, n_parts: usize) {
    let parts: Vec<_> = (0..n_parts).map(|part| partition(grid, part, n_parts)).collect();
    assert_eq!(parts[0].start, 0);
    assert_eq!(parts[n_parts - 1].end, grid);
    assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start), "{parts:?}");
    let lengths = parts.iter().map(|part| part.end - part.start);
    assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1, "{parts:?}");
}

#[test]
fn partitions_cover_the_grid_evenly() {
    for grid in [0, 1, 2, 7, 64, 1000, i64::MAX] {
        for n_parts in [1, 2, 3, 8, 100] {
            check_partition(grid, n_parts);
        }
    }
}

#[test]
fn every_block_runs_once() {
    for n_threads in [1, 2, 5] {
        let mut pool = Pool::new(n_threads).unwrap();
        for round in 0..100 {
            let grids: Vec<i64> = (0..round % 7).map(|launch| (round + launch) % 17).collect();
            let counts: Vec<Vec<AtomicU32>> =
                grids.iter().map(|&grid| (0..grid).map(|_| AtomicU32::new(0)).collect()).collect();
            let work = |launch: usize, blocks: Range<i64>| {
                for block in blocks {
                    counts[launch][block as usize].fetch_add(1, Ordering::Relaxed);
                }
            };
            pool.run(&Each { grids, work }).unwrap();
            assert!(counts.iter().flatten().all(|count| count.load(Ordering::Relaxed) == 1), "round {round}");
        }
    }
}

#[test]
fn a_launch_sees_all_that_earlier_ones_wrote() {
    const BLOCKS: usize = 6;
    const LAUNCHES: usize = 300;
    for n_threads in [1, 2, 3, 8] {
        let mut pool = Pool::new(n_threads).unwrap();
        let written: Vec<AtomicU32> = (0..2 * BLOCKS).map(|_| AtomicU32::new(0)).collect();
        // Each block adds up what all blocks of the launch before wrote.
        let work = |launch: usize, blocks: Range<i64>| {
            let (from, to) = ((launch % 2) * BLOCKS, ((launch + 1) % 2) * BLOCKS);
            for block in blocks {
                let read = |i: usize| written[from + i].load(Ordering::Relaxed);
                let sum = (0..BLOCKS).map(read).fold(1u32, u32::wrapping_add);
                written[to + block as usize].store(sum, Ordering::Relaxed);
            }
        };
        for _ in 0..5 {
            written.iter().for_each(|x| x.store(0, Ordering::Relaxed));
            pool.run(&Each { grids: vec![BLOCKS as i64; LAUNCHES], work: &work }).unwrap();
            let expected = (0..LAUNCHES).fold(0u32, |x, _| x.wrapping_mul(BLOCKS as u32).wrapping_add(1));
            let last = (LAUNCHES % 2) * BLOCKS;
            let found = (0..BLOCKS).map(|i| written[last + i].load(Ordering::Relaxed));
            assert!(found.into_iter().all(|x| x == expected), "{n_threads} threads");
        }
    }
}

#[test]
fn a_thread_without_a_processor_holds_nobody_up() {
    let mut pool = Pool::new(2).unwrap();
    // As if the worker slept: it cannot learn of the region.
    let shared = Arc::clone(&pool.shared);
    let slot = lock(&shared.slot);
    let region_ran = AtomicU32::new(0);
    let work = |_: usize, blocks: Range<i64>| {
        region_ran.fetch_add((blocks.end - blocks.start) as u32, Ordering::Relaxed);
    };
    let launches = Each { grids: vec![4; 10], work };
    let first = shared.done.load(Ordering::Relaxed) / shared.n_parts();
    shared.help(&Region::new(&launches, first), 0);
    assert_eq!(region_ran.load(Ordering::Relaxed), 40);
    drop(slot);
    pool.run(&Each { grids: vec![3; 4], work: |_, _| {} }).unwrap();
}

#[test]
fn panics_are_contained() {
    for n_threads in [1, 3] {
        let mut pool = Pool::new(n_threads).unwrap();
        for bad in [0, 5, 8] {
            let later = AtomicU32::new(0);
            let work = |launch: usize, blocks: Range<i64>| match launch {
                0 => {}
                1 => assert!(!blocks.contains(&bad), "block {bad} fails on purpose"),
                _ => {
                    later.fetch_add(1, Ordering::Relaxed);
                }
            };
            assert_eq!(pool.run(&Each { grids: vec![9; 3], work }), Err(Panicked { launch: 1 }));
            assert_eq!(later.load(Ordering::Relaxed), 0, "no launch follows one that panicked");
        }
        assert_eq!(pool.run(&Each { grids: vec![9], work: |_, _| {} }), Ok(()), "the pool goes on");
    }
}

#[test]
fn parked_workers_wake_up() {
    let mut pool = Pool::new(3).unwrap();
    let ran = AtomicU32::new(0);
    for _ in 0..3 {
        thread::sleep(std::time::Duration::from_millis(20));
        let work = |_: usize, blocks: Range<i64>| {
            ran.fetch_add((blocks.end - blocks.start) as u32, Ordering::Relaxed);
            // Longer than threads spin.
            thread::sleep(std::time::Duration::from_millis(2));
        };
        pool.run(&Each { grids: vec![3, 1, 3], work }).unwrap();
    }
    assert_eq!(ran.load(Ordering::Relaxed), 21);
}
