//! Reads a new password: typed twice at the terminal without echo, or piped in as one line.
//!
//! SECURITY: a password is never an argument: arguments show in process lists and in the shell's history.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::accounts::PASSWORD_BYTES_MAX;

/// A shorter password can be guessed in spite of a slow hash.
const PASSWORD_CHARS_MIN: usize = 8;

/// The source of a password.
#[derive(Clone, Copy)]
pub(super) enum PasswordSource {
    Terminal,
    Stdin,
}

/// The flag that says where the password comes from.
#[derive(clap::Args)]
pub(crate) struct PasswordArgs {
    /// Read the password from stdin, one line, instead of asking
    #[arg(long)]
    password_stdin: bool,
}

impl PasswordArgs {
    pub fn source(&self) -> PasswordSource {
        if self.password_stdin {
            PasswordSource::Stdin
        } else {
            PasswordSource::Terminal
        }
    }
}

/// Reads a new password: twice at the terminal, once from stdin. `Err` is a text for the user.
pub(super) fn read_password(source: PasswordSource) -> Result<String, String> {
    let password = match source {
        PasswordSource::Stdin => read_stdin()?,
        PasswordSource::Terminal => {
            let no_terminal =
                |_error| "there is no terminal to ask for a password on; pipe it in with --password-stdin".to_owned();
            let mut terminal = Terminal::open().map_err(no_terminal)?;
            let first = terminal.ask("Password: ")?;
            check_password(&first)?;
            if terminal.ask("The same again: ")? != first {
                return Err("the two passwords differ; nothing was changed".to_owned());
            }
            first
        }
    };
    check_password(&password)?;
    Ok(password)
}

fn check_password(password: &str) -> Result<(), String> {
    if password.chars().count() < PASSWORD_CHARS_MIN || password.trim().is_empty() {
        return Err(format!("a password has at least {PASSWORD_CHARS_MIN} characters"));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(format!("a password has at most {PASSWORD_BYTES_MAX} bytes"));
    }
    if password.chars().any(char::is_control) {
        return Err("a password is one line without control characters: a login form can send no other".to_owned());
    }
    Ok(())
}

fn read_stdin() -> Result<String, String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err("stdin is the terminal, which would show the password; run without --password-stdin".to_owned());
    }
    let mut text = String::new();
    // room for a line end, and for one byte that shows that the password is too long
    let bytes_max = u64::try_from(PASSWORD_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(3);
    stdin
        .lock()
        .take(bytes_max)
        .read_to_string(&mut text)
        .map_err(|error| format!("the password cannot be read from stdin: {error}"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// The terminal with its echo off; dropping it restores the settings from before.
struct Terminal {
    file: File,
    before: Termios,
}

impl Terminal {
    fn open() -> std::io::Result<Self> {
        let file = std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&file)?;
        let mut quiet = before.clone();
        // signals are off as well: a process that ctrl-C ends could not turn the echo on again
        quiet
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(&file, OptionalActions::Flush, &quiet)?;
        Ok(Self { file, before })
    }

    fn ask(&mut self, prompt: &str) -> Result<String, String> {
        let failed = |error: std::io::Error| format!("the terminal cannot be read: {error}");
        self.file.write_all(prompt.as_bytes()).map_err(failed)?;
        let mut typed: Vec<u8> = Vec::new();
        let mut byte = [0];
        loop {
            let count = self.file.read(&mut byte).map_err(failed)?;
            match byte {
                _ if count == 0 => return Err("the terminal is gone; nothing was changed".to_owned()),
                [b'\r' | b'\n'] => break,
                // ctrl-C, ctrl-D, ctrl-\
                [3 | 4 | 28] => {
                    drop(self.file.write_all(b"\n"));
                    return Err("nothing was changed".to_owned());
                }
                [8 | 127] => {
                    // backspace takes a whole character, which may be several bytes
                    while typed.pop().is_some_and(|last| last & 0b1100_0000 == 0b1000_0000) {}
                }
                // ctrl-U
                [21] => typed.clear(),
                [other] if typed.len() <= PASSWORD_BYTES_MAX => typed.push(other),
                _ => {}
            }
        }
        self.file.write_all(b"\n").map_err(failed)?;
        String::from_utf8(typed).map_err(|_error| "the password is not valid UTF-8".to_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // fails only if the terminal is gone
        let _gone = tcsetattr(&self.file, OptionalActions::Flush, &self.before).is_err();
    }
}
