//! What other threads tell this shard.

use std::time::Duration;

use super::Shard;
use super::machine::{Event, Reply};
use crate::environment::Environment;
use crate::limits;
use crate::mesh::message::{Fault, ShardMessage};
use crate::sessions::keeper::{Order, Shortfall};

impl<E: Environment> Shard<E> {
    pub(super) fn take_messages(&mut self) {
        for _ in 0..limits::INBOX_PER_TURN {
            // While many publications are being worked on, more wait in the inbox, and its
            // being full slows the publisher down.
            if self.fan_outs.len() >= limits::FAN_OUTS {
                return;
            }
            let Some(message) = self.mesh.inbox.take() else { return };
            self.on_message(message);
        }
    }

    fn on_message(&mut self, message: ShardMessage) {
        match message {
            ShardMessage::Publish { channel, frame } => {
                self.cx.metrics.publications.add(1);
                self.fan_out_to_channel(&channel, frame);
            }
            ShardMessage::Broadcast { frame } => {
                self.cx.metrics.publications.add(1);
                self.fan_out_to_everybody(frame);
            }
            ShardMessage::Enter(order) => self.enter(order),
            ShardMessage::Limits(plan) => {
                self.admitting.admission.apply(&plan);
                self.cx.refusing.is_locked = self.admitting.admission.is_locked();
            }
            ShardMessage::Budget(reply) => {
                self.admitting.admission.leases_mut().hear(reply, self.cx.clock.now.ns());
            }
            ShardMessage::Died { shard } => self.on_death(shard),
            ShardMessage::Ask { from, token, source } => self.on_ask(from, token, source),
            ShardMessage::Verdict { token, source, verdict } => {
                self.on_owner_verdict(token, source, verdict);
            }
            ShardMessage::Ended { from, sources } => self.on_ended(from, &sources),
            ShardMessage::Handed(papers) => self.on_papers(papers),
            ShardMessage::Session(order) => self.on_session_order(order),
            ShardMessage::TopRefused(reply) => {
                // Whoever asked may have gone.
                let _ = reply.unbounded_send(Box::new(self.cx.refusing.most_refused.clone()));
            }
            ShardMessage::Fault(Fault::Panic) => panic!("injected through the admin API"),
            ShardMessage::Fault(Fault::Stall(ms)) => {
                self.environment.stall(Duration::from_millis(ms));
            }
        }
    }

    fn on_session_order(&mut self, order: Order) {
        match order {
            Order::LetGo { holder } => {
                self.with_connection(holder.token, Event::SessionTaken);
            }
            Order::Attached { holder, found, .. }
                if found.shortfall == Some(Shortfall::Superseded) =>
            {
                self.with_connection(holder.token, Event::SessionTaken);
            }
            Order::Attached { id, holder, found } => {
                let record = found.record.clone().unwrap_or_default();
                let reply = self.with_connection(holder.token, Event::SessionAttached(found));
                if matches!(reply, Reply::Gone | Reply::Passed) {
                    self.cx.sessions.give_back(id, holder.token, record);
                }
            }
        }
    }
}
