//! The same job done by the gate and by its peers, after each of them has proved that it gives the right answers.

use crate::Extent;
use crate::report::Section;

pub fn sections(_extent: Extent) -> Vec<Section> {
    Vec::new()
}
