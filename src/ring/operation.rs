//! What a ring can be asked to do, and the bytes it is given to send.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::token::Token;

/// One operation on the connection that `token` names.
#[derive(Debug)]
pub enum Operation {
    /// Accept one connection into a direct descriptor of the kernel's choice, with its address.
    Accept,
    /// Tell once when there is something to read, or the peer is gone. The only operation that
    /// an idle connection has in flight: 256 bytes of kernel memory against 864 for a receive.
    Watch(Token),
    /// Receive once into a buffer of the ring's own choice; `wait` first asks whether there is
    /// something, for connections that have just been read empty.
    Receive {
        /// The connection.
        token: Token,
        /// Skip the first attempt and wait for readiness.
        wait: bool,
    },
    /// Receive again and again, for busy connections: one operation for many messages.
    ReceiveMany(Token),
    /// End the lasting receive of a connection, which completes once more. Walks a hash chain of
    /// the kernel (2 microseconds with 10,000 armed, 90 with 400,000): for connections that have
    /// gone quiet or do not read, never per message.
    Calm(Token),
    /// Send these bytes in order, or as many of them as the kernel has room for; it completes when
    /// some have been taken. One send is in flight per connection, never two.
    Send(Token, SendBatch),
    /// Ask how many bytes of those that the kernel took to send the peer's TCP has not acknowledged
    /// (SIOCOUTQ). Answered at once, inline.
    Unacknowledged(Token),
    /// Reset the connection: the peer sees RST, everything in flight on it completes.
    Cut(Token),
    /// End our side of the stream (FIN), so that the peer can still read the last bytes. Runs
    /// on a worker thread of the kernel: for rare paths only.
    HalfClose(Token),
    /// Close the descriptor. Nothing else may be in flight on it.
    Close(Token),
    /// Give the connection to another ring, which is told where it comes from. The descriptor
    /// here stays and has to be closed.
    Hand {
        /// The connection. Nothing may be in flight on it.
        token: Token,
        /// The number of the other ring.
        to: usize,
    },
    /// Complete when another thread rings the bell.
    Wake,
    /// Complete again and again at this interval. One timer for the life of the ring, because
    /// setting one for each wait costs more than a small message.
    Tick(Duration),
    /// Open a TCP socket into a direct descriptor of the kernel's choice (clients).
    Open {
        /// Which family.
        ipv6: bool,
    },
    /// Bind to a source address (clients).
    Bind(Token, SocketAddr),
    /// Connect (clients).
    Connect(Token, SocketAddr),
}

/// Encoded bytes of one or more frames on their way to a peer.
#[derive(Debug)]
pub enum Frame {
    /// Bytes for this connection alone.
    Own(Vec<u8>),
    /// Bytes that many connections share. The outer count belongs to one shard, so that sending
    /// to a million subscribers does not bounce one cache line between cores.
    Shared(Rc<Arc<[u8]>>),
}

impl Frame {
    /// The bytes as they go on the wire.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// Length on the wire.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// True if there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Memory that this frame holds for its connection alone, in bytes.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::Own(bytes) => size_of::<Self>() + bytes.capacity(),
            Self::Shared(_) => size_of::<Self>(),
        }
    }
}

/// What one send carries: one frame, or several gathered without copying.
#[derive(Debug)]
pub enum SendBatch {
    /// One frame.
    One {
        /// The frame.
        frame: Frame,
        /// Bytes of it that were sent by an earlier operation.
        sent: usize,
    },
    /// Several frames in order.
    Many {
        /// The frames.
        frames: Vec<Frame>,
        /// Bytes of the first that were sent by an earlier operation.
        sent: usize,
    },
}

impl SendBatch {
    /// A batch of one.
    pub fn one(frame: Frame) -> Self {
        Self::One { frame, sent: 0 }
    }

    /// A batch of several; an empty list sends nothing.
    pub fn many(frames: Vec<Frame>) -> Self {
        Self::Many { frames, sent: 0 }
    }

    /// Bytes still to be sent.
    pub fn remaining(&self) -> usize {
        match self {
            Self::One { frame, sent } => frame.len() - sent,
            Self::Many { frames, sent } => frames.iter().map(Frame::len).sum::<usize>() - sent,
        }
    }

    /// Memory that the frames hold for this connection alone, in bytes.
    pub fn held_bytes(&self) -> usize {
        match self {
            Self::One { frame, .. } => frame.held_bytes(),
            Self::Many { frames, .. } => frames.iter().map(Frame::held_bytes).sum(),
        }
    }

    /// Takes out the frames of which nothing has been sent; one that has begun stays.
    pub fn take_unbegun(&mut self) -> Vec<Frame> {
        match self {
            Self::One { sent: 1.., .. } => Vec::new(),
            Self::One { frame, sent: 0 } => {
                vec![std::mem::replace(frame, Frame::Own(Vec::new()))]
            }
            Self::Many { frames, sent } => frames.split_off(usize::from(*sent > 0)),
        }
    }

    /// Puts frames before all that have not begun.
    pub fn insert(&mut self, frames: impl IntoIterator<Item = Frame>) {
        let rest = self.take_unbegun();
        let (mut all, sent) = match std::mem::replace(self, Self::many(Vec::new())) {
            Self::One { frame, sent } => (vec![frame], sent),
            Self::Many { frames, sent } => (frames, sent),
        };
        if sent == 0 {
            all.clear();
        }
        all.extend(frames);
        all.extend(rest);
        *self = Self::Many { frames: all, sent };
    }

    /// Notes that `count` more bytes went out.
    pub fn advance(&mut self, count: usize) {
        match self {
            Self::One { frame, sent } => *sent = (*sent + count).min(frame.len()),
            Self::Many { frames, sent } => {
                *sent += count;
                let done = frames
                    .iter()
                    .take_while(|frame| {
                        let whole = *sent >= frame.len();
                        if whole {
                            *sent -= frame.len();
                        }
                        whole
                    })
                    .count();
                frames.drain(..done);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_advances_over_frame_borders() {
        let mut batch = SendBatch::many(vec![
            Frame::Own(vec![1; 3]),
            Frame::Own(vec![2; 5]),
            Frame::Own(vec![3; 2]),
        ]);
        assert_eq!(batch.remaining(), 10);
        batch.advance(4);
        assert_eq!(batch.remaining(), 6);
        let SendBatch::Many { frames, sent } = &batch else { panic!("still several") };
        assert_eq!((frames.len(), *sent), (2, 1));
        batch.advance(6);
        assert_eq!(batch.remaining(), 0);
    }

    fn bytes_of(batch: &SendBatch) -> Vec<u8> {
        match batch {
            SendBatch::One { frame, sent } => frame.bytes()[*sent..].to_vec(),
            SendBatch::Many { frames, sent } => {
                let all: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
                all[*sent..].to_vec()
            }
        }
    }

    #[test]
    fn what_is_inserted_comes_behind_the_frame_that_has_begun() {
        let own = |bytes: &[u8]| Frame::Own(bytes.to_vec());
        let inserted = |sent: usize, mut batch: SendBatch| {
            batch.advance(sent);
            batch.insert([own(b"!"), own(b"?")]);
            assert_eq!(batch.remaining(), bytes_of(&batch).len());
            bytes_of(&batch)
        };
        let many = || SendBatch::many(vec![own(b"abc"), own(b"de")]);
        assert_eq!(inserted(0, many()), b"!?abcde");
        assert_eq!(inserted(2, many()), b"c!?de");
        assert_eq!(inserted(3, many()), b"!?de");
        assert_eq!(inserted(4, many()), b"e!?");
        assert_eq!(inserted(0, SendBatch::one(own(b"abc"))), b"!?abc");
        assert_eq!(inserted(1, SendBatch::one(own(b"abc"))), b"bc!?");
    }

    #[test]
    fn the_frame_that_has_begun_stays() {
        let own = |bytes: &[u8]| Frame::Own(bytes.to_vec());
        for (sent, taken) in [(0, 2), (2, 1), (3, 1), (4, 0)] {
            let mut batch = SendBatch::many(vec![own(b"abc"), own(b"de")]);
            batch.advance(sent);
            let all = bytes_of(&batch);
            let rest = batch.take_unbegun();
            assert_eq!(rest.len(), taken, "{sent}");
            let rest = bytes_of(&SendBatch::many(rest));
            assert_eq!([bytes_of(&batch), rest].concat(), all, "{sent}");
        }
        let mut one = SendBatch::one(own(b"abc"));
        assert_eq!((one.take_unbegun().len(), one.remaining()), (1, 0));
    }
}
