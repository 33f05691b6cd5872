//! Parses arbitrary bytes as a message of a session, and as the body of a sealed error: no panic, and what is accepted is
//! exactly what the bytes say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mochi_auth::protocol::message::{Incoming, Kind, OVERHEAD};
use mochi_auth::protocol::{BareError, Hello, HelloReply, SealedError};

fuzz_target!(|input: &[u8]| {
    let mut wire = input.to_vec();
    if let Ok(message) = Incoming::parse(&mut wire) {
        let header = message.header();
        let room = input.len() - OVERHEAD;
        assert!(room % 16 == 0 || input[2] & 1 == 0);
        assert_eq!(header.kind() as u8, input[1]);
        assert_eq!(input[8..24], *header.session().as_bytes());
        assert_eq!(input[32..40], header.target().rpc.to_le_bytes());
        assert_eq!(input[40..42], header.target().provider.to_le_bytes());
        assert_eq!((header.content().bulk, header.content().large), (input[2] & 2 != 0, input[2] & 4 != 0));
        assert!(header.kind() != Kind::Close || input.len() == OVERHEAD);
        // No message is of two kinds.
        assert!(Hello::parse(input).is_err() && HelloReply::parse(input).is_err() && BareError::parse(input).is_err());
        let mut shorter = input[..input.len() - 1].to_vec();
        assert!(Incoming::parse(&mut shorter).is_err());
    }
    assert_eq!(wire, input, "parsing changes nothing");
    if let Ok(error) = SealedError::parse(input) {
        assert_eq!(error.encode(), input);
        if let SealedError::Handler { text, .. } = error {
            assert!(text.len() <= SealedError::TEXT_MAX);
        }
    }
});
