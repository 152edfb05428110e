//! The people of the demo: accounts with a password of this run, and tokens of the embedded issuer for the same
//! principals.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::shop::Customer;
use super::{AUDIENCE, ISSUER};
use crate::accounts::{Hash, NewUser, TotpSecret, UsersEditor};
use crate::authn::{SigningKey, mint};
use crate::base::clock;

/// Random bytes of a demo password.
const PASSWORD_RANDOM_BYTES: usize = 9;
const TOKEN_LIFE: Duration = Duration::from_secs(8 * 3600);

/// A person, with an account of this run.
#[derive(Debug)]
pub(super) struct Person {
    pub name: &'static str,
    pub tenant: &'static str,
    pub role: &'static str,
    pub password: String,
    /// The portals where there is something to see.
    pub portals: &'static str,
    pub try_this: &'static str,
    /// The second factor, if the account has one.
    pub totp: Option<TotpSecret>,
}

impl Person {
    pub const fn customer(&self) -> Customer<'static> {
        Customer {
            user: self.name,
            tenant: self.tenant,
        }
    }

    pub fn token(&self, key: &SigningKey) -> Result<String, String> {
        let claims = json!({"iss": ISSUER, "aud": AUDIENCE, "sub": self.name, "tenant": self.tenant, "roles": [self.role],
            "email": self.email()});
        let claims: Map<String, Value> = claims.as_object().cloned().unwrap_or_default();
        mint(key, claims, TOKEN_LIFE, clock::unix_seconds()).map_err(|e| e.to_string())
    }

    fn email(&self) -> String {
        format!("{}@{}.test", self.name, self.tenant)
    }

    fn account(&self) -> Result<NewUser, String> {
        Ok(NewUser {
            name: self.name.to_owned(),
            password: Hash::new(&self.password)?,
            totp: self.totp.clone(),
            tenant: Some(self.tenant.to_owned()),
            roles: vec![self.role.to_owned()],
            portals: Vec::new(),
            full_name: None,
            email: Some(self.email()),
        })
    }
}

/// The people, each with a new password.
pub(super) fn people() -> Result<Vec<Person>, String> {
    let person = |name, tenant, role, portals, try_this| {
        Ok::<_, String>(Person {
            name,
            tenant,
            role,
            password: password()?,
            portals,
            try_this,
            totp: None,
        })
    };
    Ok(vec![
        person("alice", "acme", "viewer", "customer", "edits her own orders, places none")?,
        person("bob", "acme", "editor", "customer", "places orders")?,
        Person {
            totp: Some(TotpSecret::generate()?),
            ..person(
                "ada",
                "acme",
                "admin",
                "admin, customer",
                "suspends an account: needs a code, see below",
            )?
        },
        person("otto", "acme", "auditor", "admin", "reads the decisions of acme")?,
        person("gina", "globex", "viewer", "customer", "sees nothing of acme")?,
    ])
}

fn password() -> Result<String, String> {
    let mut random = [0; PASSWORD_RANDOM_BYTES];
    aws_lc_rs::rand::fill(&mut random).map_err(|_unspecified| "the random number generator failed".to_owned())?;
    Ok(hex::encode(random))
}

/// Writes the users file.
pub(super) fn write_accounts(people: &[Person], file: &Path) -> Result<(), String> {
    for person in people {
        let users = UsersEditor::open(file).map_err(|e| e.to_string())?;
        users.add(&person.account()?).map_err(|e| e.to_string())?;
    }
    Ok(())
}
