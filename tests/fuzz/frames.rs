//! Whatever bytes an upstream sends, in whatever pieces: what the frame walker lets pass are whole,
//! well-formed frames whose payload is what was sent, and the walker never stops short.
#![no_main]

use libfuzzer_sys::fuzz_target;
use websocket::frame::Header;
use websocket::walk::{FromClient, FromUpstream, Step};

mod websocket;

fuzz_target!(|data: &[u8]| {
    let [settings, cuts, bytes @ ..] = data else { return };
    let hold = [1, 130, 300, 65_536][usize::from(settings & 3)];
    let rsv = (settings >> 2) & 7;
    let step = usize::from(*cuts) + 1;
    from_upstream(bytes, step, rsv, hold);
    from_client(bytes, step, rsv);
});

/// Feeds the walker as the relay does: what it cannot use yet comes again with more behind it.
fn from_upstream(bytes: &[u8], step: usize, rsv: u8, hold: usize) {
    let mut walker = FromUpstream::new(rsv, 1 << 20, hold);
    let mut out = Vec::new();
    let (mut at, mut end) = (0, 0);
    while end < bytes.len() {
        end = (end + step).min(bytes.len());
        loop {
            let data = &bytes[at..end];
            let before = at;
            match walker.step(data, None) {
                Step::Pass(count) => {
                    out.extend_from_slice(&data[..count]);
                    at += count;
                }
                Step::Fragment(skip, header, count) => {
                    header.write(&mut out);
                    out.extend_from_slice(&data[skip..skip + count]);
                    at += skip + count;
                }
                Step::Skip(count) | Step::Swallow(count) => at += count,
                Step::Close(..) | Step::Broken(_) => return whole(&out),
                Step::More(needed) => {
                    assert!(needed > data.len() || data.is_empty(), "it has what it asks for");
                    break;
                }
            }
            assert!(at > before, "a step without progress");
        }
        whole(&out);
    }
}

/// What has been written so far can be followed by a Close.
fn whole(mut out: &[u8]) {
    let mut open = false;
    while !out.is_empty() {
        let header = Header::parse(out).expect("legal").expect("a complete header");
        assert!(header.mask.is_none());
        let size = header.size + usize::try_from(header.length).unwrap();
        assert!(out.len() >= size, "the client stands inside a frame");
        match header.opcode {
            0 => {
                assert!(open, "a continuation of nothing");
                open = !header.fin;
            }
            1 | 2 => {
                assert!(!open, "a message inside another");
                open = !header.fin;
            }
            8..=10 => assert!(header.fin && header.length <= 125),
            other => panic!("opcode {other}"),
        }
        out = &out[size..];
    }
}

/// A client's bytes pass as they are, all of them, up to the first violation or Close.
fn from_client(bytes: &[u8], step: usize, rsv: u8) {
    let mut walker = FromClient::new(rsv, 1 << 20);
    let (mut at, mut end) = (0, 0);
    while end < bytes.len() {
        end = (end + step).min(bytes.len());
        loop {
            let data = &bytes[at..end];
            let before = at;
            match walker.step(data, None) {
                Step::Pass(count) | Step::Swallow(count) => at += count,
                Step::Skip(_) | Step::Fragment(..) => panic!("a client's frames are never cut"),
                Step::Close(..) | Step::Broken(_) => return,
                Step::More(_) => break,
            }
            assert!(at > before && at <= end, "a step without progress");
        }
    }
}
