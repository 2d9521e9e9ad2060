//! Encoding of message bodies: little-endian, no padding, lengths before variable parts.
//!
//! # Invariants
//! - Decoding is total: any bytes give a value or a [`DecodeError`], never a panic, and never an allocation larger
//!   than the bytes at hand justify (`tests/fuzz.rs`).
//! - A decoded body is consumed wholly; trailing bytes are an error, so a field cannot be lost unnoticed.
//!
//! Deliberately absent: self-description and optional fields. A message changes by a new operation number.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::ids::{ChunkIndex, ClientId, InodeId, Partition, ServerId};

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The body ends before the field does.
    #[error("message ends in the middle of a field")]
    Short,
    /// Bytes are left after the last field.
    #[error("{0} bytes after the end of the message")]
    Trailing(usize),
    /// A field has a value outside its range.
    #[error("field {0} has an invalid value")]
    Invalid(&'static str),
}

/// Reads fields off the front of a body.
pub struct Reader {
    body: Bytes,
}

impl Reader {
    /// A reader over `body`.
    pub fn new(body: Bytes) -> Self {
        Reader { body }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.body.len()
    }

    /// Takes `len` bytes, by reference to the body's buffer.
    pub fn take(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        if len > self.body.len() {
            return Err(DecodeError::Short);
        }
        Ok(self.body.split_to(len))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((head, _)) = self.body.split_first_chunk::<N>() else {
            return Err(DecodeError::Short);
        };
        let head = *head;
        let _ = self.body.split_to(N);
        Ok(head)
    }

    /// Ends the reading: an error unless everything was consumed.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.body.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

/// A value with a wire form.
pub trait Wire: Sized {
    /// Appends the wire form.
    fn put(&self, out: &mut BytesMut);
    /// Reads the wire form.
    fn get(from: &mut Reader) -> Result<Self, DecodeError>;

    /// The wire form as a buffer of its own.
    fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(128);
        self.put(&mut out);
        out.freeze()
    }

    /// Decodes a whole body.
    fn from_bytes(body: Bytes) -> Result<Self, DecodeError> {
        let mut from = Reader::new(body);
        let value = Self::get(&mut from)?;
        from.finish()?;
        Ok(value)
    }
}

macro_rules! wire_int {
    ($($t:ty => $put:ident),*) => {$(
        impl Wire for $t {
            fn put(&self, out: &mut BytesMut) {
                out.$put(*self);
            }
            fn get(from: &mut Reader) -> Result<Self, DecodeError> {
                from.array().map(<$t>::from_le_bytes)
            }
        }
    )*};
}
wire_int!(u8 => put_u8, u16 => put_u16_le, u32 => put_u32_le, u64 => put_u64_le, i32 => put_i32_le, i64 => put_i64_le);

macro_rules! wire_newtype {
    ($($t:ident),*) => {$(
        impl Wire for $t {
            fn put(&self, out: &mut BytesMut) {
                self.0.put(out);
            }
            fn get(from: &mut Reader) -> Result<Self, DecodeError> {
                Ok($t(Wire::get(from)?))
            }
        }
    )*};
}
wire_newtype!(InodeId, Partition, ServerId, ClientId, ChunkIndex);

impl Wire for bool {
    fn put(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }
    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        match u8::get(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid("bool")),
        }
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut BytesMut) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        Ok(if bool::get(from)? { Some(T::get(from)?) } else { None })
    }
}

/// Byte strings: u32 length, then the bytes. Shares the body's buffer when decoded.
impl Wire for Bytes {
    fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(self.len() as u32);
        out.put_slice(self);
    }
    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        let len = u32::get(from)? as usize;
        from.take(len)
    }
}

impl Wire for String {
    fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(self.len() as u32);
        out.put_slice(self.as_bytes());
    }
    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        let raw = Bytes::get(from)?;
        std::str::from_utf8(&raw).map(str::to_owned).map_err(|_| DecodeError::Invalid("utf-8 string"))
    }
}

/// Lists: u32 count, then the items.
impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(self.len() as u32);
        for item in self {
            item.put(out);
        }
    }
    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        let count = u32::get(from)? as usize;
        // Every item takes at least a byte: a longer count is a lie, and nothing is allocated for it.
        if count > from.remaining() {
            return Err(DecodeError::Short);
        }
        (0..count).map(|_| T::get(from)).collect()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut BytesMut) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        Ok((A::get(from)?, B::get(from)?))
    }
}

impl Wire for () {
    fn put(&self, _: &mut BytesMut) {}
    fn get(_: &mut Reader) -> Result<Self, DecodeError> {
        Ok(())
    }
}

/// Declares a struct whose wire form is its fields in the order written.
macro_rules! wire_struct {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $ty:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty),* }
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut bytes::BytesMut) {
                let _ = &out;
                $($crate::wire::Wire::put(&self.$field, out);)*
            }
            fn get(from: &mut $crate::wire::Reader) -> Result<Self, $crate::wire::DecodeError> {
                let _ = &from;
                Ok($name { $($field: $crate::wire::Wire::get(from)?),* })
            }
        }
    };
}

/// Declares an enum whose wire form is a number of fixed value. Numbers are never changed or used again.
macro_rules! wire_enum {
    ($(#[$meta:meta])* pub enum $name:ident : $repr:ty { $($(#[$vmeta:meta])* $variant:ident = $value:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr($repr)]
        pub enum $name { $($(#[$vmeta])* $variant = $value),* }
        impl $name {
            /// Every variant, in the order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            /// The variant with this number.
            pub fn from_number(number: $repr) -> Option<Self> {
                match number { $($value => Some($name::$variant),)* _ => None }
            }
        }
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut bytes::BytesMut) {
                $crate::wire::Wire::put(&(*self as $repr), out);
            }
            fn get(from: &mut $crate::wire::Reader) -> Result<Self, $crate::wire::DecodeError> {
                let number = <$repr as $crate::wire::Wire>::get(from)?;
                $name::from_number(number).ok_or($crate::wire::DecodeError::Invalid(stringify!($name)))
            }
        }
    };
}

/// Declares a sum type: a u8 tag of fixed value, then the fields of the variant.
macro_rules! wire_union {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $tag:literal { $($(#[$fmeta:meta])* $field:ident: $ty:ty),* $(,)? }),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs)] // A variant's text explains its fields.
        pub enum $name { $($(#[$vmeta])* $variant { $($(#[$fmeta])* $field: $ty),* }),* }
        impl $crate::wire::Wire for $name {
            fn put(&self, out: &mut bytes::BytesMut) {
                match self {
                    $($name::$variant { $($field),* } => {
                        $crate::wire::Wire::put(&($tag as u8), out);
                        $($crate::wire::Wire::put($field, out);)*
                    })*
                }
            }
            fn get(from: &mut $crate::wire::Reader) -> Result<Self, $crate::wire::DecodeError> {
                match <u8 as $crate::wire::Wire>::get(from)? {
                    $($tag => Ok($name::$variant { $($field: $crate::wire::Wire::get(from)?),* }),)*
                    _ => Err($crate::wire::DecodeError::Invalid(stringify!($name))),
                }
            }
        }
    };
}

pub(crate) use {wire_enum, wire_struct, wire_union};
