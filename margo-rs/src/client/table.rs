//! The calls in flight on one link.

use super::waiting::Waiting;
use crate::address::Address;
use crate::buffer::Buffer;
use crate::error::CallError;
use crate::rpc::RpcId;
use crate::transport::{CallId, PeerLimits};
use parking_lot::Mutex;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// How a call ended: the response as it came, or an error.
pub(crate) type Outcome = Result<Buffer, Box<CallError>>;

/// Slots of calls in flight; a call's id is its slot and the slot's generation, so that late responses match nothing.
pub(crate) struct CallTable {
    peer: Address,
    inner: Mutex<Inner>,
}

struct Inner {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Where the last search for a waiting call stopped.
    cursor: usize,
    /// Calls without an outcome.
    in_flight: u32,
    /// Bytes of their payloads.
    bytes: u64,
    state: State,
    /// Calls that wait until there is room, and connections that wait to come up.
    waiting: Waiting,
}

enum State {
    Connecting,
    Up(PeerLimits),
    /// Every later call gets this error.
    Lost(Box<CallError>),
}

struct Slot {
    generation: u32,
    call: Option<Entry>,
}

struct Entry {
    call: Wanted,
    waker: Option<Waker>,
    outcome: Option<Outcome>,
}

/// A call that asks for a slot.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) rpc: RpcId,
    /// Bytes of its payload.
    pub(crate) bytes: u64,
    pub(crate) deadline: Instant,
    /// The time that was given until then.
    pub(crate) timeout: Duration,
}

/// What came of asking for a slot.
pub(crate) enum Begin {
    /// The call may be sent under this id.
    Id(CallId),
    /// The link is not up, or the peer's limits are reached: the waker is called when that may have changed.
    Wait,
    /// The call cannot be made.
    Failed(Box<CallError>),
}

impl CallTable {
    pub(crate) fn new(peer: Address) -> Self {
        Self {
            peer,
            inner: Mutex::new(Inner {
                slots: Vec::new(),
                free: Vec::new(),
                cursor: 0,
                in_flight: 0,
                bytes: 0,
                state: State::Connecting,
                waiting: Waiting::default(),
            }),
        }
    }

    /// Takes a slot for a call. The waker is called when there may be room, if there is none,
    /// or else when the call has its outcome.
    pub(crate) fn begin(&self, call: Wanted, waker: &Waker) -> Begin {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        match &inner.state {
            State::Lost(error) => return Begin::Failed(error.clone()),
            State::Up(limits) if call.bytes > limits.max_message => {
                return Begin::Failed(Box::new(CallError::TooLarge { size: call.bytes, max: limits.max_message }));
            }
            State::Up(limits)
                if inner.in_flight < limits.max_in_flight
                    && (inner.bytes == 0 || inner.bytes + call.bytes <= limits.max_bytes) => {}
            State::Up(_) | State::Connecting => {
                inner.wait(waker, call.deadline);
                return Begin::Wait;
            }
        }
        let index = match inner.free.pop() {
            Some(index) => index,
            None => {
                inner.slots.push(Slot { generation: 0, call: None });
                // There are not four thousand million of them: memory would end before.
                (inner.slots.len() - 1) as u32
            }
        };
        let slot = &mut inner.slots[index as usize];
        slot.call = Some(Entry { call, waker: keep(waker), outcome: None });
        inner.in_flight += 1;
        inner.bytes += call.bytes;
        Begin::Id(CallId(u64::from(slot.generation) << 32 | u64::from(index)))
    }

    /// Takes the outcome of a call and frees its slot, or leaves `waker` to be called when there is one.
    pub(crate) fn poll(&self, id: CallId, waker: &Waker) -> Poll<Outcome> {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.entry(id) else {
            return Poll::Ready(Err(Box::new(CallError::Cancelled)));
        };
        match entry.outcome.take() {
            Some(outcome) => {
                inner.free(id);
                Poll::Ready(outcome)
            }
            None => {
                if !entry.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
                    entry.waker = keep(waker);
                }
                Poll::Pending
            }
        }
    }

    /// Whether a call has its outcome, or is gone.
    pub(crate) fn is_done(&self, id: CallId) -> bool {
        self.inner.lock().entry(id).is_none_or(|entry| entry.outcome.is_some())
    }

    /// Ends a call; the second end of a call changes nothing.
    pub(crate) fn complete(&self, id: CallId, outcome: impl FnOnce() -> Outcome) {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.entry(id) else { return };
        if entry.outcome.is_some() {
            return;
        }
        entry.outcome = Some(outcome());
        let waker = entry.waker.take();
        let bytes = entry.call.bytes;
        let woken = inner.make_room(1, bytes);
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        wake_all(woken);
    }

    /// Forgets a call whose caller lost interest. `true` if it had no outcome yet.
    pub(crate) fn forget(&self, id: CallId) -> bool {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.entry(id) else { return false };
        let was_waiting = entry.outcome.is_none();
        let bytes = entry.call.bytes;
        inner.free(id);
        // One that has ended made room then: how long its caller takes to look is nothing to the peer.
        let woken = if was_waiting { inner.make_room(1, bytes) } else { Vec::new() };
        drop(inner);
        wake_all(woken);
        was_waiting
    }

    /// Wakes one caller that waits, so that it can take over driving the transport. `false` if none does.
    pub(crate) fn wake_one(&self) -> bool {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let count = inner.slots.len();
        for step in 0..count {
            let at = (inner.cursor + step) % count;
            let waiting = inner.slots[at].call.as_ref().filter(|entry| entry.outcome.is_none());
            if let Some(waker) = waiting.and_then(|entry| entry.waker.clone()) {
                inner.cursor = at + 1;
                drop(guard);
                waker.wake();
                return true;
            }
        }
        false
    }

    /// Ends every call whose deadline has passed. Returns their ids and the next deadline.
    pub(crate) fn expire(&self, now: Instant) -> (Vec<CallId>, Option<Instant>) {
        let mut expired = Vec::new();
        let mut next: Option<Instant> = None;
        let mut wakers = Vec::new();
        let mut bytes = 0;
        let mut inner = self.inner.lock();
        for (index, slot) in inner.slots.iter_mut().enumerate() {
            let Some(entry) = slot.call.as_mut().filter(|entry| entry.outcome.is_none()) else { continue };
            let Wanted { rpc, deadline, timeout, .. } = entry.call;
            if deadline <= now {
                let peer = self.peer.clone();
                let late = CallError::DeadlineExceeded { rpc, name: None, peer, after: timeout };
                entry.outcome = Some(Err(Box::new(late)));
                wakers.extend(entry.waker.take());
                bytes += entry.call.bytes;
                expired.push(CallId(u64::from(slot.generation) << 32 | index as u64));
            } else {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            }
        }
        let (late, next_late) = inner.waiting.expire(now);
        wakers.extend(late);
        next = next.into_iter().chain(next_late).min();
        if !expired.is_empty() {
            wakers.extend(inner.make_room(expired.len() as u32, bytes));
        }
        drop(inner);
        wake_all(wakers);
        (expired, next)
    }

    /// The link is up.
    pub(crate) fn come_up(&self, limits: PeerLimits) {
        let mut inner = self.inner.lock();
        if let State::Connecting = inner.state {
            inner.state = State::Up(limits);
        }
        let woken = inner.take_waiting();
        drop(inner);
        wake_all(woken);
    }

    /// The link is gone: every call ends with `error`, and so does every later one.
    pub(crate) fn lose(&self, error: CallError) {
        let mut inner = self.inner.lock();
        let mut woken = inner.take_waiting();
        for slot in &mut inner.slots {
            if let Some(entry) = slot.call.as_mut().filter(|entry| entry.outcome.is_none()) {
                entry.outcome = Some(Err(Box::new(error.clone())));
                woken.extend(entry.waker.take());
            }
        }
        inner.in_flight = 0;
        inner.bytes = 0;
        inner.state = State::Lost(Box::new(error));
        drop(inner);
        wake_all(woken);
    }

    /// Why the link did not come up, if that is so.
    pub(crate) fn connect_error(&self) -> Option<Box<CallError>> {
        match &self.inner.lock().state {
            State::Lost(error) if matches!(**error, CallError::Unreachable(_)) => Some(error.clone()),
            _ => None,
        }
    }

    /// Waits until the link is up or known not to come up.
    pub(crate) fn poll_up(&self, waker: &Waker, deadline: Instant) -> Poll<Result<(), Box<CallError>>> {
        let mut inner = self.inner.lock();
        match &inner.state {
            State::Up(_) => Poll::Ready(Ok(())),
            State::Lost(error) => Poll::Ready(Err(error.clone())),
            State::Connecting => {
                inner.wait(waker, deadline);
                Poll::Pending
            }
        }
    }

    /// Lets all calls that wait for room ask again.
    pub(crate) fn wake_waiting(&self) {
        let woken = self.inner.lock().take_waiting();
        wake_all(woken);
    }

    /// Payload bytes of the calls in flight.
    pub(crate) fn bytes_in_flight(&self) -> u64 {
        self.inner.lock().bytes
    }

    /// Calls that have a slot.
    pub(crate) fn in_flight(&self) -> usize {
        self.inner.lock().in_flight as usize
    }
}

impl Inner {
    fn entry(&mut self, id: CallId) -> Option<&mut Entry> {
        let slot = self.slots.get_mut((id.0 & 0xFFFF_FFFF) as usize)?;
        if u64::from(slot.generation) != id.0 >> 32 {
            return None;
        }
        slot.call.as_mut()
    }

    fn wait(&mut self, waker: &Waker, deadline: Instant) {
        if let Some(waker) = keep(waker) {
            self.waiting.add(waker, deadline);
        }
    }

    fn take_waiting(&mut self) -> Vec<Waker> {
        self.waiting.take_all()
    }

    /// Frees a slot that `entry` found.
    fn free(&mut self, id: CallId) {
        let index = (id.0 & 0xFFFF_FFFF) as usize;
        let slot = &mut self.slots[index];
        slot.generation = slot.generation.wrapping_add(1);
        slot.call = None;
        self.free.push(index as u32);
    }

    /// Counts ended calls out. Returns who should ask for room again: as many, or all once the link has gone half idle,
    /// so that a wake-up that went to a caller who has left cannot stall the others.
    fn make_room(&mut self, calls: u32, bytes: u64) -> Vec<Waker> {
        self.in_flight -= calls;
        self.bytes -= bytes;
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let half_idle = match &self.state {
            State::Up(limits) => self.in_flight <= limits.max_in_flight / 2,
            _ => true,
        };
        if half_idle { self.take_waiting() } else { self.waiting.take(calls as usize) }
    }
}

/// The waker to remember: none for a call that was started and is not awaited yet, which asks again when it is.
fn keep(waker: &Waker) -> Option<Waker> {
    (!waker.will_wake(Waker::noop())).then(|| waker.clone())
}

fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::ProviderId;

    const LIMITS: PeerLimits = PeerLimits { max_in_flight: 2, max_message: 100, max_bytes: 150 };

    const RPC: RpcId = RpcId::new("sum", ProviderId::DEFAULT);
    const SECOND: Duration = Duration::from_secs(1);

    fn peer() -> Address {
        "native+tcp://127.0.0.1:4711".parse().unwrap()
    }

    fn begin(table: &CallTable, bytes: u64) -> Begin {
        let call = Wanted { rpc: RPC, bytes, deadline: Instant::now() + SECOND, timeout: SECOND };
        table.begin(call, Waker::noop())
    }

    fn id(begin: Begin) -> CallId {
        match begin {
            Begin::Id(id) => id,
            Begin::Wait => panic!("has to wait"),
            Begin::Failed(error) => panic!("{error}"),
        }
    }

    #[test]
    fn calls_wait_for_the_link_and_then_for_room() {
        let table = CallTable::new(peer());
        assert!(matches!(begin(&table, 1), Begin::Wait));
        table.come_up(LIMITS);
        let first = id(begin(&table, 100));
        assert!(matches!(begin(&table, 51), Begin::Wait), "too many bytes");
        id(begin(&table, 50));
        assert!(matches!(begin(&table, 0), Begin::Wait), "too many calls");
        assert!(table.forget(first));
        id(begin(&table, 100));
        assert!(matches!(begin(&table, 101), Begin::Failed(error) if matches!(*error, CallError::TooLarge { .. })));
    }

    #[test]
    fn a_late_or_second_response_matches_nothing() {
        let table = CallTable::new(peer());
        table.come_up(LIMITS);
        let old = id(begin(&table, 1));
        assert!(table.forget(old));
        let new = id(begin(&table, 1));
        table.complete(old, || Ok(vec![1].into()));
        assert!(!table.is_done(new));
        table.complete(new, || Ok(vec![2].into()));
        table.complete(new, || Ok(vec![3].into()));
        match table.poll(new, Waker::noop()) {
            Poll::Ready(Ok(bytes)) => assert_eq!(*bytes, [2]),
            other => panic!("{other:?}"),
        }
        assert_eq!(table.in_flight(), 0);
    }

    #[test]
    fn expired_call_releases_its_slot() {
        let table = CallTable::new(peer());
        table.come_up(LIMITS);
        let call = id(begin(&table, 1));
        let (expired, next) = table.expire(Instant::now());
        assert!(expired.is_empty() && next.is_some());
        let (expired, next) = table.expire(Instant::now() + Duration::from_secs(2));
        assert_eq!((expired, next), (vec![call], None));
        let Poll::Ready(Err(error)) = table.poll(call, Waker::noop()) else { panic!("it is over") };
        let words = error.named("sum").to_string();
        assert_eq!(words, "no answer to \"sum\" from native+tcp://127.0.0.1:4711 within 1s");
        assert_eq!(table.in_flight(), 0);
    }

    #[test]
    fn a_lost_link_ends_every_call_with_the_reason() {
        let table = CallTable::new(peer());
        table.come_up(LIMITS);
        let calls = [id(begin(&table, 1)), id(begin(&table, 1))];
        table.lose(CallError::ShutDown);
        for call in calls {
            assert!(
                matches!(table.poll(call, Waker::noop()), Poll::Ready(Err(error)) if matches!(*error, CallError::ShutDown))
            );
        }
        assert!(matches!(begin(&table, 1), Begin::Failed(_)));
    }
}
