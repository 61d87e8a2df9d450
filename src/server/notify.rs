//! Tells systemd that this process serves (sd_notify(3), `Type=notify`).
//!
//! After a takeover another process is the unit's main one: without being told, systemd would take
//! the end of the old one for the end of the service.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that clients are served, by this process; to nobody if nobody has asked for it.
///
/// # Errors
/// If whoever has asked cannot be reached.
pub fn ready() -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(name) => send(&name, &format!("READY=1\nMAINPID={}\n", std::process::id())),
        None => Ok(()),
    }
}

/// `@` begins a name in the abstract namespace.
fn send(name: &OsStr, text: &str) -> io::Result<()> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A notification is worth no wait.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_path_and_in_the_abstract_namespace() {
        let name = format!("seawall-notify-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let rows = [
            (SocketAddr::from_pathname(&path).unwrap(), path.clone().into_os_string()),
            (SocketAddr::from_abstract_name(&name).unwrap(), format!("@{name}").into()),
        ];
        for (address, name) in rows {
            let systemd = UnixDatagram::bind_addr(&address).unwrap();
            send(&name, "READY=1\n").unwrap();
            let mut told = [0; 64];
            let length = systemd.recv(&mut told).unwrap();
            assert_eq!(&told[..length], b"READY=1\n", "{name:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(send(path.as_os_str(), "READY=1\n").is_err());
    }
}
