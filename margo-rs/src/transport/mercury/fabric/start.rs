//! How Mercury begins and ends.

use super::{Code, Fabric, explain, succeed};
use crate::config::MercuryConfig;
use crate::transport::mercury::given;
use crate::transport::mercury::leftovers;
use crate::transport::mercury::numbers::{NUMBERS, number_in};
use crate::transport::mercury::options::Options;
use mochi_sys::mercury as hg;
use parking_lot::Mutex;
use std::ffi::{CStr, c_void};
use std::process;
use std::ptr::NonNull;
use std::sync::Arc;

/// Held while a class begins or ends: in one process, the plugin of shared memory numbers them.
static BEGIN_OR_END: Mutex<()> = Mutex::new(());

/// Where a class is reached over shared memory.
pub(super) struct Place {
    /// What follows `na+sm://`.
    location: String,
    /// In [`NUMBERS`], unless the class has a name of its own.
    number: Option<u8>,
}

/// What a class is to be called in shared memory.
enum Wanted<'a> {
    /// The process, and a number that the plugin chooses.
    Numbered,
    Named(&'a str),
}

impl<'a> Wanted<'a> {
    /// `None` if it is not in shared memory.
    fn of(name: &'a CStr, options: &'a Options) -> Option<Self> {
        let named = |name| if let Some(name) = name { Self::Named(name) } else { Self::Numbered };
        match name.to_str().ok()?.split_once("://") {
            Some(("na+sm", location)) => Some(named(Some(location).filter(|location| !location.is_empty()))),
            None if name == c"na+sm" => Some(Self::Numbered),
            _ => options.has_shared_memory().then(|| named(options.shared_memory_name())),
        }
    }
}

impl Fabric {
    /// Starts Mercury. `None` if it refuses; it gives no reason but in its own log.
    pub(in super::super) fn start(name: &CStr, options: &Options) -> Option<Arc<Self>> {
        let _alone = BEGIN_OR_END.lock();
        if std::env::var_os("HG_LOG_LEVEL").is_none() {
            // Its reasons are for who asks for them; programs say in one line of their own what went wrong.
            let level = options.log_level().unwrap_or(c"none");
            // SAFETY: a text that ends with NUL.
            unsafe { hg::HG_Set_log_level(level.as_ptr()) };
        }
        if let Some(parts) = options.log_subsys() {
            // SAFETY: a text that ends with NUL.
            unsafe { hg::HG_Set_log_subsys(parts.as_ptr()) };
        }
        let wanted = Wanted::of(name, options);
        match wanted {
            Some(Wanted::Numbered) => find_number()?,
            Some(Wanted::Named(name)) => {
                // Where there is none, the plugin says so.
                leftovers::make_place(name);
                NUMBERS.lock().pass();
            }
            None => {}
        }
        // Also one that only makes calls listens: for the answers to it, libfabric does so in any case, and peers of this
        // crate say over it that they go away.
        let class = begin(name, true, options)?;
        // SAFETY: the class is alive.
        let Some(context) = NonNull::new(unsafe { hg::HG_Context_create(class.as_ptr()) }) else {
            // SAFETY: nothing else refers to the class.
            unsafe { hg::mochi_hg_finalize(class.as_ptr()) };
            return None;
        };
        let fabric = Self::on(class, context, None);
        if wanted.is_some()
            && let Ok(address) = fabric.address()
            && let Some(location) = shared_memory_location(&address)
        {
            let number = number_in(location);
            number.into_iter().for_each(|number| NUMBERS.lock().take(number));
            let _ = fabric.place.set(Place { location: location.to_owned(), number });
        }
        let data = Arc::as_ptr(&fabric).cast_mut().cast::<c_void>();
        // SAFETY: the class is alive, and ends before the fabric that it points to.
        unsafe { hg::mochi_hg_class_set_data(class.as_ptr(), data) };
        Some(fabric)
    }

    /// Removes what shared memory has in the file system: to be called when nobody is to come in any more.
    pub(in super::super) fn remove_files(&self) {
        if let Some(place) = self.place.get() {
            leftovers::remove(&place.location);
        }
    }

    /// Ends the context and then the class.
    fn finalize(&mut self) -> Result<(), Code> {
        // SAFETY: all handles, addresses and operations held this fabric, so none is left.
        succeed(unsafe { hg::HG_Context_destroy(self.context.as_ptr()) })?;
        let _alone = BEGIN_OR_END.lock();
        // SAFETY: the only context is gone, and nobody else has the class.
        succeed(unsafe { hg::mochi_hg_finalize(self.class.as_ptr()) })
    }
}

impl Drop for Fabric {
    fn drop(&mut self) {
        self.spare.get_mut().clear();
        if let Some(given) = &self.given {
            given::leave(given.context);
            self.registered.get_mut().drain().for_each(|(wire, _)| given.deregister(wire));
            return;
        }
        match self.finalize() {
            Ok(()) => {}
            Err(code) if self.place.get().is_some() => {
                tracing::debug!(reason = explain(code), "shared memory does not end; its files are removed");
            }
            Err(code) => tracing::error!(reason = explain(code), "Mercury cannot be finalized; it is left behind"),
        }
        self.remove_files();
        if let Some(number) = self.place.get().and_then(|place| place.number) {
            NUMBERS.lock().give_back(number);
        }
    }
}

fn begin(name: &CStr, listen: bool, options: &Options) -> Option<NonNull<hg::hg_class_t>> {
    // SAFETY: the name ends with NUL, the options are those of the shim, and the texts that they point to end with NUL and
    // live as long as they; all is read only during the call.
    NonNull::new(unsafe { hg::mochi_hg_init(name.as_ptr(), listen, options.raw()) })
}

/// Has the plugin of shared memory pass over the numbers that are taken. `None` if all are, or there is no plugin.
fn find_number() -> Option<()> {
    let options = Options::new(&MercuryConfig::default()).ok()?;
    for _ in 0..=u8::MAX {
        let next = NUMBERS.lock().next();
        if next.is_some_and(|number| leftovers::make_place(&format!("{}-{number}", process::id()))) {
            return Some(());
        }
        // One that does not listen takes the number and touches no memory.
        let passed = begin(c"na+sm", false, &options)?;
        // SAFETY: nothing else refers to the class.
        unsafe { hg::mochi_hg_finalize(passed.as_ptr()) };
        NUMBERS.lock().pass();
    }
    None
}

/// What follows `na+sm://` in an address, which may be one of two protocols: `uid://7#na+sm://4711-0#ofi+tcp://…`.
fn shared_memory_location(address: &str) -> Option<&str> {
    address.split('#').find_map(|part| part.strip_prefix("na+sm://"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::mercury::leftovers::tests::plant;

    fn options() -> Options {
        Options::new(&MercuryConfig::default()).expect("nothing is asked for")
    }

    #[test]
    fn shared_memory_starts_more_often_than_it_has_numbers_while_one_lives() {
        let options = options();
        let Some(lives) = Fabric::start(c"na+sm", &options) else {
            return println!("Mercury has no shared memory here");
        };
        let address = lives.address().expect("it has one");
        for _ in 0..300 {
            let other = Fabric::start(c"na+sm", &options).expect("a number is free");
            assert_ne!(other.address().expect("it has one"), address);
        }
    }

    /// A process is killed, and a later one gets its id.
    #[test]
    fn shared_memory_starts_over_the_files_of_the_dead_and_beside_those_of_the_living() {
        let options = options();
        let Some(first) = Fabric::start(c"na+sm", &options) else {
            return println!("Mercury has no shared memory here");
        };
        // The next number is that of a process that was killed. Other tests start classes, too.
        let plant_next = || {
            let _alone = BEGIN_OR_END.lock();
            find_number().expect("one is free");
            let next = NUMBERS.lock().next().expect("it was found");
            let location = format!("{}-{next}", process::id());
            (plant(&location), location)
        };
        let (socket, dead) = plant_next();
        drop(socket);
        let second = Fabric::start(c"na+sm", &options).expect("the dead are out of the way");
        let (socket, living) = plant_next();
        let third = Fabric::start(c"na+sm", &options).expect("it takes another number");
        let addresses = [&first, &second, &third].map(|fabric| fabric.address().expect("it has one"));
        assert!(!addresses.contains(&format!("na+sm://{living}")), "{addresses:?}");
        drop((first, second, third));
        assert!(!leftovers::make_place(&living), "it was left alone");
        drop(socket);
        leftovers::remove(&living);
        assert!(leftovers::make_place(&dead), "nothing is left of it");
    }

    #[test]
    fn the_part_of_shared_memory_is_found_in_an_address() {
        assert_eq!(shared_memory_location("na+sm://4711-0"), Some("4711-0"));
        assert_eq!(shared_memory_location("uid://7#na+sm://mine#ofi+tcp://127.0.0.1:80"), Some("mine"));
        assert_eq!(shared_memory_location("ofi+tcp://127.0.0.1:80"), None);
    }
}
