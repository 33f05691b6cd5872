//! The unsafe code for MUNGE: calls into libmunge, and the buffers it hands over.
//!
//! Safe outside: a [`Context`] is owned by one thread at a time, and what comes back has been
//! copied, wiped and freed.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr::{self, NonNull};
use std::slice;
use std::time::{Duration, SystemTime};

use zeroize::Zeroize;

use super::decoded::{Cipher, Compression, Mac, Metadata};
use super::payload::Payload;
use crate::Identity;

/// A failed call: the number of `munge.h` and what libmunge says about it, made printable.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: u32,
    pub(super) detail: String,
    /// For the statuses with which munged tells it.
    pub(super) metadata: Option<Metadata>,
}

/// The options of one call, owned; munge_ctx(3).
///
/// Encoding and decoding take it by value: munge.h asks for separate contexts, since decoding
/// leaves the options in a state that is not good for encoding.
#[derive(Debug)]
pub(super) struct Context(NonNull<munge_sys::munge_ctx>);

const SUCCESS: u32 = munge_sys::munge_err_EMUNGE_SUCCESS;
/// `MUNGE_UID_ANY` and `MUNGE_GID_ANY` as an id.
const ANY: u32 = u32::MAX;
/// More of a message of libmunge is cut.
const DETAIL_MAX: usize = 256;

impl Context {
    pub(super) fn new() -> Result<Self, Failure> {
        // SAFETY: munge_ctx_create has no preconditions.
        let context = unsafe { munge_sys::munge_ctx_create() };
        NonNull::new(context).map(Self).ok_or_else(|| Failure {
            status: munge_sys::munge_err_EMUNGE_NO_MEMORY,
            detail: "no context".to_owned(),
            metadata: None,
        })
    }

    /// The path of the daemon's socket in use.
    pub(super) fn socket(&mut self) -> Option<PathBuf> {
        let mut path: *mut c_char = ptr::null_mut();
        // SAFETY: the context is live; MUNGE_OPT_SOCKET stores one `char *` through the pointer
        // given.
        let status = unsafe { munge_sys::munge_ctx_get(self.0.as_ptr(), opt(SOCKET), &raw mut path) };
        if status != SUCCESS || path.is_null() {
            return None;
        }
        // SAFETY: not null, NUL-terminated, owned by the context and unchanged while `self` is
        // borrowed here.
        let path = unsafe { CStr::from_ptr(path) };
        Some(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
    }

    pub(super) fn set_socket(&mut self, path: &CStr) -> Result<(), Failure> {
        // SAFETY: the context is live; MUNGE_OPT_SOCKET takes a NUL-terminated string and copies
        // it.
        let status = unsafe { munge_sys::munge_ctx_set(self.0.as_ptr(), opt(SOCKET), path.as_ptr()) };
        self.check(status)
    }

    pub(super) fn set_ttl(&mut self, seconds: c_int) -> Result<(), Failure> {
        // SAFETY: the context is live; MUNGE_OPT_TTL takes an int.
        let status = unsafe { munge_sys::munge_ctx_set(self.0.as_ptr(), opt(TTL), seconds) };
        self.check(status)
    }

    pub(super) fn set_uid_restriction(&mut self, uid: u32) -> Result<(), Failure> {
        let uid: munge_sys::uid_t = uid;
        // SAFETY: the context is live; MUNGE_OPT_UID_RESTRICTION takes a uid_t.
        let status = unsafe { munge_sys::munge_ctx_set(self.0.as_ptr(), opt(UID_RESTRICTION), uid) };
        self.check(status)
    }

    pub(super) fn set_gid_restriction(&mut self, gid: u32) -> Result<(), Failure> {
        let gid: munge_sys::gid_t = gid;
        // SAFETY: the context is live; MUNGE_OPT_GID_RESTRICTION takes a gid_t.
        let status = unsafe { munge_sys::munge_ctx_set(self.0.as_ptr(), opt(GID_RESTRICTION), gid) };
        self.check(status)
    }

    /// Has munged make a credential and hands its text to `read`. Blocks, for 10 s if the daemon
    /// hangs.
    pub(super) fn encode<T>(mut self, payload: &[u8], read: impl FnOnce(&[u8]) -> T) -> Result<T, Failure> {
        let Ok(len) = c_int::try_from(payload.len()) else {
            return Err(self.failure(munge_sys::munge_err_EMUNGE_BAD_LENGTH));
        };
        let mut text: *mut c_char = ptr::null_mut();
        // SAFETY: the context is live and used by this thread alone; payload and len describe
        // readable memory; text is a place for one pointer.
        let status = unsafe { munge_sys::munge_encode(&raw mut text, self.0.as_ptr(), payload.as_ptr().cast(), len) };
        if text.is_null() {
            // Not possible with a success, but then not worth a crash either.
            let status = if status == SUCCESS { munge_sys::munge_err_EMUNGE_SNAFU } else { status };
            return Err(self.failure(status));
        }
        // SAFETY: not null; munge_encode returns a NUL-terminated string.
        let len = unsafe { CStr::from_ptr(text) }.to_bytes().len();
        let mut buffer = CBuffer { start: text.cast(), len };
        self.check(status)?;
        Ok(read(buffer.bytes()))
    }

    /// Has munged check a credential. Blocks, for 10 s if the daemon hangs.
    ///
    /// libmunge returns the payload of expired, rewound and replayed credentials; it is wiped here.
    pub(super) fn decode(mut self, credential: &CStr) -> Result<(Metadata, Payload), Failure> {
        let mut payload: *mut c_void = ptr::null_mut();
        let mut len: c_int = 0;
        let mut uid: munge_sys::uid_t = ANY;
        let mut gid: munge_sys::gid_t = ANY;
        // SAFETY: the context is live and used by this thread alone; the credential is
        // NUL-terminated; the others are places for one value each of the declared types.
        let status = unsafe {
            munge_sys::munge_decode(
                credential.as_ptr(),
                self.0.as_ptr(),
                &raw mut payload,
                &raw mut len,
                &raw mut uid,
                &raw mut gid,
            )
        };
        let len = if payload.is_null() { 0 } else { usize::try_from(len).unwrap_or(0) };
        let mut buffer = CBuffer { start: payload, len };
        match status {
            SUCCESS => Ok((self.metadata(Identity { uid, gid })?, Payload::from(&*buffer.bytes()))),
            munge_sys::munge_err_EMUNGE_CRED_EXPIRED
            | munge_sys::munge_err_EMUNGE_CRED_REWOUND
            | munge_sys::munge_err_EMUNGE_CRED_REPLAYED => {
                let mut failure = self.failure(status); // before the context is asked anything, which clears it
                failure.metadata = Some(self.metadata(Identity { uid, gid })?);
                Err(failure)
            }
            _ => Err(self.failure(status)),
        }
    }

    fn metadata(&mut self, identity: Identity) -> Result<Metadata, Failure> {
        Ok(Metadata {
            identity,
            encoded_at: self.time(munge_sys::munge_opt_MUNGE_OPT_ENCODE_TIME)?,
            decoded_at: self.time(munge_sys::munge_opt_MUNGE_OPT_DECODE_TIME)?,
            ttl: Duration::from_secs(u64::from(self.number(TTL)?)),
            origin: self.origin()?,
            cipher: Cipher(self.number(munge_sys::munge_opt_MUNGE_OPT_CIPHER_TYPE)?),
            mac: Mac(self.number(munge_sys::munge_opt_MUNGE_OPT_MAC_TYPE)?),
            compression: Compression(self.number(munge_sys::munge_opt_MUNGE_OPT_ZIP_TYPE)?),
            uid_restriction: self.restriction(UID_RESTRICTION)?,
            gid_restriction: self.restriction(GID_RESTRICTION)?,
        })
    }

    /// An option of type int that munged never makes negative.
    fn number(&mut self, option: u32) -> Result<u32, Failure> {
        let mut value: c_int = 0;
        // SAFETY: the context is live; cipher, MAC, compression and lifetime store one int through
        // the pointer given.
        let status = unsafe { munge_sys::munge_ctx_get(self.0.as_ptr(), opt(option), &raw mut value) };
        self.check(status)?;
        u32::try_from(value).map_err(|_| self.failure(munge_sys::munge_err_EMUNGE_SNAFU))
    }

    fn restriction(&mut self, option: u32) -> Result<Option<u32>, Failure> {
        let mut id: munge_sys::uid_t = ANY;
        // SAFETY: the context is live; the restrictions store one uid_t or gid_t, which are the
        // same type here.
        let status = unsafe { munge_sys::munge_ctx_get(self.0.as_ptr(), opt(option), &raw mut id) };
        self.check(status)?;
        Ok((id != ANY).then_some(id))
    }

    fn origin(&mut self) -> Result<Ipv4Addr, Failure> {
        let mut address = libc::in_addr { s_addr: 0 };
        let option = opt(munge_sys::munge_opt_MUNGE_OPT_ADDR4);
        // SAFETY: the context is live; MUNGE_OPT_ADDR4 stores one `struct in_addr` through the
        // pointer given.
        let status = unsafe { munge_sys::munge_ctx_get(self.0.as_ptr(), option, &raw mut address) };
        self.check(status)?;
        Ok(Ipv4Addr::from(address.s_addr.to_ne_bytes())) // in_addr is in network order in memory
    }

    fn time(&mut self, option: u32) -> Result<SystemTime, Failure> {
        let mut seconds: munge_sys::time_t = 0;
        // SAFETY: the context is live; both times store one time_t through the pointer given.
        let status = unsafe { munge_sys::munge_ctx_get(self.0.as_ptr(), opt(option), &raw mut seconds) };
        self.check(status)?;
        u64::try_from(seconds)
            .ok()
            .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
            .ok_or_else(|| self.failure(munge_sys::munge_err_EMUNGE_SNAFU))
    }

    fn check(&mut self, status: u32) -> Result<(), Failure> {
        if status == SUCCESS { Ok(()) } else { Err(self.failure(status)) }
    }

    fn failure(&mut self, status: u32) -> Failure {
        // SAFETY: the context is live.
        let text = unsafe { munge_sys::munge_ctx_strerror(self.0.as_ptr()) };
        let detail = if text.is_null() {
            describe(status)
        } else {
            // SAFETY: not null, NUL-terminated, owned by the context and unchanged while `self` is
            // borrowed here.
            printable(unsafe { CStr::from_ptr(text) })
        };
        Failure { status, detail, metadata: None }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by munge_ctx_create, owned by `self` alone, and not used after this.
        unsafe { munge_sys::munge_ctx_destroy(self.0.as_ptr()) }
    }
}

/// libmunge's words for a status; munge_strerror(3).
pub(super) fn describe(status: u32) -> String {
    // SAFETY: munge_strerror takes any number and returns a constant string.
    let text = unsafe { munge_sys::munge_strerror(status) };
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null; a NUL-terminated constant.
    printable(unsafe { CStr::from_ptr(text) })
}

/// The version of libmunge's interface does not matter here, only that its words can be logged.
fn printable(text: &CStr) -> String {
    let text = text.to_string_lossy();
    text.chars().take(DETAIL_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

const SOCKET: u32 = munge_sys::munge_opt_MUNGE_OPT_SOCKET;
const TTL: u32 = munge_sys::munge_opt_MUNGE_OPT_TTL;
const UID_RESTRICTION: u32 = munge_sys::munge_opt_MUNGE_OPT_UID_RESTRICTION;
const GID_RESTRICTION: u32 = munge_sys::munge_opt_MUNGE_OPT_GID_RESTRICTION;

fn opt(option: u32) -> c_int {
    option.cast_signed()
}

/// Memory from malloc(3) that may hold a secret: wiped, then freed.
struct CBuffer {
    /// Null, or from malloc with at least `len` initialised bytes, and owned.
    start: *mut c_void,
    len: usize,
}

impl CBuffer {
    fn bytes(&mut self) -> &mut [u8] {
        if self.start.is_null() {
            return &mut [];
        }
        // SAFETY: by the field's invariant; the borrow of `self` keeps it from being freed or
        // aliased.
        unsafe { slice::from_raw_parts_mut(self.start.cast::<u8>(), self.len) }
    }
}

impl Drop for CBuffer {
    fn drop(&mut self) {
        self.bytes().zeroize();
        // SAFETY: by the field's invariant null or from malloc, and owned; not used after this.
        unsafe { libc::free(self.start) }
    }
}
