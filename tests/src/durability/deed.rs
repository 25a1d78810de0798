//! Random writes: small and large values, deletions, values that expire, counters.

use std::time::Duration;

use fastrand::Rng;

/// The keys of a client, by index: first those with texts, then those with numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    /// How many hold texts.
    pub text_count: usize,
    /// How many hold numbers.
    pub number_count: usize,
}

impl Keys {
    /// All of them.
    #[must_use]
    pub fn count(&self) -> usize {
        self.text_count + self.number_count
    }

    /// Whether a key holds a number.
    #[must_use]
    pub fn is_number(&self, key: usize) -> bool {
        assert!(key < self.count());
        key >= self.text_count
    }
}

/// What a key of a client is called.
#[must_use]
pub fn key_name(client: u16, key: usize) -> Vec<u8> {
    format!("client:{client}:{key}").into_bytes()
}

/// What is done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Gives it a text.
    Set {
        /// Bytes of the value behind its head.
        filler_len: usize,
        /// How long it lives; for good without.
        life: Option<Duration>,
    },
    /// Removes it.
    Delete,
    /// Counts one up. Only for keys with numbers.
    Increment,
}

/// A random key and deed.
pub fn draw(rng: &mut Rng, keys: Keys) -> (usize, Deed) {
    let key = rng.usize(..keys.count());
    let deed = match rng.u8(..100) {
        0..15 => Deed::Delete,
        _ if keys.is_number(key) => Deed::Increment,
        kind => Deed::Set { filler_len: filler_len(rng), life: life(rng, kind) },
    };
    (key, deed)
}

/// Some die before they are looked at, some while they are, some never within a run.
fn life(rng: &mut Rng, kind: u8) -> Option<Duration> {
    let millis = match kind {
        15..20 => rng.u64(1..100),
        20..25 => rng.u64(500..3_000),
        25..30 => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(millis))
}

fn filler_len(rng: &mut Rng) -> usize {
    match rng.u8(..100) {
        0..50 => rng.usize(..100),
        50..85 => rng.usize(100..2_000),
        85..97 => rng.usize(4_000..12_000),
        _ => rng.usize(80_000..200_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_write_is_drawn_and_only_numbers_are_counted() {
        let keys = Keys { text_count: 20, number_count: 5 };
        let mut rng = Rng::with_seed(1);
        let drawn: Vec<_> = std::iter::repeat_with(|| draw(&mut rng, keys)).take(5_000).collect();
        for (key, deed) in &drawn {
            match deed {
                Deed::Set { .. } => assert!(!keys.is_number(*key)),
                Deed::Increment => assert!(keys.is_number(*key)),
                Deed::Delete => {}
            }
        }
        let is_drawn = |kind: fn(&Deed) -> bool| drawn.iter().any(|(_, deed)| kind(deed));
        assert!(is_drawn(|it| *it == Deed::Increment));
        assert!(is_drawn(|it| *it == Deed::Delete));
        assert!(is_drawn(|it| matches!(it, Deed::Set { life: Some(_), .. })));
        assert!(is_drawn(|it| matches!(it, Deed::Set { filler_len: 100_000.., .. })));
    }
}
