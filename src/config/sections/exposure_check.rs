//! `upstream.exposure_check`: how the gate looks for an app that can be reached around it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::check::Checker;
use crate::config::values::TimeSpan;

/// Addresses that a file may list.
const ADDRESSES_MAX: usize = 64;

/// The pause between two looks: one second to one day.
type Interval = TimeSpan<1_000, 86_400_000>;

#[derive(Clone, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawExposureCheck {
    /// Time between two looks, from 1s to 1day.
    pub interval: Interval,
    /// Addresses at which the app must not answer. Empty: every address of this machine but loopback.
    pub addresses: Vec<String>,
}

/// The look for an app that can be reached around the gate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExposureCheck {
    pub interval: Duration,
    /// Empty: every address of this machine but loopback.
    pub addresses: Vec<IpAddr>,
}

impl Default for RawExposureCheck {
    fn default() -> Self {
        Self {
            interval: Interval::seconds::<60>(),
            addresses: Vec::new(),
        }
    }
}

impl Checker<'_> {
    pub fn exposure_check(&mut self, raw: Option<&RawExposureCheck>) -> Option<ExposureCheck> {
        let raw = raw?;
        let section = "upstream.exposure_check.addresses";
        if raw.addresses.len() > ADDRESSES_MAX {
            self.error(
                section,
                format!("has {} addresses; at most {ADDRESSES_MAX}", raw.addresses.len()),
            );
        }
        let mut addresses = Vec::new();
        for (n, text) in raw.addresses.iter().enumerate() {
            let key = format!("{section}[{n}]");
            match text.parse::<IpAddr>().map(|address| address.to_canonical()) {
                Ok(address) if address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST || address.is_unspecified() => {
                    self.error(
                        &key,
                        format!("`{text}` is where the app belongs; name an address that others can reach"),
                    );
                }
                Ok(address) => addresses.push(address),
                Err(_) => self.error(
                    &key,
                    format!("`{text}` is not an IP address; write one without a port, such as `10.1.2.3`"),
                ),
            }
        }
        Some(ExposureCheck {
            interval: raw.interval.get(),
            addresses,
        })
    }
}

/// The default of `upstream.exposure_check`: the look is on.
pub fn by_default() -> Option<RawExposureCheck> {
    Some(RawExposureCheck::default())
}
