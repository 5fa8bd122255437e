//! The stream that hyper reads and writes: it follows the stage of the connection and lingers at
//! its end.
//!
//! Closing a socket with unread bytes sends RST, and a client that is still sending loses the
//! answer to it. So the end is a half-close, after which a bounded rest is read and thrown away.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::stage::{Stage, Standing};
use super::turn::RingTurn;
use crate::limits::{ADMIN_BODY_BYTES_PER_TURN, ADMIN_LINGER_BYTES};

/// Passes everything through.
pub(super) struct StagedStream<T> {
    stream: T,
    standing: Rc<Standing>,
    linger: Linger,
}

/// Reading on after the half-close.
struct Linger {
    turn: Rc<RingTurn>,
    passing: Option<Pin<Box<dyn Future<Output = ()>>>>,
    discarded: usize,
}

impl<T> StagedStream<T> {
    pub(super) fn new(stream: T, standing: Rc<Standing>, turn: Rc<RingTurn>) -> Self {
        let linger = Linger { turn, passing: None, discarded: 0 };
        Self { stream, standing, linger }
    }

    fn before_write(&self) {
        // Bytes of an answer that no request led to; "100 Continue" is written with the body
        // outstanding.
        if matches!(self.standing.stage(), Stage::Silent | Stage::Idle | Stage::Head) {
            self.standing.enter(Stage::Answering, Instant::now());
        }
    }
}

impl<T: Read + Unpin> Read for StagedStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() && self.standing.stage() == Stage::Idle {
            self.standing.enter(Stage::Head, Instant::now());
        }
        read
    }
}

impl<T: Read + Write + Unpin> Write for StagedStream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has written everything that it has.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if flushed.is_ready() && self.standing.stage() == Stage::Answering {
            self.standing.enter(Stage::Idle, Instant::now());
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.standing.stage() != Stage::Lingering {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.standing.enter(Stage::Lingering, Instant::now());
        }
        let Self { stream, linger, .. } = &mut *self;
        linger.poll(stream, cx).map(Ok)
    }
}

impl Linger {
    /// Ready at the end of the input, or when enough of it has been thrown away.
    fn poll<T: Read + Unpin>(&mut self, stream: &mut T, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [0; 4096];
        loop {
            if let Some(passing) = &mut self.passing {
                ready!(passing.as_mut().poll(cx));
                self.passing = None;
            }
            let mut buffer = ReadBuf::new(&mut space);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, buffer.unfilled()));
            let count = buffer.filled().len();
            if read.is_err() || count == 0 {
                return Poll::Ready(());
            }
            let turns = self.discarded / ADMIN_BODY_BYTES_PER_TURN;
            self.discarded += count;
            if self.discarded > ADMIN_LINGER_BYTES {
                return Poll::Ready(());
            }
            if self.discarded / ADMIN_BODY_BYTES_PER_TURN > turns {
                let turn = Rc::clone(&self.turn);
                self.passing = Some(Box::pin(async move { turn.pass().await }));
            }
        }
    }
}
