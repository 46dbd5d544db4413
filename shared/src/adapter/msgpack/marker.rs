//! Values after a marker of msgpack: lengths, bytes, texts and numbers.

use std::borrow::Cow;

use rmp::Marker;

use super::MsgpackError;

/// The number of entries or bytes that a marker announces; never more than the input could hold.
pub(in crate::adapter) fn length(marker: Marker, input: &mut &[u8]) -> Result<usize, MsgpackError> {
    let length = match marker {
        Marker::FixArray(n) | Marker::FixMap(n) | Marker::FixStr(n) => usize::from(n),
        Marker::Str8 | Marker::Bin8 | Marker::Ext8 => usize::from(read(input, u8::from_be_bytes)?),
        Marker::Array16 | Marker::Map16 | Marker::Str16 | Marker::Bin16 | Marker::Ext16 => {
            usize::from(read(input, u16::from_be_bytes)?)
        }
        Marker::Array32 | Marker::Map32 | Marker::Str32 | Marker::Bin32 | Marker::Ext32 => {
            usize::try_from(read(input, u32::from_be_bytes)?).map_err(|_| MsgpackError::Malformed)?
        }
        Marker::FixExt1 => 1,
        Marker::FixExt2 => 2,
        Marker::FixExt4 => 4,
        Marker::FixExt8 => 8,
        Marker::FixExt16 => 16,
        _ => return Err(MsgpackError::Malformed),
    };
    if length <= input.len() { Ok(length) } else { Err(MsgpackError::Malformed) }
}

fn read<const N: usize, T>(input: &mut &[u8], from: impl FnOnce([u8; N]) -> T) -> Result<T, MsgpackError> {
    let (head, rest) = input.split_first_chunk::<N>().ok_or(MsgpackError::Malformed)?;
    *input = rest;
    Ok(from(*head))
}

pub(in crate::adapter) fn take<'a>(input: &mut &'a [u8], length: usize) -> Result<&'a [u8], MsgpackError> {
    let (head, rest) = input.split_at_checked(length).ok_or(MsgpackError::Malformed)?;
    *input = rest;
    Ok(head)
}

/// The text after a string's marker; invalid UTF-8 is replaced, as in JavaScript.
pub(in crate::adapter) fn text<'a>(
    marker: Marker,
    input: &mut &'a [u8],
) -> Result<Cow<'a, str>, MsgpackError> {
    let length = length(marker, input)?;
    let bytes = take(input, length)?;
    Ok(simdutf8::basic::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed))
}

/// The floating-point number after a marker.
pub(in crate::adapter) fn float(marker: Marker, input: &mut &[u8]) -> Result<f64, MsgpackError> {
    match marker {
        Marker::F32 => read(input, u32::from_be_bytes).map(|bits| f64::from(f32::from_bits(bits))),
        Marker::F64 => read(input, u64::from_be_bytes).map(f64::from_bits),
        _ => Err(MsgpackError::Malformed),
    }
}

/// The integer after a marker, in decimal.
pub(in crate::adapter) fn integer(marker: Marker, input: &mut &[u8]) -> Result<String, MsgpackError> {
    Ok(match marker {
        Marker::FixPos(n) => n.to_string(),
        Marker::FixNeg(n) => n.to_string(),
        Marker::U8 => read(input, u8::from_be_bytes)?.to_string(),
        Marker::U16 => read(input, u16::from_be_bytes)?.to_string(),
        Marker::U32 => read(input, u32::from_be_bytes)?.to_string(),
        Marker::U64 => read(input, u64::from_be_bytes)?.to_string(),
        Marker::I8 => read(input, i8::from_be_bytes)?.to_string(),
        Marker::I16 => read(input, i16::from_be_bytes)?.to_string(),
        Marker::I32 => read(input, i32::from_be_bytes)?.to_string(),
        Marker::I64 => read(input, i64::from_be_bytes)?.to_string(),
        _ => return Err(MsgpackError::Malformed),
    })
}
