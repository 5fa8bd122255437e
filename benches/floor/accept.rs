//! `tidegate-floor-accept`: a raw io_uring loop on one thread that accepts connections and
//! answers the first bytes of each with the same 101, whatever they are.
//!
//! The floor that the server's cost per admitted connection is compared with: accept, receive,
//! send, and the poll that an idle connection has armed. Nothing is parsed, no address is looked
//! at, and nothing is kept about a connection: exactly one operation is in flight on each, or with
//! `--bare` none, so that what is left is the memory of an accepted socket. It must
//! not lean on `tidegate::ring`, or it would share the cost that it is there to show.

#![allow(unsafe_code)]

mod buffers;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use clap::Parser;
use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use tidegate::sys::listener;

use crate::buffers::{Buffers, GROUP};

const COMPLETIONS: u32 = 32_768;
const BACKLOG: u32 = 4_096;

/// The answer to the key of RFC 6455 section 1.3, `dGhlIHNhbXBsZSBub25jZQ==`.
const ANSWER: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Raw accept loop on io_uring: the floor for benches. Send every request with the key of
/// RFC 6455 section 1.3 (tidegate-load flood --key dGhlIHNhbXBsZSBub25jZQ==).
#[derive(Debug, Parser)]
#[command(name = "tidegate-floor-accept", version)]
struct Arguments {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Core to pin the thread to
    #[arg(long)]
    core: Option<usize>,
    /// Most connections at once
    #[arg(long, default_value_t = 4_096)]
    connections: u32,
    /// Accept and do nothing: the memory of a bare socket (tidegate-load hold --raw)
    #[arg(long)]
    bare: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Kind {
    Accept = 1,
    Receive,
    Send,
    Poll,
    Close,
}

struct Server {
    ring: IoUring,
    buffers: Buffers,
    listener: OwnedFd,
    /// The listener has no accept armed; the table was full.
    idle: bool,
    bare: bool,
}

impl Server {
    fn new(arguments: &Arguments) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(COMPLETIONS)
            .build(4_096)?;
        ring.submitter().register_files_sparse(arguments.connections)?;
        let buffers = Buffers::register(&ring)?;
        let listener = listener::listen(listener::claim(arguments.listen)?, BACKLOG)?;
        Ok(Self { ring, buffers, listener, idle: true, bare: arguments.bare })
    }

    fn push(&mut self, kind: Kind, slot: u32, entry: squeue::Entry) -> io::Result<()> {
        let entry = entry.user_data((kind as u64) << 32 | u64::from(slot));
        loop {
            // SAFETY: receive buffers are in a mapping that is never unmapped, and what is sent
            // is a constant.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        self.idle = false;
        let listener = Fd(self.listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(listener).allocate_file_index(true).build();
        self.push(Kind::Accept, 0, entry)
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        let entry = opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), 0)
            .buf_group(GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(Kind::Receive, slot, entry)
    }

    fn answer(&mut self, slot: u32) -> io::Result<()> {
        let entry = opcode::Send::new(Fixed(slot), ANSWER.as_ptr(), ANSWER.len() as u32)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        self.push(Kind::Send, slot, entry)
    }

    fn watch(&mut self, slot: u32) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fixed(slot), libc::POLLIN as u32).build();
        self.push(Kind::Poll, slot, entry)
    }

    fn close(&mut self, slot: u32) -> io::Result<()> {
        self.push(Kind::Close, slot, opcode::Close::new(Fixed(slot)).build())
    }

    fn on_accept(&mut self, result: i32, more: bool) -> io::Result<()> {
        self.idle = !more;
        match u32::try_from(result) {
            Ok(_) if self.bare => Ok(()),
            Ok(slot) => self.receive(slot),
            Err(_) => Ok(()),
        }
    }

    fn on_receive(&mut self, slot: u32, result: i32, flags: u32) -> io::Result<()> {
        if let Some(buffer) = cqueue::buffer_select(flags) {
            self.buffers.give_back(buffer);
        }
        match result {
            1.. => self.answer(slot),
            // All buffers wait to be looked at in this very turn.
            _ if result == -libc::ENOBUFS => self.receive(slot),
            _ => self.close(slot),
        }
    }

    fn on_completion(&mut self, entry: &cqueue::Entry) -> io::Result<()> {
        let (kind, slot) = (entry.user_data() >> 32, entry.user_data() as u32);
        let (result, flags) = (entry.result(), entry.flags());
        if kind == Kind::Accept as u64 {
            self.on_accept(result, cqueue::more(flags))
        } else if kind == Kind::Receive as u64 {
            self.on_receive(slot, result, flags)
        } else if kind == Kind::Send as u64 && result == ANSWER.len() as i32 {
            self.watch(slot)
        } else if kind == Kind::Close as u64 {
            Ok(())
        } else {
            // The peer has sent something or is gone, or the answer could not be sent.
            self.close(slot)
        }
    }

    fn run(&mut self) -> io::Result<()> {
        let mut completions = Vec::with_capacity(COMPLETIONS as usize);
        loop {
            if self.idle {
                self.accept()?;
            }
            match self.ring.submit_and_wait(1) {
                Err(error) if error.raw_os_error() != Some(libc::EINTR) => return Err(error),
                _ => {}
            }
            completions.extend(self.ring.completion());
            for entry in completions.drain(..) {
                self.on_completion(&entry)?;
            }
        }
    }
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    if let Some(id) = arguments.core
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        eprintln!("tidegate-floor-accept: cannot pin to core {id}");
    }
    let mut server = Server::new(&arguments)?;
    println!("listening on {}", listener::local_address(server.listener.as_raw_fd())?);
    server.run()
}
