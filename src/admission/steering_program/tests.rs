//! The program runs here in an interpreter that refuses what the kernel refuses, on packets as
//! they arrive; `tests/admission/steering.rs` runs it in the kernel.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;

/// A packet from `source`: the IP header and the ports behind it.
fn packet(source: IpAddr, port: u16, option_words: u8) -> Vec<u8> {
    let mut packet = match source {
        IpAddr::V4(v4) => {
            let mut header = vec![0x40 | (5 + option_words); 1];
            header.resize(12, 0xaa);
            header.extend(v4.octets());
            header.resize(20 + 4 * usize::from(option_words), 0xbb);
            header
        }
        IpAddr::V6(v6) => {
            let mut header = vec![0x60; 8];
            header.extend(v6.octets());
            header.resize(40, 0xcc);
            header
        }
    };
    packet.extend(port.to_be_bytes());
    packet.extend([0x1f, 0x90]);
    packet
}

/// The answer of the program, as the kernel's interpreter would find it.
fn run(program: &[Instruction], packet: &[u8]) -> u32 {
    let (mut a, mut x, mut memory) = (0_u32, 0_u32, [None; 16]);
    let byte = |at: u32| u32::from(packet[at.wrapping_sub(NETWORK_HEADER) as usize]);
    let half = |at: u32| byte(at) << 8 | byte(at + 1);
    let mut next = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[next];
        next += 1;
        match code {
            LOAD_BYTE => a = byte(k),
            LOAD_HALF => a = half(k),
            LOAD_HALF_AT_X => a = half(k.wrapping_add(x)),
            LOAD_WORD => a = half(k) << 16 | half(k + 2),
            LOAD_HEADER_LENGTH => x = 4 * (byte(k) & 15),
            LOAD_NUMBER => a = k,
            LOAD => a = memory[k as usize].unwrap(),
            LOAD_X => x = memory[k as usize].unwrap(),
            STORE => memory[k as usize] = Some(a),
            ADD => a = a.wrapping_add(k),
            MULTIPLY => a = a.wrapping_mul(k),
            SHIFT_RIGHT => a = a.checked_shr(k).unwrap(),
            REMAINDER => a = a.checked_rem(k).unwrap(),
            AND => a &= k,
            XOR => a ^= k,
            XOR_X => a ^= x,
            COPY_TO_X => x = a,
            JUMP => next += k as usize,
            JUMP_IF_EQUAL => next += usize::from(if a == k { jt } else { jf }),
            RETURN => return a,
            _ => panic!("{code:#x}"),
        }
    }
}

/// The same numbers each time (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn address(&mut self) -> IpAddr {
        let (upper, lower) = (self.next(), self.next());
        match upper & 1 {
            0 => Ipv4Addr::from_bits(lower as u32).into(),
            _ => Ipv6Addr::from_bits((u128::from(upper) << 64) | u128::from(lower)).into(),
        }
    }
}

fn blocks(written: &[&str]) -> Vec<IpNet> {
    written.iter().map(|block| block.parse().unwrap()).collect()
}

#[test]
fn the_kernel_finds_the_owner_that_the_shards_find() {
    let mut numbers = Numbers(1);
    let mut compared = 0;
    for shards in [1, 2, 3, 8, 53, 255, 1024] {
        for (v4, v6) in [(32, 64), (24, 48), (31, 63), (1, 33), (17, 32), (8, 1), (0, 0)] {
            let owners = Owners::new(shards, numbers.next() as u32);
            let prefixes = Prefixes::new(v4, v6).unwrap();
            let program = steering_program(owners, prefixes, &[]);
            for _ in 0..3_000 {
                let (source, port) = (numbers.address(), numbers.next() as u16);
                let found = run(&program, &packet(source, port, port as u8 % 11)) as usize;
                let expected = owners.of(prefixes.key(source));
                assert_eq!(found, expected, "{source} of {shards} shards, /{v4} and /{v6}");
                compared += 1;
            }
        }
    }
    assert!(compared >= 100_000);
}

#[test]
fn a_trusted_proxy_is_spread_by_its_ports_and_nobody_else_is() {
    let spread = blocks(&[
        "10.0.0.0/8",
        "192.0.2.7/32",
        "127.0.0.0/31",
        "2001:db8::/32",
        "fd00::/7",
        "2001:db9:1:2::/64",
        "2001:db9:1:3:8000::/65",
        "2001:db9::7/128",
        "2001:db9:0:0:1::/80",
    ]);
    let prefixes = Prefixes::new(24, 56).unwrap();
    let owners = Owners::new(255, 3);
    let program = steering_program(owners, prefixes, &spread);
    let mut numbers = Numbers(2);
    let mut met = [0; 2];
    for _ in 0..100_000 {
        let block = spread[numbers.next() as usize % spread.len()];
        // In a block, or next to one: an address of it with one bit flipped.
        let (flip, random) = (numbers.next() as u32, numbers.next());
        let source = match block {
            IpNet::V4(block) => {
                let inside =
                    block.network().to_bits() | (random as u32 & block.hostmask().to_bits());
                IpAddr::from(Ipv4Addr::from_bits(
                    inside ^ 1_u32.checked_shl(flip % 64).unwrap_or(0),
                ))
            }
            IpNet::V6(block) => {
                let random = u128::from(random) << 64 | u128::from(numbers.next());
                let inside = block.network().to_bits() | (random & block.hostmask().to_bits());
                let bit = 1_u128.checked_shl(flip % 256).unwrap_or(0);
                IpAddr::from(Ipv6Addr::from_bits(inside ^ bit))
            }
        };
        let port = numbers.next() as u16;
        let trusted = spread.iter().any(|block| block.contains(&source));
        let key = prefixes.key(source);
        let expected = if trusted { owners.of_connection(key, port) } else { owners.of(key) };
        let found = run(&program, &packet(source, port, port as u8 % 11));
        assert_eq!(found as usize, expected, "{source}, port {port}");
        met[usize::from(trusted)] += 1;
    }
    assert!(met.iter().all(|count| *count > 10_000), "{met:?}");
}

#[test]
fn everybody_can_be_a_proxy() {
    let owners = Owners::new(53, 4);
    let program = steering_program(owners, Prefixes::default(), &blocks(&["0.0.0.0/0", "::/0"]));
    let mut numbers = Numbers(3);
    for _ in 0..1_000 {
        let (source, port) = (numbers.address(), numbers.next() as u16);
        let expected = owners.of_connection(Prefixes::default().key(source), port);
        assert_eq!(run(&program, &packet(source, port, 0)) as usize, expected);
    }
}

#[test]
fn proxies_beyond_the_longest_program_are_steered_like_anybody() {
    let mut numbers = Numbers(4);
    let spread: Vec<_> = (0..3_000_u32)
        .map(|n| match n % 2 {
            0 => IpNet::new(Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 31).unwrap(),
            _ => IpNet::new(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n)).into(), 127)
                .unwrap()
                .trunc(),
        })
        .collect();
    let owners = Owners::new(8, 5);
    let program = steering_program(owners, Prefixes::default(), &spread);
    assert!(program.len() <= STEERING_INSTRUCTIONS);
    assert!(program.len() > STEERING_INSTRUCTIONS - 20, "{}", program.len());
    let is_spread = |block: &IpNet| {
        let source = block.network();
        let key = Prefixes::default().key(source);
        (0..64).all(|port| {
            let found = run(&program, &packet(source, port, 0)) as usize;
            found == owners.of_connection(key, port)
        })
    };
    let spread_ones = spread.iter().filter(|block| is_spread(block)).count();
    assert!((400..1_000).contains(&spread_ones), "{spread_ones}");
    assert!(spread[..spread_ones].iter().all(is_spread), "the first ones");
    for _ in 0..1_000 {
        let source = numbers.address();
        let found = run(&program, &packet(source, 1, 0)) as usize;
        assert_eq!(found, owners.of(Prefixes::default().key(source)), "{source}");
    }
}

#[test]
fn what_cannot_arrive_meets_some_shard() {
    let program = steering_program(Owners::new(3, 6), Prefixes::default(), &[]);
    for source in ["::ffff:192.0.2.1", "::", "ff02::1", "255.255.255.255"] {
        let ip: IpAddr = source.parse().unwrap();
        assert!(run(&program, &packet(ip, 1, 0)) < 3, "{source}");
    }
}
