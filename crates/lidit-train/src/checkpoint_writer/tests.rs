#![allow(clippy::unwrap_used)]
use std::fs;

use super::*;
use crate::checkpoint::Checkpoint;

fn open(dir: &Path) -> CheckpointWriter {
    CheckpointWriter::with(dir, Retention::new(2, 0), 1, &World::solo()).unwrap()
}

fn steps(dir: &Path) -> Vec<u64> {
    let all = Checkpoint::list(dir).unwrap();
    all.iter()
        .map(|(step, checkpoint)| {
            checkpoint.as_ref().unwrap().verify().unwrap();
            *step
        })
        .collect()
}

fn desk(dir: &Path, rank: usize) -> Desk {
    Desk {
        rank,
        writers: 2,
        // Both ranks of one attempt see the same folder.
        folder: CheckpointFolder::open(dir, &World::solo()).unwrap(),
        retention: Retention::new(2, 0),
        written: None,
    }
}

#[test]
fn training_goes_on_while_a_checkpoint_is_written_and_hears_of_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::solo();
    let mut writer = open(dir.path());
    assert_eq!(writer.wait(&world).unwrap(), None);
    writer.start(Snapshot::example(3), Instant::now()).unwrap();
    assert!(writer.start(Snapshot::example(4), Instant::now()).is_err());
    let begun = Instant::now();
    let saved = loop {
        let progress = writer.progress();
        if let Some(saved) = writer.advance(progress, &world).unwrap() {
            break saved;
        }
        assert!(begun.elapsed() < Duration::from_mins(1));
    };
    assert_eq!(saved.step, 3);
    let checkpoint = Checkpoint::open(&dir.path().join("step-3")).unwrap();
    let files = &checkpoint.manifest().files;
    assert_eq!(saved.bytes, files.iter().map(|file| file.bytes).sum::<u64>());
    let twelve = |factor: f32| (0..12).map(|i| factor * i as f32).collect::<Vec<_>>();
    assert_eq!(checkpoint.masters().unwrap(), twelve(1.0));
    assert_eq!(checkpoint.ema(7).unwrap(), twelve(0.5));
    let moments = checkpoint.moments(3..9).unwrap();
    assert_eq!((moments.time, moments.first.as_slice()), (3, &twelve(2.0)[3..9]));
    assert_eq!(moments.second, &twelve(3.0)[3..9]);
    for step in 4..7 {
        writer.start(Snapshot::example(step), Instant::now()).unwrap();
        assert_eq!(writer.wait(&world).unwrap().unwrap().step, step);
    }
    assert_eq!(steps(dir.path()), [6, 5]);
}

#[test]
fn a_failed_write_says_rank_step_file_and_what_to_do_and_leaves_earlier_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::solo();
    let mut writer = open(dir.path());
    writer.start(Snapshot::example(1), Instant::now()).unwrap();
    writer.wait(&world).unwrap();
    // No safetensors file can have a hole.
    let mut snapshot = Snapshot::example(2);
    snapshot.manifest.layout[1].offset = 9;
    writer.start(snapshot, Instant::now()).unwrap();
    let message = writer.wait(&world).unwrap_err().to_string();
    for part in ["rank 0", "step 2", "model.safetensors", "--resume"] {
        assert!(message.contains(part), "{message}");
    }
    drop(writer);
    assert_eq!(steps(dir.path()), [1]);
}

#[test]
fn a_save_that_training_abandons_is_kept_when_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = open(dir.path());
    writer.start(Snapshot::example(5), Instant::now()).unwrap();
    drop(writer);
    assert_eq!(steps(dir.path()), [5]);
}

#[test]
fn without_the_other_ranks_part_there_is_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, mut second) = (desk(dir.path(), 0), desk(dir.path(), 1));
    second.folder = first.folder.clone();
    let part = |step: u64| {
        let mut snapshot = Snapshot::example(step);
        let mut optimizer = snapshot.optimizer.take().unwrap();
        optimizer.start = 12;
        Snapshot {
            weights: None,
            optimizer: Some(optimizer),
            ..snapshot
        }
    };
    first.carry_out(Order::Write(Box::new(Snapshot::example(1)))).unwrap();
    let message = format!("{:#}", first.carry_out(Order::Commit).unwrap_err());
    assert!(
        message.contains("rank 1") && message.contains("same folder"),
        "{message}"
    );
    first.carry_out(Order::Write(Box::new(Snapshot::example(2)))).unwrap();
    first.save_what_is_left();
    assert_eq!(steps(dir.path()), [0; 0]);

    let mut first = desk(dir.path(), 0);
    second.folder = first.folder.clone();
    second.carry_out(Order::Write(Box::new(part(3)))).unwrap();
    first.carry_out(Order::Write(Box::new(Snapshot::example(3)))).unwrap();
    second.save_what_is_left();
    assert_eq!(steps(dir.path()), [0; 0]);
    first.save_what_is_left();
    assert_eq!(steps(dir.path()), [3]);
    let whole = fs::read_dir(dir.path().join("step-3")).unwrap().count();
    assert_eq!(whole, 5, "model, average, two optimizer parts, manifest");
}
