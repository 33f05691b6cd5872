//! What a process holds, as the kernel lists it. `self` is this process; others are named by their ids.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// The open descriptors of a process, with what they lead to.
#[derive(Clone, PartialEq, Eq)]
pub struct Descriptors(BTreeMap<u32, String>);

impl Descriptors {
    /// How many there are. Of this process's own, one is what lists them.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.len())?;
        f.debug_map().entries(&self.0).finish()
    }
}

/// The open descriptors of a process.
pub fn descriptors(process: &str) -> Descriptors {
    let folder = format!("/proc/{process}/fd");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let number = |name: &Path| name.to_str().and_then(|name| name.parse().ok()).expect("descriptors are numbers");
    let leads = |path: &Path| fs::read_link(path).map_or_else(|error| error.to_string(), |to| to.display().to_string());
    let entries = entries.map(|entry| entry.expect("the list is whole"));
    Descriptors(entries.map(|entry| (number(Path::new(&entry.file_name())), leads(&entry.path()))).collect())
}

/// A mapping in a process's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Where it lies.
    pub addresses: Range<u64>,
    /// As in `rw-s`: readable, writable, executable, shared or private.
    pub permissions: String,
    /// The file's name, or empty.
    pub name: String,
}

impl Mapping {
    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.addresses.end - self.addresses.start
    }
}

/// The mappings of a process.
pub fn mappings(process: &str) -> Vec<Mapping> {
    let path = format!("/proc/{process}/maps");
    let maps = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    maps.lines().map(|line| parse(line).unwrap_or_else(|| panic!("{path}: {line}"))).collect()
}

/// As in `7f00-7f10 rw-s 00000000 00:01 1040 /memfd:name (deleted)`.
fn parse(line: &str) -> Option<Mapping> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let addresses = address(start)?..address(end)?;
    let permissions = fields.next()?.to_owned();
    let name = fields.nth(3).unwrap_or_default().trim().to_owned();
    Some(Mapping { addresses, permissions, name })
}

/// A thread of a process.
#[derive(Debug, Clone)]
pub struct Task {
    /// The kernel's number of it.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// As in `S`: sleeping.
    pub state: char,
    /// How often it slept of its own accord.
    pub sleeps: u64,
    /// Processor time, of its own and in the kernel, in ticks.
    pub ticks: u64,
    /// Where in the kernel it sleeps, as far as one may know.
    pub sleeps_in: String,
    /// The system call it is in with its arguments, as far as one may know.
    pub call: String,
}

/// The threads of a process; those that end meanwhile are left out.
pub fn tasks(process: &str) -> Vec<Task> {
    let folder = format!("/proc/{process}/task");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    entries.filter_map(|entry| task(&entry.ok()?.path())).collect()
}

fn task(path: &Path) -> Option<Task> {
    let text = |name| fs::read_to_string(path.join(name)).map(|text| text.trim().to_owned());
    let (stat, status) = (text("stat").ok()?, text("status").ok()?);
    // What follows the name, which may hold anything.
    let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
    let sleeps = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"))?;
    Some(Task {
        id: path.file_name()?.to_str()?.parse().ok()?,
        name: text("comm").ok()?,
        state: fields.first()?.chars().next()?,
        sleeps: sleeps.split_whitespace().nth(1)?.parse().ok()?,
        ticks: fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?,
        sleeps_in: text("wchan").unwrap_or_default(),
        call: text("syscall").unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_descriptor_is_listed_with_its_file() {
        let file = fs::File::open("/dev/zero").unwrap();
        let listed = format!("{:?}", descriptors("self"));
        assert!(listed.contains("\"/dev/zero\""), "{listed}");
        drop(file);
    }

    #[test]
    fn mappings_with_and_without_names_are_understood() {
        let named = parse("7f00-7f10 rw-s 00000000 00:01 1040                       /memfd:a name (deleted)").unwrap();
        assert_eq!((named.size(), named.permissions.as_str()), (0x10, "rw-s"));
        assert_eq!(named.name, "/memfd:a name (deleted)");
        assert_eq!(parse("7f00-7f10 ---p 00000000 00:00 0 ").unwrap().name, "");
        assert_eq!(parse("7f00-7f10 ---p 00000000 00:00 0").unwrap().name, "");
        assert_eq!(parse("7f00 ---p"), None);
        assert!(mappings("self").iter().any(|mapping| mapping.name == "[stack]"));
    }

    #[test]
    fn a_named_thread_is_among_the_tasks() {
        let (over, until) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("a sleeper".into()).spawn(move || until.recv()).unwrap();
        crate::eventually("the thread has its name", || tasks("self").iter().any(|task| task.name == "a sleeper"));
        drop(over);
        let _ = thread.join();
    }
}
