//! Tables that grow and shrink in pieces, so that no single step of a shard is long.
//!
//! A `Vec`, a `VecDeque` or a hash table that outgrows its memory moves everything that it holds into
//! twice as much: with a million entries that stops a shard for a tenth of a second, and what a
//! crowd has made it take is never given back. One step of a table here moves the entries of one
//! piece at most, however many there are, and pieces that have become empty go back to the kernel.
//!
//! Pure. Indices and references from the outside are by key or by place; a place does not move.

pub(crate) mod list;
pub(crate) mod map;
pub(crate) mod queue;
pub(crate) mod segmented;
pub(crate) mod slab;

pub(crate) use list::List;
pub(crate) use map::Map;
pub(crate) use queue::Queue;
pub(crate) use segmented::SegmentedTable;
pub(crate) use slab::Slab;
