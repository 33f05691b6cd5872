//! A `munged` that is missing, gone, hanging or overloaded: a clear error by the deadline, always.

use std::future::Future;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use mochi_auth::munge::{Credential, Decoded, EncodeOptions, Munge, MungeError, NoDaemonReason, Pending, TimeoutStage};
use mochi_auth::testing::MungeRealm;

/// Far below the 10 s after which libmunge gives up by itself.
const SHORT: Duration = Duration::from_millis(200);
const AMPLE: Duration = Duration::from_secs(60);

fn handle(socket: &Path, timeout: Duration) -> Munge {
    let builder = Munge::builder().socket(socket).timeout(timeout).threads(2).queue(2);
    builder.build().expect("a handle")
}

/// Well formed, so that it would be shown to a daemon.
fn decode(munge: &Munge) -> Pending<Decoded> {
    munge.decode(Credential::parse("MUNGE:AwQDAAAA:").expect("well formed"))
}

fn assert_no_daemon(error: &MungeError, socket: &Path, expected: NoDaemonReason) {
    let MungeError::NoDaemon { socket: named, reason } = error else { panic!("{error}") };
    assert_eq!((named.as_path(), *reason), (socket, expected));
    assert!(error.to_string().contains("start munged"), "{error}");
    assert_eq!(error.status(), Some(6));
}

#[test]
fn without_a_daemon_the_error_says_so_before_the_deadline() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("socket");
    let munge = handle(&socket, AMPLE);
    let error = munge.encode(EncodeOptions::new()).wait().expect_err("nobody");
    assert_no_daemon(&error, &socket, NoDaemonReason::Missing);
    let error = decode(&munge).wait().expect_err("nobody");
    assert_no_daemon(&error, &socket, NoDaemonReason::Missing);
}

/// libmunge retries this for 2.25 s, which a deadline of 2 s would turn into a vague timeout.
#[test]
fn a_socket_left_behind_by_a_crash_is_told_from_a_hang() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let mut munged = realm.start().expect("munged");
    let munge = handle(munged.socket(), AMPLE);
    munge.encode(EncodeOptions::new()).wait().expect("it is up");
    munged.crash();
    assert!(munged.socket().exists(), "a crash leaves the socket");
    let error = munge.encode(EncodeOptions::new()).wait().expect_err("gone");
    assert_no_daemon(&error, munged.socket(), NoDaemonReason::Stale);
}

#[test]
fn a_plain_file_is_no_daemon() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let error = decode(&handle(file.path(), AMPLE)).wait().expect_err("a file");
    assert_no_daemon(&error, file.path(), NoDaemonReason::Stale);
}

#[test]
fn a_daemon_that_never_answers_is_a_timeout_at_the_deadline() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("socket");
    let _silent = UnixListener::bind(&socket).expect("a listener");
    let munge = handle(&socket, SHORT);
    let begin = Instant::now();
    let error = decode(&munge).wait().expect_err("silence");
    let waited = begin.elapsed();
    let MungeError::Timeout { timeout, stage, helpers, stuck, .. } = &error else { panic!("{error}") };
    assert_eq!((*timeout, *stage), (SHORT, TimeoutStage::Daemon));
    assert_eq!((*helpers, *stuck), (2, 1));
    assert!(waited >= SHORT, "{waited:?}");
    let message = error.to_string();
    assert!(message.contains("munged hangs or is overloaded"), "{message}");
    assert!(message.contains(&socket.display().to_string()), "{message}");
}

#[tokio::test]
async fn a_hang_is_a_timeout_for_an_awaiting_caller_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("socket");
    let _silent = UnixListener::bind(&socket).expect("a listener");
    let error = decode(&handle(&socket, SHORT)).await.expect_err("silence");
    assert!(matches!(error, MungeError::Timeout { .. }), "{error}");
}

#[test]
fn a_hung_daemon_works_again_when_it_wakes_up() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let mut munged = realm.start().expect("munged");
    let munge = handle(munged.socket(), SHORT);
    munged.pause();
    let error = munge.encode(EncodeOptions::new()).wait().expect_err("it hangs");
    assert!(matches!(error, MungeError::Timeout { stage: TimeoutStage::Daemon, .. }), "{error}");
    munged.resume();
    let patient = munge.with_timeout(AMPLE).expect("in bounds");
    let credential = patient.encode(EncodeOptions::new()).wait().expect("awake");
    patient.decode(&credential).wait().expect("decoded");
}

#[test]
fn past_its_bounds_a_call_is_refused_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("socket");
    let _silent = UnixListener::bind(&socket).expect("a listener");
    let munge = handle(&socket, AMPLE); // nothing times out here
    let _held: Vec<_> = (0..4).map(|_| decode(&munge)).collect(); // 2 helpers and a queue of 2
    let mut refused = decode(&munge);
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Err(error)) = Pin::new(&mut refused).poll(&mut context) else {
        panic!("it is to be refused at once")
    };
    assert!(matches!(error, MungeError::Overloaded { helpers: 2, stuck: 0, .. }), "{error}");
    assert!(error.to_string().contains("retry later"), "{error}");
}

#[test]
fn while_all_helpers_are_stuck_a_call_times_out_in_the_queue_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("socket");
    let _silent = UnixListener::bind(&socket).expect("a listener");
    let munge = handle(&socket, SHORT);
    let (first, second) = (decode(&munge), decode(&munge));
    assert!(first.wait().is_err() && second.wait().is_err());
    let error = decode(&munge).wait().expect_err("all are stuck");
    let MungeError::Timeout { stage: TimeoutStage::Queued, helpers: 2, stuck: 2, .. } = error else {
        panic!("{error}")
    };
}

/// One helper is in the call to the paused daemon; the other one serves once the daemon is back.
#[test]
fn a_stuck_helper_leaves_the_others_to_work() {
    let Some(realm) = MungeRealm::for_test() else {
        return;
    };
    let mut munged = realm.start().expect("munged");
    let munge = handle(munged.socket(), SHORT);
    munged.pause();
    assert!(munge.encode(EncodeOptions::new()).wait().is_err());
    munged.resume();
    let patient = munge.with_timeout(AMPLE).expect("in bounds");
    for _ in 0..20 {
        patient.encode(EncodeOptions::new()).wait().expect("served");
    }
}
