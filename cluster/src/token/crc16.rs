//! CRC-16/XMODEM (polynomial 0x1021, nothing reflected, begins and ends with zero), which Redis
//! Cluster makes slots of.
//!
//! # Why own code
//!
//! It stands on the way to every key. Table lookups one byte after the other wait for each other: 100
//! cycles for a key of 16 bytes. Here eight bytes are looked up at once, in as many tables; and since
//! the sum begins with zero, zeros in front change nothing, so the first, shorter piece is filled up
//! with them and no byte goes alone.

/// Bytes taken at once.
const STEP: usize = 8;
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
    let (first, rest) = bytes.split_at(bytes.len() % STEP);
    let mut sum = 0;
    if !first.is_empty() {
        let mut filled = [0; STEP];
        filled[STEP - first.len()..].copy_from_slice(first);
        sum = step(0, filled);
    }
    let (steps, _) = rest.as_chunks::<STEP>();
    steps.iter().fold(sum, |sum, bytes| step(sum, *bytes))
}

#[inline]
fn step(sum: u16, mut bytes: [u8; STEP]) -> u16 {
    let [high, low] = sum.to_be_bytes();
    bytes[0] ^= high;
    bytes[1] ^= low;
    let mut next = 0;
    for (index, byte) in bytes.into_iter().enumerate() {
        next ^= TABLES[STEP - 1 - index][usize::from(byte)];
    }
    next
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
        fn eight_bytes_at_once_give_what_one_bit_after_the_other_gives(bytes: Vec<u8>) {
            prop_assert_eq!(crc16(&bytes), bit_by_bit(&bytes));
        }
    }
}
