//! Context fields that a portal declares, held against what can fill them.
//!
//! A field that nothing fills is absent from every request: a forbid that reads it behind `has` would load, look right
//! and never apply. So a field of an action that requests ask is a load error with its place, unless `portal.yaml`
//! lists it as one that the app supplies. An action that no request asks belongs to the app alone, and so do its
//! fields.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cedar_policy::{Effect, EntityTypeName, EntityUid};

use super::checks::at_place;
use crate::context::{ContextPlans, UnfillableField, Unfilled, declared_flags, gate_names, misfits};
use crate::engine::PolicyEntry;
use crate::portal::file::{PortalFile, unknown_key};
use crate::revision::problem::{Problem, position};
use crate::revision::source::Files;
use crate::schema::{ActionModel, AttrType, SchemaModel};
use crate::scope::RemovedHeaders;
use crate::types::PortalSlug;

/// The files of one portal that say which facts there are, and which of them the app supplies.
pub(super) struct DeclaredFacts<'a> {
    pub slug: &'a PortalSlug,
    pub files: &'a Files,
    pub file: &'a PortalFile,
    pub model: &'a SchemaModel,
    /// The type of the gate's own paths.
    pub path: Option<&'a EntityTypeName>,
    pub removed_headers: &'a RemovedHeaders,
}

impl DeclaredFacts<'_> {
    /// Every declared field that nothing fills, and every listed one that is not the app's.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut unfilled: BTreeMap<UnfillableField, String> = BTreeMap::new();
        let mut unlisted: BTreeSet<&str> = self.file.supplied.keys().map(String::as_str).collect();
        for (action, model) in self.model.actions() {
            let is_asked = self.is_asked(action, model);
            for misfit in misfits(&model.context, self.removed_headers) {
                let (name, _) = misfit.field.split_once('.').unwrap_or((&misfit.field, ""));
                let is_supplied = misfit.reason != Unfilled::Secret && self.file.supplied.contains_key(name);
                unlisted.remove(name);
                if misfit.reason == Unfilled::Secret || (is_asked && !is_supplied) {
                    // one action is enough, and always the same one
                    let known = unfilled.entry(misfit).or_insert_with(|| action.to_string());
                    *known = std::mem::take(known).min(action.to_string());
                }
            }
        }
        let mut problems: Vec<Problem> = unfilled
            .iter()
            .map(|(misfit, action)| self.unfilled(misfit, action))
            .collect();
        let listed = self.file.supplied.iter().filter(|(name, _)| unlisted.contains(name.as_str()));
        problems.extend(listed.map(|(name, line)| {
            let message = match gate_names().any(|known| known == name) {
                true => format!("`context.supplied`: the gate itself fills `{name}`"),
                false => format!("`context.supplied`: no action of the schema declares `{name}` in its context"),
            };
            Problem::new(&format!("policies/{}/portal.yaml", self.slug), message).at_line(*line)
        }));
        problems.extend(self.flag_problems());
        problems
    }

    /// The flags of `portal.yaml`, held against those that the schema declares. A portal whose schema declares none has
    /// flags for its pages alone.
    fn flag_problems(&self) -> Vec<Problem> {
        // by name: one action is enough for a message, and always the same one
        let declared: BTreeMap<String, _> = self
            .model
            .actions()
            .filter_map(|(action, model)| Some((action.to_string(), &declared_flags(&model.context)?.fields)))
            .collect();
        if declared.is_empty() {
            return Vec::new();
        }
        let file = format!("policies/{}/portal.yaml", self.slug);
        let mut problems = Vec::new();
        for (name, flag) in &self.file.flags {
            let line = self.file.flag_lines.get(name).copied().flatten();
            let mut fields = declared
                .iter()
                .filter_map(|(action, fields)| Some((action, fields.get(name)?)));
            let ty = AttrType::from(&flag.value);
            let message = match (fields.clone().next(), fields.find(|(_, field)| field.ty != ty)) {
                (None, _) => {
                    let known: BTreeSet<&str> = declared
                        .values()
                        .flat_map(|fields| fields.keys())
                        .map(String::as_str)
                        .collect();
                    let known: Vec<&str> = known.into_iter().collect();
                    let nearest = unknown_key(name, &known);
                    format!("`flags.{name}`: no action of the schema declares it in `context.flags`: {nearest}")
                }
                (_, Some((action, field))) => format!(
                    "`flags.{name}` is of the type `{ty}`, and the schema declares `{}` for {action}",
                    field.ty
                ),
                _ => continue,
            };
            let help = format!("change the value, or declare `flags?: {{ {name}?: {ty} }}` in the schema's context");
            problems.push(Problem::new(&file, message).at_line(line).with_help(help));
        }
        let mut missing: BTreeMap<&str, String> = BTreeMap::new();
        for (action, fields) in &declared {
            let required = fields
                .iter()
                .filter(|(name, field)| field.required && !self.file.flags.contains_key(*name));
            for (name, _) in required {
                missing.entry(name).or_insert_with(|| action.clone());
            }
        }
        problems.extend(missing.iter().map(|(name, action)| {
            let message = format!("`flags.{name}` is missing: the schema requires it for {action}");
            let help = format!("write `flags: {{ {name}: … }}`, or declare `{name}?` in the schema");
            Problem::new(&file, message).with_help(help)
        }));
        problems
    }

    /// True if requests ask this action: by a route, or by its method on a path.
    fn is_asked(&self, action: &EntityUid, model: &ActionModel) -> bool {
        let is_of_path = self.path.is_some_and(|path| model.resources.contains(path));
        let is_method = |id: &str| id.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        let mut routes = self.file.routes.routes().iter();
        (is_of_path && is_method(action.id().unescaped()))
            || routes.any(|route| self.model.resolve_action(&route.action).as_ref() == Some(action))
    }

    fn unfilled(&self, misfit: &UnfillableField, action: &str) -> Problem {
        let UnfillableField { field, ty, reason } = misfit;
        let FactLocation { file, line } = self.place(misfit);
        let shared = "change the schema, or list the field as `context: { supplied: […] }` in portal.yaml if the app gives it";
        let (message, help) = match reason {
            Unfilled::Mistyped(fills) => {
                let (name, _) = field.split_once('.').unwrap_or((field, ""));
                let message = format!(
                    "context `{field}` of {action} has the type `{ty}`, which the gate never fills; it fills `{name}` as {fills}"
                );
                (message, shared.to_owned())
            }
            Unfilled::Secret => {
                let (_, header) = field.split_once('.').unwrap_or(("", field));
                let message = format!("header `{header}` carries credentials and cannot be context");
                (message, "remove it from the schema".to_owned())
            }
            Unfilled::NoHeader => (
                format!("context `{field}` of {action} names no header that a request can have"),
                shared.to_owned(),
            ),
            Unfilled::Removed => (
                format!("context `{field}` of {action} names a header that the gate removes from every request, so no policy reads it"),
                "read another fact, such as `source_ip`; or change `upstream.strip_headers`, or let trusted proxies set the header with `upstream.pass_headers`".to_owned(),
            ),
            Unfilled::Unknown => {
                let all: Vec<&str> = gate_names().collect();
                let message = format!(
                    "context `{field}` of {action} is no fact that the gate fills, so no request has it; the gate fills {}",
                    all.join(", ")
                );
                let help =
                    format!("if the app gives it in its questions, say so in portal.yaml: `context: {{ supplied: [{field}] }}`");
                (message, help)
            }
        };
        Problem::new(&file, message).at_line(line).with_help(help)
    }

    /// The declaration of a field: the first of that name, better of that name and type.
    fn place(&self, misfit: &UnfillableField) -> FactLocation {
        let own = format!("schemas/{}.cedarschema", self.slug);
        let name = misfit.field.rsplit_once('.').map_or(&*misfit.field, |(_, name)| name);
        let names = [own.clone(), "schemas/_shared.cedarschema".to_owned()];
        let texts = names
            .iter()
            .filter_map(|file| Some((file, self.files.get(file)?.text(file).ok()?)));
        let found: Vec<_> = texts
            .flat_map(|(file, text)| declarations(text, name).into_iter().map(move |found| (file, text, found)))
            .collect();
        let is_of_type = |declared: &Declaration<'_>| {
            let bare: String = declared
                .ty
                .chars()
                .filter(|c| !c.is_whitespace())
                .take(misfit.ty.len())
                .collect();
            bare == misfit.ty
        };
        let best = found.iter().find(|(_, _, declared)| is_of_type(declared)).or(found.first());
        match best {
            Some((file, text, declared)) => FactLocation {
                file: (*file).clone(),
                line: Some(position(text, declared.offset).line),
            },
            None => FactLocation { file: own, line: None },
        }
    }

    /// Warns of forbids that the proxy cannot evaluate, because they read a field that only the app supplies: they deny
    /// every request that they may apply to.
    pub(super) fn unknown_at_proxy(&self, plans: &ContextPlans, entries: &[Arc<PolicyEntry>]) -> Vec<Problem> {
        let mut warnings = Vec::new();
        for (action, declared) in self.model.actions() {
            let supplied = plans.get(action).map(|plan| plan.supplied()).unwrap_or_default();
            if supplied.is_empty() || !self.is_asked(action, declared) {
                continue;
            }
            let forbids = entries.iter().filter(|entry| entry.info.effect == Effect::Forbid);
            for forbid in forbids.filter(|entry| entry.covers_action(action, &declared.ancestors)) {
                if let Some(field) = supplied.iter().find(|field| forbid.reads().context.includes(field)) {
                    let message = format!(
                        "forbid `{}` reads context `{field}`, which only the app supplies: a request that asks {action} and that the forbid may apply to is denied with `evaluation_error`",
                        forbid.info.id
                    );
                    let help = "give the app's question an action of its own, and let the forbid name that action";
                    warnings.push(at_place(&forbid.info.place, message).with_help(help));
                }
            }
        }
        warnings.sort_by(|a, b| (&a.file, a.line, &a.message).cmp(&(&b.file, b.line, &b.message)));
        warnings
    }
}

struct FactLocation {
    file: String,
    line: Option<usize>,
}

/// `name?: Type` in a schema.
struct Declaration<'a> {
    offset: usize,
    /// The text from the type on.
    ty: &'a str,
}

/// The places of a schema text that declare an attribute of that name; comments and strings do not count.
fn declarations<'a>(text: &'a str, name: &str) -> Vec<Declaration<'a>> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let offset = text.len() - rest.len();
        let length = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '"' => string_length(rest),
            c if is_name(c) => rest.find(|c| !is_name(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
        rest = after;
        let after = after.trim_start();
        let after = after.strip_prefix('?').unwrap_or(after).trim_start();
        if let Some(ty) = after.strip_prefix(':')
            && !ty.starts_with(':')
            && token.trim_matches('"') == name
        {
            found.push(Declaration { offset, ty });
        }
    }
    found
}

/// The length of the string literal that a text begins with.
fn string_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !is_escaped => return at + 1,
            _ => is_escaped = c == '\\' && !is_escaped,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Loader;
    use crate::test_support::{portal, tree};

    const BASE: &str = "entity Tenant; entity Role; entity Portal; entity Path in [Path, Portal]; entity Order;\n\
                        entity User in [Role, Tenant] = { email?: String };\n";

    /// The problems and warnings of a portal whose GET has this context.
    fn load(context: &str, file: &str, policies: &str) -> Result<Vec<Problem>, Vec<Problem>> {
        let shared = "type Level = { level?: Long };\n// client_ip?: ipaddr\n";
        let own = format!(
            "{BASE}action GET appliesTo {{ principal: [User], resource: [Path], context: {{\n{context}\n}} }};\n\
             action pay appliesTo {{ principal: [User], resource: [Order], context: {{ total?: Long, now?: String }} }};"
        );
        let files = tree([
            ("schemas/_shared.cedarschema", shared),
            ("schemas/bench.cedarschema", own.as_str()),
            ("policies/bench/portal.yaml", file),
            ("policies/bench/all.cedar", policies),
        ]);
        let loaded = Loader::new(None).load(&portal(), &files, None);
        match (loaded.revision, loaded.rejected) {
            (Some(revision), None) => Ok(revision.warnings.clone()),
            (_, rejected) => Err(rejected.unwrap().problems),
        }
    }

    const OPEN: &str = "@id(\"open\") permit(principal, action, resource);";

    #[test]
    fn a_field_that_no_request_has_is_an_error_with_its_place() {
        for (context, field, fills) in [
            ("client_ip?: ipaddr", "`client_ip`", "source_ip"),
            ("client_ip: ipaddr", "`client_ip`", "source_ip"),
            ("source_ip?: String", "`source_ip`", "`ipaddr`"),
            ("tenant?: Set<String>", "`tenant`", "`String` or an entity"),
            ("now?: String", "`now`", "`datetime`"),
            ("method?: Long", "`method`", "`String`"),
            ("auth?: Level", "`auth.level`", "`acr`"),
            ("auth?: { amr?: String }", "`auth.amr`", "`Set<String>`"),
            ("auth?: String", "`auth`", "`acr`"),
            (
                "flags?: { beta?: Set<String> }",
                "`flags.beta`",
                "`Bool`, `String` and `Long`",
            ),
            ("query?: { team?: Long }", "`query.team`", "`String`"),
            ("headers?: { x_a?: { b: String } }", "`headers.x_a`", "`Set<String>`"),
            ("headers?: { \"x y\"?: String }", "`headers.x y`", "no header"),
            (
                "headers?: { authorization?: String }",
                "`authorization`",
                "carries credentials",
            ),
        ] {
            let found = load(context, "", OPEN).unwrap_err();
            assert_eq!(found.len(), 1, "{context}: {found:?}");
            let (file, line) = match context.contains("Level") {
                true => ("schemas/_shared.cedarschema", 1),
                false => ("schemas/bench.cedarschema", 4),
            };
            assert_eq!(
                (found[0].file.as_str(), found[0].line),
                (file, Some(line)),
                "{context}: {found:?}"
            );
            assert!(
                found[0].message.contains(field) && found[0].message.contains(fills),
                "{context}: {found:?}"
            );
        }
    }

    #[test]
    fn a_header_that_the_gate_removes_is_an_error_in_every_spelling() {
        let removed = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let headers = RemovedHeaders {
            removed: removed(&["remote-user", "x-forwarded-*"]),
            passed: removed(&["x-forwarded-dept"]),
        };
        for (name, is_removed) in [
            ("Remote_User", true),
            ("\"remote-user\"", true),
            ("x_forwarded_for", true),
            ("x_forwarded_dept", false),
            ("x_dept", false),
        ] {
            let own = format!(
                "{BASE}action GET appliesTo {{ principal: [User], resource: [Path], context: {{ headers?: {{ {name}?: String }} }} }};"
            );
            let files = tree([
                ("schemas/bench.cedarschema", own.as_str()),
                ("policies/bench/all.cedar", OPEN),
            ]);
            let portal = crate::scope::PortalScope {
                removed_headers: headers.clone(),
                ..portal()
            };
            let rejected = Loader::new(None).load(&portal, &files, None).rejected;
            let problems = rejected.map(|error| error.problems).unwrap_or_default();
            assert_eq!(problems.len(), usize::from(is_removed), "{name}: {problems:?}");
            assert!(
                problems
                    .iter()
                    .all(|p| p.message.contains("the gate removes") && p.line == Some(3)),
                "{problems:?}"
            );
        }
    }

    #[test]
    fn a_field_that_the_app_supplies_is_listed_and_a_field_of_the_gate_is_not() {
        assert_eq!(load("total?: Long", "context: { supplied: [total] }", OPEN), Ok(Vec::new()));
        assert_eq!(load("now?: String", "context: { supplied: [now] }", OPEN), Ok(Vec::new()));
        let found = load(
            "now?: datetime, tenant?: String",
            "context:\n  supplied:\n  - tenant\n  - totl\n",
            OPEN,
        )
        .unwrap_err();
        let found: Vec<_> = found
            .iter()
            .map(|p| (p.file.as_str(), p.line, p.message.contains("gate itself")))
            .collect();
        let file = "policies/bench/portal.yaml";
        assert_eq!(found, [(file, Some(3), true), (file, Some(4), false)]);
    }

    #[test]
    fn the_flags_of_a_portal_are_those_that_its_schema_declares() {
        let context = "flags?: { beta?: Bool, theme?: String, seats?: Long }";
        let good = "flags:\n  beta: { value: true, percent: 10 }\n  theme: dark\n  seats: 3\n";
        assert_eq!(load(context, good, OPEN), Ok(Vec::new()));
        assert_eq!(load("", good, OPEN), Ok(Vec::new()), "flags of the pages alone");
        for (context, file, line, says) in [
            (
                context,
                "flags:\n  beta: true\n  betta: true\n",
                Some(3),
                "did you mean `beta`",
            ),
            (context, "flags:\n  beta: true\n  seats: many\n", Some(3), "declares `Long`"),
            (
                context,
                "flags:\n  theme: { value: true, percent: 1 }\n",
                Some(2),
                "declares `String`",
            ),
            ("flags?: { plan: String }", "title: t\n", None, "`flags.plan` is missing"),
            (
                "flags?: { plan?: String, }",
                "flags: { plan: 1 }\n",
                Some(1),
                "declares `String`",
            ),
        ] {
            let found = load(context, file, OPEN).unwrap_err();
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(
                (found[0].file.as_str(), found[0].line),
                ("policies/bench/portal.yaml", line),
                "{file}"
            );
            assert!(found[0].message.contains(says), "{found:?}");
        }
    }

    #[test]
    fn a_routed_action_is_asked_by_requests_too() {
        let route = "routes: [{ route: \"POST /pay/{o}\", action: pay, resource: { type: Order, id: \"{o}\" } }]\n";
        assert_eq!(load("", "", OPEN), Ok(Vec::new()), "the app alone asks `pay`");
        assert_eq!(load("", route, OPEN).unwrap_err().len(), 2);
    }

    #[test]
    fn a_forbid_that_the_proxy_cannot_evaluate_is_warned_of() {
        let policies = format!(
            "{OPEN}\n@id(\"dear\") forbid(principal, action == Action::\"GET\", resource) when {{ context has total && context.total > 9 }};"
        );
        let found = load("total?: Long", "context: { supplied: [total] }", &policies).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].file.as_str(), found[0].line), ("policies/bench/all.cedar", Some(2)));
        let of_app = policies.replace("\"GET\"", "\"pay\"");
        assert_eq!(
            load("total?: Long", "context: { supplied: [total] }", &of_app),
            Ok(Vec::new())
        );
    }
}
