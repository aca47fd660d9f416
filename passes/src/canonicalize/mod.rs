//! One spelling for each product and layout.
//!
//! - `simplify`: identities that need no choice; views of views are one view.
//! - `products`: products with broadcasts, transposes and sums become labelled contractions.
//! - `layout`: transposes move towards producers until they vanish or meet an op that fixes its layout.
//!
//! Canonical products: two factors of the full shape stay `mul`; a factor that is one number everywhere stays `mul`
//! by a broadcast constant; everything else is a `contract`. Nothing later depends on this form being reached; it only
//! makes matching cheap.

mod layout;
mod products;
mod simplify;

#[cfg(test)]
mod tests;

pub use layout::Layout;
pub use products::Products;
pub use simplify::Simplify;
