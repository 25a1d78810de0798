use crate::{Registry, contract};

#[test]
fn the_contract_is_kept() {
    let registry = Registry::new();
    contract::check(&|options| registry.open("memory", options).unwrap());
}
