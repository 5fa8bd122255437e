//! `tidegate-floor-echo`: TCP echo on a raw io_uring, without WebSocket, on one thread.
//!
//! The floor that the server's cost per message is compared with: what the kernel's TCP and
//! io_uring cost when user space does next to nothing. It must not lean on `tidegate::ring`, or
//! it would share the cost that it is there to show. Not hardened: a peer that does not read
//! what it sent is cut.

#![allow(unsafe_code)]

mod buffers;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use clap::{Parser, ValueEnum};
use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use tidegate::sys::listener;

use crate::buffers::{Buffers, GROUP};

/// Unsent chunks of one connection above which it is cut.
const MAX_UNSENT: usize = 64;
const COMPLETIONS: u32 = 32_768;
const BACKLOG: u32 = 4_096;

/// Raw TCP echo on io_uring: the floor for benches.
#[derive(Debug, Parser)]
#[command(name = "tidegate-floor-echo", version)]
struct Arguments {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Core to pin the thread to
    #[arg(long)]
    core: Option<usize>,
    /// How to receive
    #[arg(long, value_enum, default_value = "multishot")]
    receive: Receive,
    /// Most connections at once
    #[arg(long, default_value_t = 4_096)]
    connections: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Receive {
    /// One multishot receive per connection, armed once
    Multishot,
    /// A one-shot poll, then a receive: what an idle connection of the server has armed
    Poll,
    /// A one-shot receive, armed again after each message
    Once,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Kind {
    Accept = 1,
    Poll,
    Receive,
    Send,
    Shutdown,
    Close,
}

/// A received chunk that goes back as it is.
#[derive(Clone, Copy)]
struct Chunk {
    buffer: u16,
    start: u32,
    len: u32,
}

#[derive(Default)]
struct Connection {
    unsent: VecDeque<Chunk>,
    sending: bool,
    receiving: bool,
    ending: bool,
    closing: bool,
}

struct Server {
    ring: IoUring,
    buffers: Buffers,
    connections: Vec<Connection>,
    starved: Vec<u32>,
    listener: OwnedFd,
    receive: Receive,
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
        let mut connections = Vec::new();
        connections.resize_with(arguments.connections as usize, Connection::default);
        let receive = arguments.receive;
        Ok(Self { ring, buffers, connections, starved: Vec::new(), listener, receive })
    }

    fn push(&mut self, kind: Kind, slot: u32, entry: squeue::Entry) -> io::Result<()> {
        let entry = entry.user_data((kind as u64) << 32 | u64::from(slot));
        loop {
            // SAFETY: receive and send buffers are in the mapping, which is never unmapped.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let listener = Fd(self.listener.as_raw_fd());
        let entry = opcode::AcceptMulti::new(listener).allocate_file_index(true).build();
        self.push(Kind::Accept, 0, entry)
    }

    /// Arms what tells that there is something to read.
    fn arm(&mut self, slot: u32) -> io::Result<()> {
        self.connections[slot as usize].receiving = true;
        match self.receive {
            Receive::Multishot => {
                let entry = opcode::RecvMulti::new(Fixed(slot), GROUP).build();
                self.push(Kind::Receive, slot, entry)
            }
            Receive::Poll => {
                let entry = opcode::PollAdd::new(Fixed(slot), libc::POLLIN as u32).build();
                self.push(Kind::Poll, slot, entry)
            }
            Receive::Once => self.receive_once(slot),
        }
    }

    fn receive_once(&mut self, slot: u32) -> io::Result<()> {
        let entry = opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), 0)
            .buf_group(GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(Kind::Receive, slot, entry)
    }

    /// Sends the oldest chunk, unless one is on its way.
    fn send(&mut self, slot: u32) -> io::Result<()> {
        let connection = &mut self.connections[slot as usize];
        let Some(chunk) = connection.unsent.front().copied() else { return Ok(()) };
        if connection.sending || connection.ending {
            return Ok(());
        }
        connection.sending = true;
        let start = self.buffers.address(chunk.buffer).wrapping_add(chunk.start as usize);
        let entry =
            opcode::Send::new(Fixed(slot), start, chunk.len).flags(libc::MSG_NOSIGNAL).build();
        self.push(Kind::Send, slot, entry)
    }

    fn on_receive(&mut self, slot: u32, result: i32, flags: u32) -> io::Result<()> {
        let more = cqueue::more(flags);
        let connection = &mut self.connections[slot as usize];
        connection.receiving = more;
        if let (Some(buffer), 1..) = (cqueue::buffer_select(flags), result) {
            if connection.ending || connection.unsent.len() >= MAX_UNSENT {
                self.buffers.give_back(buffer);
                return self.end(slot);
            }
            connection.unsent.push_back(Chunk { buffer, start: 0, len: result as u32 });
            self.send(slot)?;
        } else if result == -libc::ENOBUFS {
            self.starved.push(slot);
            return Ok(());
        } else {
            return self.end(slot);
        }
        if more { Ok(()) } else { self.arm(slot) }
    }

    fn on_send(&mut self, slot: u32, result: i32) -> io::Result<()> {
        let connection = &mut self.connections[slot as usize];
        connection.sending = false;
        let (false, Ok(sent @ 1..)) = (connection.ending, u32::try_from(result)) else {
            return self.end(slot);
        };
        if let Some(chunk) = connection.unsent.front_mut() {
            if sent < chunk.len {
                chunk.start += sent;
                chunk.len -= sent;
            } else {
                let buffer = chunk.buffer;
                connection.unsent.pop_front();
                self.buffers.give_back(buffer);
            }
        }
        self.send(slot)
    }

    /// Closes once nothing is in flight; what still is, is ended by a shutdown.
    fn end(&mut self, slot: u32) -> io::Result<()> {
        let connection = &mut self.connections[slot as usize];
        let first = !std::mem::replace(&mut connection.ending, true);
        if connection.sending || connection.receiving {
            if !first {
                return Ok(());
            }
            let entry = opcode::Shutdown::new(Fixed(slot), libc::SHUT_RDWR).build();
            return self.push(Kind::Shutdown, slot, entry);
        }
        if std::mem::replace(&mut connection.closing, true) {
            return Ok(());
        }
        for chunk in std::mem::take(&mut connection.unsent) {
            self.buffers.give_back(chunk.buffer);
        }
        self.push(Kind::Close, slot, opcode::Close::new(Fixed(slot)).build())
    }

    fn on_completion(&mut self, entry: &cqueue::Entry) -> io::Result<()> {
        let (kind, slot) = (entry.user_data() >> 32, entry.user_data() as u32);
        let result = entry.result();
        if kind == Kind::Accept as u64 {
            if let Ok(slot) = u32::try_from(result) {
                self.connections[slot as usize] = Connection::default();
                self.arm(slot)?;
            }
            return if cqueue::more(entry.flags()) { Ok(()) } else { self.accept() };
        }
        if kind == Kind::Receive as u64 {
            self.on_receive(slot, result, entry.flags())
        } else if kind == Kind::Send as u64 {
            self.on_send(slot, result)
        } else if kind == Kind::Poll as u64 {
            self.receive_once(slot)
        } else {
            Ok(())
        }
    }

    fn run(&mut self) -> io::Result<()> {
        self.accept()?;
        let mut completions = Vec::with_capacity(COMPLETIONS as usize);
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.raw_os_error() != Some(libc::EINTR) => return Err(error),
                _ => {}
            }
            completions.extend(self.ring.completion());
            for entry in completions.drain(..) {
                self.on_completion(&entry)?;
            }
            for slot in std::mem::take(&mut self.starved) {
                let connection = &self.connections[slot as usize];
                if !connection.ending && !connection.receiving {
                    self.arm(slot)?;
                }
            }
        }
    }
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    if let Some(id) = arguments.core
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        eprintln!("tidegate-floor-echo: cannot pin to core {id}");
    }
    let mut server = Server::new(&arguments)?;
    println!("listening on {}", listener::local_address(server.listener.as_raw_fd())?);
    server.run()
}
