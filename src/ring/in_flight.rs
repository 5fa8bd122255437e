//! Memory that the kernel uses while an operation is in flight.
//!
//! Invariant: what an entry points to does not move and is not freed until its completion has
//! been taken, even when the table itself grows: every pointer goes to the heap behind the entry.

use std::net::SocketAddr;

use super::operation::{Frame, SendBatch};
use crate::sys::socket_address::RawAddress;
use crate::tables::Slab;

/// Frames gathered by one send; the kernel takes up to 1,024 (UIO_MAXIOV).
const MAX_GATHERED: usize = 64;

/// Bytes of one send: more goes out in pieces, so that a slow reader shows progress.
const MAX_SEND_BYTES: usize = 256 << 10;

pub(super) struct InFlight {
    entries: Slab<Option<Entry>>,
    accepts: Box<[AcceptPlace]>,
    free_accepts: Vec<u32>,
}

#[expect(dead_code, reason = "held for the kernel, which reads it through a pointer")]
enum Entry {
    Send(SendBatch, Option<Box<Gather>>),
    Address(Box<RawAddress>),
}

/// What the kernel needs for a send of several frames.
struct Gather {
    header: libc::msghdr,
    parts: Vec<libc::iovec>,
}

/// Where the kernel puts the address of an accepted peer.
pub(super) struct AcceptPlace {
    pub(super) address: RawAddress,
    pub(super) len: libc::socklen_t,
}

/// How a send must be submitted.
pub(super) enum SendForm {
    Plain { start: *const u8, len: u32 },
    Gathered { header: *const libc::msghdr },
}

impl InFlight {
    pub(super) fn new(accepts: u32) -> Self {
        let place = || AcceptPlace { address: RawAddress::empty(), len: RawAddress::CAPACITY };
        Self {
            entries: Slab::default(),
            accepts: (0..accepts).map(|_| place()).collect(),
            free_accepts: (0..accepts).rev().collect(),
        }
    }

    /// True if no completion is awaited that the kernel needs memory of ours for.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.free_accepts.len() == self.accepts.len()
    }

    pub(super) fn send(&mut self, batch: SendBatch) -> (u32, SendForm) {
        let gather = match &batch {
            SendBatch::One { .. } => None,
            SendBatch::Many { frames, sent } => Some(Gather::new(frames, *sent)),
        };
        let form = match (&batch, &gather) {
            (_, Some(gather)) => SendForm::Gathered { header: &gather.header },
            (SendBatch::One { frame, sent }, None) => {
                let rest = frame.bytes().get(*sent..).unwrap_or_default();
                let rest = &rest[..rest.len().min(MAX_SEND_BYTES)];
                SendForm::Plain { start: rest.as_ptr(), len: rest.len() as u32 }
            }
            (SendBatch::Many { .. }, None) => unreachable!("several frames are always gathered"),
        };
        (self.entries.insert(Some(Entry::Send(batch, gather))), form)
    }

    pub(super) fn sent(&mut self, place: u32) -> Option<SendBatch> {
        match self.entries.try_remove(place)?? {
            Entry::Send(batch, _) => Some(batch),
            Entry::Address(_) => None,
        }
    }

    pub(super) fn address(&mut self, address: SocketAddr) -> (u32, *const libc::sockaddr, u32) {
        let raw = Box::new(RawAddress::from(address));
        let (start, len) = (raw.as_ptr(), raw.len());
        (self.entries.insert(Some(Entry::Address(raw))), start, len)
    }

    pub(super) fn address_done(&mut self, place: u32) {
        self.entries.try_remove(place);
    }

    /// A place for the address of an accepted peer; `None` if all are in use.
    pub(super) fn accept(&mut self) -> Option<(u32, &mut AcceptPlace)> {
        let place = self.free_accepts.pop()?;
        let slot = self.accepts.get_mut(place as usize)?;
        slot.len = RawAddress::CAPACITY;
        Some((place, slot))
    }

    pub(super) fn accepted(&mut self, place: u32) -> Option<SocketAddr> {
        self.free_accepts.push(place);
        let slot = self.accepts.get(place as usize)?;
        slot.address.to_socket_addr()
    }
}

impl Gather {
    fn new(frames: &[Frame], sent: usize) -> Box<Self> {
        let (mut skip, mut room) = (sent, MAX_SEND_BYTES);
        let parts = frames
            .iter()
            .take(MAX_GATHERED)
            .map_while(|frame| {
                let rest = frame.bytes().get(skip..).unwrap_or_default();
                let part = &rest[..rest.len().min(room)];
                let fits = room > 0;
                (skip, room) = (0, room - part.len());
                fits.then(|| libc::iovec {
                    iov_base: part.as_ptr().cast_mut().cast(),
                    iov_len: part.len(),
                })
            })
            .collect();
        // SAFETY: msghdr is plain data for which all zeroes means "nothing".
        let header = unsafe { std::mem::zeroed() };
        let mut gather = Box::new(Self { header, parts });
        gather.header.msg_iov = gather.parts.as_mut_ptr();
        gather.header.msg_iovlen = gather.parts.len() as _;
        gather
    }
}
