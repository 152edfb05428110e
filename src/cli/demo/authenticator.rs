//! The authenticator app of the demo's people: prints a one-time code when the gate asks one of them for a second
//! factor.
//!
//! It reads the decision log, as a user looks at the phone when the login page asks for a code.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::people::Person;
use crate::base::clock;
use crate::cli::client::runtime;
use crate::cli::print;

const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// Watches the log on a thread of its own until the process ends.
pub(super) fn start(people: Vec<Person>, log: PathBuf) -> std::io::Result<()> {
    let runtime = runtime()?;
    std::thread::Builder::new()
        .name("demo-authenticator".to_owned())
        .spawn(move || runtime.block_on(watch(&people, &log)))
        .map(drop)
}

async fn watch(people: &[Person], log: &Path) {
    let mut reader = loop {
        match File::open(log) {
            Ok(file) => break BufReader::new(file),
            Err(_not_yet) => tokio::time::sleep(LOOK_INTERVAL).await,
        }
    };
    let mut line = String::new();
    let mut last_printed = String::new();
    loop {
        match reader.read_line(&mut line) {
            Ok(0) | Err(_) => tokio::time::sleep(LOOK_INTERVAL).await,
            // the writer has not finished the line
            Ok(_) if !line.ends_with('\n') => {}
            Ok(_) => {
                if let Some(text) = asked(people, &line).filter(|text| *text != last_printed) {
                    print(&text);
                    last_printed = text;
                }
                line.clear();
            }
        }
    }
}

/// The code of the person whom this record asks for a second factor.
fn asked(people: &[Person], record: &str) -> Option<String> {
    let record: Value = serde_json::from_str(record).ok()?;
    let is_asked = record.get("reason").and_then(Value::as_str) == Some("step_up_required");
    let name = record.get("principal")?.get("id")?.as_str().filter(|_| is_asked)?;
    let person = people.iter().find(|person| person.name == name)?;
    let code = person.totp.as_ref()?.code(clock::unix_seconds());
    Some(format!("{name}'s one-time code is {code}; it counts for about a minute\n"))
}
