//! The fuzz corpora replayed on the stable toolchain: what a fuzzer has found once stays found.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test: clippy does not see that its helpers are")]

use std::{fs, path::Path};

/// The very bodies of the fuzz targets.
#[path = "../../fuzz/src/lib.rs"]
mod targets;

/// An input of a corpus is a small example, not a load test.
const INPUT_BYTES_MAX: u64 = 128 << 10;

#[test]
fn every_input_of_every_corpus_keeps_its_promise() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, target) in targets::TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpora.join(name)).unwrap() {
            let path = entry.unwrap().path();
            assert!(fs::metadata(&path).unwrap().len() <= INPUT_BYTES_MAX, "{} is too large", path.display());
            // The name is printed only when the target panics.
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
            inputs += 1;
        }
        assert!(inputs >= 10, "the corpus of {name} has {inputs} inputs");
    }
}

#[test]
fn the_targets_are_those_that_are_fuzzed() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/Cargo.toml");
    let text = fs::read_to_string(manifest).unwrap();
    let listed: Vec<&str> =
        text.split("[[bin]]\nname = \"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(listed, targets::TARGETS.map(|(name, _)| name));
}
