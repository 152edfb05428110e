//! Secrets: given in place as `x`, or by file as `x_file`, never both.
//!
//! They live in `Redacted` from the moment they are read. Messages name the file and line, never the content.

use std::path::{Path, PathBuf};

use cedargate_policy::types::Redacted;

use super::check::{Checker, SecretFiles};
use super::values::SecretText;
use crate::base::files::{ReadError, read_small_text};

/// Least characters of a decision token: 16 random ones cannot be guessed over the network.
const TOKEN_CHARS_MIN: usize = 16;
/// Stands for the tokens of a file that is not read; a configuration with it serves no request.
const UNREAD_TOKEN: &str = "the tokens of a file that was not read";
/// Bytes of a secret file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A secret of the configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Secret {
    /// Trimmed.
    Value(Redacted<String>),
    /// Trimmed; read again when it changes.
    File(PathBuf),
}

type Secrets = Vec<Redacted<String>>;

/// Reads a tokens file: one token per line; blank lines and `#` lines are ignored. Also reads it again after a change.
///
/// # Errors
/// A text that says what to do, if the file cannot be read, holds no token, or holds one too short.
pub fn read_tokens(path: &Path) -> Result<Vec<Redacted<String>>, String> {
    let shown = path.display();
    let text = read_small_text(path, FILE_BYTES_MAX).map_err(|error| match error {
        ReadError::Io(error) => format!("cannot read `{shown}`: {error}"),
        ReadError::NotSmall { max } => format!("`{shown}` is not a file of at most {max} bytes; is it the right file?"),
    })?;
    let mut tokens = Vec::new();
    for (n, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        check_token(line).map_err(|message| format!("the token in line {} of `{shown}` {message}", n + 1))?;
        tokens.push(Redacted::new(line.to_owned()));
    }
    if tokens.is_empty() {
        return Err(format!("`{shown}` holds no token; write one per line"));
    }
    Ok(tokens)
}

fn check_token(token: &str) -> Result<(), String> {
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("has characters that no HTTP header can carry; use letters, digits and `-._~+/=`".to_owned());
    }
    if token.len() < TOKEN_CHARS_MIN {
        return Err(format!(
            "is shorter than {TOKEN_CHARS_MIN} characters; make a longer one, for example with `openssl rand -hex 32`"
        ));
    }
    Ok(())
}

impl Checker<'_> {
    /// The tokens at `<section>.tokens` or in the file at `<section>.tokens_file`; empty if neither is given.
    pub fn tokens(&mut self, section: &str, inline: Option<&[SecretText]>, file: Option<&Path>) -> Secrets {
        let key = format!("{section}.tokens");
        let file_key = format!("{key}_file");
        if inline.is_some() && file.is_some() {
            self.error(&file_key, format!("`{key}` is given, too; keep one of them"));
        }
        let mut tokens = Vec::new();
        for (n, secret) in inline.unwrap_or_default().iter().enumerate() {
            match check_token(secret.0.expose()) {
                Ok(()) => tokens.push(secret.0.clone()),
                Err(message) => self.error(&format!("{key}[{n}]"), format!("this token {message}")),
            }
        }
        if inline.is_some_and(<[SecretText]>::is_empty) {
            self.error(&key, "is empty; write a token or remove the key");
        }
        if let Some(file) = file {
            let path = self.path(&file_key, file);
            match self.secrets {
                SecretFiles::Needed => match read_tokens(&path) {
                    Ok(read) => tokens.extend(read),
                    Err(message) => self.error(&file_key, message),
                },
                SecretFiles::Unread => tokens.push(Redacted::new(UNREAD_TOKEN.to_owned())),
            }
            self.secret_files.push(path);
        }
        tokens
    }

    /// The secret at `key` or in the file at `<key>_file`. `None`: a mistake was reported; `Some(None)`: neither is
    /// given.
    pub fn secret(&mut self, key: &str, inline: Option<&SecretText>, file: Option<&Path>) -> Option<Option<Secret>> {
        let file_key = format!("{key}_file");
        match (inline, file) {
            (Some(_), Some(_)) => {
                self.error(&file_key, format!("`{key}` is given, too; keep one of them"));
                None
            }
            (Some(secret), None) if secret.0.expose().trim().is_empty() => {
                self.error(key, "is empty; write the secret or remove the key");
                None
            }
            // a YAML block and `echo` end with a line break
            (Some(secret), None) => Some(Some(Secret::Value(Redacted::new(secret.0.expose().trim().to_owned())))),
            (None, Some(file)) => {
                let path = self.path(&file_key, file);
                if self.secrets == SecretFiles::Needed
                    && let Err(error) = std::fs::metadata(&path)
                {
                    self.error(&file_key, format!("cannot read `{}`: {error}", path.display()));
                    return None;
                }
                Some(Some(Secret::File(path)))
            }
            (None, None) => Some(None),
        }
    }
}
