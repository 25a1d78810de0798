//! What a node makes tokens with.
//!
//! A node alone has its data directory's key; a member of a cluster, the topology's, which is kept
//! beside the data. So the key is known before a store is opened, but for a node that joins: it has a
//! key of its own until it is told the topology, serves no keys by then, and changes once.

use std::sync::OnceLock;

use gridkv_cluster::TokenKey;

/// The key of a node.
pub(crate) struct TokenKeys {
    first: TokenKey,
    joined: OnceLock<TokenKey>,
}

impl TokenKeys {
    /// Keys of a node that starts with this one.
    pub(crate) const fn new(first: TokenKey) -> Self {
        Self { first, joined: OnceLock::new() }
    }

    /// The key that holds.
    #[inline]
    pub(crate) fn current(&self) -> &TokenKey {
        self.joined.get().unwrap_or(&self.first)
    }

    /// The node has joined a cluster with this key.
    pub(crate) fn join(&self, key: &TokenKey) {
        if *key != self.first {
            let joined = self.joined.get_or_init(|| key.clone());
            assert!(joined == key, "a node joins one cluster in its life");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_changes_once_and_only_for_another() {
        let (one, other) = (TokenKey::new([1; 16]), TokenKey::new([2; 16]));
        let keys = TokenKeys::new(one.clone());
        keys.join(&one);
        assert_eq!(*keys.current(), one);
        keys.join(&other);
        keys.join(&other);
        assert_eq!(*keys.current(), other);
    }
}
