use std::collections::HashMap;

use super::node::NodeAddress;
use crate::protocol::Tick;

/// So many per second on average, and so many at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Per second, 1 to 1,000,000.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

impl Rate {
    /// Handshakes of one address: all processes of a large node may start at once.
    pub const HANDSHAKES: Self = Self { per_second: 100, burst: 512 };
    /// Answers of NO to messages of unknown sessions, for one address.
    pub const REFUSALS: Self = Self { per_second: 10, burst: 10 };
}

/// A token bucket per address, kept as the one time at which it will be full again (GCRA).
#[derive(Debug)]
pub struct RateLimiter {
    /// Microseconds between two.
    interval: u64,
    /// Microseconds that a bucket may be ahead.
    depth: u64,
    full_at: HashMap<NodeAddress, u64>,
    capacity: usize,
    /// All addresses that there is no room for.
    others: u64,
    swept: u64,
}

impl RateLimiter {
    /// Remembers at most `capacity` addresses; further ones share a bucket.
    pub fn new(rate: Rate, capacity: usize) -> Self {
        let interval = 1_000_000 / u64::from(rate.per_second.max(1));
        let depth = interval * u64::from(rate.burst.max(1));
        Self { interval, depth, full_at: HashMap::new(), capacity, others: 0, swept: 0 }
    }

    /// Takes a token, or says that there is none.
    pub fn take(&mut self, node: NodeAddress, now: Tick) -> bool {
        let now = now.0.saturating_mul(1000);
        if self.full_at.len() >= self.capacity && !self.full_at.contains_key(&node) {
            // At most once a second: the sweep looks at all addresses.
            if now >= self.swept.saturating_add(1_000_000) {
                self.swept = now;
                self.full_at.retain(|_, full_at| *full_at > now);
            }
            if self.full_at.len() >= self.capacity {
                return step(&mut self.others, now, self.interval, self.depth);
            }
        }
        step(self.full_at.entry(node).or_insert(0), now, self.interval, self.depth)
    }
}

fn step(full_at: &mut u64, now: u64, interval: u64, depth: u64) -> bool {
    let next = (*full_at).max(now).saturating_add(interval);
    let allowed = next - now <= depth;
    if allowed {
        *full_at = next;
    }
    allowed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    const SMALL: Rate = Rate { per_second: 20, burst: 50 };

    fn node(number: u32) -> NodeAddress {
        IpAddr::from(Ipv4Addr::from(number)).into()
    }

    fn taken(limiter: &mut RateLimiter, node: NodeAddress, tries: usize, now: Tick) -> usize {
        (0..tries).filter(|_| limiter.take(node, now)).count()
    }

    #[test]
    fn a_burst_is_followed_by_the_rate() {
        let mut limiter = RateLimiter::new(SMALL, 100);
        assert_eq!(taken(&mut limiter, node(1), 1000, Tick(0)), 50);
        assert_eq!(taken(&mut limiter, node(1), 1000, Tick(1000)), 20);
        assert_eq!(taken(&mut limiter, node(1), 1000, Tick(1049)), 0);
        assert_eq!(taken(&mut limiter, node(1), 1000, Tick(1050)), 1);
        assert_eq!(taken(&mut limiter, node(1), 1000, Tick(60_000)), 50);
    }

    #[test]
    fn addresses_do_not_share() {
        let mut limiter = RateLimiter::new(SMALL, 100);
        taken(&mut limiter, node(1), 1000, Tick(0));
        assert_eq!(taken(&mut limiter, node(2), 1000, Tick(0)), 50);
    }

    #[test]
    fn memory_is_bounded_and_strangers_share_one_bucket() {
        let mut limiter = RateLimiter::new(SMALL, 10);
        let all = (0..1000).map(|number| taken(&mut limiter, node(number), 1, Tick(0))).sum::<usize>();
        assert_eq!(all, 10 + 50);
        assert_eq!(limiter.full_at.len(), 10);
        assert!(limiter.take(node(5000), Tick(60_000)), "old addresses make room");
        assert!(limiter.full_at.len() <= 10);
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_gives_nothing_away() {
        let mut limiter = RateLimiter::new(Rate::REFUSALS, 10);
        assert_eq!(taken(&mut limiter, node(1), 1000, Tick(5000)), 10);
        assert_eq!(taken(&mut limiter, node(1), 1000, Tick(0)), 0);
    }
}
