//! Rules about each portal's files.

use cedar_policy::{ActionConstraint, Effect, Policy, PrincipalConstraint, ResourceConstraint};
use cedargate_policy::revision::Revision;

use super::{Checklist, FindingLocation, rules};
use crate::cli::tree::PortalLoad;

pub(super) fn check(list: &mut Checklist<'_>, loads: &[PortalLoad<'_>]) {
    let required: Vec<&str> = list.loaded.config.policies.require.iter().map(String::as_str).collect();
    let unrequired = loads
        .iter()
        .map(|load| load.portal.slug.as_str())
        .filter(|slug| !required.contains(slug));
    for slug in unrequired {
        list.setting(
            rules::PORTAL_NOT_REQUIRED,
            "policies.require",
            format!("does not name `{slug}`"),
        );
    }
    for load in loads {
        if let Some(revision) = &load.revision {
            let mut portal = PortalCheck {
                slug: load.portal.slug.as_str(),
                prefix: &load.portal.matches.path_prefix,
                revision,
                list,
            };
            portal.policies();
            portal.file();
            portal.tests();
        }
    }
}

/// One portal that loads. One that does not has errors to mend first.
struct PortalCheck<'a, 'b> {
    slug: &'a str,
    prefix: &'a str,
    revision: &'a Revision,
    list: &'a mut Checklist<'b>,
}

impl PortalCheck<'_, '_> {
    fn add(&mut self, rule: rules::Rule, file: String, line: Option<usize>, message: String) {
        let place = FindingLocation {
            file: Some(file),
            line,
            portal: Some(self.slug.to_owned()),
        };
        self.list.add(rule, place, message);
    }

    fn policies(&mut self) {
        let mut keeps_tenants_apart = false;
        for entry in self.revision.rules.engine.policies() {
            let policy = entry.policy();
            let info = &entry.info;
            let is_shared = info.place.starts_with("policies/_shared/");
            match info.effect {
                Effect::Forbid => keeps_tenants_apart |= is_shared && policy.to_string().to_lowercase().contains("tenant"),
                Effect::Permit if permits_everything(policy) => {
                    let (file, line) = place(&info.place);
                    let message = format!("`{}` permits everything to every caller", info.id);
                    self.add(rules::PERMIT_EVERYTHING, file, line, message);
                }
                Effect::Permit => {}
            }
        }
        if !keeps_tenants_apart {
            let message = format!("no forbid in `policies/_shared/` keeps the tenants of `{}` apart", self.slug);
            self.add(rules::TENANTS_MIXED, "policies/_shared".to_owned(), None, message);
        }
    }

    fn file(&mut self) {
        let name = format!("policies/{}/portal.yaml", self.slug);
        let file = self.revision.portal_files().get(&name);
        let text = file.and_then(|file| file.text(&name).ok()).unwrap_or_default();
        let line_of = |part: &str| text.lines().position(|line| line.contains(part)).map(|at| at + 1);
        let everything = [format!("{}/**", self.prefix.trim_end_matches('/')), "/**".to_owned()];
        let public = self.revision.file.public.entries().map(|entry| entry.text.to_owned());
        let open: Vec<String> = public
            .filter(|text| {
                text.split_whitespace()
                    .nth(1)
                    .is_some_and(|path| everything.iter().any(|all| all == path))
            })
            .collect();
        for entry in open {
            let line = line_of(&entry);
            self.add(
                rules::PUBLIC_EVERYTHING,
                name.clone(),
                line,
                format!("public: `{entry}` is the whole portal"),
            );
        }
        if let Some(line) = line_of("danger_skip_errors: true") {
            let message = "danger_skip_errors: is set, so a forbid that fails to evaluate does not apply".to_owned();
            self.add(rules::DANGER_KEY, name, Some(line), message);
        }
    }

    fn tests(&mut self) {
        let folder = format!("policies/{}/tests/", self.slug);
        if !self.revision.portal_files().0.keys().any(|name| name.starts_with(&folder)) {
            let message = format!("`{}` has no decision tests", self.slug);
            self.add(rules::PORTAL_UNTESTED, folder, None, message);
        }
    }
}

fn permits_everything(policy: &Policy) -> bool {
    matches!(policy.principal_constraint(), PrincipalConstraint::Any)
        && matches!(policy.action_constraint(), ActionConstraint::Any)
        && matches!(policy.resource_constraint(), ResourceConstraint::Any)
        && !policy.has_non_scope_constraint()
}

/// `policies/p/a.cedar:3` → file and line.
fn place(text: &str) -> (String, Option<usize>) {
    let parts = text.split_once(':');
    let (file, rest) = parts.unwrap_or((text, ""));
    let line = rest.split(':').next().and_then(|line| line.parse().ok());
    (file.to_owned(), line)
}
