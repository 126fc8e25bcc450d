//! Every kind of input.

use super::*;

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
