//! The text of zstd frames in a row. A decoder without C code, because a log holds what clients sent.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// Largest window of a frame, in bytes: what the decoder holds in memory. The tool `zstd` writes at most this without
/// `--ultra` and `--long`.
const WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;

pub(super) struct ZstdReader<R> {
    from: R,
    frame: FrameDecoder,
    /// False before the first frame, and between frames.
    is_in_frame: bool,
}

impl<R: BufRead> ZstdReader<R> {
    pub fn new(from: R) -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(WINDOW_BYTES_MAX);
        Self {
            from,
            frame,
            is_in_frame: false,
        }
    }

    /// Reads the header of the next frame; frames without content are skipped. False at the end.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.from.fill_buf()?.is_empty() {
            match self.frame.reset(&mut self.from) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut self.from.by_ref().take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.is_in_frame {
                if !self.next_frame()? {
                    return Ok(0);
                }
                self.is_in_frame = true;
            }
            while self.frame.can_collect() == 0 && !self.frame.is_finished() {
                let one_block = BlockDecodingStrategy::UptoBlocks(1);
                self.frame
                    .decode_blocks(&mut self.from, one_block)
                    .map_err(io::Error::other)?;
            }
            if self.frame.can_collect() > 0 {
                return self.frame.read(buffer);
            }
            self.is_in_frame = false;
        }
    }
}
