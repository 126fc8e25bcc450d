//! Whole builds: each kind of input, odd ones, and what a killed one leaves.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use ::tar::{Builder, Header};
use arrow::array::{ArrayRef, BinaryArray, ListBuilder, StringArray, StringBuilder, StructArray};
use arrow::datatypes::{DataType, Field};
use image::{Rgb, RgbImage};
use tempfile::TempDir;

use super::*;
use crate::block::Columns;
use crate::bucket::Bucket;
use crate::image::to_png;
use crate::shard_set::ShardSet;
use crate::test_shards::{array, write_bad_rows, write_columns};

fn png(width: u32, height: u32, red: u8) -> Vec<u8> {
    to_png(&RgbImage::from_pixel(width, height, Rgb([red, 10, 20]))).unwrap()
}

fn folder_source(path: &Path) -> BuildSource {
    BuildSource::Folder(FolderSource {
        path: path.to_owned(),
        json_field: "caption".into(),
        synthetic_field: None,
    })
}

fn list_source(path: &Path) -> BuildSource {
    BuildSource::List(ListSource {
        path: path.to_owned(),
        image_column: None,
        caption_column: None,
        synthetic_column: None,
    })
}

fn tar_source(path: &Path) -> BuildSource {
    BuildSource::Tar(TarSource {
        path: path.to_owned(),
        image_keys: vec!["jpg".into(), "png".into()],
        caption_keys: vec!["txt".into(), "json".into()],
        json_field: "caption".into(),
        synthetic_field: None,
    })
}

fn parquet_source(path: &Path) -> BuildSource {
    BuildSource::Parquet(ParquetSource {
        path: path.to_owned(),
        image_column: "image".into(),
        caption_column: "caption".into(),
        synthetic_column: None,
    })
}

fn request(source: BuildSource) -> Build {
    Build {
        source,
        name: "things".into(),
        recipe: "data build".into(),
        licences: vec![],
        resize: None,
        buckets: None,
        shard_size: ShardSize::Rows(1000),
        on_bad: OnBad::Skip,
    }
}

// A folder to make an input in, with the place of the set.
fn place() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in"), folder.path().join("out"));
    fs::create_dir(&input).unwrap();
    (folder, input, out)
}

fn write(folder: &Path, files: &[(&str, &[u8])]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn write_tar(path: &Path, members: &[(&str, &[u8])]) {
    let mut tar = Builder::new(File::create(path).unwrap());
    for (name, bytes) in members {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.finish().unwrap();
}

// Texts of a column, row by row; alternatives joined by `|`.
fn texts(set: &Path, column: &str) -> Vec<String> {
    let set = ShardSet::open(set).unwrap();
    let ids: Vec<u64> = (0..set.rows()).collect();
    let columns = Columns {
        caption: Some(column),
        ..Columns::default()
    };
    let mut texts = Vec::new();
    set.read(&ids, columns, |_, row| texts.push(row.captions.join("|")))
        .unwrap();
    texts
}

fn images(set: &Path) -> Vec<Vec<u8>> {
    let set = ShardSet::open(set).unwrap();
    let ids: Vec<u64> = (0..set.rows()).collect();
    let columns = Columns {
        image: Some("image"),
        ..Columns::default()
    };
    let mut images = Vec::new();
    set.read(&ids, columns, |_, row| images.push(row.image.unwrap().to_vec()))
        .unwrap();
    images
}

fn bytes_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    files
        .map(|file| {
            let name = file.file_name().into_string().unwrap();
            (name, fs::read(file.path()).unwrap())
        })
        .collect()
}

fn reasons(built: &Built) -> Vec<(u64, String)> {
    let skipped = built.first_skipped.iter();
    skipped
        .map(|row| (row.row, format!("{}: {}", row.place, row.reason)))
        .collect()
}

fn assert_reasons(built: &Built, expected: &[(u64, &str)]) {
    let found = reasons(built);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((row, text), (expected_row, part)) in found.iter().zip(expected) {
        assert!(
            row == expected_row && text.contains(part),
            "{row} {text}; wanted {part}"
        );
    }
    assert_eq!(built.skipped, expected.len() as u64);
}

#[test]
fn a_folder_gives_its_pictures_in_the_order_of_their_paths() {
    let (_folder, input, out) = place();
    let picture = png(20, 10, 1);
    write(
        &input,
        &[
            ("b/näme 猫.PNG", &picture),
            ("b/näme 猫.txt", "  a cat, \"quoted\"\nand more \n".as_bytes()),
            ("a.jpg", b"no picture"),
            ("a.txt", b"broken"),
            ("b.png", &png(4, 4, 2)),
            ("b.json", br#"{"caption": ["one", "two"], "other": 3}"#),
            ("c.png", &picture),
            ("d.png", &picture),
            ("d.json", br#"{"caption": 3}"#),
            ("e.png", &picture),
            ("e.txt", b"from txt"),
            ("e.json", br#"{"caption": "from json"}"#),
            ("f.png", &picture),
            ("f.txt", &[0xFF, 0xFE]),
            ("g.png", &picture),
            ("g.txt", b""),
            ("notes.md", b"not for us"),
        ],
    );
    let built = build(&request(folder_source(&input)), &out, |_| {}).unwrap();
    assert_eq!(texts(&out, "key"), ["b.png", "b/näme 猫.PNG", "e.png", "g.png"]);
    let captions = texts(&out, "caption");
    assert_eq!(captions, ["one|two", "a cat, \"quoted\"\nand more", "from txt", ""]);
    assert_eq!(images(&out)[1], picture);
    let kinds: Vec<_> = built
        .manifest
        .columns
        .iter()
        .map(|column| column.kind.as_str())
        .collect();
    assert_eq!(kinds, ["string", "binary", "list<string>", "uint32", "uint32"]);
    assert_reasons(
        &built,
        &[
            (0, "a.jpg: is text, not a JPEG"),
            (3, "c.png: it has no caption: no .txt or .json"),
            (4, "d.png: `caption` is a number"),
            (6, "f.png: its caption is not UTF-8"),
        ],
    );
    let list = fs::read_to_string(out.join("skipped.jsonl")).unwrap();
    assert_eq!(list.lines().count(), 4);
    assert_eq!(built.manifest.files[0].lines, 4);
    // A set with such a list is replaced like any other.
    build(&request(folder_source(&input)), &out, |_| {}).unwrap();
}

#[test]
fn a_table_gives_quotes_line_breaks_and_its_own_columns() {
    let (_folder, input, out) = place();
    write(
        &input,
        &[
            ("1.png", &png(5, 5, 1)),
            ("sub/2.png", &png(5, 5, 2)),
            (
                "list.csv",
                "\u{FEFF}title,file_name,text,short\nx,1.png,\"a \"\"red\"\"\nthing, big\",s\ny,missing.png,gone,\n\
                 z,sub/2.png,second,\ntoo,few\nu,https://example.org/a.png,far,\nv,,empty,\n"
                    .as_bytes(),
            ),
        ],
    );
    let mut source = ListSource {
        path: input.join("list.csv"),
        image_column: None,
        caption_column: None,
        synthetic_column: Some("short".into()),
    };
    let built = build(&request(BuildSource::List(source.clone())), &out, |_| {}).unwrap();
    assert_eq!(texts(&out, "key"), ["1.png", "sub/2.png"]);
    assert_eq!(texts(&out, "caption"), ["a \"red\"\nthing, big", "second"]);
    assert_eq!(texts(&out, "synthetic_caption"), ["s", ""]);
    assert_reasons(
        &built,
        &[
            (1, "no file"),
            (3, "line 6: it has 2 fields, the header 4"),
            (4, "not a path"),
            (5, "its path is empty"),
        ],
    );
    source.caption_column = Some("caption".into());
    let message = build(&request(BuildSource::List(source)), &out, |_| {})
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("no column `caption` (--caption-column); its columns are title, file_name, text, short"),
        "{message}"
    );
}

#[test]
fn json_lines_may_hold_alternatives() {
    let (_folder, input, out) = place();
    let lines = r#"{"image": "1.png", "caption": "one"}

{"image": "1.png", "caption": ["one", "two"]}
{"image": "1.png", "caption": {"en": "one"}}
{"image": 3, "caption": "one"}
not json
{"image": "1.png", "text": "other name"}
"#;
    write(&input, &[("1.png", &png(5, 5, 1)), ("list.jsonl", lines.as_bytes())]);
    let built = build(&request(list_source(&input.join("list.jsonl"))), &out, |_| {}).unwrap();
    assert_eq!(texts(&out, "caption"), ["one", "one|two", "other name"]);
    assert_reasons(
        &built,
        &[
            (2, "list.jsonl line 4: `caption` is an object"),
            (3, "line 5: its path is not a string"),
            (4, "line 6: not JSON"),
        ],
    );
}

#[test]
fn tars_give_samples_of_consecutive_members() {
    let (_folder, input, out) = place();
    let picture = png(5, 5, 1);
    let long = "x".repeat(150);
    write_tar(
        &input.join("00001.tar"),
        &[
            ("./a.png", &picture),
            ("./a.txt", b"first"),
            ("a.b.c", b"an ending of two parts"),
            ("dir/a.JSON", br#"{"caption": "second"}"#),
            ("dir/a.png", &picture),
            (&format!("{long}.txt"), b"third"),
            (&format!("{long}.png"), &picture),
            ("._hidden.png", b"x"),
            ("no-caption.png", &picture),
            ("no-picture.txt", b"nothing"),
            ("twice.png", &picture),
            ("twice.png", &picture),
            ("twice.txt", b"which"),
        ],
    );
    // A name that returns later is a sample of its own.
    write_tar(
        &input.join("00000.tar"),
        &[
            ("z.png", &picture),
            ("z.txt", b"zero"),
            ("y.png", &picture),
            ("y.txt", b"one"),
            ("z.png", &picture),
            ("z.txt", b"two"),
        ],
    );
    let built = build(&request(tar_source(&input)), &out, |_| {}).unwrap();
    let captions = texts(&out, "caption");
    assert_eq!(captions, ["zero", "one", "two", "first", "second", "third"]);
    let keys = texts(&out, "key");
    assert_eq!(
        keys[..5],
        [
            "00000.tar/z",
            "00000.tar/y",
            "00000.tar/z",
            "00001.tar/a",
            "00001.tar/dir/a"
        ]
    );
    assert_eq!(keys[5], format!("00001.tar/{long}"));
    assert_reasons(
        &built,
        &[
            (6, "00001.tar/no-caption: it has no caption: no member .txt, .json"),
            (7, "00001.tar/no-picture: it has no picture: no member .jpg, .png"),
            (8, "00001.tar/twice: it has more than one member .png"),
        ],
    );
}

#[test]
fn tars_that_are_cut_off_compressed_or_not_there_are_named() {
    let (_folder, input, out) = place();
    let message = |path: &Path| build(&request(tar_source(path)), &out, |_| {}).unwrap_err().to_string();
    assert!(message(&input).contains("no tars"));
    let path = input.join("a.tar");
    write_tar(
        &path,
        &[
            ("a.txt", b"x"),
            ("a.png", &png(64, 64, 1)),
            ("b.txt", &[b'x'; 3000]),
            ("b.png", b"y"),
        ],
    );
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 5000]).unwrap();
    assert!(
        message(&path).contains("a.tar: is cut off inside its member b.txt"),
        "{}",
        message(&path)
    );
    fs::write(&path, [0x1F, 0x8B, 8, 0]).unwrap();
    assert!(message(&path).contains("is compressed: unpack it first"));
    fs::write(&path, [7; 1024]).unwrap();
    assert!(message(&path).contains("a.tar: "), "{}", message(&path));
    assert_eq!(fs::read_dir(input.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn parquet_is_cut_anew_and_keeps_keys_alternatives_and_bytes() {
    let (_folder, input, out) = place();
    let picture = png(5, 5, 1);
    let pictures: Vec<Option<&[u8]>> = vec![Some(&picture), None, Some(&picture)];
    let mut captions = ListBuilder::new(StringBuilder::new());
    captions.append_value([Some("one"), Some("two")]);
    captions.append_value([Some("three")]);
    captions.append_value([Some("four")]);
    let image = StructArray::from(vec![
        (
            Field::new("bytes", DataType::Binary, true).into(),
            array(BinaryArray::from_iter(pictures)),
        ),
        (
            Field::new("path", DataType::Utf8, true).into(),
            array(StringArray::from(vec!["a", "b", "c"])) as ArrayRef,
        ),
    ]);
    let synthetic = array(StringArray::from(vec![Some("made up"), None, None]));
    write_columns(
        &input.join("hf.parquet"),
        vec![
            ("image", array(image)),
            ("caption", array(captions.finish())),
            ("recaption", synthetic),
        ],
    );
    let source = ParquetSource {
        path: input.clone(),
        image_column: "image".into(),
        caption_column: "caption".into(),
        synthetic_column: Some("recaption".into()),
    };
    let built = build(&request(BuildSource::Parquet(source)), &out, |_| {}).unwrap();
    assert_eq!(texts(&out, "caption"), ["one|two", "four"]);
    assert_eq!(texts(&out, "key"), ["hf.parquet#0", "hf.parquet#2"]);
    assert_eq!(texts(&out, "synthetic_caption"), ["made up", ""]);
    assert_eq!(images(&out), [picture.clone(), picture]);
    assert_reasons(&built, &[(1, "hf.parquet row 1: its picture is null")]);
    // Our own sets keep their keys.
    let again = out.with_file_name("again");
    build(&request(parquet_source(&out)), &again, |_| {}).unwrap();
    assert_eq!(texts(&again, "key"), ["hf.parquet#0", "hf.parquet#2"]);
}

#[test]
fn bad_rows_are_skipped_or_stop_the_build_by_choice() {
    let (_folder, input, out) = place();
    write_bad_rows(&input.join("a.parquet"));
    let mut wanted = request(parquet_source(&input));
    wanted.on_bad = OnBad::Stop;
    let message = build(&wanted, &out, |_| {}).unwrap_err().to_string();
    assert!(
        message.contains("a.parquet row 2: its picture is null; mend it"),
        "{message}"
    );
    assert!(!out.exists());
    wanted.on_bad = OnBad::Skip;
    let built = build(&wanted, &out, |_| {}).unwrap();
    assert_eq!((built.manifest.rows, built.skipped), (3, 2));
}

#[test]
fn an_input_without_a_usable_row_is_an_error_that_leaves_the_earlier_set() {
    let (_folder, input, out) = place();
    let message = || {
        build(&request(folder_source(&input)), &out, |_| {})
            .unwrap_err()
            .to_string()
    };
    assert!(message().contains("holds no pictures"));
    write(&input, &[("a.png", &png(4, 4, 1)), ("a.txt", b"one")]);
    build(&request(folder_source(&input)), &out, |_| {}).unwrap();
    let before = bytes_of(&out);
    fs::remove_file(input.join("a.txt")).unwrap();
    let said = message();
    assert!(
        said.contains("none of its 1 rows can be used; the first, a.png: it has no caption"),
        "{said}"
    );
    assert_eq!(bytes_of(&out), before);
    assert_eq!(fs::read_dir(input.parent().unwrap()).unwrap().count(), 2);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_one_to_nothing_or_in_a_circle_is_named() {
    use std::os::unix::fs::symlink;
    let (_folder, input, out) = place();
    let elsewhere = input.with_file_name("elsewhere");
    write(&elsewhere, &[("a.png", &png(4, 4, 1)), ("a.txt", b"linked")]);
    symlink(&elsewhere, input.join("sub")).unwrap();
    symlink("nothing", input.join("b.png")).unwrap();
    symlink("nothing", input.join("c")).unwrap();
    fs::write(input.join("b.txt"), "gone").unwrap();
    let built = build(&request(folder_source(&input)), &out, |_| {}).unwrap();
    assert_eq!(texts(&out, "key"), ["sub/a.png"]);
    assert_reasons(&built, &[(0, "b.png: no file")]);
    symlink(&input, elsewhere.join("back")).unwrap();
    let message = build(&request(folder_source(&input)), &out, |_| {})
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("sub/back: links to a folder that it lies in"),
        "{message}"
    );
}

// Pictures of several shapes, one in five without a caption.
fn write_shapes(input: &Path, count: u32) {
    for number in 0..count {
        let (width, height) = [(32, 32), (64, 30), (30, 64), (300, 10)][number as usize % 4];
        let name = format!("{number:03}");
        fs::write(input.join(format!("{name}.png")), png(width, height, number as u8)).unwrap();
        if number % 5 != 4 {
            fs::write(input.join(format!("{name}.txt")), format!("thing {number}")).unwrap();
        }
    }
}

const GRID: BucketGrid = BucketGrid {
    side: 64,
    step: 16,
    max_ratio: 2,
};

#[test]
fn with_buckets_every_shard_is_of_one_shape_and_the_order_within_is_kept() {
    let (_folder, input, out) = place();
    write_shapes(&input, 40);
    let mut wanted = request(folder_source(&input));
    wanted.buckets = Some(GRID);
    wanted.shard_size = ShardSize::Rows(7);
    let built = build(&wanted, &out, |_| {}).unwrap();
    assert_eq!(built.manifest.buckets, Some(GRID));
    let shards = built.manifest.shards.iter();
    let shards: Vec<_> = shards.map(|shard| (shard.file.as_str(), shard.rows)).collect();
    let expected = [
        ("48x80-00000.parquet", 7),
        ("48x80-00001.parquet", 1),
        ("64x64-00000.parquet", 7),
        ("64x64-00001.parquet", 1),
        ("80x48-00000.parquet", 7),
        ("80x48-00001.parquet", 7),
        ("80x48-00002.parquet", 2),
    ];
    assert_eq!(shards, expected);
    let bucket = Bucket { width: 48, height: 80 };
    assert_eq!(built.manifest.shards[0].bucket, Some(bucket));
    let captions = texts(&out, "caption");
    assert_eq!(captions[..3], ["thing 2", "thing 6", "thing 10"]);
    // Far beyond the grid's ratio, so in the widest bucket, among the others in the input's order.
    assert_eq!(captions[16..19], ["thing 1", "thing 3", "thing 5"]);
}

// Without the noise of a panic.
fn die_at(row: u64, told: &BuildProgress) {
    if told.rows >= row {
        resume_unwind(Box::new("killed"));
    }
}

// The set as it is without a kill, then with one at every row.
fn check_kills(wanted: &Build, rows: u64) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("whole");
    build(wanted, &out, |_| {}).unwrap();
    let whole = bytes_of(&out);
    let mut resumed = 0;
    for kill in (1..=rows).filter(|row| row % 3 == 0 || *row > rows - 4) {
        let out = folder.path().join(format!("killed-{kill}"));
        let died = catch_unwind(AssertUnwindSafe(|| {
            build(wanted, &out, |told| die_at(kill, told)).map(|_| ())
        }));
        assert!(died.is_err() && !out.exists(), "row {kill}");
        let mut first = None;
        let built = build(wanted, &out, |told| {
            first.get_or_insert(told.rows);
        })
        .unwrap();
        if let BuildStart::Resumed { rows } = built.start {
            resumed += 1;
            assert!(rows > 0 && first.unwrap() >= rows);
        }
        assert_eq!(bytes_of(&out), whole, "killed at row {kill}");
    }
    assert!(resumed > rows / 6, "only {resumed} were resumed");
    assert_eq!(
        fs::read_dir(folder.path())
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().starts_with('.') })
            .count(),
        0
    );
}

#[test]
fn a_killed_build_goes_on_to_the_same_bytes() {
    let (_folder, input, _) = place();
    write_shapes(&input, 40);
    let mut wanted = request(folder_source(&input));
    wanted.shard_size = ShardSize::Rows(3);
    check_kills(&wanted, 40);
    wanted.buckets = Some(GRID);
    check_kills(&wanted, 40);
}

#[test]
fn a_killed_build_from_tars_lists_and_parquet_goes_on_too() {
    let (folder, input, _) = place();
    let picture = png(40, 20, 1);
    let mut lines = String::from("path,caption\n");
    let mut members = Vec::new();
    for number in 0..30_u8 {
        let name = format!("{number:02}.png");
        let bytes = if number % 3 == 0 {
            png(20, 40, number)
        } else {
            picture.clone()
        };
        lines += &[&name, ",thing ", &number.to_string(), "\n"].concat();
        members.push((name.clone(), bytes.clone()));
        members.push((format!("{number:02}.txt"), format!("thing {number}").into_bytes()));
        fs::write(input.join(&name), bytes).unwrap();
    }
    fs::write(input.join("list.csv"), lines).unwrap();
    let members: Vec<(&str, &[u8])> = members
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
        .collect();
    let tars = folder.path().join("tars");
    fs::create_dir(&tars).unwrap();
    write_tar(&tars.join("a.tar"), &members[..14]);
    write_tar(&tars.join("b.tar"), &members[14..]);
    let set = folder.path().join("set");
    build(&request(tar_source(&tars)), &set, |_| {}).unwrap();
    for source in [
        tar_source(&tars),
        list_source(&input.join("list.csv")),
        parquet_source(&set),
    ] {
        let mut wanted = request(source);
        wanted.buckets = Some(GRID);
        wanted.shard_size = ShardSize::Rows(4);
        check_kills(&wanted, 30);
    }
}

#[test]
fn another_request_or_a_changed_input_starts_over_and_says_so() {
    let (_folder, input, out) = place();
    write_shapes(&input, 12);
    let mut wanted = request(folder_source(&input));
    wanted.shard_size = ShardSize::Rows(2);
    let kill = |wanted: &Build| {
        let died = catch_unwind(AssertUnwindSafe(|| {
            build(wanted, &out, |told| die_at(7, told)).map(|_| ())
        }));
        assert!(died.is_err());
    };
    let is_over = |built: Built| matches!(built.start, BuildStart::Over { reason } if reason.contains("other flags"));
    kill(&wanted);
    wanted.shard_size = ShardSize::Rows(3);
    assert!(is_over(build(&wanted, &out, |_| {}).unwrap()));
    kill(&wanted);
    fs::write(input.join("000.txt"), "another caption").unwrap();
    assert!(is_over(build(&wanted, &out, |_| {}).unwrap()));
    assert_eq!(texts(&out, "caption")[0], "another caption");
    // What bad rows do is no part of what the set is.
    kill(&wanted);
    wanted.on_bad = OnBad::Stop;
    let message = build(&wanted, &out, |_| {}).unwrap_err().to_string();
    assert!(message.contains("004.png: it has no caption"), "{message}");
    wanted.on_bad = OnBad::Skip;
    let built = build(&wanted, &out, |_| {}).unwrap();
    assert!(matches!(built.start, BuildStart::Resumed { .. }));
    assert_eq!(built.skipped, 2);
}

#[test]
fn shards_are_cut_by_bytes_and_pictures_shrunk_on_request() {
    let (_folder, input, out) = place();
    for number in 0..6 {
        let noise = RgbImage::from_fn(200, 120, |x, y| {
            Rgb([(x * y * 7 + number) as u8, (x ^ y) as u8, (x * 31) as u8])
        });
        fs::write(input.join(format!("{number}.png")), to_png(&noise).unwrap()).unwrap();
        fs::write(input.join(format!("{number}.txt")), "noise").unwrap();
    }
    let mut wanted = request(folder_source(&input));
    wanted.shard_size = ShardSize::Bytes(100_000);
    let built = build(&wanted, &out, |_| {}).unwrap();
    assert!(built.manifest.shards.len() > 1);
    for shard in &built.manifest.shards {
        assert!(shard.bytes < 102_000 || shard.rows == 1, "{shard:?}");
    }
    wanted.resize = Some(24);
    build(&wanted, &out, |_| {}).unwrap();
    for bytes in images(&out) {
        assert_eq!(
            crate::image::decode(&bytes, &crate::image::Limits::new(1))
                .unwrap()
                .dimensions(),
            (40, 24)
        );
    }
}

#[test]
fn the_kind_of_an_input_is_told_by_its_name_or_its_content() {
    let (_folder, input, _) = place();
    let kind = |name: &str| SourceKind::of(&input.join(name));
    assert_eq!(kind("a/*.tar").unwrap(), SourceKind::Tar);
    assert_eq!(kind("list.JSONL").unwrap(), SourceKind::List);
    assert_eq!(kind("*.parquet").unwrap(), SourceKind::Parquet);
    assert_eq!(kind("").unwrap(), SourceKind::Folder);
    assert!(kind("missing").unwrap_err().to_string().contains("missing: "));
    fs::write(input.join("a.tar"), "").unwrap();
    assert_eq!(kind("").unwrap(), SourceKind::Tar);
    fs::write(input.join("a.parquet"), "").unwrap();
    assert!(kind("").unwrap_err().to_string().contains("--from"));
}
