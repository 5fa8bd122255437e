//! The ring of one thread, on io_uring.
//!
//! SINGLE_ISSUER and DEFER_TASKRUN: completions appear only when this thread enters the kernel.
//! Invariants: `awaited` counts completions that must still come; no memory that the kernel may
//! touch is freed while it is above zero.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use io_uring::types::{
    CancelBuilder, DestinationSlot, Fd, Fixed, SubmitArgs, TimeoutFlags, Timespec,
};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::completion::{Accepted, Completion, Errno, Outcome};
use super::file_table::FileTable;
use super::in_flight::{InFlight, SendForm};
use super::neighbours::Neighbours;
use super::operation::Operation;
use super::receive_buffers::{GROUP, ReceiveBuffers, Received};
use super::token::{Kind, Token, UserData};
use super::{Ring, Wait, probe};
use crate::limits::GATHERED;
use crate::sys::event_fd::EventFd;

/// `IORING_RECVSEND_POLL_FIRST` of linux/io_uring.h: wait for readiness before the first try.
const POLL_FIRST: u16 = 1;
/// `SOCKET_URING_OP_SIOCOUTQ` of linux/io_uring.h.
const SOCKET_SIOCOUTQ: u32 = 1;
/// After a quick restart the memory of the last life's rings may still be accounted for
/// (RLIMIT_MEMLOCK), so ENOMEM is tried again for this long.
const MEMORY_PATIENCE: Duration = Duration::from_secs(1);

/// A wait for many needs an end of its own, or the kernel ends it after its shorter time without
/// any completion.
const FAR_OFF: Duration = Duration::from_secs(1);

fn timespec(duration: Duration) -> Timespec {
    Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos())
}

/// How a ring is made.
#[derive(Clone, Copy, Debug)]
pub struct RingSettings {
    /// Submission queue entries, at most 32,768.
    pub submissions: u32,
    /// Completion queue entries, at most 65,536.
    pub completions: u32,
    /// Direct descriptors, at most [`super::MAX_SLOTS`] and RLIMIT_NOFILE.
    pub files: u32,
    /// Accepts in flight at once.
    pub accepts: u32,
    /// Receive buffers at most: a power of two, up to 32,768. So many are offered as are needed.
    pub buffers: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
}

/// io_uring behind the [`Ring`] interface. Belongs to the thread that made it.
pub struct KernelRing {
    io: ManuallyDrop<IoUring>,
    buffers: ManuallyDrop<ReceiveBuffers>,
    in_flight: ManuallyDrop<InFlight>,
    bell_value: ManuallyDrop<Box<u64>>,
    tick_interval: ManuallyDrop<Box<Timespec>>,
    bell: EventFd,
    listener: Option<OwnedFd>,
    neighbours: Neighbours,
    settings: RingSettings,
    file_table: FileTable,
    backlog: VecDeque<squeue::Entry>,
    ready: VecDeque<cqueue::Entry>,
    awaited: usize,
    single_thread: PhantomData<*const ()>,
}

impl KernelRing {
    /// Makes a ring for the calling thread. `bell` is what other threads ring to wake it;
    /// `listener` is where `Accept` takes connections from.
    ///
    /// # Errors
    /// What the kernel answered, with the step that failed; [`probe`] turns it into a cause and
    /// a remedy.
    pub fn new(
        settings: RingSettings,
        bell: EventFd,
        listener: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let io = Self::set_up(&settings)?;
        io.submitter()
            .register_files_sparse(settings.files)
            .map_err(|error| probe::during("registering direct descriptors", error))?;
        let buffers =
            ReceiveBuffers::register(&io.submitter(), settings.buffers, settings.buffer_bytes)
                .map_err(|error| probe::during("registering receive buffers", error))?;
        Ok(Self {
            io: ManuallyDrop::new(io),
            buffers: ManuallyDrop::new(buffers),
            in_flight: ManuallyDrop::new(InFlight::new(settings.accepts)),
            bell_value: ManuallyDrop::new(Box::new(0)),
            tick_interval: ManuallyDrop::new(Box::default()),
            bell,
            listener,
            neighbours: Neighbours::default(),
            settings,
            file_table: FileTable::default(),
            backlog: VecDeque::new(),
            ready: VecDeque::new(),
            awaited: 0,
            single_thread: PhantomData,
        })
    }

    fn set_up(settings: &RingSettings) -> io::Result<IoUring> {
        let started = Instant::now();
        loop {
            let built = IoUring::builder()
                .setup_single_issuer()
                .setup_defer_taskrun()
                .setup_taskrun_flag()
                .setup_submit_all()
                .setup_no_sqarray()
                .setup_cqsize(settings.completions)
                .build(settings.submissions);
            match built {
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOMEM)
                        && started.elapsed() < MEMORY_PATIENCE =>
                {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other.map_err(|error| probe::during("setting up a ring", error)),
            }
        }
    }

    /// Makes this ring one of several that hand descriptors to each other.
    pub fn join(&mut self, neighbours: Neighbours) {
        neighbours.announce(self.io.as_raw_fd());
        self.neighbours = neighbours;
    }

    #[cfg(test)]
    pub(super) fn bell(&self) -> EventFd {
        self.bell.clone()
    }

    fn push(&mut self, kind: Kind, place: u32, token: Token, entry: squeue::Entry) {
        let entry = entry.user_data(UserData { kind, place, token }.pack());
        self.awaited += 1;
        if !self.backlog.is_empty() || !self.try_push(&entry) {
            self.backlog.push_back(entry);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        if self.push_entry(entry) {
            return true;
        }
        // The queue is full: let the kernel take it. EBUSY (completions must be collected first)
        // and EINTR leave the entry for the next turn.
        if self.io.submit().is_err() {
            self.collect();
        }
        self.push_entry(entry)
    }

    fn push_entry(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: what the entry points to is owned by `in_flight`, `buffers` or `bell_value`
        // until its completion is taken; direct descriptors carry no memory.
        unsafe { self.io.submission().push(entry) }.is_ok()
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    fn collect(&mut self) {
        let ready = &mut self.ready;
        ready.extend(self.io.completion());
    }

    fn enter(&mut self, want: usize, wait: Wait) -> io::Result<()> {
        let submitter = self.io.submitter();
        let entered = match wait {
            Wait::ForOne => submitter.submit_and_wait(want),
            Wait::AtMost(time) => {
                let time = timespec(time);
                submitter.submit_with_args(want, &SubmitArgs::new().timespec(&time))
            }
            Wait::ForMany(time) => {
                let least = time.as_micros() as u32;
                let most = timespec(FAR_OFF);
                let args = SubmitArgs::new().min_wait_usec(least).timespec(&most);
                submitter.submit_with_args(want, &args)
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    fn send(&mut self, token: Token, batch: super::SendBatch) {
        let (place, form) = self.in_flight.send(batch);
        // Without MSG_WAITALL: a send that waits for room has given nothing to the kernel, so what
        // is known to be sent is all that the kernel counts as unacknowledged.
        let flags = libc::MSG_NOSIGNAL;
        let entry = match form {
            SendForm::Plain { start, len } => {
                opcode::Send::new(Fixed(token.slot), start, len).flags(flags).build()
            }
            SendForm::Gathered { header } => {
                opcode::SendMsg::new(Fixed(token.slot), header).flags(flags as u32).build()
            }
        };
        self.push(Kind::Send, place, token, entry);
    }

    fn accept(&mut self) {
        let Some(listener) = self.listener.as_ref().map(AsRawFd::as_raw_fd) else { return };
        let Some((place, slot)) = self.in_flight.accept() else { return };
        let entry = opcode::Accept::new(
            Fd(listener),
            slot.address.as_mut_ptr(),
            std::ptr::from_mut(&mut slot.len),
        )
        .file_index(Some(DestinationSlot::auto_target()))
        .build();
        self.push(Kind::Accept, place, Token::new(0, 0), entry);
    }

    /// Lets descriptors that come next take the first free places.
    fn look_from_the_first(&mut self) {
        // What is closed in the same turn would have the kernel look from there.
        let _ = self.io.submit();
        let told = self.file_table.look_from_the_first(self.io.as_raw_fd(), self.settings.files);
        debug_assert!(told.is_ok(), "the whole table is a range of it: {told:?}");
    }

    fn hand(&mut self, token: Token, to: usize) {
        // A ring that is gone has no number; the kernel then says EBADF, as for any other that
        // is not one.
        let ring = self.neighbours.find(to).unwrap_or(Neighbours::NONE);
        let place = self.neighbours.index() as u32;
        let there = UserData { kind: Kind::Handed, place, token }.pack();
        let entry = opcode::MsgRingSendFd::new(
            Fd(ring),
            Fixed(token.slot),
            DestinationSlot::auto_target(),
            there,
        )
        .build();
        self.push(Kind::Hand, to as u32, token, entry);
    }

    fn tick(&mut self, interval: Duration) {
        **self.tick_interval = timespec(interval);
        let interval: *const Timespec = &raw const **self.tick_interval;
        let entry = opcode::Timeout::new(interval).flags(TimeoutFlags::MULTISHOT).build();
        self.push(Kind::Tick, UserData::NO_PLACE, Token::new(0, 0), entry);
    }

    fn received(&mut self, len: u32, flags: u32) -> Option<Received> {
        let id = cqueue::buffer_select(flags)?;
        if len == 0 {
            self.buffers.give_back(Received { id, len });
            return None;
        }
        Some(Received { id, len })
    }

    fn decode(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let UserData { kind, place, token } = UserData::unpack(entry.user_data())?;
        let result = match entry.result() {
            negative if negative < 0 => Err(Errno(-negative)),
            value => Ok(value as u32),
        };
        let outcome = match kind {
            Kind::Accept => {
                let address = self.in_flight.accepted(place);
                Outcome::Accepted(result.and_then(|slot| {
                    self.file_table.come(slot);
                    let address = address.ok_or(Errno(libc::EAFNOSUPPORT))?;
                    let more_wait = cqueue::sock_nonempty(entry.flags());
                    Ok(Accepted { slot, address, more_wait })
                }))
            }
            Kind::Watch => Outcome::Readable(result.map(drop)),
            Kind::Receive => Outcome::Received {
                result: match result {
                    Ok(len) => Ok(self.received(len, entry.flags())),
                    // There is one for the next try.
                    Err(Errno(libc::ENOBUFS)) if self.buffers.offer_another() => {
                        Err(Errno(libc::EAGAIN))
                    }
                    Err(errno) => Err(errno),
                },
                lasts: cqueue::more(entry.flags()),
            },
            Kind::Calm => Outcome::Calmed(result.map(drop)),
            Kind::Send => {
                Outcome::Sent(result.map(|sent| sent as usize), self.in_flight.sent(place)?)
            }
            Kind::Unacknowledged => Outcome::Unacknowledged(result),
            Kind::Cut => Outcome::Cut(result.map(drop)),
            Kind::HalfClose => Outcome::HalfClosed,
            Kind::Close => {
                self.file_table.close();
                Outcome::Closed
            }
            Kind::Hand => Outcome::HandedOver { to: place as usize, result: result.map(drop) },
            Kind::Handed => match result {
                Ok(slot) => {
                    self.file_table.come(slot);
                    Outcome::HandedHere { from: place as usize, slot }
                }
                Err(_) => return None,
            },
            Kind::Wake => Outcome::Woken,
            Kind::Tick => {
                self.buffers.on_tick();
                Outcome::Ticked { lasts: cqueue::more(entry.flags()) }
            }
            Kind::Open => Outcome::Opened(result.inspect(|slot| self.file_table.come(*slot))),
            Kind::Bind => {
                self.in_flight.address_done(place);
                Outcome::Bound(result.map(drop))
            }
            Kind::Connect => {
                self.in_flight.address_done(place);
                Outcome::Connected(result.map(drop))
            }
        };
        Some(Completion { token, outcome })
    }
}

impl Ring for KernelRing {
    fn start(&mut self, operation: Operation) {
        let none = UserData::NO_PLACE;
        match operation {
            Operation::Accept => self.accept(),
            Operation::Watch(token) => {
                let entry = opcode::PollAdd::new(Fixed(token.slot), libc::POLLIN as u32).build();
                self.push(Kind::Watch, none, token, entry);
            }
            Operation::Receive { token, wait } => {
                let entry = opcode::Recv::new(Fixed(token.slot), std::ptr::null_mut(), 0)
                    .buf_group(GROUP)
                    .ioprio(if wait { POLL_FIRST } else { 0 })
                    .build()
                    .flags(squeue::Flags::BUFFER_SELECT);
                self.push(Kind::Receive, none, token, entry);
            }
            Operation::ReceiveMany(token) => {
                let entry = opcode::RecvMulti::new(Fixed(token.slot), GROUP).build();
                self.push(Kind::Receive, none, token, entry);
            }
            Operation::Calm(token) => {
                let receive = UserData { kind: Kind::Receive, place: none, token }.pack();
                self.push(Kind::Calm, none, token, opcode::AsyncCancel::new(receive).build());
            }
            Operation::Send(token, batch) => self.send(token, batch),
            Operation::Unacknowledged(token) => {
                let entry = opcode::UringCmd16::new(Fixed(token.slot), SOCKET_SIOCOUTQ).build();
                self.push(Kind::Unacknowledged, none, token, entry);
            }
            Operation::Cut(token) => {
                let entry = opcode::Connect::new(
                    Fixed(token.slot),
                    crate::sys::socket_address::UNSPECIFIED.as_ptr(),
                    crate::sys::socket_address::UNSPECIFIED.len(),
                );
                self.push(Kind::Cut, none, token, entry.build());
            }
            Operation::HalfClose(token) => {
                let entry = opcode::Shutdown::new(Fixed(token.slot), libc::SHUT_WR).build();
                self.push(Kind::HalfClose, none, token, entry);
            }
            Operation::Close(token) => {
                let entry = opcode::Close::new(Fixed(token.slot)).build();
                self.push(Kind::Close, none, token, entry);
            }
            Operation::Hand { token, to } => self.hand(token, to),
            Operation::Wake => {
                let value: *mut u64 = &mut **self.bell_value;
                let entry = opcode::Read::new(Fd(self.bell.as_raw_fd()), value.cast(), 8).build();
                self.push(Kind::Wake, none, Token::new(0, 0), entry);
            }
            Operation::Tick(interval) => self.tick(interval),
            Operation::Open { ipv6 } => {
                let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
                let entry = opcode::Socket::new(family, libc::SOCK_STREAM, 0)
                    .file_index(Some(DestinationSlot::auto_target()))
                    .build();
                self.push(Kind::Open, none, Token::new(0, 0), entry);
            }
            Operation::Bind(token, address) => {
                let (place, start, len) = self.in_flight.address(address);
                let entry = opcode::Bind::new(Fixed(token.slot), start, len).build();
                self.push(Kind::Bind, place, token, entry);
            }
            Operation::Connect(token, address) => {
                let (place, start, len) = self.in_flight.address(address);
                let entry = opcode::Connect::new(Fixed(token.slot), start, len).build();
                self.push(Kind::Connect, place, token, entry);
            }
        }
    }

    fn turn(&mut self, wait: Wait) -> io::Result<()> {
        self.push_backlog();
        let idle = self.ready.is_empty() && self.backlog.is_empty();
        let want = match wait {
            _ if !idle => 0,
            Wait::AtMost(Duration::ZERO) => 0,
            Wait::ForOne | Wait::AtMost(_) => 1,
            Wait::ForMany(_) => GATHERED,
        };
        if self.file_table.is_spread_out() {
            self.look_from_the_first();
        }
        self.enter(want, wait)?;
        self.collect();
        Ok(())
    }

    fn unsubmitted(&mut self) -> usize {
        self.io.submission().len() + self.backlog.len()
    }

    fn next_completion(&mut self) -> Option<Completion> {
        loop {
            let entry = self.ready.pop_front()?;
            let completion = self.decode(&entry);
            let unasked =
                matches!(completion, Some(Completion { outcome: Outcome::HandedHere { .. }, .. }));
            if !cqueue::more(entry.flags()) && !unasked {
                self.awaited = self.awaited.saturating_sub(1);
            }
            if let Some(completion) = completion {
                return Some(completion);
            }
        }
    }

    fn bytes(&mut self, received: &Received) -> &mut [u8] {
        self.buffers.bytes(received)
    }

    fn give_back(&mut self, received: Received) {
        self.buffers.give_back(received);
    }

    fn let_nobody_begin(&mut self) {
        let listener = self.listener.as_ref().map(AsRawFd::as_raw_fd);
        if let Some(Err(error)) = listener.map(crate::sys::listener::let_nobody_begin) {
            // The last to connect may then be reset, as with any server that closes.
            tracing::warn!(%error, "the listener cannot be told to let nobody begin");
        }
    }

    fn backlog_is_empty(&self) -> bool {
        let listener = self.listener.as_ref().map(AsRawFd::as_raw_fd);
        listener.is_none_or(crate::sys::listener::backlog_is_empty)
    }

    fn file_capacity(&self) -> u32 {
        self.settings.files
    }
}

/// The kernel walks its list of requests once for each that it cancels, so with many in flight
/// (18,000 took 5.7 s) the memory they use is given up instead.
const CANCEL_AT_MOST: usize = 1_024;

impl KernelRing {
    /// Ends everything in flight. False if something may still be, and with it the kernel's use
    /// of our memory.
    fn quiesce(&mut self) -> bool {
        self.backlog.clear();
        if self.awaited > CANCEL_AT_MOST {
            return false;
        }
        // What is not submitted yet would not be cancelled, and then begin.
        if self.enter(0, Wait::ForOne).is_err() {
            return false;
        }
        let patience = Some(Timespec::new().sec(1));
        let cancelled = self.io.submitter().register_sync_cancel(patience, CancelBuilder::any());
        let nothing_armed = match cancelled {
            Ok(()) => true,
            Err(error) => error.raw_os_error() == Some(libc::ENOENT),
        };
        let started = Instant::now();
        while !self.in_flight.is_empty() && started.elapsed() < Duration::from_millis(500) {
            if self.enter(1, Wait::AtMost(Duration::from_millis(20))).is_err() {
                return false;
            }
            self.collect();
            while self.next_completion().is_some() {}
        }
        nothing_armed && self.in_flight.is_empty()
    }
}

impl Drop for KernelRing {
    /// The memory of what is in flight is freed only if nothing is in flight any more: a leak at
    /// the end of a thread is harmless, a write into freed memory is not.
    fn drop(&mut self) {
        self.neighbours.announce(Neighbours::NONE);
        let quiet = self.quiesce();
        // SAFETY: `io` is not used after this line; closing it ends the kernel's use of the ring.
        unsafe { ManuallyDrop::drop(&mut self.io) };
        if quiet {
            // SAFETY: not used after this line, and no operation is in flight (`quiet`).
            unsafe { ManuallyDrop::drop(&mut self.buffers) };
            // SAFETY: as above.
            unsafe { ManuallyDrop::drop(&mut self.in_flight) };
            // SAFETY: as above.
            unsafe { ManuallyDrop::drop(&mut self.bell_value) };
            // SAFETY: as above.
            unsafe { ManuallyDrop::drop(&mut self.tick_interval) };
        }
    }
}
