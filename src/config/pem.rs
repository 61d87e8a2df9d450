//! What certificates and keys look like in files, for whoever reads them: at the start and again
//! when the files change.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// One certificate or more.
///
/// # Errors
/// What the file must hold.
pub fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    parsed
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or("the file must hold certificates in PEM form")
}

/// The first private key.
///
/// # Errors
/// What the file must hold.
pub fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, &'static str> {
    PrivateKeyDer::from_pem_slice(bytes)
        .map_err(|_| "the file must hold an unencrypted private key in PEM form")
}
