//! Who may call.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Weak};

use nix::unistd::{Group, User};
use parking_lot::RwLock;

use super::caller::Caller;
use crate::protocol::MechanismId;

/// Who may call an RPC. Decided anew for each call, from the verified identity alone.
///
/// The default is [`Rule::nobody`]. Rules are cheap to clone and to combine:
///
/// ```
/// use mochi_auth::Rule;
/// let operators = Rule::uid(0).or(Rule::uid(2003));
/// let everyone_by_day = Rule::anyone().and(Rule::when(|caller| caller.session_age().as_secs() < 8 * 3600));
/// ```
#[derive(Clone)]
pub struct Rule(Node);

#[derive(Clone)]
enum Node {
    Nobody,
    Anyone,
    Uid(u32),
    Gid(u32),
    Group(Arc<Members>),
    Mechanism(MechanismId),
    When(Arc<dyn Fn(&Caller) -> bool + Send + Sync>),
    Any(Arc<[Rule; 2]>),
    All(Arc<[Rule; 2]>),
    Not(Arc<Rule>),
}

/// No group of this name, or its members cannot be found out.
#[derive(Debug, thiserror::Error)]
#[error("no group {name:?} on this host{}; check its name with getent group", reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default())]
pub struct UnknownGroup {
    name: String,
    reason: Option<nix::errno::Errno>,
}

impl Rule {
    /// Nobody: the default.
    pub fn nobody() -> Self {
        Self(Node::Nobody)
    }

    /// Everyone who authenticated.
    pub fn anyone() -> Self {
        Self(Node::Anyone)
    }

    /// This user.
    pub fn uid(uid: u32) -> Self {
        Self(Node::Uid(uid))
    }

    /// Users whose proven gid is this one.
    pub fn gid(gid: u32) -> Self {
        Self(Node::Gid(gid))
    }

    /// Members of a Unix group of this host: users who have it as their proven gid, or are listed in it.
    ///
    /// Asks the host's name services now, which may block, and again about every minute in the background; never while a
    /// call is decided. A look-up that fails later leaves the members as they were.
    ///
    /// # Errors
    /// There is no such group.
    pub fn group(name: &str) -> Result<Self, UnknownGroup> {
        Ok(Self(Node::Group(Arc::new(Members::load(name)?))))
    }

    /// Whoever was proven by this mechanism.
    pub fn mechanism(mechanism: MechanismId) -> Self {
        Self(Node::Mechanism(mechanism))
    }

    /// Whoever `decide` says. It runs on the progress thread for small requests: it must not block.
    pub fn when(decide: impl Fn(&Caller) -> bool + Send + Sync + 'static) -> Self {
        Self(Node::When(Arc::new(decide)))
    }

    /// Whom either allows.
    #[must_use]
    pub fn or(self, other: Rule) -> Self {
        match (&self.0, &other.0) {
            (Node::Nobody, _) => other,
            (_, Node::Nobody) => self,
            _ => Self(Node::Any(Arc::new([self, other]))),
        }
    }

    /// Whom both allow.
    #[must_use]
    pub fn and(self, other: Rule) -> Self {
        Self(Node::All(Arc::new([self, other])))
    }

    /// Whoever is not one of these. Of a group this excludes those who are listed in it; whoever is a member by his gid alone
    /// may choose another gid before he authenticates.
    #[must_use]
    pub fn except(self, other: Rule) -> Self {
        self.and(Self(Node::Not(Arc::new(other))))
    }

    /// Whether this caller may.
    pub fn allows(&self, caller: &Caller) -> bool {
        match &self.0 {
            Node::Nobody => false,
            Node::Anyone => true,
            Node::Uid(uid) => caller.uid() == *uid,
            Node::Gid(gid) => caller.gid() == *gid,
            Node::Group(members) => members.contain(caller.uid(), caller.gid()),
            Node::Mechanism(mechanism) => caller.mechanism() == *mechanism,
            Node::When(decide) => decide(caller),
            Node::Any(rules) => rules.iter().any(|rule| rule.allows(caller)),
            Node::All(rules) => rules.iter().all(|rule| rule.allows(caller)),
            Node::Not(rule) => !rule.allows(caller),
        }
    }

    /// The groups in it, to be looked up again from time to time.
    pub(super) fn groups(&self, found: &mut Vec<Weak<Members>>) {
        match &self.0 {
            Node::Group(members) => found.push(Arc::downgrade(members)),
            Node::Any(rules) | Node::All(rules) => rules.iter().for_each(|rule| rule.groups(found)),
            Node::Not(rule) => rule.groups(found),
            _ => {}
        }
    }
}

impl Default for Rule {
    fn default() -> Self {
        Self::nobody()
    }
}

/// In words, as the audit log has it: `(uid 7 or group users (gid 100, 3 listed in it))`.
impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Node::Nobody => f.write_str("nobody"),
            Node::Anyone => f.write_str("anyone"),
            Node::Uid(uid) => write!(f, "uid {uid}"),
            Node::Gid(gid) => write!(f, "gid {gid}"),
            Node::Group(members) => members.fmt(f),
            Node::Mechanism(mechanism) => write!(f, "{mechanism:?}"),
            Node::When(_) => f.write_str("a closure"),
            Node::Any(rules) => write!(f, "({:?} or {:?})", rules[0], rules[1]),
            Node::All(rules) => write!(f, "({:?} and {:?})", rules[0], rules[1]),
            Node::Not(rule) => write!(f, "not {rule:?}"),
        }
    }
}

/// With what was found of a group, so that whoever reads why a call was denied sees a group that is empty here.
impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.read();
        write!(f, "group {} (gid {}, {} listed in it)", self.name, known.gid, known.uids.len())
    }
}

/// The members of a Unix group, as they were when last looked up.
pub(super) struct Members {
    name: String,
    known: RwLock<Known>,
}

struct Known {
    gid: u32,
    uids: HashSet<u32>,
}

impl Members {
    fn load(name: &str) -> Result<Self, UnknownGroup> {
        Ok(Self { known: RwLock::new(look_up(name)?), name: name.to_owned() })
    }

    fn contain(&self, uid: u32, gid: u32) -> bool {
        let known = self.known.read();
        known.gid == gid || known.uids.contains(&uid)
    }

    /// Looks them up again. May block.
    pub(super) fn refresh(&self) {
        match look_up(&self.name) {
            Ok(known) => *self.known.write() = known,
            Err(error) => tracing::warn!(%error, "the members of a group stay as they were"),
        }
    }
}

fn look_up(name: &str) -> Result<Known, UnknownGroup> {
    let unknown = |reason| UnknownGroup { name: name.to_owned(), reason };
    let group = Group::from_name(name).map_err(|errno| unknown(Some(errno)))?.ok_or_else(|| unknown(None))?;
    let mut uids = HashSet::new();
    for member in &group.mem {
        // A name that means nothing here is nobody; a look-up that fails is no answer at all.
        let user = User::from_name(member).map_err(|errno| unknown(Some(errno)))?;
        uids.extend(user.map(|user| user.uid.as_raw()));
    }
    Ok(Known { gid: group.gid.as_raw(), uids })
}
