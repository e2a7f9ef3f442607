//! A packer that is killed costs at most the tasks under way: the next one finishes with the same bytes.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use penstock_bpe::progress::Progress;
use penstock_data::{Dataset, Error, PackOptions};
use support::{corpus, files, options, pack_splitting, paths};

const FOLDER: &str = "PENSTOCK_TEST_KILLED_PACKER";
const DOCUMENTS: usize = 1500;
/// What is split at random must be the same after a kill.
const SHARE: f64 = 0.3;

fn inputs(folder: &std::path::Path) -> Vec<PathBuf> {
    (0..3).map(|i| folder.join(format!("part-{i}.jsonl"))).collect()
}

/// Not a test of its own: the process that the other one kills.
#[test]
fn packs_when_told_to() {
    if let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) {
        pack_splitting(&inputs(&folder), &folder.join("killed"), SHARE, options()).unwrap();
    }
}

#[test]
fn killed_packers_leave_what_the_next_one_can_finish() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), DOCUMENTS);
    assert_eq!(paths(&corpus), inputs(folder.path()));
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    pack_splitting(&paths(&corpus), &whole, SHARE, PackOptions { threads: 1, ..options() }).unwrap();
    let whole = files(&whole);
    let mut unfinished = 0;
    for round in 0..4 {
        let _ = std::fs::remove_dir_all(&killed);
        for attempt in 0..12 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["packs_when_told_to", "--exact", "--quiet"])
                .env(FOLDER, folder.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(4 + 3 * attempt + round));
            child.kill().unwrap();
            child.wait().unwrap();
            if killed.join("manifest.json").exists() {
                // Whatever is there under its final name is whole.
                Dataset::open(&killed).unwrap().verify(&Progress::new()).unwrap();
                break;
            }
            assert!(matches!(Dataset::open(&killed), Err(Error::NoManifest { .. })));
            unfinished += 1;
        }
        pack_splitting(&paths(&corpus), &killed, SHARE, options()).unwrap();
        assert!(files(&killed) == whole, "round {round}");
    }
    assert!(unfinished >= 4, "only {unfinished} packers were killed while at work");
}
