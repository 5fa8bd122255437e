//! A trusted proxy has connected: for whom, it says in a PROXY header or in the head of the
//! request, and only then is the connection admitted or not.
//!
//! Until then it holds a descriptor and its handshake deadline, and no place in any budget of a
//! source; how many there may be is bounded. Nobody else's connections come here.

use std::net::SocketAddr;
use std::sync::Once;

use tracing::warn;

use super::Shard;
use super::heads::Rank;
use super::settings::Settings;
use crate::admission::{RefusalReason, Rung, Verdict};
use crate::client_address::ClientAddress;
use crate::client_address::forwarded::{self, Ambiguous, ForwardedHeader};
use crate::client_address::proxy_header::{Header, HeaderReader, Malformed};
use crate::close_reason::CloseReason;
use crate::config::ProxyProtocol;
use crate::connection::State;
use crate::environment::Environment;
use crate::http::refusal::Refusal;
use crate::limits;
use crate::ring::{Received, Ring, Token};

const MALFORMED: Refusal = Refusal::bad_request("malformed PROXY header");
const NO_HEADER: Refusal = Refusal::bad_request("this proxy has to send a PROXY header");

/// What a client is told whose address nobody can tell.
const fn refusal_of(ambiguous: Ambiguous) -> Refusal {
    match ambiguous {
        Ambiguous::BothLists => Refusal::bad_request(
            "both X-Forwarded-For and Forwarded; server.forwarded_header says which is believed",
        ),
        Ambiguous::NotOneAddress => {
            Refusal::bad_request("not one address in the header of server.forwarded_header")
        }
    }
}

/// Says once in a process that requests of a proxy are refused for this: clients can bring it
/// about, but so can a proxy that is set up otherwise than the server.
fn warn_once(ambiguous: Ambiguous, peer: SocketAddr, header: &ForwardedHeader) {
    static SAID: Once = Once::new();
    SAID.call_once(|| match ambiguous {
        Ambiguous::BothLists => warn!(
            %peer,
            "a request of a trusted proxy has both X-Forwarded-For and Forwarded and is refused \
             with 400; if the proxy writes both, set server.forwarded_header to the one to \
             believe, otherwise have it remove the one that it does not write"
        ),
        Ambiguous::NotOneAddress => warn!(
            %peer,
            header = header.name(),
            "a request of a trusted proxy is refused with 400 because server.forwarded_header is \
             there more than once or does not hold one address; check that the proxy replaces it"
        ),
    });
}

/// What is known of a connection that is not admitted yet. Beside the table of connections,
/// because few are in that state at a time.
#[derive(Debug)]
pub(super) struct Unadmitted {
    pub(super) peer: SocketAddr,
    /// Reads what may be a PROXY header, the beginning of which is kept in `heads`; absent once it is
    /// clear that there is none.
    header: Option<HeaderReader>,
}

/// Where a connection stands whose client is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It goes on.
    Admitted,
    /// It waits for a verdict; what has been read of it must be kept.
    Awaiting,
    /// It has been refused.
    Refused,
}

impl<E: Environment> Shard<E> {
    /// Whether this one may wait, so that those who wait leave descriptors to everybody else.
    pub(super) fn room_for_unadmitted(&self) -> Result<(), (RefusalReason, u64)> {
        let beyond = limits::UNADMITTED_BEYOND.min(self.ring.file_capacity() as usize / 8);
        let others = self.connections.live() - self.unadmitted.len() - 1; // nor this one
        let seats = (self.seats() as usize).saturating_sub(others);
        if self.unadmitted.len() < limits::UNADMITTED.min(seats + beyond) {
            return Ok(());
        }
        Err((RefusalReason::Overload, limits::RETRY_AFTER_MS))
    }

    pub(super) fn begin_unadmitted(&mut self, token: Token, peer: SocketAddr) {
        let may_have_header = self.settings.proxy_protocol != ProxyProtocol::Off;
        let header = may_have_header.then(HeaderReader::default);
        self.unadmitted.insert(token.slot, Unadmitted { peer, header });
    }

    pub(super) fn on_bytes_unadmitted(&mut self, token: Token, received: &Received) {
        let Some(waiting) = self.unadmitted.get_mut(&token.slot) else { return };
        let peer = waiting.peer;
        let Some(mut reader) = waiting.header.take() else {
            return self.on_head(token, received, 0);
        };
        let mut bytes = self.heads.take(token.slot).unwrap_or_default();
        let before = bytes.len();
        bytes.extend_from_slice(self.ring.bytes(received));
        match reader.read(&bytes) {
            Ok(Header::Incomplete) => {
                waiting.header = Some(reader);
                self.keep_head(token, bytes);
            }
            Ok(Header::Absent) if self.settings.proxy_protocol == ProxyProtocol::Require => {
                self.refuse_unidentified(token, &NO_HEADER, false);
            }
            Ok(Header::Absent) => {
                // What looked like the beginning of a header begins the request.
                bytes.truncate(before);
                if before > 0 {
                    self.heads.keep(token, Rank::Unadmitted, bytes);
                }
                self.on_head(token, received, 0);
            }
            Ok(Header::Complete { len, client }) => {
                let client = client.unwrap_or(ClientAddress::of_peer(peer));
                let rest = &bytes[len..];
                self.heads.forget(token.slot);
                match self.admit_client(token, client, rest) {
                    Standing::Admitted if rest.is_empty() => {}
                    Standing::Admitted => self.on_head(token, received, len - before),
                    Standing::Awaiting => {
                        if !rest.is_empty() {
                            self.keep_head(token, rest.to_vec());
                        }
                    }
                    Standing::Refused => {}
                }
            }
            Err(Malformed) => self.refuse_unidentified(token, &MALFORMED, false),
        }
    }

    /// Whether a connection whose `head` is complete is admitted, by now at the latest. If it is
    /// refused it has been told so.
    pub(super) fn standing(&mut self, token: Token, head: &[u8]) -> Standing {
        let Some(waiting) = self.unadmitted.get(&token.slot) else { return Standing::Admitted };
        let peer = waiting.peer;
        let Settings { trusted_proxies, forwarded_header, .. } = &self.settings;
        match forwarded::client(head, peer, trusted_proxies, forwarded_header) {
            Ok(client) => self.admit_client(token, client, head),
            Err(ambiguous) => {
                warn_once(ambiguous, peer, forwarded_header);
                self.refuse_unidentified(token, &refusal_of(ambiguous), true);
                Standing::Refused
            }
        }
    }

    /// Nobody can tell whose the connection is: it is answered within the rate of refusals, because
    /// no limit of a source counts it, and otherwise reset.
    fn refuse_unidentified(&mut self, token: Token, refusal: &Refusal, read_whole: bool) {
        self.unadmitted.remove(&token.slot);
        if self.refusing.answers_unidentified(self.now.ns()) {
            return self.refuse_upgrade(token, refusal, read_whole);
        }
        self.reset(token);
        self.end(token, CloseReason::HandshakeRefused);
    }

    /// The client is known: the connection is its from now on. `request` is what has been read of
    /// its request.
    fn admit_client(&mut self, token: Token, client: ClientAddress, request: &[u8]) -> Standing {
        self.unadmitted.remove(&token.slot);
        let source = self.settings.prefixes.key(client.ip);
        let Some(connection) = self.connections.get_mut(token) else { return Standing::Refused };
        connection.state = State::Awaiting;
        connection.source = source;
        connection.port = client.port;
        connection.facts.note_provenance(client.provenance);
        match self.ask_admission(token, source) {
            Verdict::Admitted => {
                self.note_admitted(token);
                Standing::Admitted
            }
            Verdict::Deferred => Standing::Awaiting,
            Verdict::Refused { reason, retry_after_ms } => {
                self.note_refused(token, reason);
                self.turn_away(token, reason, retry_after_ms, request);
                Standing::Refused
            }
        }
    }

    /// The server has begun to refuse. The connection was never admitted, so its end is no
    /// outcome of the drain; it is told at once like those who are in their handshake.
    pub(super) fn turn_away_unadmitted(&mut self, token: Token) {
        self.unadmitted.remove(&token.slot);
        let reason = RefusalReason::Draining;
        self.note_refused(token, reason);
        self.metrics.refusals[Rung::Http.index()].add(1);
        if let Some(connection) = self.connections.get_mut(token) {
            connection.reason = Some(CloseReason::AdmissionRefused);
        }
        self.refuse(token, &reason.to_refusal(limits::RETRY_AFTER_MS), false);
    }
}
