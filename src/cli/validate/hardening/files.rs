//! Rules about the rights of files and folders that the configuration names.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Checklist, last, leaves, rules};

/// Keys of files that hold a secret, or that decide who a user is. `key` is a private key of TLS.
const SECRET_FILES: &[&str] = &[
    "client_key_file",
    "client_secret_file",
    "key",
    "key_file",
    "password_file",
    "tokens_file",
    "users_file",
];
/// Read or write for users who are neither the owner nor of the group.
const OTHERS: u32 = 0o006;
/// Write for the group or for others.
const SHARED_WRITE: u32 = 0o022;

pub(super) fn check(list: &mut Checklist<'_>) {
    secret_files(list);
    control_folder(list);
}

fn secret_files(list: &mut Checklist<'_>) {
    let mut named = Vec::new();
    leaves("", &list.loaded.effective, &mut |key, value| {
        if SECRET_FILES.contains(&last(key))
            && let Some(path) = value.as_str()
        {
            named.push((key.to_owned(), path.to_owned()));
        }
    });
    for (key, path) in named {
        // a file that cannot be looked at is a start error, which `validate` reports before
        let Ok(mode) = std::fs::metadata(list.folder().join(&path)).map(|file| mode(&file)) else {
            continue;
        };
        if mode & OTHERS != 0 {
            list.setting(
                rules::FILE_OPEN,
                &key,
                format!("`{path}` has mode {mode:04o}: every user may open it"),
            );
        }
    }
}

fn control_folder(list: &mut Checklist<'_>) {
    let Some(folder) = list.loaded.config.listen.control.as_deref().and_then(Path::parent) else {
        return;
    };
    let Ok(mode) = std::fs::metadata(folder).map(|folder| mode(&folder)) else {
        return;
    };
    if mode & SHARED_WRITE != 0 {
        let message = format!("`{}` has mode {mode:04o}: others may replace the socket", folder.display());
        list.setting(rules::CONTROL_FOLDER_OPEN, "listen.control.address", message);
    }
}

fn mode(of: &Metadata) -> u32 {
    of.permissions().mode() & 0o7777
}
