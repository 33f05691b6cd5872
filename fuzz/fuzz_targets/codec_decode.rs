//! Decodes arbitrary bytes into several types: no panic, no memory that the input does not pay for,
//! and what decoded encodes to the same bytes again.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use margo_rs::codec::{self, Blob, Bytes, HgString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Record {
    numbers: (u8, i16, u32, i64, u128),
    flag: bool,
    letter: char,
    name: String,
    digest: Bytes<40>,
    blob: Blob,
    samples: Vec<i32>,
    shape: Option<Tree>,
}

#[derive(Serialize, Deserialize)]
enum Tree {
    Nothing,
    Leaf(String),
    Fork(Box<Tree>, Box<Tree>),
    Node { id: u64, children: Vec<Tree> },
}

/// Types whose values have one encoding each.
fn canonical<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok((value, consumed)) = codec::from_prefix::<T>(bytes) {
        let encoded = codec::to_vec(&value).expect("what was decoded encodes");
        assert_eq!(encoded, bytes[..consumed]);
    }
}

/// Types whose values have several, such as maps in any order and the flags of C strings.
fn idempotent<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok((value, _)) = codec::from_prefix::<T>(bytes) {
        let encoded = codec::to_vec(&value).expect("what was decoded encodes");
        canonical::<T>(&encoded);
        codec::from_slice::<T>(&encoded).expect("what was encoded decodes");
    }
}

// The first byte picks the type, so that one input works on one.
fuzz_target!(|input: &[u8]| {
    let Some((pick, bytes)) = input.split_first() else {
        return;
    };
    match pick % 10 {
        0 => canonical::<Record>(bytes),
        1 => canonical::<Tree>(bytes),
        2 => canonical::<Vec<Vec<String>>>(bytes),
        3 => canonical::<Vec<Vec<()>>>(bytes),
        4 => canonical::<Vec<Option<char>>>(bytes),
        5 => canonical::<Result<([bool; 3], f64), Vec<f32>>>(bytes),
        6 => canonical::<(Blob, Bytes<64>, Vec<u8>)>(bytes),
        7 => idempotent::<Vec<HgString>>(bytes),
        8 => idempotent::<BTreeMap<String, HgString>>(bytes),
        _ => idempotent::<std::net::SocketAddr>(bytes),
    }
});
