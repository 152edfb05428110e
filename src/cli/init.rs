//! `cedargate init` and `cedargate new portal`: a tree that validates, whose tests pass, and that `serve` runs.
//!
//! Never overwrites a file: a tree that has one of them already is left as it is.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use cedargate_policy::types::PortalSlug;

use super::Exit;
use super::new_files::{NewFile, make_parent, refuse_existing, write};
use super::report::json;
use super::token::read_or_make_key;
use crate::config::json_schema;

const CONFIG: &str = include_str!("init/cedargate.yaml");
const PORTAL: &str = include_str!("init/portal.yaml");
const SCHEMA: &str = include_str!("init/portal.cedarschema");
const POLICIES: &str = include_str!("init/pages.cedar");
const ENTITIES: &str = include_str!("init/entities.json");
const TESTS: &str = include_str!("init/tests.yaml");
/// The shared files are those of the example portals.
pub(super) const SHARED_SCHEMA: &str = include_str!("../../schemas/_shared.cedarschema");
/// For editors; also below `schemas/` of this repository.
pub(super) const PORTAL_SCHEMA: &str = include_str!("../../schemas/portal.schema.json");
pub(super) const TESTS_SCHEMA: &str = include_str!("../../schemas/tests.schema.json");
/// Begins the line by which an editor finds the schema of a YAML file.
const EDITOR_LINE: &str = "# yaml-language-server: $schema=";
const SHARED_POLICY: &str = include_str!("../../policies/_shared/tenant-isolation.cedar");

/// What `cedargate schema show --editor` writes.
const IGNORED: &str = ".editor.cedarschema\n.cedarentities.json\n";

/// The issuer whose tokens the scaffold accepts; its key is made on this machine.
const DEV_ISSUER: &str = "https://dev.invalid/";
const DEV_AUDIENCE: &str = "app";
const DEV_KEY: &str = "keys/dev.pem";
const DEV_JWKS: &str = "keys/dev.jwks.json";

#[derive(clap::Args)]
pub(crate) struct InitArgs {
    /// The folder; made if it is missing
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The portals, separated by commas; each is at /portal/<name>
    #[arg(long, value_delimiter = ',', default_value = "customer", value_parser = slug)]
    portal: Vec<PortalSlug>,
    /// The tenant: the issuer may speak for it alone, and callers of the tests have it. Default: any; `acme` in the
    /// tests
    #[arg(long, value_parser = name)]
    tenant: Option<String>,
    /// Your OpenID Connect issuer. Default: a key on this machine, for `cedargate token mint`
    #[arg(long, requires = "audience", value_parser = url)]
    issuer: Option<String>,
    /// The audience of its tokens
    #[arg(long, requires = "issuer", value_parser = name)]
    audience: Option<String>,
}

#[derive(clap::Subcommand)]
pub(crate) enum NewCommand {
    /// Add a portal to a tree: its folder below policies/, its schema, its tests
    Portal(NewPortalArgs),
}

#[derive(clap::Args)]
pub(crate) struct NewPortalArgs {
    /// The portal's name: lower-case letters, digits and `-`
    #[arg(value_parser = slug)]
    slug: PortalSlug,
    /// The folder that has policies/ and schemas/
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// The tenant that callers of its tests have
    #[arg(long, default_value = "acme", value_parser = name)]
    tenant: String,
}

pub(super) fn slug(text: &str) -> Result<PortalSlug, String> {
    let why = || "is no portal name: 1 to 63 lower-case letters, digits and `-`, no `-` at either end".to_owned();
    PortalSlug::parse(text).ok_or_else(why)
}

/// A name goes into YAML as it is.
pub(super) fn name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_name = !text.is_empty() && text.chars().all(is_plain) && text.starts_with(|c: char| c.is_ascii_alphanumeric());
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| "use letters, digits, `-`, `_` and `.`".to_owned())
}

fn url(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|e| e.to_string())?;
    match (url.scheme(), text.contains(['"', '\\', '\n'])) {
        ("http" | "https", false) => Ok(text.to_owned()),
        _ => Err("is no http(s) URL".to_owned()),
    }
}

pub(crate) fn init(args: &InitArgs) -> Exit {
    Exit::print_or_usage(make_tree(args))
}

pub(crate) fn new(command: &NewCommand) -> Exit {
    let NewCommand::Portal(args) = command;
    Exit::print_or_usage(make_portal(args))
}

fn make_tree(args: &InitArgs) -> Result<String, String> {
    let file = |name: &str, text: &str| NewFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let mut files = vec![
        file("cedargate.yaml", &CONFIG.replace("ISSUER\n", &issuer(args))),
        file("schemas/_shared.cedarschema", SHARED_SCHEMA),
        file("schemas/.editor/config.schema.json", &json::text(&json_schema())),
        file("schemas/.editor/portal.schema.json", PORTAL_SCHEMA),
        file("schemas/.editor/tests.schema.json", TESTS_SCHEMA),
        file("policies/_shared/tenant-isolation.cedar", SHARED_POLICY),
        file("policies/.gitignore", IGNORED),
    ];
    let mut named = HashSet::new();
    for slug in &args.portal {
        if !named.insert(slug) {
            return Err(format!("`--portal`: `{slug}` is named twice"));
        }
        files.extend(portal_files(slug, args.tenant()));
    }
    let keys = [DEV_KEY, DEV_JWKS].map(|name| file(name, ""));
    let made_keys = if args.issuer.is_none() { &keys[..] } else { &[] };
    refuse_existing(&args.dir, files.iter().chain(made_keys))?;
    write(&args.dir, &files)?;
    if args.issuer.is_none() {
        let key = args.dir.join(DEV_KEY);
        make_parent(&key)?;
        let jwks = format!("{:#}\n", read_or_make_key(&key)?.jwks());
        let path = args.dir.join(DEV_JWKS);
        std::fs::write(&path, jwks).map_err(|e| format!("cannot make `{}`: {e}", path.display()))?;
        // the private key signs tokens that the gate believes
        write(&args.dir, &[file("keys/.gitignore", "*.pem\n")])?;
    }
    Ok(next_steps(args, files.len()))
}

impl InitArgs {
    /// The tenant of the tests.
    fn tenant(&self) -> &str {
        self.tenant.as_deref().unwrap_or("acme")
    }
}

/// The issuer's lines; with a tenant the issuer is bound to it.
fn issuer(args: &InitArgs) -> String {
    let bound = args
        .tenant
        .iter()
        .map(|tenant| format!("    tenants: [\"{tenant}\"]                        # a token of another tenant is refused\n"));
    issuer_lines(args) + &bound.collect::<String>()
}

fn issuer_lines(args: &InitArgs) -> String {
    match (&args.issuer, &args.audience) {
        (Some(issuer), Some(audience)) => format!(
            "  - name: corp\n    issuer: \"{issuer}\"\n    audiences: [{audience}]\n    \
             # its keys are found by OpenID Connect discovery\n    \
             claims: {{ subject: sub, tenant: tenant, roles: roles }}\n"
        ),
        _ => format!(
            "  - name: dev                               # replace it with your own issuer before anybody else uses this\n    \
             issuer: \"{DEV_ISSUER}\"\n    audiences: [{DEV_AUDIENCE}]\n    jwks: {{ file: {DEV_JWKS} }}\n"
        ),
    }
}

fn portal_files(slug: &PortalSlug, tenant: &str) -> Vec<NewFile> {
    let filled = |text: &str| {
        text.replace("SLUG", slug.as_str())
            .replace("TITLE", &title(slug))
            .replace("TENANT", tenant)
    };
    let file = |name: String, text: &str| NewFile {
        name,
        text: filled(text),
    };
    vec![
        file(format!("schemas/{slug}.cedarschema"), SCHEMA),
        file(format!("policies/{slug}/portal.yaml"), PORTAL),
        file(format!("policies/{slug}/pages.cedar"), POLICIES),
        file(format!("policies/{slug}/entities.json"), ENTITIES),
        file(format!("policies/{slug}/tests/pages.yaml"), TESTS),
    ]
}

/// `back-office` → `"Back office portal"`.
pub(super) fn title(slug: &PortalSlug) -> String {
    let words = slug.as_str().replace('-', " ");
    let mut letters = words.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    format!("\"{first}{} portal\"", letters.as_str())
}

fn next_steps(args: &InitArgs, count: usize) -> String {
    let dir = args.dir.display();
    let enter = if args.dir == Path::new(".") {
        String::new()
    } else {
        format!("  cd {dir}\n")
    };
    let first = args.portal.first().map_or("customer", PortalSlug::as_str);
    let mut text = format!(
        "wrote {count} files below {dir}\n\n{enter}  cedargate validate && cedargate test\n  cedargate serve            \
         # needs your app at 127.0.0.1:3000 (upstream.url)\n"
    );
    if args.issuer.is_none() {
        let tenant = args.tenant();
        text.push_str(&format!(
            "\n  TOKEN=$(cedargate token mint --key {DEV_KEY} --issuer {DEV_ISSUER} --audience {DEV_AUDIENCE} \\\n      \
             --subject vera --tenant {tenant} --role viewer)\n  \
             curl -i -H \"authorization: Bearer $TOKEN\" http://127.0.0.1:8900/portal/{first}/items\n"
        ));
    }
    text
}

fn make_portal(args: &NewPortalArgs) -> Result<String, String> {
    let shared = args.dir.join("schemas/_shared.cedarschema");
    if !shared.exists() {
        return Err(format!(
            "`{}` is missing: `{}` is no tree; `cedargate init` makes one",
            shared.display(),
            args.dir.display()
        ));
    }
    let mut files = portal_files(&args.slug, &args.tenant);
    for file in &mut files {
        let named = file.text.strip_prefix(EDITOR_LINE).and_then(|rest| rest.split_once('\n'));
        if let Some((schema, rest)) = named
            && !args.dir.join(schema.trim_start_matches("../")).exists()
        {
            file.text = rest.to_owned();
        }
    }
    refuse_existing(&args.dir, files.iter())?;
    write(&args.dir, &files)?;
    let slug = &args.slug;
    Ok(format!(
        "wrote {} files below {}\n\n  cedargate validate && cedargate test\n\n\
         Its requests are those below /portal/{slug}. If cedargate.yaml has `portals`, add to it:\n\n  \
         {slug}: {{ match: {{ path_prefix: /portal/{slug} }} }}\n",
        files.len(),
        args.dir.display()
    ))
}
