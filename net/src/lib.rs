//! How GridKV's bytes move.
