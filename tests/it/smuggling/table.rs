//! The raw requests.

use super::{Fate, Row};

/// Refused with 400.
fn bad(name: &'static str, bytes: impl AsRef<[u8]>) -> Row {
    refused(name, 400, "bad_request", bytes)
}

fn refused(name: &'static str, status: u16, kind: &'static str, bytes: impl AsRef<[u8]>) -> Row {
    Row { name, bytes: bytes.as_ref().to_vec(), fate: Fate::Refused(status, kind) }
}

/// A POST with these framing fields and this content, refused.
fn bad_post(name: &'static str, fields: &str, content: &str) -> Row {
    bad(name, post(fields, content))
}

/// A POST with these framing fields, and what stands behind its head.
fn post(fields: &str, content: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{content}").into_bytes()
}

/// A GET with these further field lines.
fn get(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

fn passes(name: &'static str, bytes: impl AsRef<[u8]>, forwarded: Vec<Vec<u8>>) -> Row {
    Row { name, bytes: bytes.as_ref().to_vec(), fate: Fate::Forwarded(forwarded) }
}

/// What the upstream gets: the whole normal form, with `own` field lines of the request and `end`
/// field lines that close the head.
fn form(start: &str, version: &str, host: &str, own: &str, end: &str, content: &str) -> Vec<u8> {
    let told = match host {
        "" => "forwarded: for=127.0.0.1;proto=http\r\n".to_owned(),
        _ => format!(
            "x-forwarded-host: {host}\r\nforwarded: for=127.0.0.1;host=\"{host}\";proto=http\r\n"
        ),
    };
    let via = own.lines().find_map(|line| line.strip_prefix("via: ")).map(|via| format!("{via}, "));
    let own: String = own.split_inclusive("\r\n").filter(|l| !l.starts_with("via: ")).collect();
    format!(
        "{start} HTTP/1.1\r\nhost: {host}\r\n{own}via: {}{version} wall\r\n\
        x-forwarded-for: 127.0.0.1\r\nx-real-ip: 127.0.0.1\r\nx-forwarded-proto: http\r\n{told}\
        x-request-id: ID\r\n{end}\r\n{content}",
        via.unwrap_or_default()
    )
    .into_bytes()
}

/// A GET of `/` at host `a` with these field lines.
fn got(own: &str) -> Vec<Vec<u8>> {
    vec![form("GET /", "1.1", "a", own, "", "")]
}

/// A POST with content of a known length.
fn posted(content: &str) -> Vec<u8> {
    let length = format!("content-length: {}\r\n", content.len());
    form("POST /", "1.1", "a", &length, "", content)
}

/// A POST in chunks.
fn chunked(chunks: &str) -> Vec<u8> {
    form("POST /", "1.1", "a", "transfer-encoding: chunked\r\n", "", chunks)
}

const SMUGGLED: &str = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";

/// Content-Length and Transfer-Encoding (RFC 9112 §6).
pub fn framing() -> Vec<Row> {
    let te = "Transfer-Encoding: chunked";
    let zero = "0\r\n\r\n";
    let behind_zero = format!("{zero}{SMUGGLED}");
    let large = "9".repeat(30);
    let mut rows = vec![
        bad_post("CL.TE", &format!("Content-Length: 5\r\n{te}"), zero),
        bad_post("TE.CL", &format!("{te}\r\nContent-Length: 5"), zero),
        bad_post(
            "CL.TE with a request behind it",
            &format!("Content-Length: 6\r\n{te}"),
            &behind_zero,
        ),
        bad_post(
            "TE.CL with a request behind it",
            &format!("{te}\r\nContent-Length: 4"),
            &behind_zero,
        ),
        bad_post("CL.0 and TE", &format!("Content-Length: 0\r\n{te}"), zero),
        bad_post("an invalid CL and TE", &format!("{te}\r\nContent-Length: x"), zero),
        bad_post("CL and TE in capitals", "CONTENT-LENGTH: 5\r\nTRANSFER-ENCODING: CHUNKED", zero),
        bad_post("CL and TE without spaces", "Content-Length:5\r\nTransfer-Encoding:chunked", zero),
        bad_post(
            "CL on both sides of TE",
            &format!("Content-Length: 5\r\n{te}\r\nContent-Length: 5"),
            zero,
        ),
        bad_post(
            "CL and TE far apart",
            &format!("Content-Length: 5\r\nX: {}\r\n{te}", "x".repeat(4000)),
            zero,
        ),
        bad("CL and TE on a GET", get(&format!("Content-Length: 5\r\n{te}\r\n"))),
        bad_post(
            "CL and a TE that is not chunked",
            "Content-Length: 5\r\nTransfer-Encoding: identity",
            "hello",
        ),
        bad_post("two different CL", "Content-Length: 5\r\nContent-Length: 6", "hello!"),
        bad_post(
            "two different CL, the first 0",
            "Content-Length: 0\r\nContent-Length: 33",
            SMUGGLED,
        ),
        bad_post("two different CL in one line", "Content-Length: 5, 6", "hello!"),
        bad_post("two equal CL in one line", "Content-Length: 5, 5", "hello"),
        bad_post("CL with a plus", "Content-Length: +5", "hello"),
        bad_post("CL with a minus", "Content-Length: -5", "hello"),
        bad_post("CL minus zero", "Content-Length: -0", ""),
        bad_post("CL in hexadecimal", "Content-Length: 0x5", "hello"),
        bad_post("CL with a fraction", "Content-Length: 5.0", "hello"),
        bad_post("CL with an exponent", "Content-Length: 5e0", "hello"),
        bad_post("CL with an underscore", "Content-Length: 1_0", "hellohello"),
        bad_post("CL with a space inside", "Content-Length: 1 0", "hellohello"),
        bad_post("CL in quotes", "Content-Length: \"5\"", "hello"),
        bad_post("an empty CL", "Content-Length:", "hello"),
        bad_post("CL that is a comma", "Content-Length: ,", "hello"),
        bad_post("CL with a comma behind", "Content-Length: 5,", "hello"),
        bad_post("CL with a semicolon", "Content-Length: 5;x", "hello"),
        bad_post("CL with letters", "Content-Length: five", "hello"),
        bad_post("CL in other digits", "Content-Length: \u{0665}", "hello"),
        bad_post("CL of 2^64", "Content-Length: 18446744073709551616", "hello"),
        bad_post("CL of 2^64 and 5", "Content-Length: 18446744073709551621", "hello"),
        bad_post("CL of 2^64 - 1", "Content-Length: 18446744073709551615", "hello"),
        bad_post("CL of thirty digits", &format!("Content-Length: {large}"), "hello"),
        passes(
            "two equal CL become one",
            post("Content-Length: 5\r\nContent-Length: 5", "hello"),
            vec![posted("hello")],
        ),
        passes(
            "CL with zeros in front has none",
            post("Content-Length: 005", "hello"),
            vec![posted("hello")],
        ),
        passes(
            "CL between white space",
            post("Content-Length: \t5 \t", "hello"),
            vec![posted("hello")],
        ),
        passes("CL of 0", post("Content-Length: 0", ""), vec![posted("")]),
        passes(
            "a POST without a length has none",
            post("X: 1", ""),
            vec![form("POST /", "1.1", "a", "X: 1\r\ncontent-length: 0\r\n", "", "")],
        ),
        passes(
            "what stands behind the length is the next request",
            [post("Content-Length: 5", "hello"), get("")].concat(),
            vec![posted("hello"), got("").remove(0)],
        ),
        passes(
            "what stands behind a GET is the next request",
            [get(""), get("X: 2\r\n")].concat(),
            vec![got("").remove(0), got("X: 2\r\n").remove(0)],
        ),
        passes(
            "TE in capitals is chunked",
            post("TRANSFER-ENCODING: CHUNKED", zero),
            vec![chunked(zero)],
        ),
        passes(
            "TE between white space is chunked",
            post("Transfer-Encoding: \tchunked ", zero),
            vec![chunked(zero)],
        ),
        Row {
            name: "an ambiguous request behind a good one",
            bytes: [get(""), post(&format!("Content-Length: 5\r\n{te}"), &behind_zero)].concat(),
            fate: Fate::ForwardedThenRefused(got("")),
        },
        Row {
            name: "an ambiguous request behind content",
            bytes: [
                post("Content-Length: 5", "hello"),
                post(te, "5\r\nhello\r\n0\r\n\r\n"),
                post(&format!("{te}\r\nContent-Length: 5"), &behind_zero),
            ]
            .concat(),
            fate: Fate::ForwardedThenRefused(vec![
                posted("hello"),
                chunked("5\r\nhello\r\n0\r\n\r\n"),
            ]),
        },
        bad("HTTP/1.0 with TE", format!("POST / HTTP/1.0\r\nHost: a\r\n{te}\r\n\r\n{zero}")),
        bad(
            "HTTP/1.0 with TE and CL",
            format!("POST / HTTP/1.0\r\nHost: a\r\n{te}\r\nContent-Length: 5\r\n\r\n{zero}"),
        ),
    ];
    // What one parser takes for chunked and another does not.
    for (name, coding) in [
        ("TE identity", "identity"),
        ("TE gzip", "gzip"),
        ("TE gzip before chunked", "gzip, chunked"),
        ("TE chunked before gzip", "chunked, gzip"),
        ("TE chunked before identity", "chunked, identity"),
        ("TE identity before chunked", "identity, chunked"),
        ("TE chunked twice", "chunked, chunked"),
        ("TE chunked with a comma behind", "chunked,"),
        ("TE chunked with a comma in front", ", chunked"),
        ("TE chunked with a parameter", "chunked;q=1"),
        ("TE in quotes", "\"chunked\""),
        ("TE that begins with chunked", "chunkedx"),
        ("TE that ends with chunked", "xchunked"),
        ("TE chunked with a space inside", "chun ked"),
        ("TE chunked behind a colon", ": chunked"),
        ("TE chunked behind a vertical tab", "\u{b}chunked"),
        ("TE chunked behind a form feed", "\u{c}chunked"),
        ("TE chunked behind a no-break space", "\u{a0}chunked"),
        ("an empty TE", ""),
        ("TE that names itself", "Transfer-Encoding: chunked"),
    ] {
        rows.push(bad_post(name, &format!("Transfer-Encoding: {coding}"), zero));
    }
    for (name, fields) in [
        ("two TE, both chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("two TE, the first identity", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"),
        ("two TE, the last identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        ("two TE, the last empty", "Transfer-Encoding: chunked\r\nTransfer-Encoding:"),
        ("TE with a space before the colon", "Transfer-Encoding : chunked"),
        ("TE with a tab before the colon", "Transfer-Encoding\t: chunked"),
        ("TE on a folded line", "Transfer-Encoding:\r\n chunked"),
        ("TE behind a space", " Transfer-Encoding: chunked"),
        ("TE behind a folded field", "X: 1\r\n Transfer-Encoding: chunked"),
        ("TE behind a bare LF", "X: 1\nTransfer-Encoding: chunked"),
        ("TE behind a bare CR", "X: 1\rTransfer-Encoding: chunked"),
        ("TE with a NUL in its name", "Transfer-Encoding\0: chunked"),
        ("TE with a letter of Latin-1", "Transfer-Encoding\u{ff}: chunked"),
    ] {
        rows.push(bad_post(name, fields, zero));
    }
    rows.push(passes(
        "TE with an underscore is another field: there is no content, and no app mistakes it",
        get("Transfer_Encoding: chunked\r\n"),
        got(""),
    ));
    rows.push(passes(
        "CL with an underscore in its name is another field, too",
        get("Content_Length: 5\r\nTE_: x\r\n"),
        got("TE_: x\r\n"),
    ));
    rows
}

/// Lines and fields (RFC 9112 §2, §3, §5).
pub fn heads() -> Vec<Row> {
    let many: String = (0..40).map(|number| format!("X-{number}: 1\r\n")).collect();
    vec![
        bad("a head of bare LF", "GET / HTTP/1.1\nHost: a\n\n"),
        bad("a request line with a bare LF", "GET / HTTP/1.1\nHost: a\r\n\r\n"),
        bad("a field with a bare LF", get("X: 1\nY: 2\r\n")),
        bad("an empty line that is a bare LF", "GET / HTTP/1.1\r\nHost: a\r\n\n"),
        bad("a bare LF before a request", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a bare CR in a value", get("X: 1\r2\r\n")),
        bad("a bare CR in a name", get("X\rY: 1\r\n")),
        bad("two CR at the end of a line", get("X: 1\r\r\n")),
        bad("a folded field", get("X: 1\r\n 2\r\n")),
        bad("a field folded with a tab", get("X: 1\r\n\t2\r\n")),
        bad("a fold before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        bad("a space before a colon", get("X : 1\r\n")),
        bad("a tab before a colon", get("X\t: 1\r\n")),
        bad("a field without a colon", get("X\r\n")),
        bad("a field without a name", get(": 1\r\n")),
        bad("a NUL in a value", get("X: 1\x002\r\n")),
        bad("a control character in a value", get("X: 1\x012\r\n")),
        bad("a DEL in a value", get("X: 1\x7f2\r\n")),
        bad("a NUL in a name", get("X\0: 1\r\n")),
        bad("a letter of Latin-1 in a name", get("X\u{e9}: 1\r\n")),
        bad("a slash in a name", get("X/Y: 1\r\n")),
        bad("brackets in a name", get("X[0]: 1\r\n")),
        bad("an at sign in a name", get("X@Y: 1\r\n")),
        bad("a request line without a version", "GET /\r\nHost: a\r\n\r\n"),
        bad("HTTP/0.9", "GET /\r\n\r\n"),
        bad("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        bad("HTTP/2.0 without its preface", "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        bad("HTTP/1.1 in small letters", "GET / http/1.1\r\nHost: a\r\n\r\n"),
        bad("HTTP/01.1", "GET / HTTP/01.1\r\nHost: a\r\n\r\n"),
        bad("two spaces before the target", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("two spaces before the version", "GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a space behind the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
        bad("a tab before the target", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a space before the method", " GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a method with a slash", "GE/T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a method with a NUL", "GE\0T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("no method", "/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a TLS handshake", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n"),
        refused("forty fields where 32 are allowed", 431, "header_fields_too_large", get(&many)),
        refused(
            "a head longer than allowed",
            431,
            "header_fields_too_large",
            get(&format!("X: {}\r\n", "x".repeat(9000))),
        ),
        passes("an empty line before a request is skipped", [b"\r\n", &*get("")].concat(), got("")),
        passes("names keep their case", get("X-Y: 1\r\n"), got("X-Y: 1\r\n")),
        passes("white space around a value goes", get("X: \t 1 \t\r\n"), got("X: 1\r\n")),
        passes("an empty value stays empty", get("X:\r\n"), got("X: \r\n")),
        passes("Latin-1 in a value passes", get("X: \u{e9}\r\n"), got("X: \u{e9}\r\n")),
        passes("a tab inside a value passes", get("X: 1\t2\r\n"), got("X: 1\t2\r\n")),
        passes(
            "an own method passes",
            "PURGE / HTTP/1.1\r\nHost: a\r\n\r\n",
            vec![form("PURGE /", "1.1", "a", "", "", "")],
        ),
        passes(
            "fields of the connection stay behind",
            get(
                "Connection: x-one, keep-alive\r\nX-One: 1\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\n",
            ),
            got(""),
        ),
        passes(
            "Connection removes an end-to-end field that is not the message's own",
            get("Connection: authorization\r\nAuthorization: Basic eA==\r\n"),
            got(""),
        ),
        passes(
            "Connection cannot remove what seawall says of the client",
            get(
                "Connection: host, x-forwarded-for, x-forwarded-proto, x-forwarded-host, forwarded, via, x-request-id\r\n",
            ),
            got(""),
        ),
        passes(
            "Connection cannot remove the length",
            post("Connection: content-length\r\nContent-Length: 5", "hello"),
            vec![posted("hello")],
        ),
        passes(
            "Connection cannot remove the coding",
            post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
            vec![chunked("0\r\n\r\n")],
        ),
        passes(
            "forwarding fields of a stranger are replaced",
            get(
                "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Host: evil\r\nX-Request-Id: 1\r\n",
            ),
            got(""),
        ),
        passes(
            "what is no Via does not stay",
            get("Via: evil, 1.1 a\r\nVia: 1.1 b (x, y)\r\n"),
            got("via: 1.1 a, 1.1 b (x, y)\r\n"),
        ),
        passes(
            "an earlier Via stays in front",
            get("Via: 1.1 wall-2\r\n"),
            got("via: 1.1 wall-2\r\n"),
        ),
        passes(
            "HTTP/1.0 is told in Via and nowhere else",
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            vec![form("GET /", "1.0", "a", "", "", "")],
        ),
    ]
}

/// Targets and hosts (RFC 9112 §3.2).
pub fn targets() -> Vec<Row> {
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(2000));
    let mut rows = vec![
        bad("no Host", "GET / HTTP/1.1\r\n\r\n"),
        bad("no Host with an absolute target", "GET http://a/ HTTP/1.1\r\n\r\n"),
        bad("two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        bad("two equal Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        bad(
            "two Hosts with an absolute target",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        ),
        bad("two Hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"),
        bad("an absolute target with userinfo", "GET http://me@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("an absolute target of another scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("an absolute target without a host", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("an authority for a target", "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a path without a slash", "GET x/y HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        bad("a star for a GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a NUL in the target", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a control character in the target", "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a DEL in the target", "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a bare CR in the target", "GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a tab in the target", "GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n"),
        passes(
            "an absolute target wins, and Host says the same",
            "GET http://real/x?y HTTP/1.1\r\nHost: other\r\n\r\n",
            vec![form("GET /x?y", "1.1", "real", "", "", "")],
        ),
        passes(
            "an absolute target without a path is the root",
            "GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
            got(""),
        ),
        passes(
            "an absolute target with a query alone",
            "GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n",
            vec![form("GET /?x", "1.1", "a", "", "", "")],
        ),
        passes(
            "a star for OPTIONS",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            vec![form("OPTIONS *", "1.1", "a", "", "", "")],
        ),
        passes(
            "two slashes are a path, not a host",
            "GET //evil/x HTTP/1.1\r\nHost: a\r\n\r\n",
            vec![form("GET //evil/x", "1.1", "a", "", "", "")],
        ),
        passes(
            "dots and escapes pass as they are",
            "GET /a/../b/%2e%2e%2f%00;x HTTP/1.1\r\nHost: a\r\n\r\n",
            vec![form("GET /a/../b/%2e%2e%2f%00;x", "1.1", "a", "", "", "")],
        ),
        bad("a fragment", "GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("an empty fragment", "GET /a# HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a fragment alone", "GET # HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a fragment of an absolute target", "GET http://a/b#c HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a fragment instead of a path", "GET http://a#c HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a fragment behind a star", "OPTIONS *#c HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a star with a query", "OPTIONS *?x HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a star of another scheme", "OPTIONS ftp://a HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("an authority for OPTIONS", "OPTIONS a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a star for a POST", "POST * HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("empty userinfo", "GET http://@a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("an absolute target with a port alone", "GET http://:80/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        passes(
            "OPTIONS of an absolute target without a path is a star",
            "OPTIONS http://real HTTP/1.1\r\nHost: a\r\n\r\n",
            vec![form("OPTIONS *", "1.1", "real", "", "", "")],
        ),
        passes(
            "OPTIONS of an absolute target with a path keeps it",
            "OPTIONS http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            vec![form("OPTIONS /", "1.1", "a", "", "", "")],
        ),
        passes(
            "OPTIONS of an absolute target with a query keeps it",
            "OPTIONS http://a?x HTTP/1.1\r\nHost: a\r\n\r\n",
            vec![form("OPTIONS /?x", "1.1", "a", "", "", "")],
        ),
        passes(
            "an empty Host",
            "GET / HTTP/1.1\r\nHost:\r\n\r\n",
            vec![form("GET /", "1.1", "", "", "", "")],
        ),
        passes(
            "HTTP/1.0 without a Host",
            "GET / HTTP/1.0\r\n\r\n",
            vec![form("GET /", "1.0", "", "", "", "")],
        ),
        passes(
            "an address and a port for a Host",
            "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
            vec![form("GET /", "1.1", "[::1]:80", "", "", "")],
        ),
        Row {
            name: "a target longer than allowed",
            bytes: long.into(),
            fate: Fate::Refused(414, "uri_too_long"),
        },
    ];
    for (name, host) in [
        ("a Host with a space", "a b"),
        ("a Host with a comma", "a, b"),
        ("a Host with a path", "a/b"),
        ("a Host with a query", "a?b"),
        ("a Host with userinfo", "me@a"),
        ("a Host with two ports", "a:80:81"),
        ("a Host with a port that is no number", "a:x"),
        ("a Host with a signed port", "a:+80"),
        ("a Host without a name", ":80"),
        ("a Host with a scheme", "http://a"),
        ("a Host with a bracket open", "[::1"),
        ("a Host with a name in brackets", "[a]"),
        ("a Host with text behind the brackets", "[::1].evil"),
        ("a Host with a quote", "a\""),
        ("a Host with a backslash", "a\\b"),
        ("a Host with an escape", "a%2fb"),
        ("a Host with a letter of Latin-1", "\u{e9}"),
    ] {
        rows.push(bad(name, format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")));
    }
    rows
}

/// Chunked content (RFC 9112 §7.1).
pub fn chunks() -> Vec<Row> {
    let te = "Transfer-Encoding: chunked";
    let whole = || vec![chunked("5\r\nhello\r\n0\r\n\r\n")];
    let mut rows = vec![
        passes("one chunk", post(te, "5\r\nhello\r\n0\r\n\r\n"), whole()),
        passes("a chunk extension goes", post(te, "5;a=b\r\nhello\r\n0;c\r\n\r\n"), whole()),
        passes(
            "a quoted chunk extension goes",
            post(te, "5;a=\"0\"\r\nhello\r\n0\r\n\r\n"),
            whole(),
        ),
        passes("zeros before a chunk size go", post(te, "0005\r\nhello\r\n000\r\n\r\n"), whole()),
        passes(
            "white space before a chunk extension goes",
            post(te, "5 \t; a = b\r\nhello\r\n0\r\n\r\n"),
            whole(),
        ),
        passes(
            "white space behind a chunk size goes",
            post(te, "5 \t\r\nhello\r\n0\r\n\r\n"),
            whole(),
        ),
        passes(
            "what stands behind the last chunk is the next request",
            [post(te, "5\r\nhello\r\n0\r\n\r\n"), get("")].concat(),
            vec![whole().remove(0), got("").remove(0)],
        ),
    ];
    for (name, content) in [
        ("a chunk size of 2^64", "10000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size of 2^64 and 5", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        (
            "a chunk size of forty digits",
            "5555555555555555555555555555555555555555\r\nhello\r\n0\r\n\r\n",
        ),
        ("a signed chunk size", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a negative chunk size", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size with an underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
        ("an empty chunk size", "\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size that is no number", "x\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size behind a space", " 5\r\nhello\r\n0\r\n\r\n"),
        ("two chunk sizes", "5 5\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size with a bare LF", "5\nhello\r\n0\r\n\r\n"),
        ("a chunk size with a bare CR", "5\rhello\r\n0\r\n\r\n"),
        ("a chunk extension with a bare LF", "5;a\nhello\r\n0\r\n\r\n"),
        ("a chunk size with two CR", "5\r\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size with a form feed", "5\x0c\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size with a vertical tab", "5\x0b\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size with a NUL", "5\0\r\nhello\r\n0\r\n\r\n"),
        ("a form feed before a chunk extension", "5\x0c;a\r\nhello\r\n0\r\n\r\n"),
        ("a chunk extension with a NUL", "5;a\0b\r\nhello\r\n0\r\n\r\n"),
        ("a chunk extension with a CR", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("a chunk extension with a DEL", "5;a\x7f\r\nhello\r\n0\r\n\r\n"),
        ("a last chunk with two CR", "5\r\nhello\r\n0\r\r\n\r\n"),
        ("a chunk longer than its size", "4\r\nhello\r\n0\r\n\r\n"),
        ("a chunk shorter than its size", "6\r\nhello\r\n0\r\n\r\n"),
        ("a chunk that ends with a bare LF", "5\r\nhello\n0\r\n\r\n"),
        ("a chunk that ends with a bare CR", "5\r\nhello\r0\r\n\r\n"),
    ] {
        rows.push(Row { name, bytes: post(te, content), fate: Fate::Broken(400) });
    }
    rows
}
