//! The head of a request comes, in pieces, and the connection is upgraded or told why not.

use super::Machine;
use super::context::Request;
use crate::connection::{Facts, State};
use crate::handler::Inbound;
use crate::http::refusal::{Refusal, Status};
use crate::http::request::{Head, HeadScanner};
use crate::http::{response, upgrade};
use crate::limits;
use crate::ring::Frame;
use crate::websocket::deflate::{Agreement, Window};

/// The answer to an upgrade on a path that no handler serves.
const NO_SUCH_PATH: Refusal = Refusal::new(
    Status::NotFound,
    "no such path; /ws?channel=NAME subscribes, /echo echoes if server.echo is set",
);

impl Machine<'_> {
    /// Bytes that belong to the head of a request, and what follows it.
    pub(super) fn on_head(&mut self, bytes: &mut [u8]) {
        let scanner = match self.cx.handshakes.requests.remove(&self.id.slot) {
            Some(Request::Head(scanner)) => scanner,
            Some(Request::Refused(_)) | None => HeadScanner::default(),
        };
        let kept = self.cx.handshakes.heads.take(self.id.slot);
        let mut head = kept.unwrap_or_else(|| self.cx.spare.take());
        let before = head.len();
        head.extend_from_slice(bytes);
        if let Some((len, head)) = self.on_more_head(head, scanner) {
            self.on_received_frames(&mut bytes[len - before..]);
            self.cx.spare.put(head);
        }
    }

    /// Frames as they come from the kernel.
    pub(super) fn on_received_frames(&mut self, bytes: &mut [u8]) {
        self.cx.metrics.bytes_received.add(bytes.len() as u64);
        if self.cx.unread.has(self.id) || self.cx.heavy.holds(self.id) {
            return self.keep_unread(bytes);
        }
        self.on_frames(bytes);
    }

    /// What had been read of a connection that had to wait for its admission.
    pub(super) fn on_kept_head(&mut self, kept: Vec<u8>) {
        if let Some((len, mut head)) = self.on_more_head(kept, HeadScanner::default()) {
            self.on_received_frames(&mut head[len..]);
            self.cx.spare.put(head);
        }
    }

    /// Gives back the length of the head, and what was read, if the connection was upgraded: the
    /// rest of it are frames.
    fn on_more_head(
        &mut self,
        head: Vec<u8>,
        mut scanner: HeadScanner,
    ) -> Option<(usize, Vec<u8>)> {
        match scanner.scan(&head, self.cx.settings.max_head_bytes) {
            Ok(Head::Incomplete) => {
                self.cx.handshakes.requests.insert(self.id.slot, Request::Head(scanner));
                self.keep_head(head);
                return None;
            }
            Ok(Head::Complete { len }) if self.connection.state == State::Unadmitted => {
                self.identify(head, len);
                return None;
            }
            Ok(Head::Complete { len }) => match self.upgrade(&head[..len]) {
                Ok(()) => {
                    self.cx.handshakes.heads.forget(self.id.slot);
                    return Some((len, head));
                }
                Err(refusal) => self.refuse_upgrade(&refusal, true),
            },
            Err(refusal) => self.refuse_upgrade(&refusal, false),
        }
        self.cx.spare.put(head);
        None
    }

    /// Decides about a complete request and answers 101.
    fn upgrade(&mut self, head: &[u8]) -> Result<(), Refusal> {
        let rules = &self.cx.settings.upgrade;
        let request = upgrade::parse(head, rules)?;
        let serving = &mut self.cx.serving;
        let route = serving.routes.iter().position(|(path, _)| **path == *request.path);
        let route = route.ok_or(NO_SUCH_PATH)?;
        let agreement = request.compression(rules);
        let window = agreement.map(Agreement::window);
        serving.effects.window = window;
        let opening = Inbound::Opening { query: request.query };
        serving.routes[route].1.receive(opening, &mut serving.effects);
        if let Some(refusal) = serving.effects.take_refusal() {
            return Err(refusal);
        }
        if let Err(refusal) = self.judge_channels() {
            self.cx.serving.effects.forget();
            return Err(refusal);
        }
        let mut answer = self.cx.spare.take();
        let extensions = agreement.map(Agreement::response);
        let protocol = request.protocol(rules);
        response::switching_protocols(request.key, protocol, extensions.as_deref(), &mut answer);
        self.on_upgraded(route as u8, window);
        self.send(Frame::Own(answer));
        self.apply_effects();
        self.count_compression();
        Ok(())
    }

    fn on_upgraded(&mut self, route: u8, window: Option<Window>) {
        self.connection.state = State::Open;
        self.connection.route = route;
        self.connection.facts.note(Facts::OPENED);
        let metrics = &self.cx.metrics;
        if let Some(window) = window {
            self.connection.facts.note_window(window);
            metrics.compressing.add(1);
        }
        self.cx.handshakes.half_open.left();
        let accepted_ms = u64::from(self.connection.accepted_tick) * limits::TICK_MS;
        metrics.open_since_ms.add(accepted_ms);
        metrics.handshaking.set(metrics.handshaking.get().saturating_sub(1));
        metrics.opened.add(1);
        metrics.connections.add(1);
        metrics.connections_peak.raise(metrics.connections.get());
        self.set_open_timer();
    }
}
