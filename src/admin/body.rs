//! Reading the body of a request, within bounds of bytes, of time and of memory.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use monoio::time::timeout;

use super::budget::Charge;
use super::error::{ApiError, ErrorKind};
use super::exchange::Front;
use super::stage::{Stage, Standing};
use crate::limits::{
    ADMIN_BODY_BYTES_PER_TURN, ADMIN_DISCARD_BYTES, ADMIN_SMALL_BYTES, MAX_ADMIN_BODY_BYTES,
};

/// A body, and the memory that it takes while what it says is being done.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    /// Given back when this is dropped.
    _charge: Option<Charge>,
}

/// What is known of a body before it is read.
pub(super) struct Limits {
    /// Its declared length; 0 if there is none.
    pub(super) declared: u64,
    /// The client sends it only when it is asked to ("Expect: 100-continue").
    pub(super) client_waits: bool,
    pub(super) patience: Duration,
}

/// Reads a body to its end, even one that is too long, within a limit: a client that is still
/// sending does not see the answer.
///
/// # Errors
/// 400 if it is cut short, 408 if it takes too long, 413 if it is too long, 503 if there is no
/// memory for it.
pub(super) async fn read(
    front: &Front,
    client: &Rc<Standing>,
    charge: Charge,
    limits: Limits,
    body: &mut Incoming,
) -> Result<Body, ApiError> {
    let Limits { declared, client_waits, patience } = limits;
    if declared > MAX_ADMIN_BODY_BYTES as u64 && client_waits {
        return Err(too_large());
    }
    let mut reader = Reader { front, client, bytes: Vec::new(), charge, discarded: 0 };
    match timeout(patience, reader.read(body)).await {
        Ok(Ok(())) => Ok(reader.finish()),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let message = format!("the body took longer than {} ms", patience.as_millis());
            Err(ApiError::new(ErrorKind::RequestTimeout, message))
        }
    }
}

fn too_large() -> ApiError {
    let message = format!("the body is longer than {MAX_ADMIN_BODY_BYTES} bytes");
    ApiError::new(ErrorKind::BodyTooLarge, message)
}

struct Reader<'a> {
    front: &'a Front,
    client: &'a Rc<Standing>,
    bytes: Vec<u8>,
    charge: Charge,
    /// Bytes of a body that is too long.
    discarded: usize,
}

impl Reader<'_> {
    async fn read(&mut self, body: &mut Incoming) -> Result<(), ApiError> {
        let mut in_this_turn = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|error| ApiError::bad_request(format!("the body is broken: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            in_this_turn += data.len();
            self.take(&data).await?;
            if self.discarded > ADMIN_DISCARD_BYTES {
                break;
            }
            if in_this_turn >= ADMIN_BODY_BYTES_PER_TURN {
                in_this_turn = 0;
                self.front.turn.pass().await;
            }
        }
        if self.discarded > 0 { Err(too_large()) } else { Ok(()) }
    }

    async fn take(&mut self, data: &Bytes) -> Result<(), ApiError> {
        let length = self.bytes.len() + data.len();
        if self.discarded > 0 || length > MAX_ADMIN_BODY_BYTES {
            self.discarded += length;
            self.bytes = Vec::new();
            return Ok(());
        }
        if length > ADMIN_SMALL_BYTES {
            let charge = &mut self.charge;
            self.front.room(Stage::Body, self.client, || charge.grow_to(length)).await?;
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    fn finish(self) -> Body {
        Body { bytes: Bytes::from(self.bytes), _charge: Some(self.charge) }
    }
}
