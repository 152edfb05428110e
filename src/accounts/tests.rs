//! Accounts with real files and real hashes.

use std::net::Ipv4Addr;
use std::time::Instant;

use super::*;
use crate::config::Config;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Hash of `password` that is cheap to check.
const CHEAP: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

struct AccountsFixture {
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

fn lab_with(users: &str, more: &str) -> Result<AccountsFixture, AccountsError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("users.yaml"), users.replace("HASH", CHEAP)).unwrap();
    let config = config(folder.path(), more);
    let metrics = Metrics::new().unwrap();
    let (audit, _writer) = crate::audit::start(&config.audit, &metrics).unwrap();
    let sessions = Sessions::new(&config, &metrics).unwrap();
    let accounts = Accounts::new(&config, &sessions, &audit, &metrics)?;
    Ok(AccountsFixture { folder, accounts })
}

fn lab(users: &str) -> AccountsFixture {
    lab_with(users, "limits: { rate_login: { requests: 1000, per: 1s } }").unwrap()
}

impl AccountsFixture {
    async fn check(&self, name: &str, password: &str) -> Result<Account, CheckError> {
        self.check_from(name, password, HERE).await
    }

    async fn check_from(&self, name: &str, password: &str, from: IpAddr) -> Result<Account, CheckError> {
        self.accounts.check("local", name, password, from).await
    }

    fn write(&self, users: &str) {
        std::fs::write(self.folder.path().join("users.yaml"), users.replace("HASH", CHEAP)).unwrap();
    }

    fn reload(&self) -> Vec<String> {
        self.accounts.reload().into_iter().map(|account| account.name).collect()
    }

    fn reloads(&self, result: &str) -> u64 {
        self.accounts.metrics.users_reload.with_label_values(&["local", result]).get()
    }
}

fn is_limited(outcome: &Result<Account, CheckError>) -> bool {
    matches!(outcome, Err(CheckError::RateLimited { .. }))
}

#[tokio::test]
async fn only_the_right_password_of_an_enabled_account_is_accepted() {
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
        ("unknown", "password"),
        ("", ""),
        ("\u{0}", "password"),
    ] {
        let outcome = lab.check(name, password).await;
        assert!(matches!(outcome, Err(CheckError::Credentials(_))), "{name:?}: {outcome:?}");
    }
    let other_provider = lab.accounts.check("other", "alice", "password", HERE).await;
    assert!(
        matches!(other_provider, Err(CheckError::Credentials(_))),
        "{other_provider:?}"
    );
    assert!(lab.accounts.current("local", "alice").is_some());
    assert!(lab.accounts.current("local", "eve").is_none() && lab.accounts.current("local", "unknown").is_none());
}

#[tokio::test]
async fn check_of_an_unknown_name_takes_as_long_as_of_a_wrong_password() {
    let hash = Hash::new("the real one").unwrap();
    let lab = lab(&format!(
        "users:\n  alice: {{ password: \"{0}\" }}\n  eve: {{ password: \"{0}\", disabled: true }}\n",
        hash.to_text()
    ));
    // the fastest of several tries measures the cost; a busy machine needs more tries
    let mut fastest = [Duration::MAX; 4];
    let is_alike = |fastest: &[Duration; 4]| {
        let least = fastest.iter().min().unwrap();
        let most = fastest.iter().max().unwrap();
        // computing a hash costs some hundred times as much as finding a name
        *most < *least * 2
    };
    for round in 0..100 {
        for (best, name) in fastest.iter_mut().zip(["alice", "eve", "unknown", "Not A Name"]) {
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
async fn login_tries_are_limited_per_account_and_per_address() {
    let slow = "limits: { rate_login: { requests: 3, per: 1h } }";
    let users = "users:\n  alice: { password: \"HASH\" }\n  bob: { password: \"HASH\" }\n";
    let from = |n: u8| IpAddr::from([10, 0, 0, n]);
    let lab = lab_with(users, slow).unwrap();
    for _ in 0..3 {
        assert!(lab.check_from("alice", "password", from(0)).await.is_ok());
    }
    for _ in 0..5 {
        let more = lab.check_from("alice", "password", from(0)).await;
        assert!(is_limited(&more), "{more:?}");
    }
    // another address has its own limit; the account's limit is ten times as high
    for n in 3..30 {
        assert!(lab.check_from("alice", "password", from(n / 3)).await.is_ok(), "{n}");
    }
    assert!(is_limited(&lab.check_from("alice", "password", from(99)).await));
    assert!(lab.check_from("bob", "password", from(99)).await.is_ok());
    let lab = lab_with(users, slow).unwrap();
    for n in 0..3 {
        let name = format!("guess{n}");
        let outcome = lab.check_from(&name, "x", from(1)).await;
        assert!(matches!(outcome, Err(CheckError::Credentials(_))), "{outcome:?}");
    }
    for _ in 0..5 {
        assert!(is_limited(&lab.check_from("alice", "password", from(1)).await));
    }
    assert!(
        lab.check_from("alice", "password", from(2)).await.is_ok(),
        "one address does not lock the account for other addresses"
    );
    let six: Vec<IpAddr> = ["2001:db8::1", "2001:db8::2", "2001:db8::3:4", "2001:db8::ffff:1"]
        .map(|a| a.parse().unwrap())
        .to_vec();
    let mut limited = false;
    for address in six {
        limited = is_limited(&lab.check_from("bob", "x", address).await);
    }
    assert!(limited, "a /64 counts as one address");
}

#[test]
fn changed_file_takes_effect_and_a_bad_or_missing_one_does_not() {
    let lab = lab("users:\n  alice: { password: \"HASH\", roles: [viewer] }\n  bob: { password: \"HASH\" }\n");
    assert!(lab.reload().is_empty());
    lab.write("users:\n  alice: { password: \"HASH\", roles: [editor] }\n  bob: { password: \"HASH\" }\n");
    assert_eq!(lab.reload(), ["alice"]);
    let roles = |lab: &AccountsFixture| lab.accounts.current("local", "alice").map(|a| a.claims["roles"][0].clone());
    assert_eq!(roles(&lab), Some(Value::from("editor")));
    lab.write("users:\n  alice: { pasword: x }\n");
    assert!(lab.reload().is_empty() && lab.reload().is_empty());
    assert_eq!((roles(&lab), lab.reloads("rejected")), (Some(Value::from("editor")), 1));
    std::fs::remove_file(lab.folder.path().join("users.yaml")).unwrap();
    assert!(lab.reload().is_empty() && lab.reload().is_empty());
    assert_eq!((roles(&lab), lab.reloads("rejected")), (Some(Value::from("editor")), 2));
    lab.write("users:\n  alice: { password: \"HASH\", roles: [editor] }\n");
    assert_eq!(lab.reload(), ["bob"]);
    assert_eq!(lab.reloads("success"), 2);
}

#[test]
fn bad_users_file_at_start_is_an_error_with_key_and_line() {
    let start = |users: &str| lab_with(users, "").map(|_| ()).unwrap_err().to_string();
    let error = start("users:\n  alice: { roles: [] }\n");
    assert!(
        error.starts_with("login.providers.local: users_file: ") && error.contains("users.yaml:2:"),
        "{error}"
    );
}

#[tokio::test]
async fn a_one_time_code_counts_once_and_makes_a_second_factor() {
    let secret = TotpSecret::generate().unwrap();
    let lab = lab(&format!(
        "users:\n  ada: {{ password: \"HASH\", totp: {} }}\n  bob: {{ password: \"HASH\" }}\n",
        secret.to_text()
    ));
    assert!(lab.accounts.has_codes("local") && !lab.accounts.has_codes("other"));
    let check = |name: &str, code: &str| lab.accounts.check_code("local", name, code);
    let now = unix_seconds();
    assert!(check("ada", "").is_err() && check("ada", "0000000").is_err());
    // the code of the next step is early, and leaves no older one
    let next = secret.code(now + 30);
    let (left, right) = next.split_at(3);
    assert_eq!(check("ada", &format!("{left} {right}")), Ok(()));
    assert!(check("ada", &next).is_err() && check("ada", &secret.code(now)).is_err());
    assert!(check("bob", &next).is_err() && check("nobody", &next).is_err());
    let without = lab_with("users:\n  bob: { password: \"HASH\" }\n", "").unwrap();
    assert!(!without.accounts.has_codes("local"));
}
