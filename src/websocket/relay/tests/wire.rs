//! Whatever the upstream sends, cut wherever, read however: the client gets the complete messages,
//! then at most a part of the next in complete fragments, then 1011, and never an invalid byte.

use proptest::prelude::*;

use super::stream::{Scripted, Then};
use super::*;
use crate::websocket::close;
use crate::websocket::frame::{self, BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT};

/// A frame as a test wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    fin: bool,
    opcode: u8,
    payload: Vec<u8>,
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let header = frame::Header {
            fin: self.fin,
            rsv: 0,
            opcode: self.opcode,
            mask: None,
            length: self.payload.len() as u64,
            size: 0,
        };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

impl Frame {
    fn masked(&self) -> Vec<u8> {
        let key = [0xA5, 0x00, 0xFF, 0x3C];
        let mut bytes = self.bytes();
        let start = bytes.len() - self.payload.len();
        frame::mask(&mut bytes[start..], key);
        bytes.splice(start..start, key);
        bytes[1] |= 0x80;
        bytes
    }
}

/// A naive reader that was written without looking at the walker: the frames that are complete,
/// and what is left.
fn naive(mut bytes: &[u8]) -> (Vec<Frame>, &[u8]) {
    let mut frames = Vec::new();
    loop {
        let whole = bytes;
        if bytes.len() < 2 {
            return (frames, whole);
        }
        assert_eq!(bytes[0] & 0x70, 0, "a reserved bit");
        assert_eq!(bytes[1] & 0x80, 0, "masked");
        let (length, size) = match bytes[1] {
            126 if bytes.len() >= 4 => (usize::from(bytes[2]) * 256 + usize::from(bytes[3]), 4),
            127 if bytes.len() >= 10 => {
                (bytes[2..10].iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte)), 10)
            }
            126 | 127 => return (frames, whole),
            length => (usize::from(length), 2),
        };
        if bytes.len() < size + length {
            return (frames, whole);
        }
        frames.push(Frame {
            fin: bytes[0] >= 0x80,
            opcode: bytes[0] & 0x0F,
            payload: bytes[size..size + length].to_vec(),
        });
        bytes = &bytes[size + length..];
    }
}

/// What a client that joins fragments makes of frames.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    /// Complete messages.
    messages: Vec<(u8, Vec<u8>)>,
    /// Complete control frames.
    controls: Vec<(u8, Vec<u8>)>,
    /// A message that is not complete.
    open: Option<(u8, Vec<u8>)>,
}

fn heard(frames: &[Frame]) -> Heard {
    let mut heard = Heard::default();
    for frame in frames {
        match frame.opcode {
            CONTINUATION => heard.open.as_mut().unwrap().1.extend(&frame.payload),
            TEXT | BINARY => {
                assert_eq!(heard.open, None, "a message inside another");
                heard.open = Some((frame.opcode, frame.payload.clone()));
            }
            CLOSE | PING | PONG => {
                assert!(frame.fin && frame.payload.len() <= 125);
                heard.controls.push((frame.opcode, frame.payload.clone()));
                continue;
            }
            other => panic!("opcode {other}"),
        }
        if frame.fin {
            heard.messages.extend(heard.open.take());
        }
    }
    heard
}

/// Runs a relay whose upstream gives these reads; what the client was written, and the events.
async fn run(reads: Vec<Vec<u8>>, then: Then, settings: &Settings) -> (Vec<u8>, Witness, Report) {
    let witness = Witness::default();
    let (mut client, mut upstream) = (Scripted::silent(), Scripted::new(reads, then));
    let terms = Terms {
        opening: Opening::default(),
        agreed: Agreed { rsv: 0 },
        settings,
        scratch: &Scratch::new(READ),
    };
    let report = relay(&mut client, &mut upstream, terms, &witness, std::future::pending()).await;
    (client.written, witness, report)
}

/// The claim of this module.
fn judge(sent: &[u8], written: &[u8], hold: usize) {
    let (sent_frames, partial) = naive(sent);
    let (mut frames, rest) = naive(written);
    assert_eq!(rest, b"", "the client stands in the middle of a frame");
    let close = frames.pop().expect("a Close");
    assert_eq!((close.fin, close.opcode, &close.payload[..2]), (true, CLOSE, &[0x03, 0xF3][..]));
    let (sent, got) = (heard(&sent_frames), heard(&frames));
    assert_eq!(got.messages, sent.messages);
    assert_eq!(got.controls, sent.controls);
    // Of the message that was cut: all complete frames, and of an incomplete one a prefix.
    match (sent.open, got.open) {
        (None, None) => {}
        (None, Some((opcode, payload))) => {
            assert_eq!(opcode, partial[0] & 0x0F);
            assert!(is_prefix_of_partial(partial, &payload));
            let length = frame::Header::parse(partial).unwrap().unwrap().length;
            assert!(length > hold as u64, "a frame that fits in the hold is all or nothing");
        }
        (Some((opcode, payload)), Some((got_opcode, got_payload))) => {
            assert_eq!(opcode, got_opcode);
            let more = got_payload.strip_prefix(&payload[..]).expect("the same beginning");
            assert!(more.is_empty() || is_prefix_of_partial(partial, more));
        }
        (Some(_), None) => panic!("complete fragments were kept back"),
    }
}

/// Whether this is how the payload of an incomplete frame begins.
fn is_prefix_of_partial(partial: &[u8], payload: &[u8]) -> bool {
    let size = match partial[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    partial[size..].starts_with(payload)
}

/// Cuts bytes into reads at these places.
fn split(bytes: &[u8], places: &[usize]) -> Vec<Vec<u8>> {
    let mut places: Vec<_> = places.iter().map(|place| place % (bytes.len() + 1)).collect();
    places.push(bytes.len());
    places.sort_unstable();
    let mut from = 0;
    let mut reads = Vec::new();
    for place in places {
        reads.push(bytes[from..place].to_vec());
        from = place;
    }
    reads
}

fn message() -> impl Strategy<Value = Vec<Frame>> {
    let payload = prop_oneof![
        4 => proptest::collection::vec(b'a'..=b'z', 0..40),
        2 => proptest::collection::vec(b'a'..=b'z', 120..300),
        1 => proptest::collection::vec(b'a'..=b'z', 65_530..65_545),
    ];
    let control =
        (prop_oneof![Just(PING), Just(PONG)], proptest::collection::vec(any::<u8>(), 0..9))
            .prop_map(|(opcode, payload)| Frame { fin: true, opcode, payload });
    let fragment = (payload, proptest::option::of(control));
    let fragments = proptest::collection::vec(fragment, 1..4);
    (fragments, prop_oneof![Just(TEXT), Just(BINARY)]).prop_map(|(fragments, opcode)| {
        let last = fragments.len() - 1;
        let mut frames = Vec::new();
        for (at, (payload, control)) in fragments.into_iter().enumerate() {
            let opcode = if at == 0 { opcode } else { CONTINUATION };
            frames.push(Frame { fin: at == last, opcode, payload });
            frames.extend(control);
        }
        frames
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_frames_cut_anywhere_arrive_whole_then_1011(
        messages in proptest::collection::vec(message(), 1..4),
        places in proptest::collection::vec(any::<usize>(), 0..12),
        cut in any::<usize>(),
        reset in any::<bool>(),
        hold in prop_oneof![Just(1), Just(32), Just(200), Just(65_536)],
    ) {
        let mut bytes: Vec<u8> = messages.concat().iter().flat_map(Frame::bytes).collect();
        bytes.truncate(cut % (bytes.len() + 1));
        let then = if reset { Then::Reset } else { Then::Fin };
        let settings = Settings { hold, ..Settings::default() };
        let (written, witness, report) = block_on(run(split(&bytes, &places), then, &settings));
        judge(&bytes, &written, hold);
        prop_assert_eq!(witness.events(), ["upstream: connection_terminated"]);
        let heard = heard(&naive(&bytes).0);
        prop_assert_eq!(report.summary.to_client.messages, heard.messages.len() as u64);
        prop_assert_eq!(report.summary.code, 1011);
    }

    #[test]
    fn what_fits_in_the_hold_arrives_byte_by_byte(
        messages in proptest::collection::vec(message(), 1..4),
        places in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let mut bytes: Vec<u8> = messages.concat().iter().flat_map(Frame::bytes).collect();
        bytes.extend(frame::control(CLOSE, &close::payload(1000, "bye"), None));
        let settings = Settings { hold: 70_000, ..Settings::default() };
        let (written, witness, report) =
            block_on(run(split(&bytes, &places), Then::Fin, &settings));
        prop_assert!(written == bytes);
        prop_assert!(witness.events().is_empty());
        prop_assert_eq!((report.summary.code, report.summary.initiator), (1000, "upstream"));
    }

    #[test]
    fn what_a_client_says_arrives_byte_by_byte_and_then_its_close(
        messages in proptest::collection::vec(message(), 1..4),
        places in proptest::collection::vec(any::<usize>(), 0..12),
        hold in prop_oneof![Just(1), Just(65_536)],
    ) {
        let mut bytes: Vec<u8> = messages.concat().iter().flat_map(Frame::masked).collect();
        bytes.extend(frame::control(CLOSE, &close::payload(4001, "bye"), Some([9, 8, 7, 6])));
        let settings = Settings { hold, ..Settings::default() };
        let mut client = Scripted::new(split(&bytes, &places), Then::Silence);
        let mut upstream = Scripted::silent();
        let witness = Witness::default();
        let terms = Terms {
            opening: Opening::default(),
            agreed: Agreed { rsv: 0 },
            settings: &settings,
            scratch: &Scratch::new(READ),
        };
        let never = std::future::pending();
        let report = block_on(relay(&mut client, &mut upstream, terms, &witness, never));
        prop_assert!(upstream.written == bytes);
        prop_assert_eq!(naive(&client.written).0.len(), 1, "the answer to its Close");
        prop_assert_eq!((report.summary.code, report.summary.initiator), (4001, "client"));
        prop_assert_eq!(report.summary.to_upstream.messages, messages.len() as u64);
    }

    #[test]
    fn bytes_that_are_no_frames_never_reach_the_client_as_they_are(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        places in proptest::collection::vec(any::<usize>(), 0..6),
    ) {
        let (written, _, _) = block_on(run(split(&bytes, &places), Then::Fin, &small_hold()));
        let (frames, rest) = naive(&written);
        prop_assert_eq!(rest, b"");
        // Whatever it was, it ends in exactly one Close, and what came before it is well-formed.
        prop_assert_eq!(frames.iter().filter(|frame| frame.opcode == CLOSE).count(), 1);
        prop_assert_eq!(frames.last().map(|frame| frame.opcode), Some(CLOSE));
        heard(&frames);
    }
}

#[test]
fn a_session_may_be_cut_at_every_byte() {
    let frame = |fin, opcode, payload: Vec<u8>| Frame { fin, opcode, payload };
    let frames = [
        frame(true, TEXT, b"hello".to_vec()),
        frame(false, BINARY, vec![1; 20]),
        frame(true, PING, b"ping".to_vec()),
        frame(false, CONTINUATION, vec![2; 130]),
        frame(true, CONTINUATION, vec![3; 40]),
        frame(true, TEXT, Vec::new()),
        frame(true, TEXT, "grüße, 世界".repeat(20).into_bytes()),
    ];
    let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
    for end in 0..=bytes.len() {
        for then in [Then::Fin, Then::Reset] {
            // In one read, and byte by byte.
            let cut = &bytes[..end];
            let single = cut.iter().map(|byte| vec![*byte]).collect();
            for reads in [vec![cut.to_vec()], single] {
                let (written, witness, _) = block_on(run(reads, then, &small_hold()));
                judge(cut, &written, 32);
                assert_eq!(witness.events(), ["upstream: connection_terminated"], "at {end}");
            }
        }
    }
}

#[test]
fn a_frame_of_20_mib_passes_without_being_held() {
    let payload = vec![0xAB; 20 * 1024 * 1024];
    let mut bytes = Frame { fin: true, opcode: BINARY, payload: payload.clone() }.bytes();
    bytes.extend(frame::control(CLOSE, &close::payload(1000, ""), None));
    let reads = bytes.chunks(65_536).map(<[u8]>::to_vec).collect();
    let settings = Settings { max_frame: u64::MAX, ..Settings::default() };
    let (written, _, report) = block_on(run(reads, Then::Fin, &settings));
    let (frames, rest) = naive(&written);
    assert_eq!((rest, report.summary.code), (&b""[..], 1000));
    let longest = frames.iter().map(|frame| frame.payload.len()).max();
    assert!(longest <= Some(2 * settings.hold), "a fragment of {longest:?} bytes");
    assert!(heard(&frames).messages == [(BINARY, payload)]);
}
