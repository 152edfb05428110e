//! `--config`: which configuration file a command reads. One rule for all commands.

use std::path::{Path, PathBuf};

use crate::config::{self, Loaded};

/// The configuration file that a command reads if neither `--config` nor `$CEDARGATE_CONFIG` names one.
const DEFAULT: &str = "cedargate.yaml";

/// The configuration file of a command: `--config`, else `$CEDARGATE_CONFIG`, else `./cedargate.yaml` if it is there.
#[derive(clap::Args, Clone)]
pub(crate) struct ConfigFile {
    /// The configuration file. Default: `./cedargate.yaml`, if it is there
    #[arg(long, short, env = "CEDARGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// For a command to which no file's portals matter.
    #[arg(skip)]
    is_unread: bool,
}

impl ConfigFile {
    /// No file, even if there is one.
    pub(super) fn unread() -> Self {
        Self {
            config: None,
            is_unread: true,
        }
    }

    /// The file, for a command that can do without one. A named file need not exist: reading it then fails by its name.
    pub(crate) fn found(&self) -> Option<PathBuf> {
        if self.is_unread {
            return None;
        }
        self.config
            .clone()
            .or_else(|| Path::new(DEFAULT).exists().then(|| PathBuf::from(DEFAULT)))
    }

    /// The same for a command about policies: it needs no secrets, so their files may be missing.
    pub(crate) fn loaded_without_secrets(&self) -> Result<Option<Loaded>, String> {
        let loaded = self
            .found()
            .map(|path| config::load_without_secrets(&path, config::process_environment()));
        loaded.transpose().map_err(|error| error.to_string())
    }

    /// Reads the file, if there is one; `Err` is a text for the user.
    pub(crate) fn loaded(&self) -> Result<Option<Loaded>, String> {
        let loaded = self.found().map(|path| config::load(&path, config::process_environment()));
        loaded.transpose().map_err(|error| error.to_string())
    }

    /// Another file than the command's own.
    pub(crate) fn named(path: PathBuf) -> Self {
        Self {
            config: Some(path),
            is_unread: false,
        }
    }

    /// The file, for a command that cannot do without one.
    pub(crate) fn required(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT))
    }
}
