//! Passwords with letters that keyboards and systems write in several ways.

use std::io::Write as _;
use std::process::Stdio;

use crate::support::binary::cedargate;
use crate::support::open_portal;
use crate::support::openid::Browser;
use crate::support::processes::free_port;

/// A users file with one account, made by the command.
fn users_file(password: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "add",
        "zoe",
        "--tenant",
        "acme",
        "--role",
        "viewer",
        "--file",
        "users.yaml",
        "--password-stdin",
    ];
    let mut child = cedargate(&["user"])
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    std::fs::read_to_string(folder.path().join("users.yaml")).unwrap()
}

#[test]
fn a_password_logs_in_in_every_form_in_which_it_can_be_typed() {
    let (composed, decomposed) = ("Zo\u{eb} likes caf\u{e9}s", "Zoe\u{308} likes cafe\u{301}s");
    for (set, typed) in [
        (composed, decomposed),
        (decomposed, composed),
        (composed, "Zo\u{eb}\u{a0}likes\u{a0}caf\u{e9}s"),
    ] {
        let port = free_port();
        let origin = format!("http://127.0.0.1:{port}");
        let gate = open_portal()
            .file("users.yaml", &users_file(set))
            .file("policies/p/portal.yaml", "login: { provider: local }\n")
            .config(&format!(
                "public_url: '{origin}'\nlogin: {{ providers: {{ local: {{ users_file: users.yaml }} }} }}\n\
                 listen: {{ proxy: {{ address: '127.0.0.1:{port}' }}, decision: null, admin: {{ address: '127.0.0.1:0' }} }}"
            ))
            .start();
        let log_in = |password: &str| {
            let mut browser = Browser::new();
            let form = browser.open(&format!("{origin}/portal/p/x"));
            let hop = browser.submit(&form, &[("name", "zoe"), ("password", password)]);
            browser.follow(hop).status
        };
        assert_eq!(log_in(typed), 200, "{set:?} {typed:?}");
        assert_eq!(log_in("Zoe likes cafes"), 401);
        assert_eq!(gate.app.count(), 1);
    }
}
