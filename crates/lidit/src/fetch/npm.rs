//! npm packages, as archives in the cache's downloads.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use lidit_data::EmojiPackage;

use super::digest::sha256_of;

/// The archive of a package: the one in `downloads` if it is whole, else what npm brings.
pub fn bring(downloads: &Path, package: &EmojiPackage) -> Result<PathBuf> {
    let path = downloads.join(package.file);
    if path.is_file() {
        let found = sha256_of(&path)?;
        if found == package.sha256 {
            return Ok(path);
        }
        eprintln!("{} is damaged (sha256 {found}), fetching it again", path.display());
    }
    fs::create_dir_all(downloads).with_context(|| format!("making {}", downloads.display()))?;
    // Into a folder of its own first, so that a download that breaks off leaves nothing that looks like a package.
    let incoming = downloads.join(format!("incoming-npm-{}", std::process::id()));
    fs::create_dir_all(&incoming).with_context(|| format!("making {}", incoming.display()))?;
    let brought = pack(&incoming, package).and_then(|()| verify(&incoming.join(package.file), package));
    let kept = brought
        .map_err(|error| by_hand(downloads, package, &error))
        .and_then(|()| {
            let renamed = fs::rename(incoming.join(package.file), &path);
            renamed.with_context(|| format!("renaming to {}", path.display()))
        });
    fs::remove_dir_all(&incoming).with_context(|| format!("removing {}", incoming.display()))?;
    kept.map(|()| path)
}

fn pack(folder: &Path, package: &EmojiPackage) -> Result<()> {
    eprintln!("fetching {} with npm", package.spec);
    let output = Command::new("npm")
        .args(["pack", package.spec, "--silent", "--pack-destination"])
        .arg(folder)
        .output()
        .map_err(|error| anyhow!("can't run npm: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().find(|line| !line.trim().is_empty());
        bail!("npm: {}", first.unwrap_or("failed without a word").trim());
    }
    Ok(())
}

fn verify(path: &Path, package: &EmojiPackage) -> Result<()> {
    let found = sha256_of(path)?;
    if found != package.sha256 {
        bail!(
            "{} came with sha256 {found} instead of {}",
            package.spec,
            package.sha256
        );
    }
    Ok(())
}

fn by_hand(downloads: &Path, package: &EmojiPackage, error: &anyhow::Error) -> anyhow::Error {
    anyhow!(
        "can't fetch {spec}: {error:#}\n\
         on a machine with npm and a network run: npm pack {spec}\n\
         then copy {file} into {folder} and run the same command",
        spec = package.spec,
        file = package.file,
        folder = downloads.display()
    )
}
