//! One spelling for each product and layout.
//!
//! - `simplify`: identities that need no choice; views of views are one view.
//! - `repeat`: weights that repeat themselves become broadcasts.
//! - `products`: products with broadcasts, transposes and sums become labelled contractions.
//! - `pieces`: tensors that are written piece by piece are one concatenation.
//! - `split`: axes that were merged for a batched product are taken apart.
//! - `layout`: transposes move towards producers until they vanish or meet an op that fixes its layout.
//!
//! Canonical products: two factors of the full shape stay `mul`; a factor that is one number everywhere stays `mul`
//! by a broadcast constant; everything else is a `contract`. Nothing later depends on this form being reached; it only
//! makes matching cheap.

mod layout;
mod pieces;
mod products;
mod repeat;
mod simplify;
mod split;

#[cfg(test)]
mod tests;

pub use layout::Layout;
pub use pieces::Pieces;
pub use products::Products;
pub use repeat::Repeat;
pub use simplify::Simplify;
pub(crate) use simplify::embeds;
pub use split::Split;
