//! Values that tell which write they are of, and whether all of it is there.
//!
//! ```text
//! 3:812:4000:................
//! |  |    |   `- bytes that follow from what is before them, 4000 of them
//! |  |    `- how many
//! |  `- the write's number among its client's
//! `- the client
//! ```

use fastrand::Rng;

/// Which write a value is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Who wrote it.
    pub client: u16,
    /// The write's number among its client's.
    pub sequence: u64,
    /// Bytes behind the head.
    pub filler_len: usize,
}

impl Mark {
    /// The value.
    #[must_use]
    pub fn value(&self) -> Vec<u8> {
        let head = format!("{}:{}:{}:", self.client, self.sequence, self.filler_len);
        let head_len = head.len();
        let mut value = head.into_bytes();
        value.resize(head_len + self.filler_len, 0);
        Rng::with_seed(self.sequence << 16 | u64::from(self.client)).fill(&mut value[head_len..]);
        value
    }

    /// Finds out which write a value is of.
    ///
    /// # Errors
    ///
    /// What is wrong with it, when it is not a whole one.
    pub fn read(value: &[u8]) -> Result<Self, String> {
        let start = value[..value.len().min(40)].escape_ascii();
        let mut parts = value.splitn(4, |&byte| byte == b':');
        let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
        let mark = (|| {
            let (client, sequence, filler_len) = (number()?, number()?, number()?);
            let client = u16::try_from(client).ok()?;
            Some(Self { client, sequence, filler_len: usize::try_from(filler_len).ok()? })
        })();
        let Some(mark) = mark.filter(|it| it.filler_len <= value.len()) else {
            return Err(format!("{} bytes that no client wrote: {start}", value.len()));
        };
        let whole = mark.value();
        if whole.len() != value.len() {
            return Err(format!("{} of the {} bytes of {mark}", value.len(), whole.len()));
        }
        match value.iter().zip(&whole).position(|(found, wrote)| found != wrote) {
            Some(at) => Err(format!("{mark}, wrong from byte {at} of {} on", whole.len())),
            None => Ok(mark),
        }
    }
}

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client, sequence, filler_len } = self;
        write!(f, "write {sequence} of client {client} ({filler_len} bytes)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_its_write() {
        for filler_len in [0, 1, 4_096, 100_000] {
            let mark = Mark { client: 3, sequence: 812, filler_len };
            assert_eq!(Mark::read(&mark.value()), Ok(mark));
        }
        let other = |sequence| Mark { client: 3, sequence, filler_len: 32 }.value();
        assert_ne!(other(1)[8..], other(2)[8..]);
    }

    #[test]
    fn a_value_that_is_not_whole_is_told() {
        let mark = Mark { client: 3, sequence: 812, filler_len: 4_000 };
        let whole = mark.value();
        let mut torn = whole.clone();
        torn[2_000..].fill(0);
        let told = Mark::read(&torn).unwrap_err();
        assert!(
            told.starts_with("write 812 of client 3 (4000 bytes), wrong from byte 20"),
            "{told}"
        );
        let longer = [whole.as_slice(), b"x"].concat();
        assert!(Mark::read(&longer).unwrap_err().starts_with("4012 of the 4011 bytes"));
        for value in [&whole[..2_000], &whole[..4], b"", b"x", b"1:2:99999999999:", b"70000:1:0:"] {
            let told = Mark::read(value).unwrap_err();
            assert!(told.contains("that no client wrote"), "{told}");
        }
    }
}
