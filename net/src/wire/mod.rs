//! What travels between nodes: [frames](frame) on connections, and the [preamble] that says where a
//! connection is to go.

pub mod frame;
pub mod preamble;
