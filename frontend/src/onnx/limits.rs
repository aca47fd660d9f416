//! How many messages a file holds, before any of them is decoded.
//!
//! A message of two bytes decodes to hundreds. Counting first keeps the memory of an import in proportion to the file.

use std::ops::Range;

/// A message type, as far as it holds other messages in number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    Type,
    Other,
}

impl Kind {
    /// The type of the length-delimited field of this number, or `None` if it is no message.
    fn field(self, number: u64) -> Option<Kind> {
        Some(match (self, number) {
            (Kind::Model, 7) => Kind::Graph,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Model, 8 | 14 | 20 | 26) => Kind::Other,
            (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
            (Kind::Graph, 5 | 11 | 12 | 13 | 14 | 15 | 16) => Kind::Other,
            (Kind::Function, 11) | (Kind::Node, 5) => Kind::Attribute,
            (Kind::Function, 9 | 12 | 14) | (Kind::Node, 9 | 10) => Kind::Other,
            (Kind::Attribute, 6 | 11) => Kind::Graph,
            (Kind::Attribute, 14 | 15) => Kind::Type,
            (Kind::Attribute, 5 | 10 | 22 | 23) => Kind::Other,
            (Kind::Type, 1 | 4 | 5 | 8 | 9) => Kind::Type,
            _ => return None,
        })
    }
}

/// The number of messages in an encoded model. Bytes that are no message are counted as far as they can be read; the
/// decoder reports them.
pub(crate) fn count_messages(bytes: &[u8]) -> u64 {
    let mut open = vec![(Kind::Model, 0..bytes.len())];
    let mut count = 0;
    while let Some((kind, range)) = open.pop() {
        let mut at = range.start;
        while let Some((number, wire, next)) = tag(bytes, at, range.end) {
            let Some((content, next)) = value(bytes, wire, next, range.end) else { break };
            at = next;
            if let Some(content) = content
                && let Some(inner) = kind.field(number)
            {
                count += 1;
                if inner != Kind::Other {
                    open.push((inner, content));
                }
            }
        }
    }
    count
}

/// Field number, wire type and the position after the tag.
fn tag(bytes: &[u8], at: usize, end: usize) -> Option<(u64, u64, usize)> {
    let (tag, next) = varint(bytes, at, end)?;
    Some((tag >> 3, tag & 7, next))
}

/// The content of a length-delimited field, and the position after the field.
fn value(bytes: &[u8], wire: u64, at: usize, end: usize) -> Option<(Option<Range<usize>>, usize)> {
    let skip = |n: usize| at.checked_add(n).filter(|next| *next <= end).map(|next| (None, next));
    match wire {
        0 => varint(bytes, at, end).map(|(_, next)| (None, next)),
        1 => skip(8),
        5 => skip(4),
        2 => {
            let (len, start) = varint(bytes, at, end)?;
            let stop =
                usize::try_from(len).ok().and_then(|n| start.checked_add(n)).filter(|stop| *stop <= end)?;
            Some((Some(start..stop), stop))
        }
        _ => None,
    }
}

fn varint(bytes: &[u8], at: usize, end: usize) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, byte) in bytes.get(at..end)?.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f).checked_shl(7 * i as u32)?;
        if byte & 0x80 == 0 {
            return Some((value, at + i + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::*;
    use prost::Message;

    #[test]
    fn messages_at_every_depth_are_counted() {
        let inner = GraphProto { node: vec![NodeProto::default(); 5], ..GraphProto::default() };
        let attribute = AttributeProto { g: Some(inner), ..AttributeProto::default() };
        let node = NodeProto { attribute: vec![attribute], ..NodeProto::default() };
        let graph = GraphProto {
            node: vec![node; 2],
            input: vec![ValueInfoProto::default(); 3],
            ..GraphProto::default()
        };
        let function = FunctionProto { node: vec![NodeProto::default(); 7], ..FunctionProto::default() };
        let model = ModelProto { graph: Some(graph), functions: vec![function], ..ModelProto::default() };
        // graph, 3 inputs, twice (node, attribute, graph, 5 nodes), function, 7 nodes
        assert_eq!(count_messages(&model.encode_to_vec()), 1 + 3 + 2 * 8 + 1 + 7);
        assert_eq!(count_messages(&[0x3a, 0xff]), 0);
    }
}
