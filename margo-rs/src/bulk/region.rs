//! Memory that an engine holds for transfers.

use super::descriptor::{BulkDescriptor, Permission};
use super::error::BulkError;
use super::layout::is_within;
use super::memory::Memory;
use super::store::{Access, Store, Taken, Window, Withdrawn};
use super::transfer::{LocalRange, range_of};
use crate::engine::Core;
use crate::transport::Registration;
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::ops::RangeBounds;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Memory that peers may reach, or that is the local end of transfers; from [`Engine::expose`](crate::Engine::expose) or
/// [`Engine::stage`](crate::Engine::stage).
///
/// It owns the memory: nothing of it can be seen as a slice meanwhile. Bytes are copied in and out, or the memory is
/// taken back whole with [`Region::into_inner`]. Dropping the region takes it back from all peers at once, and frees the
/// memory as soon as nothing touches it. A transfer that runs then ends with an error.
pub struct Region<M: Memory = Vec<u8>> {
    core: Arc<Core>,
    id: u64,
    store: Arc<Store>,
    descriptor: BulkDescriptor,
    memory: PhantomData<fn() -> M>,
}

impl<M: Memory> Region<M> {
    pub(crate) fn new(core: &Arc<Core>, memory: M, permission: Permission) -> Result<Self, BulkError> {
        Self::with_registration(core, memory, permission, None)
    }

    /// As [`Region::new`], for memory that was registered before.
    pub(crate) fn with_registration(
        core: &Arc<Core>,
        memory: M,
        permission: Permission,
        registration: Option<Box<dyn Registration>>,
    ) -> Result<Self, BulkError> {
        if !core.is_running() {
            return Err(BulkError::ShutDown);
        }
        if matches!(permission, Permission::WriteOnly | Permission::ReadWrite) && !memory.is_writable() {
            return Err(BulkError::ReadOnlyMemory);
        }
        let failed = |reason| BulkError::Transport { peer: core.own_address().clone(), reason };
        let mut foreign = None;
        let store = Store::new(Box::new(memory), |segments| {
            let registration = match registration {
                Some(registration) => Some(registration),
                None => core.transport.register(segments, permission).map_err(failed)?,
            };
            foreign = registration.as_ref().and_then(|registration| registration.descriptor());
            Ok::<_, BulkError>(registration)
        })?;
        let store = Arc::new(store.ok_or(BulkError::TooLarge)?);
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(|error| failed(format!("no random numbers: {error}")))?;
        // The engine may be ending meanwhile: other regions stay for the handlers that may end before it.
        let key =
            core.regions.insert(u128::from_le_bytes(secret), permission, store.clone()).ok_or(BulkError::ShutDown)?;
        let owner = core.is_listening().then(|| core.own_address().clone());
        let descriptor = BulkDescriptor::native(key, store.len(), permission, owner);
        let descriptor = match foreign {
            Some(bytes) => descriptor.behind(&bytes).map_err(|error| failed(error.to_string())),
            None => Ok(descriptor),
        };
        let descriptor = descriptor.inspect_err(|_| core.regions.remove(key.id))?;
        Ok(Self { core: core.clone(), id: key.id, store, descriptor, memory: PhantomData })
    }

    /// What peers need to reach the region; to be sent to them in an argument or a result.
    pub fn descriptor(&self) -> &BulkDescriptor {
        &self.descriptor
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.store.len()
    }

    /// Whether the region has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A part of the region, as the local end of a transfer. That it lies within is checked when the transfer starts.
    pub fn slice(&self, range: impl RangeBounds<u64>) -> LocalRange {
        let (offset, length) = range_of(range, self.len());
        LocalRange::new(self.store.clone(), offset, length)
    }

    /// The whole region, as what is pushed, with leave for the peer to read it by itself from now on until the region is
    /// taken back: also what is written into it later. `to.push(region.lend(), &descriptor)`.
    ///
    /// That spares one of two copies where both ends share memory and the region's memory is the engine's own, from
    /// [`Engine::allocate`](crate::Engine::allocate) or a [`BulkPool`](super::BulkPool). It is made use of only after the
    /// region has been pushed, or pulled from, several times: memory that a peer has seen cannot be used for anything else
    /// again, and new memory costs more than a few copies. In every other case it is a push like any other.
    ///
    /// Nothing of that is needed where peers pull: whoever may pull from a region may see it anyway.
    pub fn lend(&self) -> LocalRange {
        self.slice(..).lent()
    }

    /// Copies bytes from `offset` on out of the region. What peers push meanwhile may be in it or not.
    ///
    /// # Errors
    /// The range lies outside of the region, or the engine has ended.
    pub fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), BulkError> {
        self.window(Access::Read, offset, into.len())?.copy_out(0, into).map_err(|Withdrawn| BulkError::ShutDown)
    }

    /// Copies bytes into the region, from `offset` on. Peers that pull meanwhile may get them or not.
    ///
    /// # Errors
    /// The range lies outside of the region, the memory cannot be written, or the engine has ended.
    pub fn write_at(&self, offset: u64, from: &[u8]) -> Result<(), BulkError> {
        if !self.store.is_writable() {
            return Err(BulkError::ReadOnlyMemory);
        }
        self.window(Access::Write, offset, from.len())?.copy_in(0, from).map_err(|Withdrawn| BulkError::ShutDown)
    }

    /// Takes the region back from all peers and gives the memory back.
    ///
    /// From this call on nobody begins to touch the memory, also if the future is dropped, which frees it. The future is
    /// ready at once on the built-in transports; where a device moves data, when the last of its transfers has ended.
    pub fn into_inner(self) -> IntoInner<M> {
        self.core.regions.remove(self.id);
        self.store.withdraw();
        IntoInner { region: self }
    }

    /// As [`Region::into_inner`], now or not at all: what is pinned is freed later.
    pub(crate) fn take(self) -> Option<(M, Option<Box<dyn Registration>>)> {
        self.core.regions.remove(self.id);
        self.store.withdraw();
        self.store.take().map(split)
    }

    pub(super) fn window(&self, access: Access, offset: u64, length: usize) -> Result<Window, BulkError> {
        let (length, size) = (length as u64, self.len());
        let outside = BulkError::LocalOutOfBounds { offset, length, size };
        if !is_within(offset, length, size) {
            return Err(outside);
        }
        self.store.window(access, offset, length).ok_or(outside)
    }
}

fn split<M: Memory>(taken: Taken) -> (M, Option<Box<dyn Registration>>) {
    let memory: Box<dyn Any> = taken.memory;
    (*memory.downcast::<M>().expect("a region's memory has the type it was made with"), taken.registration)
}

impl<M: Memory> Drop for Region<M> {
    fn drop(&mut self) {
        self.core.regions.remove(self.id);
        self.store.discard();
    }
}

impl<M: Memory> fmt::Debug for Region<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region")
            .field("id", &self.id)
            .field("length", &self.len())
            .field("permission", &self.descriptor.permission())
            .finish_non_exhaustive()
    }
}

/// Waits for the memory of a region; see [`Region::into_inner`].
#[must_use = "the memory comes by `.await` or `.wait()`"]
pub struct IntoInner<M: Memory> {
    region: Region<M>,
}

impl<M: Memory> Future for IntoInner<M> {
    type Output = M;

    /// # Panics
    /// It was polled after it was done.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<M> {
        let taken = std::task::ready!(self.region.store.poll_take(cx.waker()));
        let (memory, registration) = split(taken.expect("not polled after it was done"));
        drop(registration);
        Poll::Ready(memory)
    }
}

impl<M: Memory> fmt::Debug for IntoInner<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IntoInner({:?})", self.region)
    }
}
