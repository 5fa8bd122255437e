//! The thread that listens to what the other nodes publish and hands it to this node's shards.
//!
//! It has no queue: while the shards have no room it does not read, and Redis drops a listener that
//! does not read; what is missing then is noticed by its number. A connection on which nothing is
//! heard is asked whether it lives. What this node says itself comes back here and is not delivered
//! again; if it does not come back, and nothing that Redis sent before it was asked was it, the two
//! ways lead to different servers, and both are made anew.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use ::redis::{PubSub, RedisError, RedisResult, Value, cmd};
use ahash::RandomState;
use tracing::{error, info, warn};

use super::breaker::Breaker;
use super::connector::{Connector, chance, short};
use super::echo::Echo;
use super::hearing::{Hearing, Meaning};
use super::life::Life;
use super::link::Link;
use super::publication::{self, Heard, NotTaken, Publication};
use super::reason::Reason;
use super::relay::Arrival;
use crate::channels::publish::text_frame;
use crate::clock::Now;
use crate::coordinator::phase::Phase;
use crate::coordinator::state::ServerState;
use crate::limits::{PUBLISH_PATIENCE_MS, REDIS_BEAT_MS, REDIS_ECHO_MESSAGES, REDIS_REPLY_MS};
use crate::mesh::message::ShardMessage;
use crate::mesh::publisher::Publisher;
use crate::sessions::id::SessionId;

/// The thread's name.
const THREAD: &str = "tidegate-redis-in";

/// How long a full inbox is left alone: a shard takes a batch from its inbox in less.
const PAUSE: Duration = Duration::from_millis(2);

/// How long nothing is heard before the connection is asked whether it lives.
const SILENCE: Duration = Duration::from_millis(2 * REDIS_BEAT_MS);

/// How long it takes to know that nothing is there to be read.
const NOTHING: Duration = Duration::from_millis(1);

/// How long what is missing is gathered before it is said, in milliseconds.
const GAP_LINE_MS: u64 = 1_000;

struct Listening {
    state: Arc<ServerState>,
    publisher: Publisher,
    link: Link,
    topic: String,
    life: Life,
    hearing: Hearing,
    breaker: Breaker,
    gap: Gap,
    echo: EchoState,
}

/// Whether what this node says comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EchoState {
    /// Not known yet of this subscription.
    Unknown,
    /// It has come back on this subscription.
    Proven,
    /// It did not come back on the last one, nor has it on this one.
    Disproved,
}

/// Why listening ended.
enum Failure {
    Redis(RedisError),
    /// What this node says does not come back.
    Unheard,
    /// The generation of the connection has ended.
    Distrusted,
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

/// What is missing and not said yet.
#[derive(Default)]
struct Gap {
    missed: u64,
    publisher: Life,
    since: Option<Now>,
}

/// Starts the thread.
///
/// # Errors
/// The thread cannot be made.
pub fn start(
    state: Arc<ServerState>,
    publisher: Publisher,
    connector: Connector,
    topic: String,
    life: Life,
) -> io::Result<JoinHandle<()>> {
    let board = Arc::clone(&state);
    let mut listening = Listening {
        state,
        publisher,
        link: Link::new(connector),
        topic,
        life,
        hearing: Hearing::new(RandomState::new()),
        breaker: Breaker::new(REDIS_BEAT_MS),
        gap: Gap::default(),
        echo: EchoState::Unknown,
    };
    let run = move || {
        if catch_unwind(AssertUnwindSafe(|| listening.run())).is_err() {
            error!("the thread that hears other nodes' publications is gone; this node serves on");
            board.relay.incoming.set(Some(Reason::Unreachable));
        }
    };
    thread::Builder::new().name(THREAD.to_owned()).spawn(run)
}

impl Listening {
    fn run(&mut self) {
        while self.state.phase() != Phase::Stopped {
            let now = self.state.clock.now();
            if self.breaker.allows(now) {
                let Err(failure) = self.listen(now) else { continue };
                self.on_failure(&failure);
            } else {
                thread::sleep(Duration::from_millis(REDIS_BEAT_MS / 10));
            }
        }
    }

    /// Subscribes and listens until the connection fails.
    fn listen(&mut self, now: Now) -> Result<(), Failure> {
        let patience = Duration::from_millis(REDIS_REPLY_MS);
        let mut established = self.link.take(now, patience)?;
        let (generation, connection) = (established.generation, &mut established.connection);
        let subscribe = cmd("SUBSCRIBE").arg(&self.topic).get_packed_command();
        connection.send_packed_command(&subscribe)?;
        connection.recv_response().and_then(Value::extract_error)?;
        self.breaker.succeeded();
        if self.echo == EchoState::Proven {
            self.echo = EchoState::Unknown;
        }
        let state = Arc::clone(&self.state);
        state.relay.echo(|echo| echo.subscribed(state.clock.now()));
        let mut subscription = connection.as_pubsub();
        let ended = self.listen_on(&mut subscription, generation);
        state.relay.echo(Echo::unsubscribed);
        // The end of a subscription is waited for, of a server that may be gone: as short as can
        // be. A socket that takes no timeout is broken, and waits for nothing.
        let _ = subscription.set_read_timeout(Some(NOTHING));
        ended
    }

    fn listen_on(&mut self, subscription: &mut PubSub<'_>, generation: u64) -> Result<(), Failure> {
        subscription.set_read_timeout(Some(SILENCE))?;
        while self.state.phase() != Phase::Stopped {
            if self.link.connector().generation() != generation {
                return Err(Failure::Distrusted);
            }
            self.tell_up();
            if self.is_echo_overdue() {
                self.look_for_echo(subscription, generation)?;
            }
            self.hear_next(subscription)?;
            self.say_gap();
        }
        Ok(())
    }

    /// Publications arrive, unless it has been shown that they do not. Without a way out nothing
    /// shows it.
    fn tell_up(&self) {
        let relay = &self.state.relay;
        let is_up = self.echo != EchoState::Disproved || !relay.outgoing.is_up();
        if is_up && relay.incoming.set(None) {
            let redis = &self.link.connector().shown;
            info!(redis, channel = self.topic, "publications of the other nodes arrive");
        }
    }

    fn is_echo_overdue(&self) -> bool {
        let now = self.state.clock.now();
        self.state.relay.echo(|echo| echo.is_overdue(now))
    }

    /// Asks Redis for a sign, before which it sends everything that was published so far; a beat
    /// that is not among that was published elsewhere.
    fn look_for_echo(
        &mut self,
        subscription: &mut PubSub<'_>,
        generation: u64,
    ) -> Result<(), Failure> {
        subscription.ping::<Value>()?;
        subscription.set_read_timeout(Some(NOTHING))?;
        for _ in 0..REDIS_ECHO_MESSAGES {
            if !self.is_echo_overdue() || self.state.phase() == Phase::Stopped {
                break;
            }
            match subscription.get_message() {
                Ok(message) => self.hear(message.get_payload_bytes()),
                Err(nothing) if nothing.is_timeout() => {
                    if self.echo == EchoState::Proven {
                        let why = "what this node publishes does not come back";
                        self.link.connector().end_generation(generation, why);
                    }
                    return Err(Failure::Unheard);
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(subscription.set_read_timeout(Some(SILENCE))?)
    }

    fn hear_next(&mut self, subscription: &mut PubSub<'_>) -> RedisResult<()> {
        match subscription.get_message() {
            Ok(message) => {
                self.hear(message.get_payload_bytes());
                Ok(())
            }
            // Not even a beat: it may be that nobody is there to say anything.
            Err(silence) if silence.is_timeout() => subscription.ping::<Value>().map(drop),
            Err(failure) => Err(failure),
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        let relay = &self.state.relay;
        let Heard { publisher, number, said } = match publication::read(bytes) {
            Ok(heard) => heard,
            Err(NotTaken::TooLong) => return relay.note_arrival(Arrival::TooLong),
            Err(NotTaken::Malformed) => return relay.note_arrival(Arrival::Malformed),
        };
        if publisher == self.life {
            self.echo = EchoState::Proven;
            return relay.echo(|echo| echo.heard(self.state.clock.now()));
        }
        let is_beat = said == Publication::Beat;
        let meaning = match is_beat {
            true => self.hearing.beat(publisher, number, self.state.clock.now()),
            false => self.hearing.publication(publisher, number),
        };
        relay.note_publishers(self.hearing.publishers());
        match meaning {
            Meaning::New { missed } => {
                self.note_gap(publisher, missed);
                self.deliver(said);
            }
            Meaning::Old if is_beat => {}
            Meaning::Old => relay.note_arrival(Arrival::Duplicate),
        }
    }

    fn deliver(&self, said: Publication<'_>) {
        let mut arrival = Arrival::Delivered;
        let mut hand_out = |message| {
            if !self.hand_out(message) {
                arrival = Arrival::InboxFull;
            }
        };
        match said {
            Publication::Channels { names, text } => {
                let frame = text_frame(text);
                names.iter().for_each(|name| {
                    let frame = Arc::clone(&frame);
                    hand_out(ShardMessage::Publish { channel: name.into(), frame });
                });
            }
            Publication::Everybody { text } => {
                hand_out(ShardMessage::Broadcast { frame: text_frame(text) });
            }
            Publication::Claim { holder, session } => return self.pass_on(holder, session),
            Publication::Beat => return,
        }
        self.state.relay.note_arrival(arrival);
    }

    /// Somebody's client has come back elsewhere.
    fn pass_on(&self, holder: Life, session: &str) {
        if holder != self.life {
            return;
        }
        match SessionId::new(session) {
            Some(id) => self.state.sessions.claimed(id),
            None => self.state.relay.note_arrival(Arrival::Malformed),
        }
    }

    /// False if not every shard has it.
    fn hand_out(&self, message: ShardMessage) -> bool {
        let until = self.state.clock.now().plus_ms(PUBLISH_PATIENCE_MS);
        let mut delivery = self.publisher.begin(message);
        while !delivery.is_done() && self.state.clock.now() < until {
            thread::sleep(PAUSE);
            self.publisher.go_on(&mut delivery);
        }
        delivery.is_done()
    }

    fn note_gap(&mut self, publisher: Life, missed: u64) {
        if missed == 0 {
            return;
        }
        self.state.relay.note_missed(missed);
        self.gap.missed = self.gap.missed.saturating_add(missed);
        self.gap.publisher = publisher;
        self.gap.since.get_or_insert(self.state.clock.now());
    }

    /// One line for what was noticed within a second.
    fn say_gap(&mut self) {
        let now = self.state.clock.now();
        if self.gap.since.is_some_and(|since| now >= since.plus_ms(GAP_LINE_MS)) {
            let Gap { missed, publisher, .. } = std::mem::take(&mut self.gap);
            warn!(missed, %publisher, "publications of other nodes did not arrive here");
        }
    }

    fn on_failure(&mut self, failure: &Failure) {
        let (reason, error) = match failure {
            Failure::Redis(error) => (Reason::of(error), short(error)),
            Failure::Unheard => {
                self.echo = EchoState::Disproved;
                (Reason::Unheard, "what this node publishes does not come back".to_owned())
            }
            Failure::Distrusted => return,
        };
        self.breaker.failed(self.state.clock.now(), chance());
        if self.state.relay.incoming.set(Some(reason)) {
            warn!(
                redis = self.link.connector().shown,
                reason = reason.label(),
                error,
                remedy = self.link.connector().remedy(reason),
                "publications of other nodes do not arrive; subscribing again"
            );
        }
    }
}
