//! A trusted proxy has connected: for whom, it says in a PROXY header or in the head of the
//! request, and only then is the connection admitted or not.
//!
//! Until then it holds a descriptor and its handshake deadline, and no place in any budget of a
//! source; how many there may be is bounded.

use std::net::SocketAddr;

use super::Machine;
use crate::client_address::ClientAddress;
use crate::client_address::proxy_header::{Header, HeaderReader, Malformed};
use crate::config::ProxyProtocol;
use crate::connection::State;
use crate::http::refusal::Refusal;
use crate::shard::unadmitted::Unadmitted;

const MALFORMED: Refusal = Refusal::bad_request("malformed PROXY header");
const NO_HEADER: Refusal = Refusal::bad_request("this proxy has to send a PROXY header");

impl Machine<'_> {
    pub(super) fn begin_unadmitted(&mut self, peer: SocketAddr) {
        self.connection.state = State::Unadmitted;
        let may_have_header = self.cx.settings.proxy_protocol != ProxyProtocol::Off;
        let header = may_have_header.then(HeaderReader::default);
        self.cx.handshakes.unadmitted.insert(self.id.slot, Unadmitted { peer, header });
    }

    pub(super) fn on_bytes_unadmitted(&mut self, received: &mut [u8]) {
        let Some(waiting) = self.cx.handshakes.unadmitted.get_mut(&self.id.slot) else {
            debug_assert!(false, "a connection that is not admitted has an entry");
            return;
        };
        let peer = waiting.peer;
        let Some(mut reader) = waiting.header.take() else {
            return self.on_head(received);
        };
        let mut bytes = self.cx.handshakes.heads.take(self.id.slot).unwrap_or_default();
        let before = bytes.len();
        bytes.extend_from_slice(received);
        match reader.read(&bytes) {
            Ok(Header::Incomplete) => {
                waiting.header = Some(reader);
                self.keep_head(bytes);
            }
            Ok(Header::Absent) if self.cx.settings.proxy_protocol == ProxyProtocol::Require => {
                self.refuse_unidentified(&NO_HEADER, false);
            }
            Ok(Header::Absent) => {
                // What looked like the beginning of a header begins the request.
                bytes.truncate(before);
                if before > 0 {
                    self.keep_head(bytes);
                }
                self.on_head(received);
            }
            Ok(Header::Complete { len, client }) => {
                let client = client.unwrap_or(ClientAddress::of_peer(peer));
                bytes.drain(..len);
                self.cx.handshakes.heads.forget(self.id.slot);
                self.ask(client, bytes);
            }
            Err(Malformed) => self.refuse_unidentified(&MALFORMED, false),
        }
    }
}
