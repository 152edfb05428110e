//! Reads as much of a client's header blocks (HPACK, RFC 7541) as it takes to know whether a block begins with a
//! pseudo-header.
//!
//! h2 refuses a pseudo-header behind another field, but drops those at the beginning of trailers without a word,
//! although such trailers are malformed (RFC 9113, section 8.1). A field can stand in the client's table, so every
//! block must be followed, but only in this: which entries are pseudo-headers. The table is a bit for each insertion;
//! sizes and evictions do not matter, because an index that points to an evicted entry is an error that h2 finds.
//! Values and the rest of names are skipped, not decoded. What this reader cannot follow is malformed, and h2 ends the
//! connection.

/// Static entries whose names are pseudo-headers (RFC 7541, appendix A).
const PSEUDO_STATIC: std::ops::RangeInclusive<u32> = 1..=14;
/// The index of the newest entry of the dynamic table.
const DYNAMIC_START: u32 = 62;
/// The Huffman code of `:`, in the upper seven bits of a byte.
const HUFFMAN_COLON: u8 = 0x5c;
/// Bit 7 of a string's length: the string is Huffman-coded.
const HUFFMAN: u8 = 0x80;
/// Bits of a number beyond which it is no length or index that any limit allows.
const NUMBER_BITS_MAX: u32 = 28;

/// The blocks of one connection.
#[derive(Debug)]
pub struct HeaderBlocks {
    /// Bit n: the entry of n insertions ago is a pseudo-header. A table of 4 KiB, which the gate allows, has at most
    /// 128 entries.
    table: u128,
    step: BlockState,
    /// The first field of the current block; `None`: it has not come yet.
    first: Option<FieldName>,
}

#[derive(Clone, Copy, Debug)]
enum BlockState {
    /// A field or a change of the table's size begins.
    Field,
    /// Further bytes of an index.
    Index {
        form: StringForm,
        number: Number,
    },
    /// The length of a name begins.
    NameLength(StringForm),
    NameNumber {
        form: StringForm,
        coding: Coding,
        number: Number,
    },
    /// The first byte of a name comes.
    Name {
        form: StringForm,
        coding: Coding,
        length: usize,
    },
    /// Bytes of the name that are skipped before the value.
    NameRest(usize),
    ValueLength,
    ValueNumber(Number),
    Value(usize),
    /// The block is malformed.
    Lost,
}

/// The way in which a field is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum StringForm {
    /// Name and value of an entry.
    Indexed,
    /// A literal that becomes an entry.
    Added,
    Literal,
    /// No field: a change of the table's size.
    Resize,
}

/// The name of a field, as far as the order of fields depends on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FieldName {
    /// It begins with a colon.
    Pseudo,
    Plain,
}

/// The coding of a string (RFC 7541, section 5.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Coding {
    Plain,
    Huffman,
}

/// A number whose first byte was full.
#[derive(Clone, Copy, Debug)]
struct Number {
    value: u32,
    bits: u32,
}

impl HeaderBlocks {
    pub const fn new() -> Self {
        Self {
            table: 0,
            step: BlockState::Field,
            first: None,
        }
    }

    /// Begins a block.
    pub fn begin(&mut self) {
        self.step = BlockState::Field;
        self.first = None;
    }

    /// True if the current block begins with a pseudo-header, as far as its bytes have come.
    pub fn begins_with_pseudo_header(&self) -> bool {
        self.first == Some(FieldName::Pseudo)
    }

    /// Reads the next bytes of the current block.
    pub fn read(&mut self, mut rest: &[u8]) {
        while let Some((byte, after)) = rest.split_first() {
            rest = match &mut self.step {
                BlockState::NameRest(left) | BlockState::Value(left) => {
                    let skipped = rest.get((*left).min(rest.len())..).unwrap_or_default();
                    *left -= rest.len() - skipped.len();
                    if *left == 0 {
                        self.end_string();
                    }
                    skipped
                }
                BlockState::Lost => return,
                _ => {
                    self.take(*byte);
                    after
                }
            };
        }
    }

    fn take(&mut self, byte: u8) {
        self.step = match self.step {
            BlockState::Field => self.begin_field(byte),
            BlockState::Index { form, mut number } => match number.add(byte) {
                Some(index) => self.indexed(form, index),
                None if number.is_too_large() => BlockState::Lost,
                None => BlockState::Index { form, number },
            },
            BlockState::NameLength(form) => {
                let coding = if byte & HUFFMAN == 0 { Coding::Plain } else { Coding::Huffman };
                match Number::begin(byte, 7) {
                    Ok(length) => self.name(form, coding, length),
                    Err(number) => BlockState::NameNumber { form, coding, number },
                }
            }
            BlockState::NameNumber {
                form,
                coding,
                mut number,
            } => match number.add(byte) {
                Some(length) => self.name(form, coding, length),
                None if number.is_too_large() => BlockState::Lost,
                None => BlockState::NameNumber { form, coding, number },
            },
            BlockState::Name { form, coding, length } => {
                let is_colon = match coding {
                    Coding::Huffman => byte >> 1 == HUFFMAN_COLON,
                    Coding::Plain => byte == b':',
                };
                self.found(form, if is_colon { FieldName::Pseudo } else { FieldName::Plain });
                match length.saturating_sub(1) {
                    0 => BlockState::ValueLength,
                    left => BlockState::NameRest(left),
                }
            }
            BlockState::ValueLength => match Number::begin(byte, 7) {
                Ok(length) => value(length),
                Err(number) => BlockState::ValueNumber(number),
            },
            BlockState::ValueNumber(mut number) => match number.add(byte) {
                Some(length) => value(length),
                None if number.is_too_large() => BlockState::Lost,
                None => BlockState::ValueNumber(number),
            },
            // `read` skips these
            step @ (BlockState::NameRest(_) | BlockState::Value(_) | BlockState::Lost) => step,
        };
    }

    fn begin_field(&mut self, byte: u8) -> BlockState {
        let (form, bits) = match byte {
            0x80.. => (StringForm::Indexed, 7),
            0x40.. => (StringForm::Added, 6),
            0x20.. => (StringForm::Resize, 5),
            _ => (StringForm::Literal, 4),
        };
        match Number::begin(byte, bits) {
            Ok(0) if matches!(form, StringForm::Added | StringForm::Literal) => BlockState::NameLength(form),
            Ok(index) => self.indexed(form, index),
            Err(number) => BlockState::Index { form, number },
        }
    }

    /// Takes a complete index.
    fn indexed(&mut self, form: StringForm, index: u32) -> BlockState {
        if form == StringForm::Resize {
            return BlockState::Field;
        }
        let is_pseudo = match index.checked_sub(DYNAMIC_START) {
            None => PSEUDO_STATIC.contains(&index),
            Some(age) => self.table.checked_shr(age).unwrap_or_default() & 1 == 1,
        };
        self.found(form, if is_pseudo { FieldName::Pseudo } else { FieldName::Plain });
        match form {
            StringForm::Indexed | StringForm::Resize => BlockState::Field,
            StringForm::Added | StringForm::Literal => BlockState::ValueLength,
        }
    }

    /// Notes the name of a field. An entry counts from here on: nothing can point to it before its value ended.
    fn found(&mut self, form: StringForm, name: FieldName) {
        self.first.get_or_insert(name);
        if form == StringForm::Added {
            self.table = self.table << 1 | u128::from(name == FieldName::Pseudo);
        }
    }

    /// Takes the length of a name.
    fn name(&mut self, form: StringForm, coding: Coding, length: u32) -> BlockState {
        match usize::try_from(length) {
            Ok(length @ 1..) => BlockState::Name { form, coding, length },
            _ => {
                self.found(form, FieldName::Plain);
                BlockState::ValueLength
            }
        }
    }

    fn end_string(&mut self) {
        self.step = match self.step {
            BlockState::NameRest(_) => BlockState::ValueLength,
            _ => BlockState::Field,
        };
    }
}

fn value(length: u32) -> BlockState {
    match usize::try_from(length) {
        Ok(0) => BlockState::Field,
        Ok(length) => BlockState::Value(length),
        Err(_too_large) => BlockState::Lost,
    }
}

impl Number {
    /// Reads a number's first byte, whose lower `bits` belong to it.
    fn begin(byte: u8, bits: u8) -> Result<u32, Self> {
        let full = u8::MAX >> (8 - bits);
        let value = byte & full;
        if value < full {
            return Ok(value.into());
        }
        Err(Self {
            value: value.into(),
            bits: 0,
        })
    }

    /// Adds a further byte; returns the number if it is complete.
    fn add(&mut self, byte: u8) -> Option<u32> {
        let part = u32::from(byte & 0x7f).checked_shl(self.bits).unwrap_or(u32::MAX);
        self.value = self.value.saturating_add(part);
        self.bits += 7;
        (byte & 0x80 == 0).then_some(self.value)
    }

    const fn is_too_large(self) -> bool {
        self.bits > NUMBER_BITS_MAX
    }
}

#[cfg(test)]
mod tests;
