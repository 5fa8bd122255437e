//! The program by which the kernel gives a connection to the shard that owns its source.
//!
//! Classic BPF, as plain numbers: what it computes from the packet that opens a connection is
//! what [`Owners::of`] computes from the address. Its answer is an index into the listeners of a
//! SO_REUSEPORT group in the order in which they began to listen; one that no listener has makes
//! the kernel choose by its own hash. Not here: handing it to the kernel (`sys::steering`).
//!
//! Nothing depends on it being right. A connection that arrives elsewhere costs its shard a
//! question to the owner, so these are left as they fall: an IPv6 packet from an IPv4-mapped
//! address, which the kernel drops (RFC 4942 section 2.2), and trusted proxies beyond what a
//! program has room for.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::owner::{MULTIPLIERS, Owners, SHIFTS};
use super::source_address::Prefixes;
use crate::limits::STEERING_INSTRUCTIONS;

/// One instruction, as `struct sock_filter` of linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip if a condition holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

// Operations of linux/bpf_common.h. A is the accumulator, X the index, M the memory.
const LOAD_WORD: u16 = 0x20; // A = packet[k..k + 4]
const LOAD_BYTE: u16 = 0x30; // A = packet[k]
const LOAD_HALF: u16 = 0x28; // A = packet[k..k + 2]
const LOAD_HALF_AT_X: u16 = 0x48; // A = packet[X + k..X + k + 2]
const LOAD_HEADER_LENGTH: u16 = 0xb1; // X = 4 * (packet[k] & 15)
const LOAD: u16 = 0x60; // A = M[k]
const LOAD_X: u16 = 0x61; // X = M[k]
const LOAD_NUMBER: u16 = 0x00; // A = k
const STORE: u16 = 0x02; // M[k] = A
const ADD: u16 = 0x04; // A += k
const MULTIPLY: u16 = 0x24; // A *= k
const SHIFT_RIGHT: u16 = 0x74; // A >>= k
const REMAINDER: u16 = 0x94; // A %= k
const AND: u16 = 0x54; // A &= k
const XOR: u16 = 0xa4; // A ^= k
const XOR_X: u16 = 0xac; // A ^= X
const COPY_TO_X: u16 = 0x07; // X = A
const JUMP: u16 = 0x05; // skip k
const JUMP_IF_EQUAL: u16 = 0x15; // skip jt if A == k, jf if not
const RETURN: u16 = 0x16; // the answer is A

/// Where the IP header begins (SKF_NET_OFF). The packet by itself begins behind the TCP header,
/// whose length varies.
const NETWORK_HEADER: u32 = 0xfff0_0000;
const V4_SOURCE: u32 = NETWORK_HEADER + 12;
const V6_SOURCE: u32 = NETWORK_HEADER + 8;
/// Behind an IPv6 header without extensions stands the TCP header, which begins with the source
/// port. Where there are extensions it is their first bytes that spread a proxy's connections:
/// perhaps badly, harmful never.
const V6_PORT: u32 = NETWORK_HEADER + 40;

/// Places in M: the halves of a source's key, and the four words of an IPv6 address.
const UPPER: u32 = 0;
const LOWER: u32 = 1;
const V6_WORDS: u32 = 2;

/// The program for these owners. `spread` are the blocks of peers that connect for others (the
/// trusted proxies): such a peer is not a source, so its connections go to all shards, by address
/// and port ([`Owners::of_connection`]). Blocks beyond [`STEERING_INSTRUCTIONS`] are left out,
/// from the end.
pub fn steering_program(owners: Owners, prefixes: Prefixes, spread: &[IpNet]) -> Vec<Instruction> {
    let (v4_mask, v6_mask) = prefixes.masks();
    let mut v4 = Family::v4(v4_mask);
    let mut v6 = Family::v6(v6_mask);
    let choice = choose(owners);
    let mut room = STEERING_INSTRUCTIONS - DISPATCH - v4.len() - LEAVE - v6.len() - choice.len();
    for block in spread {
        let (family, comparison) = match block {
            IpNet::V4(block) => (&mut v4, compare_v4(*block)),
            IpNet::V6(block) => (&mut v6, compare_v6(*block)),
        };
        let Some(left) = room.checked_sub(comparison.len() + LEAVE) else { break };
        room = left;
        family.comparisons.push(comparison);
    }
    let mut program = dispatch(v4.len() + LEAVE);
    v4.write(&mut program);
    program.push(skip(v6.len()));
    v6.write(&mut program);
    program.extend(choice);
    program
}

const DISPATCH: usize = 4;
/// A jump out of something, further than a condition reaches.
const LEAVE: usize = 1;

/// Goes on behind it for IPv4, and `to_v6` further for IPv6.
fn dispatch(to_v6: usize) -> Vec<Instruction> {
    let program = vec![
        op(LOAD_BYTE, NETWORK_HEADER),
        op(SHIFT_RIGHT, 4),
        Instruction { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: 6 },
        skip(to_v6),
    ];
    debug_assert_eq!(program.len(), DISPATCH);
    program
}

/// What is done with a packet of one family, up to the halves of its key in M.
struct Family {
    /// Takes the address out of the packet.
    address: Vec<Instruction>,
    /// One for each spread block; runs through to its end if the address is in the block, and
    /// skips one more instruction if not.
    comparisons: Vec<Vec<Instruction>>,
    /// A = the source port.
    port: Vec<Instruction>,
    /// Makes the key of the address, with A, a port or 0, in its upper half.
    key: Vec<Instruction>,
}

impl Family {
    fn v4(mask: u32) -> Self {
        let mut key = vec![op(XOR, u32::MAX), op(STORE, UPPER), op(LOAD, LOWER)];
        key.extend(and(mask));
        key.push(op(STORE, LOWER));
        Self {
            address: vec![op(LOAD_WORD, V4_SOURCE), op(STORE, LOWER)],
            comparisons: Vec::new(),
            port: vec![op(LOAD_HEADER_LENGTH, NETWORK_HEADER), op(LOAD_HALF_AT_X, NETWORK_HEADER)],
            key,
        }
    }

    fn v6(mask: u64) -> Self {
        let words = 0..4;
        let load = |n| [op(LOAD_WORD, V6_SOURCE + 4 * n), op(STORE, V6_WORDS + n)];
        let mut key = vec![op(COPY_TO_X, 0), op(LOAD, V6_WORDS)];
        key.extend(and((mask >> 32) as u32));
        key.extend([op(XOR_X, 0), op(STORE, UPPER), op(LOAD, V6_WORDS + 1)]);
        key.extend(and(mask as u32));
        key.push(op(STORE, LOWER));
        Self {
            address: words.flat_map(load).collect(),
            comparisons: Vec::new(),
            port: vec![op(LOAD_HALF, V6_PORT)],
            key,
        }
    }

    fn len(&self) -> usize {
        let comparisons: usize = self.comparisons.iter().map(|each| each.len() + LEAVE).sum();
        self.address.len() + comparisons + NO_PORT + self.port.len() + self.key.len()
    }

    fn write(self, program: &mut Vec<Instruction>) {
        let mut ahead: usize = self.comparisons.iter().map(|each| each.len() + LEAVE).sum();
        program.extend(self.address);
        for comparison in self.comparisons {
            ahead -= comparison.len() + LEAVE;
            program.extend(comparison);
            program.push(skip(ahead + NO_PORT));
        }
        program.extend([op(LOAD_NUMBER, 0), skip(self.port.len())]);
        program.extend(self.port);
        program.extend(self.key);
    }
}

/// Instructions that stand for the port of an address in no spread block.
const NO_PORT: usize = 2;

fn compare_v4(block: Ipv4Net) -> Vec<Instruction> {
    compare([(LOWER, block.netmask().to_bits(), block.network().to_bits())])
}

fn compare_v6(block: Ipv6Net) -> Vec<Instruction> {
    let word = |address: u128, n: u32| (address >> (96 - 32 * n)) as u32;
    let (mask, network) = (block.netmask().to_bits(), block.network().to_bits());
    compare([0, 1, 2, 3].map(|n| (V6_WORDS + n, word(mask, n), word(network, n))))
}

/// Compares words of the address, each by its place, the bits that count and their value.
fn compare<const N: usize>(words: [(u32, u32, u32); N]) -> Vec<Instruction> {
    let mut steps = Vec::new();
    for (place, mask, value) in words.into_iter().filter(|(_, mask, _)| *mask != 0) {
        steps.push(op(LOAD, place));
        steps.extend(and(mask));
        steps.push(op(JUMP_IF_EQUAL, value));
    }
    let len = steps.len();
    let conditions = steps.iter_mut().enumerate().filter(|(_, step)| step.code == JUMP_IF_EQUAL);
    // At most four words of three steps: far below what 8 bits hold.
    conditions.for_each(|(at, step)| step.jf = (len - at) as u8);
    steps
}

/// [`Owners::of`] of the key in M, as the answer.
fn choose(owners: Owners) -> Vec<Instruction> {
    let [first, second] = owners.keys();
    let mut steps = vec![op(LOAD, UPPER), op(ADD, first)];
    steps.extend(mix());
    steps.extend([op(LOAD_X, LOWER), op(XOR_X, 0), op(ADD, second)]);
    steps.extend(mix());
    steps.extend([op(REMAINDER, owners.shards()), op(RETURN, 0)]);
    steps
}

fn mix() -> Vec<Instruction> {
    let fold = |shift| [op(COPY_TO_X, 0), op(SHIFT_RIGHT, shift), op(XOR_X, 0)];
    let mut steps = Vec::from(fold(SHIFTS[0]));
    for (multiplier, shift) in MULTIPLIERS.into_iter().zip([SHIFTS[1], SHIFTS[2]]) {
        steps.push(op(MULTIPLY, multiplier));
        steps.extend(fold(shift));
    }
    steps
}

/// A mask of all bits needs no instruction.
fn and(mask: u32) -> Option<Instruction> {
    (mask != u32::MAX).then_some(op(AND, mask))
}

fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

fn skip(instructions: usize) -> Instruction {
    op(JUMP, instructions as u32)
}

#[cfg(test)]
mod tests;
