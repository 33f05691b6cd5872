//! Buffers that are registered once and used again and again.

use super::descriptor::Permission;
use super::error::BulkError;
use super::memory::Memory;
use super::region::Region;
use crate::engine::{Core, Engine};
use crate::transport::Registration;
use parking_lot::Mutex;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// What a cleared buffer is written with.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A set of buffers of one size for transfers. Memory is allocated, and made known to the network card where there is one,
/// when a buffer is first taken; then it is kept until the pool is gone.
///
/// Each taking is a region of its own: descriptors of the buffer's earlier lives open nothing. A buffer that peers may read
/// is cleared when it is taken, so that no peer reads what was another's. One that a peer may still see after it came back
/// (see [`Region::lend`]) is given up, and a new one allocated when it is needed.
///
/// Cheap to clone; all clones are one pool.
///
/// ```
/// # use margo_rs::bulk::{BulkPool, Permission};
/// # use margo_rs::{Engine, Wait};
/// let engine = Engine::connect("tcp")?;
/// let pool = BulkPool::new(&engine, 4, 1 << 20, Permission::ReadOnly);
///
/// let buffer = pool.take().wait()?;       // a region of 1 MiB
/// buffer.write_at(0, b"to be pulled")?;
/// assert_eq!(pool.available(), 3);
/// drop(buffer);                           // back to the pool: its descriptor opens nothing any more
/// assert_eq!(pool.available(), 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct BulkPool {
    shared: Arc<Shared>,
}

struct Shared {
    core: Arc<Core>,
    size: usize,
    buffers: usize,
    permission: Permission,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: Vec<Kept>,
    /// Buffers that exist, free or taken: `made <= buffers`.
    made: usize,
    waiting: Vec<Waker>,
}

struct Kept {
    memory: Box<dyn Memory>,
    registration: Option<Box<dyn Registration>>,
}

impl BulkPool {
    /// A pool of at most `buffers` buffers of `size` bytes each, with the same permission for peers on all. Allocates
    /// nothing yet.
    pub fn new(engine: &Engine, buffers: usize, size: usize, permission: Permission) -> Self {
        let core = engine.core().clone();
        Self { shared: Arc::new(Shared { core, size, buffers, permission, state: Mutex::default() }) }
    }

    /// A buffer as soon as one is free, in no particular order among those who wait. A dropped future takes nothing.
    pub fn take(&self) -> Take {
        Take { pool: self.clone() }
    }

    /// A buffer if one is free or may still be made.
    ///
    /// # Errors
    /// As for [`Engine::expose`].
    pub fn try_take(&self) -> Result<Option<PooledRegion>, BulkError> {
        let shared = &self.shared;
        let kept = {
            let mut state = shared.state.lock();
            match state.free.pop() {
                Some(kept) => Some(kept),
                None if state.made < shared.buffers => {
                    state.made += 1;
                    None
                }
                None => return Ok(None),
            }
        };
        let fresh = kept.is_none();
        let kept = kept.unwrap_or_else(|| Kept {
            memory: shared.core.transport.allocate(shared.size).unwrap_or_else(|| Box::new(vec![0u8; shared.size])),
            registration: None,
        });
        match Region::with_registration(&shared.core, kept.memory, shared.permission, kept.registration) {
            Ok(region) => {
                let region = PooledRegion { region: Some(region), pool: shared.clone() };
                if !fresh && matches!(shared.permission, Permission::ReadOnly | Permission::ReadWrite) {
                    clear(&region)?;
                }
                Ok(Some(region))
            }
            Err(error) => {
                shared.one_less();
                Err(error)
            }
        }
    }

    /// Buffers that can be taken without waiting.
    pub fn available(&self) -> usize {
        let state = self.shared.state.lock();
        state.free.len() + self.shared.buffers - state.made
    }
}

fn clear(region: &Region<Box<dyn Memory>>) -> Result<(), BulkError> {
    let mut at = 0;
    while at < region.len() {
        let length = (region.len() - at).min(ZEROS.len() as u64);
        region.write_at(at, &ZEROS[..length as usize])?;
        at += length;
    }
    Ok(())
}

impl Shared {
    /// A buffer is gone for good.
    fn one_less(&self) {
        self.change(|state| state.made -= 1);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        // All of them: one alone might not want it any more.
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for waker in waiting {
            waker.wake();
        }
    }
}

impl fmt::Debug for BulkPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkPool")
            .field("size", &self.shared.size)
            .field("buffers", &self.shared.buffers)
            .field("available", &self.available())
            .finish_non_exhaustive()
    }
}

/// Waits for a buffer; see [`BulkPool::take`].
#[must_use = "a buffer comes by `.await` or `.wait()`"]
pub struct Take {
    pool: BulkPool,
}

impl Future for Take {
    type Output = Result<PooledRegion, BulkError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.pool.shared.buffers == 0 {
            return Poll::Ready(Err(BulkError::EmptyPool));
        }
        if let Some(region) = self.pool.try_take()? {
            return Poll::Ready(Ok(region));
        }
        let mut state = self.pool.shared.state.lock();
        if !state.waiting.iter().any(|waiting| waiting.will_wake(cx.waker())) {
            state.waiting.push(cx.waker().clone());
        }
        // One may have come back between the two looks.
        let look_again = !state.free.is_empty() || state.made < self.pool.shared.buffers;
        drop(state);
        if look_again {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl fmt::Debug for Take {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Take({:?})", self.pool)
    }
}

/// A buffer of a pool, exposed like any [`Region`]. Dropping it takes it back from all peers and returns it to the pool.
pub struct PooledRegion {
    /// There until it is dropped.
    region: Option<Region<Box<dyn Memory>>>,
    pool: Arc<Shared>,
}

impl Deref for PooledRegion {
    type Target = Region<Box<dyn Memory>>;

    fn deref(&self) -> &Self::Target {
        self.region.as_ref().expect("there until it is dropped")
    }
}

impl Drop for PooledRegion {
    fn drop(&mut self) {
        let running = self.pool.core.is_running();
        match self.region.take().and_then(Region::take) {
            Some((memory, registration)) if running && registration.as_ref().is_none_or(|it| it.renew()) => {
                self.pool.change(|state| state.free.push(Kept { memory, registration }));
            }
            // A device still works on it, or a peer may still see it: another buffer may take its place. Or the engine
            // has ended.
            _ => self.pool.one_less(),
        }
    }
}

impl fmt::Debug for PooledRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PooledRegion({:?})", self.region)
    }
}
