//! Parses arbitrary bytes as each message that comes before a session: no panic, and what is accepted is exactly what the
//! bytes say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mochi_auth::protocol::{BareError, HELLO_FIXED, HELLO_REP_FIXED, HELLO_REP_MAX, Hello, HelloReply};

fuzz_target!(|input: &[u8]| {
    if let Ok(hello) = Hello::parse(input) {
        assert_eq!(hello.wire(), input);
        assert!(input.len() <= hello.mechanism().hello_max());
        assert!(hello.token().len() + HELLO_FIXED < input.len());
        assert!(input.ends_with(hello.token()));
        assert_eq!(input[8..40], *hello.random());
        assert_eq!(input[40..72], *hello.public_key());
        assert_eq!(input[72..104], *hello.server().as_bytes());
        let _ = (hello.th1(), hello.suites(), hello.protection(), hello.cookie(), hello.client_time_ms());
        // One byte more or less is no HELLO.
        assert!(Hello::parse(&input[..input.len() - 1]).is_err());
        assert!(Hello::parse(&[input, &[0]].concat()).is_err());
    }
    if let Ok(reply) = HelloReply::parse(input) {
        assert!(input.len() <= HELLO_REP_MAX);
        assert_eq!(input[8..24], *reply.session().as_bytes());
        assert_eq!(input[56..88], *reply.public_key());
        assert_eq!(input[HELLO_REP_FIXED..HELLO_REP_FIXED + reply.token().len()], *reply.token());
        let terms = reply.terms();
        assert!(terms.max_in_flight >= 1 && terms.max_in_flight <= u32::from(terms.window_bits) / 2);
        assert!(HelloReply::parse(&input[..input.len() - 1]).is_err());
    }
    if let Ok(error) = BareError::parse(input) {
        assert_eq!(error.encode(), input);
        assert!(Hello::parse(input).is_err() && HelloReply::parse(input).is_err());
    }
});
