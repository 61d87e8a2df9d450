//! A WebSocket whose handshake has gone well, and then whatever bytes either side writes: no panic,
//! no hang, and the client's last frame is a whole Close (P3).
#![no_main]

use libfuzzer_sys::fuzz_target;

mod judge;
mod play;
mod story;

/// The client's handshake, then what the input says of it.
const CLIENT: &[u8] = b"~4~w";
/// The upstream's.
const UPSTREAM: &[u8] = b"~u~w~7";

fuzz_target!(|data: &[u8]| {
    let Some(at) = data.iter().position(|byte| *byte == b'\n') else { return };
    let (client, upstream) = (&data[..at], &data[at + 1..]);
    let told = [CLIENT, client, UPSTREAM, upstream].concat();
    let outcome = play::play(0, &story::Story::of(&told));
    judge::judge(0, &outcome);
});
