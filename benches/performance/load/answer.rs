//! Finds the end of an HTTP/1.1 answer, as far as the measured servers need it.

use std::ops::Range;

#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Partial,
    /// A complete answer. `body` is the range of the body's bytes, as they arrived.
    Whole {
        status: u16,
        body: Range<usize>,
    },
}

pub fn parse(bytes: &[u8]) -> Result<Answer, String> {
    let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(Answer::Partial);
    };
    let status = bytes
        .get(9..12)
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .ok_or("no status line")?;
    let start = head + 4;
    let end = if status == 204 || status == 304 {
        Some(start)
    } else {
        match length(bytes.get(..head).unwrap())? {
            Length::Known(length) => Some(start.checked_add(length).ok_or("content-length is too large")?),
            Length::Chunked => chunked_end(bytes.get(start..).unwrap())?.map(|end| start + end),
        }
    };
    match end {
        Some(end) if end < bytes.len() => Err("more bytes than one answer".to_owned()),
        Some(end) if end == bytes.len() => Ok(Answer::Whole {
            status,
            body: start..end,
        }),
        _ => Ok(Answer::Partial),
    }
}

enum Length {
    Known(usize),
    Chunked,
}

fn length(head: &[u8]) -> Result<Length, String> {
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next().map(<[u8]>::trim_ascii)) else {
            continue;
        };
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            return length
                .map(Length::Known)
                .ok_or_else(|| "content-length is not a number".to_owned());
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Ok(Length::Chunked);
        }
    }
    Err(format!("an answer without a length: {}", String::from_utf8_lossy(head)))
}

/// The end of the last chunk; `None` if it has not arrived. Trailers are not supported.
fn chunked_end(body: &[u8]) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let rest = body.get(at..).unwrap_or_default();
        let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(rest.get(..line).unwrap()).map_err(|e| e.to_string())?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16).map_err(|e| e.to_string())?;
        at += line + 2 + size + 2;
        if size == 0 {
            return Ok((at <= body.len()).then_some(at));
        }
    }
}
