//! The proxies in front of the app. A proxy is started, then checked: it must allow and refuse the right requests.

use std::path::Path;

use super::rounds::Peer;
use super::servers::{self, App, EnvoyOptions, Server};
use super::shop::{self, Kind};
use super::token::{AUDIENCE, ISSUER, Issuer, forged};
use crate::gate::Gate;
use crate::load::{ask, request};
use crate::machine::{DEVICE, pinned};

/// The file of decision records, in the folder of a gate.
const RECORDS: &str = "records.jsonl";

/// The requests that a peer must refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    Nothing,
    /// Requests without any credential.
    Presence,
    Everything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    Gate,
    GateConditional,
    GatePublic,
    Nginx,
    NginxAuthRequest,
    Haproxy,
    Envoy(EnvoyOptions),
}

/// A peer that was not measured, and the reason.
#[derive(Clone, Debug)]
pub struct Missing {
    pub name: String,
    pub reason: String,
}

/// The surroundings of every peer.
pub struct Site<'a> {
    pub folder: &'a Path,
    pub app: &'a App,
    pub issuer: &'a Issuer,
    pub policies: usize,
}

impl ProxyKind {
    pub fn name(self) -> String {
        match self {
            Self::Gate => "cedargate, the whole job".to_owned(),
            Self::GateConditional => "cedargate, conditional policies".to_owned(),
            Self::GatePublic => "cedargate, public path, no record".to_owned(),
            Self::Nginx => "nginx, checks nothing".to_owned(),
            Self::NginxAuthRequest => "nginx auth_request".to_owned(),
            Self::Haproxy => "HAProxy jwt_verify".to_owned(),
            Self::Envoy(EnvoyOptions { policies, token_cache }) => {
                let cache = if token_cache { ", token cache" } else { "" };
                format!("Envoy, RBAC with {policies}{cache}")
            }
        }
    }

    pub fn checks(self) -> Checks {
        match self {
            Self::GatePublic | Self::Nginx => Checks::Nothing,
            Self::NginxAuthRequest => Checks::Presence,
            _ => Checks::Everything,
        }
    }

    /// One sentence for the report.
    pub fn job(self) -> &'static str {
        match self {
            Self::Gate => "token (RS256), Cedar, identity headers, signed assertion, decision record to a file, metrics",
            Self::GateConditional => "the same; conditions read the tenant, the second factor and the resource's tenant",
            Self::GatePublic => "routing and forwarding; no token, no policy, no record",
            Self::Nginx => "forwarding",
            Self::NginxAuthRequest => "calls a service on the other core, which answers 204 to any credential",
            Self::Haproxy => "token (RS256) every time, one role, one prefix, subject as a header",
            Self::Envoy(options) if options.token_cache => "token from its cache, RBAC, subject as a header",
            Self::Envoy(_) => "token (RS256) every time, RBAC, subject as a header",
        }
    }

    pub fn start(self, site: &Site<'_>) -> Result<Peer, String> {
        let server = match self {
            Self::Gate => gate(site, "whole", Kind::Unconditional, "all")?,
            Self::GateConditional => gate(site, "conditional", Kind::Conditional, "all")?,
            Self::GatePublic => gate(site, "public", Kind::Unconditional, "none")?,
            Self::Nginx => servers::nginx_plain(site.folder, site.app)?,
            Self::NginxAuthRequest => servers::nginx_auth_request(site.folder, site.app)?,
            Self::Haproxy => servers::haproxy(site.folder, site.app)?,
            Self::Envoy(options) => servers::envoy(site.folder, site.app, options)?,
        };
        let records = match self {
            Self::Gate => Some(site.folder.join("whole").join(RECORDS)),
            Self::GateConditional => Some(site.folder.join("conditional").join(RECORDS)),
            _ => None,
        };
        let requests = vec![match self {
            Self::GatePublic => request("GET", shop::PUBLIC, &[], None),
            _ => get(shop::ALLOWED, Some(&site.issuer.token(&["viewer", "buyer"], 1))),
        }];
        let peer = Peer {
            name: self.name(),
            server,
            requests,
            records,
            failed: None,
        };
        self.check(site, &peer)?;
        Ok(peer)
    }

    fn check(self, site: &Site<'_>, peer: &Peer) -> Result<(), String> {
        let good = site.issuer.token(&["viewer", "buyer"], 2);
        let stranger = site.issuer.token(&["stranger"], 3);
        let forged = forged(&good);
        let expired = site.issuer.expired(&["viewer", "buyer"]);
        let refusals = [
            ("another subtree", shop::DENIED, Some(&good), 403),
            ("another role", shop::ALLOWED, Some(&stranger), 403),
            ("a forged signature", shop::ALLOWED, Some(&forged), 401),
            ("an expired token", shop::ALLOWED, Some(&expired), 401),
        ];
        let expect = |name: &str, request: &[u8], wanted: u16| match ask(peer.server.address, request)? {
            (status, _) if status == wanted => Ok(()),
            (status, body) => Err(format!("wrong answer: {name} should be {wanted}, is {status} {body}")),
        };
        let measured = peer.requests.first().ok_or("no request")?;
        expect("the permitted request", measured, 200)?;
        if self.checks() != Checks::Nothing {
            expect("no credential", &get(shop::ALLOWED, None), 401)?;
        }
        if self.checks() == Checks::Everything {
            for (name, path, token, wanted) in refusals {
                expect(name, &get(path, token.map(String::as_str)), wanted)?;
            }
            // a refusal must not be cached for the permitted request
            expect("the permitted request, again", measured, 200)?;
        }
        if matches!(self, Self::Gate | Self::GateConditional) {
            let (_, assertion) = ask(peer.server.address, &get(shop::ECHO, Some(&good)))?;
            if assertion.split('.').count() != 3 {
                return Err(format!("the app received no signed assertion but `{assertion}`"));
            }
        }
        Ok(())
    }
}

/// A GET request, with the token if there is one.
pub fn get(path: &str, token: Option<&str>) -> Vec<u8> {
    match token.map(|token| format!("Bearer {token}")) {
        Some(bearer) => request("GET", path, &[("authorization", &bearer)], None),
        None => request("GET", path, &[], None),
    }
}

/// Starts a gate on the core of the measured program. `recorded` is `audit.allow`.
fn gate(site: &Site<'_>, name: &str, kind: Kind, recorded: &str) -> Result<Server, String> {
    let folder = site.folder.join(name);
    let more = format!("limits: {{ workers: 1 }}\naudit: {{ sink: {{ file: {RECORDS} }}, allow: {recorded} }}\n");
    shop::write_gate(&folder, kind, site.policies);
    shop::write(&folder, "jwks.json", &site.issuer.jwks());
    let gate = Gate::start(&folder, "gate", &(config(site.app) + &more), pinned(DEVICE))?;
    let (_, metrics) = ask(gate.admin, &request("GET", "/metrics", &[], None))?;
    if !metrics.contains("cedargate_decision_duration_seconds") {
        return Err("the gate has no metrics".to_owned());
    }
    Ok(Server {
        process: gate.process,
        address: gate.proxy,
    })
}

fn config(app: &App) -> String {
    format!(
        "upstream: {{ url: 'http://{}' }}\n\
         policies: {{ require: [shop] }}\n\
         issuers: [{{ name: bench, issuer: '{ISSUER}', audiences: [{AUDIENCE}], jwks: {{ file: jwks.json }} }}]\n",
        app.address
    )
}

/// Starts a gate that is not in the main comparison: any number of workers, any core.
pub fn gate_with_workers(site: &Site<'_>, workers: usize, core: Option<usize>) -> Result<Peer, String> {
    let folder = site.folder.join(format!("workers-{workers}-{}", site.policies));
    shop::write_gate(&folder, Kind::Unconditional, site.policies);
    shop::write(&folder, "jwks.json", &site.issuer.jwks());
    let more = format!("limits: {{ workers: {workers} }}\naudit: {{ sink: {{ file: {RECORDS} }} }}\n");
    let gate = Gate::start(&folder, "gate", &(config(site.app) + &more), core)?;
    let peer = Peer {
        name: format!("cedargate, {workers} workers"),
        server: Server {
            process: gate.process,
            address: gate.proxy,
        },
        requests: vec![get(shop::ALLOWED, Some(&site.issuer.token(&["viewer", "buyer"], 1)))],
        records: Some(folder.join(RECORDS)),
        failed: None,
    };
    ProxyKind::Gate.check(site, &peer)?;
    Ok(peer)
}
