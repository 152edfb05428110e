//! The words that events of the decision log are made of, each list once.
//!
//! The code that sends an event names a variant, the record shows its word, and the published schema lists the words: a
//! test compares `schemas/audit-event.schema.json` with these lists. `CEDARGATE_ACCEPT=1 cargo test --lib audit` writes
//! them into it. Words stay: a reader of logs compares with them, so a word that goes, or means something else, is a
//! breaking change.

use cedargate_policy::denial::Denial;
use serde::{Serialize, Serializer};

/// An enum, the word of each variant, and the list of all variants.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$meaning:meta])* $variant:ident => $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum $name {
            $($(#[$meaning])* $variant,)+
        }

        impl $name {
            #[cfg(test)]
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
    };
}

words! {
    /// What an `auth_event` tells of.
    AuthAct {
        Login => "login",
        /// A session's claims are renewed at the provider.
        Refresh => "refresh",
        Logout => "logout",
        Revocation => "revocation",
        Introspection => "introspection",
        /// A token for the app.
        TokenExchange => "token_exchange",
        /// The app's page asked for the gate's assertion.
        Token => "token",
        /// A live connection is closed.
        Cut => "cut",
    }
}

words! {
    AuthResult {
        Success => "success",
        Failure => "failure",
    }
}

words! {
    /// What happened, for the reasons that are neither a login code nor a denial.
    AuthFact {
        LoggedIn => "success",
        LoggedOut => "logout",
        LoggedOutByProvider => "backchannel_logout",
        Renewed => "renewed",
        /// The provider ended the grant, or renewed it for another subject.
        GrantEnded => "grant_ended",
        Minted => "minted",
        /// The operator revoked, over the control socket.
        Operator => "operator",
        AccountChanged => "account_changed",
        AccountRemoved => "account_removed",
        /// Introspection: the token is active.
        Active => "active",
        Inactive => "inactive",
        Exchanged => "exchanged",
        /// The provider exchanges this token for none.
        Refused => "refused",
        /// The provider's token endpoint does not answer.
        Unavailable => "unavailable",
    }
}

words! {
    /// The reason codes of the login pages.
    LoginCode {
        /// The login took too long, or did not begin in this browser.
        LoginExpired => "login_expired",
        /// The browser did not send the login cookie. Shares the code of `LoginExpired`.
        CookieMissing => "login_expired",
        /// The provider refused the login (`access_denied` and similar error codes).
        LoginDenied => "login_denied",
        /// The provider's response failed verification.
        LoginInvalid => "login_invalid",
        /// The provider does not answer.
        ProviderUnavailable => "provider_unavailable",
        /// Several logins succeeded in a row, and the next request began another one.
        LoginLoop => "login_loop",
        /// The provider did not authenticate the user as strongly as the policy demands.
        StepUpFailed => "step_up_failed",
        /// The session store does not answer.
        StoreUnavailable => "store_unavailable",
        /// Name or password of a local account is wrong.
        CredentialsInvalid => "credentials_invalid",
        /// Too many login tries.
        RateLimited => "rate_limited",
    }
}

words! {
    /// The outcome of a candidate.
    PolicyResult {
        Success => "success",
        Rejected => "rejected",
        /// A candidate set is evaluated beside the revision in force.
        ShadowSuccess => "shadow_success",
        ShadowRejected => "shadow_rejected",
    }
}

words! {
    /// What an `admin_event` tells of.
    AdminAct {
        Started => "started",
        Draining => "draining",
        DrainRequested => "drain_requested",
        ReloadRequested => "reload_requested",
        ExplainRequested => "explain_requested",
        LogLevelChanged => "log_level_changed",
        AssertionKeysReloaded => "assertion_keys_reloaded",
        AssertionKeysRejected => "assertion_keys_rejected",
        TlsReloaded => "tls_reloaded",
        TlsRejected => "tls_rejected",
        UsersReloaded => "users_reloaded",
        UsersRejected => "users_rejected",
    }
}

/// The reason of an `auth_event`, one word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AuthReason {
    Fact(AuthFact),
    /// Why a login or a logout failed.
    Login(LoginCode),
    /// Why a credential was refused, or a live connection closed.
    Denied(Denial),
}

impl AuthReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fact(fact) => fact.as_str(),
            Self::Login(code) => code.as_str(),
            Self::Denied(denial) => denial.code(),
        }
    }
}

impl From<AuthFact> for AuthReason {
    fn from(fact: AuthFact) -> Self {
        Self::Fact(fact)
    }
}

impl From<LoginCode> for AuthReason {
    fn from(code: LoginCode) -> Self {
        Self::Login(code)
    }
}

impl From<Denial> for AuthReason {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl Serialize for AuthReason {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}
