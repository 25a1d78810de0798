//! Where a key lies: its slot, its token, and the shard that owns both.
//!
//! ```text
//!   63            50 49                                              0
//!  +----------------+-------------------------------------------------+
//!  | slot           | keyed hash of the whole key                     |   a token
//!  +----------------+-------------------------------------------------+
//! ```
//!
//! The slot is that of Redis Cluster: CRC-16 of the key's hash tag, of 14 bits. Keys of one hash tag
//! share a slot, hence a shard, a core and a replica set. The other bits are of XXH3-64, keyed with
//! the [`TokenKey`], so that nobody who chooses keys chooses their places within a slot.

mod crc16;
mod shard;

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64_with_secret, xxh3_64_with_seed};

pub use self::shard::{ShardId, ShardRange};

/// Slots, as in Redis Cluster.
pub const SLOT_COUNT: u16 = 1 << SLOT_BITS;

/// Bits of a slot's number.
pub const SLOT_BITS: u32 = 14;

/// Bits of a token below those of its slot.
const HASH_BITS: u32 = 64 - SLOT_BITS;

/// XXH3's own secret has as many bytes; fewer than 136 are refused.
const SECRET_BYTES: usize = 192;

/// The unit of everything that is decided or counted by range: one of [`SLOT_COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The slot of that number; `None` from [`SLOT_COUNT`] on.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < SLOT_COUNT { Some(Self(number)) } else { None }
    }

    /// The slot of a key, or of its hash tag: what stands between the first `{` and the first `}`
    /// behind it, unless that is nothing (Redis Cluster specification, "Hash tags").
    #[must_use]
    #[inline]
    pub fn of(key: &[u8]) -> Self {
        Self(crc16::crc16(hash_tag(key)) & (SLOT_COUNT - 1))
    }

    /// Its number, below [`SLOT_COUNT`].
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Its first token.
    #[must_use]
    pub const fn first(self) -> Token {
        Token((self.0 as u64) << HASH_BITS)
    }

    /// Its last token.
    #[must_use]
    pub const fn last(self) -> Token {
        Token(self.first().0 | ((1 << HASH_BITS) - 1))
    }

    /// All slots, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOT_COUNT).map(Self)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The part of a key that its slot is made of.
fn hash_tag(key: &[u8]) -> &[u8] {
    if !has_brace(key) {
        return key;
    }
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let behind = &key[open + 1..];
    match behind.iter().position(|byte| *byte == b'}') {
        Some(0) | None => key,
        Some(len) => &behind[..len],
    }
}

/// Whether there is a `{`: all bytes are looked at, which takes fewer instructions than to stop early.
#[inline]
fn has_brace(key: &[u8]) -> bool {
    let (words, rest) = key.as_chunks::<16>();
    let is_brace = |found: bool, byte: &u8| found | (*byte == b'{');
    words.iter().fold(false, |found, word| found | word.iter().fold(false, is_brace))
        | rest.iter().fold(false, is_brace)
}

/// A place in the token space: 14 bits of slot, 50 bits of a keyed hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl Token {
    /// The first token.
    pub const MIN: Self = Self(0);
    /// The last token.
    pub const MAX: Self = Self(u64::MAX);

    /// The slot that the token lies in.
    #[must_use]
    #[inline]
    pub const fn slot(self) -> Slot {
        Slot((self.0 >> HASH_BITS) as u16)
    }

    /// The token after this one, if there is one.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        match self.0.checked_add(1) {
            Some(token) => Some(Self(token)),
            None => None,
        }
    }
}

/// The secret from which tokens are made: a data directory's; in a cluster, the topology's. Cheap to
/// clone.
///
/// XXH3-64 without a secret is easily made to collide: its authors document inputs of 17 to 240 bytes
/// that do so without limit. With one that is not known, nobody can say which keys lie close together.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKey(Arc<Expanded>);

#[derive(PartialEq, Eq)]
struct Expanded {
    secret: [u8; TokenKey::BYTES],
    /// What XXH3 is keyed with.
    hash_secret: [u8; SECRET_BYTES],
    seed: u64,
    id: u64,
}

impl TokenKey {
    /// Size of the secret.
    pub const BYTES: usize = 16;

    /// The key that follows from a secret, which should be drawn at random.
    #[must_use]
    pub fn new(secret: [u8; Self::BYTES]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("gridkv 2026 tokens");
        hasher.update(&secret);
        let mut output = hasher.finalize_xof();
        let (mut hash_secret, mut seed, mut id) = ([0; SECRET_BYTES], [0; 8], [0; 8]);
        output.fill(&mut hash_secret);
        output.fill(&mut seed);
        output.fill(&mut id);
        let (seed, id) = (u64::from_le_bytes(seed), u64::from_le_bytes(id));
        Self(Arc::new(Expanded { secret, hash_secret, seed, id }))
    }

    /// The secret.
    #[must_use]
    pub fn secret(&self) -> [u8; Self::BYTES] {
        self.0.secret
    }

    /// Tells the key from others without giving it away.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The token of a database key.
    #[must_use]
    #[inline]
    pub fn token(&self, key: &[u8]) -> Token {
        let hash = xxh3_64_with_secret(key, &self.0.hash_secret);
        Token(Slot::of(key).first().0 | hash >> SLOT_BITS)
    }

    /// Another hash of a database key, independent of its token: tells keys of one token apart.
    #[must_use]
    #[inline]
    pub fn fingerprint(&self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.0.seed)
    }
}

impl fmt::Debug for TokenKey {
    /// A secret does not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // From the specification, and from `CLUSTER KEYSLOT` of valkey 8.
        for (key, slot) in [
            (&b"123456789"[..], 0x31c3),
            (b"", 0),
            (b"foo", 12_182),
            (b"somekey", 11_058),
            (b"foo{hash_tag}", 2_515),
            (b"bar{hash_tag}", 2_515),
        ] {
            assert_eq!(Slot::of(key).number(), slot, "{}", String::from_utf8_lossy(key));
        }
        assert_eq!(Slot::of(b"{user1000}.following"), Slot::of(b"{user1000}.followers"));
        assert_eq!(Slot::of(b"foo{}{bar}"), Slot(crc16::crc16(b"foo{}{bar}") & 0x3fff));
        assert_eq!(Slot::of(b"foo{{bar}}zap"), Slot::of(b"{bar"));
        assert_eq!(Slot::of(b"foo{bar}{zap}"), Slot::of(b"bar"));
        assert_eq!(Slot::of(b"{open"), Slot(crc16::crc16(b"{open") & 0x3fff));
    }

    #[test]
    fn a_token_begins_with_the_slot_of_its_key() {
        let key = TokenKey::new([7; 16]);
        for number in 0..1_000_u32 {
            let name = format!("user:{{{}}}:{number}", number % 7);
            let token = key.token(name.as_bytes());
            assert_eq!(token.slot(), Slot::of(name.as_bytes()));
            assert!((token.slot().first()..=token.slot().last()).contains(&token));
        }
    }

    #[test]
    fn keys_of_one_tag_have_tokens_of_their_own_and_another_secret_gives_others() {
        let (one, other) = (TokenKey::new([1; 16]), TokenKey::new([2; 16]));
        let keys: Vec<String> = (0..10_000).map(|number| format!("{{tag}}{number}")).collect();
        let tokens = |key: &TokenKey| -> BTreeSet<Token> {
            keys.iter().map(|name| key.token(name.as_bytes())).collect()
        };
        assert_eq!(tokens(&one).len(), keys.len());
        assert!(tokens(&one).is_disjoint(&tokens(&other)));
        assert_ne!(one.id(), other.id());
        assert_eq!(format!("{one:?}"), "TokenKey(..)");
    }

    /// XXH3-64 multiplies pairs of words that were mixed with its secret: where one of a pair is the
    /// default secret's own word, the product is zero whatever the other is.
    #[test]
    fn keys_that_collide_without_a_secret_do_not_with_one() {
        let colliding = collisions(10_000);
        let plain: BTreeSet<u64> =
            colliding.iter().map(|key| xxhash_rust::xxh3::xxh3_64(key)).collect();
        assert_eq!(plain.len(), 1, "they collide in plain XXH3-64");
        let key = TokenKey::new([3; 16]);
        let tokens: BTreeSet<u64> =
            colliding.iter().map(|name| key.token(name).0 << SLOT_BITS).collect();
        assert_eq!(tokens.len(), colliding.len());
    }

    /// Keys of 32 bytes with one XXH3-64: they begin with the default secret's first word.
    fn collisions(count: u64) -> Vec<Vec<u8>> {
        let first_word = [0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe];
        let key = |number: u64| [first_word, number.to_le_bytes(), [7; 8], [9; 8]].concat();
        (0..count).map(key).collect()
    }
}
