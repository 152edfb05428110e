//! Settings with which `serve` starts although a part of it cannot work yet: a key file without a usable key, a portal
//! that has no folder yet, a port that another process still has.
//!
//! `serve` logs these sentences at start, and `validate` reports them, so that a file that passes one is no surprise to
//! the other. What keeps `serve` from starting is in `files`.

use std::net::SocketAddr;

use crate::authn::check_key_file;
use crate::base::files::check_folder;
use crate::config::{Address, Config, KeySource};
use crate::http::listener::{AddressUse, check_address};

/// One sentence each, with the key that it is about.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = config.warnings();
    warnings.extend(key_files(config));
    if config.bundle.is_none() {
        warnings.extend(folders(config));
    }
    warnings
}

/// The same, and the ports that `serve` could not have now. Not for `serve`, which binds them.
pub(crate) fn warnings_before_start(config: &Config) -> Vec<String> {
    let mut warnings = warnings(config);
    warnings.extend(taken_ports(config));
    warnings
}

/// A key file that is not there may come after the gate, and is no doubt. One that is there and has no usable key is.
fn key_files(config: &Config) -> impl Iterator<Item = String> {
    config.issuers.iter().enumerate().filter_map(|(number, issuer)| {
        let KeySource::File(path) = &issuer.keys else { return None };
        let error = check_key_file(path).err().filter(|_| path.exists())?;
        Some(format!(
            "issuers[{number}].jwks.file: {error}; until the file can be used, tokens of `{}` get 503 `key_unavailable`",
            issuer.scope.name
        ))
    })
}

/// Folders of policies that are not there.
fn folders(config: &Config) -> Vec<String> {
    let policies = &config.policies;
    let mut warnings = Vec::new();
    if let Some(folder) = policies.state_dir.as_deref()
        && let Err(error) = check_folder(folder)
    {
        let shown = folder.display();
        warnings.push(format!(
            "policies.state_dir: cannot write below `{shown}`: {error}; a restart with broken policies denies everything"
        ));
    }
    if let Some(folder) = policies.candidate.as_deref().filter(|folder| !folder.is_dir()) {
        warnings.push(format!(
            "policies.candidate: there is no folder `{}`, so no candidate set is evaluated",
            folder.display()
        ));
    }
    let is_missing = |slug: &str| !policies.dir.join(slug).is_dir();
    for (number, slug) in policies.require.iter().enumerate().filter(|(_, slug)| is_missing(slug)) {
        warnings.push(format!(
            "policies.require[{number}]: `{}` has no folder `{slug}`, so the gate does not become ready",
            policies.dir.display()
        ));
    }
    warnings
}

/// The configured ports at which another process listens while others are free. If all of them are taken, the process
/// is most likely the gate itself.
fn taken_ports(config: &Config) -> Vec<String> {
    let listen = &config.listen;
    let tcp = |address: &Address| match address {
        Address::Tcp(address) => Some(*address),
        Address::Unix(_) => None,
    };
    let all: [(&str, Option<SocketAddr>); 4] = [
        ("proxy", Some(listen.proxy.address)),
        (
            "decision",
            listen.decision.as_ref().and_then(|decision| tcp(&decision.address)),
        ),
        ("ext_authz", listen.ext_authz.as_ref().and_then(tcp)),
        ("admin", listen.admin),
    ];
    let fixed: Vec<(&str, SocketAddr)> = all
        .into_iter()
        .filter_map(|(listener, address)| Some((listener, address.filter(|address| address.port() != 0)?)))
        .collect();
    let taken: Vec<&(&str, SocketAddr)> = fixed
        .iter()
        .filter(|(_, address)| check_address(*address).is_ok_and(|usage| usage == AddressUse::Taken))
        .collect();
    if taken.len() == fixed.len() {
        return Vec::new();
    }
    let sentences = taken.into_iter().map(|(listener, address)| {
        format!("listen.{listener}.address: a process listens on `{address}`; `serve` starts only after that process has ended")
    });
    sentences.collect()
}
