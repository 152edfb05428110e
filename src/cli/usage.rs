//! `cedargate usage`: the permits, roles and decision tests of a tree that the decision log shows no use of.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use cedar_policy::Effect;
use cedargate_policy::decision::{Caller, Decision, Query};
use cedargate_policy::decision_tests::{DecisionTests, Options, Subject};
use serde_json::{Value, json};

use super::logs::{self, LogArgs, complain_about, totals_json};
use super::report::{Format, ReportPart, Table, Writers, json as json_report, markdown, text};
use super::tree::{PortalLoad, TreeArgs};
use super::{Exit, Paint, complain, print};
use crate::base::clock::rfc3339_millis;
use crate::base::terminal::counted;
use crate::replay::{NamedUse, Totals, Usage, UsedKind};

const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;

#[derive(clap::Args)]
#[command(
    after_help = "A permit is used by a decision that it allowed. A role is exercised by a caller that has it and whom policies decided on. A test \
                        resembles traffic if a caller with its roles asked for its action on its resource type (for paths: below the same three segments). \
                        Days count back from the last record of the log. Exit codes: 0 ok, 64 usage or a tree that does not load."
)]
pub(crate) struct Args {
    #[command(flatten)]
    logs: LogArgs,
    /// What was last used longer ago counts as unused; default: the whole log counts
    #[arg(long, value_name = "N")]
    days: Option<u16>,
    /// The form of the report
    #[arg(long, value_parser = UsageReport::WRITERS.parser(), default_value = "human")]
    format: Format,
    #[command(flatten)]
    tree: TreeArgs,
}

struct UsageReport<'a> {
    unused: &'a [Unused],
    used: &'a Usage<'a>,
    totals: &'a Totals,
}

impl UsageReport<'_> {
    const WRITERS: Writers<Self, 3> = Writers([
        (Format::Human, |report| text::parts(&report.parts(), Paint::stdout())),
        (Format::Json, |report| json_report::text(&report.json())),
        (Format::Markdown, |report| markdown::parts(&report.parts())),
    ]);
}

/// What is not used in one portal.
struct Unused {
    portal: String,
    permits: Vec<UnusedPermit>,
    permits_total: usize,
    roles: Vec<Idle>,
    tests: Vec<UnlikeTest>,
    tests_total: usize,
}

struct UnusedPermit {
    id: String,
    place: String,
    /// Unix milliseconds; `None`: never.
    last: Option<i64>,
}

/// A role that no caller had.
struct Idle {
    role: String,
    last: Option<i64>,
}

struct UnlikeTest {
    name: String,
    file: String,
    line: Option<usize>,
}

pub(crate) fn run(args: &Args) -> Exit {
    Exit::or_usage(usage(args))
}

fn usage(args: &Args) -> Result<Exit, String> {
    let workbench = args.tree.open()?;
    if let Some(portal) = &args.logs.portal {
        workbench.named(portal)?;
    }
    let loads = logs::load(&workbench)?;
    let selection = args.logs.selection();
    let reading = args.logs.read(|| Usage::new(selection))?;
    complain_about(&reading.totals);
    let used = &reading.visitor;
    let since = match (args.days, used.last) {
        (Some(days), Some(last)) => last - i64::from(days) * DAY_MILLIS,
        _ => i64::MIN,
    };
    complain_about_reach(args, used, since);
    let is_asked = |load: &&PortalLoad<'_>| {
        args.logs
            .portal
            .as_deref()
            .is_none_or(|portal| load.portal.slug.as_str() == portal)
    };
    let unused: Vec<Unused> = loads
        .iter()
        .filter(is_asked)
        .filter_map(|load| unused(load, used, since))
        .collect();
    let report = UsageReport {
        unused: &unused,
        used,
        totals: &reading.totals,
    };
    print(&UsageReport::WRITERS.write(args.format, &report)?);
    Ok(Exit::Ok)
}

/// Says why the absence of a use may mean nothing.
fn complain_about_reach(args: &Args, used: &Usage<'_>, since: i64) {
    if let (Some(days), Some(first)) = (args.days, used.first)
        && first > since
    {
        let from = rfc3339_millis(first);
        complain(&format!(
            "warning: the log begins at {from}, which is less than {days} days before its end"
        ));
    }
    if used.allowed == 0 {
        complain("warning: the log has no allowed decision; with `audit.allow: none` no permit looks used");
    }
    if used.sampled > 0 {
        let sampled = counted(used.sampled, "record stands", "records stand");
        complain(&format!(
            "warning: {sampled} for several decisions (audit.allow); rare uses may be missing"
        ));
    }
    if used.is_cut {
        complain("warning: the log has more policies, roles or kinds of requests than are remembered; some count as unused");
    }
}

fn unused(load: &PortalLoad<'_>, used: &Usage<'_>, since: i64) -> Option<Unused> {
    let revision = load.revision.as_deref()?;
    let portal = load.portal.slug.as_str();
    let named = |name: &str| NamedUse {
        portal: portal.to_owned(),
        name: name.to_owned(),
    };
    let permits = revision.rules.engine.policies().iter().map(|policy| &policy.info);
    let permits: Vec<_> = permits.filter(|info| info.effect == Effect::Permit).collect();
    let is_unused = |last: Option<i64>| last.is_none_or(|last| last < since);
    let unused_permits = permits.iter().filter_map(|info| {
        let last = used.policies.get(&named(&info.id)).map(|policy| policy.last);
        is_unused(last).then(|| UnusedPermit {
            id: info.id.to_string(),
            place: info.place.clone(),
            last,
        })
    });
    let roles = revision.named_roles().into_iter().filter_map(|role| {
        let last = used.roles.get(&named(&role)).copied();
        is_unused(last).then_some(Idle { role, last })
    });
    let tests = DecisionTests::read(&load.portal.slug, revision.portal_files());
    let subject = Subject {
        portal: load.portal,
        revision,
    };
    Some(Unused {
        portal: portal.to_owned(),
        permits: unused_permits.collect(),
        permits_total: permits.len(),
        roles: roles.collect(),
        tests: unlike_tests(&subject, &tests, used, since),
        tests_total: tests.len(),
    })
}

/// The tests whose kind of request no caller with their roles made. A test that no policy decides has no kind.
fn unlike_tests(subject: &Subject<'_>, tests: &DecisionTests<'_>, used: &Usage<'_>, since: i64) -> Vec<UnlikeTest> {
    let portal = subject.portal.slug.as_str();
    let names: Vec<_> = tests.names().collect();
    let mut unlike = Vec::new();
    for (number, case) in names.iter().enumerate() {
        let is_like = AtomicBool::new(true);
        let see = |query: &Query<'_>, caller: Caller<'_>, decision: &Decision| {
            let Some(target) = &decision.target else { return };
            let schema = &query.revision.rules.schema;
            let resource = &target.resource.uid;
            let action = schema.action_text(&target.action);
            let ty = schema.type_text(resource.type_name());
            let kind = UsedKind::new(portal, &action, &ty, resource.id().unescaped());
            let roles = caller.identity().map(|identity| identity.roles.iter().cloned().collect());
            let roles: BTreeSet<String> = roles.unwrap_or_default();
            is_like.store(used.resembles(&kind, &roles, since), Ordering::Relaxed);
        };
        let options = Options {
            see: Some(&see),
            ..Options::default()
        };
        let _results = tests.run(number..number + 1, subject, &options);
        if !is_like.into_inner() {
            unlike.push(UnlikeTest {
                name: case.name.to_owned(),
                file: case.file.to_owned(),
                line: case.line,
            });
        }
    }
    unlike
}

fn last_text(last: Option<i64>) -> String {
    last.map_or_else(|| "never".to_owned(), rfc3339_millis)
}

fn headline(used: &Usage<'_>) -> String {
    let span = match (used.first, used.last) {
        (Some(first), Some(last)) => format!(" from {} to {}", rfc3339_millis(first), rfc3339_millis(last)),
        _ => String::new(),
    };
    format!(
        "{}{span}\n",
        counted(used.decisions, "decision of policies", "decisions of policies")
    )
}

/// The three tables of a portal, each below its heading.
fn tables(unused: &Unused) -> Vec<ReportPart> {
    let place = |test: &UnlikeTest| match test.line {
        Some(line) => format!("{}:{line}", test.file),
        None => test.file.clone(),
    };
    let permits = unused
        .permits
        .iter()
        .map(|permit| vec![permit.id.clone(), last_text(permit.last), permit.place.clone()]);
    let roles = unused.roles.iter().map(|idle| vec![idle.role.clone(), last_text(idle.last)]);
    let tests = unused.tests.iter().map(|test| vec![test.name.clone(), place(test)]);
    let permits_total = unused.permits_total;
    let tests_total = unused.tests_total;
    let mut parts = titled(
        format!("permits not used: {} of {permits_total}", unused.permits.len()),
        &["permit", "last used", "place"],
        permits.collect(),
    );
    parts.extend(titled(
        format!("roles not exercised: {}", unused.roles.len()),
        &["role", "last seen"],
        roles.collect(),
    ));
    parts.extend(titled(
        format!("tests that no traffic resembles: {} of {tests_total}", unused.tests.len()),
        &["test", "place"],
        tests.collect(),
    ));
    parts
}

/// A heading, and a table below it unless it is empty.
fn titled(text: String, head: &'static [&'static str], rows: Vec<Vec<String>>) -> Vec<ReportPart> {
    let mut parts = vec![ReportPart::Heading { text, severity: None }];
    if !rows.is_empty() {
        parts.push(ReportPart::Table(Table { head, rows }));
    }
    parts
}

impl UsageReport<'_> {
    fn parts(&self) -> Vec<ReportPart> {
        let mut parts = vec![ReportPart::Lines(headline(self.used))];
        for portal in self.unused {
            parts.push(ReportPart::Portal(portal.portal.clone()));
            parts.extend(tables(portal));
        }
        parts
    }

    fn json(&self) -> Value {
        let Self { unused, used, totals } = self;
        let portals = unused.iter().map(|portal| {
            let permits = portal
                .permits
                .iter()
                .map(|permit| json!({"policy": permit.id, "place": permit.place, "last_used": permit.last.map(rfc3339_millis)}));
            let roles = portal
                .roles
                .iter()
                .map(|idle| json!({"role": idle.role, "last_seen": idle.last.map(rfc3339_millis)}));
            let tests = portal
                .tests
                .iter()
                .map(|test| json!({"test": test.name, "file": test.file, "line": test.line}));
            json!({
                "portal": portal.portal,
                "unused_permits": permits.collect::<Vec<_>>(),
                "permits": portal.permits_total,
                "unexercised_roles": roles.collect::<Vec<_>>(),
                "unlike_tests": tests.collect::<Vec<_>>(),
                "tests": portal.tests_total,
            })
        });
        json!({
            "decisions": used.decisions,
            "allowed": used.allowed,
            "sampled_records": used.sampled,
            "from": used.first.map(rfc3339_millis),
            "to": used.last.map(rfc3339_millis),
            "portals": portals.collect::<Vec<_>>(),
            "log": totals_json(totals),
        })
    }
}
