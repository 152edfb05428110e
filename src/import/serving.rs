//! Listeners, public URL, apps, portals and sessions.

use std::time::Duration;

use cedargate_policy::json::quoted;
use url::Url;

use super::provider::over_tls;
use super::settings::{Setting, Settings};
use super::yaml::{Yaml, list};
use super::{Remarks, Weight};

/// Where oauth2-proxy listens without a setting.
const HTTP_ADDRESS: &str = "127.0.0.1:4180";
/// Stands where the operator must name the public URL.
const PUBLIC_URL: &str = "https://app.invalid";
/// oauth2-proxy's `cookie_expire`.
const COOKIE_EXPIRE: Duration = Duration::from_secs(168 * 3600);
/// Discards everything: the proxy in front forwards.
const NO_APP: &str = "http://127.0.0.1:9";

/// An app, and the paths that it gets.
pub(super) struct Upstream {
    pub prefix: String,
    pub url: String,
    pub place: String,
}

/// The portals' names and path prefixes, the longest prefix first.
pub(super) struct Portals(pub Vec<(String, String)>);

/// The apps, one for each path prefix.
pub(super) fn upstreams(settings: &Settings, remarks: &mut Remarks) -> Vec<Upstream> {
    let mut found: Vec<Upstream> = Vec::new();
    let none = Setting::default();
    let setting = settings.get("upstreams").unwrap_or(&none);
    for text in &setting.values {
        let (url, path) = match app_of(text) {
            Ok(app) => app,
            Err(why) => {
                remarks.of(Weight::Decide, setting, why);
                continue;
            }
        };
        let prefix = if path.len() > 1 { path.trim_end_matches('/') } else { "/" };
        if path.len() > 1 && !path.ends_with('/') {
            let message = format!("`{path}` stood for this path alone; the portal gets the paths below it, too");
            remarks.of(Weight::Differs, setting, message);
        }
        if !is_plain_path(prefix) {
            remarks.of(Weight::Decide, setting, "an upstream's path is no plain path");
        } else if found.iter().any(|other| other.prefix == prefix) {
            remarks.of(
                Weight::Decide,
                setting,
                format!("a second upstream for `{prefix}` is left out"),
            );
        } else {
            found.push(Upstream {
                prefix: prefix.to_owned(),
                url,
                place: setting.place(),
            });
        }
    }
    if found.is_empty() {
        if setting.values.is_empty() {
            remarks.missing("an upstream: the address of the app");
        }
        found.push(Upstream {
            prefix: "/".to_owned(),
            url: NO_APP.to_owned(),
            place: "no upstream".to_owned(),
        });
    }
    found
}

/// The app's URL without a path, and the path that it gets.
fn app_of(text: &str) -> Result<(String, String), &'static str> {
    if text.starts_with("static:") || text == "file:///dev/null" {
        // the proxy in front asks `auth` and forwards
        return Ok((NO_APP.to_owned(), "/".to_owned()));
    }
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok((format!("unix:/{}", path.trim_start_matches('/')), "/".to_owned()));
    }
    if text.starts_with("file:") {
        return Err("the gate serves no files; name a web server");
    }
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = Url::parse(&full).map_err(|_malformed| "an upstream is no URL")?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err("an upstream is neither http nor https nor a Unix socket");
    }
    Ok((url.origin().ascii_serialization(), url.path().to_owned()))
}

fn is_plain_path(path: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    path.starts_with('/') && path.bytes().all(plain) && !path.contains("//") && !path.split('/').any(|s| s == "." || s == "..")
}

pub(super) fn portals(upstreams: &[Upstream]) -> Portals {
    let mut portals: Vec<(String, String)> = Vec::new();
    for upstream in upstreams {
        let segments = upstream.prefix.trim_matches('/').to_ascii_lowercase();
        let slug: String = segments
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let slug = slug.trim_matches('-');
        let slug = if slug.is_empty() { "app" } else { slug };
        let taken = portals
            .iter()
            .filter(|(name, _)| name.trim_end_matches(|c: char| c.is_ascii_digit()) == slug)
            .count();
        let name = if taken == 0 {
            slug.to_owned()
        } else {
            format!("{slug}{}", taken + 1)
        };
        portals.push((name, upstream.prefix.clone()));
    }
    portals.sort_by_key(|(_, prefix)| std::cmp::Reverse(prefix.len()));
    Portals(portals)
}

pub(super) fn write(settings: &Settings, upstreams: &[Upstream], portals: &Portals, yaml: &mut Yaml, remarks: &mut Remarks) {
    let prefix = settings.get("proxy_prefix").map_or("/oauth2", Setting::text);
    let prefix = format!("/{}", prefix.trim_matches('/'));
    write_public_url(settings, &prefix, yaml, remarks);
    write_listeners(settings, yaml, remarks);
    yaml.line(0, "identity:");
    match settings.get("proxy_prefix") {
        Some(setting) => yaml.from(2, &format!("prefix: {}", quoted(&prefix)), setting),
        None => yaml.explained(
            2,
            &format!("prefix: {}", quoted(&prefix)),
            "proxy_prefix: the default of oauth2-proxy",
        ),
    }
    yaml.explained(
        2,
        "oauth2_proxy: x_forwarded",
        "`auth`, `start`, `sign_out` …; x_original for ingress-nginx",
    );
    write_trusted(settings, yaml, remarks);
    write_apps(settings, upstreams, portals, yaml, remarks);
}

fn write_public_url(settings: &Settings, prefix: &str, yaml: &mut Yaml, remarks: &mut Remarks) {
    let setting = settings.get("redirect_url");
    let url = setting
        .and_then(|setting| Url::parse(setting.text()).ok())
        .filter(Url::has_host);
    match (setting, url) {
        (Some(setting), Some(url)) => {
            let origin = url.origin().ascii_serialization();
            let secure = over_tls(&origin);
            yaml.from(0, &format!("public_url: {}", quoted(&secure)), setting);
            if secure != origin {
                let message = "browsers send the session's cookie over TLS only: `public_url` says https";
                remarks.of(Weight::Decide, setting, message);
            }
            let callback = format!("{prefix}/callback");
            if url.path() != callback {
                let message = format!("register `{callback}` of this host at the provider: the gate sends this redirect URI");
                remarks.of(Weight::Decide, setting, message);
            }
        }
        _ => {
            remarks.missing("the public URL: set `public_url` to where browsers reach the gate");
            yaml.explained(
                0,
                &format!("public_url: {}", quoted(PUBLIC_URL)),
                "where browsers reach the gate",
            );
        }
    }
}

/// An address as oauth2-proxy writes it.
fn address(text: &str) -> Option<String> {
    let bare = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .unwrap_or(text);
    let full = if bare.starts_with(':') {
        format!("0.0.0.0{bare}")
    } else {
        bare.replace("localhost:", "127.0.0.1:")
    };
    full.parse::<std::net::SocketAddr>().ok().map(|address| address.to_string())
}

fn write_listeners(settings: &Settings, yaml: &mut Yaml, remarks: &mut Remarks) {
    yaml.line(0, "listen:");
    let tls = settings.get("tls_cert_file").zip(settings.get("tls_key_file"));
    let none = Setting::default();
    let name = if tls.is_some() { "https_address" } else { "http_address" };
    let setting = settings.get(name).unwrap_or(&none);
    let default = if tls.is_some() { ":443" } else { HTTP_ADDRESS };
    let text = if setting.text().is_empty() { default } else { setting.text() };
    let listen = address(text).unwrap_or_else(|| {
        remarks.of(Weight::Decide, setting, "is no address and port; set `listen.proxy.address`");
        HTTP_ADDRESS.to_owned()
    });
    yaml.line(2, "proxy:");
    let place = if setting.text().is_empty() {
        format!("{name}: the default of oauth2-proxy")
    } else {
        setting.place()
    };
    yaml.explained(4, &format!("address: {}", quoted(&listen)), &place);
    if let Some((cert, key)) = tls {
        yaml.from(
            4,
            &format!("tls: {{ cert: {}, key: {} }}", quoted(cert.text()), quoted(key.text())),
            cert,
        );
    }
    yaml.explained(
        2,
        "decision: { address: \"127.0.0.1:8901\" }",
        "the app asks POST /authorize here",
    );
    let metrics = settings.get("metrics_address");
    let admin = metrics.and_then(|setting| address(setting.text()));
    match (metrics, admin) {
        (Some(setting), Some(admin)) => yaml.from(2, &format!("admin: {{ address: {} }}", quoted(&admin)), setting),
        _ => yaml.explained(2, "admin: { address: \"127.0.0.1:8903\" }", "/livez, /readyz, /metrics"),
    }
}

fn write_trusted(settings: &Settings, yaml: &mut Yaml, remarks: &mut Remarks) {
    let Some(setting) = settings.switch("reverse_proxy") else {
        return;
    };
    let all = settings.list("trusted_proxy_ips");
    let networks: Vec<String> = all.iter().filter_map(|text| network(text)).collect();
    if let Some(listed) = settings.get("trusted_proxy_ips").filter(|_| networks.len() < all.len()) {
        remarks.of(
            Weight::Decide,
            listed,
            "some items are no network, or every address; name the proxies themselves",
        );
    }
    if networks.is_empty() {
        let message =
            "oauth2-proxy believed every peer; name the proxies in front in `trusted_proxies`, for example 10.42.0.0/16";
        remarks.of(Weight::Decide, setting, message);
    }
    yaml.explained(
        0,
        &format!("trusted_proxies: {}", list(&networks)),
        "reverse_proxy, trusted_proxy_ips",
    );
}

/// `None`: not a network, or one that holds every address.
fn network(text: &str) -> Option<String> {
    let text = text.trim();
    let network = text.parse::<ipnet::IpNet>().ok();
    let network = network.or_else(|| text.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from))?;
    (network.prefix_len() > 0).then(|| network.to_string())
}

fn write_apps(settings: &Settings, upstreams: &[Upstream], portals: &Portals, yaml: &mut Yaml, remarks: &mut Remarks) {
    let Some(first) = upstreams.iter().find(|upstream| upstream.prefix == "/").or(upstreams.first()) else {
        return;
    };
    yaml.line(0, "upstream:");
    yaml.explained(2, &format!("url: {}", quoted(&first.url)), &first.place);
    if first.url == NO_APP {
        yaml.line(2, "# no app listens there: the proxy in front asks `auth` and forwards");
    }
    if let Some(setting) = settings.get("upstream_timeout") {
        match go_duration(setting.text()) {
            Some(span) if !span.is_zero() => yaml.from(2, &format!("response_timeout: {}s", span.as_secs().max(1)), setting),
            _ => remarks.of(Weight::Differs, setting, "`upstream.response_timeout` is 60s"),
        }
    }
    yaml.line(0, "policies: { dir: policies, schemas: schemas }");
    yaml.line(0, "portals:");
    for (name, prefix) in &portals.0 {
        let own = upstreams
            .iter()
            .find(|upstream| upstream.prefix == *prefix && upstream.url != first.url);
        let own = own.map(|own| format!(", upstream: {}", quoted(&own.url))).unwrap_or_default();
        yaml.line(2, &format!("{name}: {{ match: {{ path_prefix: {} }}{own} }}", quoted(prefix)));
    }
}

pub(super) fn write_sessions(settings: &Settings, yaml: &mut Yaml, remarks: &mut Remarks) {
    yaml.line(0, "sessions:");
    let expire = settings.get("cookie_expire");
    let span = expire
        .and_then(|setting| go_duration(setting.text()))
        .filter(|span| !span.is_zero())
        .unwrap_or(COOKIE_EXPIRE);
    for key in ["idle_timeout", "absolute_timeout"] {
        let text = format!("{key}: {}s", span.as_secs());
        match expire {
            Some(setting) => yaml.from(2, &text, setting),
            None => yaml.explained(2, &text, "cookie_expire: the default of oauth2-proxy"),
        }
    }
    if let Some(setting) = settings
        .get("cookie_secure")
        .filter(|setting| setting.text().eq_ignore_ascii_case("false"))
    {
        remarks.of(
            Weight::Differs,
            setting,
            "cookies are `Secure`; for plain HTTP on localhost set `sessions.danger_insecure_cookie`",
        );
    }
    if let Some(setting) = settings.get("cookie_domains") {
        remarks.of(
            Weight::Differs,
            setting,
            "a session is for one host; a browser logs in at each, without typing again",
        );
    }
    let store = settings.get("session_store_type");
    if store.is_none_or(|setting| setting.text() != "redis") {
        yaml.explained(2, "store: memory", "oauth2-proxy kept sessions in cookies");
        let message =
            "sessions live in the gate's memory: they end with it, and replicas do not share them; `sessions.store: redis` does";
        match store {
            Some(setting) => remarks.of(Weight::Differs, setting, message),
            None => remarks.0.push(super::Remark {
                weight: Weight::Differs,
                setting: String::new(),
                line: None,
                message: message.to_owned(),
            }),
        }
        return;
    }
    yaml.line(2, "store: redis");
    yaml.explained(2, "key_file: \"secrets/session-keys\"", "make it: openssl rand -base64 32");
    remarks.missing("the key of the session store: `openssl rand -base64 32 > secrets/session-keys`, the same for all replicas");
    write_redis(settings, yaml, remarks);
}

fn write_redis(settings: &Settings, yaml: &mut Yaml, remarks: &mut Remarks) {
    yaml.line(2, "redis:");
    yaml.line(4, "key_prefix: \"cedargate:main:\"");
    let mut user = settings.get("redis_username").map(|setting| setting.text().to_owned());
    let mut has_password = settings.get("redis_password").is_some();
    // SECURITY: a URL may hold the password
    let mut without_password = |text: &String| {
        let parsed = Url::parse(text).ok().filter(Url::has_host);
        let Some(mut url) = parsed else {
            return text.rsplit('@').next().unwrap_or_default().to_owned();
        };
        has_password |= url.password().is_some();
        if !url.username().is_empty() && user.is_none() {
            user = Some(url.username().to_owned());
        }
        let _no_host = url.set_password(None).is_err() | url.set_username("").is_err();
        url.to_string()
    };
    let clean =
        |name: &str, strip: &mut dyn FnMut(&String) -> String| -> Vec<String> { settings.list(name).iter().map(strip).collect() };
    if settings.switch("redis_use_cluster").is_some() {
        let urls = clean("redis_cluster_connection_urls", &mut without_password);
        yaml.explained(4, &format!("cluster: {}", list(&urls)), "redis_cluster_connection_urls");
    } else if settings.switch("redis_use_sentinel").is_some() {
        let urls = clean("redis_sentinel_connection_urls", &mut without_password);
        let master = settings.get("redis_sentinel_master_name").map_or("", Setting::text);
        yaml.explained(
            4,
            &format!("sentinel: {{ master: {}, urls: {} }}", quoted(master), list(&urls)),
            "redis_sentinel_connection_urls",
        );
    } else {
        let urls = clean("redis_connection_url", &mut without_password);
        match urls.first() {
            Some(url) => yaml.explained(4, &format!("url: {}", quoted(url)), "redis_connection_url"),
            None => {
                remarks.missing("the Redis server: `sessions.redis.url`");
                yaml.line(4, "url: \"redis://127.0.0.1:6379\"");
            }
        }
    }
    if let Some(user) = user {
        yaml.line(4, &format!("username: {}", quoted(&user)));
    }
    if has_password {
        yaml.explained(
            4,
            "password_file: \"secrets/redis-password\"",
            "the password of Redis is not printed",
        );
        remarks.missing("the password of Redis is not printed: put it into `secrets/redis-password`");
    }
    if let Some(setting) = settings.get("redis_ca_path") {
        yaml.from(4, &format!("tls: {{ ca: {} }}", quoted(setting.text())), setting);
    }
}

/// A duration as Go writes it: `1h30m`, `168h0m0s`, `0`.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    humantime::parse_duration(text).ok()
}
