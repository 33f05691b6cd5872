use super::*;
use crate::address::Address;
use crate::error::ConnectError;
use crate::transport::{Link, LinkEvents};

/// One that only ever says the same.
struct Always(Polled);

impl Transport for Always {
    fn address(&self) -> Address {
        Address::new("always", "")
    }

    fn connect(&self, _: &Address, _: Arc<dyn LinkEvents>) -> Result<Arc<dyn Link>, ConnectError> {
        Err(ConnectError::ShutDown)
    }

    fn poll(&self) -> Polled {
        self.0
    }

    fn park(&self, _: Option<Instant>) {}

    fn unpark(&self) {}

    fn next_timer(&self) -> Option<Instant> {
        None
    }

    fn stop_accepting(&self) {}

    fn close(&self) {}
}

/// What comes of leading by a task that waits for something that does not come.
fn led(polled: Polled, progress: Progress) -> Led {
    let driver = Driver::new(Arc::new(Always(polled)), progress, false);
    driver.lead(Instant::now() + Duration::from_secs(60), false, || false)
}

#[test]
fn data_that_is_being_moved_is_looked_on_for() {
    let short = Progress::Adaptive(Duration::from_nanos(1));
    assert_eq!(led(Polled::Idle, short), Led::GaveUp);
    assert_eq!(led(Polled::Moving, short), Led::Others);
}

#[test]
fn who_parks_at_once_does_so_while_data_is_being_moved() {
    assert_eq!(led(Polled::Moving, Progress::Park), Led::GaveUp);
    assert_eq!(led(Polled::Idle, Progress::Park), Led::GaveUp);
}
