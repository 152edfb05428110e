//! The keys of `cedargate.yaml`, and their conversion to a `Config`.
//!
//! The JSON Schema is generated from these types, and `schema` checks a file against it, so a key that is added to a
//! section is known everywhere at once: suggestions for unknown keys, environment variables, `config schema`, `config
//! print`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cedargate_policy::scope::SamePrefix;
use cedargate_policy::types::PortalSlug;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::check::Checker;
use super::sections::assertion::Assertion;
use super::sections::audit::Audit;
use super::sections::authzen::Authzen;
use super::sections::client_certificates::RawClientCertificates;
use super::sections::identity::IdentityPages;
use super::sections::issuers::RawIssuer;
use super::sections::limits::Limits;
use super::sections::listen::RawListen;
use super::sections::login::RawLogin;
use super::sections::policies::Policies;
use super::sections::portals::{BesidePortals, RawPortal};
use super::sections::public_url::PublicUrl;
use super::sections::sessions::RawSessions;
use super::sections::upstream::RawUpstream;
use super::{Config, Issuer, KeySource, Portal, UpstreamToken};

/// The keys of cedargate.yaml.
#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
#[schemars(title = "cedargate.yaml")]
pub struct Document {
    /// Scheme and authority under which browsers reach the gate, such as `https://shop.example.com`.
    #[serde(default)]
    pub public_url: Option<String>,
    /// The addresses at which the gate listens.
    #[serde(default)]
    pub listen: RawListen,
    /// The app behind the gate.
    #[schemars(required)]
    pub upstream: Option<RawUpstream>,
    /// The portals and the requests that each matches, by slug. Absent: every folder of `policies.dir` is a portal at
    /// `/portal/<slug>`.
    #[serde(default)]
    pub portals: Option<BTreeMap<String, RawPortal>>,
    /// The folders of policies and schemas, and how the gate watches them.
    #[serde(default)]
    pub policies: Policies,
    /// The issuers whose tokens the gate accepts. Empty: only public paths answer.
    #[serde(default)]
    pub issuers: Vec<RawIssuer>,
    /// The client certificates of the proxy listener that prove a caller.
    #[serde(default)]
    pub client_certificates: Vec<RawClientCertificates>,
    /// Browser sessions.
    #[serde(default)]
    pub sessions: RawSessions,
    /// The login of browsers.
    #[serde(default)]
    pub login: RawLogin,
    /// The identity endpoints that the gate serves itself.
    #[serde(default)]
    pub identity: IdentityPages,
    /// Networks (`10.0.0.0/8`) whose forwarded headers the proxy listener believes.
    #[serde(default)]
    pub trusted_proxies: Vec<String>,
    /// The signed identity that the app receives.
    #[serde(default)]
    pub assertion: Assertion,
    /// The AuthZEN API on the decision listener.
    #[serde(default)]
    pub authzen: Authzen,
    /// The decision log.
    #[serde(default)]
    pub audit: Audit,
    /// Limits of sizes, counts and times.
    #[serde(default)]
    pub limits: Limits,
}

impl Document {
    /// The slugs of the configured portals; `None`: every folder of the policies is one.
    fn slugs(&self) -> Option<Vec<&str>> {
        let portals = self.portals.as_ref()?;
        Some(portals.keys().map(String::as_str).collect())
    }

    /// The names of `Config::issuers` in their order; `None` in place of a name that is missing.
    fn issuer_names(&self) -> Vec<Option<&str>> {
        let listed = self.issuers.iter().map(|issuer| issuer.name.as_deref());
        let certificates = self.client_certificates.iter().map(|entry| entry.name.as_deref());
        listed
            .chain(certificates)
            .chain(self.login.local_issuers().map(Some))
            .collect()
    }

    /// Every `public_url` that is a URL.
    fn public_urls(&self) -> Vec<PublicUrl> {
        let own = std::iter::once(("public_url".to_owned(), self.public_url.as_deref()));
        let portals = self.portals.iter().flatten();
        let of_portals = portals.map(|(slug, portal)| (format!("portals.{slug}.public_url"), portal.public_url.as_deref()));
        let parsed = |(key, text): (String, Option<&str>)| {
            Some(PublicUrl {
                key,
                url: Url::parse(text?).ok()?,
            })
        };
        own.chain(of_portals).filter_map(parsed).collect()
    }
}

impl Checker<'_> {
    /// `None` if and only if a mistake was reported, here or by `schema`.
    pub fn config(&mut self, document: &Document) -> Option<Config> {
        let public_url = self.public_url("public_url", document.public_url.as_deref());
        let listen = self.listen(&document.listen);
        let upstream = document
            .upstream
            .as_ref()
            .and_then(|upstream| self.upstream("upstream", "upstream.url", upstream));
        let app_probes = document.upstream.as_ref().map(|upstream| self.app_probes(&upstream.probes));
        let exposure_check = document
            .upstream
            .as_ref()
            .and_then(|upstream| self.exposure_check(upstream.exposure_check.as_ref()));
        let mut issuers = self.listed_issuers(document);
        let listed = issuers.len();
        let identity_prefix = self.identity_prefix(&document.identity.prefix);
        let portals = self.listed_portals(document, identity_prefix.as_deref());
        let slugs = document.slugs();
        let policies = self.policies(document.policies.clone(), slugs.as_deref());
        let bundle = document
            .policies
            .bundle
            .as_ref()
            .and_then(|bundle| self.bundle(bundle, document.policies.state_dir.as_deref()));
        let trusted_proxies = self.trusted_proxies(&document.trusted_proxies);
        let lacks_proxies = document.listen.proxy.proxy_protocol && document.trusted_proxies.is_empty();
        if lacks_proxies {
            let message = "is believed only from `trusted_proxies`, and there are none; name the balancers there";
            self.error("listen.proxy.proxy_protocol", message);
        }
        let assertion = self.assertion(document.assertion.clone());
        let audit = self.audit(document.audit.clone(), slugs.as_deref());
        let authzen = self.authzen(document.authzen.clone(), slugs.as_deref());
        let sessions = self.sessions(&document.sessions, &document.login, &document.public_urls());
        let login = self.login(
            &document.login,
            document.public_url.as_deref(),
            &document.issuers,
            &mut issuers,
        );
        let identity = self.identity(document.identity.clone(), identity_prefix);
        self.not_our_own(&document.issuers, public_url.as_deref());
        // INVARIANT: portals refer to issuers by index, so none may be missing; each left-out one was reported
        let complete = !lacks_proxies
            && listed == document.issuers.len() + document.client_certificates.len()
            && portals.as_ref().map(Vec::len) == document.portals.as_ref().map(BTreeMap::len);
        if !complete {
            return None;
        }
        let config = Config {
            public_url,
            listen: listen?,
            upstream: upstream?,
            app_probes: app_probes?,
            exposure_check,
            portals,
            policies,
            bundle,
            issuers,
            sessions: sessions?,
            login: login?,
            identity: identity?,
            trusted_proxies,
            assertion,
            audit,
            authzen: authzen?,
            limits: document.limits.clone(),
        };
        self.sections_agree(&config)?;
        Some(config)
    }

    /// The issuers of `issuers` and `client_certificates`.
    fn listed_issuers(&mut self, document: &Document) -> Vec<Issuer> {
        let role_limits = document.limits.roles();
        let mut issuers = self.issuers(&document.issuers, role_limits);
        issuers.extend(self.client_certificates(
            &document.client_certificates,
            &document.listen.proxy,
            &document.issuers,
            role_limits,
        ));
        issuers
    }

    fn listed_portals(&mut self, document: &Document, identity_prefix: Option<&str>) -> Option<Vec<Portal>> {
        let beside = BesidePortals {
            upstream: document.upstream.as_ref(),
            issuers: &document.issuer_names(),
            identity_prefix,
        };
        let portals = document.portals.as_ref()?;
        Some(self.portals(portals, &beside))
    }

    /// The checks that need the whole configuration.
    fn sections_agree(&mut self, config: &Config) -> Option<()> {
        self.default_logins(config);
        self.subjects_differ(config)?;
        self.proofs_have_urls(config)?;
        self.exchanges_have_issuers(config)
    }

    /// SECURITY: two issuers of a portal whose subjects have the same prefix could each name the other's users.
    fn subjects_differ(&mut self, config: &Config) -> Option<()> {
        let template = Portal::discovered(&PortalSlug::placeholder(), config.issuers.len());
        let portals = config.portals.as_deref().unwrap_or(std::slice::from_ref(&template));
        let same = portals.iter().find_map(|portal| config.portal_scope(portal).same_prefix());
        let Some(SamePrefix { issuers, prefix }) = same else {
            return Some(());
        };
        let [one, other] = &issuers;
        let at = config
            .issuers
            .iter()
            .position(|issuer| issuer.scope.name == *other)
            .unwrap_or_default();
        let before = config.issuers.iter().take(at);
        let section = match config.issuers.get(at).map(|issuer| &issuer.certificates) {
            Some(Some(_)) => format!(
                "client_certificates[{}]",
                before.filter(|issuer| issuer.certificates.is_some()).count()
            ),
            _ => format!("issuers[{at}]"),
        };
        self.error(
            &format!("{section}.subject_prefix"),
            format!(
                "the subjects of `{one}` and `{other}` both begin with `{prefix}` where one portal trusts both, so either could name the \
                 other's users; give them different prefixes, or list `portals.<slug>.issuers`"
            ),
        );
        None
    }

    /// SECURITY: a DPoP proof names the URL that it is for. Without a configured name of the gate, that would be any
    /// `Host` that a client writes, and a proof for another server would count here.
    fn proofs_have_urls(&mut self, config: &Config) -> Option<()> {
        let template = Portal::discovered(&PortalSlug::placeholder(), config.issuers.len());
        let portals = config.portals.as_deref().unwrap_or(std::slice::from_ref(&template));
        let lacks_name =
            |portal: &&Portal| config.public_url.is_none() && portal.public_url.is_none() && portal.matches.hosts.is_empty();
        let trusts = |index: &usize| config.issuers.get(*index).is_some_and(|issuer| issuer.dpop.is_some());
        let found = portals
            .iter()
            .filter(lacks_name)
            .find_map(|portal| portal.issuers.iter().copied().find(trusts));
        let Some(index) = found else { return Some(()) };
        self.error(
            &format!("issuers[{index}].dpop"),
            "needs `public_url`, or `match.hosts` of every portal that trusts the issuer: a proof names the URL that it is for",
        );
        None
    }

    /// SECURITY: a token is sent to the provider of its issuer alone, so the issuer must be one that has tokens.
    fn exchanges_have_issuers(&mut self, config: &Config) -> Option<()> {
        let portals = config.portals.iter().flatten();
        let portals = portals.filter_map(|portal| Some((format!("portals.{}.upstream", portal.slug), portal.upstream.as_ref()?)));
        let upstreams = std::iter::once(("upstream".to_owned(), &config.upstream)).chain(portals);
        let mut found = Some(());
        for (section, upstream) in upstreams {
            let UpstreamToken::Exchange(exchange) = &upstream.token else {
                continue;
            };
            let named = |issuer: &&Issuer| *issuer.scope.name == *exchange.issuer && issuer.keys != KeySource::NoTokens;
            if config.issuers.iter().find(named).is_none() {
                let message = format!("there is no issuer `{}` with tokens; name one of `issuers`", exchange.issuer);
                self.error(&format!("{section}.exchange.issuer"), message);
                found = None;
            }
        }
        found
    }

    fn trusted_proxies(&mut self, texts: &[String]) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for (n, text) in texts.iter().enumerate() {
            match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                Ok(net) => nets.push(net.trunc()),
                Err(_) => {
                    let message = format!(
                        "`{text}` is not a network; write an address, such as `10.0.0.7`, or a range, such as `10.0.0.0/8`"
                    );
                    self.error(&format!("trusted_proxies[{n}]"), message);
                }
            }
        }
        nets
    }
}
