//! Floor 5: from a listening socket to a request.
//!
//! ```text
//! accept ─► (proxy_protocol) ─► (tls) ─► http1 ─► forward::handle ─► http1 ─► (websocket) ─► close
//!                                          └► http2 ─► forward::handle
//! ```
//!
//! One accept loop per worker and listener, each with its own socket (SO_REUSEPORT). A connection
//! lives in one task on its worker from the accept to the close; whatever happens to it stays in
//! that task (P7).

pub mod accept;
mod date;
pub mod detect;
pub mod drain;
pub mod http1;
pub mod http2;
pub mod io;
pub mod proxy_protocol;
pub mod renewal;
pub mod tls;
pub mod x509;
