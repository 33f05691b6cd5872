//! The memory of a region while peers may reach it: who may touch it when, and how it is taken back.
//!
//! Bytes of a region are touched in two ways only. A transport that copies does so through a [`Window`], under the
//! region's lock and for the length of one non-blocking system call or one copy at a time: several may read, or one may
//! write. A transport that hands addresses to a device pins the window first, and the memory is not given back before the
//! last pin is gone. Taking a region back waits for the lock, then every window of it is blind.

use super::layout::{Layout, is_within};
use super::memory::{Memory, Segment};
use crate::transport::Registration;
use parking_lot::{Mutex, RwLock};
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use thiserror::Error;

/// Segments that one use of a window spans at most.
const SLICES_MAX: usize = 16;
/// Bytes copied under the lock at a time, so that nobody waits long for it.
const COPIED_AT_ONCE: usize = 256 * 1024;

/// The memory was taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the region was taken back")]
pub struct Withdrawn;

/// A region's memory and the rules of touching it.
pub(crate) struct Store {
    layout: Layout,
    /// Valid while `state.memory` is there and the store is not withdrawn, or a pin exists.
    segments: Box<[Segment]>,
    writable: bool,
    /// Others write without our lock: references to the bytes are never made.
    shared: bool,
    state: RwLock<State>,
    pins: AtomicUsize,
    /// Who waits for the last pin to go.
    waiting: Mutex<Option<Waker>>,
}

struct State {
    /// A device must have let go of the memory before it is freed: first the registration goes, then the memory.
    registration: Option<Box<dyn Registration>>,
    memory: Option<Box<dyn Memory>>,
    withdrawn: bool,
}

// SAFETY: the segments point into `memory`, which may be sent between threads and is used by nothing else; they are
// followed only under the lock of `state`, or behind a pin by whoever answers for it. `memory` itself is only moved and
// dropped, by one thread at a time, under the same lock held for writing.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// Takes memory in. `register` makes it known to the transport. `None` if no address can tell its size.
    pub(crate) fn new<E>(
        mut memory: Box<dyn Memory>,
        register: impl FnOnce(&[Segment]) -> Result<Option<Box<dyn Registration>>, E>,
    ) -> Result<Option<Self>, E> {
        let (writable, shared) = (memory.is_writable(), memory.is_shared());
        let mut segments = memory.segments();
        segments.retain(|segment| segment.length > 0);
        let Some(layout) = Layout::new(segments.iter().map(|segment| segment.length)) else { return Ok(None) };
        let registration = register(&segments)?;
        let shared = shared || registration.as_ref().is_some_and(|it| it.is_written_unseen());
        Ok(Some(Self {
            layout,
            segments: segments.into(),
            writable,
            shared,
            state: RwLock::new(State { registration, memory: Some(memory), withdrawn: false }),
            pins: AtomicUsize::new(0),
            waiting: Mutex::new(None),
        }))
    }

    /// Size in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.layout.len() as u64
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// A part of the memory, for reading or for writing. `None` if it lies outside, or cannot be written.
    pub(crate) fn window(self: &Arc<Self>, access: Access, offset: u64, length: u64) -> Option<Window> {
        if !is_within(offset, length, self.len()) || (access == Access::Write && !self.writable) {
            return None;
        }
        let (start, length) = (offset as usize, length as usize);
        Some(Window { store: self.clone(), access, start, length, live: Arc::new(AtomicBool::new(true)) })
    }

    /// Ends all use by windows; returns once none is touching the memory. Pins remain.
    pub(crate) fn withdraw(&self) {
        self.state.write().withdrawn = true;
    }

    /// Ends all use, and frees the memory now unless it is pinned; then it goes with the last pin.
    pub(crate) fn discard(&self) {
        self.withdraw();
        drop(self.take());
    }

    /// Ends all use and gives up what the transport registered, because the transport ends. The memory stays.
    pub(crate) fn unregister(&self) {
        let registration = {
            let mut state = self.state.write();
            state.withdrawn = true;
            state.registration.take()
        };
        drop(registration);
    }

    /// Gives the memory back after [`Store::withdraw`], once nothing pins it.
    pub(crate) fn poll_take(&self, waker: &Waker) -> Poll<Option<Taken>> {
        *self.waiting.lock() = Some(waker.clone());
        if self.pins.load(Ordering::SeqCst) > 0 { Poll::Pending } else { Poll::Ready(self.take()) }
    }

    /// What is there to be given back, after [`Store::withdraw`] and unless something pins it.
    pub(crate) fn take(&self) -> Option<Taken> {
        let mut state = self.state.write();
        if !state.withdrawn || self.pins.load(Ordering::Acquire) > 0 {
            return None;
        }
        let (registration, memory) = (state.registration.take(), state.memory.take());
        drop(state);
        memory.map(|memory| Taken { registration, memory })
    }

    /// Calls `with` with slices of the range, as many as fit into one system call.
    fn read<R>(
        &self,
        live: &AtomicBool,
        range: Range<usize>,
        with: impl FnOnce(&[IoSlice<'_>]) -> R,
    ) -> Result<R, Withdrawn> {
        assert!(!self.shared, "no references to memory that others write");
        let state = self.state.read();
        if state.withdrawn || !live.load(Ordering::Acquire) {
            return Err(Withdrawn);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (segment, part) in self.layout.parts(range).take(SLICES_MAX) {
            let at = self.place(segment, part.start);
            // SAFETY: `place` and the layout give a part of a segment. `state` says that the segment is valid and
            // initialised, and its lock, held for reading until `with` has returned, that nobody writes it.
            let bytes = unsafe { std::slice::from_raw_parts(at, part.len()) };
            slices[count] = IoSlice::new(bytes);
            count += 1;
        }
        let result = with(&slices[..count]);
        drop(state);
        Ok(result)
    }

    /// As [`Store::read`], for writing.
    fn write<R>(
        &self,
        live: &AtomicBool,
        range: Range<usize>,
        with: impl FnOnce(&mut [IoSliceMut<'_>]) -> R,
    ) -> Result<R, Withdrawn> {
        assert!(self.writable && !self.shared, "no references to memory that others write");
        let state = self.state.write();
        if state.withdrawn || !live.load(Ordering::Acquire) {
            return Err(Withdrawn);
        }
        let mut slices: [IoSliceMut<'_>; SLICES_MAX] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut count = 0;
        for (segment, part) in self.layout.parts(range).take(SLICES_MAX) {
            let at = self.place(segment, part.start);
            // SAFETY: `place` and the layout give a part of a segment, a different one each time, and segments do not
            // overlap. `state` says that the segment is valid and initialised, `writable` that it may be written, and
            // the lock, held for writing until `with` has returned, that nobody else touches it.
            let bytes = unsafe { std::slice::from_raw_parts_mut(at, part.len()) };
            slices[count] = IoSliceMut::new(bytes);
            count += 1;
        }
        let result = with(&mut slices[..count]);
        drop(state);
        Ok(result)
    }

    fn place(&self, segment: usize, offset: usize) -> *mut u8 {
        let segment = &self.segments[segment];
        assert!(offset <= segment.length);
        // SAFETY: just checked to lie in the segment, which is one allocation.
        unsafe { segment.start.as_ptr().add(offset) }
    }

    /// Copies bytes out, in pieces.
    fn copy_out(&self, live: &AtomicBool, mut from: usize, into: &mut [u8]) -> Result<(), Withdrawn> {
        for piece in into.chunks_mut(COPIED_AT_ONCE) {
            let state = self.state.read();
            if state.withdrawn || !live.load(Ordering::Acquire) {
                return Err(Withdrawn);
            }
            let mut rest = &mut *piece;
            for (segment, part) in self.layout.parts(from..from + rest.len()) {
                let (now, later) = rest.split_at_mut(part.len());
                let at = self.place(segment, part.start);
                if self.shared || self.pins.load(Ordering::Acquire) > 0 {
                    copy_volatile(at, now.as_mut_ptr(), now.len());
                } else {
                    // SAFETY: `part` lies in a segment that is valid, and that nobody writes while the lock is held;
                    // `now` is as long and a buffer of the caller's.
                    unsafe {
                        ptr::copy_nonoverlapping(at, now.as_mut_ptr(), now.len());
                    }
                }
                rest = later;
            }
            from += piece.len();
        }
        Ok(())
    }

    /// Copies bytes in, in pieces.
    fn copy_in(&self, live: &AtomicBool, mut to: usize, from: &[u8]) -> Result<(), Withdrawn> {
        assert!(self.writable, "memory that can be written");
        for piece in from.chunks(COPIED_AT_ONCE) {
            let state = self.state.write();
            if state.withdrawn || !live.load(Ordering::Acquire) {
                return Err(Withdrawn);
            }
            let mut rest = piece;
            for (segment, part) in self.layout.parts(to..to + rest.len()) {
                let (now, later) = rest.split_at(part.len());
                let at = self.place(segment, part.start);
                if self.shared || self.pins.load(Ordering::Acquire) > 0 {
                    copy_volatile(now.as_ptr(), at, now.len());
                } else {
                    // SAFETY: `part` lies in a segment that is valid, writable, and touched by nobody else while the
                    // lock is held for writing; `now` is as long and a buffer of the caller's.
                    unsafe {
                        ptr::copy_nonoverlapping(now.as_ptr(), at, now.len());
                    }
                }
                rest = later;
            }
            to += piece.len();
        }
        Ok(())
    }
}

/// Copies memory that another process may be writing or reading.
fn copy_volatile(from: *const u8, to: *mut u8, length: usize) {
    const WORD: usize = size_of::<u64>();
    let mut at = 0;
    while at < length {
        // SAFETY: callers pass places with `length` bytes behind them, and `at` is less.
        let source = unsafe { from.add(at) };
        // SAFETY: as above.
        let target = unsafe { to.add(at) };
        let aligned = source.addr().is_multiple_of(WORD) && target.addr().is_multiple_of(WORD);
        if aligned && length - at >= WORD {
            // SAFETY: a whole word is left on both sides, aligned; volatile, because another process may write it.
            let word = unsafe { source.cast::<u64>().read_volatile() };
            // SAFETY: as above.
            unsafe {
                target.cast::<u64>().write_volatile(word);
            }
            at += WORD;
        } else {
            // SAFETY: one byte is left on both sides.
            let byte = unsafe { source.read_volatile() };
            // SAFETY: as above.
            unsafe {
                target.write_volatile(byte);
            }
            at += 1;
        }
    }
}

/// What comes out of a store at its end.
pub(crate) struct Taken {
    pub(crate) registration: Option<Box<dyn Registration>>,
    pub(crate) memory: Box<dyn Memory>,
}

/// What a window may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Bytes go out of it.
    Read,
    /// Bytes come into it.
    Write,
}

/// The right to read, or to write, one range of a region for one transfer. Bounds and permission were checked when it was
/// made. It keeps the region's bookkeeping alive, not the region: every use may find the memory [`Withdrawn`], because the
/// region was taken back or the transfer cancelled.
///
/// Offsets are relative to the window. Uses hold the region's lock: they must be short and never block.
#[derive(Clone)]
pub struct Window {
    store: Arc<Store>,
    access: Access,
    start: usize,
    length: usize,
    /// Shared by all copies and parts of the window.
    live: Arc<AtomicBool>,
}

impl Window {
    /// Bytes in the window.
    pub fn len(&self) -> u64 {
        self.length as u64
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What it is for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Whether others may write the memory at any time: then [`Window::read`] and [`Window::write`] cannot be used, only
    /// copies and pins.
    pub fn is_shared(&self) -> bool {
        self.store.shared
    }

    /// Hands the bytes of `range` to `with`, at most 16 segments of them: fewer bytes than asked for may come.
    ///
    /// # Errors
    /// The memory was taken back.
    ///
    /// # Panics
    /// The window is not for reading, its memory is shared, or the range lies outside.
    pub fn read<R>(&self, range: Range<u64>, with: impl FnOnce(&[IoSlice<'_>]) -> R) -> Result<R, Withdrawn> {
        assert_eq!(self.access, Access::Read);
        self.store.read(&self.live, self.range(range), with)
    }

    /// Lets `with` fill the bytes of `range`, at most 16 segments of them: fewer bytes than asked for may come.
    ///
    /// # Errors
    /// The memory was taken back.
    ///
    /// # Panics
    /// The window is not for writing, its memory is shared, or the range lies outside.
    pub fn write<R>(&self, range: Range<u64>, with: impl FnOnce(&mut [IoSliceMut<'_>]) -> R) -> Result<R, Withdrawn> {
        assert_eq!(self.access, Access::Write);
        self.store.write(&self.live, self.range(range), with)
    }

    /// Copies bytes from `offset` on out of the window, into all of `into`. Not one step: the lock is let go in between.
    ///
    /// # Errors
    /// The memory was taken back.
    ///
    /// # Panics
    /// The window is not for reading, or the range lies outside.
    pub fn copy_out(&self, offset: u64, into: &mut [u8]) -> Result<(), Withdrawn> {
        assert_eq!(self.access, Access::Read);
        self.store.copy_out(&self.live, self.range(offset..offset + into.len() as u64).start, into)
    }

    /// Copies all of `from` into the window, from `offset` on. Not one step: the lock is let go in between.
    ///
    /// # Errors
    /// The memory was taken back.
    ///
    /// # Panics
    /// The window is not for writing, or the range lies outside.
    pub fn copy_in(&self, offset: u64, from: &[u8]) -> Result<(), Withdrawn> {
        assert_eq!(self.access, Access::Write);
        self.store.copy_in(&self.live, self.range(offset..offset + from.len() as u64).start, from)
    }

    /// Keeps the memory from being given back until the pin is dropped, for a device that touches it by itself.
    ///
    /// # Errors
    /// The memory was taken back.
    pub fn pin(&self) -> Result<Pinned, Withdrawn> {
        // Under the lock: a withdrawal either has happened, or sees the pin.
        let state = self.store.state.read();
        if state.withdrawn || !self.live.load(Ordering::Acquire) {
            return Err(Withdrawn);
        }
        self.store.pins.fetch_add(1, Ordering::AcqRel);
        Ok(Pinned { window: self.clone() })
    }

    /// Calls `with` with what the transport registered for the window's region, and where in the region the window
    /// starts.
    ///
    /// # Errors
    /// The memory was taken back.
    pub fn with_registration<R>(&self, with: impl FnOnce(Option<&dyn Registration>, u64) -> R) -> Result<R, Withdrawn> {
        let state = self.store.state.read();
        if state.withdrawn || !self.live.load(Ordering::Acquire) {
            return Err(Withdrawn);
        }
        Ok(with(state.registration.as_deref(), self.start as u64))
    }

    /// Ends all use of the window and its parts; returns once none is touching the memory. Pins remain.
    pub(crate) fn close(&self) {
        if self.live.swap(false, Ordering::AcqRel) {
            // Whoever saw it open holds the lock.
            drop(self.store.state.write());
        }
    }

    /// The part of the window that `length` bytes from `offset` on are.
    pub(crate) fn part(&self, offset: u64, length: u64) -> Window {
        let range = self.range(offset..offset + length);
        Window { start: range.start, length: range.len(), ..self.clone() }
    }

    fn range(&self, range: Range<u64>) -> Range<usize> {
        assert!(range.start <= range.end && range.end <= self.length as u64, "range within the window");
        self.start + range.start as usize..self.start + range.end as usize
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window({:?}, {}..{})", self.access, self.start, self.start + self.length)
    }
}

/// Keeps a window's memory where it is. Dropped when the device is done with it.
pub struct Pinned {
    window: Window,
}

impl Pinned {
    /// The window.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// The parts of segments that make up the window, in order. They may be followed while the pin exists, in the
    /// direction of the window only.
    pub fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        let store = &self.window.store;
        store.layout.parts(self.window.start..self.window.start + self.window.length).filter_map(|(segment, part)| {
            let start = ptr::NonNull::new(store.place(segment, part.start))?;
            Some(Segment { start, length: part.len() })
        })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let store = &self.window.store;
        if store.pins.fetch_sub(1, Ordering::SeqCst) == 1 {
            let waker = store.waiting.lock().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({:?})", self.window)
    }
}
