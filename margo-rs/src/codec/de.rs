//! Bytes to values.

mod access;

use self::access::{Elements, Entries, Members};
use serde::de::{Deserializer, Visitor};

use super::error::DecodeError;
use super::{DEPTH_MAX, ZERO_SIZED_ELEMENTS_MAX, bytes, hg_string};

/// Reads one value off the front of a slice.
pub(super) struct Decoder<'de> {
    /// What has not been read; a suffix of what was given.
    input: &'de [u8],
    /// How much was given; `input.len() <= total`.
    total: usize,
    /// Levels of nesting still allowed.
    depth: u32,
    /// Elements without bytes still allowed.
    zero_sized: usize,
}

impl<'de> Decoder<'de> {
    #[inline]
    pub(super) fn new(input: &'de [u8]) -> Self {
        Decoder { input, total: input.len(), depth: DEPTH_MAX, zero_sized: ZERO_SIZED_ELEMENTS_MAX }
    }

    /// How much has been read.
    #[inline]
    pub(super) fn offset(&self) -> usize {
        self.total - self.input.len()
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.input.split_first_chunk() {
            Some((array, rest)) => {
                self.input = rest;
                Ok(*array)
            }
            None => Err(self.truncated(N as u64)),
        }
    }

    #[inline]
    fn slice(&mut self, len: u64) -> Result<&'de [u8], DecodeError> {
        let split = usize::try_from(len).ok().and_then(|len| self.input.split_at_checked(len));
        match split {
            Some((slice, rest)) => {
                self.input = rest;
                Ok(slice)
            }
            None => Err(self.truncated(len)),
        }
    }

    #[inline]
    fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    #[inline]
    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [value] => Err(self.bad_flag(value)),
        }
    }

    /// A `u64` length and that many bytes.
    #[inline]
    fn bytes(&mut self) -> Result<&'de [u8], DecodeError> {
        let len = self.u64()?;
        self.slice(len)
    }

    #[inline]
    fn text(&mut self) -> Result<&'de str, DecodeError> {
        let bytes = self.bytes()?;
        self.utf8(bytes)
    }

    /// Checks bytes just read.
    #[inline]
    fn utf8(&self, bytes: &'de [u8]) -> Result<&'de str, DecodeError> {
        str::from_utf8(bytes).map_err(|source| DecodeError::Utf8 { offset: self.offset() - bytes.len(), source })
    }

    fn hg_string(&mut self) -> Result<Option<&'de str>, DecodeError> {
        let len = self.u64()?;
        if len == 0 {
            return Ok(None);
        }
        let offset = self.offset();
        let text = match self.slice(len)?.split_last() {
            Some((0, text)) if !text.contains(&0) => text,
            _ => return Err(DecodeError::Nul { offset }),
        };
        let text = str::from_utf8(text).map_err(|source| DecodeError::Utf8 { offset, source })?;
        // How the sender held its string; means nothing here.
        let _is_const = self.flag()?;
        let _is_owned = self.flag()?;
        Ok(Some(text))
    }

    /// A count of elements that the rest of the input could hold.
    #[inline]
    fn count(&mut self) -> Result<usize, DecodeError> {
        let count = self.u64()?;
        if count <= (self.input.len() + self.zero_sized) as u64 {
            Ok(count as usize)
        } else {
            Err(self.bad_count(count))
        }
    }

    /// Charges an element that started with `remaining` bytes to go and has been read.
    #[inline]
    fn charge_element(&mut self, remaining: usize) -> Result<(), DecodeError> {
        if self.input.len() == remaining {
            match self.zero_sized.checked_sub(1) {
                Some(left) => self.zero_sized = left,
                None => {
                    return Err(DecodeError::ZeroSizedElements { offset: self.offset() });
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, DecodeError>) -> Result<T, DecodeError> {
        match self.depth.checked_sub(1) {
            Some(depth) => self.depth = depth,
            None => return Err(self.too_deep()),
        }
        let value = read(self)?;
        self.depth += 1;
        Ok(value)
    }

    #[inline]
    fn elements<V: Visitor<'de>>(&mut self, left: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.nested(|decoder| {
            let mut elements = Elements::new(decoder, left);
            let value = visitor.visit_seq(&mut elements)?;
            elements.finish()?;
            Ok(value)
        })
    }

    #[inline]
    fn members<V: Visitor<'de>>(&mut self, left: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.nested(|decoder| visitor.visit_seq(Members::new(decoder, left)))
    }

    #[cold]
    fn truncated(&self, needed: u64) -> DecodeError {
        DecodeError::Truncated { offset: self.offset(), needed, remaining: self.input.len() }
    }

    #[cold]
    fn bad_flag(&self, value: u8) -> DecodeError {
        DecodeError::Flag { offset: self.offset() - 1, value }
    }

    #[cold]
    fn bad_count(&self, count: u64) -> DecodeError {
        DecodeError::Count { offset: self.offset() - size_of::<u64>(), count, remaining: self.input.len() }
    }

    #[cold]
    fn too_deep(&self) -> DecodeError {
        DecodeError::TooDeep { offset: self.offset() }
    }

    #[cold]
    fn not_self_describing(&self, wanted: &'static str) -> DecodeError {
        DecodeError::NotSelfDescribing { offset: self.offset(), wanted }
    }
}

macro_rules! numbers {
    ($($method:ident => $visit:ident($type:ty))*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit(<$type>::from_le_bytes(self.array()?))
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Decoder<'de> {
    type Error = DecodeError;

    numbers! {
        deserialize_u8 => visit_u8(u8)
        deserialize_u16 => visit_u16(u16)
        deserialize_u32 => visit_u32(u32)
        deserialize_u64 => visit_u64(u64)
        deserialize_u128 => visit_u128(u128)
        deserialize_i8 => visit_i8(i8)
        deserialize_i16 => visit_i16(i16)
        deserialize_i32 => visit_i32(i32)
        deserialize_i64 => visit_i64(i64)
        deserialize_i128 => visit_i128(i128)
        deserialize_f32 => visit_f32(f32)
        deserialize_f64 => visit_f64(f64)
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_bool(self.flag()?)
    }

    #[inline]
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let offset = self.offset();
        let value = u32::from_le_bytes(self.array()?);
        match char::from_u32(value) {
            Some(char) => visitor.visit_char(char),
            None => Err(DecodeError::Char { offset, value }),
        }
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_str(self.text()?)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    #[inline]
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_bytes(self.bytes()?)
    }

    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_bytes(visitor)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.flag()? { visitor.visit_none() } else { self.nested(|decoder| visitor.visit_some(decoder)) }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name == hg_string::NAME {
            match self.hg_string()? {
                Some(text) => visitor.visit_borrowed_str(text),
                None => visitor.visit_none(),
            }
        } else {
            self.nested(|decoder| visitor.visit_newtype_struct(decoder))
        }
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let count = self.count()?;
        self.elements(count, visitor)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.members(len, visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name == bytes::NAME {
            visitor.visit_borrowed_bytes(self.slice(len as u64)?)
        } else {
            self.members(len, visitor)
        }
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.members(fields.len(), visitor)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let count = self.count()?;
        self.nested(|decoder| {
            let mut entries = Entries::new(decoder, count);
            let value = visitor.visit_map(&mut entries)?;
            entries.finish()?;
            Ok(value)
        })
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.nested(|decoder| visitor.visit_enum(decoder))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
        Err(self.not_self_describing("the name of a field"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
        Err(self.not_self_describing("a value of any type"))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
        Err(self.not_self_describing("a value to ignore"))
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
}
