//! The budgets of the whole server in the orders in which its threads can run: a coordinator and
//! shards as threads, the real `Budget` and `Leases` between channels, scheduled by shuttle. Time
//! stands still, so tokens are a second budget beside the slots.
//!
//! What shuttle finds it prints as a schedule, which `shuttle::replay` repeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use shuttle::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use shuttle::thread;
use tidegate::admission::leases::{Chunk, Leases, Reply, Room, Say};
use tidegate::coordinator::budget::{Budget, Rate};

/// What is tried.
#[derive(Clone, Copy)]
struct Setup {
    limit: u32,
    /// Tokens; `None` if the rate has no limit.
    burst: Option<u32>,
    /// Attempts on each shard.
    attempts: &'static [u32],
    /// How many connections each shard ends after its attempts.
    ends: u32,
    /// Commands that the coordinator's channel has room for.
    room: usize,
    /// A shard that dies after its attempts.
    dies: Option<usize>,
}

enum Command {
    Say(usize, Say),
    Done,
    Died(usize),
    Orphans(usize, usize),
}

enum Message {
    Budget(Reply),
    Died(usize),
    Stop,
}

/// Connections that are open, and attempts that were refused.
#[derive(Default)]
struct Truth {
    open: AtomicU32,
    admitted: AtomicU32,
    refused: AtomicU32,
}

struct Shard {
    index: usize,
    setup: Setup,
    leases: Leases,
    inbox: Receiver<Message>,
    commands: SyncSender<Command>,
    truth: Arc<Truth>,
    deferred: u32,
    stopped: bool,
}

impl Shard {
    fn run(mut self) -> Option<Self> {
        for _ in 0..self.setup.attempts[self.index] {
            self.deferred += 1;
            self.turn(false);
        }
        while self.deferred > 0 {
            self.turn(true);
        }
        for _ in 0..self.setup.ends.min(self.leases.used()) {
            self.truth.open.fetch_sub(1, Relaxed);
            self.leases.release(1);
            self.turn(false);
        }
        if self.setup.dies == Some(self.index) {
            self.truth.open.fetch_sub(self.leases.used(), Relaxed);
            self.commands.send(Command::Died(self.index)).unwrap();
            return None;
        }
        self.commands.send(Command::Done).unwrap();
        while !self.stopped {
            self.turn(true);
        }
        Some(self)
    }

    /// A turn of its loop, which may sleep until something comes.
    fn turn(&mut self, sleeps: bool) {
        self.judge();
        let said = self.talk();
        if sleeps && said && !self.stopped {
            let message = self.inbox.recv().unwrap();
            self.hear(message);
        } else {
            thread::yield_now();
        }
        while let Ok(message) = self.inbox.try_recv() {
            self.hear(message);
        }
        self.judge();
        self.talk();
    }

    fn judge(&mut self) {
        while self.deferred > 0 {
            match self.leases.room(0) {
                Room::Yes => {
                    self.leases.take();
                    let open = 1 + self.truth.open.fetch_add(1, Relaxed);
                    let admitted = 1 + self.truth.admitted.fetch_add(1, Relaxed);
                    assert!(open <= self.setup.limit, "more are open than the limit allows");
                    let tokens = self.setup.burst.unwrap_or(u32::MAX);
                    assert!(admitted <= tokens, "more were admitted than the rate allows");
                }
                Room::Unknown => return,
                Room::Full | Room::NoTokens { .. } => {
                    self.truth.refused.fetch_add(1, Relaxed);
                }
            }
            self.deferred -= 1;
        }
    }

    /// False if something could not be said.
    fn talk(&mut self) -> bool {
        let Some(say) = self.leases.to_say(self.deferred, true, 0) else { return true };
        let sent = self.commands.try_send(Command::Say(self.index, say)).is_ok();
        if sent {
            self.leases.said(&say);
        }
        sent
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Budget(reply) => self.leases.hear(reply, 0),
            Message::Died(dead) => {
                self.commands.send(Command::Orphans(self.index, dead)).unwrap();
            }
            Message::Stop => self.stopped = true,
        }
    }
}

struct Coordinator {
    budget: Budget,
    limit: u32,
    commands: Receiver<Command>,
    shards: Vec<Sender<Message>>,
}

impl Coordinator {
    fn run(mut self) -> Self {
        let mut busy = self.shards.len();
        while busy > 0 {
            let command = self.commands.recv().unwrap();
            busy -= usize::from(matches!(command, Command::Done | Command::Died(_)));
            self.act(command);
        }
        self.shards.iter().for_each(|shard| drop(shard.send(Message::Stop)));
        self
    }

    fn act(&mut self, command: Command) {
        match command {
            Command::Say(shard, say) => self.budget.hear(shard, &say, 0),
            Command::Done => {}
            Command::Orphans(shard, dead) => self.budget.orphans(shard, dead, 0, 0),
            Command::Died(shard) => {
                for (other, link) in self.shards.iter().enumerate() {
                    if other != shard {
                        drop(link.send(Message::Died(shard)));
                    }
                }
                self.budget.on_death(shard, 0);
            }
        }
        for (shard, reply) in self.budget.replies() {
            // To a shard that has died nothing arrives.
            drop(self.shards[shard].send(Message::Budget(reply)));
        }
        let granted = self.budget.granted();
        assert!(granted <= u64::from(self.limit), "more is granted than the limit allows");
    }

    /// Everybody says and hears everything; one after the other.
    fn come_to_rest(&mut self, shards: &mut [Shard]) {
        for _ in 0..20 {
            while let Ok(command) = self.commands.try_recv() {
                self.act(command);
            }
            for shard in &mut *shards {
                while let Ok(message) = shard.inbox.try_recv() {
                    shard.hear(message);
                }
                shard.judge();
                shard.talk();
                while let Ok(command) = self.commands.try_recv() {
                    self.act(command);
                }
            }
        }
    }
}

/// Runs the threads to their end, and then fills the server up: what is free must be had.
/// Returns how many were refused before.
fn run(setup: Setup) -> u32 {
    let count = setup.attempts.len();
    let rate = setup.burst.and_then(|burst| Rate::new(1, burst));
    let budget = Budget::new(count, setup.limit.into(), rate);
    let chunk: Chunk = budget.chunk();
    let (sender, commands) = sync_channel(setup.room);
    let truth = Arc::new(Truth::default());
    let (links, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| channel()).unzip();
    let threads: Vec<_> = inboxes
        .into_iter()
        .enumerate()
        .map(|(index, inbox)| {
            let mut leases = Leases::default();
            leases.set(chunk, rate.is_some());
            let (commands, truth) = (sender.clone(), Arc::clone(&truth));
            let shard =
                Shard { index, setup, leases, inbox, commands, truth, deferred: 0, stopped: false };
            thread::spawn(move || shard.run())
        })
        .collect();
    let coordinator = Coordinator { budget, limit: setup.limit, commands, shards: links };
    let mut coordinator = thread::spawn(move || coordinator.run()).join().unwrap();
    let mut shards: Vec<_> =
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
    let refused = truth.refused.load(Relaxed);
    coordinator.come_to_rest(&mut shards);
    let before = truth.admitted.load(Relaxed);
    let free = setup.limit - truth.open.load(Relaxed);
    let tokens = setup.burst.map_or(u32::MAX, |burst| burst - before);
    // A shard that has died may have taken tokens with it.
    let expected = if setup.dies.is_some() && setup.burst.is_some() { 0 } else { free.min(tokens) };
    for index in 0..shards.len() {
        for _ in 0..free {
            shards[index].deferred += 1;
            coordinator.come_to_rest(&mut shards);
            assert_eq!(shards[index].deferred, 0, "nobody waits when all has been said");
        }
    }
    let admitted = truth.admitted.load(Relaxed) - before;
    assert!(admitted >= expected, "{admitted} of {expected} that were free");
    refused
}

fn holds(setup: Setup) -> impl Fn() + Copy + Send + Sync + 'static {
    move || {
        run(setup);
    }
}

fn chance(setup: Setup, runs: usize) {
    shuttle::check_random(holds(setup), runs);
    shuttle::check_pct(holds(setup), runs, 3);
}

const SMALL: Setup =
    Setup { limit: 2, burst: None, attempts: &[1, 1], ends: 0, room: 9, dies: None };

#[test]
fn two_shards_and_the_last_slot_in_one_order_after_the_other() {
    let setup = Setup { limit: 1, ends: 1, ..SMALL };
    shuttle::check_dfs(holds(setup), Some(30_000));
}

#[test]
fn three_shards_that_come_and_go_at_the_limit() {
    let setup = Setup { limit: 3, attempts: &[2, 2, 2], ends: 2, room: 2, ..SMALL };
    chance(setup, 1_500);
}

#[test]
fn three_shards_with_reserves_at_the_limit_of_the_rate() {
    let setup = Setup { limit: 96, burst: Some(30), attempts: &[12, 12, 12], ..SMALL };
    chance(setup, 500);
}

#[test]
fn a_shard_that_dies_leaves_its_slots_to_the_others() {
    let setup = Setup { limit: 3, attempts: &[3, 2, 2], ends: 1, dies: Some(0), ..SMALL };
    chance(setup, 1_500);
}

/// However the shards' reserves move about meanwhile.
#[test]
fn as_many_as_there_are_slots_are_all_admitted() {
    let setup = Setup { limit: 32, attempts: &[16, 16], ..SMALL };
    let nobody_refused = move || assert_eq!(run(setup), 0, "refused while slots were free");
    shuttle::check_random(nobody_refused, 1_000);
    shuttle::check_pct(nobody_refused, 1_000, 3);
}

#[test]
fn as_many_as_there_are_tokens_are_all_admitted() {
    let setup = Setup { limit: 96, burst: Some(36), attempts: &[12, 20, 4], ..SMALL };
    let nobody_refused = move || assert_eq!(run(setup), 0, "refused while tokens were free");
    shuttle::check_random(nobody_refused, 500);
    shuttle::check_pct(nobody_refused, 500, 3);
}
