//! The encoding of arguments and results: a serde format whose bytes are those of Margo and Thallium.
//!
//! A C peer reads them with the `hg_proc_*` function of the type, a C++ peer with Thallium's
//! serialisation (cereal). Nothing describes itself: both sides must mean the same type. All
//! numbers are little-endian, which is the native order of the machines Mochi runs on.
//!
//! | Rust                               | Bytes                                            | C (`hg_proc_…`)      | C++ (Thallium)            |
//! |------------------------------------|--------------------------------------------------|----------------------|---------------------------|
//! | `u8` … `u64`, `i8` … `i64`         | the number, without padding                      | `uint8_t` … `int64_t`| the same                  |
//! | `usize`, `isize`                   | 8 bytes                                          | `hg_size_t`          | `size_t`                  |
//! | `u128`, `i128`                     | 16 bytes                                         | `raw`                | –                         |
//! | `f32`, `f64`                       | IEEE 754                                         | `raw`                | `float`, `double`         |
//! | `bool`                             | `u8`, 0 or 1                                     | `hg_bool_t`          | `bool`                    |
//! | `char`                             | `u32`, a Unicode scalar value                    | `uint32_t`           | `char32_t`                |
//! | `String`, `&str`                   | `u64` length, UTF-8 without NUL                  | –                    | `std::string`             |
//! | [`HgString`]                       | `u64` length + 1, UTF-8, NUL, two `u8` flags; NULL is one `u64` 0 | `hg_string_t` | –                |
//! | `Vec<T>`, slices, sets             | `u64` count, elements                            | –                    | `std::vector<T>`, …       |
//! | [`Blob`], `&[u8]` when decoding    | `u64` length, bytes                              | –                    | `std::vector<uint8_t>`, also binary `std::string` |
//! | maps                               | `u64` count, key, value, key, …                  | –                    | `std::map`, …             |
//! | `[T; N]`, [`Bytes<N>`](Bytes)      | elements                                         | `raw`                | `std::array<T, N>`        |
//! | tuples, structs                    | members in order                                 | `MERCURY_GEN_PROC`   | `std::tuple`, `serialize` |
//! | `()`, unit structs                 | nothing                                          | `void`               | nothing                   |
//! | `Option<T>`                        | `u8` 1 for `None`; 0, value for `Some`           | –                    | `std::optional<T>`        |
//! | enums                              | `u32` index of the variant, its fields           | C enum (no fields)   | –                         |
//!
//! Variants count from 0 in the order they are written, whatever `= value` says. Fields have no
//! names here, so `skip_serializing_if`, `flatten`, `untagged` and `tag` do not work and say so.
//!
//! # Limits
//!
//! Bytes to decode may come from anyone. Decoding is bounded by their number: it reads nothing
//! beyond them, never panics, and no count a peer wrote makes it allocate or loop before
//! it was compared with the bytes that follow. [`DEPTH_MAX`] and [`ZERO_SIZED_ELEMENTS_MAX`] bound
//! what costs the sender nothing.
//!
//! Decoded values can be larger than their bytes: a `Vec<T>` takes `size_of::<T>()` for each
//! element, and an element takes at least one byte. Who accepts large messages of such types should
//! limit the message.

mod bytes;
mod de;
mod error;
mod hg_string;
mod ser;
#[cfg(test)]
mod tests;

pub use bytes::{Blob, Bytes};
pub use error::{DecodeError, EncodeError};
pub use hg_string::HgString;

use serde::{Deserialize, Serialize};

/// How deeply values may nest; recursive types would overflow the stack otherwise.
///
/// Every sequence, map, tuple, struct, enum and present option is a level.
pub const DEPTH_MAX: u32 = 128;

/// How many elements without bytes, such as those of a `Vec<()>`, one message may hold in all.
///
/// Their count costs its sender nothing, so the bytes received do not bound it.
pub const ZERO_SIZED_ELEMENTS_MAX: usize = 65_536;

/// Encodes `value` into a new vector.
///
/// # Errors
///
/// When the value has no encoding; see [`EncodeError`].
#[inline]
pub fn to_vec<T>(value: &T) -> Result<Vec<u8>, EncodeError>
where
    T: Serialize + ?Sized,
{
    /// Up to here the size in memory is a guess at the encoded size that costs nothing.
    const FIRST_CAPACITY_MAX: usize = 4096;

    let mut out = Vec::with_capacity(size_of_val(value).min(FIRST_CAPACITY_MAX));
    encode_into(value, &mut out)?;
    Ok(out)
}

/// Encodes `value` behind what `out` already holds.
///
/// # Errors
///
/// When the value has no encoding; `out` then holds what it held before.
#[inline]
pub fn encode_into<T>(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError>
where
    T: Serialize + ?Sized,
{
    let start = out.len();
    let mut encoder = ser::Encoder::new(out);
    match value.serialize(&mut encoder) {
        Ok(()) => Ok(()),
        Err(error) => {
            let error = error.placed(encoder.offset());
            out.truncate(start);
            Err(error)
        }
    }
}

/// Decodes a value that takes all of `bytes`.
///
/// `&str`, `&[u8]` and `Cow` fields that borrow do so from `bytes`; nothing is copied for them.
///
/// # Errors
///
/// When `bytes` is not exactly one such value; see [`DecodeError`].
#[inline]
pub fn from_slice<'de, T>(bytes: &'de [u8]) -> Result<T, DecodeError>
where
    T: Deserialize<'de>,
{
    let (value, consumed) = from_prefix(bytes)?;
    match bytes.len() - consumed {
        0 => Ok(value),
        count => Err(DecodeError::Trailing { offset: consumed, count }),
    }
}

/// Decodes a value that `bytes` starts with, and says how many bytes it took.
///
/// # Errors
///
/// When `bytes` does not start with such a value; see [`DecodeError`].
#[inline]
pub fn from_prefix<'de, T>(bytes: &'de [u8]) -> Result<(T, usize), DecodeError>
where
    T: Deserialize<'de>,
{
    let mut decoder = de::Decoder::new(bytes);
    match T::deserialize(&mut decoder) {
        Ok(value) => Ok((value, decoder.offset())),
        Err(error) => Err(error.placed(decoder.offset())),
    }
}
