//! The field names that matter to framing, also when a name comes in several reads.

const LONGEST_NAME: usize = b"transfer-encoding".len();

/// The start of a field name that came in several reads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SplitName {
    bytes: [u8; LONGEST_NAME],
    length: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NamedField {
    Other,
    Host,
    Length,
    Encoding,
    Upgrade,
    /// A framing name with `_` for `-`, which some apps take for the real one.
    Alias,
}

impl SplitName {
    pub(super) fn clear(&mut self) {
        self.length = 0;
    }

    /// Adds a piece. A name longer than every framing name keeps its length only.
    pub(super) fn push(&mut self, piece: &[u8]) {
        for byte in piece {
            if let Some(slot) = self.bytes.get_mut(self.length) {
                *slot = *byte;
            }
            self.length = self.length.saturating_add(1);
        }
    }

    pub(super) fn field(&self) -> NamedField {
        self.bytes.get(..self.length).map_or(NamedField::Other, classify)
    }
}

/// Classifies a complete name.
pub(super) fn classify(name: &[u8]) -> NamedField {
    let framing = |wanted: &[u8], found| {
        let same = |(a, b): (&u8, &u8)| a.eq_ignore_ascii_case(b) || (*a == b'_' && *b == b'-');
        if name.eq_ignore_ascii_case(wanted) {
            found
        } else if name.iter().zip(wanted).all(same) {
            NamedField::Alias
        } else {
            NamedField::Other
        }
    };
    match name.len() {
        4 if name.eq_ignore_ascii_case(b"host") => NamedField::Host,
        7 if name.eq_ignore_ascii_case(b"upgrade") => NamedField::Upgrade,
        14 => framing(b"content-length", NamedField::Length),
        17 => framing(b"transfer-encoding", NamedField::Encoding),
        _ => NamedField::Other,
    }
}
