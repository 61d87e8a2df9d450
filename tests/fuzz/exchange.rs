//! Whatever bytes a client and its upstreams write, in whatever pieces and with whatever pauses: no
//! panic, no hang, and no answer that was cut off looks whole (P1). See `story` for how a story is
//! told, and `judge` for what must be true of it.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod judge;
mod play;
mod story;

fuzz_target!(|data: &[u8]| {
    let [first, rest @ ..] = data else { return };
    let number = usize::from(*first) % play::SETTINGS.len();
    let outcome = play::play(number, &story::Story::of(rest));
    judge::judge(number, &outcome);
});
