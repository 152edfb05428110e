//! The request headers that the app never gets from a client: the default of `upstream.strip_headers`, and the names
//! that are removed under every configuration.
//!
//! Apps, frameworks and servers believe some request headers without a proof: who the user is, from where the request
//! came, which URL was meant. A proxy in front of them is expected to set or remove such headers. The lists name those
//! that common software reads or writes, in groups that say why. `<start>-*` stands for every name that begins so.

/// The item of `strip_headers` that stands for the lists of `DEFAULT`.
pub const DEFAULT_ITEM: &str = "default";

/// Headers of one kind.
#[derive(Clone, Copy, Debug)]
pub struct HeaderGroup {
    /// What software does with them.
    pub why: &'static str,
    pub names: &'static [&'static str],
}

/// Removed under every configuration: the gate sets these itself, or no header may have such a name.
pub const ALWAYS: HeaderGroup = HeaderGroup {
    why: "the gate's own",
    names: &["x-cedargate-*", "x-forwarded-*", "forwarded"],
};

/// Names of `ALWAYS` that the gate sets, so that a trusted proxy's value never passes.
pub const OWN: &[&str] = &[
    "forwarded",
    "x-forwarded-email",
    "x-forwarded-for",
    "x-forwarded-groups",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-preferred-username",
    "x-forwarded-proto",
    "x-forwarded-user",
];

/// Names of headers with which a client replaces the method, path or host that was decided on.
pub fn replace_the_request() -> impl Iterator<Item = &'static str> {
    let names = DEFAULT.first().map_or(&[][..], |group| group.names);
    names.iter().copied()
}

/// The default of `upstream.strip_headers`.
pub const DEFAULT: &[HeaderGroup] = &[
    HeaderGroup {
        why: "replace the method, path or host that was decided on",
        names: &[
            "base-url",
            "http-url",
            "path-info",
            "request-uri",
            "script-name",
            "x-base-url",
            "x-host",
            "x-host-override",
            "x-http-destinationurl",
            "x-http-host-override",
            "x-http-method",
            "x-http-method-override",
            "x-http-path-override",
            "x-invoke-*",
            "x-jfrog-override-base-url",
            "x-artifactory-override-base-url",
            "x-matched-path",
            "x-method-override",
            "x-ms-original-url",
            "x-now-route-matches",
            "x-original-*",
            "x-override-url",
            "x-path-info",
            "x-proxycontextpath",
            "x-proxyhost",
            "x-proxyport",
            "x-proxyscheme",
            "x-replaced-path",
            "x-request-uri",
            "x-rewrite-url",
            "x-script-name",
            "x-waws-unencoded-url",
        ],
    },
    HeaderGroup {
        why: "switch a server's own checks or files: httpoxy, Rack's X-Sendfile, Next.js's middleware",
        names: &[
            "proxy",
            "x-accel-*",
            "x-middleware-subrequest",
            "x-middleware-subrequest-id",
            "x-sendfile-type",
        ],
    },
    HeaderGroup {
        why: "say from which address the client comes",
        names: &[
            "ali-cdn-real-ip",
            "cdn-src-ip",
            "cf-connecting-ip",
            "cf-connecting-ipv6",
            "cf-connecting-o2o",
            "cf-ipcountry",
            "cf-pseudo-ipv4",
            "client-ip",
            "cloudfront-*",
            "coming-from",
            "do-connecting-ip",
            "fastly-*",
            "fly-*",
            "forwarded-for",
            "forwarded-for-ip",
            "forwarded-proto",
            "http-client-ip",
            "incap-client-ip",
            "proxy-client-ip",
            "real-ip",
            "source-ip",
            "true-client-ip",
            "wl-proxy-*",
            "x-akamai-*",
            "x-appengine-*",
            "x-azure-*",
            "x-client-ip",
            "x-clientip",
            "x-cluster-client-ip",
            "x-coming-from",
            "x-custom-ip-authorization",
            "x-envoy-*",
            "x-forward-for",
            "x-forwarded",
            "x-forwarder-for",
            "x-nf-*",
            "x-originally-forwarded-for",
            "x-originating-ip",
            "x-real-*",
            "x-source-ip",
            "x-sucuri-clientip",
            "x-true-client-ip",
            "x-true-ip",
            "x-vercel-*",
            "x-x-forwarded-for",
            "z-forwarded-for",
        ],
    },
    HeaderGroup {
        why: "say that the client used TLS, or which host it asked for",
        names: &[
            "cf-visitor",
            "front-end-https",
            "https",
            "ssl-offloaded",
            "x-arr-ssl",
            "x-front-end-https",
            "x-https",
            "x-proto",
            "x-protocol",
            "x-scheme",
            "x-ssl",
            "x-url-scheme",
        ],
    },
    HeaderGroup {
        why: "carry a client certificate that a proxy has checked",
        names: &[
            "client-cert",
            "client-cert-chain",
            "l5d-*",
            "ms-aspnetcore-*",
            "ssl-cert",
            "ssl-client-*",
            "x-amzn-mtls-*",
            "x-arr-clientcert",
            "x-client-cert",
            "x-client-cert-*",
            "x-client-certificate",
            "x-client-dn",
            "x-client-ssl-*",
            "x-client-verified",
            "x-client-verify",
            "x-goog-mtls-*",
            "x-ssl-*",
            "x-subject-dn",
            "x-tls-client-*",
        ],
    },
    HeaderGroup {
        why: "name the user, tenant or service: reverse proxies and gateways that authenticate",
        names: &[
            "auth-type",
            "auth-user",
            "authuser",
            "cf-access-*",
            "dapr-caller-*",
            "gap-auth",
            "gap-signature",
            "proxy-auth-type",
            "proxy-remote-user",
            "remote-*",
            "tailscale-*",
            "teleport-*",
            "thanos-tenant",
            "x-amzn-ava-*",
            "x-amzn-oidc-*",
            "x-anonymous-consumer",
            "x-apigateway-api-userinfo",
            "x-auth-audience",
            "x-auth-email",
            "x-auth-groups",
            "x-auth-name",
            "x-auth-request-*",
            "x-auth-roles",
            "x-auth-subject",
            "x-auth-user",
            "x-auth-userid",
            "x-auth-username",
            "x-authelia-*",
            "x-authenticated-*",
            "x-authentik-*",
            "x-cloudscheduler",
            "x-cloudscheduler-*",
            "x-cloudtasks-*",
            "x-consumer-*",
            "x-credential-identifier",
            "x-credential-username",
            "x-endpoint-api-userinfo",
            "x-goog-authenticated-user-*",
            "x-goog-iap-*",
            "x-id-token",
            "x-jwt-assertion",
            "x-jwt-claim-*",
            "x-jwt-payload",
            "x-minioidc-*",
            "x-ms-client-principal",
            "x-ms-client-principal-*",
            "x-ms-token-*",
            "x-oauth-*",
            "x-pomerium-*",
            "x-proxiedentitieschain",
            "x-proxiedentitygroups",
            "x-proxy-*",
            "x-remote-*",
            "x-rh-*",
            "x-scope-orgid",
            "x-sso-*",
            "x-subject",
            "x-teleport-*",
            "x-token-subject",
            "x-token-user-*",
            "x-user",
            "x-user-email",
            "x-user-groups",
            "x-user-name",
            "x-user-role",
            "x-user-roles",
            "x-userinfo",
            "x-username",
            "x-vouch-*",
            "x-webauth-*",
        ],
    },
    HeaderGroup {
        why: "name the user: single sign-on of web servers, and impersonation",
        names: &[
            "affiliation",
            "cas-user",
            "entitlement",
            "eppn",
            "impersonate-*",
            "iv-*",
            "mellon-*",
            "oam-*",
            "oidc-*",
            "osso-*",
            "persistent-id",
            "shib-*",
            "sm-*",
            "targeted-id",
            "unscoped-affiliation",
            "x-iisnode-*",
            "-wsat",
            "-wscc",
            "-wscs",
            "-wsis",
            "-wspc",
            "-wspr",
            "-wsra",
            "-wsrh",
            "-wsru",
            "-wssc",
            "-wssi",
            "-wssn",
            "-wssp",
        ],
    },
];

/// Every item of `DEFAULT`.
pub fn default_names() -> impl Iterator<Item = &'static str> {
    DEFAULT.iter().flat_map(|group| group.names.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_written_once_and_as_it_is_compared() {
        let mut all: Vec<&str> = default_names().chain(ALWAYS.names.iter().copied()).collect();
        for name in &all {
            let start = name.strip_suffix('*').unwrap_or(name);
            assert!(
                start.len() > 2
                    && start
                        .bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
            assert!(!name.ends_with('*') || start.ends_with('-'), "{name}");
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        for group in DEFAULT {
            assert!(!group.why.is_empty());
        }
    }
}
