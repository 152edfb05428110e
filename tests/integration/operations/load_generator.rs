//! The benches' load generator finds the end of an answer: with a wrong end, all its measurements would be wrong.

#[path = "../../../benches/performance/load/answer.rs"]
mod answer;

use self::answer::{Answer, parse};

fn whole(status: u16, head: usize, length: usize) -> Result<Answer, String> {
    Ok(Answer::Whole {
        status,
        body: head..head + length,
    })
}

#[test]
fn the_load_generator_takes_an_answer_as_whole_only_with_its_last_byte() {
    let sized = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-LENGTH: 5\r\n\r\nhello";
    let chunked = b"HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
    let empty = b"HTTP/1.1 204 No Content\r\nserver: x\r\n\r\n";
    for (bytes, status) in [(sized.as_slice(), 200), (chunked, 403), (empty, 204)] {
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(Answer::Partial), "{status} after {cut} bytes");
        }
        assert_eq!(parse(bytes), whole(status, head, bytes.len() - head));
    }
}

#[test]
fn bytes_that_are_not_one_answer_are_an_error() {
    for bytes in [
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab".as_slice(),
        b"HTTP/1.1 204 No Content\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"\r\n\r\n",
    ] {
        assert!(parse(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
    }
}
