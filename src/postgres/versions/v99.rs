//! No version of PostgreSQL: what a file of a new one begins with. A test shows that it compiles, and that each fact which it
//! lacks is named.

use super::Layout;

/// Nothing is known of it yet.
pub(super) static LAYOUT: Layout = Layout::unknown(99);
