//! Decision tests: what each case asks and reaches, and a new case out of a question.

use cedargate_policy::decision::recorded::KnownCaller;
use cedargate_policy::decision::{Caller, Decision, Query, decide, explain};
use cedargate_policy::decision_tests::{CaseResult, DecisionTests, Options, Subject, TestOutcome};
use cedargate_policy::revision::source::SourceFile;
use cedargate_policy::scope::PortalScope;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::explain::shortened;
use super::overview::problems;
use super::places;
use super::question::{WorkbenchQuestion, time};
use crate::base::clock::unix_millis;
use crate::base::files::create_file;
use crate::cli::new_files::make_parent;
use crate::cli::tree::{PortalLoad, Workbench};
use crate::explained::Explained;
use crate::explained::json::report;

/// The file of the cases that the workbench makes.
const FILE: &str = "workbench.yaml";
/// The beginning of that file.
const HEAD: &str = "# Decision tests made in the workbench; each expects what the policies decided then.\ncases:\n";
const NAME_CHARS_MAX: usize = 200;
/// Rights of a new file.
const NEW_MODE: u32 = 0o644;
/// Cases whose callers and targets are listed.
const LISTED_MAX: usize = 20_000;

/// The cases of a portal, with the role, the action and the resource type that each is about.
pub(super) fn list(workbench: &Workbench, portal: &str) -> Result<Value, String> {
    let load = workbench.load_untested_one(workbench.named(portal)?);
    let subject = subject(&load)?;
    let tests = DecisionTests::read(&load.portal.slug, workbench.files());
    let cases: Vec<Value> = (0..tests.len().min(LISTED_MAX))
        .filter_map(|number| listed(&tests, number, &subject))
        .collect();
    Ok(json!({"cases": cases, "all": tests.len()}))
}

fn subject<'a>(load: &'a PortalLoad<'a>) -> Result<Subject<'a>, String> {
    let revision = load.revision.as_deref().ok_or_else(|| problems(load))?;
    Ok(Subject {
        portal: load.portal,
        revision,
    })
}

fn listed(tests: &DecisionTests<'_>, number: usize, subject: &Subject<'_>) -> Option<Value> {
    let about = Mutex::new(Value::Null);
    let see = |_: &Query<'_>, caller: Caller<'_>, decision: &Decision| {
        let (roles, principal) = match caller {
            Caller::Anonymous => (None, None),
            Caller::Proven { identity, principal } => (Some(&identity.roles), Some(principal.entity.uid.type_name().to_string())),
        };
        let target = decision.target.as_ref();
        *about.lock() = json!({
            "roles": roles,
            "principal": principal,
            "action": target.map(|target| target.action.id().unescaped()),
            "resource": target.map(|target| target.resource.uid.type_name().to_string()),
        });
    };
    let options = Options {
        see: Some(&see),
        ..Options::default()
    };
    let result = tests.run(number..number + 1, subject, &options).into_iter().next()?;
    let mut case = case_json(&result, number);
    if let (Some(case), Value::Object(about)) = (case.as_object_mut(), about.into_inner()) {
        case.extend(about);
    }
    Some(case)
}

fn case_json(result: &CaseResult, number: usize) -> Value {
    let (verdict, detail) = match &result.verdict {
        TestOutcome::Passed => ("passed", None),
        TestOutcome::Failed(why) => ("failed", Some(why)),
        TestOutcome::Skipped(why) => ("skipped", Some(why)),
    };
    let (decision, reason) = match &result.answer {
        Ok(None) => (Some("allow"), Some("permitted")),
        Ok(Some(denial)) => (Some("deny"), Some(denial.code())),
        Err(_) => (None, None),
    };
    json!({"number": number, "name": result.name, "file": result.file, "line": result.line, "verdict": verdict,
        "detail": detail, "decision": decision, "reason": reason, "deciding": result.deciding})
}

/// A case with its question, and its decision explained. The question has the case's own clock.
pub(super) fn one(workbench: &Workbench, portal: &str, number: &str) -> Result<Value, String> {
    let load = workbench.load_untested_one(workbench.named(portal)?);
    let subject = subject(&load)?;
    let tests = DecisionTests::read(&load.portal.slug, workbench.files());
    let unknown = || format!("portal `{portal}` has no case number {number}");
    let number: usize = number.parse().map_err(|_unfit| unknown())?;
    let asked = Mutex::new(None);
    let see = |query: &Query<'_>, caller: Caller<'_>, _: &Decision| {
        let known = match caller {
            Caller::Anonymous => None,
            // the principal that the revision made of it before
            Caller::Proven { identity, .. } => {
                query
                    .revision
                    .principal(query.portal, identity)
                    .ok()
                    .map(|principal| KnownCaller {
                        identity: identity.clone(),
                        principal,
                    })
            }
        };
        let explained = Explained::new(query, known.as_ref(), explain::explain(query, caller));
        let question = WorkbenchQuestion::of(query, caller);
        *asked.lock() = Some(json!({"explanation": shortened(report(&explained)), "question": question}));
    };
    let options = Options {
        see: Some(&see),
        ..Options::default()
    };
    let result = tests
        .run(number..number.saturating_add(1), &subject, &options)
        .into_iter()
        .next();
    let result = result.ok_or_else(unknown)?;
    let mut answer = asked
        .into_inner()
        .unwrap_or_else(|| json!({"explanation": null, "question": null}));
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("case".to_owned(), case_json(&result, number));
    }
    Ok(answer)
}

/// `{question, name, write}` → a decision test that expects what is decided now. Writes it only if `write` says so, and
/// only if it passes.
pub(super) fn make(workbench: &Workbench, body: &Value) -> Result<Value, String> {
    let question = WorkbenchQuestion::read(body.get("question").unwrap_or(&Value::Null))?;
    let name = body.get("name").and_then(Value::as_str).map(str::trim).unwrap_or_default();
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX {
        return Err(format!("name the test, in up to {NAME_CHARS_MAX} characters"));
    }
    let decision = question.ask(workbench, |query, caller| match caller.caller() {
        Ok(caller) => decide(query, caller),
        Err(refusal) => Decision::refused(refusal.clone()),
    })?;
    let new = NewCase {
        workbench,
        portal: workbench.named(&question.portal)?,
        question: &question,
        name,
        decision: &decision,
    };
    let now = time(unix_millis());
    // the clock of a case without one is fixed; a policy may read the time
    let made = new.made(question.now.as_deref())?;
    let made = if made.passes() {
        made
    } else {
        new.made(question.now.as_deref().or(now.as_deref()))?
    };
    let is_wanted = body.get("write").and_then(Value::as_bool) == Some(true);
    if is_wanted {
        if !made.passes() {
            return Err("the test would fail, so it was not written".to_owned());
        }
        made.write(workbench)?;
    }
    let detail = match &made.result.verdict {
        TestOutcome::Passed => None,
        TestOutcome::Failed(why) | TestOutcome::Skipped(why) => Some(why),
    };
    let verdict = if made.passes() { "passed" } else { "failed" };
    Ok(json!({"file": made.file, "yaml": made.case, "verdict": verdict, "detail": detail, "written": is_wanted}))
}

/// A question that becomes a case.
struct NewCase<'a> {
    workbench: &'a Workbench,
    portal: &'a PortalScope,
    question: &'a WorkbenchQuestion,
    name: &'a str,
    decision: &'a Decision,
}

/// A case with the file that it makes, and its own result.
struct GeneratedCase {
    file: String,
    case: String,
    /// The whole file.
    text: String,
    is_new: bool,
    result: CaseResult,
}

impl NewCase<'_> {
    fn made(&self, now: Option<&str>) -> Result<GeneratedCase, String> {
        let file = format!("policies/{}/tests/{FILE}", self.portal.slug);
        let old = self.workbench.source(&file);
        let case = self.yaml(now);
        let text = match &old {
            Some(old) => format!("{}\n{case}", old.trim_end()),
            None => format!("{HEAD}{case}"),
        };
        let mut files = self.workbench.files().clone();
        files.0.insert(file.clone(), SourceFile::new(text.as_bytes()));
        let load = self.workbench.load_untested_one(self.portal);
        let tests = DecisionTests::read(&self.portal.slug, &files);
        if let Some(problem) = tests.problems.iter().find(|problem| problem.file == file) {
            return Err(format!(
                "the case does not fit behind the end of the file; add it yourself: {problem}"
            ));
        }
        let results = tests.run(0..tests.len(), &subject(&load)?, &Options::default());
        let own = results.into_iter().rfind(|result| result.file == file);
        Ok(GeneratedCase {
            result: own.ok_or("the case cannot be found in its file")?,
            file,
            case,
            text,
            is_new: old.is_none(),
        })
    }

    /// The case as YAML. Values are written as JSON, which YAML contains.
    fn yaml(&self, now: Option<&str>) -> String {
        let WorkbenchQuestion {
            caller,
            http,
            named,
            context,
            ..
        } = self.question;
        let denial = self.decision.denial();
        let deciding: Vec<&str> = self.decision.policies().iter().map(|policy| &*policy.id).collect();
        let http_url = http.as_ref().map(|http| format!("{} {}", http.method, http.url));
        let http = http.as_ref();
        let fields = [
            ("name", Some(json!(self.name))),
            ("claims", caller.as_ref().map(|caller| json!(caller.as_claims(self.portal)))),
            ("http", http_url.map(Value::from)),
            ("host", http.and_then(|http| http.host.clone()).map(Value::from)),
            ("scheme", http.and_then(|http| http.scheme.clone()).map(Value::from)),
            ("source_ip", http.and_then(|http| http.source_ip).map(|ip| json!(ip))),
            ("action", named.as_ref().map(|named| json!(named.action))),
            ("resource", named.as_ref().map(|named| named.resource.clone())),
            (
                "entities",
                named
                    .as_ref()
                    .filter(|named| !named.entities.is_empty())
                    .map(|named| json!(named.entities)),
            ),
            ("context", context.as_ref().map(|context| json!(context))),
            ("now", now.map(Value::from)),
            ("expect", Some(json!(if denial.is_none() { "allow" } else { "deny" }))),
            ("reason", denial.map(|denial| json!(denial.code()))),
            ("because", (!deciding.is_empty()).then(|| json!(deciding))),
        ];
        let lines = fields
            .iter()
            .filter_map(|(name, value)| Some(format!("    {name}: {}\n", value.as_ref()?)));
        let block: String = lines.collect();
        format!("  - {}", block.trim_start())
    }
}

impl GeneratedCase {
    fn passes(&self) -> bool {
        self.result.verdict == TestOutcome::Passed
    }

    /// Refuses a file that changed, or appeared, after the tree was read.
    fn write(&self, workbench: &Workbench) -> Result<(), String> {
        if !self.is_new {
            return workbench.rewrite(&self.file, &self.text);
        }
        let path = places::new(workbench, &self.file)?;
        make_parent(&path)?;
        create_file(&path, self.text.as_bytes(), NEW_MODE).map_err(|error| format!("cannot write `{}`: {error}", path.display()))
    }
}
