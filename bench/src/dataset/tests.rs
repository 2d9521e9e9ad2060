//! Goal: every sample is read once an epoch and right, and utilisation is what it says. Method: small runs on a directory.

use std::fs;

use super::options::{DatasetSetup, DatasetSpec};
use super::{run, utilisation};
use crate::backend::{Api, Connection};
use crate::phase::Phase;
use crate::results::{PhaseResult, of_phase};
use crate::session::Session;
use crate::tasks::launch::Launch;

fn spec(directory: &str) -> DatasetSpec {
    DatasetSpec {
        api: Api::Posix,
        directory: directory.to_owned(),
        tasks: 3,
        files: 20,
        samples_per_file: 5,
        sample_bytes: 3000,
        batch: 4,
        compute_ms: 0,
        prefetch: 2,
        epochs: 2,
        seed: 3,
        verify: true,
        make: true,
        remove: true,
    }
}

fn results(spec: &DatasetSpec) -> (Vec<PhaseResult>, String) {
    let connection = if spec.api == Api::Null { Connection::Null } else { Connection::Posix };
    let mut session = Session::start(spec.tasks, &Launch::Threads, &connection, None).expect("threads");
    let setup = DatasetSetup { spec: spec.clone(), json: None, command_line: String::new() };
    let mut text = Vec::new();
    let results = run(&setup, &mut session, &mut text).expect("a run");
    (results, String::from_utf8(text).expect("text"))
}

#[test]
fn every_sample_is_read_once_an_epoch() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("set").to_string_lossy().into_owned();
    let (all, text) = results(&DatasetSpec { remove: false, ..spec(&path) });
    let epochs: Vec<_> = of_phase(&all, Phase::Epoch).collect();
    assert_eq!(epochs.len(), 2);
    assert!(
        epochs.iter().all(|epoch| epoch.operations == 100 && epoch.bytes == 300_000 && epoch.errors == 0),
        "{text}"
    );
    // A sample that is wrong is found in each epoch: it is read once in each.
    let victim = spec(&path).file_of(7);
    let mut data = fs::read(&victim).expect("a file");
    data[3000] ^= 1;
    fs::write(&victim, data).expect("a file");
    let (all, text) = results(&DatasetSpec { make: false, ..spec(&path) });
    assert_eq!(of_phase(&all, Phase::Epoch).map(|epoch| epoch.errors).collect::<Vec<_>>(), [1, 1], "{text}");
    assert!(text.contains(&victim) && !fs::exists(&path).expect("a directory"), "{text}");
}

/// Reads that cost nothing keep an accelerator at its work; one that computes nothing is not used at all.
#[test]
fn utilisation_is_compute_time_over_time() {
    let quick =
        DatasetSpec { api: Api::Null, compute_ms: 20, verify: false, tasks: 1, epochs: 1, ..spec("none") };
    let (all, _) = results(&quick);
    let epoch = of_phase(&all, Phase::Epoch).next().expect("an epoch");
    let used = utilisation(epoch).mean;
    assert!(used > 0.5 && used <= 1.0, "{used} of {} batches", 25);
    assert!(epoch.total_s >= 25.0 * 0.02, "25 batches of 20 ms");
    let (all, _) = results(&DatasetSpec { compute_ms: 0, ..quick });
    assert!(utilisation(of_phase(&all, Phase::Epoch).next().expect("an epoch")).max < 1e-9);
}
