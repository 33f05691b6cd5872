//! Tests of the receiving half; round trips with the sending half are in `outbound_tests.rs`.

use super::*;
use crate::rpc::RpcId;

const LIMITS: InboundLimits =
    InboundLimits { max_frame: 64 * 1024, max_message: 1 << 20, max_bytes: 2 << 20, max_messages: 4 };
const HEAD: RequestHead = RequestHead { rpc: RpcId::from_raw(7), timeout_ms: 9, one_way: false };

fn inbound() -> Inbound {
    Inbound::new(LIMITS, Arc::new(Budget::new(1 << 30)))
}

fn frame(kind: Kind, flags: u8, call: u64, total: Option<u64>, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    if kind == Kind::Request {
        HEAD.encode(&mut body);
    }
    if let Some(total) = total {
        body.extend_from_slice(&total.to_le_bytes());
    }
    body.extend_from_slice(payload);
    let mut out = Vec::new();
    Header { length: body.len() as u32, kind, flags, call }.encode(&mut out);
    out.extend_from_slice(&body);
    out
}

/// A call that nobody waits for.
const UNWANTED: u64 = 99;

fn run(inbound: &mut Inbound, bytes: &[u8]) -> Result<Vec<String>, WireError> {
    let mut seen = Vec::new();
    inbound.handle(bytes, &mut |event| {
        seen.push(match event {
            Event::Request(call, _, payload) => format!("request {call} {}", payload.bytes().len()),
            Event::RequestRefused(call, _, refusal) => format!("request {call} refused {refusal:?}"),
            Event::ResponseBegins(call, wanted) => {
                *wanted = call != UNWANTED;
                return;
            }
            Event::Response(call, payload) => format!("response {call} {}", payload.bytes().len()),
            Event::ResponseRefused(call, refusal) => format!("response {call} refused {refusal:?}"),
            Event::Cancel(call) => format!("cancel {call}"),
            Event::GoAway => "go away".to_owned(),
            Event::DataBegins(..) => return,
            bulk => format!("{bulk:?}"),
        });
    })?;
    Ok(seen)
}

#[test]
fn frames_arrive_whole_however_they_are_cut() {
    let mut bytes = frame(Kind::Request, 0, 1, None, &[1; 64]);
    bytes.extend(frame(Kind::Response, 0, 2, None, &[]));
    bytes.extend(frame(Kind::Cancel, 0, 3, None, &[]));
    bytes.extend(frame(Kind::Request, 0, 4, None, &vec![2; 20_000]));
    bytes.extend(frame(Kind::GoAway, 0, 0, None, &[]));
    let expected = ["request 1 64", "response 2 0", "cancel 3", "request 4 20000", "go away"];
    for step in [1, 2, 15, 16, 17, 33, 100, 8192, bytes.len()] {
        let mut inbound = inbound();
        let seen: Vec<_> = bytes.chunks(step).flat_map(|part| run(&mut inbound, part).unwrap()).collect();
        assert_eq!(seen, expected, "step {step}");
        assert!(!inbound.is_mid_message());
    }
}

#[test]
fn chunks_of_two_messages_may_interleave() {
    let mut inbound = inbound();
    let mut bytes = frame(Kind::Request, Header::MORE, 1, Some(5), b"ab");
    bytes.extend(frame(Kind::Response, Header::MORE, 1, Some(3), b"x"));
    bytes.extend(frame(Kind::RequestChunk, Header::MORE, 1, None, b"c"));
    bytes.extend(frame(Kind::ResponseChunk, 0, 1, None, b"yz"));
    bytes.extend(frame(Kind::RequestChunk, 0, 1, None, b"de"));
    assert_eq!(run(&mut inbound, &bytes).unwrap(), ["response 1 3", "request 1 5"]);
    assert_eq!(inbound.claimed, 0);
}

#[test]
fn a_message_that_differs_from_its_announced_size_is_a_protocol_error() {
    for (total, parts) in [(5, ["ab", "c"]), (2, ["ab", "c"]), (1, ["ab", "c"])] {
        let mut bytes = frame(Kind::Request, Header::MORE, 1, Some(total), parts[0].as_bytes());
        bytes.extend(frame(Kind::RequestChunk, 0, 1, None, parts[1].as_bytes()));
        let result = run(&mut inbound(), &bytes);
        assert!(matches!(result, Err(WireError::Chunk { call: 1, .. })), "{result:?}");
    }
}

#[test]
fn a_chunk_without_a_start_and_a_second_start_are_protocol_errors() {
    let chunk = frame(Kind::ResponseChunk, 0, 1, None, b"x");
    assert!(matches!(run(&mut inbound(), &chunk), Err(WireError::Chunk { .. })));
    let start = frame(Kind::Response, Header::MORE, 1, Some(5), b"x");
    let mut inbound = inbound();
    run(&mut inbound, &start).unwrap();
    assert!(matches!(run(&mut inbound, &start), Err(WireError::Chunk { .. })));
}

#[test]
fn an_endless_run_of_empty_chunks_is_a_protocol_error() {
    let mut inbound = inbound();
    run(&mut inbound, &frame(Kind::Request, Header::MORE, 1, Some(5), b"ab")).unwrap();
    let empty = frame(Kind::RequestChunk, Header::MORE, 1, None, b"");
    assert!(matches!(run(&mut inbound, &empty), Err(WireError::Chunk { .. })));
}

#[test]
fn an_announced_size_allocates_nothing_before_the_bytes_come() {
    let mut inbound = inbound();
    run(&mut inbound, &frame(Kind::Request, Header::MORE, 1, Some(1 << 20), b"ab")).unwrap();
    let mut message = inbound.partial.remove(&(Sort::Request, 1)).unwrap();
    assert!(message.bytes.vec_mut().capacity() < 1024);
}

#[test]
fn an_oversized_message_is_refused_once_and_its_chunks_are_thrown_away() {
    let mut inbound = inbound();
    let size = (1 << 20) + 1;
    let seen = run(&mut inbound, &frame(Kind::Request, Header::MORE, 1, Some(size), &[0; 1000])).unwrap();
    assert_eq!(seen, ["request 1 refused TooLarge { size: 1048577, max: 1048576 }"]);
    let mut left = size as usize - 1000;
    while left > 0 {
        let now = left.min(60_000);
        left -= now;
        let flags = if left > 0 { Header::MORE } else { 0 };
        assert!(run(&mut inbound, &frame(Kind::RequestChunk, flags, 1, None, &vec![0; now])).unwrap().is_empty());
        assert!(inbound.partial.values().all(|message| message.bytes.is_empty()));
    }
    assert!(!inbound.is_mid_message());
    assert_eq!(run(&mut inbound, &frame(Kind::Request, 0, 2, None, b"x")).unwrap(), ["request 2 1"]);
}

/// A request of 40,000 bytes that never goes on.
fn begun(call: u64) -> Vec<u8> {
    frame(Kind::Request, Header::MORE, call, Some(1 << 20), &[7; 40_000])
}

#[test]
fn bytes_under_way_are_bounded_and_a_cancel_gives_them_back() {
    let limits = InboundLimits { max_bytes: 100_000, max_messages: 4, ..LIMITS };
    let mut inbound = Inbound::new(limits, Arc::new(Budget::new(1 << 30)));
    assert!(run(&mut inbound, &begun(1)).unwrap().is_empty());
    assert!(run(&mut inbound, &begun(2)).unwrap().is_empty());
    assert_eq!(run(&mut inbound, &begun(3)).unwrap(), ["request 3 refused Overloaded"]);
    assert_eq!(run(&mut inbound, &frame(Kind::Cancel, 0, 1, None, &[])).unwrap(), ["cancel 1"]);
    assert!(run(&mut inbound, &begun(4)).unwrap().is_empty());
    assert_eq!(run(&mut inbound, &begun(5)).unwrap(), ["request 5 refused Overloaded"]);
    assert_eq!(run(&mut inbound, &begun(6)), Err(WireError::TooManyMessages(4)));
}

#[test]
fn a_request_that_outgrows_the_budget_is_refused_in_its_middle_and_frees_what_it_held() {
    let budget = Arc::new(Budget::new(50_000));
    let mut inbound = Inbound::new(LIMITS, budget.clone());
    assert!(run(&mut inbound, &begun(1)).unwrap().is_empty());
    let more = frame(Kind::RequestChunk, Header::MORE, 1, None, &[7; 40_000]);
    assert_eq!(run(&mut inbound, &more).unwrap(), ["request 1 refused Overloaded"]);
    assert_eq!(budget.claimed(), 0);
    assert!(run(&mut inbound, &more).unwrap().is_empty());
    assert!(run(&mut inbound, &begun(2)).unwrap().is_empty());
}

#[test]
fn an_announcement_takes_no_room_from_others() {
    let budget = Arc::new(Budget::new(1 << 20));
    let mut rude: Vec<_> = (0..100).map(|_| Inbound::new(LIMITS, budget.clone())).collect();
    for inbound in &mut rude {
        run(inbound, &frame(Kind::Request, Header::MORE, 1, Some(1 << 20), b"x")).unwrap();
    }
    let mut honest = Inbound::new(LIMITS, budget.clone());
    assert!(run(&mut honest, &begun(1)).unwrap().is_empty());
}

#[test]
fn connections_share_a_budget_and_give_it_back() {
    let budget = Arc::new(Budget::new(70_000));
    let mut first = Inbound::new(LIMITS, budget.clone());
    let mut second = Inbound::new(LIMITS, budget.clone());
    assert!(run(&mut first, &begun(1)).unwrap().is_empty());
    assert_eq!(run(&mut second, &begun(1)).unwrap(), ["request 1 refused Overloaded"]);
    drop(first);
    assert_eq!(budget.claimed(), 0);
    assert!(run(&mut second, &begun(2)).unwrap().is_empty());
    assert_eq!(budget.claimed(), 40_000);
}

#[test]
fn a_response_that_nobody_waits_for_is_not_kept() {
    let mut inbound = inbound();
    let start = frame(Kind::Response, Header::MORE, UNWANTED, Some(50_000), &[1; 40_000]);
    assert!(run(&mut inbound, &start).unwrap().is_empty());
    assert!(inbound.partial.values().all(|message| message.bytes.is_empty()));
    let end = frame(Kind::ResponseChunk, 0, UNWANTED, None, &[1; 10_000]);
    assert!(run(&mut inbound, &end).unwrap().is_empty());
    assert!(!inbound.is_mid_message());
}

#[test]
fn direct_reads_end_exactly_at_the_frame() {
    let mut inbound = inbound();
    let bytes = frame(Kind::Response, 0, 3, None, &vec![9; 30_000]);
    run(&mut inbound, &bytes[..100]).unwrap();
    let mut seen = 0;
    let mut at = 100;
    while let Some((into, most)) = inbound.direct() {
        let now = most.min(10_000);
        into.extend_from_slice(&bytes[at..at + now]);
        at += now;
        inbound
            .direct_done(now, &mut |event| match event {
                Event::ResponseBegins(3, wanted) => *wanted = true,
                Event::Response(3, payload) => seen = payload.bytes().iter().filter(|b| **b == 9).count(),
                other => panic!("{other:?}"),
            })
            .unwrap();
        if most - now < DIRECT_MIN {
            break;
        }
    }
    run(&mut inbound, &bytes[at..]).map(|events| assert!(events.len() <= 1)).unwrap();
    assert!(seen == 30_000 || !inbound.is_mid_message());
}
