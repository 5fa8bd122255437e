//! What the one timer of a connection means, by its state.
//!
//! Timers are lazy: hearing from a client only notes the time, and a timer that fires too early
//! is set again. So a busy connection costs the wheel nothing.
//!
//! A client to which bytes are outstanding is judged by what it acknowledges (`progress`): before
//! one of its deadlines ends it the kernel is asked, and [`due`] decides again with the answer.

use super::outbound::Outbound;
use super::progress::{Floor, Judgement};
use super::{Connection, Facts, InFlight, State};
use crate::limits::{self, TICK_MS};

/// Time limits of connections, in ticks.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From accept to a complete upgrade request.
    pub handshake: u32,
    /// Quiet time before a ping; 0: never.
    pub ping_interval: u32,
    /// Further quiet time after a ping before the connection is given up.
    pub pong_timeout: u32,
    /// From when the client's TCP has everything, Close included, to cutting. What comes before it
    /// may take too little of for as long, and for a window at least.
    pub close: u32,
    /// How long a client may take too little of what waits for it.
    pub write: u32,
    /// What is too little.
    pub floor: Floor,
    /// From the first byte of a message to its last; 0: as long as it takes.
    pub message: u32,
    /// How long what a client still sends is discarded after its TCP has the last bytes to it.
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
    /// Ask the kernel how much the client has not acknowledged, and decide with the answer.
    Ask,
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

impl Due {
    /// Whichever of what is due now, and of a look at this tick, comes first.
    fn or_at(self, at: Option<u32>, now: u32) -> Self {
        match (self, at) {
            (Self::Never, Some(at)) => Self::Later(at),
            (Self::Later(own), Some(at)) => Self::Later(earlier(own, at, now)),
            (due, _) => due,
        }
    }
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
        State::Closing | State::Flushing | State::Lingering => ending(connection, now, limits),
        State::Open => open(connection, now, limits),
    }
}

/// Whoever entered the state, or found that the client's TCP has everything, set the timer.
fn ending(connection: &Connection, now: u32, limits: &Deadlines) -> Due {
    if let Err(at) = passed(connection.timer.tick, 0, now) {
        return Due::Later(at);
    }
    if connection.facts.has(Facts::CAUGHT_UP) {
        return Due::CloseTimeout;
    }
    let Some(outbound) = &connection.outbound else { return Due::Ask };
    // What may still go out before Close depends on how fast the client reads.
    let asked = outbound.progress.asked();
    let next = asked.map(|asked| asked.wrapping_add(limits::CLOSING_ASKED_TICKS));
    let next = next.filter(|_| !outbound.is_empty());
    // Less than a window does not tell a client that reads from one that does not.
    let patience = limits.close.max(limits::PROGRESS_WINDOW_TICKS);
    match outbound.progress.judge(patience, now) {
        Judgement::Ask => Due::Ask,
        Judgement::Stalled => Due::CloseTimeout,
        Judgement::Later(_) if next.is_some_and(|next| is_reached(next, now)) => Due::Ask,
        Judgement::Later(at) => Due::Later(at).or_at(next, now),
    }
}

/// How long a client that has everything may take to answer or to end its side.
fn ending_patience(state: State, limits: &Deadlines) -> u32 {
    if state == State::Lingering { limits.linger } else { limits.close }
}

fn open(connection: &Connection, now: u32, limits: &Deadlines) -> Due {
    debug_assert!(connection.outbound.is_none() || connection.is_watched(), "kept for nothing");
    let mut next = None;
    // What has begun to be sent waits too, behind which there may be nothing.
    if let Some(outbound) = connection.outbound.as_ref().filter(|_| connection.has_to_send()) {
        match outbound.progress.judge(limits.write, now) {
            Judgement::Ask => return Due::Ask,
            Judgement::Stalled => return Due::WriteTimeout,
            Judgement::Later(at) => next = Some(at),
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
    keepalive(connection, now, limits).or_at(next, now)
}

fn keepalive(connection: &Connection, now: u32, limits: &Deadlines) -> Due {
    if limits.ping_interval == 0 {
        return Due::Never;
    }
    if connection.facts.has(Facts::AWAITING_PONG) {
        let half = limits.ping_interval.saturating_add(half_of(limits.pong_timeout));
        // Its pong may be waiting behind what it has not read.
        return match (passed_pong(connection, now, limits), connection.outbound.as_ref()) {
            (Err(at), Some(_)) => Due::Later(at),
            // How far it is by half of its time tells whether it had its ping all the time.
            (Err(_), None) => {
                passed(connection.heard_tick, half, now).map_or_else(Due::Later, |()| Due::Ask)
            }
            (Ok(()), None) => Due::Ask,
            (Ok(()), Some(outbound)) => match outbound.progress.judge(limits.pong_timeout, now) {
                Judgement::Later(at) => Due::Later(at),
                Judgement::Ask => Due::Ask,
                Judgement::Stalled => Due::KeepaliveTimeout,
            },
        };
    }
    match passed(connection.heard_tick, limits.ping_interval, now) {
        // If the pong has come by then, the next interval counts from it.
        Ok(()) => {
            Due::Ping(now.wrapping_add(half_of(limits.pong_timeout).min(limits.ping_interval)))
        }
        Err(at) => Due::Later(at),
    }
}

/// Whether the time for a pong is over; when that is, if not.
fn passed_pong(connection: &Connection, now: u32, limits: &Deadlines) -> Result<(), u32> {
    let patience = limits.ping_interval.saturating_add(limits.pong_timeout);
    passed(connection.heard_tick, patience, now)
}

fn half_of(ticks: u32) -> u32 {
    ticks.div_ceil(2)
}

/// A ping of the server's on the wire.
const PING_BYTES: u64 = 2;

/// The kernel's answer to [`Due::Ask`]: so many bytes are outstanding, `None` if it does not say.
/// What is due with it.
pub fn observe(
    connection: &mut Connection,
    outstanding: Option<u64>,
    now: u32,
    limits: &Deadlines,
) -> Due {
    let has_everything = outstanding == Some(0) && !connection.has_to_send();
    let begun = match connection.state {
        State::Open if has_everything => return open_with_everything(connection, now, limits),
        // What it was asked for has been taken, or answered, meanwhile.
        State::Open if !connection.is_watched() => {
            connection.stop_watching();
            return due(connection, now, limits);
        }
        State::Open if connection.outbound.is_none() => {
            let waits_for_pong = connection.facts.has(Facts::AWAITING_PONG);
            if waits_for_pong && outstanding.is_none_or(|bytes| bytes <= PING_BYTES) {
                return without_pong(connection, now, limits); // not even that one was taken
            }
            now
        }
        State::Closing | State::Flushing | State::Lingering if has_everything => {
            return ending_with_everything(connection, now, limits);
        }
        // Half of its patience is over; see [`first_look`].
        State::Closing | State::Flushing | State::Lingering => {
            now.wrapping_sub(ending_patience(connection.state, limits).div_ceil(2))
        }
        State::Open => now,
        _ => return due(connection, now, limits),
    };
    let outbound = connection.outbound.get_or_insert_with(|| Box::new(Outbound::new(begun)));
    match outstanding {
        Some(bytes) => outbound.progress.observe(bytes, now, limits.floor),
        None => outbound.progress.observe_nothing(now),
    }
    due(connection, now, limits)
}

/// It has had to take much before it could answer: that it has done so is a sign of life.
fn open_with_everything(connection: &mut Connection, now: u32, limits: &Deadlines) -> Due {
    match connection.outbound.take() {
        Some(mut outbound) => {
            outbound.progress.observe(0, now, limits.floor);
            let until = outbound.progress.enough_until(now);
            let heard = until.wrapping_sub(limits.ping_interval);
            if is_reached(connection.heard_tick, heard) {
                connection.heard_tick = heard;
            }
            due(connection, now, limits)
        }
        None => without_pong(connection, now, limits),
    }
}

/// It has its ping, or nothing stands before that, and no pong has come.
fn without_pong(connection: &Connection, now: u32, limits: &Deadlines) -> Due {
    match (due(connection, now, limits), passed_pong(connection, now, limits)) {
        (Due::Ask, Ok(())) => Due::KeepaliveTimeout,
        (Due::Ask, Err(at)) => Due::Later(at),
        (due, _) => due,
    }
}

/// From here on only its answer is awaited.
fn ending_with_everything(connection: &mut Connection, now: u32, limits: &Deadlines) -> Due {
    connection.facts.note(Facts::CAUGHT_UP);
    let patience = ending_patience(connection.state, limits);
    Due::Later(match connection.outbound.take() {
        // What it took last it may not have read.
        Some(mut outbound) => {
            outbound.progress.observe(0, now, limits.floor);
            outbound.progress.enough_until(now).wrapping_add(patience)
        }
        // It may have had it since it was sent, half of its patience ago.
        None => now.wrapping_add(patience / 2),
    })
}

/// How many ticks after a connection began to end, or to close, the kernel is asked how far it is:
/// after half of its patience, so that a client that has everything by then is known from one that
/// has not; soon, if something waits for it.
pub fn first_look(connection: &mut Connection, now: u32, limits: &Deadlines) -> u32 {
    let patience = ending_patience(connection.state, limits);
    match &mut connection.outbound {
        None => patience.div_ceil(2),
        Some(outbound) => {
            outbound.progress.begin_patience(now);
            (patience / 4).clamp(1, limits::FIRST_ASKED_TICKS)
        }
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
    use crate::ring::Frame;

    const LIMITS: Deadlines = Deadlines {
        handshake: 50,
        ping_interval: 100,
        pong_timeout: 20,
        close: 30,
        write: 60,
        floor: Floor(1_000),
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
        assert_eq!(due(&connection, 1_100, &LIMITS), Due::Ping(1_110));
        connection.facts.note(Facts::AWAITING_PONG);
        assert_eq!(due(&connection, 1_109, &LIMITS), Due::Later(1_110));
        for outstanding in [Some(0), Some(PING_BYTES), None] {
            assert_eq!(due(&connection, 1_110, &LIMITS), Due::Ask);
            assert_eq!(observe(&mut connection, outstanding, 1_110, &LIMITS), Due::Later(1_120));
        }
        assert_eq!(due(&connection, 1_120, &LIMITS), Due::Ask);
        for outstanding in [Some(0), Some(PING_BYTES), None] {
            let mut connection = Connection { facts: connection.facts, ..open_at(1_000) };
            assert_eq!(
                observe(&mut connection, outstanding, 1_120, &LIMITS),
                Due::KeepaliveTimeout
            );
        }
    }

    #[test]
    fn a_pong_behind_what_is_being_read_is_waited_for() {
        let mut connection = open_at(1_000);
        connection.facts.note(Facts::AWAITING_PONG);
        let mut outstanding = 100_000;
        let mut now = 1_120;
        // 20 bytes a tick are 312 a second: too few, and 200 are enough.
        while outstanding > 0 {
            let Due::Later(next) = observe(&mut connection, Some(outstanding), now, &LIMITS) else {
                panic!("{outstanding} at {now}");
            };
            assert!(next > now && next - now <= LIMITS.pong_timeout + 156, "{next} after {now}");
            assert_eq!(due(&connection, next, &LIMITS), Due::Ask);
            outstanding = outstanding.saturating_sub(200 * u64::from(next - now));
            now = next;
        }
        // Then it has its patience to answer: the ping was the last that it was sent.
        assert_eq!(observe(&mut connection, Some(0), now, &LIMITS), due(&connection, now, &LIMITS));
        assert!(connection.outbound.is_none());
        let end = given_up_at(&mut connection, now);
        assert!((now + LIMITS.pong_timeout..=now + 20 + 156).contains(&end), "{end} {now}");
    }

    /// When a client that has everything and does not answer is given up.
    fn given_up_at(connection: &mut Connection, mut now: u32) -> u32 {
        for _ in 0..4 {
            let mut decided = due(connection, now, &LIMITS);
            if decided == Due::Ask {
                decided = observe(connection, Some(0), now, &LIMITS);
            }
            match decided {
                Due::Later(next) => now = next,
                Due::KeepaliveTimeout => return now,
                other => panic!("{other:?} at {now}"),
            }
        }
        panic!("it is asked without end");
    }

    /// The kernel had all of it when the ping was sent, and the client had not.
    #[test]
    fn a_ping_that_was_behind_much_until_lately_may_be_answered_later() {
        let mut connection = open_at(1_000);
        connection.facts.note(Facts::AWAITING_PONG);
        assert_eq!(observe(&mut connection, Some(50_000), 1_110, &LIMITS), Due::Later(1_120));
        assert_eq!(due(&connection, 1_120, &LIMITS), Due::Later(1_130));
        observe(&mut connection, Some(0), 1_130, &LIMITS);
        let end = given_up_at(&mut connection, 1_130);
        assert!(end >= 1_130 + LIMITS.pong_timeout, "{end}");
    }

    #[test]
    fn a_pong_behind_what_is_not_read_is_not_waited_for() {
        let mut connection = open_at(1_000);
        connection.facts.note(Facts::AWAITING_PONG);
        assert_eq!(observe(&mut connection, Some(100_000), 1_120, &LIMITS), Due::Later(1_140));
        assert_eq!(due(&connection, 1_140, &LIMITS), Due::Ask);
        assert_eq!(observe(&mut connection, Some(99_990), 1_140, &LIMITS), Due::KeepaliveTimeout);
    }

    #[test]
    fn a_stuck_reader_is_found_also_without_pings() {
        let mut connection = open_at(0);
        let mut outbound = Box::new(Outbound::new(10));
        outbound.push(Frame::Own(vec![0; 10]));
        connection.outbound = Some(outbound);
        let limits = Deadlines { ping_interval: 0, ..LIMITS };
        assert_eq!(due(&connection, 20, &limits), Due::Later(25));
        assert_eq!(due(&connection, 25, &limits), Due::Ask);
        assert_eq!(observe(&mut connection, Some(500), 25, &limits), Due::Later(70));
        assert_eq!(due(&connection, 70, &limits), Due::Ask);
        assert_eq!(observe(&mut connection, Some(500), 70, &limits), Due::WriteTimeout);
    }

    #[test]
    fn an_answer_that_nobody_needs_any_more_leaves_nothing_behind() {
        let mut connection = open_at(1_000);
        assert_eq!(observe(&mut connection, Some(5_000), 1_010, &LIMITS), Due::Later(1_100));
        assert!(connection.outbound.is_none());
    }

    fn closing(now: u32) -> Connection {
        let mut connection = Connection { state: State::Closing, ..Connection::default() };
        connection.timer.tick = now + first_look(&mut connection, now, &LIMITS);
        connection
    }

    #[test]
    fn a_close_that_is_not_answered_ends_the_connection_in_time() {
        let mut connection = closing(100);
        assert_eq!(due(&connection, 114, &LIMITS), Due::Later(115));
        assert_eq!(due(&connection, 115, &LIMITS), Due::Ask);
        assert_eq!(observe(&mut connection, Some(0), 115, &LIMITS), Due::Later(130));
        connection.timer.tick = 130;
        assert_eq!(due(&connection, 130, &LIMITS), Due::CloseTimeout);
    }

    #[test]
    fn a_close_that_is_not_taken_ends_the_connection_after_a_window() {
        let mut connection = closing(100);
        let end = 100 + limits::PROGRESS_WINDOW_TICKS;
        assert_eq!(observe(&mut connection, Some(70_000), 115, &LIMITS), Due::Later(end));
        assert_eq!(due(&connection, end, &LIMITS), Due::Ask);
        assert_eq!(observe(&mut connection, Some(70_000), end, &LIMITS), Due::CloseTimeout);
    }

    #[test]
    fn the_answer_to_close_is_awaited_from_when_everything_has_been_taken() {
        let mut connection = closing(100);
        let end = 100 + limits::PROGRESS_WINDOW_TICKS;
        observe(&mut connection, Some(70_000), 115, &LIMITS);
        // Ten ticks' worth.
        assert_eq!(observe(&mut connection, Some(69_360), 125, &LIMITS), Due::Later(end + 10));
        assert_eq!(observe(&mut connection, Some(0), 240, &LIMITS), Due::Later(110 + 156 + 30));
        assert!(connection.facts.has(Facts::CAUGHT_UP));
    }

    #[test]
    fn how_fast_a_closing_client_reads_is_looked_at_while_messages_wait() {
        let mut connection = closing(100);
        let mut outbound = Box::new(Outbound::new(50));
        outbound.push(Frame::Own(vec![0; 10]));
        connection.outbound = Some(outbound);
        connection.timer.tick = 100 + first_look(&mut connection, 100, &LIMITS);
        assert_eq!(connection.timer.tick, 107);
        let mut now = 107;
        for outstanding in (1..10).rev() {
            assert_eq!(due(&connection, now, &LIMITS), Due::Ask);
            let due = observe(&mut connection, Some(outstanding * 10_000), now, &LIMITS);
            now += limits::CLOSING_ASKED_TICKS;
            assert_eq!(due, Due::Later(now));
        }
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
        assert_eq!(due(&connection, 90, &LIMITS), Due::Ping(100));
    }

    #[test]
    fn milliseconds_become_ticks() {
        assert_eq!(Deadlines::ticks(0), 1);
        assert_eq!(Deadlines::ticks(5_000), 79);
    }
}
