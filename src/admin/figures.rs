//! What the admin listener counts of itself. Shared by its two threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Figures {
    answers: Mutex<BTreeMap<u16, u64>>,
    api_errors: Mutex<BTreeMap<u16, u64>>,
    connections: AtomicU64,
    evicted: AtomicU64,
    wrong_tokens: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    /// Answers by status.
    pub(super) answers: BTreeMap<u16, u64>,
    /// Errors of the server API by Centrifugo's number.
    pub(super) api_errors: BTreeMap<u16, u64>,
    pub(super) connections: u64,
    /// Connections that gave way to others.
    pub(super) evicted: u64,
    pub(super) wrong_tokens: u64,
}

impl Figures {
    pub(super) fn answered(&self, status: u16) {
        count(&self.answers, status);
    }

    pub(super) fn api_error(&self, number: u16) {
        count(&self.api_errors, number);
    }

    pub(super) fn set_connections(&self, number: usize) {
        self.connections.store(number as u64, Relaxed);
    }

    pub(super) fn evicted(&self) {
        self.evicted.fetch_add(1, Relaxed);
    }

    pub(super) fn wrong_token(&self) {
        self.wrong_tokens.fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self) -> Counted {
        Counted {
            answers: self.answers.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            api_errors: self.api_errors.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            connections: self.connections.load(Relaxed),
            evicted: self.evicted.load(Relaxed),
            wrong_tokens: self.wrong_tokens.load(Relaxed),
        }
    }
}

fn count(counters: &Mutex<BTreeMap<u16, u64>>, key: u16) {
    let mut counters = counters.lock().unwrap_or_else(PoisonError::into_inner);
    *counters.entry(key).or_default() += 1;
}
