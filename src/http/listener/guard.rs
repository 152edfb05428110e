//! A second check of the bytes that clients send, in addition to hyper's and never in its place (docs/decisions/0011).
//!
//! `http1_framing` follows the framing of every HTTP/1 message byte by byte and refuses bytes that could be read in two
//! ways; `http2_frames` counts HTTP/2 frames that cost the gate more than their sender, and finds malformed trailers
//! that hyper would repair (`header_blocks`). Both can only refuse. Bytes that they let pass are unchanged, and hyper
//! still parses, bounds and refuses them: a fault in the guard can refuse too much, but never lets more through than
//! hyper alone.

mod frame_reader;
mod header_blocks;
pub mod http1_framing;
pub mod http2_frames;
