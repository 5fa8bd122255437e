//! What the one timer of a connection means, by its state.
//!
//! Timers are lazy: hearing from a client only notes the time, and a timer that fires too early
//! is set again. So a busy connection costs the wheel nothing.

use super::{Connection, Facts, InFlight, State};
use crate::limits::TICK_MS;

/// Time limits of connections, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From accept to a complete upgrade request.
    pub handshake: u32,
    /// Quiet time before a ping; 0: never.
    pub ping_interval: u32,
    /// Further quiet time after a ping before the connection is given up.
    pub pong_timeout: u32,
    /// From sending Close to cutting.
    pub close: u32,
    /// A queue of which nothing was taken for so long is a reader that is stuck.
    pub write: u32,
    /// From the first byte of a message to its last; 0: as long as it takes.
    pub message: u32,
    /// How long what a client still sends is discarded after the last bytes to it.
    pub linger: u32,
    /// Quiet time after which a lasting receive is not worth its memory.
    pub calm: u32,
}

impl Deadlines {
    /// Milliseconds to ticks, rounded up, at least one.
    pub fn ticks(ms: u64) -> u32 {
        u32::try_from(ms.div_ceil(TICK_MS).max(1)).unwrap_or(u32::MAX / 2)
    }
}

/// What to do with a connection whose timer fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet; look again at this tick.
    Later(u32),
    /// Nothing, and no timer is needed.
    Never,
    /// Send a ping, then look again at this tick.
    Ping(u32),
    /// End the lasting receive, then look again at this tick.
    Calm(u32),
    /// No upgrade request in time.
    HandshakeTimeout,
    /// No sign of life after a ping.
    KeepaliveTimeout,
    /// The reader is stuck.
    WriteTimeout,
    /// A message has begun and does not end.
    MessageTimeout,
    /// Close was not answered, or the last bytes not taken, in time.
    CloseTimeout,
}

/// Decides at tick `now`. Ticks wrap after eight years, so moments are compared by difference.
pub fn due(connection: &Connection, now: u32, limits: &Deadlines) -> Due {
    match connection.state {
        State::Vacant | State::Ending | State::Leaving => Due::Never,
        State::Handshake
        | State::TurnedAway
        | State::Unadmitted
        | State::Awaiting
        | State::Arriving => match passed(connection.accepted_tick, limits.handshake, now) {
            Ok(()) => Due::HandshakeTimeout,
            Err(at) => Due::Later(at),
        },
        // Whoever entered these states set the timer to their end.
        State::Closing | State::Flushing | State::Lingering => {
            match passed(connection.timer.tick, 0, now) {
                Ok(()) => Due::CloseTimeout,
                Err(at) => Due::Later(at),
            }
        }
        State::Open => open(connection, now, limits),
    }
}

fn open(connection: &Connection, now: u32, limits: &Deadlines) -> Due {
    let mut next = None;
    if let Some(outbound) = &connection.outbound {
        match passed(outbound.progress_tick, limits.write, now) {
            Ok(()) => return Due::WriteTimeout,
            Err(at) => next = Some(at),
        }
    }
    let begun = connection.partial.as_ref().and_then(|partial| partial.begun_tick);
    if let Some(begun) = begun.filter(|_| limits.message > 0) {
        match passed(begun, limits.message, now) {
            Ok(()) => return Due::MessageTimeout,
            Err(at) => next = Some(next.map_or(at, |write| earlier(at, write, now))),
        }
    }
    if connection.in_flight.has(InFlight::LASTING) {
        match passed(connection.heard_tick, limits.calm, now) {
            Ok(()) => return Due::Calm(now.wrapping_add(1)),
            Err(at) => next = Some(next.map_or(at, |write| earlier(at, write, now))),
        }
    }
    let keepalive = keepalive(connection, now, limits);
    match (keepalive, next) {
        (Due::Never, Some(at)) => Due::Later(at),
        (Due::Later(at), Some(other)) => Due::Later(earlier(at, other, now)),
        (due, _) => due,
    }
}

fn keepalive(connection: &Connection, now: u32, limits: &Deadlines) -> Due {
    if limits.ping_interval == 0 {
        return Due::Never;
    }
    if connection.facts.has(Facts::AWAITING_PONG) {
        let patience = limits.ping_interval.saturating_add(limits.pong_timeout);
        return match passed(connection.heard_tick, patience, now) {
            Ok(()) => Due::KeepaliveTimeout,
            Err(at) => Due::Later(at),
        };
    }
    match passed(connection.heard_tick, limits.ping_interval, now) {
        // If the pong has come by then, the next interval counts from it.
        Ok(()) => Due::Ping(now.wrapping_add(limits.pong_timeout.min(limits.ping_interval))),
        Err(at) => Due::Later(at),
    }
}

/// `Ok` if `now` is at or after `from + ticks`; otherwise when that is.
fn passed(from: u32, ticks: u32, now: u32) -> Result<(), u32> {
    let at = from.wrapping_add(ticks);
    if is_reached(at, now) { Ok(()) } else { Err(at) }
}

/// True if `now` is at or after `at`.
pub fn is_reached(at: u32, now: u32) -> bool {
    now.wrapping_sub(at) < u32::MAX / 2
}

/// Whichever of two future ticks comes first.
pub fn earlier(one: u32, other: u32, now: u32) -> u32 {
    if one.wrapping_sub(now) <= other.wrapping_sub(now) { one } else { other }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::outbound::Outbound;

    const LIMITS: Deadlines = Deadlines {
        handshake: 50,
        ping_interval: 100,
        pong_timeout: 20,
        close: 30,
        write: 60,
        message: 80,
        linger: 10,
        calm: 5,
    };

    fn open_at(tick: u32) -> Connection {
        Connection { state: State::Open, heard_tick: tick, ..Connection::default() }
    }

    #[test]
    fn a_handshake_has_its_time_from_accept() {
        let connection =
            Connection { state: State::Handshake, accepted_tick: 7, ..Connection::default() };
        assert_eq!(due(&connection, 56, &LIMITS), Due::Later(57));
        assert_eq!(due(&connection, 57, &LIMITS), Due::HandshakeTimeout);
    }

    #[test]
    fn quiet_means_ping_then_end() {
        let mut connection = open_at(1_000);
        assert_eq!(due(&connection, 1_099, &LIMITS), Due::Later(1_100));
        assert_eq!(due(&connection, 1_100, &LIMITS), Due::Ping(1_120));
        connection.facts.note(Facts::AWAITING_PONG);
        assert_eq!(due(&connection, 1_119, &LIMITS), Due::Later(1_120));
        assert_eq!(due(&connection, 1_120, &LIMITS), Due::KeepaliveTimeout);
    }

    #[test]
    fn a_stuck_reader_is_found_also_without_pings() {
        let mut connection = open_at(0);
        connection.outbound = Some(Box::new(Outbound::new(10)));
        let limits = Deadlines { ping_interval: 0, ..LIMITS };
        assert_eq!(due(&connection, 20, &limits), Due::Later(70));
        assert_eq!(due(&connection, 70, &limits), Due::WriteTimeout);
    }

    #[test]
    fn a_lasting_receive_ends_when_it_is_quiet() {
        let mut connection = open_at(1_000);
        connection.in_flight.begin(InFlight::LASTING);
        assert_eq!(due(&connection, 1_004, &LIMITS), Due::Later(1_005));
        assert_eq!(due(&connection, 1_005, &LIMITS), Due::Calm(1_006));
        let no_pings = Deadlines { ping_interval: 0, ..LIMITS };
        assert_eq!(due(&connection, 1_004, &no_pings), Due::Later(1_005));
    }

    #[test]
    fn a_message_has_its_time_from_its_first_byte_whatever_comes_meanwhile() {
        let mut connection = open_at(1_050);
        connection.partial = Some(Box::default());
        assert_eq!(due(&connection, 1_050, &LIMITS), Due::Later(1_150), "nobody knows since when");
        if let Some(partial) = &mut connection.partial {
            partial.begun_tick = Some(1_000);
        }
        assert_eq!(due(&connection, 1_050, &LIMITS), Due::Later(1_080));
        assert_eq!(due(&connection, 1_080, &LIMITS), Due::MessageTimeout);
        let any = Deadlines { message: 0, ..LIMITS };
        assert_eq!(due(&connection, 1_080, &any), Due::Later(1_150));
        connection.partial = None;
        assert_eq!(due(&connection, 1_080, &LIMITS), Due::Later(1_150));
    }

    #[test]
    fn ticks_may_wrap() {
        let connection = open_at(u32::MAX - 10);
        assert_eq!(due(&connection, u32::MAX, &LIMITS), Due::Later(89));
        assert_eq!(due(&connection, 90, &LIMITS), Due::Ping(110));
    }

    #[test]
    fn milliseconds_become_ticks() {
        assert_eq!(Deadlines::ticks(0), 1);
        assert_eq!(Deadlines::ticks(5_000), 79);
    }
}
