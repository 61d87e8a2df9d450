//! The walker's own files: pure code, so that they are built in seconds, without hyper and rustls,
//! and are the only thing that is instrumented.
#![allow(dead_code, reason = "the relay needs more of them")]

#[path = "../../src/websocket/close.rs"]
pub mod close;
#[path = "../../src/websocket/frame.rs"]
pub mod frame;
#[path = "../../src/websocket/utf8.rs"]
mod utf8;
#[path = "../../src/websocket/walk.rs"]
pub mod walk;
