//! Every setting of oauth2-proxy 7: its shape, and what becomes of it here.

use super::Weight;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SettingShape {
    Text,
    /// Off without a value.
    Switch,
    /// On without a value.
    On,
    List,
}

/// What becomes of a setting.
#[derive(Clone, Copy, Debug)]
enum SettingOutcome {
    /// The translation reads it.
    Carried,
    Note(&'static str),
    Differs(&'static str),
    Decide(&'static str),
}

use SettingOutcome::{Carried, Decide, Differs, Note};
use SettingShape::{List, On, Switch, Text};

const LOGS: SettingOutcome = Note("the gate logs as `audit` and RUST_LOG say (docs/audit.md, docs/operations.md)");
const COOKIE: SettingOutcome = Note("the gate's cookies are `__Host-`, HttpOnly, SameSite=Lax, for one host");
const OWN_COOKIE_KEY: SettingOutcome = Note("not needed: cookies hold an id alone; `sessions.key_file` seals the store");
const TOKEN_TO_APP: SettingOutcome =
    Differs("the app gets no ID token and no basic authentication; it verifies `x-cedargate-assertion` (docs/apps.md)");
const CLAIMS: SettingOutcome = Differs("the gate reads claims of the ID token and of userinfo (`login.providers.*.claims_from`)");
const GITHUB: SettingOutcome =
    Decide("GitHub's organisations, teams and repositories are no claims; a policy needs groups or addresses");
const GOOGLE: SettingOutcome = Decide("the gate asks no Google API for groups; without them in a claim, permit addresses");
const TLS: SettingOutcome = Note("the gate offers TLS 1.2 and 1.3 with modern cipher suites only");
const REDIS_TLS: SettingOutcome =
    Decide("certificates of Redis are always checked; name the authority in `sessions.redis.tls.ca`");

/// In the order of oauth2-proxy's own documentation.
const OPTIONS: &[(&str, SettingShape, SettingOutcome)] = &[
    ("config", Text, Note("import that file, too")),
    (
        "alpha_config",
        Text,
        Decide("import that file, too, and join the two results"),
    ),
    ("acr_values", Text, Carried),
    ("allowed_groups", List, Carried),
    ("allowed_roles", List, Carried),
    ("approval_prompt", Text, Note("OpenID Connect's `prompt` takes its place")),
    (
        "backend_logout_url",
        Text,
        Note("the gate logs out at the provider's `end_session_endpoint`"),
    ),
    ("client_id", Text, Carried),
    ("client_secret_file", Text, Carried),
    ("client_secret", Text, Carried),
    ("code_challenge_method", Text, Note("the gate always uses PKCE with S256")),
    ("insecure_oidc_allow_unverified_email", Switch, Carried),
    (
        "insecure_oidc_skip_issuer_verification",
        Switch,
        Decide("the issuer of a token is always checked; name the issuer that tokens have"),
    ),
    ("insecure_oidc_skip_nonce", Switch, Note("the nonce is always checked")),
    ("jwt_key_file", Text, Carried),
    ("jwt_key", Text, Carried),
    ("login_url", Text, Carried),
    ("auth_request_response_mode", Text, Carried),
    ("oidc_audience_claims", List, Carried),
    ("oidc_email_claim", Text, Carried),
    ("oidc_extra_audiences", List, Carried),
    ("oidc_groups_claim", Text, Carried),
    ("oidc_issuer_url", Text, Carried),
    ("oidc_jwks_url", Text, Carried),
    (
        "oidc_public_key_files",
        List,
        Decide("keys come as a JWKS: `issuers[].jwks.file`"),
    ),
    ("oidc_enabled_signing_algs", List, Carried),
    ("profile_url", Text, Carried),
    ("prompt", Text, Carried),
    ("provider_ca_files", List, Carried),
    ("provider_display_name", Text, Carried),
    ("provider", Text, Carried),
    ("pubjwk_url", Text, Note("see `provider`")),
    ("redeem_url", Text, Carried),
    (
        "resource",
        Text,
        Differs("add it to `login.providers.*.authorization_params` if the provider needs it"),
    ),
    ("scope", Text, Carried),
    ("skip_claims_from_profile_url", Switch, CLAIMS),
    ("skip_oidc_discovery", Switch, Carried),
    (
        "use_system_trust_store",
        Switch,
        Differs("with `ca_file` the system's authorities do not count; put all into the file"),
    ),
    ("validate_url", Text, Note("the gate verifies tokens itself")),
    ("user_id_claim", Text, Carried),
    ("azure_tenant", Text, Carried),
    ("azure_graph_group_field", Text, CLAIMS),
    ("entra_id_allowed_tenants", List, Carried),
    (
        "entra_id_federated_token_auth",
        Switch,
        Decide("the gate proves itself with a secret or a P-256 key (`client_key_file`)"),
    ),
    ("bitbucket_team", Text, GITHUB),
    ("bitbucket_repository", Text, GITHUB),
    ("github_org", Text, GITHUB),
    ("github_team", Text, GITHUB),
    ("github_repo", Text, GITHUB),
    ("github_token", Text, GITHUB),
    ("github_users", List, GITHUB),
    ("gitlab_groups", List, Carried),
    (
        "gitlab_projects",
        List,
        Decide("projects are no claim of GitLab; permit groups"),
    ),
    ("google_groups", List, GOOGLE),
    ("google_admin_email", Text, GOOGLE),
    ("google_service_account_json", Text, GOOGLE),
    ("google_use_application_default_credentials", Switch, GOOGLE),
    ("google_target_principal", Text, GOOGLE),
    ("google_use_organization_id", Switch, GOOGLE),
    ("keycloak_groups", List, Carried),
    ("cookie_csrf_expire", Text, COOKIE),
    ("cookie_csrf_per_request", Switch, COOKIE),
    ("cookie_csrf_per_request_limit", Text, COOKIE),
    ("cookie_csrf_samesite", Text, COOKIE),
    ("cookie_domains", List, Carried),
    ("cookie_expire", Text, Carried),
    ("cookie_httponly", On, COOKIE),
    ("cookie_name", Text, COOKIE),
    ("cookie_path", Text, COOKIE),
    (
        "cookie_refresh",
        Text,
        Note("sessions renew themselves with the provider's refresh token"),
    ),
    ("cookie_samesite", Text, COOKIE),
    ("cookie_secret", Text, OWN_COOKIE_KEY),
    ("cookie_secret_file", Text, OWN_COOKIE_KEY),
    ("cookie_secure", On, Carried),
    ("basic_auth_password", Text, TOKEN_TO_APP),
    (
        "set_xauthrequest",
        Switch,
        Note("the answer of `auth` always has the `X-Auth-Request-*` headers"),
    ),
    ("set_authorization_header", Switch, TOKEN_TO_APP),
    ("set_basic_auth", Switch, TOKEN_TO_APP),
    (
        "skip_auth_strip_headers",
        On,
        Note("identity headers of a client never reach the app"),
    ),
    ("pass_access_token", Switch, Carried),
    ("pass_authorization_header", Switch, TOKEN_TO_APP),
    ("pass_basic_auth", Switch, TOKEN_TO_APP),
    (
        "prefer_email_to_user",
        Switch,
        Differs("`X-Forwarded-User` is the subject; let the app read `X-Forwarded-Email`"),
    ),
    ("pass_user_headers", On, Note("the identity headers are always set")),
    ("auth_logging_format", Text, LOGS),
    ("auth_logging", On, LOGS),
    ("errors_to_info_log", Switch, LOGS),
    ("exclude_logging_paths", List, LOGS),
    ("logging_compress", Switch, LOGS),
    ("logging_filename", Text, LOGS),
    ("logging_local_time", On, LOGS),
    ("logging_max_age", Text, LOGS),
    ("logging_max_backups", Text, LOGS),
    ("logging_max_size", Text, LOGS),
    ("request_id_header", Text, Note("the gate reads and echoes `X-Request-ID`")),
    ("request_logging_format", Text, LOGS),
    ("request_logging", On, LOGS),
    ("silence_ping_logging", Switch, LOGS),
    ("standard_logging_format", Text, LOGS),
    ("standard_logging", On, LOGS),
    ("banner", Text, Note("the pages show `identity.title` and `identity.logo`")),
    (
        "custom_sign_in_logo",
        Text,
        Note("the pages show `identity.title` and `identity.logo`"),
    ),
    (
        "custom_templates_dir",
        Text,
        Differs("the pages show `identity.title` and `identity.logo`, and have no templates"),
    ),
    (
        "display_htpasswd_form",
        On,
        Note("a login provider with a users file has its own page"),
    ),
    ("footer", Text, Note("the pages show `identity.title` and `identity.logo`")),
    (
        "show_debug_on_error",
        Switch,
        Note("pages show a decision id; the log has the cause"),
    ),
    ("ping_path", Text, Differs("probes ask `/livez` of `listen.admin`")),
    ("ping_user_agent", Text, Differs("probes ask `/livez` of `listen.admin`")),
    ("ready_path", Text, Differs("probes ask `/readyz` of `listen.admin`")),
    ("gcp_healthchecks", Switch, Differs("probes ask `/livez` of `listen.admin`")),
    ("allow_query_semicolons", Switch, Note("a query passes as it is")),
    (
        "api_routes",
        List,
        Note("programs get 401, navigations of a browser a redirect"),
    ),
    ("authenticated_emails_file", Text, Carried),
    (
        "bearer_token_login_fallback",
        On,
        Note("an invalid token is 401, never a login"),
    ),
    ("email_domains", List, Carried),
    ("encode_state", Switch, Note("the state of a login is sealed")),
    ("extra_jwt_issuers", List, Carried),
    ("force_https", Switch, Differs("redirect plain HTTP in the proxy in front")),
    ("force_json_errors", Switch, Note("programs always get JSON")),
    (
        "htpasswd_file",
        Text,
        Decide("make a users file with `cedargate user add` and name it as a provider (docs/accounts.md)"),
    ),
    (
        "htpasswd_user_groups",
        List,
        Decide("give the accounts of the users file their roles (docs/accounts.md)"),
    ),
    ("proxy_prefix", Text, Carried),
    (
        "real_client_ip_header",
        Text,
        Differs("the client's address is the rightmost untrusted one of `X-Forwarded-For`"),
    ),
    ("redirect_url", Text, Carried),
    ("relative_redirect_url", Switch, Carried),
    ("reverse_proxy", Switch, Carried),
    ("trusted_proxy_ips", List, Carried),
    ("signature_key", Text, TOKEN_TO_APP),
    ("skip_auth_preflight", Switch, Carried),
    ("skip_auth_regex", List, Carried),
    ("skip_auth_routes", List, Carried),
    ("skip_jwt_bearer_tokens", Switch, Carried),
    (
        "skip_provider_button",
        Switch,
        Note("with one provider there is no page before the login"),
    ),
    (
        "ssl_insecure_skip_verify",
        Switch,
        Decide("the provider's certificate is always checked; name its authority in `ca_file`"),
    ),
    (
        "trusted_ips",
        List,
        Decide("an address alone lets no caller in; name public paths, or permit callers by `context.source_ip`"),
    ),
    (
        "whitelist_domains",
        List,
        Differs("logins and logouts return to a portal's own `public_url` only; add a portal for each host"),
    ),
    ("http_address", Text, Carried),
    ("https_address", Text, Carried),
    ("metrics_address", Text, Carried),
    ("metrics_secure_address", Text, Differs("`listen.admin` speaks plain HTTP")),
    ("metrics_tls_cert_file", Text, Differs("`listen.admin` speaks plain HTTP")),
    ("metrics_tls_key_file", Text, Differs("`listen.admin` speaks plain HTTP")),
    ("tls_cert_file", Text, Carried),
    ("tls_key_file", Text, Carried),
    ("tls_cipher_suites", List, TLS),
    ("tls_min_version", Text, TLS),
    ("session_cookie_minimal", Switch, OWN_COOKIE_KEY),
    ("session_store_type", Text, Carried),
    ("redis_cluster_connection_urls", List, Carried),
    ("redis_connection_url", Text, Carried),
    ("redis_ca_path", Text, Carried),
    ("redis_insecure_skip_tls_verify", Switch, REDIS_TLS),
    ("redis_password", Text, Carried),
    ("redis_username", Text, Carried),
    (
        "redis_sentinel_password",
        Text,
        Differs("the password of Sentinels is that of the servers"),
    ),
    ("redis_sentinel_master_name", Text, Carried),
    ("redis_sentinel_connection_urls", List, Carried),
    ("redis_use_cluster", Switch, Carried),
    ("redis_use_sentinel", Switch, Carried),
    (
        "redis_connection_idle_timeout",
        Text,
        Note("the gate keeps its connections open"),
    ),
    ("flush_interval", Text, Note("answers are passed on as they come")),
    ("pass_host_header", On, Differs("the app gets the client's `Host`")),
    (
        "proxy_websockets",
        On,
        Differs("WebSockets pass if a policy permits their GET"),
    ),
    (
        "ssl_upstream_insecure_skip_verify",
        Switch,
        Decide("the app's certificate is always checked; name its authority in `upstream.tls`"),
    ),
    ("disable_keep_alives", Switch, Note("`upstream.idle_timeout` bounds reuse")),
    ("upstream_timeout", Text, Carried),
    ("upstreams", List, Carried),
    (
        "rewritten_upstreams",
        List,
        Decide("the app gets the client's path; an upstream with another path needs a proxy that rewrites"),
    ),
];

fn option(name: &str) -> Option<&'static (&'static str, SettingShape, SettingOutcome)> {
    OPTIONS.iter().find(|(known, ..)| *known == name)
}

pub(crate) fn shape(name: &str) -> Option<SettingShape> {
    option(&canonical(name).0).map(|(_, shape, _)| *shape)
}

pub(crate) fn is_switch(flag: &str) -> bool {
    matches!(shape(&flag.replace('-', "_")), Some(SettingShape::Switch | SettingShape::On))
}

/// The name in the TOML file, and the shape. A flag or variable of a list may be in the singular.
pub(crate) fn canonical(written: &str) -> (String, Option<SettingShape>) {
    let name = written.replace('-', "_");
    let plural = format!("{name}s");
    let known = option(&name).or_else(|| option(&plural).filter(|(_, shape, _)| *shape == List));
    let known = known.or_else(|| match name.as_str() {
        "gitlab_group" => option("gitlab_groups"),
        "tls_cert" => option("tls_cert_file"),
        "tls_key" => option("tls_key_file"),
        "redirect_uri" => option("redirect_url"),
        _ => None,
    });
    known.map_or((name, None), |(name, shape, _)| ((*name).to_owned(), Some(*shape)))
}

/// The value of a setting, as far as a remark depends on it.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum SettingValue {
    Empty,
    /// A switch that is on.
    On,
    Other,
}

/// What a remark says about a setting that no other part of the translation reads.
pub(super) fn remark(name: &str, given: SettingValue) -> Option<(Weight, &'static str)> {
    let Some((_, shape, fate)) = option(name) else {
        return Some((Weight::Decide, "is no setting of oauth2-proxy 7; look up what it did"));
    };
    let is_default = match given {
        SettingValue::Empty => true,
        SettingValue::On => matches!(shape, On),
        SettingValue::Other => matches!(shape, Switch),
    };
    let remark = match fate {
        Carried => None,
        Note(message) => Some((Weight::Note, *message)),
        Differs(message) => Some((Weight::Differs, *message)),
        Decide(message) => Some((Weight::Decide, *message)),
    };
    remark.filter(|_| !is_default)
}
