//! WebSocket frames: the walk over what one read found, in both directions.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::BytesCount;
use seawall::websocket::frame::{self, BINARY, Header, TEXT};
use seawall::websocket::walk::{FromClient, FromUpstream, Step};

/// The relay's largest read.
const READ: usize = 64 * 1024;
const LARGEST: u64 = 16 << 20;

/// As many whole messages as one read has room for.
fn messages(opcode: u8, payload: usize, key: Option<[u8; 4]>) -> Vec<u8> {
    let length = payload as u64;
    let header = Header { fin: true, rsv: 0, opcode, length, mask: key, size: 0 };
    let mut one = Vec::new();
    header.write(&mut one);
    let begin = one.len();
    one.resize(begin + payload, b'a');
    if let Some(key) = key {
        frame::mask(&mut one[begin..], key);
    }
    one.repeat((READ / one.len()).max(1))
}

/// Calls `step` until nothing is left, as the relay does.
fn walk(data: &[u8], mut step: impl FnMut(&[u8]) -> Step) -> usize {
    let mut at = 0;
    while at < data.len() {
        match step(&data[at..]) {
            Step::Pass(length) if length > 0 => at += length,
            other => panic!("whole messages pass, and not {other:?}"),
        }
    }
    at
}

#[divan::bench(args = [16, 125, 4096])]
fn from_upstream_binary(bencher: Bencher<'_, '_>, payload: usize) {
    from_upstream(bencher, BINARY, payload);
}

/// Text is checked for UTF-8 on its way.
#[divan::bench(args = [16, 125, 4096])]
fn from_upstream_text(bencher: Bencher<'_, '_>, payload: usize) {
    from_upstream(bencher, TEXT, payload);
}

fn from_upstream(bencher: Bencher<'_, '_>, opcode: u8, payload: usize) {
    let data = messages(opcode, payload, None);
    let mut frames = FromUpstream::new(0, LARGEST, READ);
    bencher
        .counter(BytesCount::of_slice(&data))
        .bench_local(|| walk(black_box(&data), |rest| frames.step(rest, None)));
}

/// Masked, and not unmasked: payloads pass as they are.
#[divan::bench(args = [16, 125, 4096])]
fn from_client_binary(bencher: Bencher<'_, '_>, payload: usize) {
    let data = messages(BINARY, payload, Some([1, 2, 3, 4]));
    let mut frames = FromClient::new(0, LARGEST);
    bencher
        .counter(BytesCount::of_slice(&data))
        .bench_local(|| walk(black_box(&data), |rest| frames.step(rest, None)));
}
