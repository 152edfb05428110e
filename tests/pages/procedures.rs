//! Procedures word for word: the shell of a page, run as a newcomer would, against a real gate, Redis and app.
//!
//! Only the ports differ from the pages. One shell runs everything, because later pages go on where the first one
//! ended.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::promql::blocks;
use crate::read;

/// Longest time of the whole shell.
const PATIENCE: Duration = Duration::from_secs(180);

/// A process that does not outlive its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An app that answers every request with 200.
fn app() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            std::thread::spawn(move || {
                let mut head = [0; 4096];
                while connection.read(&mut head).is_ok_and(|read| read > 0) {
                    if connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

fn redis(folder: &Path) -> (Server, u16) {
    let port = free_port();
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server: {error}; run `make tools`"));
    let server = Server(child);
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "redis-server does not listen");
        std::thread::yield_now();
    }
    (server, port)
}

fn shell(page: &str) -> Vec<String> {
    blocks(&read(page), "sh")
}

/// Stands in for `kubectl`: what a page sends into the pod runs beside the gate, and the pod's log is the gate's output
/// and its records.
const KUBECTL: &str = r#"
gate_folder=$PWD NAMESPACE=acme POD=orders-0 SELECTOR=app=orders
kubectl() {
  case "$*" in
    *" exec "*)
      while [ "$1" != -- ]; do shift; done
      shift
      (cd "$gate_folder"; "${@/#\/etc\/cedargate\/cedargate.yaml/cedargate.yaml}") ;;
    *" logs "*) cat "$gate_folder/decisions.jsonl" "$gate_folder/gate.log" ;;
    *) echo "no stand-in for: kubectl $*" >&2; return 1 ;;
  esac
}
soon() { for _ in $(seq 50); do "$@" && return; sleep 0.2; done; echo "never came true: $*" >&2; return 1; }
is() { test "$("${@:2}")" = "$1"; }
by_alice() { answer -H "Authorization: Bearer $(cat alice.token)"; }
by_bob() { answer -H "Authorization: Bearer $(cat bob.token)"; }
by_session() { answer -H "Cookie: $session"; }
"#;

/// The commands of a page, which has so many.
fn commands<const N: usize>(page: &str) -> [String; N] {
    shell(page)
        .try_into()
        .unwrap_or_else(|all| panic!("{page} has other commands than its test knows: {all:?}"))
}

/// The page for an incident: one refusal is traced, a portal closed, a caller revoked.
fn incident() -> String {
    let page = "docs/runbooks/incident.md";
    let [trace, status, revoke, evidence] = commands(page);
    let emergency = blocks(&read(page), "cedar").concat();
    let revoke = revoke.replace("SUBJECT", "bob").replace("ISSUER", "corp");
    format!(
        r#"echo 'page {page}'
is 200 by_alice; is 403 by_bob; is 200 by_session
soon grep -q '"not_permitted"' decisions.jsonl
DECISION_ID=$(sed -n 's/.*"decision_id":"\([^"]*\)".*not_permitted.*/\1/p' decisions.jsonl | tail -1)
{trace}
{status}
mkdir "policies/$PORTAL/_deny"
cat > "policies/$PORTAL/_deny/incident.cedar" <<'EOF'
{emergency}EOF
soon is 403 by_alice
rm -r "policies/$PORTAL/_deny"
soon is 200 by_alice
{revoke}
soon is 401 by_bob; is 200 by_alice
mkdir evidence; cd evidence
{evidence}
test -s status.json; grep -q not_permitted gate.log
cd ..
"#
    )
}

/// The page for a rollback: a wrong edit that no test sees is reverted.
fn rollback() -> String {
    let page = "docs/runbooks/policy-rollback.md";
    let [check, reload] = commands(page);
    let git = blocks(&read(page), "console").concat();
    let git = git
        .replace("$ ", "")
        .replace("PORTAL", "\"$PORTAL\"")
        .replace("COMMIT", "HEAD");
    format!(
        r#"echo 'page {page}'
export GIT_AUTHOR_NAME=policies GIT_AUTHOR_EMAIL=policies@example.com GIT_COMMITTER_NAME=policies GIT_COMMITTER_EMAIL=policies@example.com
git init --quiet; git add policies schemas; git commit --quiet -m "Begin"
revision() {{ {{ {reload}
  }} | grep '"revision"'; }}
before=$(revision)
echo 'permit (principal in Role::"viewer", action in Action::"read", resource == Path::"/secrets");' >> "policies/$PORTAL/orders.cedar"
git commit --quiet -a -m "Permit what nobody tests"
test "$(revision)" != "$before"
{git}
{check}
{reload}
is "$before" revision
"#
    )
}

/// The pages for outages: Redis stops and goes on; the provider's keys were stolen, so that all of a portal's callers
/// are revoked and Alice needs a new token and a new login.
fn outages(login: &str) -> String {
    let (redis, provider) = ("docs/runbooks/redis-outage.md", "docs/runbooks/identity-provider-outage.md");
    let [redis_status, revoke_tenant] = commands(redis);
    let [provider_status, revoke_portal] = commands(provider);
    let revoke_tenant = revoke_tenant.replace("TENANT", "elsewhere");
    let revoke_portal = revoke_portal.replace("PORTAL", "\"$PORTAL\"");
    format!(
        r#"echo 'page {redis}'
redis_id=$(redis-cli -u "$REDIS" INFO server | tr -d '\r' | sed -n 's/^process_id://p')
kill -STOP "$redis_id"
soon is 503 by_session; is 200 by_alice
{redis_status}
kill -CONT "$redis_id"
soon is 200 by_session
{revoke_tenant}
is 200 by_session
echo 'page {provider}'
{provider_status}
{revoke_portal}
soon is 401 by_alice; is 401 by_session
sleep 1
cp trial-issuer.pem secrets/
token --subject alice --tenant "$TENANT" --role viewer > alice.token
soon is 200 by_alice
cp alice.password secrets/
{login}
rm secrets/trial-issuer.pem secrets/alice.password headers
"#
    )
}

/// Another replica of the tenant's gate, with the same Redis. It has verified both of alice's proofs before the
/// offboarding begins.
const SECOND_REPLICA: &str = r#"
sed 's/127.0.0.1:8900/127.0.0.1:8910/; s/127.0.0.1:8901/127.0.0.1:8911/; s/127.0.0.1:8903/127.0.0.1:8913/
     s/control.sock/second.sock/; s/state_dir: state/state_dir: state-2/; s/decisions.jsonl/second.jsonl/' cedargate.yaml > second.yaml
mkdir -p state-2
cedargate serve --config second.yaml > second.log 2>&1 &
until cedargate healthcheck --ready --config second.yaml > /dev/null 2>&1; do sleep 0.2; done
second() { curl -s -o /dev/null -w '%{http_code}' -H "Host: $HOST" -H "$1" http://127.0.0.1:8910/orders/7; }
PROOFS=("Authorization: Bearer $(cat alice.token)" "Cookie: $session")
for proof in "${PROOFS[@]}"; do test "$(second "$proof")" = 200; done
"#;

/// The blocks of several pages, one script. `# page` lines say where it was if it fails.
fn script() -> String {
    let onboarding = shell("docs/runbooks/tenant-onboarding.md");
    // the last block ends the trial; the gate goes on for the other pages, which drain it at their end
    let (end, trial) = onboarding.split_last().unwrap();
    assert!(end.contains("cedargate drain"), "{end}");
    let again = "cedargate serve --config cedargate.yaml >> gate.log 2>&1 &\n\
                 until cedargate healthcheck --ready --config cedargate.yaml > /dev/null 2>&1; do sleep 0.2; done\n";
    let allowed = "test \"$(answer -H \"Authorization: Bearer $(cat alice.token)\")\" =";
    let logged_in = "test \"$(answer -H \"Cookie: $session\")\" =";
    // the gate reads the keys each second
    let soon_logged_out = format!("for _ in $(seq 50); do {logged_in} 401 && break || sleep 0.2; done\n{logged_in} 401");
    // the page's own login; the old session ends with the key that sealed it
    let login = onboarding.iter().find(|block| block.contains("auth/local")).unwrap();
    let again_logged_in =
        format!("{allowed} 200\n{soon_logged_out}\ncp alice.password secrets/\n{login}\nrm secrets/alice.password headers");
    // a gate that a failure leaves behind
    let trap = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT".to_owned();
    let mut parts = vec![
        trap,
        trial.join("\n"),
        "cp secrets/alice.token secrets/bob.token secrets/alice.password secrets/trial-issuer.pem .".to_owned(),
    ];
    parts.push(end.clone());
    parts.push(again.to_owned());
    parts.extend([KUBECTL.to_owned(), incident(), rollback(), outages(login)]);
    for (page, after) in [
        ("docs/runbooks/secrets-rotation.md", again_logged_in),
        ("docs/runbooks/deployment.md", format!("{allowed} 200\n{logged_in} 200")),
        ("docs/runbooks/backup-restore.md", format!("{allowed} 200\nrm -r restored")),
    ] {
        parts.push(format!("echo 'page {page}'"));
        parts.extend(shell(page));
        parts.push(after);
    }
    parts.push(SECOND_REPLICA.to_owned());
    parts.push("echo 'page docs/runbooks/tenant-offboarding.md'".to_owned());
    for (n, block) in shell("docs/runbooks/tenant-offboarding.md").into_iter().enumerate() {
        parts.push(block);
        match n {
            // the emergency forbid holds for a token and a session
            0 => parts.push(format!("{allowed} 403\n{logged_in} 403")),
            // revoked: nothing of the tenant proves a caller any more, also not one that the gate had verified a moment
            // before
            1 => parts.push(format!(
                "for proof in \"${{PROOFS[@]}}\"; do\n\
                 for _ in $(seq 50); do test \"$(second \"$proof\")\" = 401 && break || sleep 0.2; done\n\
                 test \"$(second \"$proof\")\" = 401\ndone\n\
                 cedargate drain --wait --config second.yaml\n\
                 sleep 1\n{allowed} 401\n{logged_in} 401\n\
                 test -z \"$(cedargate sessions list --tenant \"$TENANT\" --config cedargate.yaml | grep alice)\""
            )),
            _ => {}
        }
    }
    parts.push("wait\necho finished".to_owned());
    parts.join("\n")
}

/// Runs a script in a folder, `cedargate` on the path; true if it succeeded, and everything that it said.
fn run(folder: &Path, script: &str) -> (bool, String) {
    let bin = Path::new(env!("CARGO_BIN_EXE_cedargate")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let log = folder.join("shell.log");
    let output = std::fs::File::create(&log).unwrap();
    let status = Command::new("timeout")
        .args([&PATIENCE.as_secs().to_string(), "bash", "-euxc", script])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", bin.display()))
        .env_remove("CEDARGATE_CONFIG")
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .status()
        .unwrap();
    (status.success(), std::fs::read_to_string(&log).unwrap_or_default())
}

#[test]
fn a_newcomer_onboards_rotates_restores_and_offboards_a_tenant_word_for_word() {
    let folder = tempfile::tempdir().unwrap();
    let (_redis, redis) = redis(folder.path());
    let ports = [
        ("127.0.0.1:8900", free_port()),
        ("127.0.0.1:8901", free_port()),
        ("127.0.0.1:8903", free_port()),
        ("127.0.0.1:8910", free_port()),
        ("127.0.0.1:8911", free_port()),
        ("127.0.0.1:8913", free_port()),
        ("127.0.0.1:3000", app()),
        ("127.0.0.1:6379", redis),
    ];
    let script = ports.iter().fold(script(), |script, (shown, port)| {
        assert!(script.contains(shown), "no page says {shown}");
        script.replace(shown, &format!("127.0.0.1:{port}"))
    });
    let (succeeded, said) = run(folder.path(), &script);
    let gate = std::fs::read_to_string(folder.path().join("acme/gate.log")).unwrap_or_default();
    assert!(succeeded && said.contains("\nfinished\n"), "{said}\n{gate}");
    // what is left is the evidence: no account, key, token or session
    assert!(!folder.path().join("acme/secrets").exists());
    let records = std::fs::read_to_string(folder.path().join("acme/decisions.jsonl")).unwrap();
    for event in ["\"event\":\"login\"", "\"event\":\"revocation\"", "session_revoked"] {
        assert!(records.contains(event), "no {event} in the decision log");
    }
}
