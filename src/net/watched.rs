//! The kernel's watch over a connection to a peer that may be gone without a word.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// The shortest time that the kernel counts keepalives in.
const SECOND: Duration = Duration::from_secs(1);

/// A connection that the kernel can watch over.
pub trait Watched {
    /// Has the connection end when sent data stays unacknowledged, or unsent because the peer's
    /// window is closed, for `user_timeout` (RFC 5482; on Linux), and when the peer's kernel gives
    /// no sign of life after `keepalive` without traffic. Zero leaves either to the system.
    ///
    /// # Errors
    /// If the socket does not have such an option.
    fn watch_over(&self, user_timeout: Duration, keepalive: Duration) -> io::Result<()>;
}

impl Watched for tokio::net::TcpStream {
    #[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
    fn watch_over(&self, user_timeout: Duration, keepalive: Duration) -> io::Result<()> {
        let socket = SockRef::from(self);
        #[cfg(target_os = "linux")]
        if !user_timeout.is_zero() {
            // The kernel's number is one of 32 bits with a sign.
            let most = Duration::from_millis(i32::MAX.unsigned_abs().into());
            socket
                .set_tcp_user_timeout(Some(user_timeout.clamp(Duration::from_millis(1), most)))?;
        }
        if !keepalive.is_zero() {
            // The kernel takes no longer times than nine hours.
            let idle = keepalive.clamp(SECOND, SECOND * 32_767);
            let between = (idle / 4).max(SECOND);
            socket
                .set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(between))?;
        }
        Ok(())
    }
}

#[cfg(any(test, fuzzing))]
impl Watched for super::memory::TcpStream {
    fn watch_over(&self, _: Duration, _: Duration) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, not(fuzzing)))]
impl Watched for super::either::TcpStream {
    fn watch_over(&self, user_timeout: Duration, keepalive: Duration) -> io::Result<()> {
        match self {
            super::either::TcpStream::Kernel(tcp) => tcp.watch_over(user_timeout, keepalive),
            super::either::TcpStream::Memory(tcp) => tcp.watch_over(user_timeout, keepalive),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn connected() -> (tokio::net::TcpStream, tokio::net::TcpListener) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (tokio::net::TcpStream::connect(address).await.unwrap(), listener)
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn sets_both_times_and_leaves_to_the_system_what_is_zero() {
        let most = Duration::from_secs(32_767);
        for (user_timeout, keepalive, seconds) in [
            (Duration::from_secs(60), Duration::from_secs(60), (60, 15)),
            (Duration::from_millis(1500), Duration::from_millis(1), (1, 1)),
            (Duration::from_secs(5), Duration::from_secs(1 << 40), (most.as_secs(), 8191)),
        ] {
            let (tcp, _listener) = connected().await;
            tcp.watch_over(user_timeout, keepalive).unwrap();
            let socket = SockRef::from(&tcp);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(user_timeout));
            assert!(socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap().as_secs(), seconds.0);
            assert_eq!(socket.tcp_keepalive_interval().unwrap().as_secs(), seconds.1);
        }
        let (tcp, _listener) = connected().await;
        tcp.watch_over(Duration::MAX, Duration::ZERO).unwrap();
        tcp.watch_over(Duration::ZERO, Duration::MAX).unwrap();
        let (tcp, _listener) = connected().await;
        tcp.watch_over(Duration::ZERO, Duration::ZERO).unwrap();
        let socket = SockRef::from(&tcp);
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        assert!(!socket.keepalive().unwrap());
    }
}
