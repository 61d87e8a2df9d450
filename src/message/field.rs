//! The table of fields: what becomes of each field that is not simply end-to-end, or that only
//! seawall may set.
//!
//! All filters come from it: of heads and of trailers, from clients and from upstreams, over HTTP/1.1
//! and HTTP/2. A field that is not in the table passes, in heads and in trailers.
//!
//! | [`InRequest`] | from strangers | from proxies in `forwarded.trusted` |
//! | --- | --- | --- |
//! | `Passes` | passes | passes |
//! | `Hop` | removed, written anew where this hop needs it | the same |
//! | `Ours` | replaced by what seawall says | believed, and appended to |
//! | `Told` | replaced by what seawall says | passes |
//! | `Identity` | removed, unless `forwarded.keep` names it | passes |
//! | `Routing` | removed, unless `forwarded.keep` names it | the same |
//!
//! None of them but the first passes as a trailer, in either direction, and neither do the fields of
//! [`HEAD_ONLY`] (RFC 9110 §6.5.1): whoever merges trailers into the head would let them replace what
//! was checked there.
//!
//! CGI and its descendants (WSGI, Rack, PHP) read `-` and `_` as the same (RFC 3875 §4.1.18). So each
//! name has twins, with one `_` or more. In requests, and in trailers, a twin of a field that does not
//! pass as it came never passes, not even from a trusted proxy: proxies forward what they do not know.

use http::HeaderMap;
use http::header::HeaderName;

use super::listed::Listed;

/// `X-Request-Id`: what ties the answer, the log and the journal together.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What becomes of a field in the head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InRequest {
    /// It passes as it came.
    Passes,
    /// It is for this hop only, or is written anew in the form that the next hop needs.
    Hop,
    /// seawall sets it; what a trusted proxy has said comes first.
    Ours,
    /// seawall sets it, unless a trusted proxy has said it.
    Told,
    /// It says who the client is, in another proxy's words.
    Identity,
    /// It says where the request goes, or how, beside its target.
    Routing,
}

/// What becomes of a field in the head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InResponse {
    /// It passes as it came.
    Passes,
    /// It is for this hop only.
    Hop,
    /// seawall alone sets it.
    Ours,
}

/// Which spelling of a name this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// The field itself.
    Own,
    /// With a `_` in the place of a `-`: another field in HTTP, the same one for many apps.
    Twin,
}

macro_rules! fields {
    ($( $variant:ident, $length:literal, $name:literal, $request:ident, $response:ident; )+) => {
        /// A field of the table, by its name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Known {
            $( #[doc = concat!("`", stringify!($variant), "`.")] $variant, )+
            /// Any other `X-Forwarded-…`.
            XForwardedOther,
            /// `X-SSL-Client-…` and its kin: what a proxy has read in a client's certificate.
            ClientCertificate,
            /// Any other `Seawall-…`.
            SeawallOther,
            /// A twin of a field that does not pass requests as it came.
            Twin,
        }

        /// Every name of the table.
        #[cfg(test)]
        const ROWS: &[(Known, &[u8])] = &[$((Known::$variant, $name)),+];

        impl Known {
            /// The field that has this name, in whatever case, or whose twin has it.
            #[inline]
            fn find(name: &[u8]) -> Option<(Self, Spelling)> {
                // By length first: most fields are told apart by it without a comparison.
                match name.len() {
                    $( $length if is_like(name, $name) => {
                        Some((Known::$variant, spelling(name, $name)?))
                    } )+
                    _ => family(name).map(|known| (known, Spelling::Own)),
                }
            }

            /// What becomes of it in a request's head.
            #[must_use]
            pub const fn in_request(self) -> InRequest {
                match self {
                    $( Known::$variant => InRequest::$request, )+
                    Known::XForwardedOther | Known::ClientCertificate => InRequest::Identity,
                    Known::SeawallOther | Known::Twin => InRequest::Hop,
                }
            }

            /// What becomes of it in a response's head.
            #[must_use]
            pub const fn in_response(self) -> InResponse {
                match self {
                    $( Known::$variant => InResponse::$response, )+
                    Known::SeawallOther => InResponse::Ours,
                    Known::XForwardedOther | Known::ClientCertificate | Known::Twin => {
                        InResponse::Passes
                    }
                }
            }
        }
    };
}

fields! {
    // Name, its length, in requests, in responses.
    // Asked for, or written anew.
    Accept, 6, b"accept", Passes, Passes;
    Connection, 10, b"connection", Hop, Hop;
    ContentLength, 14, b"content-length", Hop, Hop;
    ContentType, 12, b"content-type", Passes, Passes;
    Cookie, 6, b"cookie", Hop, Passes;
    Date, 4, b"date", Passes, Passes;
    Expect, 6, b"expect", Passes, Passes;
    Forwarded, 9, b"forwarded", Ours, Passes;
    Host, 4, b"host", Hop, Passes;
    MaxForwards, 12, b"max-forwards", Passes, Passes;
    Rehearse, 16, b"seawall-rehearse", Ours, Ours;
    Te, 2, b"te", Hop, Hop;
    TransferEncoding, 17, b"transfer-encoding", Hop, Hop;
    Upgrade, 7, b"upgrade", Hop, Hop;
    Via, 3, b"via", Ours, Passes;
    XAccelBuffering, 17, b"x-accel-buffering", Passes, Passes;
    XForwardedFor, 15, b"x-forwarded-for", Ours, Passes;
    XForwardedHost, 16, b"x-forwarded-host", Told, Passes;
    XForwardedProto, 17, b"x-forwarded-proto", Told, Passes;
    XRealIp, 9, b"x-real-ip", Ours, Passes;
    XRequestId, 12, b"x-request-id", Ours, Ours;
    // Of this hop only (RFC 9110 §7.6.1).
    Http2Settings, 14, b"http2-settings", Hop, Hop;
    KeepAlive, 10, b"keep-alive", Hop, Hop;
    ProxyAuthenticate, 18, b"proxy-authenticate", Hop, Hop;
    ProxyAuthenticationInfo, 25, b"proxy-authentication-info", Hop, Hop;
    ProxyAuthorization, 19, b"proxy-authorization", Hop, Hop;
    ProxyConnection, 16, b"proxy-connection", Hop, Hop;
    // What other proxies tell about a client.
    CfAccessAuthenticatedUserEmail, 34, b"cf-access-authenticated-user-email", Identity, Passes;
    CfConnectingIp, 16, b"cf-connecting-ip", Identity, Passes;
    CfConnectingIpv6, 18, b"cf-connecting-ipv6", Identity, Passes;
    CfPseudoIpv4, 14, b"cf-pseudo-ipv4", Identity, Passes;
    ClientCert, 11, b"client-cert", Identity, Passes;
    ClientCertChain, 17, b"client-cert-chain", Identity, Passes;
    ClientIp, 9, b"client-ip", Identity, Passes;
    CloudfrontViewerAddress, 25, b"cloudfront-viewer-address", Identity, Passes;
    FastlyClientIp, 16, b"fastly-client-ip", Identity, Passes;
    FastlySsl, 10, b"fastly-ssl", Identity, Passes;
    FlyClientIp, 13, b"fly-client-ip", Identity, Passes;
    ForwardedFor, 13, b"forwarded-for", Identity, Passes;
    FrontEndHttps, 15, b"front-end-https", Identity, Passes;
    IncapClientIp, 15, b"incap-client-ip", Identity, Passes;
    RemoteAddr, 11, b"remote-addr", Identity, Passes;
    RemoteUser, 11, b"remote-user", Identity, Passes;
    TrueClientIp, 14, b"true-client-ip", Identity, Passes;
    WlProxyClientCert, 20, b"wl-proxy-client-cert", Identity, Passes;
    WlProxyClientIp, 18, b"wl-proxy-client-ip", Identity, Passes;
    WlProxySsl, 12, b"wl-proxy-ssl", Identity, Passes;
    XAppengineUserIp, 19, b"x-appengine-user-ip", Identity, Passes;
    XArrClientcert, 16, b"x-arr-clientcert", Identity, Passes;
    XArrSsl, 9, b"x-arr-ssl", Identity, Passes;
    XAuthRequestEmail, 20, b"x-auth-request-email", Identity, Passes;
    XAuthRequestGroups, 21, b"x-auth-request-groups", Identity, Passes;
    XAuthRequestPreferredUsername, 33, b"x-auth-request-preferred-username", Identity, Passes;
    XAuthRequestUser, 19, b"x-auth-request-user", Identity, Passes;
    XAzureClientip, 16, b"x-azure-clientip", Identity, Passes;
    XAzureSocketip, 16, b"x-azure-socketip", Identity, Passes;
    XClientCert, 13, b"x-client-cert", Identity, Passes;
    XClientDn, 11, b"x-client-dn", Identity, Passes;
    XClientIp, 11, b"x-client-ip", Identity, Passes;
    XClientVerify, 15, b"x-client-verify", Identity, Passes;
    XClusterClientIp, 19, b"x-cluster-client-ip", Identity, Passes;
    XEnvoyExternalAddress, 24, b"x-envoy-external-address", Identity, Passes;
    XForwarded, 11, b"x-forwarded", Identity, Passes;
    XGoogAuthenticatedUserEmail, 31, b"x-goog-authenticated-user-email", Identity, Passes;
    XGoogAuthenticatedUserId, 28, b"x-goog-authenticated-user-id", Identity, Passes;
    XMsClientPrincipal, 21, b"x-ms-client-principal", Identity, Passes;
    XMsClientPrincipalId, 24, b"x-ms-client-principal-id", Identity, Passes;
    XMsClientPrincipalName, 26, b"x-ms-client-principal-name", Identity, Passes;
    XNfClientConnectionIp, 25, b"x-nf-client-connection-ip", Identity, Passes;
    XOriginalForwardedFor, 24, b"x-original-forwarded-for", Identity, Passes;
    XProxyuserIp, 14, b"x-proxyuser-ip", Identity, Passes;
    XRemoteAddr, 13, b"x-remote-addr", Identity, Passes;
    XRemoteIp, 11, b"x-remote-ip", Identity, Passes;
    XRemoteUser, 13, b"x-remote-user", Identity, Passes;
    XScheme, 8, b"x-scheme", Identity, Passes;
    XSslCert, 10, b"x-ssl-cert", Identity, Passes;
    XUrlScheme, 12, b"x-url-scheme", Identity, Passes;
    XVercelForwardedFor, 22, b"x-vercel-forwarded-for", Identity, Passes;
    XWebauthUser, 14, b"x-webauth-user", Identity, Passes;
    // Where other proxies, and frameworks, let a request go instead of its target.
    Proxy, 5, b"proxy", Routing, Passes;
    XHttpHostOverride, 20, b"x-http-host-override", Routing, Passes;
    XOriginalHost, 15, b"x-original-host", Routing, Passes;
    XOriginalUri, 14, b"x-original-uri", Routing, Passes;
    XOriginalUrl, 14, b"x-original-url", Routing, Passes;
    XRewriteUrl, 13, b"x-rewrite-url", Routing, Passes;
}

/// Fields that pass in a head and never as a trailer (RFC 9110 §6.5.1): request modifiers,
/// authentication, metadata of the content, control of the response.
const HEAD_ONLY: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "access-control-request-headers",
    "access-control-request-method",
    "age",
    "authorization",
    "cache-control",
    "clear-site-data",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "content-type",
    "date",
    "early-data",
    "expect",
    "expires",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-status",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "set-cookie",
    "strict-transport-security",
    "trailer",
    "vary",
    "warning",
    "www-authenticate",
    "x-accel-buffering",
    "x-accel-redirect",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-sendfile",
];

impl Known {
    /// How many there are: the size of tables indexed by [`Known::index`].
    pub const COUNT: usize = Known::Twin as usize + 1;

    /// Which one has this name, in whatever case. `None`: it passes, in every head.
    #[must_use]
    #[inline]
    pub fn of(name: &[u8]) -> Option<Self> {
        match Self::find(name) {
            Some((known, Spelling::Twin)) => match known.in_request() {
                InRequest::Passes => None,
                _ => Some(Known::Twin),
            },
            Some((known, Spelling::Own)) => Some(known),
            None => None,
        }
    }

    /// This field's row in tables of [`Known::COUNT`] entries.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns `true` if a response's head does not hand it on as it came.
    #[must_use]
    #[inline]
    pub fn stays_behind(self) -> bool {
        match self.in_response() {
            InResponse::Passes => false,
            InResponse::Hop | InResponse::Ours => true,
        }
    }
}

/// The row of the table that a removed field belongs to, for whoever notes each row once. A twin has
/// a row of its own; families have one.
#[must_use]
pub fn row(name: &[u8]) -> Option<usize> {
    let (known, spelling) = Known::find(name)?;
    Some(match spelling {
        Spelling::Own => known.index(),
        Spelling::Twin => Known::COUNT + known.index(),
    })
}

/// How many values [`row`] has.
pub const ROW_COUNT: usize = 2 * Known::COUNT;

/// Returns `true` if `forwarded.keep` may name this field; `None` if it is not in the table.
#[must_use]
pub fn is_keepable(name: &[u8]) -> Option<bool> {
    let (known, _) = Known::find(name)?;
    match known.in_request() {
        InRequest::Passes => None,
        InRequest::Identity | InRequest::Routing => Some(true),
        InRequest::Hop | InRequest::Ours | InRequest::Told => Some(false),
    }
}

/// Returns `true` if a field with this name may pass as a trailer, in either direction.
#[must_use]
pub fn may_be_trailer(name: &[u8]) -> bool {
    let is_in_head_alone = match Known::find(name) {
        Some((known, _)) => known.in_request() != InRequest::Passes || known.stays_behind(),
        None => false,
    };
    !is_in_head_alone && !HEAD_ONLY.iter().any(|head_only| is_same(name, head_only.as_bytes()))
}

/// Returns `true` if a field with this name describes the connection that a response is sent on
/// (RFC 9110 §7.6.1).
#[must_use]
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    Known::of(name).is_some_and(|known| {
        known.in_response() == InResponse::Hop && known != Known::ContentLength
    })
}

/// Removes the fields of a response that came over HTTP/2 and that stay behind; its Content-Length
/// frames nothing there.
pub fn clean_head(fields: &mut HeaderMap) {
    remove(fields, |name| {
        Known::of(name).is_some_and(|known| known.stays_behind() && known != Known::ContentLength)
    });
}

/// Removes the trailers that may not pass: those that a head alone may say, and those that the
/// message's Connection field lists (RFC 9110 §7.6.1).
pub fn clean_trailers<N: AsRef<[u8]>>(trailers: &mut HeaderMap, listed: &Listed<N>) {
    remove(trailers, |name| !may_be_trailer(name) || listed.contains(name));
}

/// Removes every field whose name is unwanted. The others stay in their order, which
/// [`HeaderMap::remove`] would change.
fn remove(fields: &mut HeaderMap, is_unwanted: impl Fn(&[u8]) -> bool) {
    if !fields.keys().any(|name| is_unwanted(name.as_str().as_bytes())) {
        return;
    }
    let mut last = None;
    for (name, value) in std::mem::take(fields) {
        // The further values of a field come without its name.
        last = name.or(last);
        if let Some(name) = last.as_ref().filter(|name| !is_unwanted(name.as_str().as_bytes())) {
            fields.append(name.clone(), value);
        }
    }
}

/// Returns `true` if both names are the same to an app that reads `-` and `_` alike, in whatever case.
#[must_use]
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    let plain = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.iter().map(plain).eq(other.iter().map(plain))
}

/// The names that have a beginning in common. Their twins belong to them: Apache's own form is
/// `SSL_CLIENT_…`.
#[inline]
fn family(name: &[u8]) -> Option<Known> {
    match name.first()? | 0x20 {
        b'x' | b's' => {}
        _ => return None,
    }
    if begins(name, b"seawall-") {
        Some(Known::SeawallOther)
    } else if begins(name, b"x-forwarded-") {
        Some(Known::XForwardedOther)
    } else if begins(name, b"x-ssl-client-")
        || begins(name, b"ssl-client-")
        || begins(name, b"x-amzn-mtls-clientcert")
    {
        Some(Known::ClientCertificate)
    } else {
        None
    }
}

#[inline]
fn begins<const N: usize>(name: &[u8], prefix: &[u8; N]) -> bool {
    name.get(..N).is_some_and(|start| is_like(start, prefix) && spelling(start, prefix).is_some())
}

/// Returns `true` if the token may be this name, which has lower-case letters, digits and hyphens only,
/// or its twin. It takes a few other characters for a hyphen, which [`spelling`] rules out.
#[inline]
fn is_like<const N: usize>(token: &[u8], name: &[u8; N]) -> bool {
    // The bits that tell a letter's cases apart, and `-` from `_`, do not count.
    const fn apart(byte: u8) -> u8 {
        if byte == b'-' { !(b'-' ^ b'_') } else { !0x20 }
    }
    token.as_array().is_some_and(|token: &[u8; N]| {
        let different = token.iter().zip(name).fold(0, |sum, (a, b)| sum | ((a ^ b) & apart(*b)));
        different == 0
    })
}

/// How a token that [`is_like`] a name spells its hyphens; `None` if it has something else there.
#[inline]
fn spelling<const N: usize>(token: &[u8], name: &[u8; N]) -> Option<Spelling> {
    let hyphens = || token.iter().zip(name).filter(|(_, byte)| **byte == b'-');
    if hyphens().all(|(byte, _)| *byte == b'-') {
        Some(Spelling::Own)
    } else if hyphens().all(|(byte, _)| matches!(byte, b'-' | b'_')) {
        Some(Spelling::Twin)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
