//! Sampling of allowed decisions: `audit.allow` as rates by portal and route.
//!
//! Whether a decision is recorded follows from its id alone, so that a repeated look gives the same answer, and a rate
//! that was raised keeps every record that the lower rate kept. A decision that is not an allow is never sampled.

use std::collections::HashMap;

use super::record::AuditRecord;
use crate::config::{AllowWord, AuditAllow, Share};

/// The rates, ready to be looked up.
#[derive(Debug)]
pub(super) struct Sampling {
    default: Share,
    portals: HashMap<String, PortalRates>,
}

#[derive(Debug)]
struct PortalRates {
    all: Share,
    routes: HashMap<String, Vec<RouteRate>>,
}

/// The rate of one path template.
#[derive(Debug)]
struct RouteRate {
    /// `None`: every method.
    method: Option<String>,
    rate: Share,
}

impl Sampling {
    /// `None`: every decision is recorded.
    pub fn new(allow: &AuditAllow) -> Option<Self> {
        let rates = match allow {
            AuditAllow::Word(AllowWord::All) => return None,
            AuditAllow::Word(AllowWord::None) => {
                return Some(Self {
                    default: Share::NONE,
                    portals: HashMap::new(),
                });
            }
            AuditAllow::Rates(rates) => rates,
        };
        let mut sampling = Self {
            default: rates.default,
            portals: HashMap::new(),
        };
        for (slug, rate) in &rates.portals {
            sampling.portal(slug).all = *rate;
        }
        for route in &rates.routes {
            let (method, path) = match route.route.split_once(' ') {
                Some((method, path)) => (Some(method.to_owned()), path),
                None => (None, route.route.as_str()),
            };
            let routes = &mut sampling.portal(&route.portal).routes;
            routes.entry(path.to_owned()).or_default().push(RouteRate {
                method,
                rate: route.rate,
            });
        }
        Some(sampling)
    }

    fn portal(&mut self, slug: &str) -> &mut PortalRates {
        let all = self.default;
        let fresh = || PortalRates {
            all,
            routes: HashMap::new(),
        };
        self.portals.entry(slug.to_owned()).or_insert_with(fresh)
    }

    /// The rate for an allowed decision.
    pub fn rate(&self, record: &AuditRecord) -> Share {
        let Some(rates) = self.portals.get(record.portal()) else {
            return self.default;
        };
        let of_route = record.http.as_ref().and_then(|http| {
            let routes = rates.routes.get(http.route.as_deref()?)?;
            let with = |method: Option<&str>| routes.iter().find(|route| route.method.as_deref() == method);
            with(Some(http.method.as_str())).or_else(|| with(None))
        });
        of_route.map_or(rates.all, |route| route.rate)
    }
}

/// True if the decision of this id is among the part that is recorded.
pub(super) fn is_sampled(id: uuid::Uuid, rate: Share) -> bool {
    // the last 32 bits of a UUIDv7 are random
    let (_, low) = id.as_u64_pair();
    f64::from(u32::try_from(low & u64::from(u32::MAX)).unwrap_or_default()) < rate.get() * 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use cedargate_policy::types::Door;
    use uuid::Uuid;

    use super::super::record::HttpRecord;
    use super::*;

    fn allow(json: serde_json::Value) -> AuditAllow {
        serde_json::from_value(json).unwrap()
    }

    fn record(portal: &str, method: &str, route: Option<&str>) -> AuditRecord {
        let mut record = AuditRecord::new(Uuid::now_v7(), Door::Proxy);
        record.portal = Some(portal.into());
        record.http = Some(HttpRecord {
            method: method.parse().unwrap(),
            path: "/x".to_owned(),
            route: route.map(Into::into),
            client: None,
            status: None,
        });
        record
    }

    #[test]
    fn rate_of_a_route_wins_over_that_of_its_portal_and_that_over_the_default() {
        assert!(Sampling::new(&allow("all".into())).is_none());
        let none = Sampling::new(&allow("none".into())).unwrap();
        assert_eq!(none.rate(&record("p", "GET", None)), Share::NONE);
        let rates = Sampling::new(&allow(serde_json::json!({
            "default": 0.5,
            "portals": {"p": 0.25},
            "routes": [
                {"portal": "p", "route": "/orders/{order}", "rate": 0.125},
                {"portal": "p", "route": "POST /orders/{order}", "rate": 1},
                {"portal": "q", "route": "/q", "rate": 0},
            ],
        })))
        .unwrap();
        for (portal, method, route, rate) in [
            ("other", "GET", None, 0.5),
            ("q", "GET", None, 0.5),
            ("q", "GET", Some("/q"), 0.0),
            ("p", "GET", None, 0.25),
            ("p", "GET", Some("/elsewhere"), 0.25),
            ("p", "GET", Some("/orders/{order}"), 0.125),
            ("p", "POST", Some("/orders/{order}"), 1.0),
        ] {
            let found = rates.rate(&record(portal, method, route)).get();
            assert!((found - rate).abs() < f64::EPSILON, "{portal} {method} {route:?}: {found}");
        }
        let mut query = record("p", "GET", None);
        query.http = None;
        assert!((rates.rate(&query).get() - 0.25).abs() < f64::EPSILON);
    }

    #[test]
    fn about_the_wanted_part_is_sampled_by_the_id_alone() {
        let ids: Vec<Uuid> = (0..20_000).map(|_| crate::http::request::new_id(1)).collect();
        let ids = ids.into_iter().chain((0..20_000).map(|_| Uuid::now_v7())).collect::<Vec<_>>();
        for share in [0.0, 0.01, 0.1, 0.5, 1.0] {
            let rate = Share::new(share).unwrap();
            let sampled = u32::try_from(ids.iter().filter(|id| is_sampled(**id, rate)).count()).unwrap();
            let wanted = share * 40_000.0;
            let spread = 5.0 * (wanted * (1.0 - share)).sqrt();
            assert!((f64::from(sampled) - wanted).abs() <= spread, "{share}: {sampled}");
        }
        let (low, high) = (Share::new(0.1).unwrap(), Share::new(0.2).unwrap());
        assert!(ids.iter().all(|id| !is_sampled(*id, low) || is_sampled(*id, high)));
    }
}
