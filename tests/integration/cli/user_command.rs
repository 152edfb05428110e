//! `cedargate user`: with a pipe, at a terminal, with a configuration, and with mistakes.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use crate::support::binary::cedargate;

fn user(folder: &Path, arguments: &[&str], stdin: &str) -> (i32, String, String) {
    let mut child = cedargate(&["user"])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // a command that needs no password may be gone already
    drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

const FILE: [&str; 3] = ["--file", "users.yaml", "--password-stdin"];

#[test]
fn accounts_are_added_changed_listed_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.yaml");
    let read = || std::fs::read_to_string(&path).unwrap();
    let run = |first: &[&str], stdin: &str| user(folder.path(), &[first, &FILE].concat(), stdin);
    let added = run(
        &[
            "add",
            "alice",
            "--tenant",
            "acme",
            "--role",
            "viewer",
            "--role",
            "editor",
            "--portal",
            "customer",
            "--name",
            "Alice: B",
            "--email",
            "a@acme.test",
        ],
        "correct horse\n",
    );
    assert_eq!((added.0, added.2.as_str()), (0, ""));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(read().contains("$argon2id$v=19$m=19456,t=2,p=1$") && !read().contains("correct horse"));
    assert_eq!(run(&["add", "bob"], "battery staple\r\n").0, 0);
    let before = read();
    assert_eq!(run(&["passwd", "alice"], "another one\n").0, 0);
    assert!(read() != before && read().lines().count() == before.lines().count());
    let listed = user(folder.path(), &["list", "--file", "users.yaml"], "");
    assert_eq!(
        listed.1,
        "alice  tenant=acme  roles=viewer,editor  portals=customer\nbob  tenant=-  roles=  portals=all\n"
    );
    assert!(!listed.1.contains("argon2id"));
    assert_eq!(user(folder.path(), &["remove", "bob", "--file", "users.yaml"], "").0, 0);
    assert!(!read().contains("bob"));
}

#[test]
fn a_second_factor_is_given_to_an_account_that_is_there_and_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let run = |first: &[&str]| user(folder.path(), &[first, &FILE[..2]].concat(), "");
    assert_eq!(
        user(folder.path(), &[&["add", "ada"][..], &FILE].concat(), "correct horse").0,
        0
    );
    assert_eq!(run(&["code", "ada"]).0, 64);
    let (status, given, error) = run(&["totp", "ada"]);
    assert_eq!((status, error.as_str()), (0, ""));
    assert!(given.contains("\notpauth://totp/cedargate:ada?"), "{given}");
    let code = run(&["code", "ada"]);
    assert!(code.0 == 0 && code.1.trim().len() == 6, "{code:?}");
    let (_, again, _) = run(&["totp", "ada"]);
    assert_ne!(given, again, "a new secret");
    assert_eq!(run(&["totp", "ada", "--remove"]).0, 0);
    let (status, _, error) = run(&["totp", "ada", "--remove"]);
    assert!(status == 64 && error.contains("has no second factor"), "{error}");
    let (status, _, error) = run(&["totp", "adda"]);
    assert!(status == 64 && error.contains("did you mean `ada`"), "{error}");
    let (status, _, error) = user(folder.path(), &["totp", "ada", "--file", "nowhere.yaml"], "");
    assert!(status == 64 && error.contains("user add"), "{error}");
}

#[test]
fn a_mistaken_user_command_changes_no_file_and_names_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.yaml");
    let run = |first: &[&str], stdin: &str| user(folder.path(), &[first, &FILE].concat(), stdin);
    assert_eq!(run(&["add", "alice"], "correct horse").0, 0);
    let before = std::fs::read(&path).unwrap();
    for (arguments, stdin, says) in [
        (&["add", "alice"][..], "correct horse", "user passwd"),
        (&["add", "Bob"], "correct horse", "is not a valid name"),
        (&["add", "bob"], "short", "at least 8"),
        (&["add", "bob"], "", "at least 8"),
        (&["add", "bob"], "        ", "at least 8"),
        (&["add", "bob"], "two lines\nof text\n", "one line"),
        (
            &["add", "bob", "--portal", "Not A Slug"],
            "correct horse",
            "not a valid portal name",
        ),
        (&["add", "bob", "--tenant", ""], "correct horse", "is empty"),
        (
            &["add", "bob", "--role", "viewer,editor"],
            "correct horse",
            "`--role` once for each",
        ),
        (&["passwd", "alcie"], "correct horse", "user add"),
    ] {
        let (code, _, error) = run(arguments, stdin);
        assert!(code == 64 && error.contains(says), "{arguments:?}: {code} {error}");
    }
    let long = "x".repeat(2000);
    assert!(run(&["passwd", "alice"], &long).2.contains("at most 1024"));
    let near = user(folder.path(), &["remove", "alic", "--file", "users.yaml"], "");
    assert!(near.2.contains("did you mean `alice`"), "{}", near.2);
    let missing = user(folder.path(), &["list", "--file", "nowhere.yaml"], "");
    assert!(missing.0 == 64 && missing.2.contains("cannot be read"), "{}", missing.2);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    std::fs::write(&path, "users:\n  alice: { pasword: x }\n").unwrap();
    let broken = run(&["add", "bob"], "correct horse");
    assert!(
        broken.2.contains("users.yaml:2:") && broken.2.contains("did you mean `password`"),
        "{}",
        broken.2
    );
}

#[test]
fn the_file_is_that_of_the_configurations_only_local_provider() {
    let folder = tempfile::tempdir().unwrap();
    let configured = |providers: &str| {
        let text = format!(
            "public_url: https://shop.test\nupstream: {{ url: 'http://127.0.0.1:1' }}\nlogin: {{ providers: {{ {providers} }} }}\n"
        );
        std::fs::write(folder.path().join("cedargate.yaml"), text).unwrap();
    };
    let add = || user(folder.path(), &["add", "alice", "--password-stdin"], "correct horse");
    let (code, _, error) = add();
    assert!(code == 64 && error.contains("--file"), "{error}");
    configured("staff: { users_file: here/staff.yaml }");
    std::fs::create_dir(folder.path().join("here")).unwrap();
    let (code, message, error) = add();
    assert_eq!(code, 0, "{error}");
    assert!(
        message.contains("here/staff.yaml") && folder.path().join("here/staff.yaml").exists(),
        "{message}"
    );
    configured("a: { users_file: a.yaml }, b: { users_file: b.yaml }");
    assert!(add().2.contains("several users files (a, b)"));
}

#[test]
fn a_terminal_is_asked_twice_without_echo() {
    let folder = tempfile::tempdir().unwrap();
    let command = format!("{} user add alice --file users.yaml", env!("CARGO_BIN_EXE_cedargate"));
    let dialogue = |typed: &str| {
        // `script` gives the command a terminal of its own
        let mut child = std::process::Command::new("script")
            .args(["-q", "-e", "-c", &command, "/dev/null"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut out, mut message) = (child.stdout.take().unwrap(), Vec::new());
        let mut to = child.stdin.take().unwrap();
        let mut answers = typed.split_inclusive('\n');
        let mut byte = [0];
        while out.read(&mut byte).unwrap_or(0) > 0 {
            message.push(byte[0]);
            if message.ends_with(b"assword: ") || message.ends_with(b"again: ") {
                to.write_all(answers.next().unwrap_or_default().as_bytes()).unwrap();
            }
        }
        let code = child.wait().unwrap().code().unwrap();
        (code, String::from_utf8_lossy(&message).into_owned())
    };
    let (code, message) = dialogue("correct horse\nbattery staple\n");
    assert!(
        code == 64 && message.contains("differ") && !folder.path().join("users.yaml").exists(),
        "{message}"
    );
    let (code, message) = dialogue("correct\u{3}\n");
    assert!(code == 64 && message.contains("nothing was changed"), "{message}");
    // a typing mistake, deleted again
    let (code, message) = dialogue("correct horsé\u{7f}e\ncorrect horse\n");
    assert!(
        code == 0 && message.contains("added `alice`") && !message.contains("horse"),
        "{code} {message}"
    );
}
