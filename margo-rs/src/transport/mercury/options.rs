//! What Mercury is started with: the configuration, in the form that Mercury takes it.

use crate::config::{AddressFormat, ChecksumLevel, MercuryConfig, TrafficClass};
use crate::error::ListenError;
use mochi_sys::mercury as hg;
use std::ffi::{CStr, CString};
use std::ptr;
use zeroize::Zeroize;

/// Requests that a fresh context is ready to receive, and how many are added when they run out. As Margo does.
const POSTED: u32 = 256;

/// Mercury's options, with the texts that they point to.
pub(super) struct Options {
    raw: hg::mochi_hg_options,
    /// Owned here, for as long as `raw` points to them.
    texts: Vec<CString>,
    log_level: Option<CString>,
    log_subsys: Option<CString>,
    shared_memory_name: Option<String>,
}

impl Options {
    /// Mercury's defaults, and what `config` says.
    ///
    /// # Errors
    /// An option that the installed Mercury was built without, or options that contradict each other.
    pub(super) fn new(config: &MercuryConfig) -> Result<Self, ListenError> {
        check_build(config)?;
        let mut raw = std::mem::MaybeUninit::<hg::mochi_hg_options>::zeroed();
        // SAFETY: the shim assigns the whole structure.
        unsafe { hg::mochi_hg_options_default(raw.as_mut_ptr()) };
        // SAFETY: it was assigned just now, and its padding is zero.
        let raw = unsafe { raw.assume_init() };
        let mut options = Self { raw, texts: Vec::new(), log_level: None, log_subsys: None, shared_memory_name: None };
        options.raw.ip_subnet = options.text("ip_subnet", config.ip_subnet.as_deref())?;
        options.raw.auth_key = options.text("auth_key", config.auth_key.as_ref().map(|key| key.text()))?;
        options.raw.sm_info_string = options.text("sm_info_string", config.sm_info_string.as_deref())?;
        options.shared_memory_name.clone_from(&config.sm_info_string);
        options.log_level = c_text("log_level", config.log_level.as_deref())?;
        options.log_subsys = c_text("log_subsys", config.log_subsys.as_deref())?;

        let raw = &mut options.raw;
        raw.request_post_init = config.request_post_init.unwrap_or(POSTED);
        raw.request_post_incr = config.request_post_incr.unwrap_or(POSTED as i32);
        set(&mut raw.max_unexpected_size, config.na_max_unexpected_size);
        set(&mut raw.max_expected_size, config.na_max_expected_size);
        set(&mut raw.max_contexts, config.max_contexts);
        set(&mut raw.multi_recv_op_max, config.multi_recv_op_max);
        set(&mut raw.multi_recv_copy_threshold, config.multi_recv_copy_threshold);
        set(&mut raw.addr_format, config.na_addr_format.map(addr_format));
        set(&mut raw.checksum_level, config.checksum_level.map(checksum_level));
        set(&mut raw.traffic_class, config.traffic_class.map(traffic_class));
        set(&mut raw.no_block, config.na_no_block);
        set(&mut raw.no_retry, config.na_no_retry);
        set(&mut raw.request_mem_device, config.na_request_mem_device);
        set(&mut raw.auto_sm, config.auto_sm);
        set(&mut raw.no_bulk_eager, config.no_bulk_eager);
        set(&mut raw.no_loopback, config.no_loopback);
        set(&mut raw.stats, config.stats);
        set(&mut raw.no_multi_recv, config.no_multi_recv);
        set(&mut raw.release_input_early, config.release_input_early);
        set(&mut raw.no_overflow, config.no_overflow);
        if raw.multi_recv_copy_threshold > raw.multi_recv_op_max {
            let max = raw.multi_recv_op_max;
            return Err(wrong("multi_recv_copy_threshold", &format!("it is more than multi_recv_op_max, {max}")));
        }
        Ok(options)
    }

    /// Points to texts that live as long as this.
    pub(super) fn raw(&self) -> &hg::mochi_hg_options {
        &self.raw
    }

    pub(super) fn log_level(&self) -> Option<&CStr> {
        self.log_level.as_deref()
    }

    pub(super) fn log_subsys(&self) -> Option<&CStr> {
        self.log_subsys.as_deref()
    }

    /// Whether shared memory is used beside another plugin.
    pub(super) fn has_shared_memory(&self) -> bool {
        self.raw.auto_sm
    }

    /// The name that the class is to have there.
    pub(super) fn shared_memory_name(&self) -> Option<&str> {
        self.shared_memory_name.as_deref()
    }

    /// The configuration in effect: every option that the installed Mercury has.
    pub(super) fn effective(&self, given: &MercuryConfig) -> MercuryConfig {
        let raw = &self.raw;
        let mut config = given.clone();
        config.request_post_init = Some(raw.request_post_init);
        config.request_post_incr = Some(raw.request_post_incr);
        config.na_max_unexpected_size = Some(raw.max_unexpected_size);
        config.na_max_expected_size = Some(raw.max_expected_size);
        // 0 is Mercury's word for one.
        config.max_contexts = Some(raw.max_contexts.max(1));
        config.na_addr_format.get_or_insert(AddressFormat::Unspec);
        config.checksum_level.get_or_insert(ChecksumLevel::None);
        config.na_no_block = Some(raw.no_block);
        config.na_no_retry = Some(raw.no_retry);
        config.na_request_mem_device = Some(raw.request_mem_device);
        config.auto_sm = Some(raw.auto_sm);
        config.no_bulk_eager = Some(raw.no_bulk_eager);
        config.no_loopback = Some(raw.no_loopback);
        config.stats = Some(raw.stats);
        if is_at_least(2, 3) {
            config.no_multi_recv = Some(raw.no_multi_recv);
            config.release_input_early = Some(raw.release_input_early);
        }
        if is_at_least(2, 4) {
            config.traffic_class = Some(given.traffic_class.unwrap_or(TrafficClass::Unspec));
            config.no_overflow = Some(raw.no_overflow);
            config.multi_recv_op_max = Some(raw.multi_recv_op_max);
            config.multi_recv_copy_threshold = Some(raw.multi_recv_copy_threshold);
        }
        config
    }

    fn text(&mut self, key: &str, text: Option<&str>) -> Result<*const std::ffi::c_char, ListenError> {
        let Some(text) = c_text(key, text)? else { return Ok(ptr::null()) };
        // A text's bytes do not move when the list of them does.
        let at = text.as_ptr();
        self.texts.push(text);
        Ok(at)
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // The key of the fabric is among them.
        for text in self.texts.drain(..) {
            text.into_bytes_with_nul().zeroize();
        }
    }
}

fn set<T>(option: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *option = value;
    }
}

fn c_text(key: &str, text: Option<&str>) -> Result<Option<CString>, ListenError> {
    text.map(|text| CString::new(text).map_err(|_| wrong(key, "a text for Mercury has no NUL in it"))).transpose()
}

fn wrong(key: &str, reason: &str) -> ListenError {
    ListenError::Option(format!("mercury.{key}: {reason}"))
}

/// Why the library that was loaded cannot be used: it is of another release than the headers.
pub(super) fn why_not_this_library() -> Option<String> {
    // SAFETY: a function without arguments.
    let is_right = unsafe { hg::mochi_hg_is_compiled_release() };
    let compiled = mochi_sys::MERCURY_VERSION.unwrap_or("another release");
    (!is_right).then(|| {
        format!(
            "this was compiled against Mercury {compiled}, and another release of it was loaded: see LD_LIBRARY_PATH, \
             or build again"
        )
    })
}

/// # Errors
/// An option is set that the installed Mercury would leave aside without a word.
fn check_build(config: &MercuryConfig) -> Result<(), ListenError> {
    let later = [
        ("no_multi_recv", config.no_multi_recv.is_some(), [2, 3]),
        ("release_input_early", config.release_input_early.is_some(), [2, 3]),
        ("traffic_class", config.traffic_class.is_some(), [2, 4]),
        ("no_overflow", config.no_overflow.is_some(), [2, 4]),
        ("multi_recv_op_max", config.multi_recv_op_max.is_some(), [2, 4]),
        ("multi_recv_copy_threshold", config.multi_recv_copy_threshold.is_some(), [2, 4]),
    ];
    if let Some((key, _, [major, minor])) =
        later.into_iter().find(|(_, is_set, [major, minor])| *is_set && !is_at_least(*major, *minor))
    {
        let here = mochi_sys::MERCURY_VERSION.unwrap_or("older");
        return Err(wrong(key, &format!("Mercury has it from {major}.{minor} on; the installed one is {here}")));
    }
    // SAFETY: functions without arguments that return a constant.
    let has_checksums = unsafe { hg::mochi_hg_has_checksums() };
    if config.checksum_level.is_some_and(|level| level != ChecksumLevel::None) && !has_checksums {
        return Err(wrong("checksum_level", "the installed Mercury was built without checksums (Spack: ~checksum)"));
    }
    // SAFETY: as above.
    let has_shared_memory = unsafe { hg::mochi_hg_has_shared_memory() };
    if config.auto_sm == Some(true) && !has_shared_memory {
        return Err(wrong("auto_sm", "the installed Mercury was built without shared memory (Spack: ~sm)"));
    }
    Ok(())
}

/// Whether this was compiled against that release of Mercury or a later one.
pub(super) fn is_at_least(major: u32, minor: u32) -> bool {
    // SAFETY: a function of two numbers.
    unsafe { hg::mochi_hg_at_least(major, minor) }
}

fn addr_format(format: AddressFormat) -> u8 {
    let format = match format {
        AddressFormat::Unspec => hg::MOCHI_HG_ADDR_UNSPEC,
        AddressFormat::Ipv4 => hg::MOCHI_HG_ADDR_IPV4,
        AddressFormat::Ipv6 => hg::MOCHI_HG_ADDR_IPV6,
        AddressFormat::Native => hg::MOCHI_HG_ADDR_NATIVE,
    };
    format as u8
}

fn checksum_level(level: ChecksumLevel) -> u8 {
    let level = match level {
        ChecksumLevel::None => hg::MOCHI_HG_CHECKSUM_NONE,
        ChecksumLevel::RpcHeaders => hg::MOCHI_HG_CHECKSUM_RPC_HEADERS,
        ChecksumLevel::RpcPayload => hg::MOCHI_HG_CHECKSUM_RPC_PAYLOAD,
    };
    level as u8
}

fn traffic_class(class: TrafficClass) -> u8 {
    let class = match class {
        TrafficClass::Unspec => hg::MOCHI_HG_TC_UNSPEC,
        TrafficClass::BestEffort => hg::MOCHI_HG_TC_BEST_EFFORT,
        TrafficClass::LowLatency => hg::MOCHI_HG_TC_LOW_LATENCY,
        TrafficClass::BulkData => hg::MOCHI_HG_TC_BULK_DATA,
        TrafficClass::DedicatedAccess => hg::MOCHI_HG_TC_DEDICATED_ACCESS,
        TrafficClass::Scavenger => hg::MOCHI_HG_TC_SCAVENGER,
        TrafficClass::NetworkCtrl => hg::MOCHI_HG_TC_NETWORK_CTRL,
    };
    class as u8
}
