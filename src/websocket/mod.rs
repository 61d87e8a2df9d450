pub mod handshake {
    use crate::failure::*;
    use http::*;
    #[derive(Debug)]
    pub struct Offer;
    #[derive(Debug)]
    pub struct Agreed;
    #[derive(Debug)]
    pub struct HandshakeError;
    impl std::fmt::Display for HandshakeError {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            Ok(())
        }
    }
    impl std::error::Error for HandshakeError {}
    pub fn client_offer(
        _: &Method,
        _: Version,
        _: &HeaderMap,
    ) -> Option<std::result::Result<Offer, ClientFailure>> {
        None
    }
    pub fn check_answer(
        _: &Offer,
        _: StatusCode,
        _: &HeaderMap,
    ) -> std::result::Result<Agreed, HandshakeError> {
        Ok(Agreed)
    }
}
pub mod relay {
    use crate::failure::*;
    pub use crate::telemetry::metrics::Direction;
    #[derive(Debug)]
    pub struct Scratch;
    impl Scratch {
        pub fn new(_: &crate::config::model::WebSocket) -> Self {
            Scratch
        }
    }
    pub struct Opening {
        pub from_client: bytes::Bytes,
        pub from_upstream: bytes::Bytes,
    }
    pub trait Observer {
        fn relayed(&self, d: Direction, m: u64, b: u64);
        fn upstream_failed(&self, f: Failure) -> crate::failure::render::CloseFrame;
        fn client_failed(&self, f: ClientFailure);
    }
    pub struct Report {
        pub abort_upstream: bool,
    }
    impl Report {
        pub fn summary(&self) -> crate::telemetry::metrics::SessionSummary {
            crate::telemetry::metrics::SessionSummary {
                code: 1000,
                initiator: "client",
                to_client: Default::default(),
                to_upstream: Default::default(),
            }
        }
    }
    #[allow(clippy::too_many_arguments)]
    pub async fn relay<C, U, O>(
        _c: &mut C,
        _u: &mut U,
        _o: Opening,
        _a: &super::handshake::Agreed,
        _s: &crate::config::model::WebSocket,
        _x: &Scratch,
        _ob: &O,
        _d: impl Future<Output = ()>,
    ) -> Report {
        Report { abort_upstream: false }
    }
}
