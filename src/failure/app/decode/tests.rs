use super::*;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use http::HeaderValue;
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::io::Write;

const PAGE: &[u8] =
    b"Traceback (most recent call last):\n  File \"/srv/app.py\", line 12, in view\n";

fn known(value: &'static str) -> Codings {
    let mut fields = HeaderMap::new();
    fields.insert(CONTENT_ENCODING, HeaderValue::from_static(value));
    codings(&fields).expect(value)
}

fn gzipped(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zlibbed(text: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn deflated(text: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn brotlied(mut text: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    let terms = brotli::enc::BrotliEncoderParams { quality: 5, ..Default::default() };
    brotli::BrotliCompress(&mut text, &mut encoded, &terms).unwrap();
    encoded
}

fn zstded(text: &[u8]) -> Vec<u8> {
    compress_to_vec(text, CompressionLevel::Fastest)
}

type Encode = fn(&[u8]) -> Vec<u8>;

/// Every coding, its name in the field, and how it is made.
const MADE: &[(&str, Encode)] = &[
    ("gzip", gzipped),
    ("x-gzip", gzipped),
    ("deflate", zlibbed),
    ("deflate", deflated),
    ("br", brotlied),
    ("zstd", zstded),
];

/// Text of `length` bytes that compresses about as a page does.
fn text(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        format!("word{} ", state >> 56)
    });
    words.flat_map(String::into_bytes).take(length).collect()
}

#[test]
fn the_field_tells_the_codings_in_their_order() {
    type Pair = (Option<Coding>, Option<Coding>);
    let names: &[(&'static str, Option<Pair>)] = &[
        ("", Some((None, None))),
        ("identity", Some((None, None))),
        (" identity , ", Some((None, None))),
        ("gzip", Some((Some(Coding::Gzip), None))),
        ("X-GZIP", Some((Some(Coding::Gzip), None))),
        ("deflate", Some((Some(Coding::Deflate), None))),
        ("identity, Br", Some((Some(Coding::Brotli), None))),
        ("gzip, zstd", Some((Some(Coding::Gzip), Some(Coding::Zstd)))),
        ("gzip, gzip, gzip", None),
        ("compress", None),
        ("gzip, aes128gcm", None),
        ("gzip;q=1", None),
    ];
    for (value, wanted) in names {
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_ENCODING, HeaderValue::from_static(value));
        let found = codings(&fields).map(|codings| (codings.inner, codings.outer));
        assert_eq!(found, *wanted, "{value}");
    }
    let mut lines = HeaderMap::new();
    lines.append(CONTENT_ENCODING, HeaderValue::from_static("br"));
    lines.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    assert_eq!(codings(&lines), Some(known("br, gzip")));
    assert_eq!(codings(&HeaderMap::new()), Some(Codings::default()));
}

#[test]
fn what_was_encoded_is_decoded() {
    for (name, encode) in MADE {
        for page in [PAGE, &text(40_000), b""] {
            let encoded = encode(page);
            let decoded = decode(known(name), &encoded).expect(name);
            assert!(decoded == page, "{name}, {} bytes", page.len());
        }
    }
    assert_eq!(decode(Codings::default(), PAGE).unwrap(), PAGE);
}

#[test]
fn two_codings_come_off_from_the_outside_in() {
    assert_eq!(decode(known("gzip, br"), &brotlied(&gzipped(PAGE))).unwrap(), PAGE);
    assert_eq!(decode(known("zstd, deflate"), &zlibbed(&zstded(PAGE))).unwrap(), PAGE);
    assert_eq!(decode(known("deflate, br"), &gzipped(&brotlied(PAGE))), None);
}

#[test]
fn several_members_or_frames_are_one_text() {
    let members = [gzipped(b"one "), gzipped(b"two")].concat();
    assert_eq!(decode(known("gzip"), &members).unwrap(), b"one two".as_slice());
    // Between the frames a skippable one (RFC 8878 §3.1.2).
    let skipped: &[u8] = &[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
    let frames = [zstded(b"one ").as_slice(), skipped, &zstded(b"two")].concat();
    assert_eq!(decode(known("zstd"), &frames).unwrap(), b"one two".as_slice());
}

#[test]
fn of_a_cut_stream_what_is_there_is_decoded() {
    let page = text(40_000);
    for (name, encode) in MADE.iter().filter(|(name, _)| *name != "zstd") {
        let encoded = encode(&page);
        let half = decode(known(name), &encoded[..encoded.len() / 2]).expect(name);
        assert!(page.starts_with(&half), "{name}");
        assert!(half.len() > page.len() / 3, "{name}: {} bytes", half.len());
    }
}

/// What libzstd 1.5 makes of three lines with a flush after each; a checksum follows.
const FLUSHED: &str = concat!(
    "28b52ffd045818010054726163656261636b20286d6f737420726563656e742063616c6c206c6173",
    "74293a0a380100202046696c6520222f7372762f6170702e7079222c206c696e652031322c20696e",
    "20766965770a88000056616c75654572726f723a20626f6f6d0a010000a0bd4919",
);

#[test]
fn of_a_cut_zstd_stream_every_whole_block_is_decoded() {
    let page = text(300_000);
    let encoded = zstded(&page);
    let cut = encoded.len() / 2;
    let half = decode(known("zstd"), &encoded[..cut]).unwrap();
    assert_eq!(half.len(), DECODED_BYTES);
    assert!(page.starts_with(&half));
    // Nothing comes of the first block alone if that is cut.
    assert_eq!(decode(known("zstd"), &encoded[..1000]), None);
    let flushed: Vec<u8> = FLUSHED
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let lines = [PAGE, b"ValueError: boom\n"].concat();
    let first = b"Traceback (most recent call last):\n".as_slice();
    for (length, wanted) in [(44, first), (85, first), (86, PAGE), (106, &lines), (113, &lines)] {
        let decoded = decode(known("zstd"), &flushed[..length]).unwrap();
        assert_eq!(decoded, wanted, "{length}");
    }
}

#[test]
fn a_prefix_out_of_which_nothing_comes_cannot_be_judged() {
    for (name, encode) in MADE {
        let encoded = encode(PAGE);
        assert_eq!(decode(known(name), &encoded[..1]), None, "{name}");
        // But where nothing has come at all, nothing is hidden.
        assert_eq!(decode(known(name), b"").unwrap(), b"".as_slice(), "{name}");
    }
}

#[test]
fn malformed_content_cannot_be_judged() {
    for (name, _) in MADE {
        assert_eq!(decode(known(name), PAGE), None, "{name}");
        assert_eq!(decode(known(name), &[0xff; 100]), None, "{name}");
    }
    assert_eq!(decode(known("zstd"), &gzipped(PAGE)), None);
    assert_eq!(decode(known("gzip"), &zstded(PAGE)), None);
}

#[test]
fn a_bomb_is_no_more_than_a_page() {
    let zeros = vec![0; 2 * 1024 * 1024];
    for (name, encode) in MADE {
        let bomb = encode(&zeros);
        let decoded = decode(known(name), &bomb).expect(name);
        assert_eq!(decoded.len(), DECODED_BYTES, "{name}");
    }
    let twice = gzipped(&gzipped(&zeros));
    assert_eq!(decode(known("gzip, gzip"), &twice).unwrap().len(), DECODED_BYTES);
    // 8 KiB of blocks that each repeat a byte 128 KiB times: decoded to the end, 250 MiB.
    let mut repeats = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 13 << 3];
    let block = (128 * 1024u32) << 3 | 1 << 1;
    let [a, b, c, _] = block.to_le_bytes();
    repeats.extend([a, b, c, b'x'].repeat(2000));
    assert_eq!(decode(known("zstd"), &repeats).unwrap(), vec![b'x'; DECODED_BYTES]);
}

#[test]
fn a_zstd_window_beyond_what_content_may_ask_for_is_refused() {
    // The magic number, no flags, a window of 128 MiB, an empty last block.
    let frame = |window: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, window, 1, 0, 0];
    assert_eq!(decode(known("zstd"), &frame(17 << 3)), None);
    assert_eq!(decode(known("zstd"), &frame(13 << 3)).unwrap(), b"".as_slice());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_under_any_coding_stay_within_the_bound(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        name in proptest::sample::select(vec!["gzip", "deflate", "br", "zstd", "br, gzip"]),
    ) {
        if let Some(text) = decode(known(name), &bytes) {
            prop_assert!(text.len() <= DECODED_BYTES);
        }
    }

    /// Past the magic numbers and checks of a header, which random bytes do not pass.
    #[test]
    fn any_damage_to_a_stream_stays_within_the_bound(
        made in 0..MADE.len(),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<proptest::sample::Index>(),
    ) {
        let (name, encode) = MADE[made];
        let mut encoded = encode(&text(1000));
        for (at, byte) in flips {
            let at = at.index(encoded.len());
            encoded[at] = byte;
        }
        encoded.truncate(cut.index(encoded.len() + 1));
        if let Some(text) = decode(known(name), &encoded) {
            prop_assert!(text.len() <= DECODED_BYTES);
        }
    }
}
