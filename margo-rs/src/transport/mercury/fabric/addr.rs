//! Addresses: those of peers, and one's own.

use super::{Code, Fabric, succeed};
use mochi_sys::mercury as hg;
use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::Arc;

/// Longest address text, in bytes.
const ADDRESS_MAX: usize = crate::address::ADDRESS_MAX;

/// An address that requests can be sent to.
pub(in super::super) struct Addr {
    pub(in super::super) address: hg::hg_addr_t,
    pub(super) fabric: Arc<Fabric>,
}

// SAFETY: Mercury counts references to addresses atomically.
unsafe impl Send for Addr {}
// SAFETY: as above.
unsafe impl Sync for Addr {}

impl Addr {
    /// Where it belongs.
    pub(in super::super) fn fabric(&self) -> &Arc<Fabric> {
        &self.fabric
    }
}

impl Drop for Addr {
    fn drop(&mut self) {
        // SAFETY: the address is owned and its class alive.
        unsafe { hg::HG_Addr_free(self.fabric.class.as_ptr(), self.address) };
    }
}

impl Fabric {
    /// The address that others reach this at, as Mercury prints it.
    pub(in super::super) fn address(self: &Arc<Self>) -> Result<String, Code> {
        let mut address = ptr::null_mut();
        // SAFETY: the class is alive, and the address is written to a valid place.
        succeed(unsafe { hg::HG_Addr_self(self.class.as_ptr(), &mut address) })?;
        self.print(Addr { address, fabric: self.clone() }.address)
    }

    /// Whether an address is this one's own. A peer on this host may claim it to be its own, too.
    pub(in super::super) fn is_own(&self, address: &Addr) -> bool {
        let mut own = ptr::null_mut();
        // SAFETY: the class is alive, and the address is written to a valid place.
        if unsafe { hg::HG_Addr_self(self.class.as_ptr(), &mut own) } != hg::HG_SUCCESS {
            return false;
        }
        // SAFETY: class and addresses are alive.
        let is_own = unsafe { hg::HG_Addr_cmp(self.class.as_ptr(), own, address.address) } != 0;
        // SAFETY: the address is owned and its class alive.
        unsafe { hg::HG_Addr_free(self.class.as_ptr(), own) };
        is_own
    }

    /// Finds an address. Names of hosts were resolved before: this does not block.
    pub(in super::super) fn lookup(self: &Arc<Self>, name: &CStr) -> Result<Addr, Code> {
        let mut address = ptr::null_mut();
        // SAFETY: the class is alive, the name ends with NUL, and the address is written to a valid place.
        succeed(unsafe { hg::HG_Addr_lookup2(self.class.as_ptr(), name.as_ptr(), &mut address) })?;
        Ok(Addr { address, fabric: self.clone() })
    }

    pub(super) fn print(&self, address: hg::hg_addr_t) -> Result<String, Code> {
        let mut text = [0u8; ADDRESS_MAX];
        let mut size = text.len() as hg::hg_size_t;
        let buffer = text.as_mut_ptr().cast();
        // SAFETY: the address is alive, and the buffer has the size said.
        succeed(unsafe { hg::HG_Addr_to_string(self.class.as_ptr(), buffer, &mut size, address) })?;
        let text = CStr::from_bytes_until_nul(&text).map_err(|_| hg::HG_OVERFLOW)?;
        Ok(text.to_string_lossy().into_owned())
    }
}

/// A name for Mercury; addresses have no NUL, so that only a mistake of ours gives `None`.
pub(in super::super) fn c_name(name: &str) -> Option<CString> {
    CString::new(name).ok()
}
