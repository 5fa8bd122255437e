//! The keeper alone, with Redis and other nodes played by the test.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::ring::Token;

const PATIENCE_MS: u64 = 1_000;
const EXPIRY_MS: u64 = 60_000;

fn keeper(has_redis: bool) -> Keeper {
    let hash = RandomState::with_seeds(1, 2, 3, 4);
    let mut keeper = Keeper::new(hash, has_redis, PATIENCE_MS, EXPIRY_MS, 1 << 20);
    keeper.set_available(has_redis);
    keeper
}

fn id() -> SessionId {
    SessionId::new("session-1").unwrap()
}

fn holder(slot: u32) -> Holder {
    Holder { shard: 0, token: Token::new(slot, 1) }
}

fn record(messages: u64) -> Record {
    Record { messages, ..Record::default() }
}

fn at(ms: u64) -> Now {
    Now::from_ms(ms)
}

fn attach(keeper: &mut Keeper, slot: u32, now: Now) -> Vec<Order> {
    keeper.on_event(Event::Attach { id: id(), holder: holder(slot) }, now);
    std::mem::take(&mut keeper.orders)
}

fn release(keeper: &mut Keeper, slot: u32, messages: u64, now: Now) -> Vec<Order> {
    let event = Event::Release { id: id(), holder: holder(slot), record: record(messages) };
    keeper.on_event(event, now);
    std::mem::take(&mut keeper.orders)
}

fn attached(slot: u32, messages: Option<u64>, shortfall: Option<Shortfall>) -> Order {
    let found = Found { record: messages.map(record), shortfall };
    Order::Attached { id: id(), holder: holder(slot), found }
}

fn let_go(slot: u32) -> Order {
    Order::LetGo { holder: holder(slot) }
}

fn found(awaited: Option<Life>, messages: Option<u64>) -> Said {
    Said::Found { awaited, record: messages.map(record), is_malformed: false }
}

/// Redis answers the one question that there is.
fn redis_says(keeper: &mut Keeper, ask: Ask, said: Said, now: Now) -> Vec<Order> {
    assert_eq!(keeper.next_asks(10, now), std::slice::from_ref(&ask));
    keeper.heard(&ask, said, now);
    std::mem::take(&mut keeper.orders)
}

/// S2.17, S2.36.
#[test]
fn without_redis_a_session_is_kept_here_until_it_expires() {
    let mut keeper = keeper(false);
    assert_eq!(attach(&mut keeper, 1, at(0)), [attached(1, None, None)]);
    assert_eq!(release(&mut keeper, 1, 7, at(10)), []);
    assert_eq!(attach(&mut keeper, 2, at(20)), [attached(2, Some(7), None)]);
    release(&mut keeper, 2, 9, at(30));
    keeper.tick(at(29 + EXPIRY_MS));
    assert_eq!(keeper.directory().kept(), 1);
    keeper.tick(at(30 + EXPIRY_MS));
    assert_eq!(attach(&mut keeper, 3, at(30 + EXPIRY_MS)), [attached(3, None, None)]);
    assert_eq!((keeper.figures.kept, keeper.figures.expired), (2, 1));
    assert!(!keeper.has_asks());
}

#[test]
fn the_newest_connection_wins_and_has_what_the_one_before_it_had() {
    let mut keeper = keeper(false);
    attach(&mut keeper, 1, at(0));
    assert_eq!(attach(&mut keeper, 2, at(10)), [let_go(1)]);
    assert_eq!(release(&mut keeper, 1, 5, at(11)), [attached(2, Some(5), None)]);
    assert_eq!(release(&mut keeper, 2, 6, at(12)), []);
    assert_eq!(keeper.kept_of(&id()), Some(&record(6)));
}

#[test]
fn of_three_connections_the_one_between_is_turned_away() {
    let mut keeper = keeper(false);
    attach(&mut keeper, 1, at(0));
    attach(&mut keeper, 2, at(1));
    let superseded = attached(2, None, Some(Shortfall::Superseded));
    assert_eq!(attach(&mut keeper, 3, at(2)), [superseded]);
    assert_eq!(release(&mut keeper, 1, 5, at(3)), [attached(3, Some(5), None)]);
}

#[test]
fn a_connection_that_does_not_let_go_is_not_waited_for_long() {
    let mut keeper = keeper(false);
    attach(&mut keeper, 1, at(0));
    attach(&mut keeper, 2, at(10));
    keeper.tick(at(9 + PATIENCE_MS));
    assert_eq!(keeper.orders, []);
    keeper.tick(at(10 + PATIENCE_MS));
    let fresh = attached(2, None, Some(Shortfall::NotReleased));
    assert_eq!(std::mem::take(&mut keeper.orders), [fresh]);
    assert_eq!(release(&mut keeper, 1, 5, at(2_000)), [], "too late");
    assert_eq!(keeper.figures.lost[Loss::Superseded as usize], 1);
    release(&mut keeper, 2, 1, at(2_001));
    assert_eq!(keeper.kept_of(&id()), Some(&record(1)));
}

#[test]
fn with_redis_a_session_is_claimed_and_saved_there() {
    let mut keeper = keeper(true);
    assert_eq!(attach(&mut keeper, 1, at(0)), []);
    let orders = redis_says(&mut keeper, Ask::Claim(id()), found(None, Some(4)), at(1));
    assert_eq!(orders, [attached(1, Some(4), None)]);
    release(&mut keeper, 1, 5, at(2));
    assert_eq!((keeper.kept_of(&id()), keeper.unsaved()), (Some(&record(5)), 1));
    redis_says(&mut keeper, Ask::Save(id()), Said::Ours { is_ours: true }, at(3));
    assert_eq!((keeper.directory().kept(), keeper.figures.saved), (0, 1));
}

/// The reconnect is faster than the save of the node before.
#[test]
fn what_another_node_has_is_waited_for() {
    let mut keeper = keeper(true);
    let other = Life::from_bytes([9; 16]);
    attach(&mut keeper, 1, at(0));
    let orders = redis_says(&mut keeper, Ask::Claim(id()), found(Some(other), Some(1)), at(1));
    assert_eq!((orders, &keeper.notices[..]), (vec![], &[(other, id())][..]));
    assert_eq!(keeper.next_asks(10, at(1)), [], "not at once");
    let now = at(1 + SESSION_LOOK_MS);
    assert_eq!(redis_says(&mut keeper, Ask::Look(id()), found(Some(other), Some(1)), now), []);
    assert_eq!(keeper.next_asks(10, at(2 * SESSION_LOOK_MS)), [], "later and later");
    let now = at(1 + 3 * SESSION_LOOK_MS);
    let orders = redis_says(&mut keeper, Ask::Look(id()), found(None, Some(8)), now);
    assert_eq!(orders, [attached(1, Some(8), None)]);
    assert!(!keeper.has_pending());
}

#[test]
fn a_node_that_does_not_let_go_is_not_waited_for_long() {
    for (there, shortfall) in [(None, Shortfall::NotReleased), (Some(3), Shortfall::NotReleased)] {
        let mut keeper = keeper(true);
        attach(&mut keeper, 1, at(0));
        let other = Some(Life::default());
        redis_says(&mut keeper, Ask::Claim(id()), found(other, there), at(1));
        keeper.tick(at(PATIENCE_MS));
        // The look that was due meanwhile asks nothing any more.
        let orders =
            redis_says(&mut keeper, Ask::Settle(id()), found(None, there), at(PATIENCE_MS));
        assert_eq!(orders, [attached(1, there, Some(shortfall))]);
        assert_eq!(keeper.next_asks(10, at(5_000)), []);
    }
}

#[test]
fn another_nodes_claim_makes_a_connection_let_go_and_its_record_is_saved() {
    let mut keeper = keeper(true);
    attach(&mut keeper, 1, at(0));
    redis_says(&mut keeper, Ask::Claim(id()), found(None, None), at(1));
    keeper.on_event(Event::Claimed { id: id() }, at(2));
    assert_eq!(std::mem::take(&mut keeper.orders), [let_go(1)]);
    release(&mut keeper, 1, 5, at(3));
    redis_says(&mut keeper, Ask::Save(id()), Said::Ours { is_ours: true }, at(4));
    keeper.on_event(Event::Claimed { id: id() }, at(5));
    assert_eq!(keeper.orders, [], "it is gone already");
}

#[test]
fn another_nodes_claim_is_newer_than_a_connection_that_is_not_answered() {
    let superseded = attached(2, None, Some(Shortfall::Superseded));
    let mut keeper = keeper(true);
    attach(&mut keeper, 1, at(0));
    redis_says(&mut keeper, Ask::Claim(id()), found(None, None), at(1));
    assert_eq!(attach(&mut keeper, 2, at(2)), [let_go(1)]);
    keeper.on_event(Event::Claimed { id: id() }, at(3));
    assert_eq!(std::mem::take(&mut keeper.orders), [superseded]);
    release(&mut keeper, 1, 5, at(4));
    assert_eq!(keeper.next_asks(10, at(4)), [Ask::Save(id())]);
    assert_eq!(keeper.kept_of(&id()), Some(&record(5)));
}

#[test]
fn without_an_answer_of_redis_a_session_starts_anew_and_says_so() {
    let mut keeper = keeper(true);
    attach(&mut keeper, 1, at(0));
    let asks = keeper.next_asks(10, at(0));
    keeper.give_back(asks);
    keeper.set_available(false);
    let fresh = attached(1, None, Some(Shortfall::Unavailable));
    assert_eq!(std::mem::take(&mut keeper.orders), [fresh]);
    // From then on at once; what is to be saved waits, and is there for whoever comes back here.
    release(&mut keeper, 1, 5, at(1));
    assert_eq!(attach(&mut keeper, 2, at(2)), [attached(2, Some(5), None)]);
    release(&mut keeper, 2, 6, at(3));
    keeper.set_available(true);
    assert_eq!(keeper.next_asks(10, at(4)), [Ask::Save(id())]);
}

#[test]
fn what_is_here_and_not_saved_yet_is_newer_than_what_redis_has() {
    let mut keeper = keeper(true);
    attach(&mut keeper, 1, at(0));
    redis_says(&mut keeper, Ask::Claim(id()), found(None, None), at(1));
    release(&mut keeper, 1, 5, at(2));
    attach(&mut keeper, 2, at(3));
    let asks = keeper.next_asks(10, at(3));
    assert_eq!(asks, [Ask::Claim(id())], "nothing is kept any more");
    keeper.heard(&asks[0], found(None, Some(1)), at(3));
    assert_eq!(std::mem::take(&mut keeper.orders), [attached(2, Some(5), None)]);
}

#[test]
fn a_redis_that_does_not_answer_in_time_is_not_waited_for() {
    let mut keeper = keeper(true);
    attach(&mut keeper, 1, at(0));
    let asks = keeper.next_asks(10, at(0));
    keeper.tick(at(PATIENCE_MS));
    let fresh = attached(1, None, Some(Shortfall::TimedOut));
    assert_eq!(std::mem::take(&mut keeper.orders), [fresh]);
    keeper.heard(&asks[0], found(None, Some(9)), at(PATIENCE_MS + 1));
    assert_eq!(keeper.orders, [], "answered once");
}

#[test]
fn what_is_held_for_long_is_said_again_before_redis_forgets_it() {
    let mut keeper = keeper(true);
    for number in 0..1_000 {
        let id = SessionId::new(&format!("session-{number}")).unwrap();
        keeper.on_event(Event::Attach { id, holder: holder(number) }, at(0));
    }
    for ask in keeper.next_asks(2_000, at(0)) {
        keeper.heard(&ask, found(None, None), at(0));
    }
    let mut held = std::collections::BTreeSet::new();
    for ms in 1..EXPIRY_MS / 2 {
        keeper.tick(at(ms));
        for ask in keeper.next_asks(10_000, at(ms)) {
            let Ask::Hold(id) = ask else { panic!("{ask:?}") };
            held.insert(id.as_str().to_owned());
        }
    }
    assert_eq!(held.len(), 1_000);
}

#[test]
fn a_session_that_was_taken_while_this_node_stood_still_is_let_go_of() {
    let mut keeper = keeper(true);
    attach(&mut keeper, 1, at(0));
    redis_says(&mut keeper, Ask::Claim(id()), found(None, None), at(1));
    keeper.tick(at(EXPIRY_MS / 2));
    let now = at(EXPIRY_MS / 2);
    let orders = redis_says(&mut keeper, Ask::Hold(id()), Said::Ours { is_ours: false }, now);
    assert_eq!(orders, [let_go(1)]);
}

#[test]
fn sessions_that_come_and_go_while_nothing_can_be_saved_take_no_more_and_more() {
    let mut keeper = keeper(true);
    keeper.set_available(false);
    for step in 0..10_000 {
        attach(&mut keeper, step, at(0));
        release(&mut keeper, step, 1, at(0));
    }
    assert!(keeper.saves.len() <= 1_030, "{}", keeper.saves.len());
    keeper.set_available(true);
    assert_eq!(keeper.next_asks(100, at(1)), [Ask::Save(id())]);
}

#[test]
fn what_expires_before_it_could_be_saved_is_lost_and_counted() {
    let mut keeper = keeper(true);
    keeper.set_available(false);
    attach(&mut keeper, 1, at(0));
    release(&mut keeper, 1, 1, at(0));
    keeper.tick(at(EXPIRY_MS));
    assert_eq!((keeper.unsaved(), keeper.figures.lost[Loss::Expired as usize]), (0, 1));
}
