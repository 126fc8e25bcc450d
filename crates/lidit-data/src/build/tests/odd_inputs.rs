//! Inputs that are damaged, empty, or not what they seem.

use super::*;

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
