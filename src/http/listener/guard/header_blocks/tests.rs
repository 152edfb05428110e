//! Tests the reader with the blocks of RFC 7541, and its numbers.

use super::*;

fn begins(blocks: &mut HeaderBlocks, block: &[u8]) -> Option<bool> {
    blocks.begin();
    blocks.read(block);
    blocks.first.map(|name| name == FieldName::Pseudo)
}

#[test]
fn blocks_of_the_rfc_are_followed() {
    // RFC 7541, C.3 and C.4: three requests on one connection, plain and Huffman-coded
    let plain: [&[u8]; 3] = [
        b"\x82\x86\x84\x41\x0fwww.example.com",
        b"\x82\x86\x84\xbe\x58\x08no-cache",
        b"\x82\x87\x85\xbf\x40\x0acustom-key\x0ccustom-value",
    ];
    let huffman: [&[u8]; 3] = [
        b"\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff",
        b"\x82\x86\x84\xbe\x58\x86\xa8\xeb\x10\x64\x9c\xbf",
        b"\x82\x87\x85\xbf\x40\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf",
    ];
    for requests in [plain, huffman] {
        let mut blocks = HeaderBlocks::new();
        for request in requests {
            assert_eq!(begins(&mut blocks, request), Some(true));
        }
        // from new to old: custom-key, cache-control, :authority
        assert_eq!(blocks.table, 0b100);
        assert_eq!(begins(&mut blocks, &[0x80 | 64]), Some(true));
        assert_eq!(begins(&mut blocks, &[0x80 | 62]), Some(false));
        assert_eq!(begins(&mut blocks, &[0x80 | 63]), Some(false));
        assert_eq!(begins(&mut blocks, &[]), None);
    }
}

#[test]
fn numbers_of_any_length_end_and_overlong_ones_are_given_up() {
    let mut blocks = HeaderBlocks::new();
    // index 62 + 128 in a literal, whose entry is beyond any table
    assert_eq!(begins(&mut blocks, b"\x0f\xaf\x01\x01v"), Some(false));
    // a name of 127 + 1 bytes, then a pseudo-header
    let long = [&b"\x00\x7f\x01"[..], &[b'n'; 128], b"\x00\x84"].concat();
    assert_eq!(begins(&mut blocks, &long), Some(false));
    assert!(matches!(blocks.step, BlockState::Field));
    assert_eq!(begins(&mut blocks, b"\xff\x80\x80\x80\x80\x80\x80\x01"), None);
    assert!(matches!(blocks.step, BlockState::Lost));
    // the next block is read again
    assert_eq!(begins(&mut blocks, b"\x84"), Some(true));
}
