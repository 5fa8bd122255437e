//! DEFLATE (RFC 1951) read a bit at a time, for comparison: slow, and simple enough to be believed.

/// What [`inflate`] made of its input.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inflated {
    pub(super) bytes: Vec<u8>,
    /// How far back any copy looked.
    pub(super) furthest: usize,
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Option<u32> {
        let byte = *self.bytes.get(self.at / 8)?;
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        Some(u32::from(bit))
    }

    fn number(&mut self, bits: u32) -> Option<usize> {
        let mut number = 0;
        for position in 0..bits {
            number |= self.bit()? << position;
        }
        Some(number as usize)
    }
}

/// A Huffman code: how many symbols there are of each length, and the symbols in the order of their
/// codes (RFC 1951 section 3.2.2).
struct Code {
    counts: [usize; 16],
    symbols: Vec<usize>,
}

impl Code {
    fn new(lengths: &[u8]) -> Self {
        let mut counts = [0; 16];
        lengths.iter().for_each(|length| counts[usize::from(*length)] += 1);
        counts[0] = 0;
        let mut symbols: Vec<usize> = (0..lengths.len()).filter(|s| lengths[*s] > 0).collect();
        symbols.sort_by_key(|symbol| lengths[*symbol]);
        Self { counts, symbols }
    }

    fn read(&self, bits: &mut Bits<'_>) -> Option<usize> {
        // The first code of a length, and the place of its symbol.
        let (mut code, mut first, mut place) = (0, 0, 0);
        for count in &self.counts[1..] {
            code = code << 1 | bits.bit()? as usize;
            if (first..first + count).contains(&code) {
                return Some(self.symbols[place + code - first]);
            }
            place += count;
            first = (first + count) << 1;
        }
        None
    }
}

fn codes(bits: &mut Bits<'_>) -> Option<(Code, Code)> {
    const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
    let literals = bits.number(5)? + 257;
    let distances = bits.number(5)? + 1;
    let count = bits.number(4)? + 4;
    let mut lengths = [0; 19];
    for place in &ORDER[..count] {
        lengths[*place] = bits.number(3)? as u8;
    }
    let code = Code::new(&lengths);
    let mut lengths: Vec<u8> = Vec::new();
    while lengths.len() < literals + distances {
        let (value, times) = match code.read(bits)? {
            16 => (*lengths.last()?, bits.number(2)? + 3),
            17 => (0, bits.number(3)? + 3),
            18 => (0, bits.number(7)? + 11),
            length => (length as u8, 1),
        };
        lengths.extend(std::iter::repeat_n(value, times));
    }
    Some((Code::new(&lengths[..literals]), Code::new(&lengths[literals..literals + distances])))
}

fn fixed() -> (Code, Code) {
    let lengths: Vec<u8> = (0..288)
        .map(|symbol| match symbol {
            0..144 => 8,
            144..256 => 9,
            256..280 => 7,
            _ => 8,
        })
        .collect();
    (Code::new(&lengths), Code::new(&[5; 30]))
}

fn copy(bits: &mut Bits<'_>, symbol: usize, distances: &Code, out: &mut Inflated) -> Option<()> {
    const EXTRA: [u32; 29] =
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
    let base = |extra: &dyn Fn(usize) -> u32, first: usize, index: usize| {
        (0..index).fold(first, |sum, i| sum + (1 << extra(i)))
    };
    let index = symbol - 257;
    let extra = *EXTRA.get(index)?;
    let first = if index == 28 { 258 } else { base(&|i| EXTRA[i], 3, index) };
    let length = first + bits.number(extra)?;
    let index = distances.read(bits)?;
    let extra = |i: usize| (i as u32 / 2).saturating_sub(1);
    let distance = base(&extra, 1, index) + bits.number(extra(index))?;
    out.furthest = out.furthest.max(distance);
    for _ in 0..length {
        let byte = *out.bytes.get(out.bytes.len().checked_sub(distance)?)?;
        out.bytes.push(byte);
    }
    Some(())
}

/// The blocks of a message up to where they end; `None` if they are not DEFLATE.
pub(super) fn inflate(payload: &[u8]) -> Option<Inflated> {
    let whole = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut bits = Bits { bytes: &whole, at: 0 };
    let mut out = Inflated { bytes: Vec::new(), furthest: 0 };
    while bits.at.div_ceil(8) < whole.len() {
        let last = bits.bit()? == 1;
        let (literals, distances) = match bits.number(2)? {
            0 => {
                let start = bits.at.div_ceil(8);
                let length = whole.get(start..start + 4)?;
                let len = usize::from(u16::from_le_bytes([length[0], length[1]]));
                out.bytes.extend(whole.get(start + 4..start + 4 + len)?);
                bits.at = 8 * (start + 4 + len);
                continue;
            }
            1 => fixed(),
            2 => codes(&mut bits)?,
            _ => return None,
        };
        loop {
            match literals.read(&mut bits)? {
                256 => break,
                symbol @ 0..256 => out.bytes.push(symbol as u8),
                symbol => copy(&mut bits, symbol, &distances, &mut out)?,
            }
        }
        if last {
            // What follows is another stream, which begins with a byte.
            bits.at = bits.at.next_multiple_of(8);
        }
    }
    Some(out)
}
