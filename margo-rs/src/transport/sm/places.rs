//! How many links are taken in, and whose they are.

use crate::limits::Limits;
use parking_lot::Mutex;
use std::collections::HashMap;
use thiserror::Error;

/// The links that peers have opened, by the user the kernel says they are.
#[derive(Default)]
pub(super) struct Places {
    taken: Mutex<HashMap<u32, usize>>,
}

/// Why a link is not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Full {
    #[error("too many connections: {max} are open (max_connections)")]
    All { max: usize },
    #[error("too many connections of uid {uid}: {max} are open (max_connections_per_user)")]
    User { uid: u32, max: usize },
}

impl Places {
    /// Takes a place for one more link of a user.
    pub(super) fn take(&self, uid: u32, limits: &Limits) -> Result<(), Full> {
        let mut taken = self.taken.lock();
        if taken.values().sum::<usize>() >= limits.max_connections {
            return Err(Full::All { max: limits.max_connections });
        }
        let of_user = taken.get(&uid).copied().unwrap_or(0);
        if of_user >= limits.max_connections_per_user {
            return Err(Full::User { uid, max: limits.max_connections_per_user });
        }
        taken.insert(uid, of_user + 1);
        Ok(())
    }

    /// A link of the user's has ended.
    pub(super) fn give_back(&self, uid: u32) {
        let mut taken = self.taken.lock();
        if let Some(links) = taken.get_mut(&uid) {
            *links -= 1;
            if *links == 0 {
                taken.remove(&uid);
            }
        }
    }

    /// The links of all users.
    pub(super) fn taken(&self) -> usize {
        self.taken.lock().values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { max_connections: 5, max_connections_per_user: 3, ..Limits::default() }
    }

    #[test]
    fn one_user_cannot_take_the_places_of_others() {
        let places = Places::default();
        for _ in 0..3 {
            assert_eq!(places.take(1, &limits()), Ok(()));
        }
        assert_eq!(places.take(1, &limits()), Err(Full::User { uid: 1, max: 3 }));
        assert_eq!(places.take(2, &limits()), Ok(()));
        places.give_back(1);
        assert_eq!(places.take(1, &limits()), Ok(()));
    }

    #[test]
    fn all_together_have_no_more_than_all_places() {
        let places = Places::default();
        for uid in 0..5 {
            assert_eq!(places.take(uid, &limits()), Ok(()));
        }
        assert_eq!(places.take(9, &limits()), Err(Full::All { max: 5 }));
        places.give_back(0);
        assert_eq!(places.taken(), 4);
        assert_eq!(places.take(9, &limits()), Ok(()));
    }

    #[test]
    fn users_who_have_left_are_forgotten() {
        let places = Places::default();
        places.take(1, &limits()).unwrap();
        places.give_back(1);
        assert!(places.taken.lock().is_empty());
    }
}
