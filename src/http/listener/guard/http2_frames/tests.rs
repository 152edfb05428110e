//! Tests the frame counters and the search for malformed trailers, with bytes split in every way.

use super::*;

/// A frame of a stream with this payload.
fn of_stream(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn frame(length: u16, kind: u8, flags: u8) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    let mut bytes = vec![0, high, low, kind, flags, 0, 0, 0, 1];
    bytes.resize(HEADER_BYTES + usize::from(length), 0x55);
    bytes
}

fn after_settings(now: Instant) -> Frames {
    let mut frames = Frames::new();
    frames.scan(&mut [b'P'; PREFACE_BYTES], 0, || now).unwrap();
    assert!(!frames.is_settled());
    frames.scan(&mut frame(0, SETTINGS, 0), 0, || now).unwrap();
    assert!(frames.is_settled());
    frames
}

#[test]
fn each_kind_of_cheap_frame_has_a_bucket_that_fills_and_leaks() {
    let now = Instant::now();
    const PING: u8 = 6;
    for (kind, flags, length, burst) in [
        (PING, 0, 8, 1999),
        (SETTINGS, 0, 0, 1999),
        (2, 0, 5, 1999),
        (0x55, 0, 3, 1999),
        (DATA, 0, 0, 1999),
        (RST_STREAM, 0, 4, 500),
        (WINDOW_UPDATE, 0, 4, 5000),
    ] {
        let mut frames = after_settings(now);
        for _ in 0..burst {
            frames.scan(&mut frame(length, kind, flags), 0, || now).unwrap();
        }
        assert_eq!(
            frames.scan(&mut frame(length, kind, flags), 0, || now),
            Err(Violation::Flood),
            "type {kind}"
        );
        let now = now + Duration::from_secs(1);
        for _ in 0..50 {
            assert!(
                frames.scan(&mut frame(length, kind, flags), 0, || now).is_ok(),
                "type {kind} after a second"
            );
        }
    }
}

#[test]
fn requests_bodies_and_ends_of_streams_are_not_counted() {
    let now = Instant::now();
    let mut frames = after_settings(now);
    for _ in 0..10_000 {
        frames.scan(&mut frame(20, HEADERS, END_HEADERS), 0, || now).unwrap();
        frames.scan(&mut frame(1, DATA, 0), 0, || now).unwrap();
        frames.scan(&mut frame(0, DATA, END_STREAM), 0, || now).unwrap();
    }
    assert!(frames.is_settled());
}

#[test]
fn window_updates_explained_by_written_bytes_are_free() {
    let now = Instant::now();
    let mut frames = after_settings(now);
    // ten gigabytes in frames of 16 KiB, each followed by two updates
    for sent in 1..=(10_u64 << 30) / 16_384 {
        frames.scan(&mut frame(4, WINDOW_UPDATE, 0), sent * 16_384, || now).unwrap();
        frames.scan(&mut frame(4, WINDOW_UPDATE, 0), sent * 16_384, || now).unwrap();
    }
    // many small messages
    let mut frames = after_settings(now);
    for sent in 1..=100_000_u64 {
        frames.scan(&mut frame(4, WINDOW_UPDATE, 0), sent * 24, || now).unwrap();
        frames.scan(&mut frame(4, WINDOW_UPDATE, 0), sent * 24, || now).unwrap();
    }
}

#[test]
fn a_header_block_is_owed_until_it_ends_and_has_a_limited_number_of_frames() {
    let now = Instant::now();
    let mut frames = after_settings(now);
    frames.scan(&mut frame(20, HEADERS, 0), 0, || now).unwrap();
    assert!(!frames.is_settled());
    for _ in 0..CONTINUATIONS_MAX {
        frames.scan(&mut frame(1, CONTINUATION, 0), 0, || now).unwrap();
    }
    assert_eq!(
        frames.scan(&mut frame(1, CONTINUATION, END_HEADERS), 0, || now),
        Err(Violation::Flood)
    );
    let mut frames = after_settings(now);
    let mut last = frame(20, HEADERS, END_HEADERS);
    frames.scan(&mut last[..28], 0, || now).unwrap();
    assert!(!frames.is_settled(), "a byte is missing");
    frames.scan(&mut last[28..], 0, || now).unwrap();
    assert!(frames.is_settled());
}

#[test]
fn a_flood_is_found_at_the_same_frame_however_the_bytes_are_split() {
    let now = Instant::now();
    let mut stream = vec![b'P'; PREFACE_BYTES];
    stream.extend(frame(6, SETTINGS, 0));
    for _ in 0..CONTINUATIONS_MAX {
        stream.extend(frame(3, RST_STREAM, 0));
    }
    stream.extend(frame(9, HEADERS, 0));
    for _ in 0..=CONTINUATIONS_MAX {
        stream.extend(frame(2, CONTINUATION, 0));
    }
    let full = stream.len();
    for piece in [1, 2, 3, 7, 8, 9, 10, 64, full] {
        let mut frames = Frames::new();
        let mut seen = 0;
        let flood = stream.clone().chunks_mut(piece).find_map(|bytes| {
            seen += bytes.len();
            frames.scan(bytes, 0, || now).err()
        });
        assert_eq!(flood, Some(Violation::Flood), "in pieces of {piece}");
        // the header of the last frame is one frame too many
        assert!(seen >= full - 2 && seen < full - 2 + piece, "in pieces of {piece}: {seen}");
    }
}

const TRAILERS: u8 = END_HEADERS | END_STREAM;

/// The trailers of a stream whose head was `head`, as h2 gets them.
fn trailers_after(head: &[u8], frames_of_trailers: &[Vec<u8>]) -> Result<Vec<u8>, Violation> {
    let now = Instant::now();
    let mut frames = after_settings(now);
    frames.scan(&mut of_stream(1, HEADERS, END_HEADERS, head), 0, || now)?;
    let mut bytes = frames_of_trailers.concat();
    frames.scan(&mut bytes, 0, || now)?;
    Ok(bytes)
}

#[test]
fn trailers_that_begin_with_a_pseudo_header_lose_the_end_of_the_stream() {
    // `:path: /up`, which becomes an entry, then `x: y`, which becomes another
    let head = b"\x44\x03/up\x40\x01x\x01y";
    for (name, block) in [
        ("static field", &b"\x84"[..]),
        ("status", b"\x88"),
        ("entry of an earlier head", b"\xbf"),
        ("name of an entry", b"\x7f\x00\x01z"),
        ("added literal", b"\x44\x01/"),
        ("literal", b"\x04\x01/"),
        ("literal that is never indexed", b"\x14\x01/"),
        ("written name", b"\x00\x05:path\x01/"),
        ("written name that becomes an entry", b"\x40\x05:path\x01/"),
        ("huffman-coded name", b"\x00\x84\xb9\x58\xd3\x3f\x01/"),
        ("after a change of the table's size", b"\x3f\xe1\x1f\x84"),
    ] {
        let whole = trailers_after(head, &[of_stream(1, HEADERS, TRAILERS, block)]).unwrap();
        assert_eq!(whole[4], END_HEADERS, "{name}");
        let padded = [&[3][..], &[0; 5], block, &[0; 3]].concat();
        let padded = trailers_after(head, &[of_stream(1, HEADERS, TRAILERS | PADDED | PRIORITY, &padded)]).unwrap();
        assert_eq!(padded[4], END_HEADERS | PADDED | PRIORITY, "padded {name}");
        let continued = [
            of_stream(1, HEADERS, END_STREAM, b""),
            of_stream(1, CONTINUATION, END_HEADERS, block),
        ];
        assert_eq!(trailers_after(head, &continued).unwrap()[4], 0, "continued {name}");
        // a stream that came later is its own
        let head_of_next = of_stream(3, HEADERS, TRAILERS, block);
        assert_eq!(
            trailers_after(head, std::slice::from_ref(&head_of_next)).unwrap(),
            head_of_next,
            "{name}"
        );
    }
}

#[test]
fn trailers_without_a_pseudo_header_are_left_as_they_are() {
    let head = b"\x44\x03/up\x40\x01x\x01y";
    for block in [
        &b""[..],
        b"\xbe",
        b"\x7e\x01z",
        b"\x00\x01x\x01/",
        b"\x40\x83\xf2\xb4\xa7\x01/",
        b"\x90",
        b"\x0f\x00\x01a",
        // refused by h2, which sees it: it is not the first field
        b"\xbe\x84",
    ] {
        let trailers = of_stream(1, HEADERS, TRAILERS, block);
        assert_eq!(
            trailers_after(head, std::slice::from_ref(&trailers)).unwrap(),
            trailers,
            "{block:?}"
        );
    }
}

#[test]
fn an_entry_is_followed_over_many_heads_and_splits() {
    let now = Instant::now();
    let long = [&b"\x40\x7f\x83\x01"[..], &[b'n'; 258], b"\x7f\x83\x01", &[b'v'; 258]].concat();
    let mut stream = of_stream(1, HEADERS, END_HEADERS, b"\x44\x03/up");
    for number in 0..40 {
        let block = if number % 2 == 0 {
            &long
        } else {
            &b"\x40\x01x\x00"[..].to_vec()
        };
        stream.extend(of_stream(3 + number * 2, HEADERS, TRAILERS, block));
    }
    // `:path: /up` is the entry of 40 insertions ago
    let malformed = of_stream(1, HEADERS, TRAILERS, &[0x80 | 102]);
    // without the end of the stream, so that the malformed trailers are not those of an ended stream
    let fine = of_stream(1, HEADERS, END_HEADERS, &[0x80 | 101]);
    for piece in [1, 2, 5, 17, 300, 100_000] {
        let mut frames = after_settings(now);
        for bytes in stream.clone().chunks_mut(piece) {
            let before = bytes.to_vec();
            frames.scan(bytes, 0, || now).unwrap();
            assert_eq!(bytes, before);
        }
        assert_eq!(frames.scan(&mut fine.clone(), 0, || now), Ok(0));
        let (header, block) = malformed.split_at(HEADER_BYTES);
        frames.scan(&mut header.to_vec(), 0, || now).unwrap();
        assert_eq!(
            frames.scan(&mut block.to_vec(), 0, || now),
            Err(Violation::MalformedTrailers),
            "h2 has the header already"
        );
    }
}

#[test]
fn resets_that_the_client_causes_count_and_others_do_not() {
    let reset = |code: u8| of_stream(1, RST_STREAM, 0, &[0, 0, 0, code]);
    let sent = [
        of_stream(0, SETTINGS, 0, &[0, 0, 0, 0, 0, 1]),
        of_stream(1, HEADERS, END_HEADERS, b"\x88"),
        of_stream(1, DATA, 0, &[RST_STREAM; 100]),
        reset(1),
        reset(0),
        reset(2),
        reset(5),
        reset(8),
        reset(3),
        of_stream(1, DATA, END_STREAM, b""),
    ]
    .concat();
    for piece in [1, 2, 3, 9, 13, sent.len()] {
        let mut frames = SentFrames::new();
        let resets: Vec<SentResets> = sent.chunks(piece).map(|bytes| frames.scan(bytes)).collect();
        let sum = |count: fn(&SentResets) -> u32| resets.iter().map(count).sum::<u32>();
        assert_eq!((sum(|r| r.mistakes), sum(|r| r.malformed)), (3, 1), "in pieces of {piece}");
    }
}

#[test]
fn mistakes_fill_the_bucket_of_resets_and_wear_the_connection_out() {
    let now = Instant::now();
    let mut frames = after_settings(now);
    assert!(!frames.note_mistakes(500));
    frames.scan(&mut frame(8, 6, 0), 0, || now).unwrap();
    assert!(!frames.note_mistakes(1));
    assert_eq!(frames.scan(&mut frame(8, 6, 0), 0, || now), Err(Violation::Flood));
    let mut frames = after_settings(now);
    let mut at = now;
    for _ in 0..MISTAKES_MAX - 1 {
        at += Duration::from_millis(100);
        assert!(!frames.note_mistakes(1));
        frames.scan(&mut frame(8, 6, 0), 0, || at).unwrap();
    }
    assert!(frames.note_mistakes(1));
}

#[test]
fn a_second_head_of_a_stream_that_ended_is_left_to_h2() {
    let now = Instant::now();
    let second = of_stream(1, HEADERS, TRAILERS, b"\x82\x84\x86");
    for ended in [
        of_stream(1, HEADERS, TRAILERS, b"\x82\x84\x86"),
        [
            of_stream(1, HEADERS, END_HEADERS, b"\x82"),
            of_stream(1, DATA, END_STREAM, b"x"),
        ]
        .concat(),
        [
            of_stream(1, HEADERS, END_HEADERS, b"\x82"),
            of_stream(1, HEADERS, TRAILERS, b"\x90"),
        ]
        .concat(),
        [
            of_stream(1, HEADERS, TRAILERS, b"\x82"),
            of_stream(3, HEADERS, END_HEADERS, b"\x82"),
            of_stream(255, HEADERS, END_HEADERS, b"\x82"),
        ]
        .concat(),
    ] {
        let mut frames = after_settings(now);
        frames.scan(&mut ended.clone(), 0, || now).unwrap();
        let mut bytes = second.clone();
        frames.scan(&mut bytes, 0, || now).unwrap();
        assert_eq!(bytes, second);
        // the others are still open
        if ended.len() > 50 {
            let mut bytes = of_stream(3, HEADERS, TRAILERS, b"\x84");
            frames.scan(&mut bytes, 0, || now).unwrap();
            assert_eq!(bytes[4], END_HEADERS);
        }
    }
}
