//! OpenAPI descriptions as arguments of commands: `FILE`, or `PORTAL=FILE` where there are several portals.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use cedargate_policy::openapi::{OpenApi, OpenApiError};
use cedargate_policy::types::PortalSlug;

use crate::base::files::read_small_text;

/// The largest description that a command reads; the largest public ones have 10 MB.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// One argument.
#[derive(Clone, Debug)]
pub(super) struct OpenApiArg {
    portal: Option<PortalSlug>,
    file: PathBuf,
}

/// A description that was read.
pub(super) struct OpenApiFile {
    pub portal: String,
    /// As the user wrote it.
    pub name: String,
    pub text: String,
    pub api: OpenApi,
}

impl FromStr for OpenApiArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = text.split_once('=');
        let named = named.and_then(|(slug, file)| Some((PortalSlug::parse(slug)?, file)));
        let (portal, file) = match named {
            Some((slug, file)) => (Some(slug), file),
            None => (None, text),
        };
        if file.is_empty() {
            return Err("name a file".to_owned());
        }
        Ok(Self {
            portal,
            file: PathBuf::from(file),
        })
    }
}

impl OpenApiFile {
    /// Reads the files and finds out which portal each is about.
    pub fn read_all(args: &[OpenApiArg], portals: &[&str]) -> Result<Vec<Self>, String> {
        let mut seen = HashSet::new();
        args.iter()
            .map(|arg| {
                let portal = portal_of(arg, portals)?;
                if !seen.insert(portal.clone()) {
                    return Err(format!(
                        "portal `{portal}` has two descriptions; name one file for each portal"
                    ));
                }
                Self::read(&arg.file, portal)
            })
            .collect()
    }

    pub fn read(file: &Path, portal: String) -> Result<Self, String> {
        let name = file.display().to_string();
        let text = read_small_text(file, BYTES_MAX).map_err(|e| format!("cannot read `{name}`: {e}"))?;
        let api = OpenApi::parse(&text).map_err(|error| match error {
            OpenApiError::Syntax {
                message,
                line: Some(line),
            } => format!("{name}:{line}: {message}"),
            error => format!("`{name}`: {error}"),
        })?;
        Ok(Self { portal, name, text, api })
    }
}

fn portal_of(arg: &OpenApiArg, portals: &[&str]) -> Result<String, String> {
    let file = arg.file.display();
    match (&arg.portal, portals) {
        (Some(slug), _) if portals.contains(&slug.as_str()) => Ok(slug.to_string()),
        (Some(slug), _) => Err(super::tree::no_portal(slug.as_str(), portals)),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(format!(
            "say whose description `{file}` is: --openapi <portal>={file}; the portals are {}",
            portals.join(", ")
        )),
    }
}
