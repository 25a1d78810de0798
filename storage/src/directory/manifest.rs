//! The manifest of a data directory.
//!
//! ```text
//! format = 2
//! shards = 8
//! segment_bytes = 67108864
//! token_secret = "2b7e151628aed2a6abf7158809cf4f3c"
//! id = "00112233445566778899aabbccddeeff"
//! created_ms = 1795305600000
//! # xxh3 = 0123456789abcdef
//! ```
//!
//! TOML, so that an operator can read it; the last line is a comment with the XXH3-64 of all bytes
//! before it, so that whoever edits it by hand is told. A manifest counts only as a whole: a line
//! that is missing, unknown or out of range is damage.
//!
//! # Why the format is looked at first
//!
//! A program of the future may put other lines here. It keeps `format` and the last line, so that
//! this one can tell what is new from what is broken.

use std::fmt::{self, Write};
use std::path::Path;

use gridkv_cluster::{ShardRange, TokenKey};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;

use super::{DirectoryError, New};
use crate::file::is_segment_size;

/// The format of directories that this program makes and reads.
pub(super) const FORMAT: u64 = 2;
/// The format before it: tokens were made without a secret, and the log was another.
pub(super) const FORMAT_OLD: u64 = 1;

const SUM: &str = "# xxh3 = ";
const SUM_DIGITS: usize = 16;
const ID_DIGITS: usize = 32;

/// What a directory was made with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: u64,
    pub(super) shards: u16,
    pub(super) segment_bytes: u32,
    pub(super) token_secret: Secret,
    pub(super) id: String,
    created_ms: u64,
}

/// What a directory of the format before was made with, as far as it is still of interest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OldManifest {
    format: u64,
    pub(super) shards: u16,
    segment_bytes: u32,
    hash_seed: Hex,
    id: String,
    created_ms: u64,
}

impl OldManifest {
    /// Reads a file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        unseal(bytes, FORMAT_OLD)
    }
}

/// Sixteen bytes as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Secret(pub(super) [u8; TokenKey::BYTES]);

/// A number of 64 bits as 16 hexadecimal digits: TOML's own numbers have a sign.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Hex(pub(super) u64);

/// Why a text is no manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It is one of this format, which is not ours.
    Format(u64),
    /// It is not what was written.
    Damage(String),
}

#[derive(Deserialize)]
struct Head {
    format: u64,
}

impl Manifest {
    pub(super) fn new(new: &New, id: String, created_ms: u64) -> Self {
        let New { shard_count, segment_bytes, token_secret } = *new;
        let made = Self {
            format: FORMAT,
            shards: shard_count,
            segment_bytes,
            token_secret: Secret(token_secret),
            id,
            // TOML has no more than 63 bits, which last for some time.
            created_ms: created_ms.min(i64::MAX.unsigned_abs()),
        };
        assert_eq!(made.flaw(), None);
        made
    }

    /// The whole file.
    pub(super) fn to_text(&self) -> String {
        seal(toml::to_string(self).expect("numbers and texts can be written"))
    }

    /// Reads a file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let manifest: Self = unseal(bytes, FORMAT)?;
        manifest.flaw().map_or(Ok(manifest), |flaw| Err(Flaw::Damage(flaw.to_owned())))
    }

    fn flaw(&self) -> Option<&'static str> {
        let is_id = self.id.len() == ID_DIGITS && self.id.bytes().all(|it| it.is_ascii_hexdigit());
        match () {
            () if self.shards == 0 => Some("it has no shards"),
            () if self.shards > ShardRange::COUNT_MAX => Some("it has more shards than slots"),
            () if !is_segment_size(self.segment_bytes as usize) => {
                Some("its segments have a size that none can have")
            }
            () if !is_id => Some("its id is none"),
            () => None,
        }
    }
}

/// Adds the last line.
pub(super) fn seal(mut text: String) -> String {
    let sum = xxh3_64(text.as_bytes());
    writeln!(text, "{SUM}{sum:016x}").expect("a text has room");
    text
}

/// Reads a whole file of this format.
pub(super) fn unseal<T: DeserializeOwned>(bytes: &[u8], format: u64) -> Result<T, Flaw> {
    let damage = |reason: &str| Flaw::Damage(reason.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| damage("it is no text"))?;
    let (body, last) = match text.rfind(SUM) {
        Some(at) => (&text[..at], &text[at + SUM.len()..]),
        None => return Err(damage("its last line is missing")),
    };
    let sum = last.strip_suffix('\n').filter(|digits| digits.len() == SUM_DIGITS);
    let sum = sum.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let sum = sum.ok_or_else(|| damage("its last line is cut"))?;
    if sum != xxh3_64(body.as_bytes()) {
        return Err(damage("its checksum does not match"));
    }
    let line = |error: toml::de::Error| Flaw::Damage(error.message().to_owned());
    let head: Head = toml::from_str(body).map_err(line)?;
    if head.format != format {
        return Err(Flaw::Format(head.format));
    }
    toml::from_str(body).map_err(line)
}

impl Flaw {
    /// What is said of the file `name` in `directory`.
    pub(super) fn of(self, directory: &Path, name: &Path) -> DirectoryError {
        match self {
            Self::Format(found) if found < FORMAT => {
                DirectoryError::OldFormat { path: directory.to_owned(), found }
            }
            Self::Format(found) => DirectoryError::Format { path: directory.to_owned(), found },
            Self::Damage(reason) => DirectoryError::Damaged { path: name.to_owned(), reason },
        }
    }
}

impl fmt::Debug for Secret {
    /// A secret does not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", u128::from_be_bytes(self.0)))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == ID_DIGITS);
        let number = number.ok_or_else(|| D::Error::custom("token_secret is no secret"))?;
        Ok(Self(number.to_be_bytes()))
    }
}

impl fmt::Debug for Hex {
    /// A secret does not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hex(..)")
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let number = u64::from_str_radix(&digits, 16);
        number.map(Self).map_err(|_| D::Error::custom("it is no hexadecimal number"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let new = New { shard_count: 8, segment_bytes: 64 << 20, token_secret: [0xfe; 16] };
        Manifest::new(&new, "00112233445566778899aabbccddeeff".to_owned(), 1_795_305_600_000)
    }

    /// A manifest of these lines, with the right checksum.
    fn sealed(body: &str) -> String {
        format!("{body}{SUM}{:016x}\n", xxh3_64(body.as_bytes()))
    }

    fn damage(text: &str) -> String {
        match Manifest::parse(text.as_bytes()) {
            Err(Flaw::Damage(reason)) => reason,
            other => panic!("damage, not {other:?}"),
        }
    }

    #[test]
    fn the_text_of_a_manifest_is_this_one() {
        let body = "format = 2\nshards = 8\nsegment_bytes = 67108864\n\
                    token_secret = \"fefefefefefefefefefefefefefefefe\"\n\
                    id = \"00112233445566778899aabbccddeeff\"\ncreated_ms = 1795305600000\n";
        let text = manifest().to_text();
        assert_eq!(text, format!("{body}# xxh3 = 3c1853c9e4f482df\n"));
        assert_eq!(Manifest::parse(text.as_bytes()), Ok(manifest()));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_damage() {
        let text = manifest().to_text();
        for len in 0..text.len() {
            damage(&text[..len]);
        }
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // A sum is the same number in capital letters.
            let is_same = bytes.eq_ignore_ascii_case(text.as_bytes()) && bit / 8 > text.len() - 18;
            assert_eq!(Manifest::parse(&bytes).is_ok(), is_same, "bit {bit}");
        }
    }

    #[test]
    fn a_format_of_the_future_is_told_from_damage() {
        let text = sealed("format = 7\nshards = { count = 3 }\n");
        assert_eq!(Manifest::parse(text.as_bytes()), Err(Flaw::Format(7)));
    }

    #[test]
    fn lines_that_are_missing_unknown_or_out_of_range_are_damage() {
        let text = manifest().to_text();
        let (body, _) = text.split_once(SUM).unwrap();
        assert_eq!(Manifest::parse(sealed(body).as_bytes()), Ok(manifest()));
        for (from, to, reason) in [
            ("shards = 8\n", "", "missing field `shards`"),
            ("shards = 8\n", "shards = 0\n", "it has no shards"),
            ("shards = 8\n", "shards = 65536\n", "u16"),
            ("shards = 8\n", "shards = 16385\n", "more shards than slots"),
            ("67108864", "0", "its segments have a size that none can have"),
            ("67108864", "134217728", "its segments have a size that none can have"),
            ("67108864", "67108863", "its segments have a size that none can have"),
            ("fefefefefefefefefefefefefefefefe", "fe", "token_secret is no secret"),
            ("00112233", "", "its id is none"),
            ("format = 2\n", "format = 2\ncolour = 3\n", "unknown field `colour`"),
            ("format = 2\n", "format = \n", ""),
            ("format = 2\n", "", "missing field `format`"),
        ] {
            let reason_found = damage(&sealed(&body.replacen(from, to, 1)));
            assert!(reason_found.contains(reason), "{reason_found}");
            assert!(!reason_found.contains('\n'), "{reason_found}");
        }
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert!(!format!("{:?}", manifest()).contains("fefe"));
    }
}
