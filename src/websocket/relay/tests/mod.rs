//! The relay over scripted streams: every cut, every timer, both directions.

mod life;
mod stream;
mod wire;

use std::cell::RefCell;

use super::*;
use crate::failure::{ClientFailure, Failure};

const READ: usize = 64 * 1024;

/// Remembers what it was told.
#[derive(Debug, Default)]
struct Witness {
    events: RefCell<Vec<String>>,
}

impl Witness {
    fn events(&self) -> Vec<String> {
        self.events.borrow().clone()
    }
}

impl Observer for Witness {
    fn relayed(&self, _: Direction, _: u64, _: u64) {}

    fn upstream_failed(&self, failure: Failure) -> CloseFrame {
        let name = failure.kind().name();
        self.events.borrow_mut().push(format!("upstream: {name}"));
        CloseFrame::new(1011, name.to_owned())
    }

    fn client_failed(&self, failure: ClientFailure) {
        self.events.borrow_mut().push(format!("client: {}", failure.name()));
    }
}

fn small_hold() -> Settings {
    Settings { hold: 32, ..Settings::default() }
}
