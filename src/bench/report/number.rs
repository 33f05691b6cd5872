//! Numbers as tables show them.

use std::fmt;

/// With three digits or more.
pub(super) struct Micros(pub(super) f64);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.0 {
            micros if micros < 1.0 => 3,
            micros if micros < 10.0 => 2,
            micros if micros < 100.0 => 1,
            _ => 0,
        };
        write!(f, "{:.decimals$}", self.0)
    }
}

/// A count with three digits and a decimal prefix.
pub(in super::super) struct Short(pub(in super::super) f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, prefix) = match self.0 {
            count if count >= 1e9 => (count / 1e9, " G"),
            count if count >= 1e6 => (count / 1e6, " M"),
            count if count >= 1e3 => (count / 1e3, " k"),
            count => (count, ""),
        };
        let decimals = match value {
            value if prefix.is_empty() || value >= 100.0 => 0,
            value if value >= 10.0 => 1,
            _ => 2,
        };
        write!(f, "{value:.decimals$}{prefix}")
    }
}

/// Memory.
pub(in super::super) struct Bytes(pub(in super::super) f64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 / 1024.0 {
            kibibytes if kibibytes < 1.0 => write!(f, "{:.0} B", self.0),
            kibibytes if kibibytes < 10.0 => write!(f, "{kibibytes:.1} KiB"),
            kibibytes => write!(f, "{kibibytes:.0} KiB"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let counts = [0.0, 999.0, 1234.0, 56_789.0, 2_345_678.0, 9.5e9].map(|count| Short(count).to_string());
        assert_eq!(counts, ["0", "999", "1.23 k", "56.8 k", "2.35 M", "9.50 G"]);
        let times = [0.1512, 7.126, 71.26, 712.6].map(|micros| Micros(micros).to_string());
        assert_eq!(times, ["0.151", "7.13", "71.3", "713"]);
        assert_eq!([700.0, 2000.0, 43_210.0].map(|bytes| Bytes(bytes).to_string()), ["700 B", "2.0 KiB", "42 KiB"]);
    }
}
