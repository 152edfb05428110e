//! Local accounts: a users file with argon2id hashes, for small installations and the demo.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{LoginCode, LoginFailure};
use crate::config;

/// Every provider with a users file.
pub struct Accounts {}

/// Whom a password proves.
#[derive(Clone, Debug)]
pub struct Account {
    pub name: String,
    /// `sub`, `tenant`, `roles`, `name`, `email` and what else the file says; the claims of the session.
    pub claims: Arc<Map<String, Value>>,
    /// Portals that the user may use; `None`: all that trust the provider.
    pub portals: Option<Vec<String>>,
}

impl Accounts {
    pub fn new(_config: &config::Config) -> Arc<Self> {
        Arc::new(Self {})
    }

    /// Takes as long for a name that does not exist as for a wrong password. Counts against name and address first.
    pub async fn check(&self, _provider: &str, _name: &str, _password: &str, _from: IpAddr) -> Result<Account, LoginFailure> {
        Err(LoginFailure::new(LoginCode::CredentialsInvalid, "not built yet"))
    }

    /// The account as the file says now: roles and portals may have changed, or it is gone.
    pub fn current(&self, _provider: &str, _name: &str) -> Option<Account> {
        None
    }
}
