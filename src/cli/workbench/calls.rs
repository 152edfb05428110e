//! The calls of the page, answered from the context of calls with the functions of the commands.
//!
//! An answer that takes long is computed on its first call and kept with the snapshot.

use bytes::Bytes;
use cedargate_policy::matrix::Matrix;
use serde_json::{Value, json};

use super::call_context::{CallContext, Snapshot};
use super::{cases, editor, explain, overview, question, sessions};
use crate::cli::diff::sides::Side;
use crate::cli::explain::from_log::files;
use crate::cli::matrix::PortalMatrix;
use crate::cli::tree::{TreeArgs, Workbench};
use crate::cli::{diff, lint, test};
use crate::workbench::{Call, CallRefusal};

impl CallContext {
    /// Answers a call.
    pub fn answer(&self, call: &Call) -> Result<Bytes, CallRefusal> {
        if call.name == "gate" && call.body.is_none() {
            return Ok(bytes(&overview::gate(self.gate.as_deref())));
        }
        // the gate may run while the tree cannot be read
        match (call.name.as_str(), &call.body) {
            ("sessions", None) => return sessions::list(self.gate.as_deref(), call),
            ("revoke", Some(body)) => return sessions::revoke(self.gate.as_deref(), body),
            _ => {}
        }
        let snapshot = self.snapshot()?;
        let workbench = &snapshot.workbench;
        match (call.name.as_str(), &call.body) {
            ("tree", None) => Ok(bytes(&overview::tree(self, &snapshot))),
            ("findings", None) => Ok(snapshot.findings()),
            ("tests", None) => Ok(snapshot.tests(&self.tree)?),
            ("changes", None) => self.changes(&snapshot, call.parameter("since")),
            ("matrix", None) => self.matrix(&snapshot, call.required("portal")?, call.parameter("tree")),
            ("policies", None) => Ok(bytes(&overview::policies(workbench, call.required("portal")?)?)),
            ("policy", None) => Ok(bytes(&overview::policy(
                workbench,
                call.required("portal")?,
                call.required("id")?,
            )?)),
            ("facts", None) => Ok(snapshot.facts(call.required("portal")?)?),
            ("cases", None) => Ok(bytes(&cases::list(workbench, call.required("portal")?)?)),
            ("case", None) => Ok(bytes(&cases::one(
                workbench,
                call.required("portal")?,
                call.required("number")?,
            )?)),
            ("explain", Some(body)) => Ok(bytes(&explain::question(workbench, body)?)),
            ("token", Some(body)) => Ok(bytes(&explain::token(workbench, body)?)),
            ("decision", Some(body)) => Ok(bytes(&explain::decision(self, workbench, body)?)),
            ("log", None) => self.log.view(call, files(&self.logs, workbench)),
            ("log", Some(_)) => self.log.read_again(files(&self.logs, workbench)),
            ("files", None) => Ok(bytes(&editor::list(workbench))),
            ("file", None) => Ok(bytes(&editor::open(workbench, call.required("file")?)?)),
            ("check", Some(body)) => Ok(bytes(&editor::check(self, workbench, body)?)),
            ("compare", Some(body)) => Ok(bytes(&editor::compare(self, workbench, body)?)),
            ("prove", Some(body)) => Ok(bytes(&editor::prove(self, workbench, body)?)),
            ("save", Some(body)) => Ok(bytes(&editor::save(self, workbench, body)?)),
            ("rename", Some(body)) => Ok(bytes(&editor::rename(self, workbench, body)?)),
            ("delete", Some(body)) => Ok(bytes(&editor::delete(self, workbench, body)?)),
            ("test", Some(body)) => Ok(bytes(&cases::make(workbench, body)?)),
            _ => Err(CallRefusal::unknown()),
        }
    }

    /// The difference to a git revision; default: the last commit.
    fn changes(&self, snapshot: &Snapshot, since: Option<&str>) -> Result<Bytes, CallRefusal> {
        let compute = |since: &str| {
            let folders = snapshot
                .workbench
                .folders()
                .ok_or("the policies come from a bundle, which has no commits")?;
            let place = folders.policies.parent().unwrap_or(std::path::Path::new("."));
            diff::between(since, &self.tree, &self.config, place)
        };
        match since {
            Some(since) => Ok(bytes(&compute(since)?)),
            // no repository, or no commit yet: the page says so beside the other parts
            None => Ok(snapshot
                .changes
                .get_or_init(|| bytes(&compute("HEAD").unwrap_or_else(|why| json!({ "unavailable": why }))))
                .clone()),
        }
    }

    fn matrix(&self, snapshot: &Snapshot, portal: &str, tree: Option<&str>) -> Result<Bytes, CallRefusal> {
        let answer = snapshot.kept(portal, tree.unwrap_or_default());
        let computed = answer.get_or_init(|| match tree {
            None => matrix(&snapshot.workbench, portal),
            Some(tree) => {
                let folders = snapshot.workbench.folders().map(|folders| folders.policies.clone());
                let place = folders.as_deref().and_then(std::path::Path::parent);
                let side = Side::open(tree, &self.config, place.unwrap_or(std::path::Path::new(".")))?;
                matrix(&side.workbench, portal)
            }
        });
        Ok(computed.clone()?)
    }
}

impl Snapshot {
    fn findings(&self) -> Bytes {
        let computed = self
            .findings
            .get_or_init(|| bytes(&json!({ "findings": lint::findings(&self.workbench) })));
        computed.clone()
    }

    fn tests(&self, tree: &TreeArgs) -> Result<Bytes, String> {
        let compute = || test::covered(tree.clone(), &self.workbench).map(|report| bytes(&report));
        self.tests.get_or_init(compute).clone()
    }

    fn facts(&self, portal: &str) -> Result<Bytes, String> {
        let mut known = self.facts.lock();
        if let Some(facts) = known.get(portal) {
            return Ok(facts.clone());
        }
        let facts = bytes(&question::facts(&self.workbench, portal)?);
        known.insert(portal.to_owned(), facts.clone());
        Ok(facts)
    }
}

fn matrix(workbench: &Workbench, portal: &str) -> Result<Bytes, String> {
    let load = workbench.load_untested_one(workbench.named(portal)?);
    let revision = load.revision.as_ref().ok_or_else(|| overview::problems(&load))?;
    let one = PortalMatrix {
        portal: portal.to_owned(),
        matrix: Matrix::of(load.portal, revision),
    };
    Ok(bytes(&one.as_page()))
}

fn bytes(value: &Value) -> Bytes {
    value.to_string().into()
}
