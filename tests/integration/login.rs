//! Logging in and out: at OpenID providers and with local accounts.

mod device_login;
mod accounts_of_an_issuer;
mod backchannel_logout;
mod login_origins;
mod login_pages;
mod login_rates;
mod login_tabs;
mod provider_choice;
mod navigations;
mod provider_login;
mod provider_logout;
mod provider_network;
mod provider_shapes;
mod real_providers;
mod typed_passwords;
