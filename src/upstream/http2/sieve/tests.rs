use super::super::watch::Open;
use super::*;
use crate::config::model::UpstreamLimits;
use proptest::prelude::*;
use tokio::io::AsyncReadExt;

/// A frame with this payload.
fn framed(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame(&mut out, kind, flags, stream, payload);
    out.to_vec()
}

fn goaway(last: u32, debug: &[u8]) -> Vec<u8> {
    framed(GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &[0; 4], debug].concat())
}

/// A literal, indexed or not.
fn literal(first: u8, name: &str, value: &str) -> Vec<u8> {
    let field = Field { name: name.as_bytes(), value: value.as_bytes(), never_indexed: false };
    let mut out = Vec::new();
    hpack::encode(field, &mut out);
    out[0] = first;
    out
}

fn plain(name: &str, value: &str) -> Vec<u8> {
    literal(0, name, value)
}

fn status(value: &str) -> Vec<u8> {
    plain(":status", value)
}

fn limits() -> Limits {
    Limits::from(&UpstreamLimits::default())
}

/// A sieve, and streams 1, 3 and 5 of it.
fn sieve() -> (Sieve, Rc<Watch>, [Open; 3]) {
    let watch = Rc::new(Watch::default());
    let streams = [1, 3, 5].map(|stream| watch.open(stream));
    (Sieve::new(Rc::clone(&watch), limits()), watch, streams)
}

/// What the library reads of pieces that come one after the other.
fn read(sieve: &mut Sieve, pieces: &[&[u8]]) -> Vec<u8> {
    let mut seen = Vec::new();
    for piece in pieces {
        let passed = sieve.walk(piece);
        seen.extend_from_slice(&piece[..passed]);
        seen.extend_from_slice(&sieve.out.split());
    }
    seen
}

fn head(stream: u32, block: &[Vec<u8>]) -> Vec<u8> {
    framed(HEADERS, END_HEADERS, stream, &block.concat())
}

fn lost(stream: u32) -> Vec<u8> {
    framed(HEADERS, END_HEADERS, stream, MALFORMED)
}

#[test]
fn frames_pass_the_same_wherever_the_reads_are_cut() {
    let bytes = [
        framed(4, 0, 0, &[]),
        head(1, &[status("200"), literal(0x40, "a", "b")]),
        framed(DATA, 0, 1, &[7; 40]),
        framed(PRIORITY, 0, 1, &[0; 5]),
        framed(DATA, 0, 1, &[]),
        framed(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9]),
        framed(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 0]),
        head(3, &[status("200"), vec![0xbe], plain("A", "b")]),
        framed(
            HEADERS,
            PADDED | PRIORITISED,
            5,
            &[&[2, 0, 0, 0, 0, 1][..], &[0x88, 0, 0]].concat(),
        ),
        framed(CONTINUATION, END_HEADERS, 5, &[0xbe]),
        goaway(5, b"bye"),
        framed(6, 0, 0, &[0; 8]),
        framed(DATA, END_STREAM, 5, b"end"),
    ]
    .concat();
    let expected = [
        framed(4, 0, 0, &[]),
        head(1, &[status("200"), plain("a", "b")]),
        framed(DATA, 0, 1, &[7; 40]),
        framed(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9]),
        lost(1),
        lost(3),
        head(5, &[status("200"), plain("a", "b")]),
        goaway(5, b"bye"),
        framed(6, 0, 0, &[0; 8]),
        framed(DATA, END_STREAM, 5, b"end"),
    ]
    .concat();
    for cut in 0..=bytes.len() {
        let (mut sieve, watch, streams) = sieve();
        let (first, second) = bytes.split_at(cut);
        assert_eq!(read(&mut sieve, &[first, second]), expected, "cut at {cut}");
        let flaws = streams.each_ref().map(Open::flaw);
        assert_eq!(flaws, [Some(Flaw::Frame), Some(Flaw::Name), None], "cut at {cut}");
        assert!(streams.iter().all(|stream| stream.heard() > 0));
        assert!(watch.goes_away() && !watch.disclaims(5) && watch.disclaims(7));
    }
    let (mut sieve, _, _streams) = sieve();
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(read(&mut sieve, &single), expected);
}

#[test]
fn a_bad_field_is_in_the_table_of_those_that_follow() {
    let (mut sieve, _, streams) = sieve();
    let bytes = [
        head(1, &[status("200"), literal(0x40, "x-a", "a\u{1}b"), literal(0x40, "x-b", "b")]),
        // Both of them by their index: 62 is the newest.
        head(3, &[status("200"), vec![0xbe]]),
        head(5, &[status("200"), vec![0xbf]]),
    ];
    let expected = [lost(1), head(3, &[status("200"), plain("x-b", "b")]), lost(5)];
    assert_eq!(read(&mut sieve, &[&bytes.concat()]), expected.concat());
    let flaws = streams.each_ref().map(Open::flaw);
    assert_eq!(flaws, [Some(Flaw::Value), None, Some(Flaw::Value)]);
}

#[test]
fn a_head_that_is_too_large_costs_its_stream_and_leaves_the_table_right() {
    for size in [70_000, 300_000, 1_000_000] {
        let (mut sieve, _, streams) = sieve();
        let fields: Vec<_> = (0..size / 1000)
            .map(|at| literal(0x40, &format!("x-{at}"), &"v".repeat(1000)))
            .collect();
        let block = [vec![0x88], fields.concat(), literal(0x40, "x-last", "z")].concat();
        let mut parts = block.chunks(MAX_FRAME);
        let mut bytes = framed(HEADERS, 0, 1, parts.next().unwrap());
        parts.for_each(|part| bytes.extend(framed(CONTINUATION, 0, 1, part)));
        bytes.extend(framed(CONTINUATION, END_HEADERS, 1, &[]));
        bytes.extend(head(3, &[status("200"), vec![0xbe]]));
        let expected = [lost(1), head(3, &[status("200"), plain("x-last", "z")])];
        assert_eq!(read(&mut sieve, &[&bytes]), expected.concat());
        assert_eq!(streams[0].flaw(), Some(Flaw::HeadTooLarge));
    }
}

#[test]
fn a_large_head_within_the_limits_is_cut_into_frames() {
    let (mut sieve, _, _streams) = sieve();
    let value = "v".repeat(20_000);
    let block = [status("200"), plain("a", &value)].concat();
    let (first, rest) = block.split_at(100);
    let (second, third) = rest.split_at(16_000);
    let bytes = [
        framed(HEADERS, END_STREAM, 1, first),
        framed(CONTINUATION, 0, 1, second),
        framed(CONTINUATION, END_HEADERS, 1, third),
    ];
    let (first, second) = block.split_at(MAX_FRAME);
    let expected =
        [framed(HEADERS, END_STREAM, 1, first), framed(CONTINUATION, END_HEADERS, 1, second)];
    assert_eq!(read(&mut sieve, &[&bytes.concat()]), expected.concat());
}

#[test]
fn what_ruins_the_compression_or_the_order_of_frames_ends_the_connection() {
    let ruin = framed(HEADERS, END_HEADERS, 1, CORRUPT);
    let rows = [
        ("an index of nothing", head(3, &[vec![0xbe]])),
        ("a field that is not whole", head(3, &[vec![0x88, 0, 5, b'a']])),
        (
            "a frame within a block",
            [framed(HEADERS, 0, 3, &[0x88]), framed(DATA, 0, 3, b"x")].concat(),
        ),
        (
            "another stream's",
            [framed(HEADERS, 0, 3, &[0x88]), framed(CONTINUATION, 4, 5, &[])].concat(),
        ),
    ];
    for (what, bytes) in rows {
        let (mut sieve, _, streams) = sieve();
        let bytes = [bytes, framed(6, 0, 0, &[0; 8])].concat();
        assert_eq!(read(&mut sieve, &[&bytes]), ruin, "{what}");
        let blamed = streams.each_ref().map(Open::is_culprit);
        assert_eq!(blamed, [Some(false), Some(true), Some(false)], "{what}");
    }
}

#[test]
fn content_that_no_frame_can_carry_costs_its_stream_and_is_counted() {
    let (mut sieve, _, streams) = sieve();
    let bytes = framed(DATA, PADDED | END_STREAM, 1, &[1; 20_000]);
    let expected = [
        lost(1),
        framed(DATA, 0, 1, &[1; MAX_FRAME]),
        framed(DATA, 0, 1, &[1; 20_000 - MAX_FRAME]),
    ];
    assert_eq!(read(&mut sieve, &[&bytes]), expected.concat());
    assert_eq!(streams[0].flaw(), Some(Flaw::Frame));
}

#[test]
fn content_before_a_head_costs_its_stream_and_is_counted() {
    let (mut sieve, _, streams) = sieve();
    let data = framed(DATA, 0, 3, b"early");
    let bytes = [framed(4, 0, 0, &[]), data.clone(), framed(6, 0, 0, &[0; 8])].concat();
    let expected = [framed(4, 0, 0, &[]), lost(3), data, framed(6, 0, 0, &[0; 8])].concat();
    assert_eq!(read(&mut sieve, &[&bytes]), expected);
    assert_eq!(streams[1].flaw(), Some(Flaw::Frame));
}

#[test]
fn a_section_of_a_stream_that_nobody_waits_for_is_for_the_library_to_judge() {
    let (mut sieve, _, _streams) = sieve();
    let bytes = [head(7, &[status("abc"), plain("A", "b")]), framed(WINDOW_UPDATE, 0, 7, &[0; 4])];
    assert_eq!(read(&mut sieve, &[&bytes.concat()]), head(7, &[vec![STATUS_200]]));
}

#[tokio::test]
async fn a_connection_that_ends_within_a_frame_ends_so_for_the_library() {
    let block = framed(HEADERS, END_HEADERS, 1, &status("200"));
    for cut in 1..block.len() {
        let (watch, bytes) = (Rc::new(Watch::default()), &block[..cut]);
        let (mut seen, _open) = (Vec::new(), watch.open(1));
        Sieved::new(bytes, watch, limits()).read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, [0; 3], "cut at {cut}");
    }
}

#[tokio::test]
async fn a_reader_with_little_room_gets_the_same() {
    let bytes = [
        head(1, &[status("200"), literal(0x40, "a", "b")]),
        framed(DATA, 0, 1, &[7; 400]),
        head(3, &[status("200"), vec![0xbe]]),
    ]
    .concat();
    let expected = [
        head(1, &[status("200"), plain("a", "b")]),
        framed(DATA, 0, 1, &[7; 400]),
        head(3, &[status("200"), plain("a", "b")]),
    ];
    for room in [1, 2, 9, 10, 100] {
        let watch = Rc::new(Watch::default());
        let _open = [1, 3].map(|stream| watch.open(stream));
        let mut sieved = Sieved::new(&bytes[..], watch, limits());
        let (mut seen, mut buffer) = (Vec::new(), vec![0; room]);
        loop {
            match sieved.read(&mut buffer).await.unwrap() {
                0 => break,
                count => seen.extend_from_slice(&buffer[..count]),
            }
        }
        assert_eq!(seen, expected.concat(), "room for {room}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6),
    ) {
        let (mut sieve, _, _streams) = sieve();
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        read(&mut sieve, &pieces);
    }

    #[test]
    fn arbitrary_frames_never_panic(
        frames in prop::collection::vec(
            (0_u8..10, any::<u8>(), 0_u32..6, prop::collection::vec(any::<u8>(), 0..60)), 0..12),
        cut in 0_usize..700,
    ) {
        let (mut sieve, _, _streams) = sieve();
        let bytes: Vec<u8> = frames
            .iter()
            .flat_map(|(kind, flags, stream, payload)| framed(*kind, *flags, *stream, payload))
            .collect();
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        read(&mut sieve, &[first, second]);
    }
}

/// The content of a stream in these frames.
fn content_of(stream: u32, mut frames: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    while let Some((header, rest)) = frames.split_first_chunk::<HEADER>() {
        let head = Head::parse(*header);
        let (payload, rest) = rest.split_at(head.length);
        if (head.kind, head.stream) == (DATA, stream) {
            content.extend_from_slice(payload);
        }
        frames = rest;
    }
    content
}

#[test]
fn what_comes_behind_the_end_of_a_stream_loses_it_once() {
    let begun = || head(1, &[status("200")]);
    let end = || framed(DATA, END_STREAM, 1, b"x");
    let late = || framed(DATA, 0, 1, b"y");
    let trailers = || framed(HEADERS, END_HEADERS | END_STREAM, 1, &plain("a", "b"));
    let rows = [
        ([end(), late()], [end(), lost(1), late()].concat()),
        ([end(), trailers()], [end(), lost(1)].concat()),
        ([trailers(), late()], [trailers(), lost(1), late()].concat()),
    ];
    for (bytes, expected) in rows {
        let (mut sieve, _, _streams) = sieve();
        read(&mut sieve, &[&begun()]);
        assert_eq!(read(&mut sieve, &[&bytes.concat(), &late()]), [expected, late()].concat());
    }
}

proptest! {
    /// Whatever is taken when, and wherever the reads are cut.
    #[test]
    fn gathered_content_keeps_its_order(
        frames in prop::collection::vec((prop::bool::ANY, prop_oneof![
            8 => 1_usize..40, 1 => 4000_usize..5000], prop::bool::weighted(0.05)), 0..300),
        cuts in prop::collection::vec(1_usize..400, 1..40),
        takes in prop::collection::vec(0_usize..40, 1..40),
    ) {
        let (mut sieve, watch, streams) = sieve();
        let mut bytes = [head(1, &[status("200")]), head(3, &[status("200")])].concat();
        let (mut expected, mut count) = ([Vec::new(), Vec::new()], 0_u8);
        for (first, length, padded) in frames {
            let content: Vec<u8> = (0..length).map(|_| { count = count.wrapping_add(1); count })
                .collect();
            let (at, stream) = if first { (0, 1) } else { (1, 3) };
            expected[at].extend_from_slice(&content);
            bytes.extend(framed(DATA, 0, stream, &content));
            if padded {
                bytes.extend(framed(DATA, PADDED, stream, &[1, 0]));
                expected[at].extend_from_slice(&[1, 0]);
            }
        }
        let (mut seen, mut rest) = (Vec::new(), &bytes[..]);
        for turn in 0.. {
            let (now, later) = rest.split_at(cuts[turn % cuts.len()].min(rest.len()));
            rest = later;
            sieve.let_go_due();
            seen.extend_from_slice(&sieve.out.split());
            seen.extend(read(&mut sieve, &[now]));
            for _ in 0..takes[turn % takes.len()] {
                streams[turn % 2].took(20);
            }
            if rest.is_empty() {
                break;
            }
        }
        let all = watch.backlog.all();
        all.iter().for_each(|(stream, content)| sieve.content(*stream, content));
        seen.extend_from_slice(&sieve.out.split());
        for (at, stream) in [1, 3].into_iter().enumerate() {
            prop_assert!(content_of(stream, &seen) == expected[at], "stream {}", stream);
        }
    }
}
