//! Cuts arbitrary bytes anywhere and feeds them to the receiving half of a connection, both ways that a transport does:
//! no panic, no memory that the bytes do not pay for, and a shared budget that is given back.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use margo_rs::bulk::{Direction, Refusal};
use margo_rs::wire::{Budget, Event, HELLO_LEN, Hello, Inbound, InboundLimits, Outbound, Transfers};

const LIMITS: InboundLimits =
    InboundLimits { max_frame: 32 * 1024, max_message: 64 * 1024, max_bytes: 128 * 1024, max_messages: 4 };

/// What a transport does with the frames of bulk transfers, where every wish is refused: nothing gets a place for data, and
/// what is answered grows no faster than what is asked.
fn bulk(event: Event<'_>, transfers: &mut Transfers, out: &mut Outbound) {
    match event {
        Event::Transfer(call, direction, _) => {
            if let Ok(true) = transfers.handle_wish(call, out) {
                transfers.serve(call, direction, Err(Refusal::Forged), out);
            }
        }
        Event::Borrow(call, _) => {
            if let Ok(true) = transfers.handle_wish(call, out) {
                transfers.serve(call, Direction::Pull, Err(Refusal::Forged), out);
            }
        }
        Event::Lend(call, ..) => {
            if let Ok(true) = transfers.handle_wish(call, out) {
                transfers.serve(call, Direction::Push, Err(Refusal::Forged), out);
            }
        }
        Event::Lent(call, _) => {
            assert_eq!(transfers.handle_lent(call), Ok(false));
            transfers.ask_for_data(call, out);
        }
        Event::DataBegins(direction, call, length, target) => {
            *target = transfers.target(direction, call, length).expect("nothing was agreed on");
            assert!(target.is_none());
        }
        Event::DataEnds(..) => unreachable!("data without a place"),
        Event::TransferEnd(call, code) => assert_eq!(transfers.handle_end(call, code, out), Ok(None)),
        Event::PushReady(call) => transfers.handle_ready(call, out),
        Event::TransferCancel(call) => transfers.handle_cancel(call, out),
        _ => {}
    }
    assert!(!transfers.expects_data());
}

fn check(event: Event<'_>, transfers: &mut Transfers, out: &mut Outbound) {
    let length = match event {
        Event::ResponseBegins(call, wanted) => {
            *wanted = call & 1 == 0;
            0
        }
        Event::Request(_, _, payload) | Event::Response(_, payload) => payload.bytes().len(),
        other => {
            bulk(other, transfers, out);
            0
        }
    };
    assert!(length as u64 <= LIMITS.max_message);
}

// The first byte picks the pieces' lengths and whether they are read directly where that is offered.
fuzz_target!(|input: &[u8]| {
    if let Some(hello) = input.first_chunk::<HELLO_LEN>()
        && let Ok(hello) = Hello::decode(hello)
    {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        assert!(Hello::may_begin_with(input));
    }
    let Some((pick, mut bytes)) = input.split_first() else { return };
    let (direct, mut step) = (pick & 1 == 1, usize::from(pick >> 1) + 1);
    let budget = Arc::new(Budget::new(96 * 1024));
    let mut inbound = Inbound::new(LIMITS, budget.clone());
    let (mut transfers, mut out) = (Transfers::new(4), Outbound::new(32 * 1024));
    let mut check = |event: Event<'_>| check(event, &mut transfers, &mut out);
    while !bytes.is_empty() {
        let now = step.min(bytes.len());
        // Pieces of growing length, so that one input has both small ones and large ones.
        step += step / 8 + 1;
        let taken = match inbound.direct() {
            Some((into, most)) if direct => {
                let now = now.min(most);
                into.extend_from_slice(&bytes[..now]);
                inbound.direct_done(now, &mut check).map(|()| now)
            }
            _ => inbound.handle(&bytes[..now], &mut check).map(|()| now),
        };
        match taken {
            Ok(taken) => bytes = &bytes[taken..],
            Err(_) => break,
        }
        assert!(budget.claimed() <= 96 * 1024);
    }
    drop(inbound);
    assert!(out.queued() <= input.len());
    assert_eq!(budget.claimed(), 0);
});
