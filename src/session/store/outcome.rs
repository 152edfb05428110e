//! The results that both stores return.

/// The result of a compare-and-set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Swap {
    Done,
    /// The stored value is not the expected one: another task or replica changed it.
    Changed,
    /// There is no value.
    Gone,
}

/// True if a replica of the store has the write; `None` if the store has no replica.
pub type Replicated = Option<bool>;

/// A decimal number as counters store it; zero for any other bytes.
pub fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}
