//! Randomness: each part of the world draws from its own stream of the seed, so that a new draw in
//! one leaves the others as they were.

use fastrand::Rng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The stream of that name.
pub(super) fn stream(seed: u64, name: &str) -> Rng {
    Rng::with_seed(seed_of(seed, name, 0))
}

/// The seed of the `number`th of that name.
pub(super) fn seed_of(seed: u64, name: &str, number: u64) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), xxh3_64_with_seed(&number.to_le_bytes(), seed))
}
