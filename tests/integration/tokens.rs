//! Bearer tokens: how they are verified, which keys count, introspection, and the tokens that the gate mints.

mod client_certificates;
mod dpop;
mod introspection;
mod issuer_keys;
mod minted_tokens;
mod provider_tokens;
mod token_attacks;
mod token_exchange;
mod wycheproof;
