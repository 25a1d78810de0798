use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fastrand::Rng;
use gridkv_cluster::{NodeId, ShardRange, Timestamp, Version};

use proptest::prelude::*;

use super::item::Item;
use super::*;

impl Table {
    /// Checks everything that the table promises, item by item.
    pub(crate) fn assert_invariants(&self) {
        let mut totals = Totals::default();
        let mut array_bytes = 0;
        for index in 0..self.directory.segment_count() {
            let segment = self.directory.segment(index);
            segment.assert_invariants(&self.locator);
            array_bytes += segment.array_bytes();
            for cell in segment.cells() {
                let item = segment.slot(cell).item().unwrap();
                totals.add(Totals::of(item));
                let position = self.locator.range.position(self.token_of(item));
                assert_eq!(self.directory.index_of(position), index);
            }
        }
        self.directory.assert_invariants();
        assert_eq!(totals, self.totals);
        assert_eq!(array_bytes, self.array_bytes);
        assert_eq!(self.memory_bytes(), totals.item_bytes + array_bytes + self.directory.bytes());
    }
}

fn leading_bytes(key: &[u8]) -> Token {
    Token(u64::from_be_bytes(key[..8].try_into().unwrap()))
}

fn same(_: &[u8]) -> Token {
    Token(0x1234_5678_9abc_def0)
}

fn table(token_of: fn(&[u8]) -> Token) -> Table {
    Table::new(Locator { range: ShardRange::WHOLE, token_of: Arc::new(token_of) })
}

fn mutation(key: &[u8]) -> Mutation<'_> {
    let version = Version { timestamp: Timestamp(1), node: NodeId(1) };
    Mutation { key, value: Some(b"value"), version, expires_at: None }
}

fn fill(table: &mut Table, tokens: impl Iterator<Item = u64>) -> u64 {
    let mut count = 0;
    for token in tokens {
        let key = token.to_be_bytes();
        table.insert((table.locator.token_of)(&key), &mutation(&key), 0);
        count += 1;
    }
    count
}

/// Tokens of one hash tag: the same first 14 bits, the others as good as random.
fn crowded_tokens(seed: u64) -> impl Iterator<Item = u64> {
    let mut rng = Rng::with_seed(seed);
    std::iter::repeat_with(move || 0x2a51 << 50 | rng.u64(..) >> 14)
}

fn uniform_tokens(seed: u64) -> impl Iterator<Item = u64> {
    let mut rng = Rng::with_seed(seed);
    std::iter::repeat_with(move || rng.u64(..))
}

/// A table of keys that are their tokens. The largest segment on the way is no larger than one that
/// splits, but for the step to the next size.
fn filled(count: usize, tokens: impl Iterator<Item = u64>) -> Table {
    let mut table = table(leading_bytes);
    for token in tokens.take(count) {
        table.insert(Token(token), &mutation(&token.to_be_bytes()), 0);
        let segment = table.directory.segment(table.directory.index_of(token));
        let bucket_count = segment.bucket_count();
        assert!(bucket_count <= SPLIT_BUCKET_COUNT * 3 / 2, "{bucket_count} buckets to rebuild");
    }
    table
}

fn walked(table: &Table, budget: usize) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut from = Some(0);
    while let Some(position) = from {
        from =
            table.walk(position, budget, &mut |_, item: Item<'_>| keys.push(item.key().to_vec()));
    }
    keys
}

#[test]
fn segments_split_and_memory_stays_near_the_items() {
    let mut table = table(crate::contract::token_of);
    for number in 1..=40_000_u64 {
        let key = number.to_be_bytes();
        table.insert(crate::contract::token_of(&key), &mutation(&key), 0);
        if number >= 5_000 && number % 500 == 0 {
            let index_bytes = table.memory_bytes() - table.totals().item_bytes;
            assert!(index_bytes < number * 15, "{index_bytes} bytes of index for {number} items");
        }
    }
    assert!(table.directory.segment_count() > 40);
    table.assert_invariants();
    let expected: BTreeMap<Token, u64> = (1..=40_000)
        .map(|number: u64| (crate::contract::token_of(&number.to_be_bytes()), number))
        .collect();
    let expected: Vec<_> = expected.values().map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(walked(&table, 333), expected);
}

#[test]
fn an_emptied_table_gives_its_memory_back() {
    let mut table = table(crate::contract::token_of);
    let empty = table.memory_bytes();
    fill(&mut table, 0..20_000);
    let full = table.memory_bytes();
    for number in 0..20_000_u64 {
        let key = number.to_be_bytes();
        let place = table.find(crate::contract::token_of(&key), &key).unwrap();
        table.remove(place);
    }
    table.assert_invariants();
    assert_eq!(table.array_bytes, 0);
    assert!(table.memory_bytes() - empty < full / 200, "{} of {full}", table.memory_bytes());
    assert_eq!(walked(&table, 10), Vec::<Vec<u8>>::new());
}

#[test]
fn neighbouring_tokens_do_not_blow_up_the_directory() {
    for step in [1, 1 << 20, 1 << 36] {
        let mut table = table(leading_bytes);
        let count = fill(&mut table, (0..5_000).map(|number| (1 << 63) + number * step));
        table.assert_invariants();
        assert!(table.directory.bytes() < 64 << 10);
        assert_eq!(walked(&table, 50).len() as u64, count);
        assert!(walked(&table, 50).is_sorted());
    }
}

#[test]
fn keys_of_one_token_all_work() {
    let mut table = table(same);
    let count = fill(&mut table, 0..1_500);
    table.assert_invariants();
    assert_eq!(walked(&table, 1).len() as u64, count);
    for number in (0..1_500_u64).rev() {
        let key = number.to_be_bytes();
        let place = table.find(same(&key), &key).unwrap();
        assert_eq!(table.item(place).key(), key);
        table.remove(place);
        assert!(table.find(same(&key), &key).is_none());
    }
    assert_eq!(table.totals(), &Totals::default());
}

#[test]
fn an_insertion_grows_the_index_by_no_more_than_announced() {
    let mut table = table(crate::contract::token_of);
    for number in 0..30_000_u64 {
        let key = number.to_be_bytes();
        let token = crate::contract::token_of(&key);
        let mutation = mutation(&key);
        let bound = table.memory_bytes() + Table::item_bytes(&mutation);
        let bound = bound + table.growth_bytes_max(token);
        table.insert(token, &mutation, 0);
        assert!(table.memory_bytes() <= bound, "item {number}");
    }
}

#[test]
fn prefetching_changes_nothing_and_takes_any_number_of_tokens() {
    let mut table = table(crate::contract::token_of);
    table.prefetch(&[Token::MIN, Token::MAX]);
    fill(&mut table, 0..1_000);
    let tokens: Vec<Token> =
        (0..100_u64).map(|number| crate::contract::token_of(&number.to_be_bytes())).collect();
    for len in [0, 1, 31, 32, 33, 100] {
        table.prefetch(&tokens[..len]);
    }
    table.assert_invariants();
}

#[test]
fn keys_of_one_hash_tag_cost_what_others_cost() {
    const COUNT: usize = 200_000;
    let uniform = filled(COUNT, uniform_tokens(1));
    let crowded = filled(COUNT, crowded_tokens(1));
    for table in [&uniform, &crowded] {
        table.assert_invariants();
        assert!(table.directory.node_len_max() <= 4_096);
        let keys = walked(table, 1_000);
        assert_eq!(keys.len(), COUNT);
        assert!(keys.is_sorted());
    }
    let (one, other) = (uniform.memory_bytes() as f64, crowded.memory_bytes() as f64);
    assert!(other / one < 1.02, "{other} bytes of one tag, {one} of none");
    let (one, other) = (uniform.directory.segment_count(), crowded.directory.segment_count());
    assert!(other <= one + one / 5, "{other} segments of one tag, {one} of none");
}

#[test]
fn a_crowd_in_a_table_of_others_takes_none_of_their_room() {
    let mut tokens: Vec<u64> = uniform_tokens(2).take(30_000).collect();
    tokens.extend(crowded_tokens(3).take(30_000));
    Rng::with_seed(4).shuffle(&mut tokens);
    let table = filled(tokens.len(), tokens.iter().copied());
    table.assert_invariants();
    let alone = filled(30_000, uniform_tokens(2)).memory_bytes();
    let index_bytes = table.memory_bytes() - table.totals().item_bytes;
    assert!(table.memory_bytes() < alone * 21 / 10);
    assert!(index_bytes < 60_000 * 15, "{index_bytes} bytes of index");
}

#[test]
fn an_insertion_into_a_crowd_grows_the_index_by_no_more_than_announced() {
    let mut table = table(leading_bytes);
    for (number, token) in crowded_tokens(5).take(30_000).enumerate() {
        let key = token.to_be_bytes();
        let mutation = mutation(&key);
        let bound = table.memory_bytes() + Table::item_bytes(&mutation);
        let bound = bound + table.growth_bytes_max(Token(token));
        table.insert(Token(token), &mutation, 0);
        assert!(table.memory_bytes() <= bound, "item {number}");
    }
}

/// Each of `tokens` drawn how often, in units of what is fair.
fn drawn_shares(tokens: impl Iterator<Item = u64>, count: usize) -> Vec<f64> {
    const DRAWS_PER_KEY: usize = 40;
    let table = filled(count, tokens);
    let mut rng = Rng::with_seed(6);
    let mut drawn = BTreeMap::new();
    let (mut hit_count, mut miss_count) = (0, 0);
    while hit_count < count * DRAWS_PER_KEY {
        if let Some(place) = table.draw(&mut rng) {
            *drawn.entry(table.item(place).key().to_vec()).or_insert(0_u32) += 1;
            hit_count += 1;
        } else {
            miss_count += 1;
        }
    }
    assert!(miss_count < hit_count * 4, "{miss_count} misses for {hit_count} hits");
    assert_eq!(drawn.len(), count, "each key is drawn");
    drawn.values().map(|times| f64::from(*times) / DRAWS_PER_KEY as f64).collect()
}

#[test]
fn all_keys_are_as_likely_to_be_drawn_wherever_they_crowd() {
    for count in [5, 300, 1_000, 5_000] {
        let mixed = uniform_tokens(7).take(count / 10).chain(crowded_tokens(8));
        let uniform = drawn_shares(uniform_tokens(7), count);
        let crowded = drawn_shares(crowded_tokens(8), count);
        for shares in [uniform, crowded, drawn_shares(mixed, count)] {
            let is_fair = |share: &f64| (0.25..2.5).contains(share);
            assert!(shares.iter().all(is_fair), "{shares:?} of {count} keys");
        }
    }
}

/// How many buckets a search for an item passes, on average.
fn distance_mean(table: &Table) -> f64 {
    let mut distance_sum = 0;
    for index in 0..table.directory.segment_count() {
        let segment = table.directory.segment(index);
        for cell in segment.cells() {
            let item = segment.slot(cell).item().unwrap();
            let home = segment.home(table.locator.range.position(table.token_of(item)));
            let count = segment.bucket_count();
            distance_sum += (cell.bucket() + count - home) % count;
        }
    }
    distance_sum as f64 / table.totals().key_count as f64
}

#[test]
fn keys_of_large_tags_among_others_lie_near_their_homes() {
    for (tag_count, tag_len) in [(1, 300), (1, 2_000), (20, 400), (300, 70)] {
        let mut rng = Rng::with_seed(10);
        let mut tokens: Vec<u64> = uniform_tokens(11).take(10_000).collect();
        for tag in 0..tag_count {
            tokens.extend((0..tag_len).map(|_| (tag * 797) << 50 | rng.u64(..) >> 14));
        }
        rng.shuffle(&mut tokens);
        let table = filled(tokens.len(), tokens.iter().copied());
        table.assert_invariants();
        let distance = distance_mean(&table);
        assert!(distance < 3.0, "{distance:.2} buckets for {tag_count} tags of {tag_len} keys");
        let index_bytes = table.memory_bytes() - table.totals().item_bytes;
        let bound = tokens.len() as u64 * 17;
        assert!(index_bytes < bound, "{index_bytes} bytes for {tag_count} tags of {tag_len} keys");
    }
}

#[test]
fn positions_that_are_spread_evenly_never_make_a_segment_crowded() {
    let mut table = table(leading_bytes);
    for token in uniform_tokens(12).take(100_000) {
        table.insert(Token(token), &mutation(&token.to_be_bytes()), 0);
        let segment = table.directory.segment(table.directory.index_of(token));
        assert!(!segment.is_crowded(), "{} buckets", segment.bucket_count());
    }
    assert!(distance_mean(&table) < 0.5);
}

#[test]
fn a_search_finds_the_last_key_of_a_crowd_and_goes_round() {
    let mut table = filled(20_000, crowded_tokens(9));
    let tokens: BTreeSet<u64> = crowded_tokens(9).take(20_000).collect();
    let kept = *tokens.iter().nth(777).unwrap();
    for token in tokens.iter().filter(|token| **token != kept) {
        let place = table.find(Token(*token), &token.to_be_bytes()).unwrap();
        table.remove(place);
    }
    let mut rng = Rng::with_seed(1);
    for _ in 0..100 {
        let place = table.first_place(rng.u64(..), rng.usize(..), 100, |_| true).unwrap();
        assert_eq!(table.item(place).key(), kept.to_be_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_table_of_crowds_and_others_does_what_a_set_does(
        seed: u64,
        steps in proptest::collection::vec((0_u8..4, any::<bool>(), 1_usize..900), 1..12),
    ) {
        let mut rng = Rng::with_seed(seed);
        let mut table = table(leading_bytes);
        let mut model = BTreeSet::new();
        for (crowd, is_insertion, count) in steps {
            for _ in 0..count {
                // All over, below 14 bits, below 40, or next to each other.
                let token = match crowd {
                    0 => rng.u64(..),
                    1 => 0x3001 << 50 | rng.u64(..) >> 14,
                    2 => 0x3001 << 50 | 77 << 24 | rng.u64(..) >> 40,
                    _ => 1 << 63 | rng.u64(..2_000),
                };
                let key = token.to_be_bytes();
                let found = table.find(Token(token), &key);
                prop_assert_eq!(found.is_some(), model.contains(&token));
                match found {
                    Some(place) if !is_insertion => {
                        table.remove(place);
                        model.remove(&token);
                    }
                    None if is_insertion => {
                        table.insert(Token(token), &mutation(&key), 0);
                        model.insert(token);
                    }
                    _ => {}
                }
            }
            table.assert_invariants();
            let expected: Vec<_> = model.iter().map(|token| token.to_be_bytes().to_vec()).collect();
            prop_assert_eq!(walked(&table, count), expected);
        }
    }
}
