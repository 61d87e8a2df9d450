//! The Date of responses that have none (RFC 9110 §6.6.1): made once a second on each thread.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// The date of one second.
#[derive(Debug)]
struct Dated {
    second: u64,
    value: HeaderValue,
}

thread_local! {
    static LAST: RefCell<Option<Dated>> = const { RefCell::new(None) };
}

/// Calls `with` with the time of this second.
pub fn with<T>(with: impl FnOnce(&HeaderValue) -> T) -> T {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|last| {
        let dated = match last.take() {
            Some(dated) if dated.second == second => dated,
            _ => {
                let text = httpdate::fmt_http_date(now);
                let value = HeaderValue::try_from(text);
                // Letters, digits and spaces: this cannot fail.
                Dated { second, value: value.unwrap_or(HeaderValue::from_static("")) }
            }
        };
        with(&last.insert(dated).value)
    })
}
