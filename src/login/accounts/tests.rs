//! Accounts with real files and real hashes.

use std::net::Ipv4Addr;
use std::time::Instant;

use super::*;
use crate::config::Config;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Cheap to check; of the password `password`.
const CHEAP: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

struct Lab {
    folder: tempfile::TempDir,
    accounts: Arc<Accounts>,
}

fn config(folder: &std::path::Path, more: &str) -> Config {
    Config::from_yaml(&format!(
        "public_url: 'http://localhost:1'\nupstream: {{ url: 'http://127.0.0.1:1' }}\nlogin: {{ providers: {{ local: {{ users_file: '{}' }} }} }}\n{more}\n",
        folder.join("users.yaml").display()
    ))
    .unwrap()
}

fn lab_with(users: &str, more: &str) -> Result<Lab, LoginError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("users.yaml"), users.replace("HASH", CHEAP)).unwrap();
    let config = config(folder.path(), more);
    let metrics = Metrics::new().unwrap();
    let (audit, _writer) = crate::audit::start(&config.audit, &metrics).unwrap();
    let sessions = Sessions::new(&config, &metrics).unwrap();
    let accounts = Accounts::new(&config, &sessions, (&audit, &metrics))?;
    Ok(Lab { folder, accounts })
}

fn lab(users: &str) -> Lab {
    lab_with(users, "limits: { rate_login: { requests: 1000, per: 1s } }").unwrap()
}

impl Lab {
    async fn check(&self, name: &str, password: &str) -> Result<Account, LoginCode> {
        self.check_from(name, password, HERE).await
    }

    async fn check_from(&self, name: &str, password: &str, from: IpAddr) -> Result<Account, LoginCode> {
        let checked = self.accounts.check("local", name, password, from).await;
        checked.map_err(|failure| failure.code)
    }

    fn write(&self, users: &str) {
        std::fs::write(self.folder.path().join("users.yaml"), users.replace("HASH", CHEAP)).unwrap();
    }

    fn look(&self) -> Vec<String> {
        self.accounts.look().into_iter().map(|(_, name)| name).collect()
    }

    fn reloads(&self, result: &str) -> u64 {
        self.accounts.metrics.users_reload.with_label_values(&["local", result]).get()
    }
}

#[tokio::test]
async fn the_right_password_proves_the_account_and_nothing_else_does() {
    let lab = lab("users:\n  alice: { password: \"HASH\", roles: [viewer] }\n  eve: { password: \"HASH\", disabled: true }\n");
    let account = lab.check("alice", "password").await.unwrap();
    assert_eq!(
        (account.name.as_str(), &account.claims["roles"][0]),
        ("alice", &Value::from("viewer"))
    );
    let long = "x".repeat(PASSWORD_BYTES_MAX + 1);
    for (name, password) in [
        ("alice", "Password"),
        ("alice", ""),
        ("alice", &long),
        ("Alice", "password"),
        ("alice ", "password"),
        ("eve", "password"),
        ("nobody", "password"),
        ("", ""),
        ("\u{0}", "password"),
    ] {
        assert_eq!(
            lab.check(name, password).await,
            Err(LoginCode::CredentialsInvalid),
            "{name:?}"
        );
    }
    let elsewhere = lab.accounts.check("other", "alice", "password", HERE).await;
    assert_eq!(elsewhere.unwrap_err().code, LoginCode::CredentialsInvalid);
    assert!(lab.accounts.current("local", "alice").is_some());
    assert!(lab.accounts.current("local", "eve").is_none() && lab.accounts.current("local", "nobody").is_none());
}

#[tokio::test]
async fn an_unknown_name_costs_what_a_wrong_password_costs() {
    let hash = Hash::of("the real one").unwrap();
    let lab = lab(&format!(
        "users:\n  alice: {{ password: \"{0}\" }}\n  eve: {{ password: \"{0}\", disabled: true }}\n",
        hash.to_text()
    ));
    // the fastest of some tries is what a check costs; a machine that is busy elsewhere needs more of them
    let mut fastest = [Duration::MAX; 4];
    let is_alike = |fastest: &[Duration; 4]| {
        let (least, most) = (fastest.iter().min().unwrap(), fastest.iter().max().unwrap());
        // the cost of a hash is some hundred times that of finding a name
        *most < *least * 2
    };
    for round in 0..100 {
        for (best, name) in fastest.iter_mut().zip(["alice", "eve", "nobody", "Not A Name"]) {
            let started = Instant::now();
            assert!(lab.check(name, "a wrong one").await.is_err());
            *best = (*best).min(started.elapsed());
        }
        if round >= 4 && is_alike(&fastest) {
            return;
        }
    }
    panic!("{fastest:?}");
}

#[tokio::test]
async fn tries_are_counted_per_account_and_per_address() {
    let slow = "limits: { rate_login: { requests: 3, per: 1h } }";
    let users = "users:\n  alice: { password: \"HASH\" }\n  bob: { password: \"HASH\" }\n";
    let from = |n: u8| IpAddr::from([10, 0, 0, n]);
    let lab = lab_with(users, slow).unwrap();
    for _ in 0..3 {
        assert!(lab.check_from("alice", "password", from(0)).await.is_ok());
    }
    for _ in 0..5 {
        let more = lab.check_from("alice", "password", from(0)).await;
        assert_eq!(more, Err(LoginCode::RateLimited));
    }
    // what one address has used up is its own; the account has ten times as much
    for n in 3..30 {
        assert!(lab.check_from("alice", "password", from(n / 3)).await.is_ok(), "{n}");
    }
    assert_eq!(
        lab.check_from("alice", "password", from(99)).await,
        Err(LoginCode::RateLimited)
    );
    assert!(lab.check_from("bob", "password", from(99)).await.is_ok());
    let lab = lab_with(users, slow).unwrap();
    for n in 0..3 {
        let name = format!("guess{n}");
        assert_eq!(lab.check_from(&name, "x", from(1)).await, Err(LoginCode::CredentialsInvalid));
    }
    for _ in 0..5 {
        assert_eq!(
            lab.check_from("alice", "password", from(1)).await,
            Err(LoginCode::RateLimited)
        );
    }
    assert!(
        lab.check_from("alice", "password", from(2)).await.is_ok(),
        "one address locks nobody out"
    );
    let six: Vec<IpAddr> = ["2001:db8::1", "2001:db8::2", "2001:db8::3:4", "2001:db8::ffff:1"]
        .map(|a| a.parse().unwrap())
        .to_vec();
    let mut last = Ok(());
    for address in six {
        last = lab.check_from("bob", "x", address).await.map(|_| ());
    }
    assert_eq!(last, Err(LoginCode::RateLimited), "a /64 is one address");
}

#[test]
fn a_changed_file_is_in_force_and_a_bad_or_vanished_one_is_not() {
    let lab = lab("users:\n  alice: { password: \"HASH\", roles: [viewer] }\n  bob: { password: \"HASH\" }\n");
    assert!(lab.look().is_empty());
    lab.write("users:\n  alice: { password: \"HASH\", roles: [editor] }\n  bob: { password: \"HASH\" }\n");
    assert_eq!(lab.look(), ["alice"]);
    let roles = |lab: &Lab| lab.accounts.current("local", "alice").map(|a| a.claims["roles"][0].clone());
    assert_eq!(roles(&lab), Some(Value::from("editor")));
    lab.write("users:\n  alice: { pasword: x }\n");
    assert!(lab.look().is_empty() && lab.look().is_empty());
    assert_eq!((roles(&lab), lab.reloads("rejected")), (Some(Value::from("editor")), 1));
    std::fs::remove_file(lab.folder.path().join("users.yaml")).unwrap();
    assert!(lab.look().is_empty() && lab.look().is_empty());
    assert_eq!((roles(&lab), lab.reloads("rejected")), (Some(Value::from("editor")), 2));
    lab.write("users:\n  alice: { password: \"HASH\", roles: [editor] }\n");
    assert_eq!(lab.look(), ["bob"]);
    assert_eq!(lab.reloads("success"), 2);
}

#[test]
fn a_users_file_that_is_bad_at_start_names_its_key_and_line() {
    let start = |users: &str| lab_with(users, "").map(|_| ()).unwrap_err().to_string();
    let error = start("users:\n  alice: { roles: [] }\n");
    assert!(
        error.starts_with("login.providers.local: users_file: ") && error.contains("users.yaml:2:"),
        "{error}"
    );
}
