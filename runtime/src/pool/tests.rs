use std::sync::atomic::AtomicU32;

use super::*;

fn check_partition(grid: i64, n_threads: usize) {
    let parts: Vec<_> = (0..n_threads).map(|thread| partition(grid, thread, n_threads)).collect();
    assert_eq!(parts[0].start, 0);
    assert_eq!(parts[n_threads - 1].end, grid);
    assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start), "{parts:?}");
    let lengths = parts.iter().map(|part| part.end - part.start);
    assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1, "{parts:?}");
}

#[test]
fn partitions_cover_the_grid_evenly() {
    for grid in [0, 1, 2, 7, 64, 1000, i64::MAX] {
        for n_threads in [1, 2, 3, 8, 100] {
            check_partition(grid, n_threads);
        }
    }
}

#[test]
fn every_block_runs_once() {
    for n_threads in [1, 2, 5] {
        let mut pool = Pool::new(n_threads).unwrap();
        for round in 0..500 {
            let grid = round % 17;
            let counts: Vec<AtomicU32> = (0..grid).map(|_| AtomicU32::new(0)).collect();
            let blocks = |range: Range<i64>| {
                for block in range {
                    counts[block as usize].fetch_add(1, Ordering::Relaxed);
                }
            };
            pool.run(grid, &blocks).unwrap();
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "round {round}");
        }
    }
}

#[test]
fn panics_are_contained() {
    for n_threads in [1, 3] {
        let mut pool = Pool::new(n_threads).unwrap();
        for bad in [0, 5, 8] {
            let blocks = |range: Range<i64>| assert!(!range.contains(&bad), "block {bad} fails on purpose");
            assert_eq!(pool.run(9, &blocks), Err(Panicked));
        }
        assert_eq!(pool.run(9, &|_| {}), Ok(()), "the pool goes on");
    }
}

#[test]
fn parked_workers_wake_up() {
    let mut pool = Pool::new(3).unwrap();
    let ran = AtomicU32::new(0);
    for _ in 0..3 {
        thread::sleep(std::time::Duration::from_millis(20));
        let blocks = |_| {
            ran.fetch_add(1, Ordering::Relaxed);
        };
        pool.run(3, &blocks).unwrap();
    }
    assert_eq!(ran.load(Ordering::Relaxed), 9);
}
