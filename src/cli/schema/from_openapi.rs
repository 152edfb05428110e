//! `cedargate schema from-openapi`: a portal's schema, routes and first tests, out of the app's OpenAPI description.
//!
//! An operation becomes an action, a tag a group of actions. What a path's parameters name becomes a resource type; an
//! operation without parameters is about its collection. The files permit nothing: policies are the reader's to write.

mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cedar_policy::{EntityId, SchemaFragment};
use cedargate_policy::json::quoted;
use cedargate_policy::load::schema_problem;
use cedargate_policy::openapi::{OpenApi, Operation};
use cedargate_policy::portal::path::rules::Case;
use cedargate_policy::portal::route::{RouteSpec, RouteTable};
use cedargate_policy::types::PortalSlug;
use serde_json::Value;

use self::names::{RoutePath, UsedNames};
use crate::base::files::{ReadError, read_small_text};
use crate::cli::init::{SHARED_SCHEMA, name, slug, title};
use crate::cli::new_files::{NewFile, refuse_existing, write};
use crate::cli::openapi_file::OpenApiFile;
use crate::cli::report::complain;

const SHARED: &str = "schemas/_shared.cedarschema";
/// The largest schema file that is read.
const SCHEMA_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The OpenAPI description (3.0, 3.1 or 3.2), JSON or YAML
    file: PathBuf,
    /// The portal's name: lower-case letters, digits and `-`
    #[arg(long, short, value_parser = slug)]
    portal: PortalSlug,
    /// The path at the gate below which the description's paths begin. Default: `/portal/<portal>` and the path of the
    /// first server, unless that is below `/portal/<portal>` already
    #[arg(long, value_name = "PATH")]
    prefix: Option<String>,
    /// The tenant that the caller of the tests has
    #[arg(long, default_value = "acme", value_parser = name)]
    tenant: String,
    /// Write the four files into the tree instead of printing them; a file that exists is never changed
    #[arg(long)]
    write: bool,
    /// The folder that has policies/ and schemas/
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// The names of the shared schema that the portal's own file uses or must not use again.
#[derive(Debug, Default)]
struct Shared {
    types: BTreeSet<String>,
    actions: BTreeSet<String>,
}

/// One operation as an action and a route.
#[derive(Debug)]
struct OperationEntry<'a> {
    operation: &'a Operation,
    action: String,
    route: RouteSpec,
    /// A path that the route matches.
    example: String,
}

/// What the description becomes.
#[derive(Debug)]
struct Outline<'a> {
    slug: &'a PortalSlug,
    /// Name of the description's file.
    source: &'a str,
    title: Option<&'a str>,
    tenant: &'a str,
    shared: Shared,
    entries: Vec<OperationEntry<'a>>,
    /// Tag → name of its group.
    groups: BTreeMap<&'a str, String>,
    left_out: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<String, String> {
    let shared = shared_schema(args)?;
    let file = OpenApiFile::read(&args.file, args.portal.to_string())?;
    let mount = match &args.prefix {
        Some(prefix) if prefix.starts_with('/') || prefix.is_empty() => prefix.trim_end_matches('/').to_owned(),
        Some(prefix) => return Err(format!("--prefix `{prefix}` must start with `/`")),
        None => file.api.mount(&format!("/portal/{}", args.portal)),
    };
    let source = args.file.file_name().map(|name| name.to_string_lossy().into_owned());
    let outline = Outline::new(args, &file.api, source.as_deref().unwrap_or_default(), &mount, shared);
    if outline.entries.is_empty() {
        return Err(format!("`{}` has no operation that could be a route", file.name));
    }
    for note in &outline.left_out {
        complain(&format!("left out: {note}"));
    }
    for OperationEntry { operation, .. } in &outline.entries {
        if let Some(remark) = RoutePath::remark(&operation.path) {
            complain(&format!("note: `{operation}`: {remark}"));
        }
    }
    let files = outline.files();
    if !args.write {
        return Ok(printed(&files));
    }
    refuse_existing(&args.dir, files.iter())
        .map_err(|message| format!("{message}; without --write the command prints what it would write"))?;
    write(&args.dir, &files)?;
    Ok(outline.written(&args.dir.display().to_string(), &files))
}

/// The names of the tree's shared schema. A tree that has none yet gets the names of the scaffold's.
fn shared_schema(args: &Args) -> Result<Shared, String> {
    let path = args.dir.join(SHARED);
    let text = match read_small_text(&path, SCHEMA_BYTES_MAX) {
        Ok(text) => text,
        Err(ReadError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound && !args.write => SHARED_SCHEMA.to_owned(),
        Err(ReadError::Io(e)) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!(
                "`{}` is missing: `{}` is no tree; `cedargate init` makes one",
                path.display(),
                args.dir.display()
            ));
        }
        Err(e) => return Err(format!("cannot read `{}`: {e}", path.display())),
    };
    if let Some(problem) = schema_problem(&path.display().to_string(), &text) {
        return Err(problem.to_string());
    }
    let unusable = |e: &dyn std::fmt::Display| format!("`{}`: {e}; `cedargate validate` says where", path.display());
    let (fragment, _) = SchemaFragment::from_cedarschema_str(&text).map_err(|e| unusable(&e))?;
    let json = fragment.to_json_value().map_err(|e| unusable(&e))?;
    let shared = Shared::read(&json);
    if !shared.types.contains("User") {
        return Err(unusable(
            &"it declares no `User` outside of namespaces, which the generated actions apply to",
        ));
    }
    Ok(shared)
}

fn printed(files: &[NewFile]) -> String {
    files
        .iter()
        .map(|file| format!("# ---- {}\n{}\n", file.name, file.text))
        .collect()
}

impl Shared {
    fn read(json: &Value) -> Self {
        let keys = |section: &str| -> BTreeSet<String> {
            let names = json
                .pointer("/")
                .and_then(|root| root.get(section))
                .and_then(Value::as_object);
            names.into_iter().flat_map(|names| names.keys().cloned()).collect()
        };
        let mut types = keys("entityTypes");
        types.extend(keys("commonTypes"));
        Self {
            types,
            actions: keys("actions"),
        }
    }

    /// The shared group of methods that read or write, if the shared schema has it.
    fn method_group(&self, method: &str) -> Option<&'static str> {
        let group = if matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "QUERY") {
            "read"
        } else {
            "write"
        };
        self.actions.contains(group).then_some(group)
    }
}

impl<'a> Outline<'a> {
    fn new(args: &'a Args, api: &'a OpenApi, source: &'a str, mount: &str, shared: Shared) -> Self {
        let mut names = UsedNames::new(&shared.types, &shared.actions);
        let mut left_out = api.left_out.clone();
        let mut entries = Vec::new();
        for operation in &api.operations {
            match entry(operation, mount, &mut names) {
                Ok(entry) => entries.push(entry),
                Err(why) => left_out.push(format!("`{operation}`: {why}")),
            }
        }
        let entries = accepted(entries, &mut left_out);
        let mut groups = BTreeMap::new();
        for tag in entries.iter().flat_map(|entry| &entry.operation.tags) {
            if !groups.contains_key(tag.as_str()) && !tag.trim().is_empty() {
                groups.insert(tag.as_str(), names.group(tag));
            }
        }
        Self {
            slug: &args.portal,
            source,
            title: api.title.as_deref(),
            tenant: &args.tenant,
            shared,
            entries,
            groups,
            left_out,
        }
    }

    fn files(&self) -> [NewFile; 4] {
        let slug = self.slug;
        [
            NewFile {
                name: format!("schemas/{slug}.cedarschema"),
                text: self.schema(),
            },
            NewFile {
                name: format!("policies/{slug}/portal.yaml"),
                text: self.portal(),
            },
            NewFile {
                name: format!("policies/{slug}/operations.cedar"),
                text: self.policies(),
            },
            NewFile {
                name: format!("policies/{slug}/tests/openapi.yaml"),
                text: self.tests(),
            },
        ]
    }

    fn schema(&self) -> String {
        let mut text = format!(
            "// Made of {} by `cedargate schema from-openapi`, to be edited from here on: give the types their attributes.\n\
             // An operation is an action, a tag a group of actions; what the parameters of a path name is a
             // resource.\n\n",
            one_line(self.source)
        );
        let mut types: BTreeMap<&str, &str> = BTreeMap::new();
        for entry in &self.entries {
            types.entry(&entry.route.resource_type).or_insert(&entry.route.resource_id);
        }
        for (ty, id) in types {
            text.push_str(&format!("entity {ty};    // id: {}\n", one_line(id)));
        }
        text.push('\n');
        let groups: Vec<String> = self.groups.values().map(|group| cedar_name(group)).collect();
        if !groups.is_empty() {
            text.push_str(&format!("action {};\n", groups.join(", ")));
        }
        for entry in &self.entries {
            let own = entry.operation.tags.iter().filter_map(|tag| self.groups.get(tag.as_str()));
            let own: BTreeSet<String> = own.map(|group| cedar_name(group)).collect();
            let mut within: Vec<String> = own.into_iter().collect();
            within.extend(self.shared.method_group(&entry.operation.method).map(str::to_owned));
            let within = match within.as_slice() {
                [] => String::new(),
                groups => format!(" in [{}]", groups.join(", ")),
            };
            let context = if self.shared.types.contains("Facts") {
                ", context: Facts"
            } else {
                ""
            };
            text.push_str(&format!(
                "action {}{within} appliesTo {{ principal: [User], resource: [{}]{context} }};\n",
                cedar_name(&entry.action),
                entry.route.resource_type
            ));
        }
        text
    }

    fn portal(&self) -> String {
        let title = self.title.map_or_else(|| title(self.slug), quoted);
        let mut text = format!(
            "# Made of {} by `cedargate schema from-openapi`, to be edited from here on.\ntitle: {title}\n",
            one_line(self.source)
        );
        let open = self.entries.iter().filter(|entry| entry.operation.is_open);
        let open: Vec<String> = open.map(|entry| format!("#   - {}\n", quoted(&entry.route.route))).collect();
        if !open.is_empty() {
            text.push_str("# The description asks for no login here. A public path needs no caller, and no permit:\n# public:\n");
            text.extend(open);
        }
        text.push_str("routes:                                # method and path -> action and resource\n");
        for OperationEntry { route, .. } in &self.entries {
            text.push_str(&format!(
                "  - {{ route: {}, action: {}, resource: {{ type: {}, id: {} }} }}\n",
                quoted(&route.route),
                plain_or_quoted(&route.action),
                plain_or_quoted(&route.resource_type),
                quoted(&route.resource_id)
            ));
        }
        text
    }

    /// A portal without a policy file does not load; this one permits nothing.
    fn policies(&self) -> String {
        let group = self.groups.values().next().map_or("read", String::as_str);
        format!(
            "// What may be done is yours to say. A tag is a group of actions:\n\
             //\n\
             // @id(\"viewers\")\n\
             // permit (principal in Role::\"viewer\", action in Action::\"{}\", resource);\n",
            EntityId::new(group).escaped()
        )
    }

    fn tests(&self) -> String {
        let mut text = format!(
            "# Made of {} by `cedargate schema from-openapi`: a caller without a role may do nothing. Add what each role may do.\n\
             principals:\n  nobody: {{ id: nobody, tenant: {}, roles: [] }}\ncases:\n",
            one_line(self.source),
            self.tenant
        );
        for entry in &self.entries {
            text.push_str(&format!(
                "  - {{ name: {}, principal: nobody, http: {}, expect: deny }}\n",
                quoted(&format!("{} needs a role", entry.action)),
                quoted(&format!("{} {}", entry.operation.method, entry.example)),
            ));
        }
        text
    }

    fn written(&self, dir: &str, files: &[NewFile]) -> String {
        let names: Vec<String> = files.iter().map(|file| format!("  {}\n", file.name)).collect();
        format!(
            "wrote below {dir}: {} actions, {} resource types, {} routes\n{}\n\
             They permit nothing yet. Say in policies/{}/operations.cedar who may do what, then\n\n  cedargate validate && cedargate lint && cedargate test\n",
            self.entries.len(),
            self.entries
                .iter()
                .map(|entry| &entry.route.resource_type)
                .collect::<BTreeSet<_>>()
                .len(),
            self.entries.len(),
            names.concat(),
            self.slug
        )
    }
}

fn entry<'a>(operation: &'a Operation, mount: &str, names: &mut UsedNames) -> Result<OperationEntry<'a>, String> {
    let path = RoutePath::parse(mount, &operation.path)?;
    let resource = names.resource(&path);
    Ok(OperationEntry {
        operation,
        action: names.action(operation, &path),
        route: RouteSpec {
            route: format!("{} {}", operation.method, path.route()),
            action: String::new(),
            resource_type: resource.ty,
            resource_id: resource.id,
        },
        example: path.example(),
    })
}

/// The entries that can be routes beside each other. The rest is left out with the reason.
fn accepted<'a>(mut entries: Vec<OperationEntry<'a>>, left_out: &mut Vec<String>) -> Vec<OperationEntry<'a>> {
    for entry in &mut entries {
        entry.route.action.clone_from(&entry.action);
    }
    let specs: Vec<RouteSpec> = entries.iter().map(|entry| entry.route.clone()).collect();
    let refused: BTreeMap<usize, String> = match RouteTable::new(&specs, Case::Distinguished) {
        Ok(_) => BTreeMap::new(),
        Err(refused) => refused.into_iter().map(|(index, error)| (index, error.to_string())).collect(),
    };
    let mut kept = Vec::new();
    for (index, entry) in entries.into_iter().enumerate() {
        match refused.get(&index) {
            Some(why) => left_out.push(format!("`{}`: {why}", entry.operation)),
            None => kept.push(entry),
        }
    }
    kept
}

/// A text in a comment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A name of an action in a schema.
fn cedar_name(name: &str) -> String {
    if names::is_identifier(name) {
        return name.to_owned();
    }
    format!("\"{}\"", EntityId::new(name).escaped())
}

/// YAML reads some words as something else than a text.
fn plain_or_quoted(text: &str) -> String {
    const WORDS: [&str; 8] = ["true", "false", "null", "yes", "no", "on", "off", "y"];
    let is_plain =
        names::is_identifier(text) && !WORDS.contains(&text.to_ascii_lowercase().as_str()) && text != "n" && text != "N";
    if is_plain { text.to_owned() } else { quoted(text) }
}

#[cfg(test)]
mod tests;
