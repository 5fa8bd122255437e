//! The ring against the real kernel: a client and a server on one ring.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::*;
use crate::sys::event_fd::EventFd;
use crate::sys::listener;

fn settings() -> RingSettings {
    RingSettings {
        submissions: 64,
        completions: 256,
        files: 64,
        accepts: 4,
        buffers: 16,
        buffer_bytes: 512,
    }
}

struct Pair {
    ring: KernelRing,
    client: Token,
    server: Token,
}

fn wait_for<T>(ring: &mut KernelRing, mut pick: impl FnMut(Completion) -> Option<T>) -> T {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        while let Some(completion) = ring.next_completion() {
            if let Some(found) = pick(completion) {
                return found;
            }
        }
        ring.turn(Wait::AtMost(Duration::from_millis(50))).expect("the ring turns");
    }
    panic!("no such completion within 5 s");
}

fn connected_pair() -> Pair {
    connected_pair_of(settings())
}

fn connected_pair_of(settings: RingSettings) -> Pair {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = listener::listen(any, 16).expect("listen");
    let address = listener::local_address(socket.as_raw_fd()).expect("address");
    let bell = EventFd::new().expect("eventfd");
    let mut ring = KernelRing::new(settings, bell, Some(socket)).expect("ring");
    ring.start(Operation::Accept);
    ring.start(Operation::Open { ipv6: false });
    let slot = wait_for(&mut ring, |done| match done.outcome {
        Outcome::Opened(slot) => Some(slot.expect("socket")),
        _ => None,
    });
    let client = Token::new(slot, 7);
    let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), 0));
    ring.start(Operation::Bind(client, source));
    wait_for(&mut ring, |done| match done.outcome {
        Outcome::Bound(result) => result.ok(),
        _ => None,
    });
    ring.start(Operation::Connect(client, address));
    let (mut accepted, mut connected) = (None, false);
    wait_for(&mut ring, |done| {
        match done.outcome {
            Outcome::Accepted(result) => accepted = Some(result.expect("accept")),
            Outcome::Connected(result) => connected = result.is_ok(),
            _ => {}
        }
        (accepted.is_some() && connected).then_some(())
    });
    let accepted = accepted.expect("accepted");
    assert_eq!(accepted.address.ip(), source.ip(), "the peer's address comes with the accept");
    Pair { ring, client, server: Token::new(accepted.slot, 3) }
}

#[test]
fn bytes_cross_in_order_and_buffers_come_back() {
    let Pair { mut ring, client, server } = connected_pair();
    ring.start(Operation::Watch(server));
    let frames = vec![Frame::Own(b"one ".to_vec()), Frame::Own(b"two".to_vec())];
    ring.start(Operation::Send(client, SendBatch::many(frames)));
    wait_for(&mut ring, |done| match done.outcome {
        Outcome::Readable(result) => {
            assert_eq!(done.token, server);
            result.ok()
        }
        _ => None,
    });
    // More receives than there are buffers: each must find one, because each is given back.
    for _ in 0..40 {
        ring.start(Operation::Receive { token: server, wait: true });
        ring.start(Operation::Send(client, SendBatch::one(Frame::Own(b"x".to_vec()))));
        let received = wait_for(&mut ring, |done| match done.outcome {
            Outcome::Received { result, .. } => {
                Some(result.expect("receive").expect("not the end"))
            }
            _ => None,
        });
        assert!(!ring.bytes(&received).is_empty());
        ring.give_back(received);
    }
}

/// Receives so many times at once, and counts those that found a buffer and those that did not.
fn receive_at_once(ring: &mut KernelRing, token: Token, times: usize) -> (Vec<Received>, Vec<i32>) {
    (0..times).for_each(|_| ring.start(Operation::Receive { token, wait: false }));
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    wait_for(ring, |done| {
        match done.outcome {
            Outcome::Received { result: Ok(received), .. } => found.extend(received),
            Outcome::Received { result: Err(errno), .. } => failed.push(errno.0),
            _ => {}
        }
        (found.len() + failed.len() == times).then_some(())
    });
    (found, failed)
}

#[test]
fn buffers_are_offered_as_they_are_missed_and_withdrawn_in_quiet_times() {
    let Pair { mut ring, client, server } =
        connected_pair_of(RingSettings { buffers: 32, ..settings() });
    let all_at_once = |ring: &mut KernelRing| {
        ring.start(Operation::Send(client, SendBatch::one(Frame::Own(vec![1; 40 * 512]))));
        wait_for(ring, |done| matches!(done.outcome, Outcome::Sent(Ok(_), _)).then_some(()));
        let (found, missed) = receive_at_once(ring, server, 20);
        let counts = (found.len(), missed);
        found.into_iter().for_each(|received| ring.give_back(received));
        // What is left is read away, so that the next time begins as this one.
        for _ in counts.0..40 {
            let (read, _) = receive_at_once(ring, server, 1);
            read.into_iter().for_each(|received| ring.give_back(received));
        }
        counts
    };
    let again = libc::EAGAIN;
    assert_eq!(all_at_once(&mut ring), (16, vec![again; 4]), "few are offered at first");
    assert_eq!(all_at_once(&mut ring), (20, vec![]), "then as many as were missed");

    ring.start(Operation::Tick(Duration::from_micros(200)));
    let mut ticks = 0;
    wait_for(&mut ring, |done| {
        ticks += usize::from(matches!(done.outcome, Outcome::Ticked { .. }));
        (ticks > 20).then_some(())
    });
    assert_eq!(all_at_once(&mut ring), (20, vec![]), "one is withdrawn as it is given back");
    assert_eq!(all_at_once(&mut ring), (16, vec![again; 4]), "and few are there after a while");
}

#[test]
fn descriptors_that_come_and_go_stay_in_the_first_part_of_the_table() {
    const LIVE: usize = 32;
    const FILES: u32 = 2_048;
    let bell = EventFd::new().expect("eventfd");
    let mut ring =
        KernelRing::new(RingSettings { files: FILES, ..settings() }, bell, None).expect("ring");
    let (mut live, mut highest) = (VecDeque::new(), 0);
    for _ in 0..2 * FILES {
        ring.start(Operation::Open { ipv6: false });
        let slot = wait_for(&mut ring, |done| match done.outcome {
            Outcome::Opened(slot) => Some(slot.expect("socket")),
            _ => None,
        });
        highest = highest.max(slot);
        live.push_back(slot);
        // Four at once: the kernel looks from behind the last of them, and leaves three.
        if live.len() == LIVE + 4 {
            for slot in live.drain(..4) {
                ring.start(Operation::Close(Token::new(slot, 0)));
            }
            let mut closed = 0;
            wait_for(&mut ring, |done| {
                closed += usize::from(matches!(done.outcome, Outcome::Closed));
                (closed == 4).then_some(())
            });
        }
    }
    assert!(highest < FILES / 2, "{highest} of {FILES} for {LIVE} at a time");
}

#[test]
fn a_cut_completes_the_watch_and_resets_the_peer() {
    let Pair { mut ring, client, server } = connected_pair();
    ring.start(Operation::Watch(server));
    ring.start(Operation::Receive { token: client, wait: true });
    ring.turn(Wait::AtMost(Duration::from_millis(1))).expect("turn");
    ring.start(Operation::Cut(server));
    let (mut watched, mut cut, mut reset) = (false, false, false);
    wait_for(&mut ring, |done| {
        match done.outcome {
            Outcome::Readable(_) => watched = true,
            Outcome::Cut(result) => cut = result.is_ok(),
            Outcome::Received { result: Err(errno), .. } => {
                reset = errno == Errno(libc::ECONNRESET)
            }
            _ => {}
        }
        (watched && cut && reset).then_some(())
    });
    ring.start(Operation::Close(server));
    wait_for(&mut ring, |done| matches!(done.outcome, Outcome::Closed).then_some(()));
}

/// Asks how much of what `token` was given to send its peer has not acknowledged.
fn unacknowledged(ring: &mut KernelRing, token: Token) -> u32 {
    ring.start(Operation::Unacknowledged(token));
    wait_for(ring, |done| match done.outcome {
        Outcome::Unacknowledged(result) => {
            assert_eq!(done.token, token);
            Some(result.expect("the kernel answers"))
        }
        _ => None,
    })
}

#[test]
fn what_the_peer_has_not_acknowledged_is_all_that_was_sent_and_not_received() {
    let Pair { mut ring, client, server } = connected_pair();
    assert_eq!(unacknowledged(&mut ring, server), 0);
    let mut batch = SendBatch::one(Frame::Own(vec![7; 8 << 20]));
    let mut sent = 0;
    // Until the kernel has no room: then the send that waits has given nothing to it.
    loop {
        ring.start(Operation::Send(server, batch));
        ring.turn(Wait::AtMost(Duration::from_millis(200))).expect("turn");
        let Some(Completion { outcome: Outcome::Sent(result, back), .. }) = ring.next_completion()
        else {
            break;
        };
        let some = result.expect("sent");
        assert!(some > 0 && some <= back.remaining());
        batch = back;
        batch.advance(some);
        sent += some;
    }
    let before = unacknowledged(&mut ring, server) as usize;
    assert!(before > 0 && before < sent, "{before} of {sent}");
    let mut read = 0;
    while read < sent {
        ring.start(Operation::Receive { token: client, wait: false });
        let (received, more) = wait_for(&mut ring, |done| match done.outcome {
            Outcome::Received { result, .. } => Some((result.expect("bytes"), 0)),
            // What was read has made room for more.
            Outcome::Sent(result, _) => Some((None, result.expect("sent"))),
            _ => None,
        });
        sent += more;
        if let Some(received) = received {
            read += ring.bytes(&received).len();
            ring.give_back(received);
        }
    }
    let started = Instant::now();
    while unacknowledged(&mut ring, server) > 0 {
        assert!(started.elapsed() < Duration::from_secs(5), "all of it was received");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_bell_wakes_a_sleeping_ring() {
    let bell = EventFd::new().expect("eventfd");
    let mut ring = KernelRing::new(settings(), bell.clone(), None).expect("ring");
    ring.start(Operation::Wake);
    let ringer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        bell.ring();
    });
    wait_for(&mut ring, |done| matches!(done.outcome, Outcome::Woken).then_some(()));
    ringer.join().expect("ringer");
}

#[test]
fn more_operations_than_the_queue_holds_are_all_done() {
    let Pair { mut ring, client, server } = connected_pair();
    for _ in 0..1_000 {
        ring.start(Operation::Send(client, SendBatch::one(Frame::Own(b"y".to_vec()))));
    }
    let mut done = 0;
    wait_for(&mut ring, |completion| {
        if let Outcome::Sent(result, batch) = completion.outcome {
            assert_eq!(result.expect("sent"), batch.remaining());
            done += 1;
        }
        (done == 1_000).then_some(())
    });
    ring.start(Operation::Close(server));
}

#[test]
fn a_ring_that_is_dropped_does_not_wait_for_what_it_has_just_started() {
    let Pair { mut ring, client, server } = connected_pair();
    ring.start(Operation::Receive { token: client, wait: true });
    ring.turn(Wait::AtMost(Duration::ZERO)).expect("the ring turns");
    ring.start(Operation::Accept);
    ring.start(Operation::Watch(server));
    let started = Instant::now();
    drop(ring);
    assert!(started.elapsed() < Duration::from_millis(250), "{:?}", started.elapsed());
}

#[test]
fn ticks_come_again_and_again() {
    let bell = EventFd::new().expect("eventfd");
    let mut ring = KernelRing::new(settings(), bell, None).expect("ring");
    ring.start(Operation::Tick(Duration::from_millis(2)));
    for _ in 0..5 {
        let lasts = wait_for(&mut ring, |done| match done.outcome {
            Outcome::Ticked { lasts } => Some(lasts),
            _ => None,
        });
        assert!(lasts, "armed once");
    }
}

/// What a single turn sees of a ring that has two sends to do and is woken 20 ms later.
fn seen_in_one_turn(wait: Wait) -> usize {
    let Pair { mut ring, client, .. } = connected_pair();
    let bell = ring.bell();
    ring.start(Operation::Wake);
    for _ in 0..2 {
        ring.start(Operation::Send(client, SendBatch::one(Frame::Own(b"z".to_vec()))));
    }
    let ringer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        bell.ring();
    });
    ring.turn(wait).expect("the ring turns");
    let seen = std::iter::from_fn(|| ring.next_completion()).count();
    ringer.join().expect("ringer");
    seen
}

#[test]
fn a_wait_for_many_lets_them_gather() {
    assert_eq!(seen_in_one_turn(Wait::ForMany(Duration::from_millis(500))), 3);
    assert_eq!(seen_in_one_turn(Wait::ForOne), 2);
}

#[test]
fn a_wait_for_many_ends_with_the_first_after_its_time() {
    let bell = EventFd::new().expect("eventfd");
    let mut ring = KernelRing::new(settings(), bell.clone(), None).expect("ring");
    ring.start(Operation::Wake);
    let ringer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        bell.ring();
    });
    ring.turn(Wait::ForMany(Duration::from_millis(1))).expect("the ring turns");
    let woken = ring.next_completion().map(|done| done.outcome);
    assert!(matches!(woken, Some(Outcome::Woken)), "{woken:?}");
    ringer.join().expect("ringer");
}

#[test]
fn an_accept_says_whether_more_wait_behind_it() {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = listener::listen(any, 16).expect("listen");
    let address = listener::local_address(socket.as_raw_fd()).expect("address");
    let bell = EventFd::new().expect("eventfd");
    let mut ring = KernelRing::new(settings(), bell, Some(socket)).expect("ring");
    let _clients = [(); 3].map(|()| TcpStream::connect(address).expect("connect"));
    let more_wait = [(); 3].map(|()| {
        ring.start(Operation::Accept);
        wait_for(&mut ring, |done| match done.outcome {
            Outcome::Accepted(result) => Some(result.expect("accept").more_wait),
            _ => None,
        })
    });
    assert_eq!(more_wait, [true, true, false]);
}
