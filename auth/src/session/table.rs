use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::node::NodeAddress;
use super::quota::{Book, Quota, QuotaExceeded};
use super::server::{Request, RequestRefused, Session, State};
use super::wheel::Wheel;
use crate::protocol::message::Incoming;
use crate::protocol::server::Established;
use crate::protocol::{SessionId, Tick};

const SHARDS: usize = 64;
/// Sessions with keys made ready, at 1.1 KiB each.
const WARM_MAX: usize = 4096;
/// Idle time after which keys made ready are dropped.
const WARM: Duration = Duration::from_secs(10);
/// Own sessions that are looked at to find one to end.
const EVICTION_SAMPLE: usize = 16;
/// Sessions that one call of [`Table::expire`] looks at, about.
const EXPIRE_BATCH: usize = 4096;

/// How long sessions live; what is granted to each is in its [`Terms`](crate::protocol::Terms).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lifetimes {
    /// Until the first request.
    pub half_open: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { half_open: Duration::from_secs(5) }
    }
}

/// How many sessions there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// In all.
    pub sessions: usize,
    /// Of these, not yet used by their clients.
    pub half_open: usize,
}

/// Why a session was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InsertRefused {
    /// There is no room for it.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// Sessions of its user were revoked after its handshake had begun.
    #[error("sessions of its user were revoked while its handshake was at work")]
    Revoked,
}

type Shard = RwLock<HashMap<SessionId, Arc<Session>, BuildHasherDefault<IdHasher>>>;

/// The server's sessions, by id.
///
/// A request takes one read lock of one shard. Locks are taken in the order book, wheel, shard, and none is held over a
/// handler or a cipher.
pub struct Table {
    shards: Box<[Shard]>,
    book: Mutex<Book>,
    wheel: Mutex<Wheel>,
    warm: Mutex<VecDeque<Weak<Session>>>,
    quota: Quota,
    lifetimes: Lifetimes,
    generation: AtomicU64,
}

impl Table {
    /// An empty table.
    pub fn new(quota: Quota, lifetimes: Lifetimes, now: Tick) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            book: Mutex::default(),
            wheel: Mutex::new(Wheel::new(now)),
            warm: Mutex::default(),
            quota,
            lifetimes,
            generation: AtomicU64::new(0),
        }
    }

    /// Whether one more half-open session from there would be taken in now: asked before anything is computed for it.
    ///
    /// # Errors
    /// When there is no room.
    pub fn check_half_open(&self, node: NodeAddress) -> Result<(), QuotaExceeded> {
        self.book.lock().check_half_open(&self.quota, node)
    }

    /// Takes in a session after its handshake, half-open. HELLO_REP is to be sent only after this.
    ///
    /// A half-open session takes no place of its uid's and ends no other session: anybody may have replayed its HELLO.
    ///
    /// `generation` is what [`generation`](Self::generation) said before the client was verified: a revocation since then
    /// counts for this session, too.
    ///
    /// # Errors
    /// When there is no room, or it was revoked before it began.
    pub fn insert(
        &self,
        established: Established,
        generation: u64,
        node: NodeAddress,
        now: Tick,
    ) -> Result<Arc<Session>, InsertRefused> {
        let mut book = self.book.lock();
        book.check_half_open(&self.quota, node)?;
        let id = established.session();
        if self.find(&id).is_some() {
            return Err(QuotaExceeded::DuplicateId.into());
        }
        let uid = established.principal().identity.uid;
        if !book.has_room(&self.quota, uid) && book.of_uid(uid) == 0 {
            return Err(QuotaExceeded::Sessions.into());
        }
        // Under the lock of the book: a revocation is noted there before it looks at the shards.
        if book.revoked.includes(uid, generation) {
            return Err(InsertRefused::Revoked);
        }
        let session = Arc::new(Session::new(established, node, generation, self.lifetimes.half_open, now));
        book.add_half_open(node);
        self.wheel.lock().insert(id, session.deadline());
        self.shard(&id).write().insert(id, Arc::clone(&session));
        Ok(session)
    }

    /// The session of this name.
    #[inline]
    pub fn find(&self, id: &SessionId) -> Option<Arc<Session>> {
        self.shard(id).read().get(id).map(Arc::clone)
    }

    /// Finds a request's session, checks it and opens it in place.
    ///
    /// The first request makes its session open: it proves that the client holds its X25519 key. When its uid has no room,
    /// the longest idle one of some of the uid's oldest sessions is ended for it; never one of another uid, and never one
    /// with running calls.
    ///
    /// # Errors
    /// When there is no such session, or it refuses.
    #[inline]
    pub fn open<'a>(&self, message: Incoming<'a>, now: Tick) -> Result<Request<'a>, RequestRefused> {
        let session = self.find(&message.header().session()).ok_or(RequestRefused::UnknownSession)?;
        if !session.warm.load(Ordering::Acquire) && !session.warm.swap(true, Ordering::AcqRel) {
            self.keep_warm(&session, now);
        }
        session.open(message, now, |session| self.make_open(session))
    }

    /// Closes a session: what runs may end and answer, nothing new is taken. `false` when it was gone already.
    pub fn close(&self, id: &SessionId) -> bool {
        self.remove(id, State::Draining)
    }

    /// Revokes a session: nothing more is taken or answered.
    pub fn revoke(&self, id: &SessionId) -> bool {
        self.remove(id, State::Dead)
    }

    /// Revokes all sessions of a user, those whose handshakes are at work included, and says how many there were.
    pub fn revoke_uid(&self, uid: u32) -> usize {
        let generation = self.next_generation();
        self.book.lock().revoked.add(uid, generation);
        self.revoke_where(|session| session.principal().identity.uid == uid && session.generation < generation)
    }

    /// Revokes all sessions, those whose handshakes are at work included, and says how many there were.
    pub fn revoke_all(&self) -> usize {
        self.revoke_before(self.next_generation())
    }

    /// The present generation: to be asked for before a client is verified, for [`insert`](Self::insert).
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Starts a new generation and gives its number: sessions whose handshakes begin from now on are of it, or of a later
    /// one.
    pub fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Revokes all sessions of generations before this one, those whose handshakes are at work included, and says how many
    /// there were.
    pub fn revoke_before(&self, generation: u64) -> usize {
        self.book.lock().revoked.add_all(generation);
        self.revoke_where(|session| session.generation < generation)
    }

    /// Ends what has expired and drops keys of idle sessions; to be called about every second. Looks only at sessions
    /// whose time has come. Says how many ended.
    pub fn expire(&self, now: Tick) -> usize {
        self.cool_idle(now);
        let mut ended = 0;
        loop {
            let up = self.wheel.lock().take(now, EXPIRE_BATCH);
            if up.is_empty() {
                return ended;
            }
            for id in up {
                let Some(session) = self.find(&id) else {
                    continue;
                };
                let deadline = session.deadline();
                if deadline <= now {
                    ended += usize::from(self.remove(&id, State::Draining));
                } else {
                    self.wheel.lock().insert(id, deadline);
                }
            }
        }
    }

    /// When [`expire`](Self::expire) has something to look at; `None` while there are no sessions.
    pub fn next_due(&self) -> Option<Tick> {
        let session = self.wheel.lock().next_due();
        let warm = self.warm.lock().front().and_then(Weak::upgrade).map(|session| session.last_used().after(WARM));
        match (session, warm) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// How many sessions there are.
    pub fn counts(&self) -> Counts {
        let book = self.book.lock();
        Counts { sessions: book.open + book.half_open, half_open: book.half_open }
    }

    /// How many sessions a user has, half-open ones aside.
    pub fn count_of(&self, uid: u32) -> usize {
        self.book.lock().of_uid(uid)
    }

    /// All sessions, to be listed.
    pub fn sessions(&self) -> Vec<Arc<Session>> {
        self.shards.iter().flat_map(|shard| shard.read().values().map(Arc::clone).collect::<Vec<_>>()).collect()
    }

    #[inline]
    fn shard(&self, id: &SessionId) -> &Shard {
        &self.shards[usize::from(id.as_bytes()[15]) % SHARDS]
    }

    fn remove(&self, id: &SessionId, state: State) -> bool {
        self.remove_from(&mut self.book.lock(), id, state)
    }

    fn remove_from(&self, book: &mut Book, id: &SessionId, state: State) -> bool {
        let Some(session) = self.shard(id).write().remove(id) else {
            return false;
        };
        // Under the lock of the book, as in `make_open`: each session is counted as what it is.
        match session.end(state) {
            State::HalfOpen => book.no_longer_half_open(session.node()),
            _ => book.remove(session.principal().identity.uid),
        }
        true
    }

    fn revoke_where(&self, is_meant: impl Fn(&Session) -> bool) -> usize {
        let mut revoked = 0;
        for shard in &self.shards {
            let ids: Vec<_> =
                shard.read().values().filter(|session| is_meant(session)).map(|session| session.id()).collect();
            revoked += ids.iter().filter(|id| self.revoke(id)).count();
        }
        revoked
    }

    fn make_open(&self, session: &Session) -> Result<(), RequestRefused> {
        let mut book = self.book.lock();
        let (id, uid) = (session.id(), session.principal().identity.uid);
        if session.state() != State::HalfOpen {
            return Ok(()); // another thread was first
        }
        if !book.has_room(&self.quota, uid) && !self.evict(&mut book, uid) {
            self.remove_from(&mut book, &id, State::Dead);
            return Err(RequestRefused::NoRoom);
        }
        if session.make_open() {
            book.no_longer_half_open(session.node());
            book.add(id, uid, |id| self.find(id).is_some());
        }
        Ok(())
    }

    fn evict(&self, book: &mut Book, uid: u32) -> bool {
        let mut looked_at = Vec::with_capacity(EVICTION_SAMPLE);
        while looked_at.len() < EVICTION_SAMPLE {
            let Some(id) = book.pop_oldest(uid) else {
                break;
            };
            looked_at.extend(self.find(&id)); // those that have ended are forgotten
        }
        let idle = looked_at.iter().filter(|session| session.running() == 0).min_by_key(|session| session.last_used());
        let evicted = idle.map(|session| session.id());
        for session in &looked_at {
            if Some(session.id()) != evicted {
                book.push_newest(uid, session.id());
            }
        }
        evicted.is_some_and(|id| self.remove_from(book, &id, State::Draining))
    }

    fn keep_warm(&self, session: &Arc<Session>, now: Tick) {
        let mut warm = self.warm.lock();
        warm.push_back(Arc::downgrade(session));
        if warm.len() > WARM_MAX {
            let oldest = warm.pop_front().and_then(|session| session.upgrade());
            drop(warm);
            if let Some(oldest) = oldest {
                oldest.cool(now);
            }
        }
    }

    fn cool_idle(&self, now: Tick) {
        let count = self.warm.lock().len();
        for _ in 0..count {
            let Some(entry) = self.warm.lock().pop_front() else {
                return;
            };
            let Some(session) = entry.upgrade() else {
                continue;
            };
            if now >= session.last_used().after(WARM) {
                session.cool(now);
            } else {
                self.warm.lock().push_back(entry);
            }
        }
    }
}

/// Session ids are random and the server's own: they are their own hash.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks_exact(8) {
            self.0 ^= u64::from_le_bytes(chunk.try_into().expect("8 bytes")).rotate_left(7);
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
