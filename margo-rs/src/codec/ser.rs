//! Values to bytes.

use std::fmt::{self, Write};

use serde::Serialize;
use serde::ser::{self, Serializer};

use super::DEPTH_MAX;
use super::error::EncodeError;
use super::hg_string::{self, HgStringEncoder};

/// Bytes of a length or count.
const COUNT_SIZE: usize = size_of::<u64>();

/// Appends the encoding of one value.
pub(super) struct Encoder<'o> {
    out: &'o mut Vec<u8>,
    /// Where the value starts in `out`; `start <= out.len()`.
    start: usize,
    /// Levels of nesting still allowed.
    depth: u32,
}

impl<'o> Encoder<'o> {
    #[inline]
    pub(super) fn new(out: &'o mut Vec<u8>) -> Self {
        let start = out.len();
        Encoder { out, start, depth: DEPTH_MAX }
    }

    /// How much of the value has been encoded.
    #[inline]
    pub(super) fn offset(&self) -> usize {
        self.out.len() - self.start
    }

    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    #[inline]
    pub(super) fn put_count(&mut self, count: usize) {
        self.put(&(count as u64).to_le_bytes());
    }

    #[inline]
    fn put_with_length(&mut self, bytes: &[u8]) {
        self.out.reserve(COUNT_SIZE + bytes.len());
        self.put_count(bytes.len());
        self.put(bytes);
    }

    /// Leaves room for a count that is not known yet, and says where.
    #[inline]
    fn reserve_count(&mut self) -> usize {
        let at = self.out.len();
        self.put_count(0);
        at
    }

    #[inline]
    fn patch_count(&mut self, at: usize, count: usize) {
        self.out[at..at + COUNT_SIZE].copy_from_slice(&(count as u64).to_le_bytes());
    }

    #[inline]
    fn enter(&mut self) -> Result<(), EncodeError> {
        match self.depth.checked_sub(1) {
            Some(depth) => {
                self.depth = depth;
                Ok(())
            }
            None => Err(self.too_deep()),
        }
    }

    #[inline]
    fn leave(&mut self) {
        self.depth += 1;
    }

    #[inline]
    fn nested<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        self.enter()?;
        value.serialize(&mut *self)?;
        self.leave();
        Ok(())
    }

    #[inline]
    fn counted(&mut self) -> Result<Counted<'_, 'o>, EncodeError> {
        self.enter()?;
        let count_at = self.reserve_count();
        Ok(Counted { encoder: self, count_at, count: 0 })
    }

    #[inline]
    fn members(&mut self) -> Result<Members<'_, 'o>, EncodeError> {
        self.enter()?;
        Ok(Members { encoder: self })
    }

    #[cold]
    fn too_deep(&self) -> EncodeError {
        EncodeError::TooDeep { offset: self.offset() }
    }
}

macro_rules! numbers {
    ($($method:ident($type:ty))*) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<(), EncodeError> {
            self.put(&value.to_le_bytes());
            Ok(())
        }
    )*};
}

impl<'e, 'o> Serializer for &'e mut Encoder<'o> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = Counted<'e, 'o>;
    type SerializeMap = Counted<'e, 'o>;
    type SerializeTuple = Members<'e, 'o>;
    type SerializeTupleStruct = Members<'e, 'o>;
    type SerializeTupleVariant = Members<'e, 'o>;
    type SerializeStruct = Members<'e, 'o>;
    type SerializeStructVariant = Members<'e, 'o>;

    numbers! {
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_u128(u128)
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
        serialize_f32(f32) serialize_f64(f64)
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), EncodeError> {
        self.serialize_u8(value as u8)
    }

    #[inline]
    fn serialize_char(self, value: char) -> Result<(), EncodeError> {
        self.serialize_u32(value as u32)
    }

    #[inline]
    fn serialize_str(self, text: &str) -> Result<(), EncodeError> {
        self.serialize_bytes(text.as_bytes())
    }

    #[inline]
    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.put_with_length(bytes);
        Ok(())
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<(), EncodeError> {
        let length_at = self.reserve_count();
        let text_at = self.out.len();
        write!(Text(self.out), "{value}").map_err(|_| ser::Error::custom("its Display implementation failed"))?;
        self.patch_count(length_at, self.out.len() - text_at);
        Ok(())
    }

    #[inline]
    fn serialize_none(self) -> Result<(), EncodeError> {
        self.serialize_u8(1)
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), EncodeError> {
        self.put(&[0]);
        self.nested(value)
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), EncodeError> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), EncodeError> {
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
    ) -> Result<(), EncodeError> {
        // A decoder cannot know that no field follows before it has entered the enum.
        self.enter()?;
        self.put(&index.to_le_bytes());
        self.leave();
        Ok(())
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<(), EncodeError> {
        if name == hg_string::NAME { value.serialize(HgStringEncoder(self)) } else { self.nested(value) }
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        self.put(&index.to_le_bytes());
        self.nested(value)
    }

    // A given length is not trusted: counting costs nothing, and a wrong one would corrupt
    // everything behind it.
    #[inline]
    fn serialize_seq(self, _len: Option<usize>) -> Result<Counted<'e, 'o>, EncodeError> {
        self.counted()
    }

    #[inline]
    fn serialize_map(self, _len: Option<usize>) -> Result<Counted<'e, 'o>, EncodeError> {
        self.counted()
    }

    #[inline]
    fn serialize_tuple(self, _len: usize) -> Result<Members<'e, 'o>, EncodeError> {
        self.members()
    }

    #[inline]
    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Members<'e, 'o>, EncodeError> {
        self.members()
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Members<'e, 'o>, EncodeError> {
        self.put(&index.to_le_bytes());
        self.members()
    }

    #[inline]
    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Members<'e, 'o>, EncodeError> {
        self.members()
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        _name: &'static str,
        index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Members<'e, 'o>, EncodeError> {
        self.put(&index.to_le_bytes());
        self.members()
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
}

/// A sequence or map; its count is written when the last element is known.
pub(super) struct Counted<'e, 'o> {
    encoder: &'e mut Encoder<'o>,
    count_at: usize,
    count: usize,
}

impl Counted<'_, '_> {
    #[inline]
    fn element<T: Serialize + ?Sized>(&mut self, element: &T) -> Result<(), EncodeError> {
        self.count += 1;
        element.serialize(&mut *self.encoder)
    }

    #[inline]
    fn finish(self) -> Result<(), EncodeError> {
        self.encoder.patch_count(self.count_at, self.count);
        self.encoder.leave();
        Ok(())
    }
}

impl ser::SerializeSeq for Counted<'_, '_> {
    type Ok = ();
    type Error = EncodeError;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, element: &T) -> Result<(), EncodeError> {
        self.element(element)
    }

    #[inline]
    fn end(self) -> Result<(), EncodeError> {
        self.finish()
    }
}

impl ser::SerializeMap for Counted<'_, '_> {
    type Ok = ();
    type Error = EncodeError;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), EncodeError> {
        self.element(key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        value.serialize(&mut *self.encoder)
    }

    #[inline]
    fn end(self) -> Result<(), EncodeError> {
        self.finish()
    }
}

/// A tuple or struct: its members and nothing else.
pub(super) struct Members<'e, 'o> {
    encoder: &'e mut Encoder<'o>,
}

macro_rules! members {
    ($($trait:ident::$method:ident($($name:ident)?) $($skip:ident)?;)*) => {$(
        impl ser::$trait for Members<'_, '_> {
            type Ok = ();
            type Error = EncodeError;

            #[inline]
            fn $method<T: Serialize + ?Sized>(
                &mut self,
                $($name: &'static str,)?
                value: &T,
            ) -> Result<(), EncodeError> {
                $(let _ = $name;)?
                value.serialize(&mut *self.encoder)
            }

            $(
                #[cold]
                fn $skip(&mut self, field: &'static str) -> Result<(), EncodeError> {
                    Err(EncodeError::SkippedField {
                        offset: self.encoder.offset(),
                        field,
                    })
                }
            )?

            #[inline]
            fn end(self) -> Result<(), EncodeError> {
                self.encoder.leave();
                Ok(())
            }
        }
    )*};
}

members! {
    SerializeTuple::serialize_element();
    SerializeTupleStruct::serialize_field();
    SerializeTupleVariant::serialize_field();
    SerializeStruct::serialize_field(key) skip_field;
    SerializeStructVariant::serialize_field(key) skip_field;
}

/// Appends formatted text without building a `String` of it.
struct Text<'a>(&'a mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
