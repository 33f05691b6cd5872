//! Mercury's C strings.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::ser::{Error as _, Impossible};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::EncodeError;
use super::ser::Encoder;

/// Tells the codec that a newtype struct is a C string.
pub(super) const NAME: &str = "$margo::HgString";

/// A string as C peers send it (`hg_string_t`, `hg_const_string_t`): text, or NULL.
///
/// Use it only where the other side is C. Thallium's `std::string` is a plain `String`.
/// In self-describing formats such as JSON it is a string or null.
///
/// Text is UTF-8 here, and anything else from a peer is an error. Text with a NUL inside can be
/// held but not encoded.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HgString(Option<String>);

impl HgString {
    /// The NULL pointer, which is not the empty string.
    pub const NULL: HgString = HgString(None);

    /// Holds `text`.
    pub fn new(text: impl Into<String>) -> HgString {
        HgString(Some(text.into()))
    }

    /// The text, unless it is NULL.
    pub fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The text, unless it is NULL.
    pub fn into_string(self) -> Option<String> {
        self.0
    }

    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        self.0.is_none()
    }
}

impl From<&str> for HgString {
    fn from(text: &str) -> HgString {
        HgString::new(text)
    }
}

impl From<String> for HgString {
    fn from(text: String) -> HgString {
        HgString::new(text)
    }
}

impl From<Option<String>> for HgString {
    fn from(text: Option<String>) -> HgString {
        HgString(text)
    }
}

impl From<HgString> for Option<String> {
    fn from(text: HgString) -> Option<String> {
        text.0
    }
}

impl PartialEq<str> for HgString {
    fn eq(&self, text: &str) -> bool {
        self.as_str() == Some(text)
    }
}

impl PartialEq<&str> for HgString {
    fn eq(&self, text: &&str) -> bool {
        self == *text
    }
}

/// The text; `(null)` for NULL, as C prints it.
impl fmt::Display for HgString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str().unwrap_or("(null)"))
    }
}

impl fmt::Debug for HgString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(text) => fmt::Debug::fmt(text, f),
            None => f.write_str("NULL"),
        }
    }
}

impl Serialize for HgString {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(NAME, &self.0)
    }
}

impl<'de> Deserialize<'de> for HgString {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HgString, D::Error> {
        deserializer.deserialize_newtype_struct(NAME, HgStringVisitor)
    }
}

struct HgStringVisitor;

impl<'de> Visitor<'de> for HgStringVisitor {
    type Value = HgString;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or null")
    }

    #[inline]
    fn visit_str<E: Error>(self, text: &str) -> Result<HgString, E> {
        Ok(HgString::new(text))
    }

    #[inline]
    fn visit_none<E: Error>(self) -> Result<HgString, E> {
        Ok(HgString::NULL)
    }

    // The way in from other formats.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<HgString, D::Error> {
        Option::deserialize(inner).map(HgString)
    }
}

/// Encodes the `Option<str>` within an [`HgString`] and refuses anything else.
pub(super) struct HgStringEncoder<'e, 'o>(pub(super) &'e mut Encoder<'o>);

impl HgStringEncoder<'_, '_> {
    #[cold]
    fn refuse<T>(self) -> Result<T, EncodeError> {
        Err(EncodeError::custom(format_args!("the name {NAME:?} is reserved for strings")))
    }
}

macro_rules! refuse {
    ($($method:ident $(<$generic:ident>)? ($($argument:ty),*) -> $ok:ty;)*) => {$(
        fn $method $(<$generic: Serialize + ?Sized>)? (self $(, _: $argument)*) -> Result<$ok, EncodeError> {
            self.refuse()
        }
    )*};
}

impl Serializer for HgStringEncoder<'_, '_> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = Impossible<(), EncodeError>;
    type SerializeMap = Impossible<(), EncodeError>;
    type SerializeTuple = Impossible<(), EncodeError>;
    type SerializeTupleStruct = Impossible<(), EncodeError>;
    type SerializeTupleVariant = Impossible<(), EncodeError>;
    type SerializeStruct = Impossible<(), EncodeError>;
    type SerializeStructVariant = Impossible<(), EncodeError>;

    #[inline]
    fn serialize_none(self) -> Result<(), EncodeError> {
        self.0.put_count(0);
        Ok(())
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, text: &T) -> Result<(), EncodeError> {
        text.serialize(self)
    }

    fn serialize_str(self, text: &str) -> Result<(), EncodeError> {
        if let Some(index) = text.bytes().position(|byte| byte == 0) {
            return Err(EncodeError::InteriorNul { offset: self.0.offset(), index });
        }
        // The flags of a `hg_string_t`; what the receiver allocates is its own matter.
        const NUL_IS_CONST_IS_OWNED: [u8; 3] = [0, 0, 0];
        self.0.put_count(text.len() + 1);
        self.0.put(text.as_bytes());
        self.0.put(&NUL_IS_CONST_IS_OWNED);
        Ok(())
    }

    refuse! {
        serialize_bool(bool) -> ();
        serialize_u8(u8) -> ();
        serialize_u16(u16) -> ();
        serialize_u32(u32) -> ();
        serialize_u64(u64) -> ();
        serialize_i8(i8) -> ();
        serialize_i16(i16) -> ();
        serialize_i32(i32) -> ();
        serialize_i64(i64) -> ();
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
        serialize_char(char) -> ();
        serialize_bytes(&[u8]) -> ();
        serialize_unit() -> ();
        serialize_unit_struct(&'static str) -> ();
        serialize_unit_variant(&'static str, u32, &'static str) -> ();
        serialize_newtype_struct<T>(&'static str, &T) -> ();
        serialize_newtype_variant<T>(&'static str, u32, &'static str, &T) -> ();
        serialize_seq(Option<usize>) -> Self::SerializeSeq;
        serialize_map(Option<usize>) -> Self::SerializeMap;
        serialize_tuple(usize) -> Self::SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant;
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant;
    }
}
