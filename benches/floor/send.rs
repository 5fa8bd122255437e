//! `tidegate-floor-send`: raw io_uring loops that hand each message on to all connections: the
//! send loop that a publication to N subscribers is compared with.
//!
//! Connections are upgraded and then only sent to. What a client sends is taken for one small
//! text frame, which every connection gets, the sender included; it is written once, every ring is
//! told of it, and every send points to it. Nothing is queued: a connection whose last send has
//! not completed misses a message, and so does a ring if there is a newer one by the time that it
//! looks. It must not lean on `tidegate::ring`, or it would share the cost that it is there to show.

#![allow(unsafe_code)]

mod buffers;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;

use clap::Parser;
use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use tidegate::sys::listener;
use tungstenite::handshake::derive_accept_key;

use crate::buffers::{Buffers, GROUP};

const SUBMISSIONS: u32 = 4_096;
const COMPLETIONS: u32 = 65_536;
const BACKLOG: u32 = 4_096;
/// The longest message: what a frame's second length says, and a receive brings.
const LONGEST: usize = 1_024;

/// The frame that was sent last, for the rings that are told of it.
static NEWEST: Mutex<Option<Arc<[u8]>>> = Mutex::new(None);
/// All rings.
static RINGS: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Raw send loops on io_uring: the floor for benches (tidegate-load broadcast --through client).
#[derive(Debug, Parser)]
#[command(name = "tidegate-floor-send", version)]
struct Arguments {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Core to pin the threads to
    #[arg(long)]
    core: Option<usize>,
    /// Rings, each with a thread and a listener of its own
    #[arg(long, default_value_t = 1)]
    rings: usize,
    /// Most connections at once on each ring
    #[arg(long, default_value_t = 16_384)]
    connections: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Kind {
    Accept = 1,
    Receive,
    Send,
    Close,
    /// Another ring has put a frame into [`NEWEST`].
    Newest,
    /// Another ring has been told so.
    Told,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Free,
    Asking,
    Open,
    Ending,
}

struct Connection {
    stage: Stage,
    sending: bool,
    /// The answer to the upgrade, until it is sent.
    answer: Vec<u8>,
}

struct Server {
    ring: IoUring,
    buffers: Buffers,
    connections: Vec<Connection>,
    /// The frame on its way, and how many sends point to it.
    frame: Arc<[u8]>,
    pointing: u32,
    listener: OwnedFd,
}

impl Server {
    fn new(arguments: &Arguments) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_no_sqarray()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        ring.submitter().register_files_sparse(arguments.connections)?;
        let buffers = Buffers::register(&ring)?;
        let listener = listener::listen(arguments.listen, BACKLOG)?;
        let free = || Connection { stage: Stage::Free, sending: false, answer: Vec::new() };
        let mut connections = Vec::new();
        connections.resize_with(arguments.connections as usize, free);
        Ok(Self { ring, buffers, connections, frame: Arc::new([]), pointing: 0, listener })
    }

    fn push(&mut self, kind: Kind, slot: u32, entry: squeue::Entry) -> io::Result<()> {
        let entry = entry.user_data((kind as u64) << 32 | u64::from(slot));
        loop {
            // SAFETY: receive buffers are in a mapping that is never unmapped; an answer is kept
            // until its send has completed, and a frame as long as sends point to it.
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

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        let entry = opcode::Recv::new(Fixed(slot), std::ptr::null_mut(), 0)
            .buf_group(GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(Kind::Receive, slot, entry)
    }

    fn send(&mut self, slot: u32, start: *const u8, length: u32) -> io::Result<()> {
        self.connections[slot as usize].sending = true;
        let entry = opcode::Send::new(Fixed(slot), start, length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        self.push(Kind::Send, slot, entry)
    }

    fn end(&mut self, slot: u32) -> io::Result<()> {
        let connection = &mut self.connections[slot as usize];
        connection.stage = Stage::Ending;
        if connection.sending {
            return Ok(());
        }
        self.push(Kind::Close, slot, opcode::Close::new(Fixed(slot)).build())
    }

    /// What has come is a whole request or a whole frame; this is loopback, and both are small.
    fn on_bytes(&mut self, slot: u32, bytes: &[u8]) -> io::Result<()> {
        match self.connections[slot as usize].stage {
            Stage::Asking => {
                let connection = &mut self.connections[slot as usize];
                connection.answer = answer(bytes);
                connection.stage = Stage::Open;
                let (start, length) = (connection.answer.as_ptr(), connection.answer.len() as u32);
                self.send(slot, start, length)
            }
            Stage::Open => match unmasked(bytes) {
                Some(message) => self.publish(&message),
                // Close, or something that nobody sends here.
                None => self.end(slot),
            },
            Stage::Free | Stage::Ending => Ok(()),
        }
    }

    fn publish(&mut self, message: &[u8]) -> io::Result<()> {
        let length = (message.len() as u16).to_be_bytes();
        let header = [0x81, 126, length[0], length[1]];
        let header = if message.len() < 126 { &[0x81, length[1]] } else { &header[..] };
        let frame: Arc<[u8]> = [header, message].concat().into();
        *NEWEST.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&frame));
        let rings = RINGS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let own = self.ring.as_raw_fd();
        for ring in rings.into_iter().filter(|ring| *ring != own) {
            let newest = (Kind::Newest as u64) << 32;
            let entry = opcode::MsgRingData::new(Fd(ring), 0, newest, None).build();
            self.push(Kind::Told, 0, entry)?;
        }
        self.send_to_all(frame)
    }

    fn send_to_all(&mut self, frame: Arc<[u8]>) -> io::Result<()> {
        if self.pointing > 0 {
            return Ok(());
        }
        self.frame = frame;
        let (start, length) = (self.frame.as_ptr(), self.frame.len() as u32);
        for slot in 0..self.connections.len() as u32 {
            let connection = &self.connections[slot as usize];
            if connection.stage == Stage::Open && !connection.sending {
                self.pointing += 1;
                self.send(slot, start, length)?;
            }
        }
        Ok(())
    }

    fn on_completion(&mut self, entry: &cqueue::Entry) -> io::Result<()> {
        let (kind, slot) = (entry.user_data() >> 32, entry.user_data() as u32);
        let (result, flags) = (entry.result(), entry.flags());
        if kind == Kind::Accept as u64 {
            if let Ok(slot) = u32::try_from(result) {
                self.connections[slot as usize].stage = Stage::Asking;
                self.receive(slot)?;
            }
            return if cqueue::more(flags) { Ok(()) } else { self.accept() };
        }
        if kind == Kind::Send as u64 {
            let connection = &mut self.connections[slot as usize];
            connection.sending = false;
            let was_answer = !std::mem::take(&mut connection.answer).is_empty();
            self.pointing -= u32::from(!was_answer);
            return match connection.stage {
                Stage::Ending => self.end(slot),
                _ => Ok(()),
            };
        }
        if kind == Kind::Newest as u64 {
            let newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return newest.map_or(Ok(()), |frame| self.send_to_all(frame));
        }
        if kind == Kind::Told as u64 {
            return Ok(());
        }
        if kind == Kind::Close as u64 {
            self.connections[slot as usize].stage = Stage::Free;
            return Ok(());
        }
        if let (Some(buffer), Ok(length @ 1..)) =
            (cqueue::buffer_select(flags), usize::try_from(result))
        {
            let start = self.buffers.address(buffer);
            // SAFETY: the kernel wrote `length` bytes there, and the buffer is ours until it is
            // given back.
            let bytes = unsafe { std::slice::from_raw_parts(start, length) }.to_vec();
            self.buffers.give_back(buffer);
            self.on_bytes(slot, &bytes)?;
            return match self.connections[slot as usize].stage {
                Stage::Open => self.receive(slot),
                _ => Ok(()),
            };
        }
        if result == -libc::ENOBUFS { self.receive(slot) } else { self.end(slot) }
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
        }
    }
}

fn answer(request: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(request);
    let key = text.split("Sec-WebSocket-Key: ").nth(1).unwrap_or_default();
    let key = key.split("\r\n").next().unwrap_or_default();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    )
    .into_bytes()
}

/// The payload of one masked text frame that fits; `None` for everything else.
fn unmasked(frame: &[u8]) -> Option<Vec<u8>> {
    let (0x81, length) = (*frame.first()?, usize::from(*frame.get(1)? & 0x7f)) else {
        return None;
    };
    let (length, start) = match length {
        126 => (usize::from(u16::from_be_bytes([*frame.get(2)?, *frame.get(3)?])), 4),
        127 => return None,
        length => (length, 2),
    };
    let key = frame.get(start..start + 4)?;
    let payload = frame.get(start + 4..start + 4 + length).filter(|_| length + 4 <= LONGEST)?;
    Some(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect())
}

fn main() -> io::Result<()> {
    let mut arguments = Arguments::parse();
    arguments.listen = listener::claim(arguments.listen)?;
    if let Some(id) = arguments.core
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        eprintln!("tidegate-floor-send: cannot pin to core {id}");
    }
    let all_known = Barrier::new(arguments.rings);
    thread::scope(|scope| {
        for _ in 0..arguments.rings {
            scope.spawn(|| {
                if let Err(error) = serve(&arguments, &all_known) {
                    eprintln!("tidegate-floor-send: {error}");
                    std::process::exit(1);
                }
            });
        }
    });
    Ok(())
}

fn serve(arguments: &Arguments, all_known: &Barrier) -> io::Result<()> {
    let mut server = Server::new(arguments)?;
    RINGS.lock().unwrap_or_else(PoisonError::into_inner).push(server.ring.as_raw_fd());
    if all_known.wait().is_leader() {
        println!("listening on {}", arguments.listen);
    }
    server.run()
}
