//! What a node writes and what the answer means. Pure: no Redis here, and no clock.
//!
//! A *life* is one run of one process; it has a random name. A node id may have many lives, one
//! after the other, and each write says whose it is: an epoch that grows with each change of life,
//! and a number that grows with each write. What an older epoch or number wants is not done, so a
//! write that was on its way for long, or a process that slept, changes nothing.

use crate::limits::REDIS_NAME_CHARS;

/// The highest number that a node writes or believes: a script counts in floating point, which is
/// exact so far and a bit beyond.
pub const NUMBER_MAX: u64 = 1 << 52;

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `redis.cluster_name`.
    pub cluster: String,
    /// `redis.node_id`, or what stands in for it.
    pub node: String,
    /// The random name of this run of the process.
    pub life: String,
    /// The machine's name.
    pub host: String,
    /// The process id on it.
    pub pid: u32,
    /// When the process started, RFC 3339 in UTC.
    pub started_at: String,
}

impl Identity {
    /// What every key begins with. All are in one hash tag.
    pub fn prefix(&self) -> String {
        format!("{{tidegate:{}}}", self.cluster)
    }
}

/// What a node counts. Absolute, and from the start of its process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open connections.
    pub connections: u64,
    /// The most there were at once.
    pub peak: u64,
    /// How long all of them, ended and open, have been open, in milliseconds.
    pub connection_ms: u64,
}

/// The sums over the nodes that live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Open connections.
    pub connections: u64,
    /// The most that this sum, or the peak of one node, has been.
    pub peak: u64,
    /// How long all connections have been open, in milliseconds, those of ended nodes included.
    pub connection_ms: u64,
    /// Nodes whose lease has not ended.
    pub nodes: u64,
}

/// Another life that has, or had, this node's id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherLife {
    /// Its epoch.
    pub epoch: u64,
    /// Its machine.
    pub host: String,
    /// Its process there.
    pub pid: String,
    /// When it started.
    pub started_at: String,
    /// Whether its lease has not ended.
    pub is_leased: bool,
}

/// With what a write is fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The epoch; 0 takes a new one.
    pub epoch: u64,
    /// The highest epoch that this life has had: a new one is higher.
    pub highest: u64,
    /// The number of the write.
    pub seq: u64,
}

/// What Redis answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The counts are written.
    Written {
        /// Under which epoch.
        epoch: u64,
        /// The sums with them.
        cluster: Cluster,
        /// Whose place was taken.
        instead_of: Option<OtherLife>,
    },
    /// Not written: the lease had ended, or Redis knows nothing of this node any more.
    Lapsed,
    /// Not written: a later write was.
    Stale {
        /// Its number.
        seq: u64,
    },
    /// Not written: this life has a newer epoch, which one of its lost requests took.
    Renewed,
    /// Not written: another life has the id.
    Fenced(OtherLife),
}

impl Answer {
    /// Reads the fields of a script's reply; `None` if it is none.
    pub fn read(fields: &[String]) -> Option<Self> {
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        let other = |from: usize| {
            Some(OtherLife {
                epoch: number(from)?,
                is_leased: fields.get(from + 1)? == "1",
                host: clipped(fields.get(from + 2)?),
                pid: clipped(fields.get(from + 3)?),
                started_at: clipped(fields.get(from + 4)?),
            })
        };
        match fields.first()?.as_str() {
            "written" => Some(Self::Written {
                epoch: number(1)?,
                cluster: Cluster {
                    connections: number(2)?,
                    peak: number(3)?,
                    connection_ms: number(4)?,
                    nodes: number(5)?,
                },
                instead_of: if fields.len() > 6 { Some(other(6)?) } else { None },
            }),
            "lapsed" => Some(Self::Lapsed),
            "stale" => Some(Self::Stale { seq: number(1)? }),
            "renewed" => Some(Self::Renewed),
            "fenced" => Some(Self::Fenced(other(1)?)),
            _ => None,
        }
    }
}

/// A name as it stands in Redis, no longer than one that a node writes.
fn clipped(name: &str) -> String {
    name.chars().take(REDIS_NAME_CHARS).collect()
}

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The counts are in.
    Accepted(Cluster),
    /// Take a new epoch at once: nobody else has the id.
    TakeAgain,
    /// Somebody else who lives has the id.
    Conflict(OtherLife),
}

/// Under which epoch this life writes, and how often it has.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    epoch: u64,
    highest: u64,
    seq: u64,
}

impl Standing {
    /// The epoch that this life has; 0 if none.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The fence of the next write.
    pub fn next_fence(&mut self) -> Fence {
        self.seq += 1;
        Fence { epoch: self.epoch, highest: self.highest, seq: self.seq }
    }

    /// What the answer to the last write means.
    pub fn heard(&mut self, answer: Answer) -> Verdict {
        match answer {
            Answer::Written { epoch, cluster, .. } => {
                (self.epoch, self.highest) = (epoch, epoch);
                return Verdict::Accepted(cluster);
            }
            Answer::Fenced(other) if other.is_leased => {
                self.forget_epoch(other.epoch);
                return Verdict::Conflict(other);
            }
            Answer::Fenced(other) => self.forget_epoch(other.epoch),
            // A number that Redis has seen, of a life that was never answered: a new epoch is
            // taken with the number after it.
            Answer::Stale { seq } => {
                self.seq = self.seq.max(seq.min(NUMBER_MAX));
                self.forget_epoch(0);
            }
            Answer::Lapsed | Answer::Renewed => self.forget_epoch(0),
        }
        Verdict::TakeAgain
    }

    fn forget_epoch(&mut self, seen: u64) {
        self.highest = self.highest.max(self.epoch).max(seen).min(NUMBER_MAX);
        self.epoch = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn written(epoch: u64) -> Answer {
        Answer::Written { epoch, cluster: Cluster::default(), instead_of: None }
    }

    #[test]
    fn replies_are_read_and_nonsense_is_not() {
        let cluster = Cluster { connections: 5, peak: 9, connection_ms: 1_000, nodes: 2 };
        assert_eq!(
            Answer::read(&fields("written 3 5 9 1000 2")),
            Some(Answer::Written { epoch: 3, cluster, instead_of: None })
        );
        let other = OtherLife {
            epoch: 2,
            host: "a".into(),
            pid: "7".into(),
            started_at: "then".into(),
            is_leased: true,
        };
        assert_eq!(
            Answer::read(&fields("written 3 5 9 1000 2 2 1 a 7 then")),
            Some(Answer::Written { epoch: 3, cluster, instead_of: Some(other.clone()) })
        );
        assert_eq!(Answer::read(&fields("fenced 2 1 a 7 then")), Some(Answer::Fenced(other)));
        assert_eq!(Answer::read(&fields("lapsed")), Some(Answer::Lapsed));
        assert_eq!(Answer::read(&fields("stale 9")), Some(Answer::Stale { seq: 9 }));
        let long = "x".repeat(10_000);
        let Some(Answer::Fenced(other)) =
            Answer::read(&fields(&format!("fenced 2 1 {long} 7 then")))
        else {
            panic!("not read")
        };
        assert_eq!(other.host.len(), REDIS_NAME_CHARS);
        for nonsense in
            ["", "written", "written 1 2 3 4", "written 1 2 3 4 x", "fenced 2 1 a", "stale", "OK"]
        {
            assert_eq!(Answer::read(&fields(nonsense)), None, "{nonsense}");
        }
        assert_eq!(Answer::read(&[]), None);
    }

    #[test]
    fn every_write_has_a_number_of_its_own_and_the_epoch_that_was_given() {
        let mut standing = Standing::default();
        assert_eq!(standing.next_fence(), Fence { epoch: 0, highest: 0, seq: 1 });
        assert_eq!(standing.heard(written(4)), Verdict::Accepted(Cluster::default()));
        assert_eq!(standing.next_fence(), Fence { epoch: 4, highest: 4, seq: 2 });
        // No answer: the number is used up all the same.
        assert_eq!(standing.next_fence(), Fence { epoch: 4, highest: 4, seq: 3 });
    }

    #[test]
    fn who_is_fenced_takes_a_higher_epoch_and_says_who_was_there_if_it_lives() {
        let mut standing = Standing::default();
        standing.heard(written(4));
        let mut other = OtherLife { epoch: 6, is_leased: true, ..OtherLife::default() };
        let verdict = standing.heard(Answer::Fenced(other.clone()));
        assert_eq!(verdict, Verdict::Conflict(other.clone()));
        assert_eq!(standing.next_fence(), Fence { epoch: 0, highest: 6, seq: 1 });
        standing.heard(written(7));
        (other.is_leased, other.epoch) = (false, 8);
        assert_eq!(standing.heard(Answer::Fenced(other)), Verdict::TakeAgain);
        assert_eq!(standing.next_fence(), Fence { epoch: 0, highest: 8, seq: 2 });
    }

    #[test]
    fn a_lapsed_lease_is_taken_again_under_a_higher_epoch() {
        for answer in [Answer::Lapsed, Answer::Stale { seq: 1 }, Answer::Renewed] {
            let mut standing = Standing::default();
            standing.heard(written(4));
            assert_eq!(standing.heard(answer), Verdict::TakeAgain);
            let seq = standing.next_fence().seq;
            assert!((1..=2).contains(&seq), "{seq}");
            assert_eq!(standing.next_fence(), Fence { epoch: 0, highest: 4, seq: seq + 1 });
        }
    }

    proptest! {
        /// What Redis says of epochs and numbers keeps no node from writing: the next fence has a
        /// number above all that it said, and neither ends.
        #[test]
        fn whatever_redis_says_there_is_a_next_write(
            answers in prop::collection::vec((0..6_u8, any::<u64>()), 0..50),
        ) {
            let mut standing = Standing::default();
            for (kind, number) in answers {
                let other = OtherLife {
                    epoch: number,
                    is_leased: kind == 5,
                    ..OtherLife::default()
                };
                let before = standing.next_fence();
                standing.heard(match kind {
                    0 => written(number),
                    1 => Answer::Lapsed,
                    2 => Answer::Stale { seq: number },
                    3 => Answer::Renewed,
                    _ => Answer::Fenced(other),
                });
                let next = standing.next_fence();
                prop_assert!(next.seq > before.seq && next.seq <= NUMBER_MAX + 200);
                prop_assert!(next.highest <= NUMBER_MAX.max(next.epoch));
                if kind == 2 {
                    prop_assert!(next.seq > number.min(NUMBER_MAX));
                }
            }
        }
    }
}
