//! Every fuzz target takes what its corpus holds, and some thousand inputs made from it; and the
//! canary, which must be found, is found. `scripts/fuzz` does the same with libFuzzer for as long
//! as it is told to.
//!
//! FUZZ_INPUTS=N sets how many inputs each target gets, FUZZ_SEED=N which; a failure names both.

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "a library of its own under libFuzzer")]
mod targets;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

const INPUTS: u64 = 20_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 33) as usize) % end.max(1)
    }
}

/// The inputs of a target's corpus.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&directory).expect("a corpus").map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target}: no corpus");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One to four changes; now and then a piece of another input.
fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        let end = (at + 1 + random.below(8)).min(input.len());
        match random.below(6) {
            0 | 1 if at < input.len() => input[at] ^= 1 << random.below(8),
            2 if at < input.len() => input[at] = random.next() as u8,
            3 => drop(input.drain(at..end)),
            4 => {
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
            _ => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len());
                let to = (from + 1 + random.below(32)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
}

/// Gives a target its inputs; the first that it does not take.
fn first_failure(name: &str, run: fn(&[u8]), inputs: u64) -> Option<Vec<u8>> {
    let corpus = corpus(name);
    let mut random = Random(number("FUZZ_SEED", 0x7469_6465) | 1);
    let fails = |input: &[u8]| panic::catch_unwind(AssertUnwindSafe(|| run(input))).is_err();
    if let Some(input) = corpus.iter().find(|input| fails(input)) {
        return Some(input.clone());
    }
    for _ in 0..inputs {
        let mut input = corpus[random.below(corpus.len())].clone();
        mutate(&mut input, &corpus, &mut random);
        if fails(&input) {
            return Some(input);
        }
    }
    None
}

#[test]
fn every_target_takes_its_corpus_and_what_is_made_of_it() {
    let inputs = number("FUZZ_INPUTS", INPUTS);
    for (name, run) in targets::TARGETS {
        // A file is written for each input there.
        let inputs = if name == "configuration" { inputs / 10 } else { inputs };
        let failure = first_failure(name, run, inputs);
        assert!(failure.is_none(), "{name}: {:?}", failure.unwrap().escape_ascii().to_string());
    }
}

#[test]
fn the_canary_is_found() {
    assert!(first_failure("canary", targets::canary::run, 200_000).is_some());
}
