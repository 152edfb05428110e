//! Whom oauth2-proxy let in: policies, the schema that they need, and tests. Public paths of `portal.yaml`.
//!
//! SECURITY: what cannot be said exactly is said more narrowly. Without a statement of who may come in, no policy
//! permits.

use cedargate_policy::json::quoted;

use super::serving::Portals;
use super::settings::Settings;
use super::{ImportedFile, Remarks, Weight};

const SCHEMA: &str = include_str!("shared.cedarschema");
/// Methods of a public path for which oauth2-proxy names none.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

pub(super) struct ImportedAccess {
    /// The clauses of which one must hold; empty: no caller comes in. `None`: every caller.
    addresses: Option<Vec<String>>,
    /// Roles of which the caller must have one; empty: no role is needed.
    roles: Vec<String>,
    /// An address that satisfies `addresses`.
    example: Option<String>,
    refuses_unverified: bool,
}

pub(super) fn translate(settings: &Settings, remarks: &mut Remarks) -> ImportedAccess {
    let domains = settings.list("email_domains");
    let emails_file = settings.get("authenticated_emails_file");
    let mut clauses = Vec::new();
    let mut example = None;
    if let Some(setting) = settings.get("email_domains") {
        for domain in domains.iter().filter(|domain| *domain != "*") {
            match address_clauses(domain) {
                Some(found) => {
                    example.get_or_insert(format!(
                        "alice@{}",
                        domain.trim_start_matches(['*', '.']).to_ascii_lowercase()
                    ));
                    clauses.extend(found);
                }
                None => remarks.of(Weight::Decide, setting, "a domain is no plain host name, and is left out"),
            }
        }
    }
    if let Some(setting) = emails_file {
        let message = "its addresses are not read: add `principal.email == \"…\"` for each to `policies/_shared/access.cedar`";
        remarks.of(Weight::Decide, setting, message);
    }
    let addresses = match domains.iter().any(|domain| domain == "*") {
        true => None,
        false => {
            if clauses.is_empty() && emails_file.is_none() {
                remarks.missing("who may come in: `email_domains` is missing, so no policy permits");
            }
            Some(clauses)
        }
    };
    let lists = ["allowed_groups", "allowed_roles", "keycloak_groups", "gitlab_groups"];
    let mut roles: Vec<String> = lists.iter().flat_map(|name| settings.list(name)).cloned().collect();
    if let Some(setting) = settings
        .get("allowed_roles")
        .filter(|setting| setting.values.iter().any(|role| role.contains(':')))
    {
        remarks.of(
            Weight::Decide,
            setting,
            "roles of a client are in `resource_access.<client>.roles`: add that path to `claims.roles`",
        );
        for role in &mut roles {
            *role = role.rsplit(':').next().unwrap_or_default().to_owned();
        }
    }
    if ["github_org", "github_team", "google_groups", "github_users"]
        .iter()
        .any(|name| settings.get(name).is_some())
        && addresses.is_none()
    {
        // SECURITY: without its restriction the policy would let every user of the provider in
        remarks.missing(
            "a restriction of the provider has no counterpart, so no policy permits: write `policies/_shared/access.cedar`",
        );
        return ImportedAccess {
            addresses: Some(Vec::new()),
            roles,
            example: None,
            refuses_unverified: true,
        };
    }
    ImportedAccess {
        addresses,
        roles,
        example,
        refuses_unverified: settings.switch("insecure_oidc_allow_unverified_email").is_none(),
    }
}

/// The clauses of one domain: `example.com`, or `.example.com` for it and all below it.
fn address_clauses(domain: &str) -> Option<Vec<String>> {
    let below = domain.strip_prefix('*').unwrap_or(domain).strip_prefix('.');
    let plain = below.unwrap_or(domain).to_ascii_lowercase();
    let is_plain = !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    let mut clauses = vec![format!("principal.email like \"*@{plain}\"")];
    clauses.extend(below.map(|_| format!("principal.email like \"*@*.{plain}\"")));
    is_plain.then_some(clauses)
}

impl ImportedAccess {
    pub fn files(&self, settings: &Settings, portals: &Portals, remarks: &mut Remarks) -> Vec<ImportedFile> {
        let file = |name: String, text: String| ImportedFile { name, text };
        let mut files = vec![
            file("schemas/_shared.cedarschema".to_owned(), SCHEMA.to_owned()),
            file("policies/_shared/access.cedar".to_owned(), self.policies()),
        ];
        let mut public = public_paths(settings, remarks);
        for (name, prefix) in &portals.0 {
            let is_here = |path: &String| prefix == "/" || path.split(' ').nth(1).is_some_and(|path| is_below(path, prefix));
            let (here, elsewhere) = public.into_iter().partition(is_here);
            public = elsewhere;
            files.push(file(
                format!("schemas/{name}.cedarschema"),
                "// This portal's own types and actions.\n".to_owned(),
            ));
            let own = "// This portal's own policies. policies/_shared/access.cedar permits.\n".to_owned();
            files.push(file(format!("policies/{name}/own.cedar"), own));
            files.push(file(
                format!("policies/{name}/portal.yaml"),
                portal_yaml(name, &here, settings),
            ));
            files.push(file(format!("policies/{name}/tests/access.yaml"), self.tests(prefix)));
        }
        if !public.is_empty() {
            remarks.missing("some public paths belong to no portal, and are left out");
        }
        files
    }

    /// The condition of the permit; `None`: every caller.
    fn condition(&self) -> Option<String> {
        let roles: Vec<String> = self.roles.iter().map(|role| format!("principal in Role::{role:?}")).collect();
        let addresses = self.addresses.as_ref().map(|clauses| match clauses.as_slice() {
            [] => "false".to_owned(),
            clauses => format!("principal has email &&\n    ({})", clauses.join(" ||\n     ")),
        });
        let roles = (!roles.is_empty()).then(|| format!("({})", roles.join(" ||\n     ")));
        let both: Vec<String> = roles.into_iter().chain(addresses).collect();
        (!both.is_empty()).then(|| both.join(" &&\n    "))
    }

    fn policies(&self) -> String {
        let condition = self.condition();
        let rule = if condition.is_some() { "any-action" } else { "permit-all" };
        let mut text = format!(
            "// The callers whom oauth2-proxy let in may do everything. Narrow this, one action at a time.\n\
             // lint: allow({rule}) oauth2-proxy decides by the caller alone\n\
             @id(\"let-in\")\npermit (principal, action, resource)"
        );
        if let Some(condition) = condition {
            text.push_str(&format!("\nwhen {{\n    {condition}\n}}"));
        }
        text.push_str(";\n");
        if self.refuses_unverified {
            text.push_str(
                "\n// An address that the provider did not verify proves nothing.\n@id(\"unverified-address\")\nforbid (principal, action, resource)\nwhen { principal has email_verified && !principal.email_verified };\n",
            );
        }
        text
    }

    fn tests(&self, prefix: &str) -> String {
        let closed = self.addresses.as_ref().is_some_and(Vec::is_empty);
        let email = self.example.as_deref().unwrap_or("alice@example.com");
        let roles = self.roles.first().map(|role| quoted(role)).unwrap_or_default();
        let outcome = if closed {
            "deny, reason: not_permitted"
        } else {
            "allow, because: [let-in]"
        };
        let mut text = format!(
            "principals:\n  alice: {{ id: alice, roles: [{roles}], attrs: {{ email: {email:?} }} }}\n  mallory: {{ id: mallory, roles: [], attrs: {{ email: \"mallory@elsewhere.invalid\" }} }}\n\
             cases:\n  - {{ name: a caller whom oauth2-proxy let in, principal: alice, http: \"GET {prefix}\", expect: {outcome} }}\n"
        );
        for role in self.roles.iter().skip(1).map(|role| quoted(role)) {
            text.push_str(&format!(
                "  - {{ name: {}, principal: {{ id: bob, roles: [{role}], attrs: {{ email: {email:?} }} }}, http: \"GET {prefix}\", expect: {outcome} }}\n",
                quoted(&format!("a caller with {role}"))
            ));
        }
        if self.condition().is_some() {
            text.push_str(&format!("  - {{ name: another caller, principal: mallory, http: \"GET {prefix}\", expect: deny, reason: not_permitted }}\n"));
        }
        if self.refuses_unverified && !closed {
            text.push_str(&format!(
                "  - {{ name: an address that is not verified, claims: {{ sub: alice, groups: [{roles}], roles: [{roles}], email: {email:?}, email_verified: false }},\n      http: \"GET {prefix}\", expect: deny, reason: forbidden }}\n"
            ));
        }
        text
    }
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn portal_yaml(name: &str, public: &[String], settings: &Settings) -> String {
    let mut text = format!("title: {name}\n");
    if settings.switch("skip_auth_preflight").is_some() {
        text.push_str("cors: app                              # skip_auth_preflight\n");
    }
    if let Some(setting) = settings.get("oidc_email_claim").filter(|setting| setting.text() != "email") {
        text.push_str(&format!(
            "claims: {{ email: {} }}    # oidc_email_claim\n",
            quoted(setting.text())
        ));
    }
    if !public.is_empty() {
        text.push_str("public:                                # skip_auth_routes\n");
        text.extend(public.iter().map(|path| format!("  - {}\n", quoted(path))));
    }
    text
}

/// The public paths that the routes without authentication name exactly.
fn public_paths(settings: &Settings, remarks: &mut Remarks) -> Vec<String> {
    let mut found = Vec::new();
    for name in ["skip_auth_routes", "skip_auth_regex"] {
        let Some(setting) = settings.get(name) else { continue };
        for route in &setting.values {
            let (method, regex) = match route.split_once('=').filter(|_| name == "skip_auth_routes") {
                Some((method, regex)) if method.bytes().all(|b| b.is_ascii_uppercase()) && !method.is_empty() => {
                    (Some(method), regex)
                }
                _ => (None, route.as_str()),
            };
            let Some(paths) = paths_of(regex) else {
                let message = format!(
                    "`{}` is no plain path: its requests need a login; add the paths to `public` of portal.yaml",
                    plainly(regex)
                );
                remarks.of(Weight::Decide, setting, message);
                continue;
            };
            for method in METHODS.into_iter().filter(|_| method.is_none()).chain(method) {
                found.extend(paths.iter().map(|path| format!("{method} {path}")));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// A regular expression without what a terminal or a comment could not show.
fn plainly(regex: &str) -> String {
    regex.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// The paths of a regular expression that is a literal: `^/health$`, `^/static/`, `^/static/.*`. A prefix that ends
/// inside of a segment stands for that segment alone and what is below it, which is less.
fn paths_of(regex: &str) -> Option<Vec<String>> {
    let literal = regex.strip_prefix('^')?;
    let literal = literal.replace("\\.", "\u{1}").replace("\\/", "/").replace("\\-", "-");
    let (literal, has_end) = literal
        .strip_suffix('$')
        .map_or((literal.as_str(), false), |whole| (whole, true));
    let start = ["(.*)", "(.+)", ".*", ".+"]
        .iter()
        .find_map(|rest| literal.strip_suffix(rest));
    let is_whole = has_end && start.is_none();
    let literal = start.unwrap_or(literal);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_~/.\x01".contains(&b);
    if !literal.starts_with('/') || !literal.bytes().all(plain) || literal.contains("//") {
        return None;
    }
    let path = literal.replace('\u{1}', ".");
    if path.split('/').any(|segment| segment == "." || segment == "..") {
        return None;
    }
    let base = path.trim_end_matches('/');
    Some(match (is_whole, base.is_empty(), path.ends_with('/')) {
        (true, true, _) => vec!["/".to_owned()],
        (true, false, _) => vec![base.to_owned()],
        (false, true, _) => vec!["/**".to_owned()],
        (false, false, true) => vec![format!("{base}/**")],
        (false, false, false) => vec![base.to_owned(), format!("{base}/**")],
    })
}
