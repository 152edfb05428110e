//! The rows and columns that the command line asks for. A name that no portal has is refused: an empty table would look
//! like a caller without permissions.

use std::collections::BTreeSet;

use cedar_policy::{EntityTypeName, EntityUid};
use cedargate_policy::matrix::{Column, Matrix, Row};
use cedargate_policy::revision::Revision;
use cedargate_policy::scope::PortalScope;

use super::NO_ROLE;
use crate::config::hint;

#[derive(clap::Args)]
pub(super) struct Selection {
    /// Only this role; `(no role)` are the callers without one. May be repeated, as the next two
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// Only this action, or the actions of this group
    #[arg(long = "action", value_name = "ACTION")]
    actions: Vec<String>,
    /// Only this type of resource
    #[arg(long = "resource", value_name = "TYPE")]
    resources: Vec<String>,
}

impl Selection {
    /// The selected part of a portal's matrix.
    pub(super) fn of(&self, portal: &PortalScope, revision: &Revision) -> Matrix {
        let is_row = |row: &Row| is_selected(&self.roles, &[role_name(row)]);
        let is_column = |column: &Column| {
            let ty = type_names(&column.resource_type);
            is_selected(&self.actions, &action_names(revision, &column.action)) && is_selected(&self.resources, &ty)
        };
        Matrix::select(portal, revision, is_row, is_column)
    }

    /// Fails for a name that none of the portals has.
    pub(super) fn refuse_unknown_names(&self, matrices: &[(&PortalScope, &Revision)]) -> Result<(), String> {
        if self.roles.is_empty() && self.actions.is_empty() && self.resources.is_empty() {
            return Ok(());
        }
        let mut roles = BTreeSet::from([NO_ROLE.to_owned()]);
        let mut actions = BTreeSet::new();
        let mut resources = BTreeSet::new();
        for (portal, revision) in matrices {
            let named = cedargate_policy::matrix::roles(portal, revision);
            roles.extend(named.iter().map(|role| role.id().unescaped().to_owned()));
            for (action, model) in revision
                .rules
                .schema
                .actions()
                .filter(|(_, model)| !model.resources.is_empty())
            {
                actions.extend(action_names(revision, action));
                resources.extend(model.resources.iter().flat_map(type_names));
            }
        }
        known("role", &self.roles, &roles)?;
        known("action", &self.actions, &actions)?;
        known("resource type", &self.resources, &resources)
    }
}

/// True if nothing is asked for, or one of the names is.
fn is_selected(asked: &[String], names: &[String]) -> bool {
    asked.is_empty() || names.iter().any(|name| asked.contains(name))
}

fn known(what: &str, asked: &[String], known: &BTreeSet<String>) -> Result<(), String> {
    let Some(unknown) = asked.iter().find(|name| !known.contains(*name)) else {
        return Ok(());
    };
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    Err(format!(
        "no portal here has the {what} `{unknown}`; {}",
        hint(unknown, &known)
    ))
}

fn role_name(row: &Row) -> String {
    row.role.as_ref().map_or(NO_ROLE, |role| role.id().unescaped()).to_owned()
}

/// The names of an action and of its groups, as the table writes them and as policies do.
fn action_names(revision: &Revision, action: &EntityUid) -> Vec<String> {
    let model = revision.rules.schema.action(action);
    let groups = model.into_iter().flat_map(|model| &model.ancestors);
    let both = |uid: &EntityUid| [uid.id().unescaped().to_owned(), uid.to_string()];
    std::iter::once(action).chain(groups).flat_map(both).collect()
}

/// The name of a type with its namespace, and without.
fn type_names(ty: &EntityTypeName) -> Vec<String> {
    vec![ty.to_string(), ty.basename().to_owned()]
}
