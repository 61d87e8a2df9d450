//! The beginning of encoded content, as text: what an app's error answer says under its
//! `Content-Encoding` (RFC 9110 §8.4).
//!
//! An app behind a compressing middleware sends its stack trace compressed. [`codings`] tells from
//! the fields which codings lie around the content; [`decode`] takes them off a prefix of it. It
//! promises:
//!
//! - at most [`DECODED_BYTES`] come out, and each decoder stops there: a decompression bomb costs
//!   what a page costs;
//! - a prefix is normal: what it holds is decoded, and its end in the middle of a stream is no
//!   error. Zstandard decodes by blocks, so of a block that is cut nothing comes;
//! - what is malformed is `None`, and so is a prefix out of which nothing came. Neither can be
//!   judged;
//! - no panic leaves it, not even a decoder's own.
//!
//! gzip (also of several members), deflate (in zlib's wrapping as the RFC has it, and raw as some
//! servers send it), br and zstd, at most two of them around each other. Checksums are not proof
//! of anything here: that a client could not read the whole is no reason not to judge its start.

use std::borrow::Cow;
use std::io::{ErrorKind, Read};
use std::panic::catch_unwind;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use http::header::{CONTENT_ENCODING, HeaderMap};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// How much text a prefix is decoded to at most, in bytes.
pub(super) const DECODED_BYTES: usize = 64 * 1024;

/// RFC 9659 §3: content may not ask for more, in bytes.
const ZSTD_WINDOW: u64 = 8 * 1024 * 1024;

/// A coding that can be taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// The codings around some content, in the order in which they were applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Codings {
    inner: Option<Coding>,
    outer: Option<Coding>,
}

/// The codings that the fields tell. `None`: one is unknown, or they are more than two.
pub(super) fn codings(fields: &HeaderMap) -> Option<Codings> {
    let mut codings = Codings::default();
    let values = fields.get_all(CONTENT_ENCODING).iter();
    for name in values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        let coding = match name.trim_ascii().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => continue,
            b"gzip" | b"x-gzip" => Coding::Gzip,
            b"deflate" => Coding::Deflate,
            b"br" => Coding::Brotli,
            b"zstd" => Coding::Zstd,
            _ => return None,
        };
        let place = match codings {
            Codings { inner: None, .. } => &mut codings.inner,
            Codings { outer: None, .. } => &mut codings.outer,
            Codings { .. } => return None,
        };
        *place = Some(coding);
    }
    Some(codings)
}

/// The text of a prefix of content under `codings`: at most [`DECODED_BYTES`] of it, unless there
/// is no coding.
pub(super) fn decode(codings: Codings, prefix: &[u8]) -> Option<Cow<'_, [u8]>> {
    let mut text = Cow::Borrowed(prefix);
    for coding in [codings.outer, codings.inner].into_iter().flatten() {
        text = Cow::Owned(take_off(coding, &text)?);
    }
    Some(text)
}

fn take_off(coding: Coding, encoded: &[u8]) -> Option<Vec<u8>> {
    if encoded.is_empty() {
        return Some(Vec::new());
    }
    // The decoders are others' code on hostile bytes. One that gives up in this way has found
    // nothing readable; the request must not pay for it.
    let decoded = catch_unwind(|| match coding {
        Coding::Gzip => gzip(encoded),
        // Raw streams have no sign of their own: most bytes begin one, which decodes to noise.
        Coding::Deflate => deflate(encoded, true)
            .or_else(|| deflate(encoded, false).filter(|(text, ended)| *ended || is_text(text))),
        Coding::Brotli => brotli(encoded),
        Coding::Zstd => zstd(encoded),
    });
    let (text, ended) = decoded.ok().flatten()?;
    (ended || !text.is_empty()).then_some(text)
}

/// What came out, and whether the stream ended where it says itself that it ends.
type Decoded = Option<(Vec<u8>, bool)>;

fn gzip(encoded: &[u8]) -> Decoded {
    let mut text = Vec::new();
    let mut decoder = MultiGzDecoder::new(encoded).take(DECODED_BYTES as u64);
    match decoder.read_to_end(&mut text) {
        Ok(_) => Some((text, true)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Some((text, false)),
        Err(_) => None,
    }
}

fn deflate(encoded: &[u8], zlib: bool) -> Decoded {
    let mut text = Vec::with_capacity(DECODED_BYTES);
    let mut decoder = Decompress::new(zlib);
    match decoder.decompress_vec(encoded, &mut text, FlushDecompress::None) {
        Ok(status) => Some((text, status == Status::StreamEnd)),
        Err(_) => None,
    }
}

/// Is this the beginning of UTF-8?
fn is_text(text: &[u8]) -> bool {
    std::str::from_utf8(text).map_or_else(|error| error.error_len().is_none(), |_| true)
}

fn brotli(encoded: &[u8]) -> Decoded {
    let allocator = StandardAlloc::default;
    // Strict: without the large windows that are no part of the content coding.
    let mut state = BrotliState::new_strict(allocator(), allocator(), allocator());
    let mut text = vec![0; DECODED_BYTES];
    let (mut unread, mut read, mut room, mut written) = (encoded.len(), 0, text.len(), 0);
    let result = BrotliDecompressStream(
        &mut unread,
        &mut read,
        encoded,
        &mut room,
        &mut written,
        &mut text,
        &mut 0,
        &mut state,
    );
    text.truncate(written);
    match result {
        BrotliResult::ResultFailure => None,
        BrotliResult::ResultSuccess => Some((text, true)),
        BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => Some((text, false)),
    }
}

fn zstd(mut encoded: &[u8]) -> Decoded {
    let mut text = Vec::new();
    while !encoded.is_empty() && text.len() < DECODED_BYTES {
        match frame(encoded, &mut text)? {
            Some(rest) => encoded = rest,
            None => return Some((text, false)),
        }
    }
    Some((text, true))
}

/// Decodes one Zstandard frame (RFC 8878 §3.1); what follows it, or `Some(None)` if it is cut.
fn frame<'a>(frame: &'a [u8], text: &mut Vec<u8>) -> Option<Option<&'a [u8]>> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(ZSTD_WINDOW);
    let mut content = frame;
    match decoder.reset(&mut content) {
        Ok(()) => {}
        Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
            length,
            ..
        })) => return Some(usize::try_from(length).ok().and_then(|length| content.get(length..))),
        // A header is 18 bytes at most.
        Err(_) if frame.len() < 18 && content.is_empty() => return Some(None),
        Err(_) => return None,
    }
    let has_checksum = frame.get(4).is_some_and(|descriptor| descriptor & 0b100 != 0);
    let (length, is_last) = blocks(content);
    let after = content.get(length..).unwrap_or_default();

    // The decoder gives the text of a window only when the frame has ended, so a cut frame gets an
    // end: an empty last block, and a checksum, which nobody looks at.
    const END: &[u8] = &[1, 0, 0, 0, 0, 0, 0];
    let mut whole = content.get(..length).unwrap_or_default().to_vec();
    whole.extend_from_slice(if is_last { &[0; 4] } else { END });
    let room = DECODED_BYTES.saturating_sub(text.len());
    let strategy = BlockDecodingStrategy::UptoBytes(room);
    if !decoder.decode_blocks(whole.as_slice(), strategy).ok()? {
        decoder.decode_blocks(END, BlockDecodingStrategy::All).ok()?;
    }
    decoder.take(room as u64).read_to_end(text).ok()?;
    let checksum = if has_checksum { 4 } else { 0 };
    Some(if is_last { after.get(checksum..) } else { None })
}

/// The length of the blocks that are whole (RFC 8878 §3.1.1.2), and whether the last one of the
/// frame is among them.
fn blocks(content: &[u8]) -> (usize, bool) {
    const RLE: usize = 1;
    let mut rest = content;
    while let [a, b, c, after @ ..] = rest {
        let header = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
        let (is_last, kind, size) = (header & 1 == 1, header >> 1 & 3, header >> 3);
        let Some(next) = after.get(if kind == RLE { 1 } else { size }..) else { break };
        rest = next;
        if is_last {
            return (content.len() - rest.len(), true);
        }
    }
    (content.len() - rest.len(), false)
}

#[cfg(test)]
mod tests;
