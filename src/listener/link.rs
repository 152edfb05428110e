//! What a request knows of the connection it came on.

use std::rc::Rc;

use super::{Counted, PeerAddr};
use crate::types::Scheme;

/// One client connection. Whoever holds it keeps the connection's place in `limits.connections`: an upgraded
/// connection outlives the HTTP that opened it.
#[derive(Debug)]
pub struct Link {
    /// The client as the socket, or a PROXY header from a trusted proxy, says.
    pub peer: PeerAddr,
    /// `Https` where TLS ended here.
    pub scheme: Scheme,
    _place: Counted,
}

impl Link {
    pub fn new(peer: PeerAddr, scheme: Scheme, place: Counted) -> Rc<Self> {
        Rc::new(Self {
            peer,
            scheme,
            _place: place,
        })
    }
}
