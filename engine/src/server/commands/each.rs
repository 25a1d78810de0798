//! Commands that do the same to each of their keys: DEL, UNLINK, EXISTS, TOUCH, MGET, MSET.

use gridkv_cluster::Token;
use gridkv_net::resp::{Protocol, Reply};

use super::{Each, Failure, Part};
use crate::error::Error;
use crate::shard::{Key, Shard};

/// Does it to one key: the first argument; for [`Each::Set`] the second is its value.
pub(super) fn run(
    each: Each,
    shard: &mut Shard,
    token: Token,
    arguments: &[&[u8]],
    out: &mut Vec<u8>,
    protocol: Protocol,
) -> Result<Part, Failure> {
    let key = Key { bytes: arguments[0], token };
    Ok(match each {
        Each::Count(count) => Part::Count(count(shard, key)?),
        Each::Values => {
            let mut reply = Reply::new(out, protocol);
            match shard.read(key)? {
                Some(record) => reply.bulk(record.value),
                None => reply.null(),
            }
            Part::Reply
        }
        Each::Set => {
            shard.write(key, arguments[1], None)?;
            Part::Reply
        }
    })
}

pub(super) fn exists(shard: &mut Shard, key: Key<'_>) -> Result<bool, Error> {
    shard.uses(key)
}

pub(super) fn delete(shard: &mut Shard, key: Key<'_>) -> Result<bool, Error> {
    shard.remove(key)
}
