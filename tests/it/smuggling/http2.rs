//! The same over HTTP/2 (RFC 9113 §8.2, §8.3, §10.3).
