use proptest::prelude::*;

use super::*;

impl Trie {
    /// The most entries that a node has.
    pub(crate) fn node_len_max(&self) -> usize {
        fn len_max(node: &Node) -> usize {
            let below = node.children.iter().map(len_max).max();
            node.entries.len().max(below.unwrap_or(0))
        }
        len_max(&self.root)
    }

    pub(crate) fn assert_invariants(&self) {
        assert_eq!(self.bytes, self.root.bytes_below());
        assert_node(&self.root, ROOT_BITS_MAX);
    }
}

fn assert_node(node: &Node, bits_max: u32) {
    assert!((1..=bits_max).contains(&node.bits()));
    assert_eq!(node.entries.len(), 1 << node.bits());
    assert!(node.children.is_empty() || node.bits() == bits_max);
    let children: Vec<_> = node.entries.iter().filter_map(|entry| entry.child()).collect();
    assert_eq!(children.len(), node.children.len(), "a node stands at one entry");
    node.children.iter().for_each(|child| assert_node(child, NODE_BITS_MAX));
}

/// Prefixes that cover all positions, told apart by splitting one after the other.
struct Model {
    /// The first position of each leaf and how many bits it has.
    leaves: Vec<(u64, u8)>,
}

impl Model {
    fn leaf(&self, position: u64) -> usize {
        let holds = |(first, depth): &(u64, u8)| {
            (first ^ position).checked_shr(64 - u32::from(*depth)).unwrap_or(0) == 0
        };
        self.leaves.iter().position(holds).unwrap()
    }
}

proptest! {
    #[test]
    fn each_position_has_the_leaf_of_its_prefix(
        splits in proptest::collection::vec((0_u8..4, any::<u64>(), 1_u8..12), 1..200),
    ) {
        let mut trie = Trie::new();
        let mut model = Model { leaves: vec![(0, 0)] };
        for (crowd, position, jump) in splits {
            // All over, or below one of a few prefixes.
            let position = if crowd == 0 {
                position
            } else {
                u64::from(crowd) << 61 | 0xabc << 49 | position >> (crowd * 12 + 3)
            };
            let leaf = model.leaf(position);
            let before = model.leaves[leaf].1;
            let depth = (before + jump).min(48);
            let bound = trie.bytes() + trie.growth_bytes_max(position, depth);
            for depth in (before + 1..=depth).rev() {
                let first = (position ^ 1 << (64 - depth)) & !(u64::MAX >> depth);
                trie.set(first, depth, model.leaves.len() as u32);
                model.leaves.push((first, depth));
            }
            model.leaves[leaf] = (position & !u64::MAX.checked_shr(depth.into()).unwrap(), depth);
            trie.assert_invariants();
            prop_assert!(trie.bytes() <= bound);
        }
        prop_assert!(trie.node_len_max() <= 1 << ROOT_BITS_MAX);
        for (leaf, (first, depth)) in model.leaves.iter().enumerate() {
            let last = first | u64::MAX.checked_shr((*depth).into()).unwrap();
            for position in [*first, last, first + (last - first) / 3] {
                prop_assert_eq!(trie.leaf(position) as usize, leaf);
            }
        }
        while !trie.shed() {
            prop_assert_eq!(trie.bytes(), trie.root.bytes_below());
        }
        prop_assert_eq!(trie.bytes(), trie.root.bytes());
    }
}

#[test]
fn a_crowded_prefix_makes_no_node_larger_than_its_bound() {
    let mut trie = Trie::new();
    let crowd = 0x2a51 << 50;
    for depth in 1..=48 {
        trie.set(crowd ^ 1 << (64 - depth), depth, u32::from(depth));
    }
    trie.assert_invariants();
    assert_eq!(trie.leaf(crowd), 0);
    assert!(trie.bytes() < 32 << 10, "{} bytes for 48 leaves", trie.bytes());
    assert_eq!(trie.node_len_max(), 1 << ROOT_BITS_MAX);
}

#[test]
fn evenly_spread_positions_need_few_bytes_a_leaf() {
    for depth in [6_u8, 10, 12, 14, 16] {
        let mut trie = Trie::new();
        for leaf in 1..1_u64 << depth {
            let first = leaf << (64 - depth);
            // From the leaf that ends where this one ends.
            let from = depth - leaf.trailing_zeros() as u8;
            trie.set(first, from, leaf as u32);
        }
        trie.assert_invariants();
        let bytes = trie.bytes() as f64 / f64::from(1_u32 << depth);
        assert!(bytes < 24.0, "{bytes:.1} bytes a leaf at depth {depth}");
        for leaf in 0..1_u64 << depth {
            assert_eq!(u64::from(trie.leaf(leaf << (64 - depth) | 77)), leaf);
        }
    }
}
