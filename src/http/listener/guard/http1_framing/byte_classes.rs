//! The classes of bytes that a head may hold at each position, and the length of a run of one class.

use crate::http::target::is_unescaped;

/// Bit of `CLASS`: bytes of a token (RFC 9110, section 5.6.2).
pub const TOKEN: u8 = 1;
/// Bit of `CLASS`: bytes of a request target.
pub const TARGET: u8 = 2;
/// Bit of `CLASS`: bytes that clients write into a target although they belong there as escapes only.
pub const UNESCAPED: u8 = 4;
const CLASS: [u8; 256] = classes();
/// Bytes of a value that are read together.
const BLOCK: usize = 32;

/// Length of the run of bytes of the class, from the start.
pub fn run(bytes: &[u8], class: u8) -> usize {
    let outside = |byte: &u8| CLASS.get(usize::from(*byte)).is_none_or(|found| found & class == 0);
    bytes.iter().position(outside).unwrap_or(bytes.len())
}

/// Length of the run of bytes that a field value may hold, from the start: all but controls, HTAB excepted. Reads
/// blocks of `BLOCK` bytes, which the compiler turns into vector instructions, then eight bytes at a time.
pub fn value_run(bytes: &[u8]) -> usize {
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let is_clean = |block: &[u8; BLOCK]| !block.iter().fold(false, |found, byte| found | is_outside_value(*byte));
    let clean = blocks.iter().take_while(|block| is_clean(block)).count() * BLOCK;
    clean + bytes.get(clean..).map_or(0, value_run_of_words)
}

fn value_run_of_words(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let mut length = 0;
    let mut rest = bytes;
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*word);
        let delete = word ^ (ONES * 0x7f);
        // exact for the first byte outside; may err for bytes above it
        let below = word.wrapping_sub(ONES * 0x20) & !word;
        let outside = (below | (delete.wrapping_sub(ONES) & !delete)) & HIGH;
        if outside == 0 {
            length += 8;
            rest = after;
            continue;
        }
        let at = (outside.trailing_zeros() / 8) as usize;
        length += at;
        match rest.split_at_checked(at) {
            Some((_, [b'\t', after @ ..])) => {
                length += 1;
                rest = after;
            }
            _ => return length,
        }
    }
    length + rest.iter().position(|byte| is_outside_value(*byte)).unwrap_or(rest.len())
}

/// True for a byte that no field value may hold. Computed without a branch.
const fn is_outside_value(byte: u8) -> bool {
    ((byte < 0x20) & (byte != b'\t')) | (byte == 0x7f)
}

#[expect(
    clippy::indexing_slicing,
    reason = "INVARIANT: a byte is below 256; and a constant would not build"
)]
const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    loop {
        let token = if is_token(byte) { TOKEN } else { 0 };
        let target = if is_target(byte) { TARGET } else { 0 };
        let unescaped = if is_unescaped(byte) { UNESCAPED } else { 0 };
        table[byte as usize] = token | target | unescaped;
        if byte == u8::MAX {
            return table;
        }
        byte += 1;
    }
}

const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// Visible ASCII without `#`, because clients do not send fragments, and without unescaped bytes.
const fn is_target(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#' && !is_unescaped(byte)
}
