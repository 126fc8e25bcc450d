//! Ranges and listings of files and objects, wherever they lie.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::error::DataError;
use crate::location::Url;
use crate::remote::{Limits, Remote};

// Ranges this close are read as one: a request costs what reading so much costs, at about 50 MB/s and 20 ms for a
// remote one, 2 GB/s and 2 us for a local one.
const REMOTE_GAP: u64 = 1 << 20;
const LOCAL_GAP: u64 = 4 << 10;

/// Reads files of this machine and objects behind URLs; a path with `://` is a URL. Blocks; never without an end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage {
    limits: Limits,
}

impl Storage {
    /// Storage with the limits of every run.
    pub fn new() -> Self {
        Self { limits: Limits::USUAL }
    }

    #[cfg(test)]
    pub(crate) fn with_limits(limits: Limits) -> Self {
        Self { limits }
    }

    /// A file's size in bytes and its last `bytes`, or all of it where it has fewer.
    pub fn read_tail(&self, path: &Path, bytes: u64) -> Result<(u64, Bytes), DataError> {
        if let Some(url) = Url::parse(path)? {
            return self.remote()?.tail(&url, bytes);
        }
        let wrap = |error| DataError::io(path)(error);
        let mut file = File::open(path).map_err(wrap)?;
        let len = file.metadata().map_err(wrap)?.len();
        let start = len.saturating_sub(bytes);
        Ok((len, read_at(&mut file, start..len).map_err(wrap)?))
    }

    /// Ranges of a file, which must still have `len` bytes. Those close to each other are read as one.
    pub fn read_ranges(&self, path: &Path, len: u64, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, DataError> {
        if let Some(range) = ranges.iter().find(|range| range.start > range.end || range.end > len) {
            return Err(DataError::Location {
                path: path.to_owned(),
                problem: format!("has no bytes {}..{}, it ends at {len}", range.start, range.end),
            });
        }
        let (reads, fetched) = if let Some(url) = Url::parse(path)? {
            let reads = coalesced(ranges, REMOTE_GAP);
            let fetched = self.remote()?.ranges(&url, len, reads.clone())?;
            (reads, fetched)
        } else {
            let reads = coalesced(ranges, LOCAL_GAP);
            let fetched = read_local(path, len, &reads)?;
            (reads, fetched)
        };
        let cut = |range: &Range<u64>| {
            let read = reads.partition_point(|read| read.end < range.end);
            let start = (range.start - reads[read].start) as usize;
            fetched[read].slice(start..start + (range.end - range.start) as usize)
        };
        Ok(ranges
            .iter()
            .map(|range| if range.is_empty() { Bytes::new() } else { cut(range) })
            .collect())
    }

    /// A whole small file; none where there is none.
    pub fn read_if_there(&self, path: &Path) -> Result<Option<Bytes>, DataError> {
        if let Some(url) = Url::parse(path)? {
            return self.remote()?.whole(&url);
        }
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DataError::io(path)(error)),
        }
    }

    /// Every object below a prefix of a store, sorted.
    pub fn list(&self, prefix: &Url) -> Result<Vec<PathBuf>, DataError> {
        prefix.check_listable()?;
        let keys = self.remote()?.list(prefix)?;
        Ok(keys.iter().map(|key| prefix.with_key(key)).collect())
    }

    fn remote(&self) -> Result<Remote, DataError> {
        Remote::shared(self.limits)
    }
}

fn read_local(path: &Path, len: u64, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, DataError> {
    let wrap = |error| DataError::io(path)(error);
    let mut file = File::open(path).map_err(wrap)?;
    let found = file.metadata().map_err(wrap)?.len();
    if found != len {
        return Err(DataError::Changed {
            path: path.to_owned(),
            expected: len,
            found,
        });
    }
    let read = |range: &Range<u64>| read_at(&mut file, range.clone()).map_err(wrap);
    ranges.iter().map(read).collect()
}

fn read_at(file: &mut File, range: Range<u64>) -> std::io::Result<Bytes> {
    let len = range.end - range.start;
    let mut bytes = Vec::with_capacity(len as usize);
    file.seek(SeekFrom::Start(range.start))?;
    if file.take(len).read_to_end(&mut bytes)? as u64 != len {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes.into())
}

// Ranges in order, those with at most `gap` bytes between them as one; empty ones left out.
fn coalesced(ranges: &[Range<u64>], gap: u64) -> Vec<Range<u64>> {
    let mut sorted: Vec<Range<u64>> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
    sorted.sort_by_key(|range| (range.start, range.end));
    let mut reads: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match reads.last_mut() {
            Some(read) if range.start <= read.end.saturating_add(gap) => read.end = read.end.max(range.end),
            _ => reads.push(range),
        }
    }
    reads
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};
    use std::thread::JoinHandle;
    use std::time::Duration;

    use super::*;

    const QUICK: Limits = Limits {
        attempts: 4,
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(5),
        request: Duration::from_secs(5),
        stall: Duration::from_millis(200),
        total: Duration::from_secs(30),
    };

    /// What a server does with one request.
    #[derive(Clone, Copy)]
    enum Answer {
        Status(u16),
        /// So many bytes of the body, then nothing more on a closed connection.
        Cut(usize),
        /// So many bytes of the body, then nothing more on an open one.
        Stall(usize),
        Close,
    }

    /// A web server of one file, `/a.parquet`, that answers as it is told before it answers well.
    struct Server {
        url: PathBuf,
        requests: Arc<Mutex<Vec<String>>>,
        thread: Option<JoinHandle<()>>,
        address: std::net::SocketAddr,
    }

    impl Server {
        fn start(content: Vec<u8>, answers: Vec<Answer>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let requests: Arc<Mutex<Vec<String>>> = Arc::default();
            let seen = requests.clone();
            let thread = std::thread::spawn(move || {
                let mut answers = answers.into_iter();
                let mut open = Vec::new();
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let request = read_request(&mut stream);
                    if request.is_empty() {
                        break;
                    }
                    seen.lock().unwrap().push(request.clone());
                    let (head, body) = answer(&request, &content);
                    let told = answers.next();
                    let sent = match told {
                        None => body.len(),
                        Some(Answer::Cut(sent) | Answer::Stall(sent)) => sent,
                        Some(Answer::Close) => continue,
                        Some(Answer::Status(status)) => {
                            let text =
                                format!("HTTP/1.1 {status} No\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy");
                            stream.write_all(text.as_bytes()).unwrap();
                            continue;
                        }
                    };
                    stream.write_all(head.as_bytes()).unwrap();
                    stream.write_all(&body[..sent]).unwrap();
                    if matches!(told, Some(Answer::Stall(_))) {
                        open.push(stream);
                    }
                }
            });
            Self {
                url: PathBuf::from(format!("http://{address}/a.parquet")),
                requests,
                thread: Some(thread),
                address,
            }
        }

        fn requests(&self) -> usize {
            self.requests.lock().unwrap().len()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            // An empty request ends it.
            let _ = TcpStream::connect(self.address).map(|stream| stream.shutdown(std::net::Shutdown::Both));
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }

    fn read_request(stream: &mut TcpStream) -> String {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
            request.push(byte[0]);
        }
        String::from_utf8_lossy(&request).to_lowercase()
    }

    fn answer(request: &str, content: &[u8]) -> (String, Vec<u8>) {
        let len = content.len();
        if !request.contains(" /a.parquet") {
            return (
                "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 4\r\n\r\n".into(),
                b"gone".into(),
            );
        }
        let range = request
            .split("range: bytes=")
            .nth(1)
            .and_then(|rest| rest.split("\r\n").next());
        let (start, end) = match range.and_then(|range| range.split_once('-')) {
            Some(("", tail)) => (len.saturating_sub(tail.parse().unwrap()), len),
            Some((start, end)) => (start.parse().unwrap(), end.parse::<usize>().unwrap() + 1),
            None => (0, len),
        };
        let head = format!(
            "HTTP/1.1 206 Partial\r\ncontent-length: {}\r\ncontent-range: bytes {start}-{}/{len}\r\nconnection: close\r\n\r\n",
            end - start,
            end - 1
        );
        (head, content[start..end].to_vec())
    }

    fn content() -> Vec<u8> {
        (0..20_000_u32).map(|at| ((at * 7) >> 3) as u8).collect()
    }

    fn storage() -> Storage {
        Storage::with_limits(QUICK)
    }

    fn read_one(path: &Path, len: u64, range: Range<u64>) -> Result<Bytes, DataError> {
        Ok(storage()
            .read_ranges(path, len, std::slice::from_ref(&range))?
            .remove(0))
    }

    #[test]
    fn any_passing_failure_is_tried_again_and_the_bytes_are_right() {
        let failures = [
            Answer::Status(500),
            Answer::Status(503),
            Answer::Status(429),
            Answer::Cut(0),
            Answer::Cut(70),
            Answer::Stall(70),
            Answer::Stall(0),
            Answer::Close,
        ];
        for (number, failure) in failures.into_iter().enumerate() {
            let server = Server::start(content(), vec![failure, failure]);
            let bytes = read_one(&server.url, 20_000, 100..300).unwrap();
            assert_eq!(bytes, content()[100..300], "failure {number}");
            assert_eq!(server.requests(), 3, "failure {number}");
        }
    }

    #[test]
    fn the_last_error_names_url_range_tries_and_what_the_server_said() {
        let fail = |answer| {
            let server = Server::start(content(), vec![answer; 4]);
            let error = read_one(&server.url, 20_000, 100..300).unwrap_err().to_string();
            assert_eq!(server.requests(), 4);
            assert!(
                error.starts_with(&format!("{}: can't read bytes 100..300:", server.url.display())),
                "{error}"
            );
            assert!(error.ends_with("(tried 4 times)"), "{error}");
            error
        };
        let busy = fail(Answer::Status(503));
        assert!(busy.contains("503") && busy.contains("busy"), "{busy}");
        let cut = fail(Answer::Cut(70));
        assert!(cut.contains("after 70 of 200 bytes"), "{cut}");
    }

    #[test]
    fn what_will_not_pass_is_not_tried_again() {
        for status in [400, 401, 403] {
            let server = Server::start(content(), vec![Answer::Status(status); 4]);
            let error = storage().read_tail(&server.url, 10).unwrap_err().to_string();
            assert!(
                error.contains(&status.to_string()) && error.ends_with("(tried 1 times)"),
                "{error}"
            );
            assert_eq!(server.requests(), 1);
        }
        let server = Server::start(content(), vec![]);
        let other = server.url.with_file_name("b.parquet");
        let error = storage().read_tail(&other, 10).unwrap_err().to_string();
        assert!(error.contains("b.parquet") && error.contains("404"), "{error}");
        assert_eq!(storage().read_if_there(&other).unwrap(), None);
    }

    #[test]
    fn a_tail_comes_with_the_size_in_one_request() {
        let server = Server::start(content(), vec![]);
        let (len, tail) = storage().read_tail(&server.url, 1000).unwrap();
        assert_eq!((len, &tail[..]), (20_000, &content()[19_000..]));
        let (len, all) = storage().read_tail(&server.url, 1 << 20).unwrap();
        assert_eq!((len, all.len()), (20_000, 20_000));
        assert_eq!(server.requests(), 2);
    }

    #[test]
    fn an_object_that_changed_its_size_is_named() {
        let server = Server::start(content(), vec![]);
        let error = read_one(&server.url, 20_001, 0..9).unwrap_err();
        assert!(error.to_string().contains("has 20000 bytes, but had 20001"), "{error}");
    }

    #[test]
    fn ranges_come_back_as_asked_whether_read_together_or_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, content()).unwrap();
        let ranges = [9000..9100, 0..10, 8..8, 5..7, 10..12, 19_990..20_000, 9050..9051];
        let server = Server::start(content(), vec![]);
        for path in [&path, &server.url] {
            let bytes = storage().read_ranges(path, 20_000, &ranges).unwrap();
            for (bytes, range) in bytes.iter().zip(&ranges) {
                assert_eq!(bytes[..], content()[range.start as usize..range.end as usize]);
            }
        }
        assert_eq!(server.requests(), 1);
        let error = read_one(&path, 20_000, 0..20_001).unwrap_err();
        assert!(error.to_string().contains("has no bytes 0..20001"), "{error}");
        assert_eq!(coalesced(&[20..30, 0..10, 11..12], 5), [0..12, 20..30]);
    }

    #[test]
    fn a_web_server_s_folder_is_refused_since_it_gives_no_listing() {
        let server = Server::start(content(), vec![]);
        let folder = server.url.with_file_name("data");
        let error = crate::source::Source::find(&folder, &storage()).err().unwrap();
        assert!(error.to_string().contains("web servers give no listings"), "{error}");
    }
}
