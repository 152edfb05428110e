//! `cedargate schema show --editor`: puts files where Cedar's extension for editors looks for them.
//!
//! The extension takes the one schema in a policy's own folder, and knows entities by the name of their file. The files
//! are hidden, so that no gate reads them, and `policies/.gitignore` of the scaffold leaves them out of a repository.

use std::path::Path;

use super::{PortalArgs, joined_text, one_portal};
use crate::base::files::replace_file;
use crate::cli::report::complain;
use crate::cli::tree::Workbench;

const SCHEMA: &str = ".editor.cedarschema";
const ENTITIES: &str = ".cedarentities.json";
const MODE: u32 = 0o644;

pub(super) fn write(args: &PortalArgs) -> Result<String, String> {
    let workbench = args.tree.open()?;
    let portals: Vec<_> = match &args.portal {
        Some(_) => vec![one_portal(&workbench, args.portal.as_deref())?],
        None => workbench.portals.iter().collect(),
    };
    let mut report = String::new();
    let mut shared = None;
    for portal in portals {
        let text = match joined_text(&workbench, portal) {
            Ok(text) => text,
            Err(message) if args.portal.is_none() => {
                complain(&message);
                continue;
            }
            Err(message) => return Err(message),
        };
        let folder = workbench.path(&format!("policies/{}", portal.slug))?;
        write_schema(&folder, &text, &mut report)?;
        link_entities(
            &workbench,
            &format!("policies/{}/entities.json", portal.slug),
            &folder,
            &mut report,
        )?;
        shared.get_or_insert(text);
    }
    // shared policies are read with the types of a portal: the first one's will do
    let folder = workbench.path("policies/_shared")?;
    if let Some(text) = shared.filter(|_| folder.is_dir()) {
        write_schema(&folder, &text, &mut report)?;
    }
    Ok(report)
}

fn write_schema(folder: &Path, text: &str, report: &mut String) -> Result<(), String> {
    let path = folder.join(SCHEMA);
    replace_file(&path, text.as_bytes(), MODE).map_err(|e| format!("cannot write `{}`: {e}", path.display()))?;
    report.push_str(&format!("wrote {}\n", path.display()));
    Ok(())
}

/// A second name of the portal's entities, beside them.
fn link_entities(workbench: &Workbench, name: &str, folder: &Path, report: &mut String) -> Result<(), String> {
    let path = folder.join(ENTITIES);
    if workbench.source(name).is_none() || path.symlink_metadata().is_ok() {
        return Ok(());
    }
    std::os::unix::fs::symlink("entities.json", &path).map_err(|e| format!("cannot make `{}`: {e}", path.display()))?;
    report.push_str(&format!("linked {} to entities.json\n", path.display()));
    Ok(())
}
