//! Messages on their way, and those that are held back.

use crate::buffer::Buffer;
use crate::transport::{CallId, Flush, Link, Transport};
use crate::wire::RequestHead;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// A message on its way.
pub(super) enum Message {
    Request(CallId, RequestHead, Buffer),
    Response(CallId, Buffer),
    Cancel(CallId),
}

impl Message {
    pub(super) fn send(self, link: &dyn Link, flush: Flush) {
        match self {
            Message::Request(call, head, payload) => link.request(call, head, payload, flush),
            Message::Response(call, payload) => link.respond(call, payload, flush),
            Message::Cancel(call) => link.cancel(call),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Message::Request(_, _, payload) | Message::Response(_, payload) => payload.len(),
            Message::Cancel(_) => 0,
        }
    }

    pub(super) fn copy(&self) -> Self {
        match self {
            Message::Request(call, head, payload) => Message::Request(*call, *head, Buffer::copy_from(payload)),
            Message::Response(call, payload) => Message::Response(*call, Buffer::copy_from(payload)),
            Message::Cancel(call) => Message::Cancel(*call),
        }
    }

    pub(super) fn map(self, change: impl FnOnce(Buffer) -> Buffer) -> Self {
        match self {
            Message::Request(call, head, payload) => Message::Request(call, head, change(payload)),
            Message::Response(call, payload) => Message::Response(call, change(payload)),
            cancel @ Message::Cancel(_) => cancel,
        }
    }
}

/// Messages that are held back until their time.
#[derive(Default)]
pub(super) struct Held {
    messages: Mutex<BinaryHeap<Reverse<HeldMessage>>>,
    order: AtomicU64,
    transport: OnceLock<Weak<dyn Transport>>,
}

struct HeldMessage {
    due: Instant,
    order: u64,
    link: Arc<dyn Link>,
    message: Message,
}

impl PartialEq for HeldMessage {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for HeldMessage {}

impl PartialOrd for HeldMessage {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for HeldMessage {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

impl Held {
    /// Says whose poll releases them.
    pub(super) fn belongs_to(&self, transport: &Arc<dyn Transport>) {
        let _ = self.transport.set(Arc::downgrade(transport));
    }

    /// Sends a message later.
    pub(super) fn hold(&self, delay: Duration, link: Arc<dyn Link>, message: Message) {
        let due = Instant::now() + delay;
        let order = self.order.fetch_add(1, Ordering::Relaxed);
        self.messages.lock().push(Reverse(HeldMessage { due, order, link, message }));
        // Whoever is parked has to learn of the new timer.
        if let Some(transport) = self.transport.get().and_then(Weak::upgrade) {
            transport.unpark();
        }
    }

    /// Sends those whose time has come. `true` if there were some.
    pub(super) fn release(&self) -> bool {
        let mut some = false;
        let now = Instant::now();
        loop {
            let due = {
                let mut messages = self.messages.lock();
                match messages.peek() {
                    Some(Reverse(held)) if held.due <= now => messages.pop(),
                    _ => return some,
                }
            };
            if let Some(Reverse(held)) = due {
                held.message.send(&*held.link, Flush::Now);
                some = true;
            }
        }
    }

    /// Forgets them.
    pub(super) fn clear(&self) {
        self.messages.lock().clear();
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.messages.lock().peek().map(|Reverse(held)| held.due)
    }
}
