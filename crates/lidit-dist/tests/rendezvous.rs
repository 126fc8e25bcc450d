//! The rendezvous store between honest ranks, and before strangers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use lidit_dist::{DistError, Meeting, Place, Store, process};

const DEADLINE: Duration = Duration::from_secs(10);

fn meeting() -> Meeting {
    Meeting::on_this_host("test").unwrap()
}

fn join(rank: usize, size: usize, meeting: &Meeting, deadline: Duration) -> Result<Store, DistError> {
    Store::join(&Place::of(rank, size, 0), meeting, deadline)
}

/// Hosts as rank 0 of 2 in a thread, lets `visit` come, then lets an honest rank 1 in: the host must have survived.
fn host_survives(visit: impl FnOnce(&Meeting)) {
    let meeting = meeting();
    thread::scope(|scope| {
        let host = scope.spawn(|| join(0, 2, &meeting, DEADLINE).map(|_| ()));
        visit(&meeting);
        let honest = join(1, 2, &meeting, DEADLINE);
        assert!(honest.is_ok(), "{:?}", honest.err());
        drop(honest);
        host.join().unwrap().unwrap();
    });
}

fn connect(meeting: &Meeting) -> TcpStream {
    for _ in 0..200 {
        if let Ok(stream) = TcpStream::connect((meeting.host.as_str(), meeting.port)) {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            return stream;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("nobody listens on port {}", meeting.port);
}

#[test]
fn keys_and_counters_are_shared() {
    let meeting = meeting();
    thread::scope(|scope| {
        let ranks: Vec<_> = (0..3)
            .map(|rank| {
                let meeting = &meeting;
                scope.spawn(move || {
                    let store = join(rank, 3, meeting, DEADLINE).unwrap();
                    store.set(&format!("from/{rank}"), &[rank as u8; 3]).unwrap();
                    let next = (rank + 1) % 3;
                    assert_eq!(store.get(&format!("from/{next}"), DEADLINE).unwrap(), [next as u8; 3]);
                    store.wait(&["from/0", "from/1", "from/2"], DEADLINE).unwrap();
                    let sum = store.add("counter", -5).unwrap();
                    assert!([-5, -10, -15].contains(&sum), "{sum}");
                    store
                })
            })
            .collect();
        // Rank 0's store hosts the others': all live until here.
        let stores: Vec<Store> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        for store in &stores {
            assert_eq!(store.add("counter", 0).unwrap(), -15);
        }
        stores.into_iter().rev().for_each(drop);
    });
}

#[test]
fn waits_end_and_sizes_are_bounded() {
    let meeting = meeting();
    let store = join(0, 1, &meeting, DEADLINE).unwrap();
    let error = store.get("nothing", Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains("no rank set \"nothing\""), "{error}");
    let error = store.set("big", &vec![0; 2 << 20]).unwrap_err();
    assert!(error.to_string().contains("at most 1048576"), "{error}");
    store.set("small", b"still works").unwrap();
    assert_eq!(store.get("small", DEADLINE).unwrap(), b"still works");
}

#[test]
fn a_wrong_secret_is_refused_and_learns_nothing() {
    host_survives(|meeting| {
        drop(connect(meeting));
        let wrong = Meeting {
            secret: "guess".into(),
            ..meeting.clone()
        };
        let error = join(1, 2, &wrong, DEADLINE).err().unwrap();
        assert!(
            error
                .to_string()
                .contains("give every rank the same LIDIT_RENDEZVOUS_SECRET"),
            "{error}"
        );
        assert!(!error.is_peer_failure(), "trying again would not help");
    });
}

#[test]
fn a_stranger_hears_only_a_challenge() {
    host_survives(|meeting| {
        // A well-formed answer whose proof is wrong, a length beyond the bound, and plain noise.
        let forged = [&100u32.to_le_bytes()[..], &[7; 100]].concat();
        for words in [
            forged,
            u32::MAX.to_le_bytes().to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ] {
            let mut stranger = connect(meeting);
            stranger.write_all(&words).unwrap();
            let mut heard = Vec::new();
            // Closing with unread bytes may look like a reset; what came before it counts.
            let _ = stranger.read_to_end(&mut heard);
            assert_eq!(heard.len(), 48, "{heard:?}");
            assert!(heard.starts_with(b"lidit meeting 2\n"));
        }
    });
}

#[test]
fn an_impostor_host_is_not_believed() {
    let meeting = meeting();
    let listener = TcpListener::bind((meeting.host.as_str(), meeting.port)).unwrap();
    let impostor = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream
            .write_all(&[&b"lidit meeting 2\n"[..], &[0; 32]].concat())
            .unwrap();
        // The answer is ignored; a made-up proof follows.
        let mut answer = [0; 64];
        stream.read_exact(&mut answer).unwrap();
        stream.write_all(&[0; 32]).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let error = join(1, 2, &meeting, DEADLINE).err().unwrap();
    assert!(
        error.to_string().contains("the host does not know the secret"),
        "{error}"
    );
    impostor.join().unwrap();
}

#[test]
fn ranks_that_do_not_belong_are_told_why() {
    host_survives(|meeting| {
        let error = join(1, 3, meeting, DEADLINE).err().unwrap();
        assert!(
            error.to_string().contains("rank 1 of 3 came to a world of 2"),
            "{error}"
        );
        let stale = Meeting {
            run: "earlier".into(),
            ..meeting.clone()
        };
        let error = join(1, 2, &stale, Duration::from_millis(300)).err().unwrap();
        assert!(
            error
                .to_string()
                .contains("attempt \"test\" meets here, not \"earlier\""),
            "{error}"
        );
    });
}

#[test]
fn a_replaced_rank_waits_for_the_next_attempt() {
    let meeting = meeting();
    thread::scope(|scope| {
        let lost = scope.spawn(|| join(1, 2, &meeting, DEADLINE).unwrap());
        let first = join(0, 2, &meeting, DEADLINE).unwrap();
        drop(lost.join().unwrap());
        // No launcher numbers the attempts, and rank 0 of the last one has not gone yet.
        let replaced = scope.spawn(|| join(1, 2, &meeting, DEADLINE).map(|_| ()));
        thread::sleep(Duration::from_millis(200));
        drop(first);
        // Its port is free once its threads have ended.
        let next = std::iter::repeat_with(|| join(0, 2, &meeting, DEADLINE)).find_map(Result::ok);
        assert!(next.is_some());
        replaced.join().unwrap().unwrap();
    });
}

#[test]
fn a_rank_taken_twice_is_refused() {
    let meeting = meeting();
    thread::scope(|scope| {
        let host = scope.spawn(|| join(0, 3, &meeting, Duration::from_secs(2)).map(|_| ()));
        let first = scope.spawn(|| join(2, 3, &meeting, Duration::from_secs(2)).map(|_| ()));
        // Whichever of the two comes second is told so.
        let second = join(2, 3, &meeting, Duration::from_secs(2)).map(|_| ());
        let refused = [first.join().unwrap(), second].map(|joined| joined.unwrap_err().to_string());
        assert_eq!(
            refused
                .iter()
                .filter(|text| text.contains(&format!("rank 2 is already here, from {}", process::host_name())))
                .count(),
            1,
            "{refused:?}"
        );
        assert!(
            host.join()
                .unwrap()
                .unwrap_err()
                .to_string()
                .starts_with("rank 1 did not come")
        );
    });
}

#[test]
fn missing_ranks_are_named_with_the_hosts_that_the_launcher_meant() {
    let meeting = meeting();
    let place = Place {
        host: "node-a".into(),
        hosts: ["node-a", "node-b", "node-b"].map(String::from).into(),
        ..Place::of(0, 3, 0)
    };
    let error = Store::join(&place, &meeting, Duration::from_millis(200)).err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with("ranks 1, 2 (on node-b) did not come"), "{text}");
    assert!(text.contains("(rank 0 (on node-a) did)"), "{text}");
    let nobody = self::meeting();
    let place = Place { rank: 1, ..place };
    let error = Store::join(&place, &nobody, Duration::from_millis(200)).err().unwrap();
    assert!(
        error.to_string().starts_with("rank 0 (on node-a) did not come"),
        "{error}"
    );
}

/// A host in a process of its own, whose log a test reads. Does nothing unless that test starts it.
#[test]
fn host_process() {
    let Ok(port) = std::env::var("LIDIT_TEST_HOST_PORT") else {
        return;
    };
    let meeting = Meeting {
        port: port.parse().unwrap(),
        secret: "hunter2".into(),
        ..meeting()
    };
    join(0, 2, &meeting, DEADLINE).unwrap();
}

#[test]
fn whoever_is_refused_leaves_a_line_in_the_log_and_no_secret() {
    let meeting = Meeting {
        secret: "hunter2".into(),
        ..meeting()
    };
    let host = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "host_process", "--nocapture"])
        .env("LIDIT_TEST_HOST_PORT", meeting.port.to_string())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    connect(&meeting).write_all(&u32::MAX.to_le_bytes()).unwrap();
    let wrong = Meeting {
        secret: "guess".into(),
        ..meeting.clone()
    };
    assert!(join(1, 2, &wrong, DEADLINE).is_err());
    let honest = join(1, 2, &meeting, DEADLINE).unwrap();
    drop(honest);
    let log = host.wait_with_output().unwrap();
    let log = String::from_utf8(log.stderr).unwrap();
    // Whoever is shut out knocks once more: rank 0 might just have been leaving.
    for (why, times) in [("a frame that is too long", 1), ("wrong secret", 2)] {
        let line = format!(": {why}");
        let refused =
            |text: &&str| text.starts_with("rendezvous: refused a connection from 127.0.0.1:") && text.ends_with(&line);
        assert_eq!(log.lines().filter(refused).count(), times, "{log}");
    }
    assert!(!log.contains("hunter2") && !log.contains("guess"), "{log}");
}

#[test]
fn two_hosts_on_one_port_are_told_to_differ() {
    let meeting = meeting();
    let _taken = TcpListener::bind((meeting.host.as_str(), meeting.port)).unwrap();
    let error = join(0, 2, &meeting, DEADLINE).err().unwrap();
    assert!(error.to_string().contains("start only one rank 0"), "{error}");
}
