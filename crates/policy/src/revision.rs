//! A revision: everything of one portal that is hot-reloaded, as one immutable, content-hashed value.
//!
//! `load` makes it from a complete candidate; `decision` evaluates queries with it. A request uses the revision that it
//! started with.

pub(crate) mod emergency;
pub mod problem;
pub(crate) mod recordable;
pub mod source;
pub mod unread;

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::{EntityTypeName, Validator};
use http::HeaderValue;

use self::emergency::EmergencyForbids;
use self::problem::Problem;
use self::source::Files;
use crate::context::ContextPlans;
use crate::engine::PolicyEntry;
use crate::engine::entities::EntityStore;
use crate::engine::index::PolicyIndex;
use crate::portal::file::PortalFile;
use crate::rules::Rules;
use crate::schema::SchemaModel;
use crate::schema::TypeNames;

/// Everything of a portal that is hot-reloaded, as one value.
pub struct Revision {
    /// First 16 hex digits of the content's SHA-256.
    pub id: Arc<str>,
    pub header: HeaderValue,
    /// Identity of the facts that a decision record of this revision can hold.
    pub facts: Arc<str>,
    pub rules: Rules,
    pub file: Arc<PortalFile>,
    /// The candidate that this revision was made of; a change of emergency forbids alone reuses it.
    pub(crate) candidate: Arc<Candidate>,
    pub(crate) emergency_forbids: EmergencyForbids,
    pub warnings: Vec<Problem>,
}

/// A candidate without its emergency forbids: parsed, validated, tested.
pub(crate) struct Candidate {
    pub files: Files,
    pub schema: Arc<PortalSchema>,
    pub names: Arc<TypeNames>,
    pub store: Arc<EntityStore>,
    pub entries: Vec<Arc<PolicyEntry>>,
    pub index: Arc<PolicyIndex>,
    pub file: Arc<PortalFile>,
    pub warnings: Vec<Problem>,
    /// Files beside it that are not read; they are in `warnings`, too.
    pub strays: Vec<Problem>,
}

/// Everything that is made of the schema files alone.
pub(crate) struct PortalSchema {
    /// Keyed by the files' content and the namespace that `portal.yaml` names.
    pub id: [u8; 32],
    pub model: Arc<SchemaModel>,
    pub validator: Validator,
    pub plans: Arc<ContextPlans>,
    /// The type of the gate's own paths.
    pub path: Option<EntityTypeName>,
}

impl Revision {
    /// Every file that the revision is made of; the gate saves them for a restart.
    pub fn files(&self) -> Files {
        let mut all = self.candidate.files.clone();
        all.0.extend(self.emergency_forbids.files.0.clone());
        all
    }

    /// The files of the emergency forbids in force, each with its last good content.
    pub fn emergency_files(&self) -> &Files {
        &self.emergency_forbids.files
    }

    /// The roles that policies or stored entities name, in order.
    pub fn named_roles(&self) -> BTreeSet<String> {
        let Some(role) = &self.rules.names.role else {
            return BTreeSet::new();
        };
        let engine = &self.rules.engine;
        let named = engine.policies().iter().flat_map(|policy| policy.named_entities());
        let all = named.chain(engine.store.uids().cloned());
        let roles = all.filter(|uid| uid.type_name() == role);
        roles.map(|uid| uid.id().unescaped().to_owned()).collect()
    }

    /// All files except the emergency forbids, decision tests included.
    pub fn portal_files(&self) -> &Files {
        &self.candidate.files
    }
}
