//! Properties of the codec over arbitrary values and arbitrary bytes, through the public API.

use std::collections::BTreeMap;
use std::fmt::Debug;

use margo_rs::codec::{self, Blob, Bytes, DecodeError, HgString};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Record {
    numbers: (u8, i16, u32, i64, u128),
    ratio: f64,
    flag: bool,
    letter: char,
    name: String,
    c_name: HgString,
    digest: Bytes<40>,
    blob: Blob,
    samples: Vec<i32>,
    attributes: BTreeMap<String, Option<u16>>,
    tree: Tree,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Tree {
    Nothing,
    Leaf(String),
    Fork(Box<Tree>, Box<Tree>),
    Node { id: u64, children: Vec<Tree> },
}

fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![Just(Tree::Nothing), any::<String>().prop_map(Tree::Leaf)];
    leaf.prop_recursive(6, 48, 4, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| Tree::Fork(Box::new(left), Box::new(right))),
            (any::<u64>(), vec(inner, 0..4)).prop_map(|(id, children)| Tree::Node { id, children }),
        ]
    })
}

fn record() -> impl Strategy<Value = Record> {
    (
        any::<((u8, i16, u32, i64, u128), f64, bool, char, String)>(),
        option::of("[^\0]{0,20}").prop_map(HgString::from),
        any::<[u8; 40]>().prop_map(Bytes),
        vec(any::<u8>(), 0..200).prop_map(Blob),
        vec(any::<i32>(), 0..20),
        btree_map(any::<String>(), any::<Option<u16>>(), 0..5),
        tree(),
    )
        .prop_map(|((numbers, ratio, flag, letter, name), c_name, digest, blob, samples, attributes, tree)| {
            Record { numbers, ratio, flag, letter, name, c_name, digest, blob, samples, attributes, tree }
        })
}

/// Decodes what may be anything. What decodes must encode, and decode again to the same.
fn probe<T>(bytes: &[u8])
where
    T: Serialize + DeserializeOwned,
{
    let Ok((value, consumed)) = codec::from_prefix::<T>(bytes) else {
        return;
    };
    assert!(consumed <= bytes.len());
    // Bytes and not values are compared, because a NaN differs from itself.
    let encoded = codec::to_vec(&value).expect("what was decoded encodes");
    let again: T = codec::from_slice(&encoded).expect("what was encoded decodes");
    assert_eq!(codec::to_vec(&again).expect("encodes"), encoded);
}

fn probe_all(bytes: &[u8]) {
    probe::<Record>(bytes);
    probe::<Tree>(bytes);
    probe::<Vec<Vec<String>>>(bytes);
    probe::<Vec<()>>(bytes);
    probe::<Vec<(HgString, Option<char>)>>(bytes);
    probe::<BTreeMap<Bytes<2>, Blob>>(bytes);
    probe::<Result<[bool; 3], Vec<f32>>>(bytes);
    probe::<std::net::SocketAddr>(bytes);
    probe::<std::time::Duration>(bytes);
}

fn truncations_fail<T>(bytes: &[u8])
where
    T: DeserializeOwned + Debug,
{
    for end in 0..bytes.len() {
        let error = codec::from_slice::<T>(&bytes[..end]).expect_err("cut short");
        assert!(matches!(error, DecodeError::Truncated { .. } | DecodeError::Count { .. }), "cut at {end}: {error}");
    }
}

proptest! {
    #[test]
    fn every_record_comes_back_as_it_was(value in record()) {
        let bytes = codec::to_vec(&value).expect("encodes");
        prop_assert_eq!(codec::from_slice::<Record>(&bytes).expect("decodes"), value);
    }

    #[test]
    fn values_end_where_the_next_one_starts(first in record(), second in tree()) {
        let mut bytes = codec::to_vec(&first).expect("encodes");
        let end = bytes.len();
        codec::encode_into(&second, &mut bytes).expect("encodes");
        let (decoded, consumed) = codec::from_prefix::<Record>(&bytes).expect("decodes");
        prop_assert_eq!((decoded, consumed), (first, end));
        prop_assert_eq!(codec::from_slice::<Tree>(&bytes[end..]).expect("decodes"), second);
    }

    #[test]
    fn every_truncation_of_a_record_is_an_error(value in record()) {
        truncations_fail::<Record>(&codec::to_vec(&value).expect("encodes"));
    }

    #[test]
    fn a_byte_too_many_is_an_error(value in tree(), extra in any::<u8>()) {
        let mut bytes = codec::to_vec(&value).expect("encodes");
        let offset = bytes.len();
        bytes.push(extra);
        prop_assert_eq!(
            codec::from_slice::<Tree>(&bytes),
            Err(DecodeError::Trailing { offset, count: 1 })
        );
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        probe_all(&bytes);
    }

    // Small numbers make plausible counts, flags and indices, so these reach further in.
    #[test]
    fn bytes_full_of_small_numbers_never_panic(bytes in vec(0u8..4, 0..300)) {
        probe_all(&bytes);
    }

    #[test]
    fn a_record_with_bytes_changed_never_panics(
        value in record(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = codec::to_vec(&value).expect("encodes");
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        probe_all(&bytes);
    }

    #[test]
    fn a_failed_encoding_leaves_the_output_as_it_was(before in vec(any::<u8>(), 0..20), value in record()) {
        let mut out = before.clone();
        let unencodable = (value, HgString::from("a\0b"));
        prop_assert!(codec::encode_into(&unencodable, &mut out).is_err());
        prop_assert_eq!(out, before);
    }
}
