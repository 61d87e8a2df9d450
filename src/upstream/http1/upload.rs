//! A request on its way to an upstream: its head, then its content, framed again (RFC 9112 §6).
//!
//! The head and the content that is there leave in one write. Small content is copied behind what is
//! already waiting, large content is written from where it lies. The upload never runs ahead of
//! the socket: content is taken from the client only when everything before it was accepted, and not
//! more at a time than makes a good write, which is the back-pressure of P6.
//!
//! `listen::http1` sends responses in the same way. What is called the upstream here is the client
//! then, and what is called the client is the response's content.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use tokio::io::AsyncWrite;

use crate::failure::Source;
use crate::message::field::may_be_trailer;
use crate::upstream::framing::{Announced, Framing};
use crate::upstream::pieces::Pieces;
use crate::upstream::upload::{ContentLimit, Meter, UploadError, Waiting};

/// Content up to this size is copied behind the head; more is a second entry of a vectored write,
/// which at 16 KiB takes 7 % less CPU (benches/README.md).
const COPY_LIMIT: usize = 4 * 1024;

/// What is gathered for a write, unless a single piece is larger.
const GATHERED_BYTES: usize = 64 * 1024;
const GATHERED_PIECES: usize = 8;

/// What is sent before the other tasks of the worker have their turn: large content between two sides
/// that are both fast would keep them waiting until tokio's budget is used up, which is megabytes.
const TURN_BYTES: u64 = 512 * 1024;

const CRLF: &[u8] = b"\r\n";

/// One request being sent.
#[derive(Debug)]
pub struct Upload<B> {
    /// What is written first, and how many bytes it is.
    queue: Pieces,
    queued: usize,
    /// What follows: more can be appended to it.
    out: BytesMut,
    body: Option<B>,
    framing: Framing,
    may_send_content: bool,
    meter: Meter,
    /// All of the content that the head has announced was taken.
    is_complete: bool,
    /// The writer has not taken all that it was given.
    blocked: bool,
    sent: u64,
    /// Frames that the content has given, empty ones too.
    given: u64,
}

/// Evidence that all of a message was written that its head has announced.
#[derive(Debug)]
pub struct AllSent(());

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Source>,
{
    /// An upload of this head and of the content that it announces.
    ///
    /// `expects_continue` holds the content back until [`Upload::proceed`]. More than
    /// the `content_limit`'s bytes of content are refused as the client's failure.
    pub fn new(
        head: Announced<BytesMut>,
        body: Option<B>,
        expects_continue: bool,
        content_limit: ContentLimit,
    ) -> Self {
        let (head, framing) = head.into_parts();
        let body = body.filter(|_| framing != Framing::Empty);
        Upload {
            queue: Pieces::default(),
            queued: 0,
            out: head,
            body,
            framing,
            may_send_content: !expects_continue,
            is_complete: framing == Framing::Empty,
            blocked: false,
            meter: Meter::new(content_limit, framing),
            sent: 0,
            given: 0,
        }
    }

    /// The upstream said 100, or has been waited for long enough: send the content.
    pub fn proceed(&mut self) {
        self.may_send_content = true;
    }

    /// Returns the evidence that all was sent that the head has announced, if it was.
    pub fn all_sent(&self) -> Option<AllSent> {
        let is_written = self.out.is_empty() && self.queue.is_empty();
        (self.is_complete && is_written).then_some(AllSent(()))
    }

    /// Bytes that the kernel has accepted: 0 means that nothing reached the upstream.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Returns what grows whenever a byte moves: from the client, or to the upstream.
    pub fn moved(&self) -> u64 {
        self.sent + self.given
    }

    /// Sends as much as can be sent now. Tells what it waits for; the task is woken when that may
    /// have changed. Cancel-safe: it is a poll.
    ///
    /// # Errors
    /// When either side fails. The upload is over then.
    pub fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Result<Waiting, UploadError> {
        let turn_ends = self.sent + TURN_BYTES;
        loop {
            let waiting = if self.blocked { None } else { self.gather(cx)? };
            match self.poll_write_out(stream, cx) {
                Poll::Ready(Ok(())) => self.blocked = false,
                Poll::Ready(Err(error)) => return Err(UploadError::Upstream(error)),
                Poll::Pending => {
                    self.blocked = true;
                    return Ok(Waiting::Upstream);
                }
            }
            if let Some(waiting) = waiting {
                return Ok(waiting);
            }
            if self.sent >= turn_ends {
                cx.waker().wake_by_ref();
                return Ok(Waiting::Upstream);
            }
        }
    }

    /// Takes content until there is enough for a write: `None`, or why there is no more now.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<Option<Waiting>, UploadError> {
        while self.queue.len() < GATHERED_PIECES && self.queued + self.out.len() < GATHERED_BYTES {
            let Some(body) = self.body.as_mut() else { return Ok(Some(Waiting::Done)) };
            if !self.may_send_content {
                return Ok(Some(Waiting::Continue));
            }
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => {
                    self.meter.waits();
                    return Ok(Some(Waiting::Client));
                }
                Poll::Ready(Some(Ok(frame))) => self.enqueue(frame)?,
                Poll::Ready(Some(Err(error))) => {
                    return Err(UploadError::content(error.into()));
                }
                Poll::Ready(None) => self.finish(None)?,
            }
        }
        Ok(None)
    }

    fn enqueue(&mut self, frame: http_body::Frame<Bytes>) -> Result<(), UploadError> {
        self.given += 1;
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return self.finish(frame.into_trailers().ok()),
        };
        if data.is_empty() {
            return Ok(());
        }
        self.meter.take(data.len())?;
        let chunked = self.framing == Framing::Chunked;
        if chunked {
            extend_hex(&mut self.out, data.len());
        }
        if data.len() > COPY_LIMIT {
            if !self.out.is_empty() {
                let before = std::mem::take(&mut self.out).freeze();
                self.queued += before.len();
                self.queue.push(before);
            }
            self.queued += data.len();
            self.queue.push(data);
        } else {
            self.out.extend_from_slice(&data);
        }
        if chunked {
            self.out.extend_from_slice(CRLF);
        }
        Ok(())
    }

    fn finish(&mut self, trailers: Option<http::HeaderMap>) -> Result<(), UploadError> {
        self.body = None;
        if self.framing == Framing::Chunked {
            self.out.extend_from_slice(b"0\r\n");
            for (name, value) in trailers.iter().flatten() {
                if may_be_trailer(name.as_str().as_bytes()) {
                    extend_field(&mut self.out, name.as_str().as_bytes(), value.as_bytes());
                }
            }
            self.out.extend_from_slice(b"\r\n");
        }
        self.meter.finish(self.framing)?;
        self.is_complete = true;
        Ok(())
    }

    /// Forgets `count` bytes that the kernel has accepted.
    fn consume(&mut self, count: usize) {
        let mut left = count;
        while left > 0
            && let Some(first) = self.queue.first_mut()
        {
            let taken = left.min(first.len());
            first.advance(taken);
            left -= taken;
            self.queued -= taken;
            if first.is_empty() {
                self.queue.pop();
            }
        }
        self.out.advance(left.min(self.out.len()));
    }

    fn poll_write_out<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !(self.out.is_empty() && self.queue.is_empty()) {
            let stream = Pin::new(&mut *stream);
            let polled = if self.queue.is_empty() {
                stream.poll_write(cx, &self.out)
            } else {
                // Gathering stops before there are more.
                let mut pieces = [IoSlice::new(b""); GATHERED_PIECES + 2];
                let waiting = self.queue.iter().map(|piece| &**piece).chain([&*self.out]);
                for (place, piece) in pieces.iter_mut().zip(waiting) {
                    *place = IoSlice::new(piece);
                }
                let count = self.queue.len() + usize::from(!self.out.is_empty());
                stream.poll_write_vectored(cx, pieces.get(..count).unwrap_or(&pieces))
            };
            let count = match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            };
            self.sent += count as u64;
            self.consume(count);
        }
        Pin::new(stream).poll_flush(cx)
    }
}

/// Appends `name: value CRLF`.
pub fn extend_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a chunk-size line.
fn extend_hex(out: &mut BytesMut, size: usize) {
    extend_digits::<16>(out, size as u64);
    out.extend_from_slice(CRLF);
}

/// Appends a number. (`write!` takes six times as long.)
pub fn extend_decimal(out: &mut BytesMut, number: u64) {
    extend_digits::<10>(out, number);
}

fn extend_digits<const BASE: u64>(out: &mut BytesMut, number: u64) {
    // The longest has 20.
    let mut digits = [0_u8; 20];
    let (mut from, mut left) = (digits.len(), number);
    for (place, digit) in digits.iter_mut().enumerate().rev() {
        *digit = b"0123456789abcdef".get((left % BASE) as usize).copied().unwrap_or(b'0');
        left /= BASE;
        from = place;
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(from..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::framing::Absence;

    use http_body::Frame;
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Pieces of content that are all there.
    struct Ready(VecDeque<Bytes>);

    impl Body for Ready {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    /// Takes so many bytes a call.
    struct Slow {
        at_once: usize,
        taken: Vec<u8>,
        calls: usize,
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let (before, mut left) = (self.taken.len(), self.at_once);
            for buf in bufs {
                let count = left.min(buf.len());
                self.taken.extend_from_slice(&buf[..count]);
                left -= count;
            }
            self.calls += 1;
            Poll::Ready(Ok(self.taken.len() - before))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What is written of pieces of these sizes, and in how many calls.
    fn send(sizes: &[usize], framing: Framing, at_once: usize) -> (Vec<u8>, usize) {
        let piece = |(at, size): (usize, &usize)| Bytes::from(vec![b'a' + at as u8; *size]);
        let body = Ready(sizes.iter().enumerate().map(piece).collect());
        let (head, limit) = (BytesMut::from("head\r\n"), ContentLimit::default());
        let mut head = Announced::lines(head, framing, Absence::Understood);
        head.push(CRLF);
        let mut upload = Upload::new(head, Some(body), false, limit);
        let mut stream = Slow { at_once, taken: Vec::new(), calls: 0 };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(upload.poll(&mut stream, &mut cx).unwrap(), Waiting::Done);
        assert_eq!(upload.sent(), stream.taken.len() as u64);
        (stream.taken, stream.calls)
    }

    #[test]
    fn what_is_there_leaves_in_one_write() {
        for sizes in [&[][..], &[10], &[8_000, 8_400], &[10, 9_000, 10, 9_000, 10], &[4_096; 15]] {
            let length = Framing::Length(sizes.iter().sum::<usize>() as u64);
            assert_eq!(send(sizes, length, usize::MAX).1, 1, "{sizes:?}");
            assert_eq!(send(sizes, Framing::Chunked, usize::MAX).1, 1, "{sizes:?}");
        }
        // But not more than makes a good write.
        assert_eq!(send(&[5_000; 40], Framing::Length(200_000), usize::MAX).1, 6);
        assert_eq!(send(&[100_000; 3], Framing::Length(300_000), usize::MAX).1, 3);
    }

    #[test]
    fn content_without_end_leaves_the_worker_to_others_between_turns() {
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        let body = Ready(std::iter::repeat_n(piece, 100).collect());
        let head = Announced::lines(BytesMut::new(), Framing::Chunked, Absence::Understood);
        let mut upload = Upload::new(head, Some(body), false, ContentLimit::default());
        let mut stream = Slow { at_once: usize::MAX, taken: Vec::new(), calls: 0 };
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Arc::clone(&woken).into();
        let mut cx = Context::from_waker(&waker);
        let (mut turns, mut sent) = (1, 0);
        while upload.poll(&mut stream, &mut cx).unwrap() != Waiting::Done {
            assert!(upload.sent() - sent < 2 * TURN_BYTES, "turn {turns}");
            assert_eq!(woken.0.load(Ordering::Relaxed), turns, "it goes on by itself");
            (turns, sent) = (turns + 1, upload.sent());
        }
        assert!(upload.all_sent().is_some() && turns > 10);
    }

    #[test]
    fn a_writer_that_takes_little_gets_the_same() {
        let sizes = [10, 5_000, 0, 4_096, 4_097, 1, 70_000, 20];
        let length = Framing::Length(sizes.iter().sum::<usize>() as u64);
        for framing in [length, Framing::Chunked] {
            let (whole, _) = send(&sizes, framing, usize::MAX);
            for at_once in [1, 2, 3, 7, 4_096, 5_021] {
                assert_eq!(send(&sizes, framing, at_once).0, whole, "{at_once} bytes a write");
            }
        }
        let (chunked, _) = send(&[3, 5_000], Framing::Chunked, usize::MAX);
        let head = "head\r\ntransfer-encoding: chunked\r\n\r\n";
        let expected = format!("{head}3\r\naaa\r\n1388\r\n{}\r\n0\r\n\r\n", "b".repeat(5_000));
        assert_eq!(String::from_utf8(chunked).unwrap(), expected);
    }

    #[test]
    fn chunk_sizes_are_hexadecimal_and_lengths_decimal() {
        for size in [0, 1, 9, 10, 15, 16, 255, 4096, 0x00de_adbe, usize::MAX] {
            let mut out = BytesMut::new();
            extend_hex(&mut out, size);
            extend_decimal(&mut out, size as u64);
            assert_eq!(out, format!("{size:x}\r\n{size}").as_bytes());
        }
    }
}
