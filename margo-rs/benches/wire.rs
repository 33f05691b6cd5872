//! What framing costs a message, apart from the socket: in batches, as a busy connection has them.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use margo_rs::wire::{Budget, Event, FRAME_MAX, Header, Inbound, InboundLimits, Outbound, RequestHead, WriteJob};
use margo_rs::{Buffer, ProviderId, RpcId};

/// Messages in one write.
const BATCH: u64 = 64;

fn head() -> RequestHead {
    RequestHead { rpc: RpcId::new("bench_echo", ProviderId::DEFAULT), timeout_ms: 30_000, one_way: false }
}

fn inbound() -> Inbound {
    let limits =
        InboundLimits { max_frame: FRAME_MAX, max_message: 64 << 20, max_bytes: 256 << 20, max_messages: 4096 };
    Inbound::new(limits, Arc::new(Budget::new(1 << 30)))
}

/// Cuts all that is queued into writes and takes it as written.
fn write_all(outbound: &mut Outbound, job: &mut WriteJob, mut write: impl FnMut(&[u8])) {
    while outbound.next_write(job) {
        let slices = job.slices();
        let count = slices.iter().map(|slice| slice.len()).sum();
        slices.into_iter().for_each(&mut write);
        job.advance(count);
        outbound.written(job);
    }
}

fn receive(inbound: &mut Inbound, bytes: &[u8]) -> usize {
    let mut received = 0;
    let sink = &mut |event: Event<'_>| match event {
        Event::ResponseBegins(_, wanted) => *wanted = true,
        Event::Request(_, _, payload) | Event::Response(_, payload) => {
            received += black_box(payload.bytes()).len();
        }
        _ => {}
    };
    inbound.handle(bytes, sink).expect("well-formed frames");
    received
}

/// Small messages: one write and one read carry many.
fn small(criterion: &mut Criterion, size: usize) {
    let payload = vec![0x5a; size];
    let mut group = criterion.benchmark_group(format!("wire/{size}B"));
    group.throughput(Throughput::Elements(BATCH));

    let mut outbound = Outbound::new(FRAME_MAX);
    let mut job = WriteJob::default();
    group.bench_function("encode_requests", |bencher| {
        bencher.iter(|| {
            for call in 0..BATCH {
                outbound.request(call, head(), Buffer::copy_from(black_box(&payload)));
            }
            write_all(&mut outbound, &mut job, |bytes| {
                black_box(bytes);
            });
        });
    });
    group.bench_function("encode_responses", |bencher| {
        bencher.iter(|| {
            for call in 0..BATCH {
                outbound.response(call, Buffer::copy_from(black_box(&payload)));
            }
            write_all(&mut outbound, &mut job, |bytes| {
                black_box(bytes);
            });
        });
    });

    let mut requests = Vec::new();
    for call in 0..BATCH {
        outbound.request(call, head(), Buffer::copy_from(&payload));
    }
    write_all(&mut outbound, &mut job, |bytes| requests.extend_from_slice(bytes));
    let mut responses = Vec::new();
    for call in 0..BATCH {
        outbound.response(call, Buffer::copy_from(&payload));
    }
    write_all(&mut outbound, &mut job, |bytes| responses.extend_from_slice(bytes));

    let mut inbound = inbound();
    group.bench_function("decode_requests", |bencher| {
        bencher.iter(|| receive(&mut inbound, black_box(&requests)));
    });
    group.bench_function("decode_responses", |bencher| {
        bencher.iter(|| receive(&mut inbound, black_box(&responses)));
    });
    // As when a read ends within a frame.
    let split = requests.len() / 2 + Header::LEN / 2;
    group.bench_function("decode_requests_in_two_reads", |bencher| {
        bencher.iter(|| {
            let (first, second) = black_box(&requests).split_at(split);
            receive(&mut inbound, first) + receive(&mut inbound, second)
        });
    });
    group.finish();
}

/// A message that is cut into chunks.
fn large(criterion: &mut Criterion, size: usize) {
    let mut group = criterion.benchmark_group(format!("wire/{}MiB", size >> 20));
    group.throughput(Throughput::Bytes(size as u64));

    let mut outbound = Outbound::new(FRAME_MAX);
    let mut job = WriteJob::default();
    group.bench_function("encode_request", |bencher| {
        bencher.iter_batched(
            || Buffer::from(vec![0x5a; size]),
            |payload| {
                outbound.request(1, head(), payload);
                write_all(&mut outbound, &mut job, |bytes| {
                    black_box(bytes);
                });
            },
            BatchSize::PerIteration,
        );
    });

    let mut request = Vec::new();
    outbound.request(1, head(), Buffer::from(vec![0x5a; size]));
    write_all(&mut outbound, &mut job, |bytes| request.extend_from_slice(bytes));
    let mut inbound = inbound();
    group.bench_function("decode_request_in_reads_of_256_KiB", |bencher| {
        bencher.iter(|| {
            let reads = black_box(&request).chunks(256 << 10);
            reads.map(|read| receive(&mut inbound, read)).sum::<usize>()
        });
    });
    group.finish();
}

fn wire_benches(criterion: &mut Criterion) {
    for size in [0, 64, 1 << 10, 8 << 10] {
        small(criterion, size);
    }
    large(criterion, 16 << 20);
}

criterion_group!(benches, wire_benches);
criterion_main!(benches);
