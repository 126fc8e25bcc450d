//! Where bytes lie: paths of this machine, and URLs of object stores and web servers.

use std::path::{Path, PathBuf};

use crate::error::DataError;

/// What kind of server a URL speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// `s3://bucket/key`, also of servers other than Amazon's.
    S3,
    /// `gs://bucket/key`.
    Gcs,
    /// `az://container/key`, `abfs://` or `abfss://container@account.dfs.core.windows.net/key`.
    Azure,
    /// `http://host/path` and `https://host/path`: files by name, no listings.
    Web,
}

/// A URL, cut into what a client is made for and what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub scheme: Scheme,
    /// Scheme and bucket, container or host: `s3://bucket`.
    pub store: String,
    /// What follows, without the slash between: as it is stored, or of a web address as it is written.
    pub key: String,
    /// Of a web address, what follows the question mark: a signature, say.
    pub query: Option<String>,
}

impl Url {
    /// Cuts a URL; none where the path is of this machine, that is without `://`.
    pub fn parse(path: &Path) -> Result<Option<Self>, DataError> {
        let Some((scheme, rest)) = path.to_str().and_then(|text| text.split_once("://")) else {
            return Ok(None);
        };
        let refuse = |problem: String| {
            Err(DataError::Location {
                path: path.to_owned(),
                problem,
            })
        };
        let kind = match scheme {
            "s3" | "s3a" => Scheme::S3,
            "gs" => Scheme::Gcs,
            "az" | "abfs" | "abfss" => Scheme::Azure,
            "http" | "https" => Scheme::Web,
            "file" => return refuse("name a file of this machine without `file://`".to_owned()),
            _ => {
                let known = "s3, gs, az, abfs, abfss, http and https";
                return refuse(format!("`{scheme}` is no scheme that is read; those are {known}"));
            }
        };
        let (host, key) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() {
            return refuse("names no bucket or host: write SCHEME://NAME/..".to_owned());
        }
        let (key, query) = match key.split_once('?') {
            Some((key, query)) if kind == Scheme::Web => (key, Some(query.to_owned())),
            _ => (key, None),
        };
        Ok(Some(Self {
            scheme: kind,
            store: format!("{scheme}://{host}"),
            key: key.to_owned(),
            query,
        }))
    }

    /// Refuses a web server's folder.
    pub fn check_listable(&self) -> Result<(), DataError> {
        if self.scheme != Scheme::Web {
            return Ok(());
        }
        Err(DataError::Location {
            path: self.text().into(),
            problem: "web servers give no listings: name a .parquet file or a manifest.json".to_owned(),
        })
    }

    /// The same store's object `key`, as a path.
    pub fn with_key(&self, key: &str) -> PathBuf {
        PathBuf::from(format!("{}/{key}", self.store))
    }

    /// The whole URL, without a query: a signature is nobody's to read.
    pub fn text(&self) -> String {
        format!("{}/{}", self.store, self.key)
    }
}

/// Whether a path is a URL.
pub(crate) fn is_remote(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.contains("://"))
}

/// A name in a folder, wherever that is.
pub(crate) fn join(folder: &Path, name: &str) -> PathBuf {
    match folder.to_str().filter(|_| is_remote(folder)) {
        Some(text) => PathBuf::from(format!("{}/{name}", text.trim_end_matches('/'))),
        None => folder.join(name),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parts(text: &str) -> (Scheme, String, String, Option<String>) {
        let url = Url::parse(Path::new(text)).unwrap().unwrap();
        (url.scheme, url.store, url.key, url.query)
    }

    fn refusal(text: &str) -> String {
        Url::parse(Path::new(text)).unwrap_err().to_string()
    }

    #[test]
    fn a_url_is_a_store_and_a_key() {
        let some = |scheme, store: &str, key: &str| (scheme, store.to_owned(), key.to_owned(), None);
        assert_eq!(parts("s3://b/a/c.parquet"), some(Scheme::S3, "s3://b", "a/c.parquet"));
        assert_eq!(parts("gs://b"), some(Scheme::Gcs, "gs://b", ""));
        assert_eq!(parts("s3://b/a?.parquet"), some(Scheme::S3, "s3://b", "a?.parquet"));
        let account = "abfss://c@account.dfs.core.windows.net";
        assert_eq!(parts(&format!("{account}/x y")), some(Scheme::Azure, account, "x y"));
        let (_, store, key, query) = parts("https://h:8/a.parquet?sig=1/2");
        assert_eq!((store.as_str(), key.as_str()), ("https://h:8", "a.parquet"));
        assert_eq!(query.as_deref(), Some("sig=1/2"));
        assert_eq!(Url::parse(Path::new("/a/b.parquet")).unwrap(), None);
    }

    #[test]
    fn what_is_no_url_that_is_read_is_named() {
        assert!(refusal("ftp://h/x").contains("`ftp` is no scheme that is read"));
        assert!(refusal("s3:///x").contains("s3:///x: names no bucket"));
        assert!(refusal("file:///x").contains("without `file://`"));
    }

    #[test]
    fn names_are_joined_to_folders_and_prefixes() {
        assert_eq!(join(Path::new("s3://b"), "x"), Path::new("s3://b/x"));
        assert_eq!(join(Path::new("s3://b/a/"), "x"), Path::new("s3://b/a/x"));
        assert_eq!(join(Path::new("/b"), "x"), Path::new("/b/x"));
    }
}
