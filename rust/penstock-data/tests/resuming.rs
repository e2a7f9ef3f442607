//! The same bytes on every way there: threads, reruns, races, interruptions; and nothing of another job.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::PathBuf;

use penstock_bpe::progress::Progress;
use penstock_data::{Dataset, Error, PackMode, PackOptions, pack};
use support::{byte_tokenizer, corpus, files, options, pack_quietly, paths};

#[test]
fn threads_order_and_place_of_the_inputs_do_not_change_a_byte() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 200);
    let reference = folder.path().join("reference");
    pack_quietly(&paths(&corpus), &reference, &PackOptions { threads: 1, ..options() }).unwrap();
    let reference = files(&reference);
    assert!(reference.keys().all(|name| !name.contains("lock") && !name.contains("tmp")));
    for threads in [2, 3, 8] {
        let out = folder.path().join(format!("threads-{threads}"));
        pack_quietly(&paths(&corpus), &out, &PackOptions { threads, ..options() }).unwrap();
        assert!(files(&out) == reference, "{threads} threads");
    }
    let elsewhere = folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let mut moved: Vec<PathBuf> =
        corpus.iter().map(|(path, _)| elsewhere.join(path.file_name().unwrap())).collect();
    corpus.iter().zip(&moved).for_each(|((from, _), to)| assert!(fs::copy(from, to).is_ok()));
    moved.reverse();
    let out = folder.path().join("moved");
    pack_quietly(&moved, &out, &options()).unwrap();
    assert!(files(&out) == reference, "moved inputs in another order");
}

#[test]
fn a_rerun_does_only_what_is_missing_and_restores_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 100);
    let out = folder.path().join("out");
    pack_quietly(&paths(&corpus), &out, &options()).unwrap();
    let reference = files(&out);
    let again = |done, reused| {
        let report = pack_quietly(&paths(&corpus), &out, &options()).unwrap();
        assert_eq!((report.tasks_done, report.tasks_reused), (done, reused));
        assert!(files(&out) == reference);
    };
    again(0, 3);
    for (missing, redone) in [
        ("fragments/00001.json", 1),
        ("manifest.json", 0),
        ("shards/00002-00001.arrow", 1),
        ("documents/00000.arrow", 1),
    ] {
        fs::remove_file(out.join(missing)).unwrap();
        again(redone, 3 - redone);
    }
    // A fragment that rotted, and what a killed process leaves.
    let path = out.join("fragments/00000.json");
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::write(out.join("shards/.00000-00000.arrow.tmp"), b"half").unwrap();
    fs::write(out.join(".manifest.json.tmp"), b"half").unwrap();
    again(1, 2);
}

#[test]
fn shards_of_an_interrupted_task_do_not_outlive_it() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 100);
    let (reference, out) = (folder.path().join("reference"), folder.path().join("out"));
    pack_quietly(&paths(&corpus), &reference, &options()).unwrap();
    // Killed before its fragment, and then its input got other content of the same size in fewer shards.
    fs::create_dir_all(out.join("shards")).unwrap();
    for shard in 0..30 {
        fs::write(out.join(format!("shards/00001-{shard:05}.arrow")), b"old").unwrap();
    }
    pack_quietly(&paths(&corpus), &out, &options()).unwrap();
    assert!(files(&out).keys().eq(files(&reference).keys()));
}

#[test]
fn another_plan_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 30);
    let inputs = paths(&corpus);
    let out = folder.path().join("out");
    pack_quietly(&inputs, &out, &options()).unwrap();
    let refused = |inputs: &[PathBuf], options: &PackOptions, expected: &str| {
        let error = pack_quietly(inputs, &out, options).unwrap_err();
        assert!(matches!(&error, Error::OtherPlan { what, .. } if what.contains(expected)), "{error}");
        assert!(error.to_string().contains("choose another folder"));
    };
    refused(&inputs, &PackOptions { seq_len: 128, ..options() }, "parameters.seq_len");
    refused(&inputs, &PackOptions { mtp_depth: 0, ..options() }, "parameters.lookahead");
    refused(&inputs, &PackOptions { seed: 5, ..options() }, "parameters.seed");
    refused(&inputs, &PackOptions { mode: PackMode::Concatenate, ..options() }, "parameters.mode");
    refused(&inputs[..2], &options(), "inputs[2]");
    let error = pack(&inputs, &support::byte_tokenizer_without_eot(), &out, &options(), &Progress::new())
        .unwrap_err();
    assert!(matches!(&error, Error::OtherPlan { what, .. } if what.starts_with("tokenizer.")), "{error}");
    // Same name and size, other content.
    let mut bytes = fs::read(&inputs[1]).unwrap();
    let at = bytes.iter().position(|byte| *byte == b'w').unwrap();
    bytes[at] = b'v';
    fs::write(&inputs[1], bytes).unwrap();
    let error = pack_quietly(&inputs, &out, &options()).unwrap_err();
    assert!(matches!(&error, Error::InputChanged { path, .. } if *path == inputs[1]), "{error}");
}

#[test]
fn a_bad_input_leaves_no_manifest_and_a_rerun_finishes() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 50);
    let good = fs::read(&corpus[1].0).unwrap();
    let mut bad = good.clone();
    let at = bad.iter().position(|byte| *byte == b'{').unwrap();
    bad[at] = b'[';
    fs::write(&corpus[1].0, &bad).unwrap();
    let out = folder.path().join("out");
    let error = pack_quietly(&paths(&corpus), &out, &options()).unwrap_err();
    assert!(
        matches!(&error, Error::BadDocument { place, .. } if place.path == corpus[1].0 && place.line == 1),
        "{error}"
    );
    assert!(!out.join("manifest.json").exists());
    assert!(files(&out).keys().all(|name| !name.ends_with(".tmp")));
    assert!(matches!(Dataset::open(&out), Err(Error::NoManifest { .. })));
    fs::write(&corpus[1].0, &good).unwrap();
    pack_quietly(&paths(&corpus), &out, &options()).unwrap();
    let clean = folder.path().join("clean");
    pack_quietly(&paths(&corpus), &clean, &options()).unwrap();
    assert!(files(&out) == files(&clean));
}

#[test]
fn packers_in_one_folder_share_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 100);
    let reference = folder.path().join("reference");
    pack_quietly(&paths(&corpus), &reference, &options()).unwrap();
    let reference = files(&reference);
    for race in 0..10 {
        let out = folder.path().join(format!("race-{race}"));
        let done: u64 = std::thread::scope(|scope| {
            let packers: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| pack_quietly(&paths(&corpus), &out, &options()).unwrap()))
                .collect();
            packers.into_iter().map(|packer| packer.join().unwrap().tasks_done).sum()
        });
        assert_eq!(done, 3, "each task is done once");
        assert!(files(&out) == reference, "race {race}");
    }
}

#[test]
fn a_cancelled_job_stops_and_a_rerun_finishes() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 100);
    let out = folder.path().join("out");
    let progress = Progress::new();
    progress.cancel();
    let result = pack(&paths(&corpus), &byte_tokenizer(), &out, &options(), &progress);
    assert!(matches!(result, Err(Error::Cancelled)));
    assert!(!out.join("manifest.json").exists());
    pack_quietly(&paths(&corpus), &out, &options()).unwrap();
    Dataset::open(&out).unwrap().verify(&Progress::new()).unwrap();
}

#[test]
fn an_input_that_changes_while_it_is_packed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(folder.path(), 3000);
    let out = folder.path().join("out");
    // Enough documents and one thread, so that each file takes far longer than a touch.
    let one_thread = PackOptions { threads: 1, ..options() };
    let touched = fs::File::options().append(true).open(&corpus[1].0).unwrap();
    let found = std::thread::scope(|scope| {
        let packing = scope.spawn(|| pack_quietly(&paths(&corpus), &out, &one_thread));
        let mut time = std::time::SystemTime::UNIX_EPOCH;
        while !packing.is_finished() {
            time += std::time::Duration::from_secs(1);
            touched.set_modified(time).unwrap();
        }
        packing.join().unwrap()
    });
    assert!(matches!(&found, Err(Error::InputInMotion { path, .. }) if *path == corpus[1].0), "{found:?}");
    assert!(!out.join("manifest.json").exists());
    pack_quietly(&paths(&corpus), &out, &options()).unwrap();
}
