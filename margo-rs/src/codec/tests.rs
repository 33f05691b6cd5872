//! The bytes of each type, and what hostile bytes are answered with.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};

use super::*;

/// Checks that `value` encodes to exactly `bytes`, and comes back from them.
#[track_caller]
fn golden<T>(value: T, bytes: &[u8])
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    assert_eq!(to_vec(&value).expect("encodes"), bytes);
    assert_eq!(from_slice::<T>(bytes).expect("decodes"), value);
}

fn count(n: u64) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Empty,
    Circle(u8),
    Line(u8, u8),
    Text { left: u8, right: String },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Point {
    x: i32,
    label: String,
    z: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Meters(f64);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Pair(u8, u16);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Marker;

/// A list that nests one level of enum for each element.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum List {
    End,
    More(Box<List>),
}

#[test]
fn integers_are_little_endian_without_padding() {
    golden(0x12u8, &[0x12]);
    golden(-2i8, &[0xfe]);
    golden(0x1234u16, &[0x34, 0x12]);
    golden(-2i16, &[0xfe, 0xff]);
    golden(0x1234_5678u32, &[0x78, 0x56, 0x34, 0x12]);
    golden(-2i32, &[0xfe, 0xff, 0xff, 0xff]);
    golden(0x0102_0304_0506_0708u64, &[8, 7, 6, 5, 4, 3, 2, 1]);
    golden(i64::MIN, &[0, 0, 0, 0, 0, 0, 0, 0x80]);
    golden(7usize, &[7, 0, 0, 0, 0, 0, 0, 0]);
    golden(1u128 << 120, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    golden(-1i128, &[0xff; 16]);
    golden((1u8, 2u32, 3u8), &[1, 2, 0, 0, 0, 3]);
}

#[test]
fn floats_are_ieee_754() {
    golden(1.5f32, &[0, 0, 0xc0, 0x3f]);
    golden(-2.0f64, &[0, 0, 0, 0, 0, 0, 0, 0xc0]);
}

#[test]
fn a_nan_keeps_its_payload() {
    let bytes = 0x7ff8_dead_beef_0001u64.to_le_bytes();
    let value: f64 = from_slice(&bytes).expect("decodes");
    assert_eq!(to_vec(&value).expect("encodes"), bytes);
}

#[test]
fn a_bool_is_zero_or_one() {
    golden(false, &[0]);
    golden(true, &[1]);
    assert_eq!(from_slice::<(u8, bool)>(&[9, 2]), Err(DecodeError::Flag { offset: 1, value: 2 }));
}

#[test]
fn a_char_is_a_checked_scalar_value() {
    golden('é', &[0xe9, 0, 0, 0]);
    for value in [0xd800, 0x11_0000, u32::MAX] {
        assert_eq!(from_slice::<char>(&value.to_le_bytes()), Err(DecodeError::Char { offset: 0, value }));
    }
}

#[test]
fn a_string_is_a_length_and_text_without_nul() {
    // As Thallium sends `std::string("abc")`.
    golden("abc".to_owned(), &[3, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c']);
    golden(String::new(), &[0; 8]);
    golden("a\0b".to_owned(), &[3, 0, 0, 0, 0, 0, 0, 0, b'a', 0, b'b']);
}

#[test]
fn text_that_is_not_utf8_is_refused_with_its_place() {
    let mut bytes = vec![1];
    bytes.extend(count(2));
    bytes.extend([b'a', 0xff]);
    let error = from_slice::<(u8, String)>(&bytes).expect_err("not utf-8");
    assert_eq!(error.to_string(), "text at byte 9 is not utf-8");
}

#[test]
fn a_vector_is_a_count_and_its_elements() {
    // As Thallium sends `std::vector<int32_t>{1, 2}`.
    golden(vec![1i32, 2], &[2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    golden(vec![true, false], &[2, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    golden(Vec::<u64>::new(), &[0; 8]);
    golden(
        vec![vec![5u8], vec![]],
        &[
            2, 0, 0, 0, 0, 0, 0, 0, //
            1, 0, 0, 0, 0, 0, 0, 0, 5, //
            0, 0, 0, 0, 0, 0, 0, 0,
        ],
    );
}

#[test]
fn a_map_is_a_count_and_its_entries() {
    golden(BTreeMap::from([(1u8, 10u16), (2, 20)]), &[2, 0, 0, 0, 0, 0, 0, 0, 1, 10, 0, 2, 20, 0]);
    golden(HashMap::from([(1u8, ())]), &[1, 0, 0, 0, 0, 0, 0, 0, 1]);
}

#[test]
fn tuples_structs_and_arrays_are_their_members() {
    golden((1u8, 2u16), &[1, 2, 0]);
    golden([1u16, 2, 3], &[1, 0, 2, 0, 3, 0]);
    golden([7u8; 32], &[7; 32]);
    golden(Meters(1.0), &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
    golden(Pair(1, 2), &[1, 2, 0]);
    golden(Point { x: -1, label: "p".to_owned(), z: 3 }, &[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, b'p', 3]);
}

#[test]
fn units_are_nothing() {
    golden((), &[]);
    golden(Marker, &[]);
    golden(((), 1u8, Marker), &[1]);
}

#[test]
fn an_option_starts_with_one_when_it_is_none() {
    // As Thallium sends `std::optional`, whose flag is `nullopt`.
    golden(None::<u16>, &[1]);
    golden(Some(3u16), &[0, 3, 0]);
    golden(Some(None::<u8>), &[0, 1]);
    golden(Some(()), &[0]);
    assert_eq!(from_slice::<Option<u8>>(&[2, 0]), Err(DecodeError::Flag { offset: 0, value: 2 }));
}

#[test]
fn an_enum_is_its_index_and_its_fields() {
    golden(Shape::Empty, &[0, 0, 0, 0]);
    golden(Shape::Circle(9), &[1, 0, 0, 0, 9]);
    golden(Shape::Line(1, 2), &[2, 0, 0, 0, 1, 2]);
    golden(Shape::Text { left: 4, right: "r".to_owned() }, &[3, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, b'r']);
    golden(Err::<u8, u16>(5), &[1, 0, 0, 0, 5, 0]);
}

#[test]
fn an_unknown_variant_is_refused_where_its_index_is() {
    let error = from_slice::<(u8, Shape)>(&[1, 4, 0, 0, 0]).expect_err("no variant 4");
    assert_eq!(
        error.to_string(),
        "value is refused at byte 1: invalid value: integer `4`, expected variant index 0 <= i < 4"
    );
}

#[test]
fn a_blob_is_a_length_and_bytes_like_a_vector_of_them() {
    let bytes = [3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3];
    golden(Blob(vec![1, 2, 3]), &bytes);
    golden(vec![1u8, 2, 3], &bytes);
    assert_eq!(from_slice::<&[u8]>(&bytes), Ok(&[1u8, 2, 3][..]));
}

#[test]
fn a_block_of_bytes_has_no_length() {
    let mut block = [0; 64];
    block[63] = 1;
    golden(Bytes(block), &block);
    golden((1u8, Bytes([2, 3]), 4u8), &[1, 2, 3, 4]);
    golden(Bytes([]), &[]);
    assert_eq!(
        from_slice::<Bytes<64>>(&block[1..]),
        Err(DecodeError::Truncated { offset: 0, needed: 64, remaining: 63 })
    );
}

#[test]
fn a_c_string_has_its_nul_and_two_flags() {
    golden(HgString::from("abc"), &[4, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', b'c', 0, 0, 0]);
    golden(HgString::from(""), &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    golden((HgString::NULL, 7u8), &[0, 0, 0, 0, 0, 0, 0, 0, 7]);
    golden(
        vec![HgString::NULL, HgString::from("x")],
        &[
            2, 0, 0, 0, 0, 0, 0, 0, //
            0, 0, 0, 0, 0, 0, 0, 0, //
            2, 0, 0, 0, 0, 0, 0, 0, b'x', 0, 0, 0,
        ],
    );
}

#[test]
fn a_constant_c_string_of_a_peer_is_the_same_text() {
    let bytes = [2, 0, 0, 0, 0, 0, 0, 0, b'x', 0, 1, 0];
    assert_eq!(from_slice(&bytes), Ok(HgString::from("x")));
}

#[test]
fn a_c_string_ends_at_its_only_nul() {
    let unterminated = [2, 0, 0, 0, 0, 0, 0, 0, b'x', b'y', 0, 0];
    let interior = [3, 0, 0, 0, 0, 0, 0, 0, b'x', 0, 0, 0, 0];
    for bytes in [&unterminated[..], &interior] {
        assert_eq!(from_slice::<HgString>(bytes), Err(DecodeError::Nul { offset: 8 }));
    }
}

#[test]
fn a_c_string_longer_than_the_message_is_refused() {
    for len in [3, 1 << 60, u64::MAX] {
        let mut bytes = count(len);
        bytes.extend([b'x', 0]);
        assert_eq!(
            from_slice::<HgString>(&bytes),
            Err(DecodeError::Truncated { offset: 8, needed: len, remaining: 2 })
        );
    }
}

#[test]
fn a_c_string_with_a_nul_inside_is_not_encoded() {
    let mut out = vec![1, 2];
    let error = encode_into(&(5u8, HgString::from("a\0b")), &mut out).expect_err("has a NUL");
    assert_eq!(error, EncodeError::InteriorNul { offset: 1, index: 1 });
    assert_eq!(error.to_string(), "string at byte 1 has a NUL at its index 1; a C string cannot hold one");
    assert_eq!(out, [1, 2]);
}

#[test]
fn a_c_string_is_a_plain_string_in_json() {
    let strings = (HgString::from("abc"), HgString::NULL);
    let json = serde_json::to_string(&strings).expect("encodes");
    assert_eq!(json, r#"["abc",null]"#);
    assert_eq!(serde_json::from_str::<(HgString, HgString)>(&json).expect("decodes"), strings);
}

#[test]
fn bytes_are_numbers_in_json() {
    let value = (Bytes([1, 2]), Blob(vec![3]));
    let json = serde_json::to_string(&value).expect("encodes");
    assert_eq!(json, "[[1,2],[3]]");
    assert_eq!(serde_json::from_str::<(Bytes<2>, Blob)>(&json).expect("decodes"), value);
}

#[test]
fn the_reserved_name_of_c_strings_cannot_be_abused() {
    struct Impostor;
    impl Serialize for Impostor {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_newtype_struct(hg_string::NAME, &[1u8, 2])
        }
    }
    let error = to_vec(&Impostor).expect_err("no string");
    assert!(error.to_string().contains("is reserved for strings"), "{error}");
}

#[test]
fn borrowed_text_points_into_the_message() {
    let bytes = to_vec(&("abc", 1u8)).expect("encodes");
    let (text, _): (&str, u8) = from_slice(&bytes).expect("decodes");
    assert_eq!(text.as_ptr(), bytes[8..].as_ptr());
}

#[test]
fn encoding_appends_and_a_failure_takes_back_what_it_appended() {
    struct Failing;
    impl Serialize for Failing {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("not today"))
        }
    }
    let mut out = vec![9];
    encode_into(&1u16, &mut out).expect("encodes");
    assert_eq!(out, [9, 1, 0]);
    let error = encode_into(&(1u32, vec![Failing]), &mut out).expect_err("fails");
    assert_eq!(error.to_string(), "value cannot be encoded at byte 12: not today");
    assert_eq!(out, [9, 1, 0]);
}

#[test]
fn sequences_of_unknown_length_get_their_count() {
    struct Odd;
    impl Serialize for Odd {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_seq((0..6u8).filter(|n| n % 2 == 1))
        }
    }
    assert_eq!(to_vec(&Odd).expect("encodes"), [3, 0, 0, 0, 0, 0, 0, 0, 1, 3, 5]);
}

#[test]
fn a_false_length_hint_does_not_reach_the_wire() {
    struct Liar;
    impl Serialize for Liar {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeSeq;
            let mut seq = serializer.serialize_seq(Some(9))?;
            seq.serialize_element(&1u8)?;
            seq.end()
        }
    }
    assert_eq!(to_vec(&Liar).expect("encodes"), [1, 0, 0, 0, 0, 0, 0, 0, 1]);
}

#[test]
fn displayed_text_gets_its_length() {
    struct Displayed;
    impl Serialize for Displayed {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_str(&format_args!("{}-{}", 1, "é"))
        }
    }
    let bytes = to_vec(&Displayed).expect("encodes");
    assert_eq!(from_slice::<String>(&bytes).expect("decodes"), "1-é");
}

#[test]
fn a_field_left_out_is_an_error_and_not_a_shift_of_the_others() {
    #[derive(Serialize)]
    struct Sparse {
        a: u8,
        #[serde(skip_serializing_if = "Option::is_none")]
        b: Option<u8>,
    }
    assert_eq!(to_vec(&Sparse { a: 1, b: None }), Err(EncodeError::SkippedField { offset: 1, field: "b" }));
    assert_eq!(to_vec(&Sparse { a: 1, b: Some(2) }), Ok(vec![1, 0, 2]));
}

#[test]
fn types_that_need_a_self_describing_format_are_told_so() {
    #[derive(Debug, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        #[allow(dead_code, reason = "only ever refused")]
        Number(u8),
    }
    assert_eq!(
        from_slice::<(u8, Untagged)>(&[1, 2]).expect_err("untagged"),
        DecodeError::NotSelfDescribing { offset: 1, wanted: "a value of any type" }
    );
    assert_eq!(
        from_slice::<serde::de::IgnoredAny>(&[1]).expect_err("ignored"),
        DecodeError::NotSelfDescribing { offset: 0, wanted: "a value to ignore" }
    );
}

#[test]
fn trailing_bytes_are_an_error_of_the_whole_and_not_of_a_prefix() {
    assert_eq!(from_slice::<u16>(&[1, 0, 2]), Err(DecodeError::Trailing { offset: 2, count: 1 }));
    assert_eq!(from_prefix::<u16>(&[1, 0, 2]), Ok((1, 2)));
}

#[test]
fn a_sixteen_byte_request_for_2_to_the_60_elements_is_refused() {
    // Thallium dies of this one: it resizes the vector first.
    let mut request = count(1 << 60);
    request.extend([0; 8]);
    assert_eq!(request.len(), 16);
    let refused = DecodeError::Count { offset: 0, count: 1 << 60, remaining: 8 };
    assert_eq!(from_slice::<Vec<u8>>(&request), Err(refused.clone()));
    assert_eq!(from_slice::<Vec<u64>>(&request), Err(refused.clone()));
    assert_eq!(from_slice::<Vec<()>>(&request), Err(refused.clone()));
    assert_eq!(from_slice::<BTreeMap<u8, u8>>(&request), Err(refused));
    let refused = DecodeError::Truncated { offset: 8, needed: 1 << 60, remaining: 8 };
    assert_eq!(from_slice::<String>(&request), Err(refused.clone()));
    assert_eq!(from_slice::<Blob>(&request), Err(refused.clone()));
    assert_eq!(from_slice::<HgString>(&request), Err(refused));
}

#[test]
fn elements_without_bytes_are_limited_in_all() {
    let max = ZERO_SIZED_ELEMENTS_MAX as u64;
    golden(vec![(); 3], &count(3));
    assert_eq!(from_slice::<Vec<()>>(&count(max)).map(|v| v.len()), Ok(65_536));
    assert!(from_slice::<Vec<()>>(&count(max + 1)).is_err());
    assert!(from_slice::<BTreeMap<(), ()>>(&count(max)).is_ok());

    // The second list pays for what the first took, though its bytes would cover its count.
    let mut bytes = count(max);
    bytes.extend(count(100));
    bytes.extend([0; 100]);
    assert_eq!(from_prefix::<(Vec<()>, Vec<()>)>(&bytes), Err(DecodeError::ZeroSizedElements { offset: 16 }));
}

#[test]
fn many_short_lists_of_nothing_do_not_multiply() {
    // Each inner count is covered by the bytes behind it, but the lists share those.
    let lists = 20_000u64;
    let mut bytes = count(lists);
    for _ in 0..lists {
        bytes.extend(count(100_000));
    }
    assert!(matches!(from_slice::<Vec<Vec<()>>>(&bytes), Err(DecodeError::ZeroSizedElements { .. })));
}

#[test]
fn a_recursive_bomb_does_not_overflow_the_stack() {
    let bomb: Vec<u8> = [1, 0, 0, 0].repeat(1_000_000);
    assert_eq!(from_slice::<List>(&bomb), Err(DecodeError::TooDeep { offset: 4 * DEPTH_MAX as usize }));
}

#[test]
fn the_deepest_value_that_encodes_also_decodes() {
    fn list(levels: u32) -> List {
        (1..levels).fold(List::End, |rest, _| List::More(Box::new(rest)))
    }
    let deepest = list(DEPTH_MAX);
    let bytes = to_vec(&deepest).expect("encodes");
    assert_eq!(from_slice::<List>(&bytes), Ok(deepest));
    assert!(matches!(to_vec(&list(DEPTH_MAX + 1)), Err(EncodeError::TooDeep { .. })));
}

#[test]
fn a_type_that_has_no_end_is_refused() {
    #[derive(Debug, Deserialize)]
    struct Endless(#[allow(dead_code, reason = "never built")] Box<Endless>);
    assert_eq!(from_slice::<Endless>(&[]).expect_err("endless"), DecodeError::TooDeep { offset: 0 });
}

#[test]
fn siblings_do_not_add_to_the_depth() {
    let wide = vec![Some((1u8, Meters(1.0))); 1000];
    let bytes = to_vec(&wide).expect("encodes");
    assert_eq!(from_slice::<Vec<Option<(u8, Meters)>>>(&bytes), Ok(wide));
}

#[test]
fn the_format_is_not_human_readable() {
    // `IpAddr` is text in readable formats and an enum of octets in others.
    golden(std::net::IpAddr::from([127, 0, 0, 1]), &[0, 0, 0, 0, 127, 0, 0, 1]);
}
