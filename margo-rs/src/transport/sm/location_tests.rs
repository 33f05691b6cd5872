use super::*;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sm-location-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        Self(path)
    }

    fn listen(&self, address: &str) -> Result<Listener, ListenError> {
        Listener::new_in(&self.0, &address.parse().unwrap())
    }

    fn files(&self) -> usize {
        fs::read_dir(directory_of(&self.0, own_uid())).unwrap().count()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn locations_are_split_into_user_and_name() {
    assert_eq!(split("1000/4711-0"), Ok(Place { uid: 1000, name: "4711-0" }));
    assert_eq!(split("0/x"), Ok(Place { uid: 0, name: "x" }));
    assert_eq!(split("my.service_2"), Ok(Place { uid: own_uid(), name: "my.service_2" }));
}

#[test]
fn malformed_locations_are_refused() {
    let long = "x".repeat(NAME_MAX + 1);
    for location in
        ["", "/", "1/", "/x", "x/y", "-1/x", "+1/x", "01/x", "4294967296/x", "1/a/b", "1/..", ".x", "a:b", "a%", &long]
    {
        assert!(split(location).is_err(), "{location}");
    }
}

#[test]
fn a_name_is_printed_with_its_user_and_is_free_again_afterwards() {
    let scratch = Scratch::new("name");
    let listener = scratch.listen("sm://service").unwrap();
    assert_eq!(listener.address.to_string(), format!("native+sm://{}/service", own_uid()));
    assert!(matches!(scratch.listen("sm://service"), Err(ListenError::InUse { .. })));
    drop(listener);
    assert_eq!(scratch.files(), 0);
    let again = scratch.listen(&format!("sm://{}/service", own_uid())).unwrap();
    assert!(scratch.listen("sm").unwrap().address != scratch.listen("sm").unwrap().address);
    drop(again);
}

#[test]
fn the_name_of_a_dead_process_is_taken_over() {
    let scratch = Scratch::new("dead");
    let listener = scratch.listen("sm://service").unwrap();
    // As a killed process: the socket goes, its file stays.
    listener.removed.store(true, Ordering::Relaxed);
    drop(listener);
    assert_eq!(scratch.files(), 1);
    let again = scratch.listen("sm://service").unwrap();
    // The first one, were it still to end, would leave the name to its new owner.
    assert_eq!(scratch.files(), 1);
    drop(again);
}

#[test]
fn sockets_of_dead_processes_are_swept_and_those_of_living_ones_are_not() {
    let scratch = Scratch::new("sweep");
    let alive = scratch.listen("sm").unwrap();
    let directory = directory_of(&scratch.0, own_uid());
    // No process has a number as high as this.
    let dead = directory.join("4194305-0");
    drop(socket::listen(&SocketAddrUnix::new(&dead).unwrap()).unwrap());
    let other_container = directory.join("4194306-0");
    let other = socket::listen(&SocketAddrUnix::new(&other_container).unwrap()).unwrap();
    fs::write(directory.join("4194307-0"), "no socket").unwrap();
    drop(scratch.listen("sm").unwrap());
    assert!(!dead.exists() && other_container.exists() && directory.join("4194307-0").exists());
    assert_eq!(scratch.files(), 3);
    drop((alive, other));
}

#[test]
fn the_directory_lets_others_pass_and_nothing_else() {
    let scratch = Scratch::new("mode");
    let directory = directory_of(&scratch.0, own_uid());
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
    let listener = scratch.listen("sm").unwrap();
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o7777, 0o711);
    assert_eq!(fs::metadata(&listener.path).unwrap().permissions().mode() & 0o777, 0o666);
}

#[test]
fn a_directory_that_others_have_prepared_is_not_used() {
    let scratch = Scratch::new("squat");
    let directory = directory_of(&scratch.0, own_uid());
    // A link to a directory of ours is not one either.
    let elsewhere = scratch.0.join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &directory).unwrap();
    let error = scratch.listen("sm").unwrap_err().to_string();
    assert!(error.contains("no directory") && error.contains(DIRECTORY_VARIABLE), "{error}");
    fs::remove_file(&directory).unwrap();
    if own_uid() == 0 {
        fs::create_dir(&directory).unwrap();
        std::os::unix::fs::chown(&directory, Some(12_345), None).unwrap();
        let error = scratch.listen("sm").unwrap_err().to_string();
        assert!(error.contains("belongs to uid 12345"), "{error}");
    }
    // Nor is any place where others could exchange ours for theirs.
    fs::set_permissions(&scratch.0, Permissions::from_mode(0o777)).unwrap();
    let error = scratch.listen("sm").unwrap_err().to_string();
    assert!(error.contains("others can remove"), "{error}");
    fs::set_permissions(&scratch.0, Permissions::from_mode(0o1777)).unwrap();
}

#[test]
fn another_users_name_cannot_be_listened_on() {
    let scratch = Scratch::new("other");
    let error = scratch.listen(&format!("sm://{}/x", own_uid() + 1)).unwrap_err().to_string();
    assert!(error.contains("uid"), "{error}");
}
