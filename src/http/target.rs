//! Characters that clients leave unescaped in a request target, and their escapes.
//!
//! Browsers percent-encode `é`, `<` or `"`; `curl` and scripts often do not. The guard of HTTP/1 and the reading of
//! HTTP/2 requests write the escapes before anything reads the target, so that policies, routes and the app see one
//! form. Must never touch a character that separates parts of a target.

/// True for a byte that no URL holds as it is (RFC 3986, appendix A). A backslash is not among them: apps read it as a
/// separator, and the path's rules refuse it.
pub const fn is_unescaped(byte: u8) -> bool {
    !byte.is_ascii() || matches!(byte, b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// The text with every unescaped byte percent-encoded; `None` if it has none.
pub fn escaped(target: &[u8]) -> Option<Vec<u8>> {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    if !target.iter().any(|byte| is_unescaped(*byte)) {
        return None;
    }
    let mut out = Vec::with_capacity(target.len() + 32);
    for byte in target {
        match is_unescaped(*byte) {
            true => out.extend([b'%', digit(byte >> 4), digit(byte & 0xf)]),
            false => out.push(*byte),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_url_holds_is_escaped_and_nothing_else() {
        let plain: Vec<u8> = (0x21..0x7f).filter(|byte| !b"\"<>^`{|}".contains(byte)).collect();
        assert_eq!(escaped(&plain), None);
        let text = escaped("/caf\u{e9}?q=<b>&x={\"a\":1|2^3`}%3C".as_bytes()).unwrap();
        let expected = "/caf%C3%A9?q=%3Cb%3E&x=%7B%22a%22:1%7C2%5E3%60%7D%3C";
        assert_eq!(String::from_utf8(text.clone()).unwrap(), expected);
        assert_eq!(escaped(&text), None);
    }
}
