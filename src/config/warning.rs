//! Settings that are valid but probably a mistake.

use cedargate_policy::claim_path::ClaimPath;
use cedargate_policy::types::PortalSlug;

use super::{ClientAuth, Config, KeySource, Portal, Provider, ProviderKind, Secret};
use crate::base::files::has_byte_order_mark;

/// Bytes of a secret file.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

impl Config {
    /// One sentence each, with the key that it is about.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self
            .login
            .providers
            .iter()
            .filter_map(|one| self.client_as_audience(one))
            .collect();
        warnings.extend(self.subjects_renamed());
        warnings.extend(self.marked_secrets());
        warnings
    }

    fn client_as_audience(&self, provider: &Provider) -> Option<String> {
        let ProviderKind::Oidc(client) = &provider.kind else {
            return None;
        };
        let issuer = self.issuers.get(provider.issuer)?;
        if issuer.scope.audience_claim != ClaimPath::unquoted("aud") {
            // an ID token names the client in `aud`
            return None;
        }
        issuer.scope.audiences.contains(&client.client_id).then(|| {
            format!(
                "login.providers.{}.client_id: is among the `audiences` of its issuer, so every ID token made for this login is a bearer token as well; \
                 give the API an audience of its own",
                provider.name
            )
        })
    }

    /// Secret files that begin with a byte order mark: most programs would send it as a part of the secret.
    fn marked_secrets(&self) -> impl Iterator<Item = String> {
        let clients = self.login.providers.iter().filter_map(|provider| {
            let ProviderKind::Oidc(client) = &provider.kind else {
                return None;
            };
            match &client.auth {
                ClientAuth::SecretBasic(secret) | ClientAuth::SecretPost(secret) => {
                    Some((format!("login.providers.{}.client_secret_file", provider.name), secret))
                }
                ClientAuth::PrivateKeyJwt(_) => None,
            }
        });
        let introspections = self.issuers.iter().enumerate().filter_map(|(n, issuer)| {
            let secret = &issuer.introspection.as_ref()?.client_secret;
            Some((format!("issuers[{n}].introspection.client_secret_file"), secret))
        });
        clients.chain(introspections).filter_map(|(key, secret)| {
            let Secret::File(path) = secret else { return None };
            has_byte_order_mark(path, SECRET_BYTES_MAX).then(|| {
                let shown = path.display();
                format!("{key}: `{shown}` begins with a byte order mark, which the gate leaves out of the secret; save the file without it")
            })
        })
    }

    /// Local accounts are an issuer of their own. A portal that trusts every issuer then trusts two, and the subjects
    /// of the first get a prefix, which policies and the app see.
    fn subjects_renamed(&self) -> Option<String> {
        let of_tokens = |index: &usize| {
            let issuer = self.issuers.get(*index);
            issuer.filter(|issuer| !matches!(issuer.keys, KeySource::NoTokens))
        };
        let template = Portal::discovered(&PortalSlug::placeholder(), self.issuers.len());
        let portals = self.portals.as_deref().unwrap_or(std::slice::from_ref(&template));
        let renamed = portals.iter().find_map(|portal| {
            let tokens: Vec<_> = portal.issuers.iter().filter_map(of_tokens).collect();
            let [only] = tokens.as_slice() else { return None };
            (portal.issuers.len() > 1 && only.scope.subject_prefix.is_none()).then_some(*only)
        })?;
        let at = self
            .issuers
            .iter()
            .position(|issuer| issuer.scope.name == renamed.scope.name)?;
        let name = &renamed.scope.name;
        Some(format!(
            "issuers[{at}].subject_prefix: is not set, and local accounts are a second issuer, so where a portal trusts both `{name}`'s subject `ann` is \
             called `{name}|ann`; say `subject_prefix: \"\"` to keep the names, `\"{name}|\"` to have them so, or list `portals.<slug>.issuers`"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_among_the_audiences_gives_a_warning() {
        let config = |audiences: &str| {
            let yaml = format!(
                "upstream: {{ url: 'http://127.0.0.1:1' }}\npublic_url: 'https://shop.test'\n\
                 issuers:\n  - {{ name: other, issuer: 'https://other.test', audiences: [gate] }}\n  - {{ name: corp, issuer: 'https://id.test', audiences: [{audiences}] }}\n\
                 login: {{ providers: {{ corp: {{ issuer: corp, client_id: gate, client_secret: x }}, staff: {{ users_file: u.yaml }} }} }}\n"
            );
            Config::from_yaml(&yaml).unwrap()
        };
        assert_eq!(config("orders").warnings(), Vec::<String>::new());
        let warnings = config("orders, gate").warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("login.providers.corp.client_id: "), "{warnings:?}");
    }

    #[test]
    fn local_accounts_that_rename_the_subjects_of_an_issuer_give_a_warning() {
        let warnings = |issuers: &str, more: &str| {
            let yaml = format!(
                "upstream: {{ url: 'http://127.0.0.1:1' }}\npublic_url: 'https://shop.test'\nissuers: [{issuers}]\n\
                 login: {{ providers: {{ staff: {{ users_file: u.yaml }} }} }}\n{more}"
            );
            Config::from_yaml(&yaml).unwrap().warnings()
        };
        let corp = "{ name: corp, issuer: 'https://id.test', audiences: [orders] }";
        let other = "{ name: other, issuer: 'https://other.test', audiences: [orders] }";
        let found = warnings(corp, "");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("issuers[0].subject_prefix: ") && found[0].contains("`corp|ann`"),
            "{found:?}"
        );
        assert_eq!(warnings(corp, "portals: { a: { issuers: [corp] }, b: {} }\n").len(), 1);
        for (issuers, more) in [
            ("", ""),
            // these subjects had a prefix before
            (&format!("{corp}, {other}"), ""),
            (&corp.replace(" }", ", subject_prefix: '' }"), ""),
            (&corp.replace(" }", ", subject_prefix: 'corp|' }"), ""),
            (corp, "portals: { a: { issuers: [corp] }, b: { issuers: [staff] } }\n"),
        ] {
            assert_eq!(warnings(issuers, more), Vec::<String>::new(), "{issuers} {more}");
        }
    }
}
