//! The end of the two streams, after the last Close.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Shuts both sides down and reads away what they still send, for `limit` at most: closing a socket
/// over unread bytes would send a reset, which destroys a Close that is on its way. An upstream that
/// will be reset anyway is left alone.
pub async fn end<C, U>(client: &mut C, upstream: &mut U, limit: Duration, abort_upstream: bool)
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let client = timeout(limit, close(client));
    let upstream = async {
        if !abort_upstream {
            // Errors here are the other side's way of closing.
            let _ = timeout(limit, close(upstream)).await;
        }
    };
    let _ = tokio::join!(client, upstream);
}

async fn close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> std::io::Result<()> {
    stream.shutdown().await?;
    // On the heap, because this future is part of every open WebSocket's.
    let mut sink = vec![0_u8; 1024];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}
