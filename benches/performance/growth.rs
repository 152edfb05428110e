//! What the gate costs as policies, entities, roles, portals, tokens and connections grow.

use crate::Extent;
use crate::report::Section;

pub fn sections(_extent: Extent) -> Vec<Section> {
    Vec::new()
}
