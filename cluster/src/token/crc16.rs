//! CRC-16/XMODEM (polynomial 0x1021, nothing reflected, begins and ends with zero), which Redis
//! Cluster makes slots of.
//!
//! # Why own code
//!
//! It stands on the way to every key. Table lookups one byte after the other wait for each other: 100
//! cycles for a key of 16 bytes. Here sixteen bytes are looked up at once, in as many tables; and since
//! the sum begins with zero, zeros in front change nothing, so the first, shorter piece is a smaller
//! number of sixteen bytes, and no byte goes alone.

/// Bytes taken at once.
const STEP: usize = 16;
const POLYNOMIAL: u16 = 0x1021;

/// `TABLES[n][byte]`: what `byte` adds to the sum when `n` bytes follow it.
static TABLES: [[u16; 256]; STEP] = tables();

const fn tables() -> [[u16; 256]; STEP] {
    let mut tables = [[0; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 0x8000 == 0 { sum << 1 } else { sum << 1 ^ POLYNOMIAL };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut follow = 1;
    while follow < STEP {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[follow - 1][byte];
            tables[follow][byte] = before << 8 ^ tables[0][(before >> 8) as usize];
            byte += 1;
        }
        follow += 1;
    }
    tables
}

/// The sum of `bytes`.
#[inline]
pub(super) fn crc16(bytes: &[u8]) -> u16 {
    if bytes.len() <= STEP / 2 {
        return half_step(number_of_half(bytes));
    }
    if bytes.len() <= STEP {
        return step(0, number(bytes));
    }
    let (first, rest) = bytes.split_at(bytes.len() % STEP);
    let (steps, _) = rest.as_chunks::<STEP>();
    let sum = step(0, number(first));
    steps.iter().fold(sum, |sum, bytes| step(sum, u128::from_be_bytes(*bytes)))
}

#[inline]
fn step(sum: u16, bytes: u128) -> u16 {
    let bytes = bytes ^ u128::from(sum) << (u128::BITS - u16::BITS);
    let bytes = bytes.to_le_bytes();
    (of_four(bytes, 0) ^ of_four(bytes, 4)) ^ (of_four(bytes, 8) ^ of_four(bytes, 12))
}

/// The sum of eight bytes: that of most hash tags.
#[inline]
fn half_step(bytes: u64) -> u16 {
    let bytes = bytes.to_le_bytes();
    of_four(bytes, 0) ^ of_four(bytes, 4)
}

/// What four bytes add to the sum, the last of which `at` others follow. Each four are added up by
/// themselves: none waits for another.
#[inline]
fn of_four<const LEN: usize>(bytes: [u8; LEN], at: usize) -> u16 {
    let of = |at: usize| TABLES[at][usize::from(bytes[at])];
    (of(at) ^ of(at + 1)) ^ (of(at + 2) ^ of(at + 3))
}

/// Eight to sixteen bytes as one big-endian number. Its ends are read as words, which may overlap: a copy
/// of some bytes would cost more than the sum.
#[inline]
fn number(bytes: &[u8]) -> u128 {
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) => {
            u128::from(u64::from_be_bytes(*first)) << ((bytes.len() - 8) * 8)
                | u128::from(u64::from_be_bytes(*last))
        }
        _ => u128::from(number_of_half(bytes)),
    }
}

/// At most eight bytes as one big-endian number, likewise.
#[inline]
fn number_of_half(bytes: &[u8]) -> u64 {
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            u64::from(u32::from_be_bytes(*first)) << ((bytes.len() - 4) * 8)
                | u64::from(u32::from_be_bytes(*last))
        }
        _ => bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, a bit at a time.
    fn bit_by_bit(bytes: &[u8]) -> u16 {
        let mut sum = 0_u16;
        for byte in bytes {
            sum ^= u16::from(*byte) << 8;
            for _ in 0..8 {
                sum = if sum & 0x8000 == 0 { sum << 1 } else { sum << 1 ^ POLYNOMIAL };
            }
        }
        sum
    }

    #[test]
    fn the_check_value_of_the_catalogue_comes_out() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    proptest! {
        #[test]
        fn sixteen_bytes_at_once_give_what_one_bit_after_the_other_gives(bytes: Vec<u8>) {
            prop_assert_eq!(crc16(&bytes), bit_by_bit(&bytes));
        }
    }
}
