//! Typed indices and the arena that they index.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// A typed index into a [`PrimaryMap`].
pub trait Entity: Copy + Eq + Ord + std::hash::Hash {
    /// The entity with the given index.
    fn new(idx: usize) -> Self;
    /// The position of this entity in its arena.
    fn idx(self) -> usize;
}

macro_rules! entity {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl Entity for $name {
            fn new(idx: usize) -> Self {
                Self(u32::try_from(idx).expect("an arena holds fewer than 2^32 entities"))
            }
            fn idx(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

entity!(
    /// One operation of a [`Graph`](crate::Graph).
    NodeId,
    "node"
);
entity!(
    /// One tensor of a [`Graph`](crate::Graph): a graph input or a result of a node. Prints as in the text form.
    ValueId,
    "%"
);
entity!(
    /// Where a node came from; an index into a [`LocTable`](crate::LocTable).
    LocId,
    "loc"
);

/// An arena whose elements are named by a typed index, in order of insertion.
#[derive(Clone, PartialEq, Eq)]
pub struct PrimaryMap<K, V> {
    elems: Vec<V>,
    key: PhantomData<K>,
}

impl<K: Entity, V> PrimaryMap<K, V> {
    /// An empty arena.
    pub fn new() -> Self {
        Self { elems: Vec::new(), key: PhantomData }
    }

    /// Adds an element and returns its index.
    pub fn push(&mut self, elem: V) -> K {
        let id = K::new(self.elems.len());
        self.elems.push(elem);
        id
    }

    /// The element, or `None` if the index is not of this arena.
    pub fn get(&self, id: K) -> Option<&V> {
        self.elems.get(id.idx())
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.elems.len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.elems.is_empty()
    }

    /// All indices, ascending.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = K> + ExactSizeIterator + use<K, V> {
        (0..self.elems.len()).map(K::new)
    }

    /// All elements with their indices, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (K, &V)> + ExactSizeIterator {
        self.elems.iter().enumerate().map(|(i, v)| (K::new(i), v))
    }

    /// All elements, ascending by index.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + ExactSizeIterator {
        self.elems.iter()
    }
}

impl<K: Entity, V> Default for PrimaryMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Entity, V> Index<K> for PrimaryMap<K, V> {
    type Output = V;
    fn index(&self, id: K) -> &V {
        &self.elems[id.idx()]
    }
}

impl<K: Entity, V> IndexMut<K> for PrimaryMap<K, V> {
    fn index_mut(&mut self, id: K) -> &mut V {
        &mut self.elems[id.idx()]
    }
}

impl<K: Entity, V: fmt::Debug> fmt::Debug for PrimaryMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.elems.iter().enumerate()).finish()
    }
}
