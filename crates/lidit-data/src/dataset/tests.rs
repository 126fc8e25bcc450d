//! Reading samples of sets of every shape.

#![allow(clippy::unwrap_used)]
use std::fs;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, LargeBinaryArray, LargeStringArray};
use arrow::array::{ListBuilder, StringArray, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field};

use super::*;
use crate::test_shards::{array, config, png, write_bad_rows, write_columns, write_set};

fn open_error(config: &DataConfig) -> String {
    Dataset::open(config).err().unwrap().to_string()
}

#[test]
fn any_row_is_read_by_its_id_across_shards_and_row_groups() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), 23, 9, 4);
    let dataset = Dataset::open(&config(folder.path())).unwrap();
    assert_eq!((dataset.rows(), dataset.len()), (23, 23));
    for id in [22, 0, 8, 9, 3, 4, 17, 0] {
        let sample = dataset.sample(id).unwrap();
        assert_eq!(sample.captions.original, [format!("thing {id}")]);
        assert_eq!(sample.pixels[..3], [id as u8, 10, 20]);
    }
    assert!(dataset.sample(23).unwrap_err().to_string().contains("no sample 23"));
}

#[test]
fn pixels_are_channels_first_from_minus_one_to_one() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), 256, 256, 256);
    let dataset = Dataset::open(&config(folder.path())).unwrap();
    let mut out = [9.0; 48];
    dataset.sample(255).unwrap().write_chw(&mut out);
    assert_eq!(out[..16], [1.0; 16]);
    assert_eq!(out[16..32], [10.0 / 127.5 - 1.0; 16]);
    assert_eq!(out[32..], [20.0 / 127.5 - 1.0; 16]);
    dataset.sample(0).unwrap().write_chw(&mut out);
    assert_eq!(out[..16], [-1.0; 16]);
}

#[test]
fn the_usual_types_of_pictures_and_captions_are_read() {
    let bytes = png(7);
    let structs = StructArray::from(vec![
        (
            Arc::new(Field::new("bytes", DataType::Binary, true)),
            array(BinaryArray::from_vec(vec![&bytes])),
        ),
        (
            Arc::new(Field::new("path", DataType::Utf8, true)),
            array(StringArray::from(vec![None::<&str>])),
        ),
    ]);
    let mut list = ListBuilder::new(StringBuilder::new());
    list.values().append_value("one");
    list.values().append_null();
    list.values().append_value("two");
    list.append(true);
    let images: [ArrayRef; 3] = [
        array(BinaryArray::from_vec(vec![&bytes])),
        array(LargeBinaryArray::from_vec(vec![&bytes])),
        array(structs),
    ];
    let captions: [(ArrayRef, &[&str]); 3] = [
        (array(StringArray::from(vec!["one"])), &["one"]),
        (array(LargeStringArray::from(vec!["one"])), &["one"]),
        (array(list.finish()), &["one", "two"]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    for image in &images {
        for (caption, expected) in &captions {
            write_columns(&path, vec![("image", image.clone()), ("caption", caption.clone())]);
            let sample = Dataset::open(&config(&path)).unwrap().sample(0).unwrap();
            assert_eq!(
                (sample.captions.original, sample.pixels[0]),
                (expected.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>(), 7)
            );
        }
    }
}

#[test]
fn a_missing_column_names_those_there_are_and_a_wrong_type_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let numbers = || array(Int64Array::from(vec![1]));
    write_columns(&path, vec![("picture", numbers()), ("text", numbers())]);
    let message = open_error(&config(&path));
    assert!(
        message.ends_with("no column `image` (data.image_column); its columns are picture, text"),
        "{message}"
    );
    let message = open_error(&DataConfig {
        image_column: "picture".into(),
        ..config(&path)
    });
    assert!(
        message.contains("`picture` is int64; data.image_column must name binary"),
        "{message}"
    );
}

#[test]
fn unusable_rows_are_named_with_shard_row_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    write_bad_rows(&path);
    let dataset = Dataset::open(&config(&path)).unwrap();
    for id in [0, 4] {
        dataset.sample(id).unwrap();
    }
    for (id, reason) in [
        (1, "end of file"),
        (2, "its picture is null"),
        (3, "its caption is null"),
    ] {
        let message = dataset.sample(id).unwrap_err().to_string();
        assert!(
            message.contains(&format!("a.parquet: row {id} can't be used")),
            "{message}"
        );
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn captions_are_listed_and_found() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), 20, 7, 3);
    let subset = |max_samples| DataConfig {
        max_samples,
        ..config(folder.path())
    };
    let ten = Dataset::open(&subset(Some(10))).unwrap().captions().unwrap();
    let five = Dataset::open(&subset(Some(5))).unwrap().captions().unwrap();
    assert_eq!((ten.len(), &ten[..5]), (10, &five[..]));
    assert!(ten.iter().all(|(id, captions)| captions[0] == format!("thing {id}")));
    let dataset = Dataset::open(&subset(None)).unwrap();
    assert_eq!(dataset.find_caption("thing 13").unwrap(), Some(13));
    assert_eq!(dataset.find_caption("thing").unwrap(), None);
}

#[test]
fn more_samples_than_rows_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), 3, 3, 3);
    let message = open_error(&DataConfig {
        max_samples: Some(4),
        ..config(folder.path())
    });
    assert!(message.starts_with("data.max_samples is 4, but"), "{message}");
}

#[test]
fn the_digest_is_of_the_content_and_a_changed_shard_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
    write_set(&a, 6, 3, 3);
    write_set(&b, 6, 3, 3);
    let digest = |path: &Path| Dataset::open(&config(path)).unwrap().digest().to_owned();
    assert_eq!(digest(&a), digest(&b));
    let glob = |folder: &Path| digest(&folder.join("*.parquet"));
    assert_eq!(glob(&a), glob(&b));
    fs::copy(a.join("shard-00000.parquet"), b.join("shard-00001.parquet")).unwrap();
    write_set(&folder.path().join("c"), 5, 5, 5);
    fs::copy(
        folder.path().join("c/shard-00000.parquet"),
        b.join("shard-00000.parquet"),
    )
    .unwrap();
    let message = open_error(&config(&b));
    assert!(message.contains("but its manifest says"), "{message}");
    assert_ne!(glob(&a), glob(&b));
}

#[test]
fn shards_are_listed_in_order_with_what_a_manifest_says_of_their_content() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), 8, 3, 3);
    let of_folder = Dataset::open(&config(folder.path())).unwrap();
    let manifest = of_folder.manifests().next().unwrap();
    let listed: Vec<_> = manifest
        .shards
        .iter()
        .map(|shard| (folder.path().join(&shard.file), Some(shard.sha256.clone())))
        .collect();
    let shards = |dataset: &Dataset| {
        let shards = dataset.shards();
        let owned = shards.map(|(path, digest)| (path.to_owned(), digest.map(str::to_owned)));
        owned.collect::<Vec<_>>()
    };
    assert_eq!((shards(&of_folder), listed.len()), (listed.clone(), 3));
    let of_glob = Dataset::open(&config(&folder.path().join("shard-0000[12].parquet"))).unwrap();
    let bare: Vec<_> = listed[1..].iter().map(|(path, _)| (path.clone(), None)).collect();
    assert_eq!(shards(&of_glob), bare);
}
