//! What a configuration may say, and had better not.

use super::{Config, ProviderKind};

impl Config {
    /// One sentence each, with the key that it is about.
    pub fn warnings(&self) -> Vec<String> {
        let accepted = |provider: &&super::Provider| {
            let ProviderKind::Oidc { client_id, .. } = &provider.kind else {
                return false;
            };
            let issuer = self.issuers.get(provider.issuer);
            issuer.is_some_and(|issuer| issuer.audiences.contains(client_id))
        };
        let providers = self.login.providers.iter().filter(accepted);
        let warning = |provider: &super::Provider| {
            format!(
                "login.providers.{}.client_id: is among the `audiences` of its issuer, so every ID token made for this login is a bearer token as well; \
                 give the API an audience of its own",
                provider.name
            )
        };
        providers.map(warning).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_an_audience_too_is_warned_of() {
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
}
