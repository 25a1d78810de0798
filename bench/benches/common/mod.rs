//! How the benches of single parts measure: briefly, so that all of them take a minute or two.

#![allow(dead_code, reason = "not every bench has keys")]

use std::sync::LazyLock;
use std::time::Duration;

use criterion::Criterion;
use gridkv_cluster::{Token, TokenKey};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Half a second for each, in twenty samples, unless the command line says otherwise.
pub(crate) fn brief() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .sample_size(20)
        .without_plots()
        .configure_from_args()
}

static TOKEN_KEY: LazyLock<TokenKey> = LazyLock::new(|| TokenKey::new([7; TokenKey::BYTES]));

/// What the benches make tokens with.
pub(crate) fn token_key() -> TokenKey {
    TOKEN_KEY.clone()
}

/// The token of a key.
pub(crate) fn token_of(key: &[u8]) -> Token {
    TOKEN_KEY.token(key)
}
