//! What has to be done from time to time: ending expired sessions, dropping idle keys, looking up groups again.

use std::sync::{Arc, Weak};
use std::thread::{self, Thread};
use std::time::Duration;

use parking_lot::Mutex;

use super::Shared;
use super::rule::Members;
use crate::clock;
use crate::protocol::Tick;

/// How often members of groups are looked up, in ms.
const GROUPS_EVERY_MS: u64 = 60_000;

/// A thread that sleeps until something is due; with no session and no group in a rule it never wakes up.
#[derive(Default)]
pub(super) struct Upkeep {
    thread: Mutex<Option<Thread>>,
    groups: Mutex<Vec<Weak<Members>>>,
}

impl Upkeep {
    /// Something may be due earlier than before.
    pub(super) fn look_again(&self) {
        if let Some(thread) = &*self.thread.lock() {
            thread.unpark();
        }
    }

    pub(super) fn add_groups(&self, mut groups: Vec<Weak<Members>>) {
        if !groups.is_empty() {
            self.groups.lock().append(&mut groups);
            self.look_again();
        }
    }

    pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<()> {
        let weak = Arc::downgrade(shared);
        let thread = thread::Builder::new().name("mochi-auth".to_owned()).spawn(move || run(&weak))?;
        *shared.upkeep.thread.lock() = Some(thread.thread().clone());
        Ok(())
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.look_again();
    }
}

fn run(shared: &Weak<Shared>) {
    let mut groups_at = Tick(clock::now().0 + GROUPS_EVERY_MS);
    loop {
        let Some(server) = shared.upgrade() else { return };
        let now = clock::now();
        let expired = server.table.expire(now);
        if expired > 0 {
            server.audit.sessions_expired(expired);
        }
        let mut due = server.table.next_due();
        let groups: Vec<_> = {
            let mut groups = server.upkeep.groups.lock();
            groups.retain(|members| members.strong_count() > 0);
            groups.clone()
        };
        if !groups.is_empty() {
            if now >= groups_at {
                groups.iter().filter_map(Weak::upgrade).for_each(|members| members.refresh());
                groups_at = Tick(clock::now().0 + GROUPS_EVERY_MS);
            }
            due = Some(due.map_or(groups_at, |due| due.min(groups_at)));
        }
        drop(server);
        match due {
            // Half-open, idle and absolute times are whole seconds: waking more often than that would find nothing.
            Some(at) => thread::park_timeout(Duration::from_millis(at.0.saturating_sub(clock::now().0).max(1000))),
            None => thread::park(),
        }
    }
}
