//! The content of a request, as `listen` reads it from a client's connection.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::Worker;
use super::head::Head;
use crate::failure::Source;

/// Request content, whatever the client speaks.
pub struct Incoming {
    inner: Inner,
    /// Whose request it is, and by whose rules its trailers pass. `None` until it is known, and where
    /// there is no content.
    request: Option<(Rc<Worker>, Rc<Head>)>,
}

enum Inner {
    Empty,
    /// Boxed: most requests have none.
    Flowing(Pin<Box<dyn Body<Data = Bytes, Error = io::Error>>>),
}

impl Incoming {
    /// No content.
    #[must_use]
    pub fn empty() -> Self {
        Incoming::of(Inner::Empty)
    }

    /// What an HTTP/1.1 connection gives.
    pub fn http1(content: impl Body<Data = Bytes, Error = io::Error> + 'static) -> Self {
        Incoming::of(Inner::Flowing(Box::pin(content)))
    }

    /// What an HTTP/2 stream gives.
    pub fn http2(content: impl Body<Data = Bytes, Error = io::Error> + 'static) -> Self {
        match content.is_end_stream() {
            true => Incoming::empty(),
            false => Incoming::of(Inner::Flowing(Box::pin(content))),
        }
    }

    fn of(inner: Inner) -> Self {
        Incoming { inner, request: None }
    }

    /// Lets the trailers pass that may, by the rules of this request.
    pub fn belongs_to(&mut self, worker: &Rc<Worker>, head: &Rc<Head>) {
        if !matches!(self.inner, Inner::Empty) {
            self.request = Some((Rc::clone(worker), Rc::clone(head)));
        }
    }

    /// The frame, without trailers that may not pass; `None` if nothing is left of it.
    fn clean(&self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        match frame.into_trailers() {
            Err(data) => Some(data),
            Ok(mut trailers) => {
                let (worker, head) = self.request.as_ref()?;
                worker.forwarded.clean_trailers(&mut trailers, &head.fields);
                (!trailers.is_empty()).then(|| Frame::trailers(trailers))
            }
        }
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.inner {
            Inner::Empty => "Incoming::Empty",
            Inner::Flowing(_) => "Incoming::Flowing",
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
        let this = self.get_mut();
        let frame = match &mut this.inner {
            Inner::Empty => None,
            Inner::Flowing(content) => {
                ready!(content.as_mut().poll_frame(cx)).map(|it| it.map_err(Source::from))
            }
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => this.clean(frame).map(Ok),
            end => end,
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Empty => true,
            Inner::Flowing(content) => content.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Empty => SizeHint::with_exact(0),
            Inner::Flowing(content) => content.size_hint(),
        }
    }
}
