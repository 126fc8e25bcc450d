//! Builds that are killed, and what the next one takes up.

use super::*;

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
