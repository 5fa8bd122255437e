//! From what is short to a level, and from a level to a share of the rate. Pure.
//!
//! Each input asks for a level. The level rises to it one step at a look, and at once to the last
//! when memory is at its budget; it falls one step for each second in which no input holds it.
//! What holds a level lies below what raises to it, so an input that stands at a threshold does
//! not move the level to and fro.
//!
//! What the tests below prove:
//! - monotone: of two servers of which one is never less pressed at any look, that one is never
//!   at a lower level;
//! - no flapping: in any `t` seconds the level changes at most `2t + 7` times;
//! - only memory reaches the last level, and without any pressure every level ends in seconds.

use super::AdmissionShare;
use super::memory::{TcpMemory, Usage};
use crate::clock::Now;
use crate::limits::LONG_TURN_MS;

/// Parts of 1024 of the rate that each level leaves.
const SHARES: [u16; 6] = [1024, 768, 512, 256, 128, 0];

/// The highest level that anything but memory asks for: the smallest share that lets somebody in.
const LAST_THAT_ADMITS: u8 = SHARES.len() as u8 - 2;

/// How full the budget is, in parts of 1000, from where on each level from 1 is asked for. The
/// first is a sixth before the budget: at 100,000 connections a second and 250 ms between two
/// looks that is room on any machine from 1 GiB.
const FILLED: [u64; 5] = [850, 900, 950, 975, 1000];

/// So much below a threshold a level ends, in parts of 1000: more than a few clients that come
/// and go, or a page cache that breathes.
const FILLED_GAP: u64 = 20;

/// A turn so long, in milliseconds, asks for each level from 1.
const TURNS_MS: [u64; 4] = [LONG_TURN_MS, 2 * LONG_TURN_MS, 4 * LONG_TURN_MS, 8 * LONG_TURN_MS];

/// A shard is busy from here on, in parts of 1000 of its time, and until it falls below the
/// second.
const BUSY: u16 = 950;
const NO_LONGER_BUSY: u16 = 850;

/// A shard that is busy for so long asks for level 1, for twice as long 2, and so on.
const BUSY_STEP_MS: u64 = 2_000;

/// How long nothing may hold a level before it falls by one.
pub const CALM_MS: u64 = 1_000;

/// How pressed the server is: 0 for not, up to 5, at which nobody enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u8);

impl Level {
    /// Not pressed.
    pub const NONE: Self = Self(0);
    /// Nobody enters.
    pub const LAST: Self = Self(SHARES.len() as u8 - 1);

    /// What it leaves of the rate of admission.
    pub fn share(self) -> AdmissionShare {
        AdmissionShare::new(SHARES.get(usize::from(self.0)).copied().unwrap_or(0))
    }

    /// As a number, for people.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// What asks for a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Memory in use against its budget.
    Memory,
    /// What the sockets hold against the kernel's limit for them.
    TcpMemory,
    /// A shard was away from its ring for too long.
    Stall,
    /// A shard has no time left.
    Processor,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Memory, Self::TcpMemory, Self::Stall, Self::Processor];

    /// Its name in the log and in figures.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::TcpMemory => "tcp_memory",
            Self::Stall => "stall",
            Self::Processor => "processor",
        }
    }
}

/// What is seen at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inputs {
    /// Memory in use; `None` if it is not known.
    pub memory: Option<Usage>,
    /// What the sockets hold; `None` if it is not known.
    pub tcp: Option<TcpMemory>,
    /// The longest turn of a shard since the last look, in milliseconds.
    pub longest_turn_ms: u64,
    /// The part of its time that the busiest shard was at work or wanted to be, in parts of 1000.
    pub busy_per_mille: u16,
}

/// The level, and what it needs to know of the past.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ladder {
    level: u8,
    cause: Option<Cause>,
    /// Since when nothing holds the level.
    calm_since: Option<Now>,
    /// Since when the busiest shard is busy.
    busy_since: Option<Now>,
}

/// What one input asks for.
#[derive(Debug, Clone, Copy)]
struct Wish {
    cause: Cause,
    /// The level rises to this.
    raise: u8,
    /// The level does not fall below this; no less than `raise`.
    hold: u8,
}

impl Ladder {
    /// The level now.
    pub fn level(&self) -> Level {
        Level(self.level)
    }

    /// What the level is for: the input that raised it last, or that holds it; `None` at no
    /// pressure.
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// Looks at the inputs. Looks come in the order of `now`. True if the level has changed.
    pub fn look(&mut self, inputs: &Inputs, now: Now) -> bool {
        let wishes = self.wishes(inputs, now);
        // Of equal wishes the first counts, so memory before time.
        let raise = wishes.iter().rev().max_by_key(|wish| wish.raise);
        let hold = wishes.iter().rev().max_by_key(|wish| wish.hold);
        let (Some(raise), Some(hold)) = (raise, hold) else { return false };
        if raise.raise > self.level {
            let is_full = Level(raise.raise) == Level::LAST;
            self.level = if is_full { raise.raise } else { self.level + 1 };
            self.cause = Some(raise.cause);
            self.calm_since = None;
            return true;
        }
        if self.level == 0 {
            return false;
        }
        if hold.hold >= self.level {
            self.cause = Some(hold.cause);
            self.calm_since = None;
            return false;
        }
        let since = *self.calm_since.get_or_insert(now);
        if now < since.plus_ms(CALM_MS) {
            return false;
        }
        self.level -= 1;
        self.calm_since = (hold.hold < self.level).then_some(now);
        if self.level == 0 {
            self.cause = None;
        }
        true
    }

    fn wishes(&mut self, inputs: &Inputs, now: Now) -> [Wish; 4] {
        let filled = inputs.memory.map_or(0, Usage::filled_per_mille);
        let stall = steps(&TURNS_MS, inputs.longest_turn_ms);
        [
            Wish {
                cause: Cause::Memory,
                raise: steps(&FILLED, filled),
                hold: steps(&FILLED, filled + FILLED_GAP),
            },
            tcp_wish(inputs.tcp),
            Wish { cause: Cause::Stall, raise: stall, hold: stall },
            self.processor_wish(inputs.busy_per_mille, now),
        ]
    }

    fn processor_wish(&mut self, busy_per_mille: u16, now: Now) -> Wish {
        if busy_per_mille >= BUSY {
            self.busy_since.get_or_insert(now);
        } else if busy_per_mille < NO_LONGER_BUSY {
            self.busy_since = None;
        }
        let busy_ms = self.busy_since.map_or(0, |since| now.since(since).as_millis() as u64);
        let hold = (busy_ms / BUSY_STEP_MS).min(LAST_THAT_ADMITS.into()) as u8;
        let raise = if busy_per_mille >= BUSY { hold } else { 0 };
        Wish { cause: Cause::Processor, raise, hold }
    }
}

/// From where the kernel begins to save on sockets' memory, one level; further on as for memory.
fn tcp_wish(tcp: Option<TcpMemory>) -> Wish {
    let (mut raise, mut hold) = (0, 0);
    if let Some(tcp) = tcp {
        let filled = tcp.filled_per_mille();
        let pressed = u8::from(tcp.is_under_pressure());
        raise = steps(&FILLED, filled).max(pressed);
        hold = steps(&FILLED, filled + FILLED_GAP).max(pressed);
    }
    Wish { cause: Cause::TcpMemory, raise, hold }
}

fn steps(thresholds: &[u64], value: u64) -> u8 {
    thresholds.iter().filter(|threshold| value >= **threshold).count() as u8
}

#[cfg(test)]
mod tests;
