//! How a portal's app reads paths: `paths` of `portal.yaml`.
//!
//! [`PathRules::read`] is the one step between a request's path and all that looks at it: policies, routes, public
//! entries and emergency forbids see a [`PathReading`], never the path itself. Without the key a reading is the path as
//! it is.

use std::borrow::Cow;

use super::case::{folded, folded_where_clear};
use super::{CanonicalPath, is_at_or_below};
use crate::denial::{Denial, Refusal};

/// The `paths` of a portal; the default reads every path as it is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PathRules {
    pub case: Case,
    /// Plain ids of the prefixes whose paths keep opaque segments.
    pub opaque: Vec<String>,
}

/// The difference that upper and lower case make to the app.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Case {
    #[default]
    Distinguished,
    /// `/Shop` and `/shop` are one path.
    Ignored,
}

/// A request's path as one portal decides on it.
#[derive(Clone, Debug)]
pub struct PathReading<'a> {
    id: Cow<'a, str>,
    plain: Cow<'a, str>,
    /// The plain id in the case that the client wrote: the source of a route's values.
    written: &'a str,
    /// Ids by which an app reads the path that decodes opaque segments: only forbids see them.
    others: Vec<Cow<'a, str>>,
}

impl PathRules {
    /// The path as this portal decides on it; a refusal that names the key if the portal's rules do not allow the path.
    pub fn read<'a>(&self, path: &'a CanonicalPath) -> Result<PathReading<'a>, Refusal> {
        let mut reading = PathReading {
            id: Cow::Borrowed(path.id()),
            plain: Cow::Borrowed(path.plain_id()),
            written: path.plain_id(),
            others: Vec::new(),
        };
        if let Some(part) = path.opaque() {
            let ordinary = self.fold(&part.ordinary)?;
            if !self.opaque.iter().any(|prefix| is_at_or_below(&ordinary, prefix)) {
                return Err(path.not_opaque());
            }
            reading.others = part.readings.iter().map(|id| Cow::Borrowed(id.as_str())).collect();
        }
        if self.case == Case::Ignored {
            reading.id = self.fold(path.id())?;
            reading.plain = self.fold(path.plain_id())?;
            let others = std::mem::take(&mut reading.others).into_iter();
            reading.others = others
                .map(|id| self.fold(&id).map(|id| Cow::Owned(id.into_owned())))
                .collect::<Result<_, _>>()?;
        }
        Ok(reading)
    }

    /// True if the path is at or below a portal's prefix, as this portal compares paths.
    pub fn is_below(&self, path: &CanonicalPath, prefix: &str) -> bool {
        match self.case {
            Case::Distinguished => is_at_or_below(path.ordinary_id(), prefix),
            Case::Ignored => is_at_or_below(&folded_where_clear(path.ordinary_id()), &folded_where_clear(prefix)),
        }
    }

    /// An id in the case in which this portal compares it.
    pub fn fold<'a>(&self, id: &'a str) -> Result<Cow<'a, str>, Refusal> {
        match self.case {
            Case::Distinguished => Ok(Cow::Borrowed(id)),
            Case::Ignored => folded(id).map_err(|error| path_refused(error.to_string())),
        }
    }
}

impl<'a> PathReading<'a> {
    /// The id that is decided on.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id in plain spelling: all look-ups compare this one.
    pub fn plain_id(&self) -> &str {
        &self.plain
    }

    /// The plain id in the case that the client wrote, segment by segment beside `plain_id`.
    pub fn written(&self) -> &'a str {
        self.written
    }

    /// Every id on which a forbid counts, the path's own first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.id()).chain(self.further_ids())
    }

    /// The same without the path's own id.
    pub fn further_ids(&self) -> impl Iterator<Item = &str> {
        let plain = (self.plain != self.id).then(|| self.plain_id());
        plain.into_iter().chain(self.others.iter().map(|id| &**id))
    }
}

impl CanonicalPath {
    /// The refusal of a path with opaque segments where no portal allows them.
    pub fn not_opaque(&self) -> Refusal {
        let rule = self.opaque().map_or_else(String::new, |part| part.rule.to_string());
        path_refused(format!(
            "{rule}; `paths.opaque` in portal.yaml names the prefixes whose paths may have it"
        ))
    }
}

/// A path that is refused: the caller may read why.
pub fn path_refused(detail: String) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail).with_public_detail()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(case: Case, opaque: &[&str]) -> PathRules {
        PathRules {
            case,
            opaque: opaque.iter().map(|prefix| (*prefix).to_owned()).collect(),
        }
    }

    #[test]
    fn a_prefix_allows_opaque_segments_below_it_alone() {
        let rules = rules(Case::Distinguished, &["/api/v4", "/x:y"]);
        for raw in ["/api/v4/g%2Fp", "/api/v4//p", "/api/v4/a/b;c", "/x%3ay/a;b", "/api/v4//"] {
            let path = CanonicalPath::parse_request(raw).unwrap();
            assert_eq!(rules.read(&path).unwrap().id(), path.id(), "{raw}");
        }
        for raw in [
            "/api/v4;x",
            "/api//v4/p",
            "/api/v4%2fp",
            "/other/a;b",
            "/api/V4/a;b",
            "/api/v45/a;b",
        ] {
            let path = CanonicalPath::parse_request(raw).unwrap();
            let refusal = rules.read(&path).unwrap_err();
            assert!(
                refusal.detail.contains("paths.opaque") && refusal.is_detail_public,
                "{raw}: {}",
                refusal.detail
            );
        }
    }

    #[test]
    fn an_app_that_ignores_case_gets_one_id_for_every_case() {
        let rules = rules(Case::Ignored, &["/api"]);
        let path = CanonicalPath::parse_request("/API/Group%2fX/%C3%89").unwrap();
        let reading = rules.read(&path).unwrap();
        // the case of an escape's digits is none of the app's, either
        assert_eq!(reading.id(), "/api/group%2Fx/%C3%A9");
        assert_eq!(reading.plain_id(), "/api/group%2Fx/%C3%A9");
        assert_eq!(reading.written(), "/API/Group%2FX/%C3%89");
        let ids: Vec<&str> = reading.ids().collect();
        assert_eq!(ids, ["/api/group%2Fx/%C3%A9", "/api/group/x/%C3%A9"]);
        let doubtful = CanonicalPath::parse("/api/%CF%82").unwrap();
        assert!(rules.read(&doubtful).unwrap_err().detail.contains("case"));
    }
}
