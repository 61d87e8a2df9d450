//! The content of a request, as `listen` reads it from a client's connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::failure::Source;

/// Request content, whatever the client speaks.
pub struct Incoming(Inner);

enum Inner {
    Empty,
    /// Boxed: most requests have none.
    Http1(Pin<Box<dyn Body<Data = Bytes, Error = io::Error>>>),
    Http2(hyper::body::Incoming),
}

impl Incoming {
    /// No content.
    #[must_use]
    pub fn empty() -> Self {
        Incoming(Inner::Empty)
    }

    /// What an HTTP/1.1 connection gives.
    pub fn http1(content: impl Body<Data = Bytes, Error = io::Error> + 'static) -> Self {
        Incoming(Inner::Http1(Box::pin(content)))
    }

    /// What an HTTP/2 stream gives.
    #[must_use]
    pub fn http2(content: hyper::body::Incoming) -> Self {
        Incoming(if content.is_end_stream() { Inner::Empty } else { Inner::Http2(content) })
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Inner::Empty => "Incoming::Empty",
            Inner::Http1(_) => "Incoming::Http1",
            Inner::Http2(_) => "Incoming::Http2",
        })
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Source;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Source>>> {
        match &mut self.get_mut().0 {
            Inner::Empty => Poll::Ready(None),
            Inner::Http1(content) => content
                .as_mut()
                .poll_frame(cx)
                .map(|frame| frame.map(|it| it.map_err(Source::from))),
            Inner::Http2(content) => Pin::new(content)
                .poll_frame(cx)
                .map(|frame| frame.map(|it| it.map_err(Source::from))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Empty => true,
            Inner::Http1(content) => content.is_end_stream(),
            Inner::Http2(content) => content.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Http1(content) => content.size_hint(),
            Inner::Http2(content) => content.size_hint(),
        }
    }
}
