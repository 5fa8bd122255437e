//! How a process that is told to leave ends: what a second signal, a short deadline and clients
//! that do not answer do to it, who is served or told around its end, and who comes after it.
//!
//! Exit code 70 (the overall deadline ended the process) takes a shard that stands still; see
//! `drain_overrun.rs`.

use crate::support;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::leaving::{bye, check_sum, clients, named, notice};
use crate::support::server::{Server, command};
use crate::support::wire::{self, CLOSE, Client, FIN, Next, close_payload, upgrade_request};
use crate::support::{PATIENCE, socket};
use rustix::process::{Pid, Signal, kill_process};

/// S1.51, S4.8.
#[test]
fn a_second_signal_cuts_what_is_left_within_a_second() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::USR2)] {
        let mut server = Server::start(&["server.shards=2", "shutdown.notice_ms=8000"]);
        let mut clients = clients(&server, 50);
        server.signal(first);
        clients.iter_mut().for_each(|client| drop(notice(client)));
        server.signal(second);
        let code = server.wait_at_most(Duration::from_secs(1)).code();
        assert_eq!(code, Some(75));
        let (_, last_words) = server.ended();
        assert_eq!((&last_words["exit_code"], &last_words["forced"]), (&75.into(), &true.into()));
        assert_eq!(named(&check_sum(&server, &last_words)), [("forced", 50)]);
        // Even so they are told: the bytes were on their way before the cut.
        for client in &mut clients {
            bye(client, 0);
            assert_eq!(client.frame().close_code(), Some(1001));
        }
    }
}

#[test]
fn a_second_signal_that_comes_at_once_is_not_lost() {
    let mut server = Server::start(&["shutdown.notice_ms=8000"]);
    let _clients = clients(&server, 20);
    server.signal(Signal::TERM);
    server.wait_for_log("Shutdown signal received");
    server.signal(Signal::TERM);
    assert_eq!(server.wait_at_most(Duration::from_secs(1)).code(), Some(75));
    let (_, last_words) = server.ended();
    check_sum(&server, &last_words);
}

/// S0.43, S1.36, S1.50, S4.53.
#[test]
fn clients_that_neither_read_nor_answer_are_cut_when_the_drain_ends() {
    let mut server = Server::start(&[
        "server.shards=2",
        "shutdown.notice_ms=100",
        "shutdown.drain_ms=1500",
        "shutdown.close_timeout_ms=60000",
    ]);
    let deaf = clients(&server, 100);
    server.signal(Signal::TERM);
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    assert_eq!(last_words["forced"], true);
    assert_eq!(named(&check_sum(&server, &last_words)), [("forced", 100)]);
    drop(deaf);
}

/// Rule 2, S1.42, S2.4, S2.14, S2.38, S3.28, S3.34.
#[test]
fn a_short_deadline_is_kept_and_everybody_is_accounted_for() {
    for deadline_ms in [600_u64, 2000] {
        let setting = format!("shutdown.deadline_ms={deadline_ms}");
        let mut server = Server::start(&["server.shards=2", &setting]);
        let deaf = clients(&server, 50);
        let signalled = Instant::now();
        server.signal(Signal::TERM);
        // The process ends at its deadline; a second more for a machine that is busy.
        let code = server.wait_at_most(Duration::from_millis(deadline_ms + 1000)).code();
        let (_, last_words) = server.ended();
        assert_eq!(code, Some(0), "{deadline_ms}: {:?}, {last_words}", signalled.elapsed());
        assert_eq!(named(&check_sum(&server, &last_words)), [("forced", 50)], "{deadline_ms}");
        drop(deaf);
    }
}

#[test]
fn a_second_signal_under_a_short_deadline_cuts_everybody_too() {
    for deadline_ms in [1000, 2000] {
        let setting = format!("shutdown.deadline_ms={deadline_ms}");
        let mut server = Server::start(&["server.shards=2", &setting, "shutdown.notice_ms=5000"]);
        let deaf = clients(&server, 50);
        server.signal(Signal::TERM);
        server.wait_for_log("Shutdown signal received");
        server.signal(Signal::TERM);
        let (code, last_words) = server.ended();
        assert_eq!(code, Some(75), "{last_words}");
        assert_eq!(named(&check_sum(&server, &last_words)), [("forced", 50)], "{deadline_ms}");
        drop(deaf);
    }
}

/// How an attempt around the end of a server went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// 101, and after it the whole goodbye with 1001.
    Served,
    /// 503.
    Refused,
    /// There was no listener any more.
    NoListener,
    /// Connected, but then neither: the only bad end.
    Lost,
}

fn attempt(server: SocketAddr) -> Attempt {
    let stream = match socket::connect(server) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Attempt::NoListener,
        // The listener was closed between the two halves of the TCP handshake.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Attempt::NoListener,
        Err(error) => panic!("{error}"),
    };
    match Client::upgrade(stream, "/echo") {
        Ok(Ok(client)) => served(client),
        Ok(Err(response)) if response.status == 503 => Attempt::Refused,
        Ok(Err(response)) => panic!("{response:?}"),
        Err(_) => Attempt::Lost,
    }
}

fn served(mut client: Client) -> Attempt {
    loop {
        match client.next() {
            Next::Frame(frame) if frame.opcode() == CLOSE => {
                assert_eq!(frame.close_code(), Some(1001));
                let answer = wire::frame(FIN | CLOSE, &close_payload(1001, ""));
                // It may have been cut while the answer was on its way.
                let _ = client.stream.write_all(&answer);
                return Attempt::Served;
            }
            Next::Frame(_) => {}
            Next::End(_) => return Attempt::Lost,
        }
    }
}

/// Clients that keep coming from before the signal until nobody listens: how each attempt went.
fn burst(server: &mut Server, threads: usize) -> Vec<Attempt> {
    let address = server.clients;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let come = || {
            let mut attempts = Vec::new();
            while attempts.last() != Some(&Attempt::NoListener) && !over.load(Ordering::Relaxed) {
                attempts.push(attempt(address));
            }
            attempts
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(come)).collect();
        std::thread::sleep(Duration::from_millis(100));
        server.signal(Signal::TERM);
        assert_eq!(server.wait().code(), Some(0));
        // Each thread finds out for itself that nobody listens.
        std::thread::sleep(Duration::from_millis(100));
        over.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// S1.35.
#[test]
fn a_client_that_comes_around_the_signal_is_served_or_told_or_finds_no_listener() {
    let _alone = support::alone();
    for shards in [1, 2] {
        let setting = format!("server.shards={shards}");
        let mut server = Server::start(&[&setting, "shutdown.notice_ms=100"]);
        let attempts = burst(&mut server, 40);
        let count = |wanted| attempts.iter().filter(|attempt| **attempt == wanted).count();
        let lost = count(Attempt::Lost);
        assert_eq!(lost, 0, "with {shards} shards of {}", attempts.len());
        assert!(count(Attempt::Served) > 0, "nobody came before the signal");
        let (_, last_words) = server.ended();
        check_sum(&server, &last_words);
    }
}

/// Rule 1, S1.35.
#[test]
fn the_backlog_is_answered_and_not_reset() {
    let _alone = support::alone();
    let mut server = Server::start(&["server.shards=2", "shutdown.notice_ms=50"]);
    // Stopped, the server accepts nothing: all of these wait in the kernel.
    server.signal(Signal::STOP);
    let waiting: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = socket::connect(server.clients).unwrap();
            stream.write_all(&upgrade_request("/echo")).unwrap();
            stream
        })
        .collect();
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    let attempts: Vec<Attempt> = waiting
        .into_iter()
        .map(|stream| match Client::read_answer(stream) {
            Ok(Ok(client)) => served(client),
            Ok(Err(response)) if response.status == 503 => Attempt::Refused,
            Ok(Err(response)) => panic!("{response:?}"),
            Err(_) => Attempt::Lost,
        })
        .collect();
    let lost = attempts.iter().filter(|attempt| **attempt == Attempt::Lost).count();
    assert_eq!(lost, 0, "{attempts:?}");
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    check_sum(&server, &last_words);
}

/// S4.20.
#[test]
fn after_a_kill_the_next_server_has_the_port_at_once() {
    let mut server = Server::start(&["server.shards=2"]);
    let (listen, admin) = (server.clients, server.admin);
    for _ in 0..3 {
        let mut clients = clients(&server, 300);
        let killed = Instant::now();
        server.signal(Signal::KILL);
        let settings = [
            "server.shards=2",
            &format!("server.listen={listen}"),
            &format!("admin.listen={admin}"),
        ];
        let next = Server::start(&settings);
        Client::connect(next.clients, "/echo").echo("served again");
        let took = killed.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        for client in &mut clients {
            assert!(matches!(client.next(), Next::End(_)), "the kernel tells the old clients");
        }
        server = next;
    }
}

#[test]
fn a_signal_while_the_server_starts_is_obeyed() {
    for delay_us in [0, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 16_000] {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut child = command(&[]).stderr(log.reopen().unwrap()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(delay_us));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let signalled = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if signalled.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(log.path()).unwrap();
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("a signal after {delay_us} us was lost; the log: {log:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        // Before the first line of main the signal ends the process without a word.
        let by_signal = status.signal() == Some(15);
        assert!(status.code() == Some(0) || by_signal, "{delay_us}: {status}");
    }
}
