use super::*;
use std::time::{Duration, Instant};

/// Far more than any seed takes, far less than a hang.
const MOST: Duration = Duration::from_secs(10);

#[test]
fn seeds_are_what_they_are_made_of() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(FOLDER);
    for (name, bytes) in seeds() {
        let path = folder.join(name).with_extension("onnx");
        if std::env::var_os("SSMC_BLESS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(
            fs::read(&path).is_ok_and(|found| found == bytes),
            "{name}: cargo xtask bless writes it anew"
        );
    }
}

#[test]
fn no_seed_breaks_a_target() {
    let fuzzer = Fuzzer::new().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(FOLDER);
    let mut n = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        for (name, target) in TARGETS {
            let start = Instant::now();
            target(&fuzzer, &bytes);
            assert!(start.elapsed() < MOST, "{name} on {}", path.display());
            n += 1;
        }
    }
    assert!(n >= 3 * seeds().len());
}

/// The advisories: each seed is refused, or does what a valid model may.
#[test]
fn seeds_of_advisories_are_refused() {
    let fuzzer = Fuzzer::new().unwrap();
    let path = fuzzer.folder().join("model.onnx");
    for (name, bytes) in seeds() {
        fs::write(&path, bytes).unwrap();
        let is_valid = import(&path).is_ok();
        assert_eq!(is_valid, name.starts_with("valid"), "{name}");
    }
}

#[test]
fn mutations_do_not_break_a_target() {
    let fuzzer = Fuzzer::new().unwrap();
    let pool: Vec<Vec<u8>> = seeds().into_iter().map(|(_, bytes)| bytes).collect();
    for (seed, (_, target)) in TARGETS.iter().enumerate() {
        let mut mutator = Mutator::new(seed as u64);
        for _ in 0..300 {
            target(&fuzzer, &mutator.next(&pool));
        }
    }
}
