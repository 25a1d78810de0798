use std::collections::BTreeMap;

use gridkv_cluster::{NodeId, ShardRange, Timestamp, Version};

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
    Table::new(Locator { range: ShardRange::WHOLE, token_of })
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
    let mut table = table(Token::of);
    for number in 1..=40_000_u64 {
        let key = number.to_be_bytes();
        table.insert(Token::of(&key), &mutation(&key), 0);
        if number >= 5_000 && number % 500 == 0 {
            let index_bytes = table.memory_bytes() - table.totals().item_bytes;
            assert!(index_bytes < number * 15, "{index_bytes} bytes of index for {number} items");
        }
    }
    assert!(table.directory.segment_count() > 40);
    table.assert_invariants();
    let expected: BTreeMap<Token, u64> =
        (1..=40_000).map(|number: u64| (Token::of(&number.to_be_bytes()), number)).collect();
    let expected: Vec<_> = expected.values().map(|number| number.to_be_bytes().to_vec()).collect();
    assert_eq!(walked(&table, 333), expected);
}

#[test]
fn an_emptied_table_gives_its_memory_back() {
    let mut table = table(Token::of);
    let empty = table.memory_bytes();
    fill(&mut table, 0..20_000);
    let full = table.memory_bytes();
    for number in 0..20_000_u64 {
        let key = number.to_be_bytes();
        let place = table.find(Token::of(&key), &key).unwrap();
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
    let mut table = table(Token::of);
    for number in 0..30_000_u64 {
        let key = number.to_be_bytes();
        let token = Token::of(&key);
        let mutation = mutation(&key);
        let bound = table.memory_bytes() + Table::item_bytes(&mutation);
        let bound = bound + table.growth_bytes_max(token);
        table.insert(token, &mutation, 0);
        assert!(table.memory_bytes() <= bound, "item {number}");
    }
}

#[test]
fn prefetching_changes_nothing_and_takes_any_number_of_tokens() {
    let mut table = table(Token::of);
    table.prefetch(&[Token::MIN, Token::MAX]);
    fill(&mut table, 0..1_000);
    let tokens: Vec<Token> = (0..100_u64).map(|number| Token::of(&number.to_be_bytes())).collect();
    for len in [0, 1, 31, 32, 33, 100] {
        table.prefetch(&tokens[..len]);
    }
    table.assert_invariants();
}
