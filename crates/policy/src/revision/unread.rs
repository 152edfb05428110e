//! Files of the policy tree that no revision reads.
//!
//! A policy under a wrong name looks right in its folder and has no effect. So the gate names every file that lies in
//! the tree and is not read: as a mistake if it looks like a policy, an emergency forbid, a schema or a portal's own
//! file, which rejects the candidate; else as a stray file, which is a warning. Documentation is neither. Judges names
//! alone; the reader of the folders leaves out what editors write.

use super::problem::Problem;
use crate::types::PortalSlug;

/// The files of a portal that have one name.
const OWN_FILES: [&str; 4] = ["portal.yaml", "links.json", "entities.json", INVARIANTS];
/// The one file of that name that `_shared` has, too.
const INVARIANTS: &str = "invariants.yaml";
/// The folders of a portal.
const OWN_FOLDERS: [&str; 3] = ["tests", "_deny", "candidate"];
/// The file of `tests/` whose principals and entities every test of the portal, or below `_shared` of every portal, can
/// use.
pub const FIXTURES: &str = "fixtures.yaml";
/// The endings of decision tests.
const TEST_ENDINGS: [&str; 3] = [".yaml", ".yml", ".json"];

/// A file that no revision reads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unread {
    pub problem: Problem,
    /// `None`: every portal's.
    pub owner: Option<PortalSlug>,
    pub severity: UnreadSeverity,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnreadSeverity {
    /// It looks like a file that decides something.
    Mistake,
    Stray,
}

/// What an unread file is, before it is a problem.
struct FoundFile {
    severity: UnreadSeverity,
    message: String,
    help: String,
}

impl Unread {
    /// `None` if a revision reads the file, or refuses it by itself, or the file is documentation.
    pub fn of(name: &str) -> Option<Self> {
        let parts: Vec<&str> = name.split('/').collect();
        let (file, _) = parts.split_last()?;
        if is_documentation(file) {
            return None;
        }
        let (owner, found) = match parts.as_slice() {
            ["policies", file] => (None, in_root(file)),
            ["policies", "_shared", rest @ ..] => (None, in_shared(rest)),
            ["policies", folder, rest @ ..] => match PortalSlug::parse(folder) {
                Some(slug) => (Some(slug), in_portal(rest)),
                None => (None, in_no_portal(folder, file)),
            },
            ["schemas", rest @ ..] => {
                let stem = rest.first()?.split('.').next()?;
                (PortalSlug::parse(&stem.to_lowercase()), in_schemas(rest))
            }
            _ => return None,
        };
        let FoundFile { severity, message, help } = found?;
        Some(Self {
            problem: Problem::new(name, message).with_help(help),
            owner,
            severity,
        })
    }

    /// A folder that lies deeper than the gate reads.
    pub fn too_deep(name: &str) -> Self {
        let owner = name.strip_prefix("policies/").and_then(|rest| rest.split('/').next());
        Self {
            problem: Problem::new(name, "lies deeper than the gate reads").with_help("move its files up"),
            owner: owner.and_then(PortalSlug::parse),
            severity: UnreadSeverity::Stray,
        }
    }

    /// True if the file counts for this portal.
    pub fn concerns(&self, slug: &PortalSlug) -> bool {
        self.owner.as_ref().is_none_or(|owner| owner == slug)
    }
}

fn mistake(message: impl Into<String>, help: impl Into<String>) -> Option<FoundFile> {
    Some(FoundFile {
        severity: UnreadSeverity::Mistake,
        message: format!("is not read: {}", message.into()),
        help: help.into(),
    })
}

fn stray(help: &str) -> Option<FoundFile> {
    Some(FoundFile {
        severity: UnreadSeverity::Stray,
        message: "is not read".to_owned(),
        help: help.to_owned(),
    })
}

/// A file beside the portals' folders.
fn in_root(file: &str) -> Option<FoundFile> {
    if looks_like_policy(file) || OWN_FILES.contains(&file) {
        return mistake(
            "it is in no portal's folder",
            "move it to policies/<portal>/, or to policies/_shared/ if it holds policies for every portal",
        );
    }
    stray("move it out of policies/")
}

fn in_shared(rest: &[&str]) -> Option<FoundFile> {
    let (file, _) = rest.split_last()?;
    if file.ends_with(".cedar") || rest == [INVARIANTS] {
        return None;
    }
    if looks_like_policy(file) {
        return mistake("the names of policy files end in `.cedar`", "rename it");
    }
    if OWN_FILES.contains(file) {
        return mistake("each portal has its own", "move it to policies/<portal>/");
    }
    match rest {
        ["tests", file] if *file == FIXTURES => None,
        ["tests", ..] => stray("move it to policies/<portal>/tests/; of the shared tests only fixtures.yaml is read"),
        _ => stray("policies/_shared/ holds policy files, invariants.yaml and tests/fixtures.yaml alone"),
    }
}

/// A file below a folder that cannot be a portal.
fn in_no_portal(folder: &str, file: &str) -> Option<FoundFile> {
    if looks_like_policy(file) || OWN_FILES.contains(&file) {
        return mistake(
            format!("`{folder}` is no portal"),
            "portals are folders with names of lower-case letters, digits and `-`; policies for every portal are in policies/_shared/",
        );
    }
    stray("move it out of policies/")
}

fn in_portal(rest: &[&str]) -> Option<FoundFile> {
    let (file, folders) = rest.split_last()?;
    let lower = file.to_lowercase();
    match folders.first().copied() {
        Some("candidate") if file.ends_with(".cedar") && folders.len() == 1 => None,
        Some("candidate") => stray("a candidate set has policies alone, directly in its folder"),
        // the loader itself refuses a policy in a wrong folder
        _ if file.ends_with(".cedar") => None,
        None if OWN_FILES.contains(file) => None,
        Some("tests") if TEST_ENDINGS.iter().any(|ending| file.ends_with(ending)) => None,
        Some("tests") if TEST_ENDINGS.iter().any(|ending| lower.ends_with(ending)) => mistake(
            "the names of decision tests end in `.yaml` or `.json`",
            "write the ending in lower case",
        ),
        Some("_deny") if is_set_aside(file) => stray("its forbids are not in force; remove it, or let its name end in `.cedar`"),
        Some("_deny") => mistake(
            "emergency forbids are in files whose names end in `.cedar`",
            "rename it, or move it away",
        ),
        _ if looks_like_policy(file) => mistake(
            "the names of policy files end in `.cedar`, and schemas are in schemas/",
            "rename it, or move it away",
        ),
        None => match misspelt(file, &OWN_FILES, 3) {
            Some(meant) => mistake("the gate does not know the name", format!("did you mean `{meant}`?")),
            None => stray("move it out of the portal's folder"),
        },
        Some(folder) => match misspelt(folder, &OWN_FOLDERS, 2).filter(|_| is_content(file)) {
            Some(meant) => mistake(format!("there is no folder `{folder}`"), format!("did you mean `{meant}/`?")),
            None => stray("move it out of the portal's folder"),
        },
    }
}

fn in_schemas(rest: &[&str]) -> Option<FoundFile> {
    match rest {
        [file] => {
            let (stem, ending) = file.split_once('.').unwrap_or((file, ""));
            let is_name = stem == "_shared" || PortalSlug::parse(stem).is_some();
            if is_name && ending == "cedarschema" {
                return None;
            }
            if looks_like_policy(file) || ["json", "schema"].contains(&ending.to_lowercase().as_str()) {
                return mistake(
                    "a portal's schema is `schemas/<portal>.cedarschema`, in Cedar's own syntax",
                    "rename it, or move it away",
                );
            }
            stray("move it out of schemas/")
        }
        [.., file] if looks_like_policy(file) => mistake("schemas are directly in schemas/", "move it up"),
        _ => stray("move it out of schemas/"),
    }
}

/// True for `x.cedar` and `x.cedarschema` in any case, with or without one more ending that texts have, and for a
/// misspelt ending.
fn looks_like_policy(file: &str) -> bool {
    let lower = file.to_lowercase();
    let mut endings = lower.split('.').skip(1);
    let is_misspelt = endings
        .clone()
        .last()
        .is_some_and(|ending| misspelt(ending, &["cedar", "cedarschema"], 1).is_some());
    is_misspelt || (endings.any(|ending| matches!(ending, "cedar" | "cedarschema")) && is_content(file))
}

/// True for a policy file whose name got an ending that takes it out of force: `x.cedar.disabled`.
fn is_set_aside(file: &str) -> bool {
    !is_content(file) && file.to_lowercase().contains(".cedar.")
}

/// True for the endings of policies, schemas, settings and texts, in any case.
fn is_content(file: &str) -> bool {
    let ending = file.rsplit_once('.').map(|(_, ending)| ending.to_lowercase());
    ending.is_some_and(|ending| ["cedar", "cedarschema", "yaml", "yml", "json", "txt", "schema"].contains(&ending.as_str()))
}

fn is_documentation(file: &str) -> bool {
    let lower = file.to_lowercase();
    let stem = lower.split('.').next().unwrap_or_default();
    [
        "readme",
        "license",
        "licence",
        "notice",
        "changelog",
        "contributing",
        "codeowners",
        "owners",
    ]
    .contains(&stem)
        // JSON Schemas, by which editors check YAML files
        || [".md", ".adoc", ".rst", ".schema.json"].iter().any(|end| lower.ends_with(end))
}

/// The known name from which `name` differs in at most `distance_max` letters.
fn misspelt(name: &str, known: &[&'static str], distance_max: usize) -> Option<&'static str> {
    let distance = |known: &&str| strsim::damerau_levenshtein(known, &name.to_lowercase());
    let nearest = known.iter().copied().min_by_key(|known| distance(known))?;
    (distance(&nearest) <= distance_max).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_revision_reads_and_documentation_is_no_finding() {
        for name in [
            "policies/_shared/x.cedar",
            "policies/_shared/README.md",
            "policies/_shared/tests/fixtures.yaml",
            "policies/shop/portal.yaml",
            "policies/shop/entities.json",
            "policies/shop/links.json",
            "policies/shop/main.cedar",
            "policies/shop/CODEOWNERS",
            "schemas/tests.schema.json",
            "policies/shop/tests/t.yaml",
            "policies/shop/tests/cli.json",
            "policies/shop/tests/ALLOW/x.json",
            "policies/shop/_deny/lock.cedar",
            "policies/shop/_deny/night/lock.cedar",
            "policies/shop/_deny/README.txt",
            "schemas/shop.cedarschema",
            "schemas/_shared.cedarschema",
        ] {
            assert_eq!(Unread::of(name), None, "{name}");
        }
    }

    #[test]
    fn whatever_looks_like_a_policy_an_emergency_forbid_or_a_schema_is_a_mistake_of_its_portal() {
        for (name, owner) in [
            ("policies/shop/_deny/lock.CEDAR", Some("shop")),
            ("policies/shop/_deny/lock", Some("shop")),
            ("policies/shop/_deny/lock.cedar.txt", Some("shop")),
            ("policies/shop/_deny/lock.yaml", Some("shop")),
            ("policies/shop/lock.cedar.json", Some("shop")),
            ("policies/shop/main.Cedar", Some("shop")),
            ("policies/shop/main.ceder", Some("shop")),
            ("policies/_shared/main.cedr", None),
            ("schemas/shop.cedarscheme", Some("shop")),
            ("policies/shop/shop.cedarschema", Some("shop")),
            ("policies/shop/link.json", Some("shop")),
            ("policies/shop/entity.json", Some("shop")),
            ("policies/shop/Entities.json", Some("shop")),
            ("policies/shop/portal.yml", Some("shop")),
            ("policies/shop/test/x.yaml", Some("shop")),
            ("policies/shop/Tests/x.yaml", Some("shop")),
            ("policies/shop/tests/x.YAML", Some("shop")),
            ("policies/_deny/lock.cedar", None),
            ("policies/Shop/main.cedar", None),
            ("policies/lock.cedar", None),
            ("policies/lock.CEDAR", None),
            ("policies/entities.json", None),
            ("policies/_shared/entities.json", None),
            ("policies/_shared/x.CEDAR", None),
            ("schemas/shop.json", Some("shop")),
            ("schemas/Shop.cedarschema", Some("shop")),
            ("schemas/shop.CedarSchema", Some("shop")),
            ("schemas/shop.cedarschema.json", Some("shop")),
            ("schemas/shop.cedar", Some("shop")),
            ("schemas/shop/shop.cedarschema", Some("shop")),
            ("schemas/_shared.json", None),
            ("schemas/_Shared.cedarschema", None),
        ] {
            let found = Unread::of(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(found.severity, UnreadSeverity::Mistake, "{name}");
            assert_eq!(found.owner.as_ref().map(PortalSlug::as_str), owner, "{name}");
        }
    }

    #[test]
    fn other_files_are_strays() {
        for name in [
            "policies/shop/openapi.yaml",
            "policies/_shared/tests/cases.yaml",
            "policies/shop/log.json",
            "policies/shop/logo.png",
            "policies/shop/corp.cer",
            "policies/shop/_deny/lock.cedar.disabled",
            "policies/shop/candidate/deeper/x.cedar",
            "policies/shop/candidate/links.json",
            "policies/kustomization.yaml",
            "schemas/shop.png",
        ] {
            assert_eq!(
                Unread::of(name).map(|found| found.severity),
                Some(UnreadSeverity::Stray),
                "{name}"
            );
        }
    }
}
