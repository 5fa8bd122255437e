//! `--client tun`: TCP clients in user space on a TUN device, a few bytes each, so that the
//! machine's memory goes to the server's sockets.
//!
//! `peers` is the protocol, pure, and `flight` what it may have to send again; `segment` and
//! `frames` are the bytes; `device` is the device in its namespace; here they meet the clock and
//! the run. What the protocol leaves out is said in `peers`.

mod addresses;
mod device;
mod flight;
mod frames;
mod peers;
mod segment;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use self::addresses::Addresses;
pub(crate) use self::addresses::Ranges;
use self::device::Tun;
use self::peers::{Peers, Request};
use self::segment::Segment;
use crate::arguments::Hold;
use crate::client::Job;
use crate::crew::{Counters, Finished, Phase, Run, Worker};
use crate::report::{Report, rounded};

/// Packets that are read before the clock is looked at again.
const BATCH: usize = 256;
/// The longest packet that is read.
const LONGEST: usize = 64 << 10;
/// The longest that a turn sleeps, so that a new phase is noticed.
const LONGEST_SLEEP: Duration = Duration::from_millis(20);
/// Clients that say Close at once, at the end of a run.
const LEAVING_AT_ONCE: u64 = 4_000;

/// All clients of a run, on one thread.
pub(crate) struct TunClients {
    tun: Tun,
    peers: Peers,
    job: Job,
    began: Option<Instant>,
    last_answer: Option<Instant>,
    /// The next who has to leave, once the books are closed.
    leaving: Option<(u32, bool)>,
    buffer: Vec<u8>,
    packets: u64,
    /// What the clients cost while they were held.
    bytes: usize,
}

/// What is known of the clients at the end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TunBooks {
    pub(crate) messages: u64,
    sent_again: u64,
    packets: u64,
    bytes: usize,
    clients: u64,
}

/// Where a server on this machine is for the clients, who are in another namespace.
///
/// # Errors
/// An address of IPv6.
pub(crate) fn seen_from_outside(
    address: SocketAddr,
    ranges: &Ranges,
) -> Result<SocketAddr, String> {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_loopback() || ip.is_unspecified() => {
            Ok(SocketAddr::new(ranges.host.into(), address.port()))
        }
        IpAddr::V4(_) => Ok(address),
        IpAddr::V6(_) => Err(String::from("--client tun speaks IPv4 only")),
    }
}

impl TunClients {
    /// Makes the device.
    ///
    /// # Errors
    /// As [`Tun::new`].
    pub(crate) fn new(job: Job, ranges: &Ranges, per_source: u64) -> io::Result<Self> {
        let SocketAddr::V4(server) = job.address else {
            return Err(io::Error::other("--client tun speaks IPv4 only"));
        };
        let addresses = Addresses::new(server, ranges.first, per_source);
        let request = Request {
            authority: authority(&job, server, ranges),
            path: job.target.path.clone(),
            raw: job.raw,
            seed: job.epoch.elapsed().as_nanos() as u64 ^ u64::from(std::process::id()) << 20,
        };
        let peers = Peers::new(addresses, request, job.connect_timeout);
        Ok(Self {
            tun: Tun::new(ranges)?,
            peers,
            job,
            began: None,
            last_answer: None,
            leaving: None,
            buffer: vec![0; LONGEST],
            packets: 0,
            bytes: 0,
        })
    }

    fn now_us(&self) -> u64 {
        self.job.epoch.elapsed().as_micros() as u64
    }

    /// Starts what is due; returns how long it is until the next.
    fn open_due(&mut self) -> Duration {
        let next = u64::from(self.peers.opened());
        if self.leaving.is_some() || next >= self.job.connections {
            return LONGEST_SLEEP;
        }
        let now = Instant::now();
        let began = *self.began.get_or_insert(now);
        let elapsed = now.duration_since(began);
        let began_us = began.duration_since(self.job.epoch).as_micros() as u64;
        let (pace, now_us) = (self.job.pace, self.now_us());
        let due = pace.due(elapsed.as_secs_f64()).unwrap_or(u64::MAX).min(self.job.connections);
        let unanswered = self.peers.ledger.attempts - self.peers.ledger.answered();
        let until = due.min(next + self.job.max_opening.saturating_sub(unanswered));
        // In small parts: what comes back has to be read meanwhile.
        for index in next..until.min(next + BATCH as u64) {
            let at = pace.at(index).map_or(now_us, |at| began_us + at.as_micros() as u64);
            self.peers.open(at, now_us);
        }
        match pace.at(u64::from(self.peers.opened())) {
            _ if until > next => Duration::ZERO,
            Some(at) => at.saturating_sub(elapsed).min(LONGEST_SLEEP),
            None => LONGEST_SLEEP,
        }
    }

    fn leave_on(&mut self) {
        let Some((mut index, politely)) = self.leaving else { return };
        let now_us = self.now_us();
        let last = self.peers.opened();
        for _ in 0..BATCH {
            if index >= last || politely && self.peers.leaving() >= LEAVING_AT_ONCE {
                break;
            }
            self.peers.leave(index, politely, now_us);
            index += 1;
        }
        self.leaving = Some((index, politely));
    }

    fn send_out(&mut self) -> io::Result<()> {
        for packet in self.peers.out.iter() {
            self.packets += 1;
            self.tun.send(packet)?;
        }
        self.peers.out.clear();
        Ok(())
    }
}

/// The Host header names the server as the URL does, unless that is this machine's inside.
fn authority(job: &Job, server: SocketAddrV4, ranges: &Ranges) -> String {
    match server.ip() {
        ip if *ip == ranges.host => server.to_string(),
        _ => job.target.authority.clone(),
    }
}

impl Worker for TunClients {
    type Books = TunBooks;

    fn enter(&mut self, phase: Phase, politely: bool) {
        if phase == Phase::Leaving {
            self.bytes = self.peers.bytes();
            self.peers.close_books();
            self.leaving = Some((0, politely));
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        let sleep = self.open_due();
        self.leave_on();
        let now_us = self.now_us();
        self.peers.on_tick(now_us);
        self.send_out()?;
        let answered = self.peers.ledger.answered();
        let mut read = 0;
        while read < BATCH
            && let Some(len) = self.tun.receive(&mut self.buffer)?
        {
            read += 1;
            self.packets += 1;
            if let Some(segment) = Segment::parse(&self.buffer[..len]) {
                self.peers.on_segment(&segment, self.job.epoch.elapsed().as_micros() as u64);
            }
            self.send_out()?;
        }
        if self.peers.ledger.answered() > answered {
            self.last_answer = Some(Instant::now());
        }
        let more_to_leave = self.leaving.is_some_and(|(index, _)| index < self.peers.opened());
        if read == 0 && !sleep.is_zero() && !more_to_leave {
            let timer = self.peers.next_due_us().map_or(LONGEST_SLEEP, |due_us| {
                Duration::from_micros(due_us.saturating_sub(now_us))
            });
            self.tun.wait(sleep.min(timer));
        } else if read == 0 && more_to_leave {
            self.tun.wait(Duration::from_millis(1));
        }
        Ok(())
    }

    fn live(&self) -> u64 {
        self.peers.live()
    }

    fn publish(&self, counters: &Counters) {
        counters.publish(&self.peers.ledger, &crate::ledger::Ledger::default());
        counters.publish_messages(self.peers.messages);
    }

    fn finish(self) -> Finished<TunBooks> {
        Finished {
            again: crate::ledger::Ledger::default(),
            admissions: self.peers.admissions.clone(),
            last_answer: self.last_answer,
            pings: self.peers.pings,
            scenario: TunBooks {
                messages: self.peers.messages,
                sent_again: self.peers.sent_again,
                packets: self.packets,
                bytes: self.bytes,
                clients: self.peers.ledger.attempts,
            },
            ledger: self.peers.ledger,
        }
    }
}

/// What is reported and demanded.
pub(crate) fn report(arguments: &Hold, run: &Run<TunBooks>) -> Report {
    let mut report = Report::default();
    let ledger = run.ledger();
    report.common(run, &ledger);
    for ring in &run.rings {
        let books = &ring.scenario;
        let each = |bytes: usize| rounded(bytes as f64 / (books.clients as f64).max(1.0));
        report
            .section("held")
            .put("seconds", rounded(run.measured.window.as_secs_f64()))
            .put("messages", books.messages)
            .put("pings_answered", ring.pings)
            .section("tun_clients")
            .put("bytes_per_client", each(books.bytes))
            .put("packets", books.packets)
            .put("segments_sent_again", books.sent_again);
    }
    report.generator(&run.measured);
    let wanted = arguments.expect_admitted.unwrap_or(arguments.common.connections);
    if ledger.admitted != wanted {
        report.fault(format!("{} admitted, wanted {wanted}", ledger.admitted));
    }
    if !arguments.allow_closed && ledger.ended_total() > 0 {
        report.fault(format!(
            "{} connections ended while held (--allow-closed if that is expected)",
            ledger.ended_total()
        ));
    }
    if arguments.check_sequence.is_some() || arguments.expect_messages.is_some() {
        report.remark("--client tun counts messages and does not look at them: not checked");
    }
    report
}
