//! One publication, many connections: visited in chunks, so that the loop stays responsive.
//!
//! Publications are finished one after the other; that keeps their order for every subscriber.

use std::rc::Rc;
use std::sync::Arc;

use super::Shard;
use super::machine::Event;
use crate::channels::registry::Visit;
use crate::environment::Environment;
use crate::limits;
use crate::metrics::ShardMetrics;
use crate::ring::{FileSlot, Token};
use crate::websocket::deflate::{Outgoing, Window};

/// A publication on its way to the connections of this shard.
#[derive(Debug)]
pub(super) struct FanOut {
    publication: Publication,
    to: Audience,
}

/// One publication in the forms in which it is sent.
#[derive(Debug)]
pub(super) struct Publication {
    plain: Rc<Arc<[u8]>>,
    deflated: Deflated,
}

/// The compressed form: made when somebody is met who has negotiated it, once for all.
#[derive(Debug)]
enum Deflated {
    NotAskedFor,
    NotWorthIt,
    Frame(Rc<Arc<[u8]>>),
}

impl Publication {
    fn new(frame: Arc<[u8]>) -> Self {
        Self { plain: Rc::new(frame), deflated: Deflated::NotAskedFor }
    }

    /// The form for a connection that has negotiated this.
    pub(super) fn for_window(
        &mut self,
        window: Option<Window>,
        outgoing: &mut Outgoing,
        metrics: &ShardMetrics,
    ) -> &Rc<Arc<[u8]>> {
        // Whoever asked for a window that is smaller than the message gets it as it is: another
        // form for each of them would be another compression.
        if !window.is_some_and(|window| window.holds(self.plain.len())) {
            return &self.plain;
        }
        if let Deflated::NotAskedFor = self.deflated {
            let frame = outgoing.shared(&self.plain);
            metrics.publications_compressed.add(std::mem::take(&mut outgoing.compressed));
            self.deflated = match frame {
                Some(frame) => Deflated::Frame(Rc::new(frame.into())),
                None => Deflated::NotWorthIt,
            };
        }
        match &self.deflated {
            Deflated::Frame(frame) => frame,
            Deflated::NotAskedFor | Deflated::NotWorthIt => &self.plain,
        }
    }
}

#[derive(Debug)]
enum Audience {
    /// The members of a channel when it came in.
    Channel(Visit),
    /// Every open connection, by slot.
    Everybody { next: FileSlot },
}

impl<E: Environment> Shard<E> {
    pub(super) fn fan_out_to_channel(&mut self, channel: &str, frame: Arc<[u8]>) {
        if let Some(visit) = self.cx.registry.begin_visit(channel) {
            let publication = Publication::new(frame);
            self.cx.budgets.output.publish(&publication.plain);
            self.fan_outs.push_back(FanOut { publication, to: Audience::Channel(visit) });
        }
    }

    pub(super) fn fan_out_to_everybody(&mut self, frame: Arc<[u8]>) {
        let to = Audience::Everybody { next: 0 };
        let publication = Publication::new(frame);
        self.cx.budgets.output.publish(&publication.plain);
        self.fan_outs.push_back(FanOut { publication, to });
    }

    pub(super) fn go_on_fanning_out(&mut self) {
        self.cx.registry.close_some_holes(limits::VISITS_PER_TURN);
        let mut visits = limits::VISITS_PER_TURN;
        while let Some(mut fan_out) = self.fan_outs.pop_front() {
            if !self.go_on_with(&mut fan_out, &mut visits) {
                self.fan_outs.push_front(fan_out);
                return;
            }
        }
    }

    /// Visits the next of an audience. True at its end, which is met only once; false when the
    /// visits of this turn are used up before.
    fn go_on_with(&mut self, fan_out: &mut FanOut, visits: &mut usize) -> bool {
        while *visits > 0 {
            *visits -= 1;
            match self.next_of(&mut fan_out.to) {
                Some(Some(token)) => {
                    let publication = &mut fan_out.publication;
                    self.with_connection(token, Event::Publication(publication));
                }
                Some(None) => {}
                None => return true,
            }
        }
        false
    }

    /// The next connection of an audience: `Some(None)` for a slot without one, `None` at the
    /// end.
    fn next_of(&mut self, audience: &mut Audience) -> Option<Option<Token>> {
        let slot = match audience {
            Audience::Channel(visit) => self.cx.registry.visit(visit)?,
            Audience::Everybody { next } if *next < self.connections.end() => {
                *next += 1;
                *next - 1
            }
            Audience::Everybody { .. } => return None,
        };
        Some(self.connections.token(slot))
    }
}
