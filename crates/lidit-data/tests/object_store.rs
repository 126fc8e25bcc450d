//! Sets in a real S3 server on this machine (moto), read through a proxy that makes trouble, and over plain HTTP.
//!
//! Needs the Python of `tests/run.sh` in `LIDIT_TESTS_PYTHON`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use image::{ImageFormat, Rgb, RgbImage};
use lidit_data::{CaptionColumn, DataConfig, Dataset, MetadataColumn, Record, ShardWriter, WriterConfig, inspect};
use serde::{Deserialize, Serialize};

const ROWS: u64 = 160;
const SIDE: u32 = 4;

/// What a process of its own read from `LIDIT_TEST_PATH`, under that process's environment.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Answer {
    Set {
        digest: String,
        rows: u64,
        /// Everything that `inspect` says: it reads every caption and picture.
        inspection: serde_json::Value,
        captions: Vec<(u64, Vec<String>)>,
        /// Of every fourth row.
        pixels: Vec<Vec<u8>>,
    },
    Error(String),
}

fn config(path: &Path) -> DataConfig {
    DataConfig {
        path: Some(path.to_owned()),
        image_column: "image".into(),
        caption_column: "caption".into(),
        image_size: SIDE,
        synthetic_caption_column: None,
        synthetic_share: None,
        min_side: 1,
        max_samples: None,
        subset_seed: 0,
        shuffle_window: 4096,
        lanes: 8,
        buckets: true,
        max_unusable: 1.0,
        sources: vec![],
    }
}

fn read(path: &Path) -> Answer {
    let read = || {
        let dataset = Dataset::open(&config(path))?;
        let ids = (0..dataset.rows()).step_by(4);
        let pixels = ids.map(|id| Ok(dataset.sample(id)?.pixels));
        let inspection = inspect(path, "image", "caption")?;
        Ok(Answer::Set {
            digest: dataset.digest().to_owned(),
            rows: dataset.rows(),
            inspection: serde_json::to_value(inspection).unwrap(),
            captions: dataset.captions()?,
            pixels: pixels.collect::<Result<_, lidit_data::DataError>>()?,
        })
    };
    read().unwrap_or_else(|error: lidit_data::DataError| Answer::Error(error.to_string()))
}

#[test]
#[ignore = "run by the other test, as a process with an environment of its own"]
fn read_as_told() {
    let path = PathBuf::from(std::env::var_os("LIDIT_TEST_PATH").unwrap());
    let answer = serde_json::to_string(&read(&path)).unwrap();
    fs::write(std::env::var_os("LIDIT_TEST_ANSWER").unwrap(), answer).unwrap();
}

/// A Python script of `tests/e2e` that prints its port and ends with its input.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(script: &str, arguments: &[OsString]) -> Self {
        let python = std::env::var_os("LIDIT_TESTS_PYTHON");
        let python =
            python.expect("LIDIT_TESTS_PYTHON is not set: run tests/run.sh, which installs what this test needs");
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/e2e")
            .join(script);
        let mut process = Command::new(python)
            .arg(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let port = line
            .trim()
            .parse()
            .expect("the server did not start: are moto and boto3 installed?");
        Self { process, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The servers with what they serve, and the same in a folder.
struct World {
    folder: tempfile::TempDir,
    proxy: Server,
    _s3: Server,
}

impl World {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        write_set(&data.join("set"));
        // The same shards without a manifest, at two depths, beside something else.
        fs::create_dir_all(data.join("loose/deep")).unwrap();
        for (from, to) in [("0", "deep/a"), ("1", "b"), ("2", "c")] {
            let from = data.join(format!("set/shard-0000{from}.parquet"));
            fs::copy(from, data.join(format!("loose/{to}.parquet"))).unwrap();
        }
        fs::write(data.join("loose/notes.txt"), "not a shard").unwrap();
        let buckets = ["clean", "faulty"].map(|bucket| {
            let mut argument = OsString::from(format!("{bucket}="));
            argument.push(&data);
            argument
        });
        let s3 = Server::start("s3_server.py", &buckets);
        let proxy = Server::start("faulty_proxy.py", &[s3.port.to_string().into()]);
        Self { folder, proxy, _s3: s3 }
    }

    fn local(&self, path: &str) -> Answer {
        read(&self.folder.path().join("data").join(path))
    }

    fn read(&self, path: &str) -> Answer {
        let keys = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
        self.read_with(path, &keys)
    }

    fn read_with(&self, path: &str, keys: &[(&str, &str)]) -> Answer {
        let answer = self.folder.path().join("answer.json");
        let inherited = std::env::vars_os().filter(|(key, _)| !key.to_string_lossy().starts_with("AWS_"));
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "read_as_told", "--ignored", "--quiet"])
            .env_clear()
            .envs(inherited)
            .env("NO_PROXY", "127.0.0.1")
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.proxy.port))
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            // Nobody listens there.
            .env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
            .envs(keys.iter().copied())
            .env("LIDIT_TEST_PATH", path)
            .env("LIDIT_TEST_ANSWER", &answer)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "{path}");
        serde_json::from_slice(&fs::read(answer).unwrap()).unwrap()
    }

    fn error(&self, path: &str) -> String {
        match self.read(path) {
            Answer::Error(error) => error,
            Answer::Set { rows, .. } => panic!("{path}: {rows} rows"),
        }
    }

    // How many requests each bucket was asked since the last call.
    fn requests(&self) -> BTreeMap<String, u64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.proxy.port)).unwrap();
        stream
            .write_all(b"GET /__requests HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    }
}

fn write_set(out: &Path) {
    let config = WriterConfig {
        name: "things".into(),
        recipe: "test".into(),
        rows_per_shard: 70,
        rows_per_group: 70,
        captions: CaptionColumn::One,
        metadata: MetadataColumn::LeftOut,
    };
    let mut writer = ShardWriter::create(out, config).unwrap();
    for id in 0..ROWS {
        let mut png = std::io::Cursor::new(Vec::new());
        let picture = RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb([id as u8, (x * 9) as u8, (y * 31) as u8]));
        picture.write_to(&mut png, ImageFormat::Png).unwrap();
        let record = Record {
            key: id.to_string(),
            image: png.into_inner(),
            captions: vec![format!("thing {id}")],
            metadata: None,
            width: SIDE,
            height: SIDE,
        };
        writer.push(record).unwrap();
    }
    writer.finish(vec![]).unwrap();
}

/// One test, since starting the servers takes longer than all of it.
#[test]
fn sets_behind_urls_are_read_like_local_ones_whatever_the_network_does() {
    let world = World::start();
    let (set, loose) = (world.local("set"), world.local("loose"));
    assert!(matches!(&set, Answer::Set { rows: ROWS, pixels, .. } if pixels.len() == 40));

    // Every kind of place, with and without trouble.
    world.requests();
    assert_eq!(world.read("s3://clean/set"), set);
    // Opened twice, by a manifest and three footers. Five blocks are read three times; and 40 rows, each with its picture
    // and caption in one request, since they lie close.
    assert_eq!(world.requests()["clean"], 2 * 4 + 3 * 5 + 40);
    assert_eq!(world.read("s3://clean/set/manifest.json"), set);
    assert_eq!(world.read("s3://clean/loose/"), loose);
    assert_eq!(
        world.read("s3://clean/loose/deep/a.parquet"),
        world.local("loose/deep/a.parquet")
    );
    assert_eq!(world.read("s3://clean/loose/?.parquet"), world.local("loose/?.parquet"));
    assert_eq!(world.read("s3://clean/lo*/**/*.parquet"), loose);
    world.requests();
    assert_eq!(world.read("s3://faulty/set"), set);
    // Every fourth request fails, and everything was read all the same.
    assert!(world.requests()["faulty"] > 63 + 10);
    assert_eq!(world.read("s3://faulty/loose"), loose);
    let web = format!("http://127.0.0.1:{}", world.proxy.port);
    assert_eq!(world.read(&format!("{web}/clean/set/manifest.json")), set);
    assert_eq!(world.read(&format!("{web}/faulty/set")), set);
    let signed = world.read(&format!("{web}/clean/loose/b.parquet?signature=1"));
    assert_eq!(signed, world.local("loose/b.parquet"));

    what_can_not_be_read_is_named_and_has_an_end(&world);
}

fn what_can_not_be_read_is_named_and_has_an_end(world: &World) {
    let web = format!("http://127.0.0.1:{}", world.proxy.port);
    world.requests();
    let error = world.error("s3://down/a.parquet");
    let (start, end) = ("s3://down/a.parquet: can't read the last", "(tried 8 times)");
    assert!(error.starts_with(start) && error.ends_with(end), "{error}");
    assert!(error.contains("503") && error.contains("no luck today"), "{error}");
    assert_eq!(world.requests()["down"], 8);

    let error = world.error("s3://missing/data");
    assert!(
        error.starts_with("s3://missing/data") && error.contains("NoSuchBucket"),
        "{error}"
    );
    let error = world.error("s3://clean/none.parquet");
    assert!(
        error.starts_with("s3://clean/none.parquet") && error.contains("NoSuchKey"),
        "{error}"
    );
    let error = world.error("s3://clean/none");
    assert!(error.starts_with("s3://clean/none: no Parquet files"), "{error}");
    let error = world.error("s3://clean/none/*.parquet");
    assert!(error.contains("no Parquet files"), "{error}");
    let error = world.error(&format!("{web}/clean/loose"));
    assert!(error.contains("web servers give no listings"), "{error}");
    let error = world.error(&format!("{web}/clean/none/manifest.json"));
    assert!(error.contains("none/manifest.json: entity not found"), "{error}");

    let Answer::Error(error) = world.read_with("s3://clean/set", &[]) else {
        panic!("read without credentials");
    };
    assert!(error.starts_with("s3://clean/set/manifest.json"), "{error}");
    assert!(error.contains("check AWS_ACCESS_KEY_ID"), "{error}");
    let public = [("AWS_SKIP_SIGNATURE", "true")];
    assert_eq!(world.read_with("s3://clean/set", &public), world.local("set"));
}
