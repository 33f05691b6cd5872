//! What a value is made of, one after the other.

use super::super::error::DecodeError;
use super::Decoder;
use serde::de::value::U32Deserializer;
use serde::de::{
    DeserializeSeed, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

/// How many are not read yet.
struct Left(usize);

impl Left {
    /// Counts one as read. `false` if there is none.
    #[inline]
    fn take_one(&mut self) -> bool {
        let left = self.0.checked_sub(1);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }

    /// A visitor that stopped early would have the rest taken for what comes next.
    #[inline]
    fn must_be_none(&self) -> Result<(), DecodeError> {
        match self.0 {
            0 => Ok(()),
            left => Err(unread(left)),
        }
    }
}

/// The elements of a sequence. `left` was compared with the input.
pub(super) struct Elements<'d, 'de> {
    decoder: &'d mut Decoder<'de>,
    left: Left,
}

impl<'d, 'de> Elements<'d, 'de> {
    #[inline]
    pub(super) fn new(decoder: &'d mut Decoder<'de>, count: usize) -> Self {
        Self { decoder, left: Left(count) }
    }

    #[inline]
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        self.left.must_be_none()
    }
}

impl<'de> SeqAccess<'de> for &mut Elements<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        if !self.left.take_one() {
            return Ok(None);
        }
        let remaining = self.decoder.input.len();
        let element = seed.deserialize(&mut *self.decoder)?;
        self.decoder.charge_element(remaining)?;
        Ok(Some(element))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left.0)
    }
}

/// The members of a tuple or struct, as many as the type has.
pub(super) struct Members<'d, 'de> {
    decoder: &'d mut Decoder<'de>,
    left: Left,
}

impl<'d, 'de> Members<'d, 'de> {
    #[inline]
    pub(super) fn new(decoder: &'d mut Decoder<'de>, count: usize) -> Self {
        Self { decoder, left: Left(count) }
    }
}

impl<'de> SeqAccess<'de> for Members<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        if !self.left.take_one() {
            return Ok(None);
        }
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left.0)
    }
}

/// The entries of a map. `left` was compared with the input.
pub(super) struct Entries<'d, 'de> {
    decoder: &'d mut Decoder<'de>,
    left: Left,
    /// How much input there was before the key last read.
    remaining: usize,
}

impl<'d, 'de> Entries<'d, 'de> {
    #[inline]
    pub(super) fn new(decoder: &'d mut Decoder<'de>, count: usize) -> Self {
        Self { remaining: decoder.input.len(), decoder, left: Left(count) }
    }

    #[inline]
    pub(super) fn finish(&self) -> Result<(), DecodeError> {
        self.left.must_be_none()
    }
}

impl<'de> MapAccess<'de> for &mut Entries<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        if !self.left.take_one() {
            return Ok(None);
        }
        self.remaining = self.decoder.input.len();
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let value = seed.deserialize(&mut *self.decoder)?;
        self.decoder.charge_element(self.remaining)?;
        Ok(value)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left.0)
    }
}

impl<'de> EnumAccess<'de> for &mut Decoder<'de> {
    type Error = DecodeError;
    type Variant = Self;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DecodeError> {
        let offset = self.offset();
        let index: U32Deserializer<DecodeError> = u32::from_le_bytes(self.array()?).into_deserializer();
        match seed.deserialize(index) {
            Ok(variant) => Ok((variant, self)),
            Err(error) => Err(error.placed(offset)),
        }
    }
}

impl<'de> VariantAccess<'de> for &mut Decoder<'de> {
    type Error = DecodeError;

    #[inline]
    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        seed.deserialize(self)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_seq(Members::new(self, len))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.tuple_variant(fields.len(), visitor)
    }
}

#[cold]
fn unread(left: usize) -> DecodeError {
    DecodeError::custom(format_args!("{left} elements more than the type takes"))
}
