//! Checks of a candidate beyond Cedar's: each refuses a mistake that would silently allow more.
//!
//! Each check returns problems with their place and changes nothing.

use std::sync::Arc;

use cedar_policy::{Effect, EntityTypeName, EntityUid, PrincipalConstraint, ResourceConstraint, Template};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::engine::PolicyEntry;
use crate::engine::entities::EntityStore;
use crate::portal::file::{NamedProvider, PortalFile};
use crate::portal::path::CanonicalPath;
use crate::portal::path::rules::{Case, PathRules};
use crate::portal::route::{PublicEntry, RuleReach};
use crate::revision::Revision;
use crate::revision::problem::Problem;
use crate::revision::source::{Files, SourceFile, Tree};
use crate::schema::{SchemaModel, TypeNames};
use crate::scope::PortalScope;
use crate::types::PortalSlug;

/// Problems of routes that are reported.
const ROUTE_PROBLEMS_MAX: usize = 50;

/// Warnings about forbids over public entries that are reported: many forbids of one large group would make one for
/// each pair.
const FORBID_WARNINGS_MAX: usize = 50;

/// The prefix of the ids of emergency forbids, so that they never collide with other policies.
pub(super) const EMERGENCY_PREFIX: &str = "_deny/";

/// Reports removed files whose absence would silently allow more. A file that had no content in the previous revision
/// may be removed.
pub(super) fn removed_files(slug: &PortalSlug, files: &Files, previous: Option<&Revision>) -> Vec<Problem> {
    let own = format!("policies/{slug}/");
    let mut problems = Vec::new();
    if !has_own(slug, files) {
        problems.push(Problem::new(&own, "is missing or empty"));
    }
    let Some(previous) = previous else { return problems };
    let portal_yaml = format!("{own}portal.yaml");
    for (name, file) in &previous.candidate.files.0 {
        let guarded = name.starts_with("policies/_shared/") || *name == portal_yaml || name.starts_with("schemas/");
        if guarded && files.get(name).is_none() && has_content(file) {
            problems.push(
                Problem::new(name, "was removed, and the revision in force has it")
                    .with_help("to remove it for good, empty it first"),
            );
        }
    }
    problems
}

pub(super) fn has_own(slug: &PortalSlug, files: &Files) -> bool {
    let own = format!("policies/{slug}/");
    files.0.keys().any(|name| name.starts_with(&own))
}

/// True if the portal has no file left: its folder is being replaced or unmounted. An edit does not remove every file.
pub(super) fn is_folder_gone(tree: &Tree, slug: &PortalSlug) -> bool {
    !has_own(slug, &tree.files)
}

fn has_content(file: &SourceFile) -> bool {
    let text = String::from_utf8_lossy(&file.bytes);
    text.lines()
        .map(str::trim)
        .any(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with('#'))
}

pub(super) fn is_policy_place(slug: &PortalSlug, name: &str) -> bool {
    let below = [format!("policies/{slug}/"), "policies/_shared/".to_owned()];
    below
        .iter()
        .any(|folder| name.strip_prefix(folder.as_str()).is_some_and(|rest| !rest.contains('/')))
}

/// Warns about several namespaces without a choice in `portal.yaml`: the gate then finds none of its own names (HTTP
/// actions, `User`, `Path`) and denies such requests.
pub(super) fn namespace_warning(slug: &PortalSlug, model: &SchemaModel) -> Option<Problem> {
    let several = model.ambiguous.join(", ");
    let help = "name the one for HTTP actions and principals as `namespace` in portal.yaml";
    let warning = || {
        Problem::new(
            &format!("schemas/{slug}.cedarschema"),
            format!("has several namespaces: {several}"),
        )
    };
    (!model.ambiguous.is_empty()).then(|| warning().with_help(help))
}

pub(super) fn route_problems(slug: &PortalSlug, files: &Files, file: &PortalFile, model: &SchemaModel) -> Vec<Problem> {
    let name = format!("policies/{slug}/portal.yaml");
    let text = files.get(&name).and_then(|f| f.text(&name).ok()).unwrap_or_default();
    let mut problems = Vec::new();
    for route in file.routes.routes() {
        if problems.len() >= ROUTE_PROBLEMS_MAX {
            break;
        }
        // looks for the place only where there is a problem: it reads the file once more
        let place = |message: String| {
            let problem = Problem::new(&name, format!("routes[{}] `{route}`: {message}", route.index));
            match route.written_at(text) {
                Some(offset) => problem.at_span(text, offset, route.to_string().len()),
                None => problem,
            }
        };
        if model.resolve_action(&route.action).is_none() {
            problems.push(place(format!("the schema has no action `{}`", route.action)));
        }
        if model.resolve_type(&route.resource_type).is_none() {
            problems.push(place(format!("the schema has no entity type `{}`", route.resource_type)));
        }
    }
    problems
}

/// A portal's login providers must be ones that the portal trusts, or their logins would end in a refusal.
pub(super) fn login_problems(portal: &PortalScope, file: &PortalFile) -> Vec<Problem> {
    let named = file.login.iter().flat_map(|by| &by.providers);
    if let (Some(obstacle), Some(first)) = (&portal.login_obstacle, named.clone().next()) {
        let name = format!("policies/{}/portal.yaml", portal.slug);
        return vec![Problem::new(&name, format!("login: {obstacle}")).at_line(first.line)];
    }
    named.filter_map(|provider| login_problem(portal, provider)).collect()
}

fn login_problem(portal: &PortalScope, named: &NamedProvider) -> Option<Problem> {
    let file = format!("policies/{}/portal.yaml", portal.slug);
    let problem = |message: String| Some(Problem::new(&file, message).at_line(named.line));
    let providers = portal.providers.as_deref()?;
    let Some(provider) = providers.iter().find(|provider| *provider.name == *named.name) else {
        let known: Vec<&str> = providers.iter().map(|provider| &*provider.name).collect();
        let known = if known.is_empty() {
            "cedargate.yaml has no `login.providers`".to_owned()
        } else {
            format!("cedargate.yaml has {}", known.join(", "))
        };
        return problem(format!("login.provider: there is no provider `{}`; {known}", named.name));
    };
    if portal.issuer(&provider.issuer).is_some() {
        return None;
    }
    problem(format!(
        "login.provider: this portal does not trust the issuer of `{}`; add it to `portals[].issuers` or name another provider",
        named.name
    ))
}

pub(super) fn duplicates(entries: &[Arc<PolicyEntry>]) -> Vec<Problem> {
    let mut seen: FxHashMap<&str, &str> = FxHashMap::default();
    seen.reserve(entries.len());
    let mut problems = Vec::new();
    for entry in entries {
        if entry.info.id.starts_with(EMERGENCY_PREFIX) {
            let message = format!(
                "policy id `{}` starts with `{EMERGENCY_PREFIX}`, which is for emergency forbids",
                entry.info.id
            );
            problems.push(at_place(&entry.info.place, message).with_help("give it another `@id`"));
        }
        if let Some(first) = seen.insert(&entry.info.id, &entry.info.place) {
            let message = format!("policy id `{}` is already used at {first}", entry.info.id);
            problems.push(at_place(&entry.info.place, message));
        }
    }
    problems
}

/// Templates have ids of their own: a link must not name one of two.
pub(super) fn duplicate_templates(slug: &PortalSlug, templates: &[Template], entries: &[Arc<PolicyEntry>]) -> Vec<Problem> {
    let mut seen: FxHashSet<&str> = entries.iter().map(|entry| &*entry.info.id).collect();
    let mut problems = Vec::new();
    for template in templates {
        let id: &str = template.id().as_ref();
        if !seen.insert(id) {
            let message = format!("template id `{id}` is already used, here or in policies/_shared/");
            problems.push(Problem::new(&format!("policies/{slug}/"), message).with_help("give the template another `@id`"));
        }
    }
    problems
}

/// A problem at a policy's place.
pub(super) fn at_place(place: &str, message: String) -> Problem {
    let (file, line) = split_place(place);
    Problem::new(file, message).at_line(line)
}

fn split_place(place: &str) -> (&str, Option<usize>) {
    match place.rsplit_once(':') {
        Some((file, line)) => (file, line.parse().ok()),
        None => (place, None),
    }
}

/// A path of a policy that no request can have; the problem has no place yet.
pub(super) struct ImpossiblePath {
    /// As the policy writes it.
    pub path: String,
    pub problem: Problem,
}

/// A path that no request can have would make its rule look right and never match.
pub(super) fn path_problems(entry: &PolicyEntry, path: Option<&EntityTypeName>, rules: &PathRules) -> Vec<ImpossiblePath> {
    let literals = path.map(|_| entry.policy().entity_literals()).unwrap_or_default();
    let impossible = literals.into_iter().filter(|uid| {
        let is_possible = is_possible_path(uid.id().unescaped(), entry.info.effect, rules);
        path == Some(uid.type_name()) && !is_possible
    });
    impossible
        .map(|uid| {
            let message = format!("policy `{}` names `{uid}`, which no request's path can be", entry.info.id);
            ImpossiblePath {
                path: uid.to_string(),
                problem: Problem::new("", message).with_help(path_help(rules)),
            }
        })
        .collect()
}

pub(super) fn path_help(rules: &PathRules) -> &'static str {
    match rules.case {
        Case::Distinguished => "start with `/`, leave out the trailing `/`, escape only what a path must escape",
        Case::Ignored => {
            "start with `/`, leave out the trailing `/`, escape only what a path must escape, and write letters in lower case: \
             `paths.case` of portal.yaml is `ignored`"
        }
    }
}

/// True if some request has this id: an entity of another spelling is one that no request reaches.
pub(super) fn is_path_of_a_request(id: &str, rules: &PathRules) -> bool {
    is_possible_path(id, Effect::Permit, rules)
}

/// A permit may name an opaque path in the bytes that a client sends; a forbid names its plain spelling, which holds
/// for all.
fn is_possible_path(id: &str, effect: Effect, rules: &PathRules) -> bool {
    let Ok(path) = CanonicalPath::parse_request(id) else {
        return false;
    };
    let is_as_sent = effect == Effect::Permit && path.opaque().is_some();
    let is_read = rules
        .read(&path)
        .is_ok_and(|reading| reading.id() == id && (reading.plain_id() == id || is_as_sent));
    is_read && path.id() == id
}

/// The same, each with the place of its policy: for the policies of `links.json`, and for every policy of a portal
/// whose `paths` are not the default.
pub(super) fn placed_path_problems(
    entries: &[Arc<PolicyEntry>],
    path: Option<&EntityTypeName>,
    rules: &PathRules,
) -> Vec<Problem> {
    let of = |entry: &Arc<PolicyEntry>| {
        let (file, line) = split_place(&entry.info.place);
        let placed = |problem: Problem| Problem {
            file: file.to_owned(),
            ..problem.at_line(line)
        };
        let found = path_problems(entry, path, rules).into_iter();
        found.map(|found| placed(found.problem)).collect::<Vec<_>>()
    };
    entries.iter().flat_map(of).collect()
}

/// Warns of a portal's own policies whose scope names a path that is neither below the portal's prefix nor above it: a
/// spelling mistake that no request meets. Without a configuration the prefix is not known.
pub(super) fn outside_warnings(
    portal: &PortalScope,
    entries: &[Arc<PolicyEntry>],
    path: Option<&EntityTypeName>,
) -> Vec<Problem> {
    if portal.providers.is_none() {
        return Vec::new();
    }
    let prefix = portal.matches.path_prefix.to_lowercase();
    let own = format!("policies/{}/", portal.slug);
    let mut warnings = Vec::new();
    for entry in entries.iter().filter(|entry| entry.info.place.starts_with(&own)) {
        let (ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid)) =
            entry.policy().resource_constraint()
        else {
            continue;
        };
        let id = uid.id().unescaped().to_lowercase();
        if path == Some(uid.type_name()) && !is_below(&id, &prefix) && !is_below(&prefix, &id) {
            let message = format!(
                "policy `{}` names `{uid}`, which no request of this portal is below",
                entry.info.id
            );
            let help = format!("the portal's requests are those below `{prefix}` (`portals.<name>.match.path_prefix`)");
            warnings.push(at_place(&entry.info.place, message).with_help(help));
        }
    }
    warnings
}

fn is_below(path: &str, above: &str) -> bool {
    let rest = path.strip_prefix(above);
    above == "/" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The parts of a candidate that say which paths its forbids name.
pub(super) struct ForbiddenPaths<'a> {
    pub names: &'a TypeNames,
    pub model: &'a SchemaModel,
    pub store: &'a EntityStore,
    pub entries: &'a [Arc<PolicyEntry>],
}

impl ForbiddenPaths<'_> {
    /// A public entry must not reach a path that a forbid names: one of the two is a mistake.
    pub(super) fn problems(&self, slug: &PortalSlug, file: &PortalFile, files: &Files) -> Vec<Problem> {
        let mut problems = Vec::new();
        if file.public.is_empty() {
            return problems;
        }
        for entry in self.forbids() {
            for (path, reach) in named_paths(entry, self.names) {
                if let Some(public) = file.public.overlaps(path.id().unescaped(), reach) {
                    let message = format!("public `{public}` reaches `{path}`, which {} names", forbid_text(entry));
                    let name = portal_yaml(slug);
                    let problem = Problem::new(&name, message);
                    let text = files.get(&name).and_then(|file| file.text(&name).ok()).unwrap_or_default();
                    problems.push(match text.find(public) {
                        Some(offset) => problem.at_span(text, offset, public.len()),
                        None => problem,
                    });
                }
            }
        }
        problems
    }

    /// Warns of forbids that close a public entry for every caller, or through a group. They hold: an author who closes
    /// a portal expects it.
    pub(super) fn warnings(&self, slug: &PortalSlug, file: &PortalFile) -> Vec<Problem> {
        let mut warnings = Vec::new();
        if file.public.is_empty() {
            return warnings;
        }
        let warning = |message: String| Problem::new(&portal_yaml(slug), message);
        let methods = first_of_each_method(file);
        let groups = self.public_members(file);
        for entry in self.forbids() {
            if warnings.len() >= FORBID_WARNINGS_MAX {
                warnings.push(warning("has further warnings about forbids over public entries".to_owned()));
                break;
            }
            let closed = methods.iter().find(|public| self.closes_all(entry, public.method));
            if let Some(public) = closed {
                let message = format!(
                    "public `{}` is closed for every caller by {}",
                    public.text,
                    forbid_text(entry)
                );
                warnings.push(warning(message));
                continue;
            }
            for group in entry.policy().entity_literals() {
                let reached = groups.get(&group).into_iter().flatten();
                let left = FORBID_WARNINGS_MAX.saturating_sub(warnings.len());
                warnings.extend(reached.take(left).map(|(path, public)| {
                    let forbid = forbid_text(entry);
                    warning(format!(
                        "public `{public}` reaches `{path}`, which entities.json puts into `{group}`, which {forbid} names"
                    ))
                }));
            }
        }
        warnings
    }

    /// For each group the paths in it that a public entry reaches, and the entry.
    fn public_members<'f>(&self, file: &'f PortalFile) -> FxHashMap<EntityUid, Vec<(EntityUid, &'f str)>> {
        let members = self.store.members(self.names.path.as_ref());
        let reached = |path: EntityUid| {
            let public = file.public.overlaps(path.id().unescaped(), RuleReach::Subtree)?;
            Some((path, public))
        };
        let of_group = |(group, paths): (EntityUid, Vec<EntityUid>)| (group, paths.into_iter().filter_map(reached).collect());
        members.into_iter().map(of_group).collect()
    }

    fn forbids(&self) -> impl Iterator<Item = &Arc<PolicyEntry>> {
        self.entries.iter().filter(|entry| entry.info.effect == Effect::Forbid)
    }

    /// True for a forbid without conditions whose scope covers every principal and every path of the portal.
    fn closes_all(&self, entry: &PolicyEntry, method: &str) -> bool {
        let policy = entry.policy();
        let is_portal = |uid: &EntityUid| self.names.portal.as_ref() == Some(uid);
        let is_path = |ty: &EntityTypeName| self.names.path.as_ref() == Some(ty);
        if policy.has_non_scope_constraint() {
            return false;
        }
        let covers_paths = match policy.resource_constraint() {
            ResourceConstraint::Any => true,
            ResourceConstraint::Is(ty) => is_path(&ty),
            ResourceConstraint::In(uid) => is_portal(&uid),
            ResourceConstraint::IsIn(ty, uid) => is_path(&ty) && is_portal(&uid),
            ResourceConstraint::Eq(_) => false,
        };
        let covers_principals = matches!(
            policy.principal_constraint(),
            PrincipalConstraint::Any | PrincipalConstraint::Is(_)
        );
        let covers_method = || {
            self.model.method_action(method).is_none_or(|action| {
                let groups = self.model.action(&action).map(|declared| declared.ancestors.as_slice());
                entry.covers_action(&action, groups.unwrap_or_default())
            })
        };
        covers_paths && covers_principals && covers_method()
    }
}

/// The first public entry of each method: whether a forbid closes all paths depends on the method alone.
fn first_of_each_method(file: &PortalFile) -> Vec<PublicEntry<'_>> {
    let mut seen = FxHashSet::default();
    file.public.entries().filter(|public| seen.insert(public.method)).collect()
}

fn portal_yaml(slug: &PortalSlug) -> String {
    format!("policies/{slug}/portal.yaml")
}

fn forbid_text(entry: &PolicyEntry) -> String {
    format!("forbid `{}` ({})", entry.info.id, entry.info.place)
}

fn named_paths(entry: &PolicyEntry, names: &TypeNames) -> Vec<(EntityUid, RuleReach)> {
    let exact = match entry.policy().resource_constraint() {
        ResourceConstraint::Eq(uid) => Some(uid),
        _ => None,
    };
    let is_path = |uid: &EntityUid| names.path.as_ref() == Some(uid.type_name());
    let paths = entry.policy().entity_literals().into_iter().filter(is_path);
    paths
        .map(|uid| {
            let reach = if exact.as_ref() == Some(&uid) && !entry.policy().has_non_scope_constraint() {
                RuleReach::Exact
            } else {
                RuleReach::Subtree
            };
            (uid, reach)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::load::Loader;
    use crate::scope::PortalScope;
    use crate::test_support::{portal, tree};

    #[test]
    fn a_scope_that_names_a_path_outside_of_the_portal_is_warned_of() {
        let schema = "entity Portal; entity Path in [Path, Portal]; entity User;
            action GET appliesTo { principal: [User], resource: [Path], context: {} };";
        let mut at = PortalScope {
            providers: Some(Vec::new()),
            ..portal()
        };
        at.matches.path_prefix = "/Shop".to_owned();
        let warnings = |at: &PortalScope, path: &str| -> Vec<String> {
            let policy = format!("@id(\"x\") permit(principal, action, resource in Path::\"{path}\");");
            let files = [
                ("schemas/bench.cedarschema", schema),
                ("policies/bench/a.cedar", policy.as_str()),
            ];
            let loaded = Loader::new(None).load(at, &tree(files), None);
            let revision = loaded.revision.unwrap();
            revision.warnings.iter().map(ToString::to_string).collect()
        };
        for path in ["/shop", "/Shop/x", "/"] {
            assert_eq!(warnings(&at, path), Vec::<String>::new(), "{path}");
        }
        for path in ["/shp", "/shopping", "/other/Shop"] {
            let found = warnings(&at, path).concat();
            assert!(found.starts_with("policies/bench/a.cedar:1: policy `x` names"), "{found}");
            assert!(found.contains("below `/shop`"), "{found}");
        }
        // without a configuration
        assert_eq!(warnings(&portal(), "/shp"), Vec::<String>::new());
        at.matches.path_prefix = "/".to_owned();
        assert_eq!(warnings(&at, "/shp"), Vec::<String>::new());
    }
}
