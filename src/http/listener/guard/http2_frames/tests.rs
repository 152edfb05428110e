//! Tests the frame counters with bytes split in every way.

use super::*;

fn frame(length: u16, kind: u8, flags: u8) -> Vec<u8> {
    let [high, low] = length.to_be_bytes();
    let mut bytes = vec![0, high, low, kind, flags, 0, 0, 0, 1];
    bytes.resize(HEADER_BYTES + usize::from(length), 0x55);
    bytes
}

fn after_settings(now: Instant) -> Frames {
    let mut frames = Frames::new();
    frames.scan(&[b'P'; PREFACE_BYTES], 0, || now).unwrap();
    assert!(!frames.is_settled());
    frames.scan(&frame(0, SETTINGS, 0), 0, || now).unwrap();
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
            frames.scan(&frame(length, kind, flags), 0, || now).unwrap();
        }
        assert_eq!(frames.scan(&frame(length, kind, flags), 0, || now), Err(Flood), "type {kind}");
        let now = now + Duration::from_secs(1);
        for _ in 0..50 {
            assert!(
                frames.scan(&frame(length, kind, flags), 0, || now).is_ok(),
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
        frames.scan(&frame(20, HEADERS, END_HEADERS), 0, || now).unwrap();
        frames.scan(&frame(1, DATA, 0), 0, || now).unwrap();
        frames.scan(&frame(0, DATA, END_STREAM), 0, || now).unwrap();
    }
    assert!(frames.is_settled());
}

#[test]
fn window_updates_explained_by_written_bytes_are_free() {
    let now = Instant::now();
    let mut frames = after_settings(now);
    // ten gigabytes in frames of 16 KiB, each followed by two updates
    for sent in 1..=(10_u64 << 30) / 16_384 {
        frames.scan(&frame(4, WINDOW_UPDATE, 0), sent * 16_384, || now).unwrap();
        frames.scan(&frame(4, WINDOW_UPDATE, 0), sent * 16_384, || now).unwrap();
    }
    // many small messages
    let mut frames = after_settings(now);
    for sent in 1..=100_000_u64 {
        frames.scan(&frame(4, WINDOW_UPDATE, 0), sent * 24, || now).unwrap();
        frames.scan(&frame(4, WINDOW_UPDATE, 0), sent * 24, || now).unwrap();
    }
}

#[test]
fn a_header_block_is_owed_until_it_ends_and_has_a_limited_number_of_frames() {
    let now = Instant::now();
    let mut frames = after_settings(now);
    frames.scan(&frame(20, HEADERS, 0), 0, || now).unwrap();
    assert!(!frames.is_settled());
    for _ in 0..CONTINUATIONS_MAX {
        frames.scan(&frame(1, CONTINUATION, 0), 0, || now).unwrap();
    }
    assert_eq!(frames.scan(&frame(1, CONTINUATION, END_HEADERS), 0, || now), Err(Flood));
    let mut frames = after_settings(now);
    let last = frame(20, HEADERS, END_HEADERS);
    frames.scan(&last[..28], 0, || now).unwrap();
    assert!(!frames.is_settled(), "a byte is missing");
    frames.scan(&last[28..], 0, || now).unwrap();
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
        let flood = stream.chunks(piece).find_map(|bytes| {
            seen += bytes.len();
            frames.scan(bytes, 0, || now).err()
        });
        assert_eq!(flood, Some(Flood), "in pieces of {piece}");
        // the header of the last frame is one frame too many
        assert!(seen >= full - 2 && seen < full - 2 + piece, "in pieces of {piece}: {seen}");
    }
}
