//! Secrets, in place or by file.

use super::*;

#[test]
fn secrets_come_in_place_or_by_file_and_never_print() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokens"), "# first\n\nfile-secret-0123456789\n").unwrap();
    let path = folder.path().join("cedargate.yaml");
    std::fs::write(
        &path,
        with("listen: { decision: { address: '0.0.0.0:8901', auth: { tokens_file: tokens } } }"),
    )
    .unwrap();
    let loaded = load(&path, std::iter::empty()).unwrap_or_else(|errors| panic!("{errors}"));
    let tokens = &loaded.config.listen.decision.as_ref().unwrap().tokens;
    assert_eq!(tokens[0].expose(), "file-secret-0123456789");
    assert_eq!(loaded.watched, [path, folder.path().join("tokens")]);

    let inline = with("listen: { decision: { auth: { tokens: [inline-secret-0123456789] } } }");
    let inline = from_env(&inline, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    for loaded in [loaded, inline] {
        let shown = format!("{loaded:?}{}{}", effective_lines(&loaded), effective_json(&loaded));
        assert!(!shown.contains("secret-0123456789"), "{shown}");
        assert!(shown.contains("[redacted]"), "{shown}");
    }
}

#[test]
fn secrets_lose_a_byte_order_mark_and_white_space_and_a_mark_is_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "\u{feff}s3cret\r\n").unwrap();
    let text = with(&format!(
        "public_url: 'https://shop.test'\n{ISSUER}login: {{ providers: {{ corp: {{ issuer: corp, client_id: gate, client_secret_file: secret }}, \
         inline: {{ issuer: corp, client_id: gate, client_secret: \"s3cret\\n\" }} }} }}\n"
    ));
    let config = from_str(&text, folder.path(), std::iter::empty()).unwrap().config;
    let warnings = config.warnings();
    assert!(
        warnings
            .iter()
            .any(|one| one.contains("login.providers.corp.client_secret_file") && one.contains("byte order mark")),
        "{warnings:?}"
    );
    assert!(warnings.iter().all(|one| !one.contains("s3cret")));
    let ProviderKind::Oidc(client) = &config.login.providers[1].kind else {
        panic!("not an OIDC provider");
    };
    let ClientAuth::SecretBasic(Secret::Value(secret)) = &client.auth else {
        panic!("another kind of client authentication");
    };
    assert_eq!(secret.expose(), "s3cret");
}

#[test]
fn files_that_the_gate_reads_again_need_no_restart() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        "secret",
        "redis",
        "key",
        "users.yaml",
        "keys",
        "ring.pem",
        "jwks.json",
        "tls.pem",
    ];
    for file in files {
        std::fs::write(folder.path().join(file), "x").unwrap();
    }
    let path = folder.path().join("cedargate.yaml");
    let text = with(
        "public_url: https://shop.test\n\
         listen: { proxy: { tls: { cert: tls.pem, key: tls.pem } } }\n\
         assertion: { key_file: ring.pem }\n\
         issuers:\n  - { name: corp, issuer: 'https://id.test/', audiences: [a], jwks: { file: jwks.json },\n\
         \x20     introspection: { client_id: gate, client_secret_file: secret } }\n\
         login:\n  providers:\n    staff: { users_file: users.yaml }\n    corp: { issuer: corp, client_id: gate, client_secret_file: secret }\n\
         \x20   other: { issuer: corp, client_id: gate, client_key_file: key }\n\
         sessions:\n  store: redis\n  key_file: keys\n  redis: { url: 'rediss://r:6379', key_prefix: 'x:', username: gate, password_file: redis, tls: { ca: tls.pem } }\n",
    );
    std::fs::write(&path, text).unwrap();
    let loaded = load(&path, std::iter::empty()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.watched, [path]);
}

#[test]
fn bad_secrets_are_errors_that_do_not_show_them() {
    let auth = |auth: &str| with(&format!("listen: {{ decision: {{ auth: {{ {auth} }} }} }}"));
    for text in [
        auth("tokens: [hunter2]"),
        auth("tokens: hunter2"),
        auth("tokens: ['hunter2 hunter2 hunter2']"),
        auth("tokens: [hunter2-0123456789abc], tokens_file: nowhere"),
        auth("tokens: [{ hunter2: hunter2 }]"),
    ] {
        let message = from_env(&text, &[]).unwrap_err().to_string();
        assert!(!message.contains("hunter2"), "{message}");
        assert!(message.contains("listen.decision.auth.tokens"), "{message}");
    }
    bad(&auth("tokens: []"), &["is empty"]);
    bad(
        &auth("tokens_file: nowhere"),
        &["listen.decision.auth.tokens_file: cannot read `/etc/cedargate/nowhere`"],
    );
    let folder = tempfile::tempdir().unwrap();
    for (content, part) in [
        ("", "holds no token"),
        ("# a\n", "holds no token"),
        ("long-enough-0123456789\nhunter2\n", "line 2"),
    ] {
        let path = folder.path().join("t");
        std::fs::write(&path, content).unwrap();
        let message = secret::read_tokens(&path).unwrap_err();
        assert!(message.contains(part) && !message.contains("hunter2"), "{message}");
    }
}
