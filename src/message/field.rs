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
//! `HEAD_ONLY` (RFC 9110 §6.5.1): whoever merges trailers into the head would let them replace what
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
        const ROWS: &[(Known, &[u8])] = &[$((Known::$variant, $name)),+];

        impl Known {
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
    AliCdnRealIp, 15, b"ali-cdn-real-ip", Identity, Passes;
    CdnSrcIp, 10, b"cdn-src-ip", Identity, Passes;
    CfAccessAuthenticatedUserEmail, 34, b"cf-access-authenticated-user-email", Identity, Passes;
    CfConnectingIp, 16, b"cf-connecting-ip", Identity, Passes;
    CfConnectingIpv6, 18, b"cf-connecting-ipv6", Identity, Passes;
    CfPseudoIpv4, 14, b"cf-pseudo-ipv4", Identity, Passes;
    CfVisitor, 10, b"cf-visitor", Identity, Passes;
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
    TailscaleUserLogin, 20, b"tailscale-user-login", Identity, Passes;
    TailscaleUserName, 19, b"tailscale-user-name", Identity, Passes;
    TrueClientIp, 14, b"true-client-ip", Identity, Passes;
    WlProxyClientCert, 20, b"wl-proxy-client-cert", Identity, Passes;
    WlProxyClientIp, 18, b"wl-proxy-client-ip", Identity, Passes;
    WlProxySsl, 12, b"wl-proxy-ssl", Identity, Passes;
    XAmznOidcAccesstoken, 23, b"x-amzn-oidc-accesstoken", Identity, Passes;
    XAmznOidcData, 16, b"x-amzn-oidc-data", Identity, Passes;
    XAmznOidcIdentity, 20, b"x-amzn-oidc-identity", Identity, Passes;
    XAppengineUserIp, 19, b"x-appengine-user-ip", Identity, Passes;
    XArrClientcert, 16, b"x-arr-clientcert", Identity, Passes;
    XArrSsl, 9, b"x-arr-ssl", Identity, Passes;
    XAuthRequestEmail, 20, b"x-auth-request-email", Identity, Passes;
    XAuthRequestGroups, 21, b"x-auth-request-groups", Identity, Passes;
    XAuthRequestPreferredUsername, 33, b"x-auth-request-preferred-username", Identity, Passes;
    XAuthRequestUser, 19, b"x-auth-request-user", Identity, Passes;
    XAuthenticatedUser, 20, b"x-authenticated-user", Identity, Passes;
    XAuthenticatedUserid, 22, b"x-authenticated-userid", Identity, Passes;
    XAzureClientip, 16, b"x-azure-clientip", Identity, Passes;
    XAzureSocketip, 16, b"x-azure-socketip", Identity, Passes;
    XClientCert, 13, b"x-client-cert", Identity, Passes;
    XClientDn, 11, b"x-client-dn", Identity, Passes;
    XClientIp, 11, b"x-client-ip", Identity, Passes;
    XClientVerify, 15, b"x-client-verify", Identity, Passes;
    XClusterClientIp, 19, b"x-cluster-client-ip", Identity, Passes;
    XConsumerCustomId, 20, b"x-consumer-custom-id", Identity, Passes;
    XConsumerId, 13, b"x-consumer-id", Identity, Passes;
    XConsumerUsername, 19, b"x-consumer-username", Identity, Passes;
    XEnvoyExternalAddress, 24, b"x-envoy-external-address", Identity, Passes;
    XForwarded, 11, b"x-forwarded", Identity, Passes;
    XGoogAuthenticatedUserEmail, 31, b"x-goog-authenticated-user-email", Identity, Passes;
    XGoogAuthenticatedUserId, 28, b"x-goog-authenticated-user-id", Identity, Passes;
    XGoogIapJwtAssertion, 24, b"x-goog-iap-jwt-assertion", Identity, Passes;
    XMsClientPrincipal, 21, b"x-ms-client-principal", Identity, Passes;
    XMsClientPrincipalId, 24, b"x-ms-client-principal-id", Identity, Passes;
    XMsClientPrincipalName, 26, b"x-ms-client-principal-name", Identity, Passes;
    XNfClientConnectionIp, 25, b"x-nf-client-connection-ip", Identity, Passes;
    XOriginalForwardedFor, 24, b"x-original-forwarded-for", Identity, Passes;
    XOriginatingIp, 16, b"x-originating-ip", Identity, Passes;
    XProxyUser, 12, b"x-proxy-user", Identity, Passes;
    XProxyuserIp, 14, b"x-proxyuser-ip", Identity, Passes;
    XRemoteAddr, 13, b"x-remote-addr", Identity, Passes;
    XRemoteIp, 11, b"x-remote-ip", Identity, Passes;
    XRemoteUser, 13, b"x-remote-user", Identity, Passes;
    XScheme, 8, b"x-scheme", Identity, Passes;
    XSslCert, 10, b"x-ssl-cert", Identity, Passes;
    XSslIssuer, 12, b"x-ssl-issuer", Identity, Passes;
    XSucuriClientip, 17, b"x-sucuri-clientip", Identity, Passes;
    XUrlScheme, 12, b"x-url-scheme", Identity, Passes;
    XVercelForwardedFor, 22, b"x-vercel-forwarded-for", Identity, Passes;
    XWebauthUser, 14, b"x-webauth-user", Identity, Passes;
    // Where other proxies, and frameworks, let a request go instead of its target.
    Proxy, 5, b"proxy", Routing, Passes;
    XHost, 6, b"x-host", Routing, Passes;
    XHttpHostOverride, 20, b"x-http-host-override", Routing, Passes;
    XOriginalHost, 15, b"x-original-host", Routing, Passes;
    XOriginalUri, 14, b"x-original-uri", Routing, Passes;
    XOriginalUrl, 14, b"x-original-url", Routing, Passes;
    XRewriteUrl, 13, b"x-rewrite-url", Routing, Passes;
}

/// Where names are looked up: the first row of each slot, and behind each row the next one of its
/// slot. Rows count from 1. Most names of other fields meet an empty slot and are compared with none.
struct Index {
    first: [u8; SLOTS],
    next: [u8; ROWS.len()],
}

const SLOTS: usize = 1024;

/// The slot of a name of this length that begins and ends with these bytes. None of them is a hyphen
/// in any name of the table, so that twins have the slot of their field.
const fn slot(length: usize, first: u8, last_but_one: u8, last: u8) -> usize {
    let [first, last_but_one, last] = [first | 0x20, last_but_one | 0x20, last | 0x20];
    let sum = length * 181 + first as usize * 37 + last_but_one as usize * 11 + last as usize * 71;
    sum % SLOTS
}

static INDEX: Index = {
    let mut index = Index { first: [0; SLOTS], next: [0; ROWS.len()] };
    let mut row = ROWS.len();
    while row > 0 {
        let name = ROWS[row - 1].1;
        let [first, last_but_one, last] = [name[0], name[name.len() - 2], name[name.len() - 1]];
        assert!(first != b'-' && last_but_one != b'-' && last != b'-');
        let slot = slot(name.len(), first, last_but_one, last);
        index.next[row - 1] = index.first[slot];
        // There are fewer than 255 rows: the array of them would not fit otherwise.
        assert!(row < u8::MAX as usize);
        index.first[slot] = row as u8;
        row -= 1;
    }
    index
};

/// The field that has this name, in whatever case, or whose twin has it.
#[inline]
fn find(name: &[u8]) -> Option<(Known, Spelling)> {
    let [first, .., last_but_one, last] = name else { return find_short(name) };
    let slot = slot(name.len(), *first, *last_but_one, *last);
    match INDEX.first.get(slot) {
        None | Some(0) => {}
        Some(row) => {
            if let Some(found) = find_from(*row, name) {
                return Some(found);
            }
        }
    }
    family(name).map(|known| (known, Spelling::Own))
}

/// Names of two letters have no last but one that is not the first.
#[cold]
fn find_short(name: &[u8]) -> Option<(Known, Spelling)> {
    let [first, last] = name else { return None };
    let row = INDEX.first.get(slot(name.len(), *first, *first, *last))?;
    find_from(*row, name)
}

#[inline]
fn find_from(mut row: u8, name: &[u8]) -> Option<(Known, Spelling)> {
    while let Some(at) = usize::from(row).checked_sub(1) {
        let (known, own) = ROWS.get(at)?;
        if name.len() == own.len() {
            if is_own(name, own) {
                return Some((*known, Spelling::Own));
            }
            if let Some(spelling) = spelling(name, own) {
                return Some((*known, spelling));
            }
        }
        row = INDEX.next.get(at).copied().unwrap_or(0);
    }
    None
}

/// Returns `true` if this token of the same length is this name, in whatever case. A bit tells the
/// cases apart; it makes no other character of a token a letter, a digit or a hyphen.
#[inline]
fn is_own(token: &[u8], own: &[u8]) -> bool {
    // In words, the last of which overlaps the one before it.
    let same = |a: &[u8; 8], b: &[u8; 8]| {
        let apart = u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b);
        apart & !u64::from_ne_bytes([0x20; 8]) == 0
    };
    if let (Some(a), Some(b)) = (token.last_chunk(), own.last_chunk()) {
        let (words, others) = (token.as_chunks().0, own.as_chunks().0);
        return same(a, b) && words.iter().zip(others).all(|(a, b)| same(a, b));
    }
    let apart = token.iter().zip(own).fold(0, |apart, (a, b)| apart | (a ^ b));
    apart & !0x20 == 0
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
        match find(name) {
            // Its family's twins do not pass in either direction.
            Some((Known::Rehearse, Spelling::Twin)) => Some(Known::SeawallOther),
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
    let (known, spelling) = find(name)?;
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
    let (known, _) = find(name)?;
    match known.in_request() {
        InRequest::Passes => None,
        InRequest::Identity | InRequest::Routing => Some(true),
        InRequest::Hop | InRequest::Ours | InRequest::Told => Some(false),
    }
}

/// Returns `true` if a field with this name may pass as a trailer, in either direction.
#[must_use]
pub fn may_be_trailer(name: &[u8]) -> bool {
    let is_in_head_alone = match find(name) {
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
    let [a, b, c, ..] = name else { return None };
    let begins = |prefix: &[u8]| spelling(name, prefix).is_some();
    // By three letters first: most fields are told apart by them.
    match [a | 0x20, *b, c | 0x20] {
        [b's', b'e' | b'E', b'a'] if begins(b"seawall-") => Some(Known::SeawallOther),
        [b's', b's' | b'S', b'l'] if begins(b"ssl-client-") => Some(Known::ClientCertificate),
        [b'x', b'-' | b'_', b'f'] if begins(b"x-forwarded-") => Some(Known::XForwardedOther),
        [b'x', b'-' | b'_', b's'] if begins(b"x-ssl-client-") => Some(Known::ClientCertificate),
        [b'x', b'-' | b'_', b'a'] if begins(b"x-amzn-mtls-clientcert") => {
            Some(Known::ClientCertificate)
        }
        _ => None,
    }
}

/// How a token that begins with this name, which has lower-case letters, digits and hyphens only,
/// spells its hyphens; `None` if it does not begin with it.
fn spelling(token: &[u8], name: &[u8]) -> Option<Spelling> {
    let token = token.get(..name.len())?;
    let mut spelling = Spelling::Own;
    for (byte, own) in token.iter().zip(name) {
        match (own, byte) {
            (b'-', b'-') => {}
            (b'-', b'_') => spelling = Spelling::Twin,
            (b'-', _) => return None,
            // A bit tells a letter's cases apart, and makes no other character of a token a letter
            // or a digit.
            (own, byte) if byte | 0x20 == *own => {}
            _ => return None,
        }
    }
    Some(spelling)
}

#[cfg(test)]
mod tests;
