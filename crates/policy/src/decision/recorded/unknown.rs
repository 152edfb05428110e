//! The facts that a record does not hold.
//!
//! A declared fact that a record lacks was absent only if the revision that wrote the record declared it for the action
//! that it decided on. In every other case it is unknown.

use std::collections::{BTreeMap, BTreeSet};

use super::{NotReplayable, ProvenCaller, RecordedAsked, RecordedCaller, RecordedQuery, Replay};
use crate::claim_path::ClaimPath;
use crate::revision::Revision;
use crate::schema::AttrType;
use crate::scope::TenantSource;

/// Facts that follow from what every record holds, or from the revision.
const ALWAYS_KNOWN: [&str; 3] = ["portal", "now", "flags"];

/// Every context field that some action of the schema declares, with the names of the fields inside of it.
pub(super) fn declared_context(revision: &Revision) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (_, action) in revision.rules.schema.actions() {
        for (name, field) in &action.context.fields {
            let inside = all.entry(name).or_default();
            if let AttrType::Record(record) = &field.ty {
                inside.extend(record.fields.keys().map(String::as_str));
            }
        }
    }
    all
}

/// The facts and attributes that the schema declared when the record was written.
#[derive(Clone, Copy, Eq, PartialEq)]
enum DeclaredFacts {
    /// Those that it declares now.
    Same,
    Unknown,
}

impl Replay<'_> {
    fn declared_when_recorded(&self, recorded: &RecordedQuery<'_>) -> DeclaredFacts {
        if recorded.revision == Some(&self.revision.id) || recorded.facts == Some(&self.revision.facts) {
            DeclaredFacts::Same
        } else {
            DeclaredFacts::Unknown
        }
    }

    /// Names of facts and attributes that the record does not tell.
    pub(super) fn unknown(&self, recorded: &RecordedQuery<'_>) -> Result<BTreeSet<String>, NotReplayable> {
        let mut unknown = BTreeSet::new();
        let declared = self.declared_when_recorded(recorded);
        self.unknown_context(recorded, declared, &mut unknown);
        if let RecordedCaller::Proven(proven) = &recorded.caller {
            self.unknown_attributes(proven, recorded.masked, declared, &mut unknown)?;
        }
        Ok(unknown)
    }

    fn unknown_context(&self, recorded: &RecordedQuery<'_>, declared: DeclaredFacts, unknown: &mut BTreeSet<String>) {
        let schema = &self.revision.rules.schema;
        let action = recorded.action.and_then(|action| schema.resolve_action(action));
        let recorded_fields = action
            .and_then(|action| schema.action(&action))
            .map(|model| &model.context.fields)
            .filter(|_| declared == DeclaredFacts::Same && recorded.context.is_some());
        for (name, inside) in &self.context {
            if self.is_known_elsewhere(name, recorded) {
                continue;
            }
            let was_declared = recorded_fields.is_some_and(|fields| fields.contains_key(*name));
            match recorded.context.and_then(|context| context.get(*name)) {
                _ if is_masked(recorded.masked, &format!("/context/{name}")) => drop(unknown.insert((*name).to_owned())),
                None if was_declared => {}
                None => drop(unknown.insert((*name).to_owned())),
                Some(value) => {
                    let lacks = |field: &str| value.get(field).is_none() && !was_declared;
                    let masks = |field: &str| is_masked(recorded.masked, &format!("/context/{name}/{field}"));
                    let fields = inside.iter().filter(|field| lacks(field) || masks(field));
                    unknown.extend(fields.map(|field| (*field).to_owned()));
                }
            }
        }
    }

    /// True for a fact that the record holds outside of the context.
    fn is_known_elsewhere(&self, name: &str, recorded: &RecordedQuery<'_>) -> bool {
        let caller_tenant = match &recorded.caller {
            RecordedCaller::Proven(proven) => proven.tenant.is_some(),
            RecordedCaller::Anonymous | RecordedCaller::Named(_) => false,
        };
        let client = match recorded.asked {
            RecordedAsked::Http { client, .. } => Some(client),
            RecordedAsked::Named { .. } => None,
        };
        match (name, client) {
            ("tenant", _) => self.portal.tenant != TenantSource::HostLabel || caller_tenant,
            ("method" | "path", Some(_)) => true,
            ("source_ip", Some(client)) => client.is_some(),
            (name, _) => ALWAYS_KNOWN.contains(&name),
        }
    }

    fn unknown_attributes(
        &self,
        proven: &ProvenCaller<'_>,
        masked: &[String],
        declared: DeclaredFacts,
        unknown: &mut BTreeSet<String>,
    ) -> Result<(), NotReplayable> {
        let rules = &self.revision.rules;
        let ty = rules.schema.resolve_type(proven.ty);
        let Some(model) = ty.and_then(|ty| rules.schema.entity(&ty)) else {
            return Ok(());
        };
        for (name, field) in &model.attrs.fields {
            let path = rules.claims.get(name).map_or(name.as_str(), ClaimPath::as_str);
            let is_absent = matches!(rules.claims.claim(&proven.claims, name), Ok(None));
            if masks_claim(masked, path) || (is_absent && declared == DeclaredFacts::Unknown) {
                if field.required {
                    return Err(NotReplayable::Required(name.clone()));
                }
                unknown.insert(name.clone());
            }
        }
        Ok(())
    }
}

/// True if the value at a JSON pointer, or one above or below it, is masked.
fn is_masked(masked: &[String], pointer: &str) -> bool {
    let is_below = |below: &str, above: &str| {
        let rest = below.strip_prefix(above);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    masked.iter().any(|found| is_below(pointer, found))
}

/// True if a claim, the attributes as a whole, or a part of the claim is masked.
pub(super) fn masks_claim(masked: &[String], path: &str) -> bool {
    let first = path.split(['.', '"']).find(|part| !part.is_empty()).unwrap_or(path);
    masked.iter().any(|found| match found.strip_prefix("/principal/attrs") {
        Some("") => true,
        // dots of a claim's name are not escaped in pointers
        Some(inside) => inside.trim_start_matches('/').split(['/', '.']).next() == Some(first),
        None => false,
    })
}
