//! The seeds of rust/fuzz, replayed: what was once found stays fixed.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../../fuzz/src/lib.rs"]
#[allow(missing_docs, unreachable_pub)]
mod targets;

use std::fs;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long each target is fed with changed seeds besides: `PENSTOCK_FUZZ_SECONDS`, no time by default.
fn fuzzing_time() -> Duration {
    let seconds = std::env::var("PENSTOCK_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or_default())
}

/// Random numbers that the start decides.
struct Draws(u64);

impl Draws {
    fn below(&mut self, limit: usize) -> usize {
        self.0 += 1;
        BuildHasherDefault::<DefaultHasher>::default().hash_one(self.0) as usize % limit.max(1)
    }
}

/// A seed with some of its bytes changed, dropped, repeated, or exchanged for those of another seed.
fn changed(seeds: &[Vec<u8>], draws: &mut Draws) -> Vec<u8> {
    let mut data = seeds[draws.below(seeds.len())].clone();
    for _ in 0..=draws.below(4) {
        let (start, largest) = (draws.below(data.len()), 1 << draws.below(8));
        let length = draws.below(largest);
        let range = start..(start + length).min(data.len());
        match draws.below(6) {
            0 if !data.is_empty() => data[start] ^= 1 << draws.below(8),
            1 if !data.is_empty() => data[start] = draws.below(256) as u8,
            2 => drop(data.drain(range)),
            3 => {
                let repeated = data[range].to_vec();
                data.splice(start..start, repeated);
            }
            4 => {
                let other = &seeds[draws.below(seeds.len())];
                let from = draws.below(other.len());
                let part = &other[from..(from + length).min(other.len())];
                data.splice(range, part.iter().copied());
            }
            _ => {
                const TELLING: &[u8] = b"\"[]{}(),:\\?*+|^$-0129 \n\0\xff\xc3\xed";
                data.splice(start..start, [TELLING[draws.below(TELLING.len())]]);
            }
        }
    }
    data
}

/// Runs changed seeds until the time is over. An input that panics is left in the folder for temporary files.
fn fuzz(target: &str, seeds: &[Vec<u8>], run: fn(&[u8])) {
    let (began, mut draws, mut runs) = (Instant::now(), Draws(0), 0_u64);
    while began.elapsed() < fuzzing_time() {
        let data = changed(seeds, &mut draws);
        if std::panic::catch_unwind(|| run(&data)).is_err() {
            let path = std::env::temp_dir().join(format!("penstock-fuzz-{target}"));
            fs::write(&path, &data).unwrap();
            panic!("{target}: run {runs} failed with {}", path.display());
        }
        runs += 1;
    }
}

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let mut seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    seeds.sort();
    assert!(seeds.len() >= 5, "{target} has {} seeds", seeds.len());
    let seeds: Vec<_> = seeds.iter().map(|seed| fs::read(seed).unwrap()).collect();
    for data in &seeds {
        run(data);
        // Cut files are the commonest damage.
        for cut in 1..8 {
            run(&data[..data.len() * cut / 8]);
        }
    }
    fuzz(target, &seeds, run);
}

#[test]
fn tokenizer_json() {
    replay("tokenizer_json", targets::tokenizer_json);
}

#[test]
fn tiktoken() {
    replay("tiktoken", targets::tiktoken);
}

#[test]
fn sentencepiece() {
    replay("sentencepiece", targets::sentencepiece);
}

#[test]
fn pattern() {
    replay("pattern", targets::pattern);
}

#[test]
fn encode_decode() {
    replay("encode_decode", targets::encode_decode);
}

#[test]
fn dataset() {
    replay("dataset", targets::dataset);
}
