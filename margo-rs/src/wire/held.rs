//! Requests that have arrived and are not handled yet, because answers pile up that the peer does not read.

use super::budget::Budget;
use super::frame::RequestHead;
use crate::buffer::{Buffer, Payload};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Requests that wait to be handled, in the order in which they came.
///
/// A link whose peer is slow to read its answers is read on all the same: what comes for calls of our own must not wait,
/// or two peers that are slow in the same way would wait for each other for ever. So the requests are kept here. All of
/// them are unanswered ones, so that a peer that keeps to the stated limits never has one refused here for their sake.
#[derive(Debug)]
pub struct Held {
    requests: BTreeMap<u64, HeldRequest>,
    /// The place of each in `requests`, for cancels, of which a peer may send any number. Of a call id that a peer uses
    /// twice, the last.
    places: HashMap<u64, u64>,
    next_place: u64,
    /// Payload bytes of `requests`: `bytes <= max_bytes`, claimed from the budget too.
    bytes: u64,
    max: usize,
    max_bytes: u64,
    /// Shared with the other connections of the engine.
    budget: Arc<Budget>,
}

/// One of them.
#[derive(Debug)]
pub struct HeldRequest {
    /// The peer's number for it.
    pub call: u64,
    /// What it is for.
    pub head: RequestHead,
    /// What came with it.
    pub payload: Buffer,
}

impl Held {
    /// Holds nothing yet, and never more than `max` requests with payloads of `max_bytes`, as far as `budget` lasts.
    pub fn new(max: usize, max_bytes: u64, budget: Arc<Budget>) -> Self {
        Self { requests: BTreeMap::new(), places: HashMap::new(), next_place: 0, bytes: 0, max, max_bytes, budget }
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Keeps a request, of which a borrowed payload is copied. `false`, and nothing is copied, if there are too many.
    pub fn hold(&mut self, call: u64, head: RequestHead, payload: Payload<'_>) -> bool {
        let bytes = payload.bytes().len() as u64;
        if self.requests.len() >= self.max || bytes > self.max_bytes - self.bytes || !self.budget.claim(bytes) {
            return false;
        }
        self.bytes += bytes;
        self.places.insert(call, self.next_place);
        self.requests.insert(self.next_place, HeldRequest { call, head, payload: payload.into_buffer() });
        self.next_place += 1;
        true
    }

    /// Takes out the one that has waited longest.
    pub fn pop(&mut self) -> Option<HeldRequest> {
        let (place, request) = self.requests.pop_first()?;
        if self.places.get(&request.call) == Some(&place) {
            self.places.remove(&request.call);
        }
        self.release(&request);
        Some(request)
    }

    /// Forgets a request. `false` if it is not held.
    pub fn cancel(&mut self, call: u64) -> bool {
        let Some(request) = self.places.remove(&call).and_then(|place| self.requests.remove(&place)) else {
            return false;
        };
        self.release(&request);
        true
    }

    fn release(&mut self, request: &HeldRequest) {
        let bytes = request.payload.len() as u64;
        self.bytes -= bytes;
        self.budget.release(bytes);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::RpcId;

    const HEAD: RequestHead = RequestHead { rpc: RpcId::from_raw(7), timeout_ms: 5, one_way: false };

    fn held(max: usize, max_bytes: u64, all: u64) -> (Held, Arc<Budget>) {
        let budget = Arc::new(Budget::new(all));
        (Held::new(max, max_bytes, budget.clone()), budget)
    }

    fn hold(held: &mut Held, call: u64, bytes: usize) -> bool {
        held.hold(call, HEAD, Payload::Borrowed(&vec![call as u8; bytes]))
    }

    fn calls(held: &mut Held) -> Vec<u64> {
        std::iter::from_fn(|| held.pop()).map(|request| request.call).collect()
    }

    #[test]
    fn requests_come_out_whole_and_in_the_order_in_which_they_came() {
        let (mut held, budget) = held(10, 100, 100);
        for call in [5, 3, 9] {
            assert!(hold(&mut held, call, 20));
        }
        assert_eq!(budget.claimed(), 60);
        let first = held.pop().unwrap();
        assert_eq!((first.call, first.head, &first.payload[..]), (5, HEAD, &[5; 20][..]));
        assert_eq!(budget.claimed(), 40);
        assert_eq!(calls(&mut held), [3, 9]);
        assert_eq!((held.is_empty(), budget.claimed(), held.bytes, held.places.len()), (true, 0, 0, 0));
    }

    #[test]
    fn a_cancelled_request_is_gone_and_so_is_its_claim() {
        let (mut held, budget) = held(2, 100, 100);
        assert!(hold(&mut held, 1, 30) && hold(&mut held, 2, 10) && !hold(&mut held, 3, 1));
        assert!(held.cancel(1) && !held.cancel(1) && !held.cancel(7));
        assert_eq!(budget.claimed(), 10);
        assert!(hold(&mut held, 3, 1), "its place is free");
        assert_eq!(calls(&mut held), [2, 3]);
    }

    #[test]
    fn neither_number_nor_bytes_nor_what_all_share_is_passed() {
        let (mut full, _) = held(2, 100, 100);
        assert!(hold(&mut full, 1, 0) && hold(&mut full, 2, 0) && !hold(&mut full, 3, 0));
        let (mut heavy, budget) = held(9, 100, 1000);
        assert!(hold(&mut heavy, 1, 60) && !hold(&mut heavy, 2, 41) && hold(&mut heavy, 3, 40));
        assert_eq!(budget.claimed(), 100);
        let (mut poor, budget) = held(9, 100, 50);
        assert!(budget.claim(20) && !hold(&mut poor, 1, 31) && hold(&mut poor, 2, 30));
        assert_eq!((budget.claimed(), calls(&mut poor)), (50, vec![2]));
        assert_eq!(budget.claimed(), 20);
    }

    #[test]
    fn a_number_used_twice_is_cancelled_once_and_both_are_counted() {
        let (mut held, budget) = held(9, 100, 100);
        assert!(hold(&mut held, 1, 10) && hold(&mut held, 1, 20) && held.cancel(1));
        assert_eq!((budget.claimed(), held.cancel(1)), (10, false));
        assert!(hold(&mut held, 1, 30));
        assert_eq!(held.pop().unwrap().payload.len(), 10);
        assert!(held.cancel(1), "the first one's end does not hide the second");
        assert_eq!((held.is_empty(), budget.claimed()), (true, 0));
    }

    #[test]
    fn what_is_held_at_the_end_gives_its_claims_back() {
        let (mut held, budget) = held(9, 100, 100);
        assert!(hold(&mut held, 1, 10));
        drop(held);
        assert_eq!(budget.claimed(), 0);
    }
}
