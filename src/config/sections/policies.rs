//! `policies`: where policies and schemas are, and how the gate notices changes.

use std::path::PathBuf;

use cedargate_policy::types::PortalSlug;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::bundle::RawBundle;
use super::portals::parse_slug;
use crate::config::check::Checker;
use crate::config::suggestion::hint;
use crate::config::values::{Count, TimeSpan};

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policies {
    /// Folder of the portals' folders, from the configuration file's folder.
    pub dir: PathBuf,
    /// Folder of the schemas.
    pub schemas: PathBuf,
    /// Interval at which the gate reads the folders, 100ms or more.
    pub poll: TimeSpan<100>,
    /// Portals that readiness waits for.
    pub require: Vec<String>,
    /// Folder of the portals' candidate sets, `<portal>/*.cedar`. Null: `candidate/` in each portal's folder.
    pub candidate: Option<PathBuf>,
    /// Decisions in a second that candidate sets are evaluated for; more are not, and counted.
    pub shadow_budget: Count<1, 1_000_000>,
    /// Folder where the last good revisions survive a restart. Null: they do not.
    pub state_dir: Option<PathBuf>,
    /// A signed bundle that the gate fetches, in place of the folders. Absent: the folders count.
    pub bundle: Option<RawBundle>,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("policies"),
            schemas: PathBuf::from("schemas"),
            poll: TimeSpan::seconds::<5>(),
            require: Vec::new(),
            candidate: None,
            shadow_budget: Count::of::<500>(),
            state_dir: None,
            bundle: None,
        }
    }
}

impl Policies {
    /// The slugs of `require`.
    pub fn required(&self) -> impl Iterator<Item = PortalSlug> {
        self.require.iter().filter_map(|slug| PortalSlug::parse(slug))
    }
}

impl Checker<'_> {
    /// `portals`: the slugs of the configuration; `None`: every folder of `policies.dir` is a portal.
    pub fn policies(&mut self, policies: Policies, portals: Option<&[&str]>) -> Policies {
        for (n, slug) in policies.require.iter().enumerate() {
            let key = format!("policies.require[{n}]");
            if let Err(message) = parse_slug(slug) {
                self.error(&key, message);
            } else if let Some(known) = portals.filter(|known| !known.contains(&slug.as_str())) {
                let message = format!("there is no portal `{slug}` in `portals`; {}", hint(slug, known));
                self.error(&key, message);
            }
        }
        Policies {
            dir: self.path("policies.dir", &policies.dir),
            schemas: self.path("policies.schemas", &policies.schemas),
            candidate: self.optional_path("policies.candidate", policies.candidate.as_deref()),
            state_dir: self.optional_path("policies.state_dir", policies.state_dir.as_deref()),
            // the gate's own form of it is `Config::bundle`
            bundle: None,
            ..policies
        }
    }
}
