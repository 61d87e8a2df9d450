//! What a worker's next request is served with.
//!
//! A reload gives each worker a new [`Worker`] by message, and the worker itself puts it here: a
//! request costs one more load from its own thread's memory, and no atomic at all. Requests and
//! WebSockets that run keep the one that they began with.

use std::cell::RefCell;
use std::rc::Rc;

use super::Worker;

/// The newest configuration, as one worker's connections see it.
#[derive(Debug)]
pub struct Current(RefCell<Rc<Worker>>);

impl Current {
    /// Begins with this one.
    #[must_use]
    pub fn new(worker: Rc<Worker>) -> Self {
        Current(RefCell::new(worker))
    }

    /// The newest one.
    #[must_use]
    pub fn get(&self) -> Rc<Worker> {
        Rc::clone(&self.0.borrow())
    }

    /// From here on requests are served with this one.
    pub fn replace(&self, worker: Rc<Worker>) {
        // The old one may be freed here, pools and all: not while it is borrowed.
        let old = self.0.replace(worker);
        drop(old);
    }
}
