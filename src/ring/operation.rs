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
}
