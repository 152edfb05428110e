//! Routes: method and path template → action and resource; and the public paths.
//!
//! Built when a portal's files are loaded, read on every request. Lookup walks a tree by segment, so its cost follows
//! the path, not the number of routes. Must never give two different sets of captured values the same resource id.
//!
//! Resource ids: `"{order}"` alone is the decoded text of the segment. An id put together from more parts escapes in
//! each value everything but `A-Z a-z 0-9 - . _ ~`, and between two values there is a character outside of these and
//! `%`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use thiserror::Error;

use super::path::case::folded;
use super::path::rules::{Case, PathReading};
use super::path::{decoded_segment, escape_all, is_canonical_id, plain_segment, segments_of};

/// A route as `portal.yaml` writes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteSpec {
    /// `GET /portal/customer/orders/{order}`
    pub route: String,
    /// `viewOrder` or `NS::Action::"viewOrder"`
    pub action: String,
    pub resource_type: String,
    pub resource_id: String,
}

/// A loaded route; action and resource type as written, for the revision to resolve against its schema.
#[derive(Clone, Debug)]
pub struct Route {
    /// Position in the file, and in [`RouteTable::routes`].
    pub index: usize,
    pub method: String,
    /// The path template as written: the `http.route` of logs.
    pub text: Arc<str>,
    pub action: String,
    pub resource_type: String,
    resource_id: IdTemplate,
}

#[derive(Clone, Debug)]
pub struct RouteMatch {
    pub route: Arc<Route>,
    /// Made of the values as the client wrote them.
    pub resource_id: String,
    /// Made of the values in lower case, where the app ignores case and this id differs: its forbids count, too.
    pub folded_id: Option<String>,
}

/// All routes of a portal.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    methods: FxHashMap<String, RouteNode>,
}

/// Paths that need no identity.
#[derive(Clone, Debug, Default)]
pub struct PublicPaths {
    entries: Vec<(String, Vec<RouteSegment>)>,
    methods: FxHashMap<String, RouteNode>,
    /// The entries of all methods together, for [`Self::overlaps`].
    any_method: RouteNode,
}

/// One entry of `public`.
#[derive(Clone, Copy, Debug)]
pub struct PublicEntry<'a> {
    /// As written.
    pub text: &'a str,
    pub method: &'a str,
}

/// The part of the tree below a path that a rule covers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RuleReach {
    Exact,
    Subtree,
}

#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum RouteError {
    #[error("`{0}` is not `METHOD /path`; write the method in upper case, one space, and a path that starts with `/`")]
    Form(String),
    #[error("segment `{segment}` of `{route}` is not canonical; write it as the gate forwards it")]
    Literal { route: String, segment: String },
    #[error("segment `{segment}` of `{route}` is not a literal, `{{name}}`, `*` or a last `**`")]
    Template { route: String, segment: String },
    #[error("`{route}` captures `{name}` twice; give each segment its own name")]
    CapturedTwice { route: String, name: String },
    #[error("`{route}` matches exactly what `{other}` matches; keep one of them")]
    Ambiguous { route: String, other: String },
    #[error("resource id `{id}` uses `{{{name}}}`, which `{route}` does not capture")]
    UnknownCapture { route: String, id: String, name: String },
    #[error("resource id `{0}` has a `{{` or `}}` that belongs to no name")]
    Braces(String),
    #[error("resource id `{0}` puts two values side by side, so that two resources could share it; put a `/` or `:` between")]
    NotInjective(String),
    #[error("`{0}` has an empty `{1}`")]
    Empty(String, &'static str),
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum RouteSegment {
    /// In plain spelling: see `CanonicalPath::plain_id`; in lower case where the app ignores case.
    Literal(String),
    /// `{name}`; `*` has no name.
    Any(Option<String>),
    /// `**`: zero or more, always last.
    Rest,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum SegmentPart {
    Literal(String),
    /// The segment of the path at this position.
    Value(usize),
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct IdTemplate(Vec<SegmentPart>);

/// The method whose routes and public entries hold for this method too: a HEAD is a GET whose answer has no body (RFC
/// 9110, 9.3.2).
///
/// SECURITY: a request that borrows an entry must also survive every forbid of the method that lends it.
pub fn lender(method: &str) -> Option<&'static str> {
    (method == "HEAD").then_some("GET")
}

/// The rule of a method, and that of its lender.
struct Methods<'a> {
    own: Option<&'a RouteNode>,
    other: Option<&'a RouteNode>,
}

/// Paths that share a prefix share nodes; each node is visited at most once per lookup.
#[derive(Clone, Debug, Default)]
struct RouteNode {
    literals: FxHashMap<String, RouteNode>,
    any: Option<Box<RouteNode>>,
    /// Index of the entry that ends here.
    here: Option<usize>,
    /// Index of the entry that goes on with `**`.
    rest: Option<usize>,
    /// The least index of this node and all nodes below it, where [`RouteNode::note`] was called.
    least: Option<usize>,
}

type Segments<'a> = SmallVec<[&'a str; 16]>;

impl RouteTable {
    /// All errors at once, each with the position of its spec.
    pub fn new(specs: &[RouteSpec], case: Case) -> Result<Self, Vec<(usize, RouteError)>> {
        let mut table = Self::default();
        let mut errors = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            if let Err(error) = table.insert(spec, case) {
                errors.push((index, error));
            }
        }
        if errors.is_empty() { Ok(table) } else { Err(errors) }
    }

    fn insert(&mut self, spec: &RouteSpec, case: Case) -> Result<(), RouteError> {
        for (value, key) in [
            (&spec.action, "action"),
            (&spec.resource_type, "resource.type"),
            (&spec.resource_id, "resource.id"),
        ] {
            if value.trim().is_empty() {
                return Err(RouteError::Empty(spec.route.clone(), key));
            }
        }
        let (method, text, segments) = parse_entry(&spec.route, case)?;
        let index = self.routes.len();
        let route = Route {
            index,
            method: method.to_owned(),
            text: Arc::from(text),
            action: spec.action.clone(),
            resource_type: spec.resource_type.clone(),
            resource_id: IdTemplate::parse(&spec.resource_id, &segments, &spec.route)?,
        };
        let end = self.methods.entry(method.to_owned()).or_default().end_of(&segments);
        if let Some(other) = end.and_then(|taken| self.routes.get(taken)) {
            return Err(RouteError::Ambiguous {
                route: spec.route.clone(),
                other: other.to_string(),
            });
        }
        *end = Some(index);
        self.routes.push(Arc::new(route));
        Ok(())
    }

    /// The most specific route: segment by segment from the left a literal beats `{name}` and `*`, and these beat `**`.
    /// Methods compare verbatim; a HEAD without a route of its own takes GET's.
    pub fn find(&self, method: &str, path: &PathReading<'_>) -> Option<RouteMatch> {
        let methods = Methods::of(&self.methods, method)?;
        let segments: Segments<'_> = segments_of(path.plain_id()).collect();
        let index = methods.find(&segments)?;
        let route = Arc::clone(self.routes.get(index)?);
        if path.written() == path.plain_id() {
            let resource_id = route.resource_id.fill(&segments)?;
            return Some(RouteMatch {
                route,
                resource_id,
                folded_id: None,
            });
        }
        let written: Segments<'_> = segments_of(path.written()).collect();
        let resource_id = route.resource_id.fill(&written)?;
        let folded_id = route.resource_id.fill(&segments).filter(|folded| *folded != resource_id);
        Some(RouteMatch {
            route,
            resource_id,
            folded_id,
        })
    }

    /// In the order of the file.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}

impl PublicPaths {
    /// All errors at once, each with the position of its entry.
    pub fn new<S: AsRef<str>>(entries: &[S], case: Case) -> Result<Self, Vec<(usize, RouteError)>> {
        let mut paths = Self::default();
        let mut errors = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            match parse_entry(entry.as_ref(), case) {
                Ok((method, _, segments)) => {
                    // of two equal entries the first counts
                    let number = paths.entries.len();
                    let node = paths.methods.entry(method.to_owned()).or_default();
                    node.end_of(&segments).get_or_insert(number);
                    paths.any_method.end_of(&segments).get_or_insert(number);
                    paths.any_method.note(&segments, number);
                    paths.entries.push((entry.as_ref().to_owned(), segments));
                }
                Err(error) => errors.push((index, error)),
            }
        }
        if errors.is_empty() { Ok(paths) } else { Err(errors) }
    }

    /// The method of the entry that makes this path public; GET's entries hold for HEAD.
    pub fn find(&self, method: &str, path: &PathReading<'_>) -> Option<&str> {
        let methods = Methods::of(&self.methods, method)?;
        let segments: Segments<'_> = segments_of(path.plain_id()).collect();
        let (text, _) = self.entries.get(methods.find(&segments)?)?;
        text.split_once(' ').map(|(method, _)| method)
    }

    /// In the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = PublicEntry<'_>> {
        self.entries.iter().filter_map(|(text, _)| {
            let (method, _) = text.split_once(' ')?;
            Some(PublicEntry { text, method })
        })
    }

    /// The first entry, of any method, that could match the path itself or, with [`RuleReach::Subtree`], anything under
    /// it.
    pub fn overlaps(&self, path_id: &str, reach: RuleReach) -> Option<&str> {
        let plain: SmallVec<[Cow<'_, str>; 16]> = segments_of(path_id).map(plain_segment).collect();
        let mut first = None;
        self.any_method.touched_by(&plain, reach, &mut first);
        self.entries.get(first?).map(|(text, _)| text.as_str())
    }

    /// The first entry that makes some path public that the route matches.
    pub fn of_route(&self, route: &Route, case: Case) -> Option<&str> {
        let written = route.to_string();
        let (method, _, segments) = parse_entry(&written, case).ok()?;
        let is_asked = |text: &str| {
            let of = text.split_once(' ').map(|(method, _)| method);
            of == Some(method) || of == lender(method)
        };
        let mut entries = self.entries.iter().filter(|(text, _)| is_asked(text));
        entries
            .find(|(_, pattern)| meet(pattern, &segments))
            .map(|(text, _)| text.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// True if some path matches both templates.
fn meet(one: &[RouteSegment], other: &[RouteSegment]) -> bool {
    match (one.split_first(), other.split_first()) {
        (Some((RouteSegment::Rest, _)), _) | (_, Some((RouteSegment::Rest, _))) => true,
        (None, None) => true,
        (None, Some(_)) | (Some(_), None) => false,
        (Some((RouteSegment::Literal(a), _)), Some((RouteSegment::Literal(b), _))) if a != b => false,
        (Some((_, one)), Some((_, other))) => meet(one, other),
    }
}

impl RouteNode {
    fn end_of(&mut self, segments: &[RouteSegment]) -> &mut Option<usize> {
        let Some((first, others)) = segments.split_first() else {
            return &mut self.here;
        };
        match first {
            RouteSegment::Literal(text) => self.literals.entry(text.clone()).or_default().end_of(others),
            RouteSegment::Any(_) => self.any.get_or_insert_default().end_of(others),
            RouteSegment::Rest => &mut self.rest,
        }
    }

    /// Notes an entry in the nodes that lead to it. Entries come in the order of their indexes.
    fn note(&mut self, segments: &[RouteSegment], index: usize) {
        self.least.get_or_insert(index);
        let Some((first, others)) = segments.split_first() else {
            return;
        };
        match first {
            RouteSegment::Literal(text) => self.literals.entry(text.clone()).or_default().note(others, index),
            RouteSegment::Any(_) => self.any.get_or_insert_default().note(others, index),
            RouteSegment::Rest => {}
        }
    }

    /// Lowers `first` to the least index of an entry that could match the path itself or, with [`RuleReach::Subtree`],
    /// anything under it.
    fn touched_by<S: AsRef<str>>(&self, segments: &[S], reach: RuleReach, first: &mut Option<usize>) {
        let is_earlier = |index: usize, first: &Option<usize>| first.is_none_or(|known| index < known);
        if !self.least.is_some_and(|least| is_earlier(least, first)) {
            return;
        }
        let Some((segment, others)) = segments.split_first() else {
            let ends = match reach {
                RuleReach::Exact => self.here.into_iter().chain(self.rest).min(),
                RuleReach::Subtree => self.least,
            };
            *first = ends.filter(|index| is_earlier(*index, first)).or(*first);
            return;
        };
        *first = self.rest.filter(|index| is_earlier(*index, first)).or(*first);
        for node in self.literals.get(segment.as_ref()).into_iter().chain(self.any.as_deref()) {
            node.touched_by(others, reach, first);
        }
    }

    fn find(&self, segments: &[&str]) -> Option<usize> {
        let Some((first, others)) = segments.split_first() else {
            return self.here.or(self.rest);
        };
        let literal = self.literals.get(*first).and_then(|node| node.find(others));
        // an empty segment of an opaque path is no value
        let any = self.any.as_ref().filter(|_| !first.is_empty());
        let found = literal.or_else(|| any.and_then(|node| node.find(others)));
        found.or(self.rest)
    }
}

impl IdTemplate {
    fn parse(id: &str, segments: &[RouteSegment], route: &str) -> Result<Self, RouteError> {
        let mut parts = Vec::new();
        let mut tail = id;
        while let Some((literal, after)) = tail.split_once('{') {
            let (name, others) = after.split_once('}').ok_or_else(|| RouteError::Braces(id.to_owned()))?;
            push_literal(&mut parts, literal, id)?;
            let captured = |segment: &RouteSegment| matches!(segment, RouteSegment::Any(Some(own)) if own == name);
            let value = segments.iter().position(captured).ok_or_else(|| RouteError::UnknownCapture {
                route: route.to_owned(),
                id: id.to_owned(),
                name: name.to_owned(),
            })?;
            parts.push(SegmentPart::Value(value));
            tail = others;
        }
        push_literal(&mut parts, tail, id)?;
        check_injective(&parts, id)?;
        Ok(Self(parts))
    }

    /// `None` only if a segment is missing, which a matching path cannot do.
    fn fill(&self, segments: &[&str]) -> Option<String> {
        if let [SegmentPart::Value(value)] = self.0.as_slice() {
            return segments.get(*value).map(|segment| decoded_segment(segment).into_owned());
        }
        let mut id = String::new();
        for part in &self.0 {
            match part {
                SegmentPart::Literal(text) => id.push_str(text),
                SegmentPart::Value(value) => id.push_str(&escape_all(&decoded_segment(segments.get(*value)?))),
            }
        }
        Some(id)
    }
}

impl Route {
    /// The bytes before the route in the text of its file. Its path may also be another route's, or the beginning of
    /// one.
    pub fn written_at(&self, text: &str) -> Option<usize> {
        let written = self.to_string();
        let is_whole = |after: &str| {
            let next = after.chars().next();
            next.is_none_or(|c| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '}'))
        };
        let mut found = text.match_indices(&written).map(|(offset, _)| offset);
        found.find(|offset| is_whole(text.get(offset + written.len()..).unwrap_or_default()))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.text)
    }
}

fn push_literal(parts: &mut Vec<SegmentPart>, literal: &str, id: &str) -> Result<(), RouteError> {
    if literal.contains(['{', '}']) {
        return Err(RouteError::Braces(id.to_owned()));
    }
    if !literal.is_empty() {
        parts.push(SegmentPart::Literal(literal.to_owned()));
    }
    Ok(())
}

/// The first separator character after a value ends it, so that an id can be taken apart again.
fn check_injective(parts: &[SegmentPart], id: &str) -> Result<(), RouteError> {
    let separates = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '%'));
    let neighbours = parts.iter().zip(parts.iter().skip(1));
    let side_by_side = neighbours
        .clone()
        .any(|pair| matches!(pair, (SegmentPart::Value(_), SegmentPart::Value(_))));
    let weak = neighbours.zip(parts.iter().skip(2)).any(
        |((before, between), after)| matches!((before, between, after), (SegmentPart::Value(_), SegmentPart::Literal(text), SegmentPart::Value(_)) if !text.contains(separates)),
    );
    if side_by_side || weak {
        return Err(RouteError::NotInjective(id.to_owned()));
    }
    Ok(())
}

impl<'a> Methods<'a> {
    fn of(all: &'a FxHashMap<String, RouteNode>, method: &str) -> Option<Self> {
        let own = all.get(method);
        let other = lender(method).and_then(|lender| all.get(lender));
        (own.is_some() || other.is_some()).then_some(Self { own, other })
    }

    fn find(&self, segments: &[&str]) -> Option<usize> {
        let find = |node: Option<&RouteNode>| node.and_then(|node| node.find(segments));
        find(self.own).or_else(|| find(self.other))
    }
}

/// `METHOD /template` → method, template as written, segments.
fn parse_entry(entry: &str, case: Case) -> Result<(&str, &str, Vec<RouteSegment>), RouteError> {
    let form = || RouteError::Form(entry.to_owned());
    let (method, text) = entry.split_once(' ').ok_or_else(form)?;
    let upper = |b: u8| b.is_ascii_uppercase() || matches!(b, b'-' | b'_');
    if method.is_empty() || !method.bytes().all(upper) {
        return Err(form());
    }
    let path = text.strip_prefix('/').ok_or_else(form)?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut segments = Vec::new();
    let mut raw = path.split('/').filter(|_| !path.is_empty()).peekable();
    while let Some(segment) = raw.next() {
        if segments.len() == super::path::PATH_SEGMENTS_MAX || (segment == "**" && raw.peek().is_some()) {
            return Err(template_error(entry, segment));
        }
        segments.push(parse_segment(segment, &segments, entry, case)?);
    }
    Ok((method, text, segments))
}

fn parse_segment(segment: &str, before: &[RouteSegment], entry: &str, case: Case) -> Result<RouteSegment, RouteError> {
    match segment {
        "*" => return Ok(RouteSegment::Any(None)),
        "**" => return Ok(RouteSegment::Rest),
        _ => {}
    }
    if let Some(name) = segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
        let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        if !first || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(template_error(entry, segment));
        }
        let capture = RouteSegment::Any(Some(name.to_owned()));
        if before.contains(&capture) {
            return Err(RouteError::CapturedTwice {
                route: entry.to_owned(),
                name: name.to_owned(),
            });
        }
        return Ok(capture);
    }
    if segment.contains(['{', '}', '*']) {
        return Err(template_error(entry, segment));
    }
    let literal = || RouteError::Literal {
        route: entry.to_owned(),
        segment: segment.to_owned(),
    };
    if !is_canonical_id(&format!("/{segment}")) || segment.is_empty() {
        return Err(literal());
    }
    let plain = plain_segment(segment);
    let compared = match case {
        Case::Distinguished => plain,
        Case::Ignored => folded(&plain).map_err(|_no_pair| literal())?.into_owned().into(),
    };
    Ok(RouteSegment::Literal(compared.into_owned()))
}

fn template_error(entry: &str, segment: &str) -> RouteError {
    RouteError::Template {
        route: entry.to_owned(),
        segment: segment.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::portal::path::CanonicalPath;
    use crate::portal::path::rules::PathRules;

    fn spec(route: &str, id: &str) -> RouteSpec {
        RouteSpec {
            route: route.to_owned(),
            action: "view".to_owned(),
            resource_type: "Order".to_owned(),
            resource_id: id.to_owned(),
        }
    }

    fn table(routes: &[(&str, &str)]) -> RouteTable {
        let specs = routes.iter().map(|(route, id)| spec(route, id)).collect::<Vec<_>>();
        RouteTable::new(&specs, Case::Distinguished).unwrap()
    }

    fn refused(routes: &[(&str, &str)]) -> RouteError {
        let specs: Vec<_> = routes.iter().map(|(route, id)| spec(route, id)).collect();
        RouteTable::new(&specs, Case::Distinguished).unwrap_err().remove(0).1
    }

    fn path(raw: &str) -> CanonicalPath {
        CanonicalPath::parse(raw).unwrap()
    }

    fn reading(path: &CanonicalPath) -> PathReading<'_> {
        PathRules::default().read(path).unwrap()
    }

    fn found(table: &RouteTable, method: &str, raw: &str) -> Option<(String, String)> {
        table
            .find(method, &reading(&path(raw)))
            .map(|m| (m.route.to_string(), m.resource_id))
    }

    #[test]
    fn the_most_specific_route_wins_from_the_left() {
        let table = table(&[
            ("GET /a/**", "rest"),
            ("GET /a/{x}/c", "any-c"),
            ("GET /a/b/{y}", "b-any"),
            ("GET /a/b/c", "exact"),
            ("GET /{z}/b/c", "{z}"),
        ]);
        for (raw, id) in [
            ("/a/b/c", "exact"),
            ("/a/b/c/", "exact"),
            ("/a/b/d", "b-any"),
            ("/a/x/c", "any-c"),
            ("/a/x/d", "rest"),
            ("/a", "rest"),
            ("/a/b/c/d", "rest"),
            ("/q/b/c", "q"),
        ] {
            assert_eq!(found(&table, "GET", raw).unwrap().1, id, "{raw}");
        }
        assert_eq!(found(&table, "GET", "/q/b"), None);
        assert_eq!(found(&table, "POST", "/a/b/c"), None);
        assert_eq!(found(&table, "get", "/a/b/c"), None);
    }

    #[test]
    fn head_uses_gets_route_unless_it_has_its_own() {
        let table = table(&[("GET /a", "get"), ("GET /b", "get"), ("HEAD /b", "head")]);
        assert_eq!(found(&table, "HEAD", "/a").unwrap().1, "get");
        assert_eq!(found(&table, "HEAD", "/b").unwrap().1, "head");
    }

    #[test]
    fn a_needless_escape_does_not_step_around_a_literal() {
        let table = table(&[("GET /reports:export", "export"), ("GET /{id}", "{id}")]);
        assert_eq!(found(&table, "GET", "/reports%3aexport").unwrap().1, "export");
        assert_eq!(found(&table, "GET", "/other%3Aexport").unwrap().1, "other:export");
    }

    #[test]
    fn a_single_value_is_decoded_and_composed_values_are_escaped() {
        let table = table(&[("GET /o/{order}", "{order}"), ("GET /t/{tenant}/{order}", "{tenant}/{order}")]);
        assert_eq!(found(&table, "GET", "/o/caf%c3%a9%20%25").unwrap().1, "café %");
        assert_eq!(found(&table, "GET", "/t/a:b/c%20d").unwrap().1, "a%3Ab/c%20d");
    }

    #[test]
    fn an_app_that_ignores_case_has_one_route_for_every_case_and_keeps_values() {
        let rules = PathRules {
            case: Case::Ignored,
            opaque: vec!["/o".to_owned()],
        };
        let specs = [spec("GET /Orders/{order}", "{order}"), spec("GET /o/{a}/x", "{a}")];
        let table = RouteTable::new(&specs, Case::Ignored).unwrap();
        let find = |raw: &str| {
            let path = CanonicalPath::parse_request(raw).unwrap();
            table
                .find("GET", &rules.read(&path).unwrap())
                .map(|m| (m.resource_id, m.folded_id))
        };
        let ids = |id: &str, folded: Option<&str>| Some((id.to_owned(), folded.map(str::to_owned)));
        assert_eq!(find("/orders/A7"), ids("A7", Some("a7")));
        assert_eq!(find("/ORDERS/7"), ids("7", None));
        assert_eq!(find("/O/G%2FP/X"), ids("G/P", Some("g/p")));
        assert_eq!(find("/o//x"), None);
        let twice = [spec("GET /a", "1"), spec("GET /A", "2")];
        assert!(RouteTable::new(&twice, Case::Distinguished).is_ok());
        assert!(matches!(
            RouteTable::new(&twice, Case::Ignored).unwrap_err()[0].1,
            RouteError::Ambiguous { .. }
        ));
    }

    #[test]
    fn two_routes_of_one_shape_are_an_error_that_names_both() {
        for (first, second) in [
            ("GET /a/{x}", "GET /a/{y}"),
            ("GET /a/*", "GET /a/{y}"),
            ("GET /a", "GET /a/"),
            ("GET /a/**", "GET /a/**"),
            ("GET /a:b", "GET /a%3Ab"),
        ] {
            let text = refused(&[(first, "1"), (second, "2")]).to_string();
            assert!(text.contains(first) && text.contains(second), "{text}");
        }
        table(&[("GET /a/{x}", "1"), ("POST /a/{x}", "2"), ("GET /a", "3"), ("GET /a/**", "4")]);
    }

    #[test]
    fn bad_templates_are_refused() {
        for route in ["GET", "/a", "get /a", "GET a", "GET  /a", "GET /a b", "GET /a/", "GET /"] {
            let good = matches!(route, "GET /a/" | "GET /");
            assert_eq!(
                RouteTable::new(&[spec(route, "1")], Case::Distinguished).is_ok(),
                good,
                "{route}"
            );
        }
        for route in [
            "GET /**/a",
            "GET /{}",
            "GET /{1a}",
            "GET /a{x}",
            "GET /a*",
            "GET //a",
            "GET /a//",
            "GET /../a",
            "GET /%61",
            "GET /é",
            "GET /{x}/{x}",
            "GET /a;b",
            "GET /{a/b}",
        ] {
            assert!(RouteTable::new(&[spec(route, "1")], Case::Distinguished).is_err(), "{route}");
        }
    }

    #[test]
    fn bad_resource_ids_are_refused() {
        let route = "GET /{a}/{b}";
        assert!(matches!(refused(&[(route, "{c}")]), RouteError::UnknownCapture { .. }));
        for id in ["{a", "a}", "{a}}", "x}{a}"] {
            assert!(matches!(refused(&[(route, id)]), RouteError::Braces(_)), "{id}");
        }
        for id in ["{a}{b}", "{a}-{b}", "{a}.x%{b}", "x/{a}_{b}"] {
            assert!(matches!(refused(&[(route, id)]), RouteError::NotInjective(_)), "{id}");
        }
        for id in ["{a}/{b}", "x-{a}:y{b}-z", "{a}", "fixed", "{a}é{b}"] {
            assert!(RouteTable::new(&[spec(route, id)], Case::Distinguished).is_ok(), "{id}");
        }
        assert!(matches!(refused(&[(route, "")]), RouteError::Empty(_, "resource.id")));
    }

    #[test]
    fn public_paths_match_like_routes_and_overlap_conservatively() {
        let public = PublicPaths::new(&["GET /p/assets/**", "POST /p/hook/*", "GET /p"], Case::Distinguished).unwrap();
        for (method, raw, expected) in [
            ("GET", "/p/assets", true),
            ("HEAD", "/p/assets/a/b.js", true),
            ("POST", "/p/assets/a", false),
            ("POST", "/p/hook/1", true),
            ("POST", "/p/hook/1/2", false),
            ("GET", "/p/", true),
            ("GET", "/p/assetsx", false),
        ] {
            assert_eq!(
                public.find(method, &reading(&path(raw))).is_some(),
                expected,
                "{method} {raw}"
            );
        }
        let own = PublicPaths::new(&["GET /p", "HEAD /p"], Case::Distinguished).unwrap();
        assert_eq!(own.find("HEAD", &reading(&path("/p"))), Some("HEAD"));
        assert_eq!(public.find("HEAD", &reading(&path("/p"))), Some("GET"));
        for (id, reach, expected) in [
            ("/p/assets/secret", RuleReach::Exact, Some("GET /p/assets/**")),
            ("/p/assets", RuleReach::Exact, Some("GET /p/assets/**")),
            ("/p/hook", RuleReach::Exact, None),
            ("/p/hook", RuleReach::Subtree, Some("POST /p/hook/*")),
            ("/p/hook/1/2", RuleReach::Subtree, None),
            ("/", RuleReach::Exact, None),
            ("/", RuleReach::Subtree, Some("GET /p/assets/**")),
            ("/q", RuleReach::Subtree, None),
            ("/p", RuleReach::Exact, Some("GET /p")),
        ] {
            assert_eq!(public.overlaps(id, reach), expected, "{id} {reach:?}");
        }
        assert!(PublicPaths::new(&["GET /**/a"], Case::Distinguished).is_err());
    }

    /// One entry alone, without the tree.
    fn touches(pattern: &[RouteSegment], path_id: &str, reach: RuleReach) -> bool {
        let mut pattern = pattern.iter();
        for segment in segments_of(path_id) {
            match pattern.next() {
                Some(RouteSegment::Rest) => return true,
                Some(RouteSegment::Any(_)) => {}
                Some(RouteSegment::Literal(text)) if *text == plain_segment(segment) => {}
                Some(RouteSegment::Literal(_)) | None => return false,
            }
        }
        match (reach, pattern.next()) {
            (RuleReach::Subtree, _) | (RuleReach::Exact, None | Some(RouteSegment::Rest)) => true,
            (RuleReach::Exact, Some(_)) => false,
        }
    }

    /// One rank per segment: literal 0, any 1, rest 2; the smallest list is the most specific.
    fn naive(table: &RouteTable, method: &str, segments: &[&str]) -> Option<usize> {
        let rank = |route: &Arc<Route>| {
            let mut ranks = Vec::new();
            let mut left = segments.iter();
            for part in route.text.split('/').filter(|s| !s.is_empty()) {
                match part {
                    "**" => return Some([ranks, vec![2]].concat()),
                    part if part == "*" || part.starts_with('{') => left.next().map(|_| ranks.push(1))?,
                    part => left.next().filter(|s| **s == part).map(|_| ranks.push(0))?,
                }
            }
            left.next().is_none().then_some(ranks)
        };
        let of = |method: &str| {
            let own = table.routes().iter().filter(|r| r.method == method);
            own.filter_map(|r| Some((rank(r)?, r.index))).min().map(|(_, index)| index)
        };
        of(method).or_else(|| (method == "HEAD").then(|| of("GET")).flatten())
    }

    fn template() -> impl Strategy<Value = String> {
        let segment = prop_oneof![3 => "[abc]", 2 => Just("*".to_owned()), 1 => Just("{x}".to_owned())];
        (proptest::collection::vec(segment, 0..4), any::<bool>()).prop_map(|(segments, rest)| {
            let mut text: String = segments.iter().map(|s| format!("/{s}")).collect();
            text.push_str(if rest { "/**" } else { "" });
            if text.is_empty() { "/".to_owned() } else { text }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_first_overlapping_entry_of_the_tree_is_that_of_the_list(
            entries in proptest::collection::vec(("GET|POST", template().prop_map(|text| text.replace("{x}", "*"))), 0..8),
            segments in proptest::collection::vec("[abcd]", 0..4),
            is_exact in any::<bool>(),
        ) {
            let entries: Vec<String> = entries.iter().map(|(method, path)| format!("{method} {path}")).collect();
            let public = PublicPaths::new(&entries, Case::Distinguished).unwrap();
            let id = format!("/{}", segments.join("/"));
            let reach = if is_exact { RuleReach::Exact } else { RuleReach::Subtree };
            let naive = public.entries.iter().find(|(_, pattern)| touches(pattern, &id, reach));
            prop_assert_eq!(public.overlaps(&id, reach), naive.map(|(text, _)| text.as_str()));
        }

        #[test]
        fn the_tree_finds_what_a_linear_search_finds(
            routes in proptest::collection::vec(("GET|HEAD|POST", template()), 0..20),
            segments in proptest::collection::vec("[abcd]", 0..5),
            method in "GET|HEAD|POST",
        ) {
            let mut table = RouteTable::default();
            for (method, template) in &routes {
                // Duplicates are refused; the rest makes the table.
                let _refused = table.insert(&spec(&format!("{method} {template}"), "1"), Case::Distinguished);
            }
            let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
            let path = path(&format!("/{}", segments.join("/")));
            prop_assert_eq!(table.find(&method, &reading(&path)).map(|m| m.route.index), naive(&table, &method, &segments));
        }

        #[test]
        fn different_values_never_share_a_composed_id(a in "[a%:/. -]{1,4}", b in "[a%:/. -]{1,4}", c in "[a%:/. -]{1,4}", d in "[a%:/. -]{1,4}") {
            let captures = ["a", "b"].map(|name| RouteSegment::Any(Some(name.to_owned())));
            for id in ["{a}:{b}", "x{a}-/-{b}y", "{b} {a}"] {
                let template = IdTemplate::parse(id, &captures, "GET /{a}/{b}").unwrap();
                let fill = |a: &str, b: &str| template.fill(&[&escape_all(a), &escape_all(b)]).unwrap();
                prop_assert_eq!(fill(&a, &b) == fill(&c, &d), (&a, &b) == (&c, &d));
            }
        }
    }
}
