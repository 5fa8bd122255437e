//! For whom a trusted proxy connects is known from the head of the request, or from its PROXY
//! header; from then on the connection is that client's, and waits for its admission.

use std::net::SocketAddr;
use std::sync::Once;

use tracing::warn;

use super::Machine;
use super::context::Action;
use crate::client_address::ClientAddress;
use crate::client_address::forwarded::{self, Ambiguous, ForwardedHeader};
use crate::close_reason::CloseReason;
use crate::connection::{Facts, State};
use crate::http::refusal::Refusal;
use crate::shard::heads::Rank;

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

impl Machine<'_> {
    /// The client is named by the head of its request, which is the first `len` bytes of `read`.
    pub(super) fn identify(&mut self, read: Vec<u8>, len: usize) {
        let Some(waiting) = self.cx.handshakes.unadmitted.get(&self.id.slot) else {
            debug_assert!(false, "a connection that is not admitted has an entry");
            return self.end(CloseReason::HandshakeRefused);
        };
        let (peer, settings) = (waiting.peer, &self.cx.settings);
        let header = &settings.forwarded_header;
        match forwarded::client(&read[..len], peer, &settings.trusted_proxies, header) {
            Ok(client) => self.ask(client, read),
            Err(ambiguous) => {
                warn_once(ambiguous, peer, header);
                self.refuse_unidentified(&refusal_of(ambiguous), true);
            }
        }
    }

    /// The client is known: the connection is its from now on. `read` is what has been read of its
    /// request.
    pub(super) fn ask(&mut self, client: ClientAddress, read: Vec<u8>) {
        self.cx.handshakes.unadmitted.remove(&self.id.slot);
        let source = self.cx.settings.prefixes.key(client.ip);
        self.connection.state = State::Awaiting;
        self.connection.source = source;
        self.connection.port = client.port;
        self.connection.facts.note_provenance(client.provenance);
        if !read.is_empty() {
            self.keep_head(read);
        }
        self.cx.actions.push((self.id, Action::Ask { source }));
    }

    /// Keeps what has been read of a connection that is not upgraded; if that is too much of all
    /// together, others give way, or this one.
    pub(super) fn keep_head(&mut self, head: Vec<u8>) {
        let admitted = self.connection.facts.has(Facts::ADMITTED);
        let rank = if admitted { Rank::Admitted } else { Rank::Unadmitted };
        self.cx.handshakes.heads.keep(self.id, rank, head);
        self.cx.next.holds_more = true;
    }

    /// Nobody can tell whose the connection is: it is answered within the rate of refusals, because
    /// no limit of a source counts it, and otherwise reset.
    pub(super) fn refuse_unidentified(&mut self, refusal: &Refusal, read_whole: bool) {
        self.cx.handshakes.unadmitted.remove(&self.id.slot);
        if self.cx.refusing.ladder.answer_unidentified(self.cx.clock.now.ns()) {
            return self.refuse_upgrade(refusal, read_whole);
        }
        self.reset();
        self.end(CloseReason::HandshakeRefused);
    }
}
