//! Floor 6: asking a running seawall from a terminal, over HTTP, as its operators do.
//!
//! Blocking, without a runtime: a command asks once and ends.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use clap::Args;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of one answer: as many failures as are asked for, each as large as it may be.
const MOST: u64 = 64 * 1024 * 1024;

/// What `seawall ready` was asked for.
#[derive(Debug, Args)]
pub struct ReadyOptions {
    /// The admin address of a running seawall
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9900")]
    url: String,
}

/// Whether seawall serves: what `/readyz` says of it.
///
/// # Errors
/// Why it does not, in words.
pub fn ready(options: &ReadyOptions) -> Result<(), String> {
    let url = &options.url;
    let place = Place::parse(url).ok_or_else(|| format!("{url:?} is no http://HOST:PORT"))?;
    match place.get("/readyz") {
        Ok((200, _)) => Ok(()),
        Ok((status, content)) => {
            let said = String::from_utf8_lossy(&content);
            let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
            Err(format!("{url} answers {status}: {said}"))
        }
        Err(error) => Err(format!(
            "no seawall answers at {url}: {error}; --url names its admin address (admin.address)"
        )),
    }
}

/// Where to ask.
pub struct Place {
    /// Host and port.
    pub authority: String,
    /// A field line, or nothing.
    pub authorization: String,
}

/// The field that brings the token in the first line of this file (RFC 6750 §2.1).
///
/// # Errors
/// If it cannot be read, or holds no token.
pub fn authorization(file: &Path) -> io::Result<String> {
    let text = std::fs::read_to_string(file)?;
    let token = text.lines().next().unwrap_or_default().trim();
    // Anything else could end the line.
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(io::Error::other("its first line is no token"));
    }
    Ok(format!("Authorization: Bearer {token}\r\n"))
}

impl Place {
    /// The address in this URL, if it is one: `http://HOST:PORT`.
    #[must_use]
    pub fn parse(url: &str) -> Option<Self> {
        let authority = url.strip_prefix("http://")?.trim_end_matches('/');
        let plain = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
        let port = authority.rsplit_once(':')?.1;
        (authority.chars().all(plain) && port.parse::<u16>().is_ok())
            .then(|| Place { authority: authority.into(), authorization: String::new() })
    }

    /// Asks for this target; the status and the content.
    ///
    /// # Errors
    /// If nobody answers there, or not in time, or no HTTP.
    pub fn get(&self, target: &str) -> io::Result<(u16, Vec<u8>)> {
        let mut stream = TcpStream::connect(&*self.authority)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{}\r\n",
            self.authority, self.authorization
        );
        stream.write_all(head.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MOST).read_to_end(&mut answer)?;
        let (status, content) =
            parted(&answer).ok_or_else(|| io::Error::other("what answers speaks no HTTP"))?;
        Ok((status, content.to_vec()))
    }
}

/// The status and the content of an answer that ended with its connection.
fn parted(answer: &[u8]) -> Option<(u16, &[u8])> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(answer) {
        Ok(httparse::Status::Complete(head)) => Some((response.code?, answer.get(head..)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_can_be_asked() {
        for url in ["http://127.0.0.1:9900", "http://[::1]:9900/", "http://admin.internal:80"] {
            assert!(Place::parse(url).is_some(), "{url}");
        }
        for url in ["127.0.0.1:9900", "https://a:1", "http://a", "http://a:1/x", "http://a:1 b:2"] {
            assert!(Place::parse(url).is_none(), "{url}");
        }
    }
}
