//! As much of the protobuf wire format as reading tests takes: fields of a message, and fields added to one.

use crate::Result;

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Fields of a message in order.
pub(super) fn fields(mut bytes: &[u8]) -> Result<Vec<(u64, Value<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => Value::Bytes(take(&mut bytes, 8)?),
            2 => {
                let n = usize::try_from(varint(&mut bytes)?)?;
                Value::Bytes(take(&mut bytes, n)?)
            }
            5 => Value::Bytes(take(&mut bytes, 4)?),
            other => return Err(format!("wire type {other}").into()),
        };
        fields.push((key >> 3, value));
    }
    Ok(fields)
}

/// The messages or texts of one repeated field.
pub(super) fn all(bytes: &[u8], number: u64) -> Result<Vec<&[u8]>> {
    let is_wanted = |(n, value): (u64, Value<'_>)| n == number && matches!(value, Value::Bytes(_));
    let fields = fields(bytes)?;
    Ok(fields
        .into_iter()
        .filter(|field| is_wanted(*field))
        .filter_map(|(_, value)| if let Value::Bytes(bytes) = value { Some(bytes) } else { None })
        .collect())
}

/// The last message or text of a field.
pub(super) fn last(bytes: &[u8], number: u64) -> Result<Option<&[u8]>> {
    Ok(all(bytes, number)?.pop())
}

/// The text of a field, empty if it is absent.
pub(super) fn text(bytes: &[u8], number: u64) -> Result<String> {
    Ok(String::from_utf8(last(bytes, number)?.unwrap_or_default().to_vec())?)
}

/// The number of a field, 0 if it is absent.
pub(super) fn number(bytes: &[u8], number: u64) -> Result<u64> {
    let found = fields(bytes)?.into_iter().rev().find_map(|(n, value)| match value {
        Value::Number(x) if n == number => Some(x),
        Value::Number(_) | Value::Bytes(_) => None,
    });
    Ok(found.unwrap_or(0))
}

/// The numbers of a repeated field, packed or not.
pub(super) fn numbers(bytes: &[u8], number: u64) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for (_, value) in fields(bytes)?.into_iter().filter(|(n, _)| *n == number) {
        match value {
            Value::Number(n) => found.push(n),
            Value::Bytes(mut packed) => {
                while !packed.is_empty() {
                    found.push(varint(&mut packed)?);
                }
            }
        }
    }
    Ok(found)
}

/// Adds a message or text as another field.
pub(super) fn add(message: &mut Vec<u8>, number: u64, value: &[u8]) {
    push_varint(message, number << 3 | 2);
    push_varint(message, value.len() as u64);
    message.extend_from_slice(value);
}

/// A tag of a number field with its value.
#[cfg(test)]
pub(super) fn add_number(message: &mut Vec<u8>, number: u64, value: u64) {
    push_varint(message, number << 3);
    push_varint(message, value);
}

fn push_varint(message: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        message.push(n as u8 | 0x80);
        n >>= 7;
    }
    message.push(n as u8);
}

fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or("the message ends in a number")?;
        *bytes = rest;
        n |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(n);
        }
    }
    Err("a number of more than 64 bits".into())
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(n).ok_or("the message ends in a field")?;
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_read() {
        let mut message = Vec::new();
        add_number(&mut message, 3, 300);
        add(&mut message, 8, b"name");
        add(&mut message, 8, b"other");
        assert_eq!(number(&message, 3).unwrap(), 300);
        assert_eq!(text(&message, 8).unwrap(), "other");
        assert_eq!(all(&message, 8).unwrap(), [b"name".as_slice(), b"other"]);
        assert_eq!(numbers(&message, 3).unwrap(), [300]);
        assert_eq!(number(&message, 4).unwrap(), 0);
    }

    #[test]
    fn cut_messages_are_errors() {
        let mut message = Vec::new();
        add(&mut message, 8, b"name");
        for n in 1..message.len() {
            assert!(fields(&message[..n]).is_err(), "{n}");
        }
    }
}
