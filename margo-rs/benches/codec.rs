//! What encoding and decoding cost a call.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use margo_rs::codec::{self, Blob, Bytes};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    version: u64,
    blocks: Vec<u64>,
}

fn measure<T>(criterion: &mut Criterion, name: &str, value: &T)
where
    T: Serialize + DeserializeOwned,
{
    let bytes = codec::to_vec(value).expect("encodes");
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |bencher| {
        let mut out = Vec::with_capacity(bytes.len());
        bencher.iter(|| {
            out.clear();
            codec::encode_into(black_box(value), &mut out).expect("encodes");
            black_box(out.as_slice());
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| codec::from_slice::<T>(black_box(&bytes)).expect("decodes"));
    });
    group.finish();
}

fn codec_benches(criterion: &mut Criterion) {
    measure(criterion, "two_i64", &(1i64, 2i64));
    measure(criterion, "blob_64", &Blob(vec![7; 64]));
    measure(criterion, "bytes_64", &Bytes([7; 64]));
    measure(criterion, "blob_64k", &Blob(vec![7; 64 << 10]));
    measure(criterion, "vec_u8_64k", &vec![7u8; 64 << 10]);
    measure(criterion, "vec_u64_8k", &vec![7u64; 8 << 10]);
    measure(
        criterion,
        "entry",
        &Entry { name: "a file of some directory".to_owned(), version: 3, blocks: (0..16).collect() },
    );
}

criterion_group!(benches, codec_benches);
criterion_main!(benches);
