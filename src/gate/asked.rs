//! A request that another proxy holds back until the gate has decided it.
//!
//! The proxy states the request and forwards it itself, so the gate must not decide on anything that it would forward
//! in another form: the path must be canonical already, and headers that only the gate's own forwarding would remove
//! are refused. The decision is the one of the proxy listener (`decide`). Such a request is not watched while its
//! answer streams, and a session gets no new id here: the answer to the client is the other proxy's.

use std::sync::Arc;
use std::time::Instant;

use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::portal::path::rules::path_refused;
use cedargate_policy::types::Door;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use smallvec::SmallVec;
use uuid::Uuid;

use super::decide::Permitted;
use super::record::{Progress, micros};
use super::{ActivePortal, EnteredPortal, Gate, RequestHead, denied_by};
use crate::audit::{AuditRecord, HttpRecord};
use crate::base::clock::unix_millis;
use crate::http::answer::{self, AnswerContext, Style};
use crate::http::request::{self, Correlation, StatedRequest, correlation, new_id};
use crate::http::upstream::{Body, Sender, header_value, headers_for_proxy, sanitize};
use crate::portals::Portal;

/// The question of a proxy.
pub struct AskedRequest {
    pub stated: StatedRequest,
    pub removal: Removal,
    /// The portal by name; `None`: the portal of host and path.
    pub portal: Option<String>,
    /// `None`: the portal's policies alone decide.
    pub only: Option<AllowedCallers>,
}

/// The callers to whom a proxy gives access besides: each list that is not empty must contain the caller.
#[derive(Debug, Default)]
pub struct AllowedCallers {
    pub groups: Vec<String>,
    pub emails: Vec<String>,
    /// A domain, or `.example.com` for it and all below it.
    pub email_domains: Vec<String>,
}

impl AllowedCallers {
    /// Compares with the headers that tell the app who the caller is. An anonymous caller is in no list.
    fn check(&self, stated: &HeaderMap) -> Result<(), Refusal> {
        let text = |name: &str| stated.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let email = text("x-forwarded-email");
        let groups = text("x-forwarded-groups");
        let is_stated =
            |wanted: &String, stated: &str| !stated.is_empty() && header_value(wanted).as_bytes() == stated.as_bytes();
        let in_groups = |wanted: &String| groups.split(',').any(|group| is_stated(wanted, group));
        let in_domain = |wanted: &String| match email.split_once('@') {
            Some((_, domain)) if !domain.contains('@') => is_domain_or_below(domain, wanted),
            _ => false,
        };
        for (list, contains) in [
            ("allowed_groups", self.groups.is_empty() || self.groups.iter().any(in_groups)),
            (
                "allowed_emails",
                self.emails.is_empty() || self.emails.iter().any(|wanted| is_stated(wanted, email)),
            ),
            (
                "allowed_email_domains",
                self.email_domains.is_empty() || self.email_domains.iter().any(in_domain),
            ),
        ] {
            if !contains {
                let detail = format!("the proxy's question allows others only (`{list}`)");
                return Err(Refusal::new(Denial::NotPermitted, detail));
            }
        }
        Ok(())
    }
}

/// True if `domain` is `wanted`; or below it, if `wanted` begins with `.` or `*.`.
fn is_domain_or_below(domain: &str, wanted: &str) -> bool {
    let Some(parent) = wanted.strip_prefix('*').unwrap_or(wanted).strip_prefix('.') else {
        return domain == wanted;
    };
    let above = domain.strip_suffix(parent).map(|rest| rest.is_empty() || rest.ends_with('.'));
    !parent.is_empty() && above == Some(true)
}

/// The means of a proxy to keep a client's header from the app.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Removal {
    /// The proxy removes the headers that the answer names.
    Named,
    /// The proxy replaces the headers of the answer and removes no other.
    Impossible,
}

/// The answer to a proxy.
pub struct Checked {
    pub decision_id: Uuid,
    pub request_id: HeaderValue,
    pub portal: Option<Arc<str>>,
    pub revision: Option<Arc<str>>,
    /// Ids of the determining policies.
    pub policies: SmallVec<[Arc<str>; 2]>,
    pub verdict: Result<Box<Forwardable>, Box<AskedRefusal>>,
}

/// What a proxy does to a permitted request before it forwards it.
pub struct Forwardable {
    /// The headers to set; each replaces every header of its name.
    pub set: HeaderMap,
    /// Headers of the request that the app must not get, and that `set` does not replace.
    pub remove: Vec<http::HeaderName>,
}

/// A refusal, and the answer for the client.
pub struct AskedRefusal {
    pub refusal: Refusal,
    pub response: Response<Body>,
}

impl Gate {
    /// Decides the request that a proxy asks about; never fails. `headers` are those of the question, for its ids;
    /// `asked` is an error if the question cannot be read.
    pub async fn check(&self, door: Door, headers: &HeaderMap, asked: Result<AskedRequest, Refusal>) -> Checked {
        let decided_at = unix_millis();
        let decision_id = new_id(decided_at);
        let Correlation { request_id, mut trace } = correlation(headers, decision_id);
        let style = asked.as_ref().map_or(Style::Problem, |asked| style_of(&asked.stated));
        let mut answer = AnswerContext::new(style, decision_id, request_id.clone(), &self.theme);
        let slot = match self.audit.admit() {
            Ok(slot) => slot,
            Err(refusal) => {
                self.count_without_portal(door, Some(refusal.denial));
                let response = answer::refusal_response(&refusal, &answer);
                return Checked::refused_unrecorded(answer, AskedRefusal { refusal, response });
            }
        };
        let span = self.begin_span(headers, &mut trace);
        let mut record = AuditRecord::new(decision_id, door);
        record.request_id = Some(request_id.clone());
        record.trace_id = Some(trace.trace_id);
        let stated = asked.as_ref().ok().map(|asked| &*asked.stated.parts);
        record.http = stated.map(|parts| HttpRecord {
            method: parts.method.clone(),
            path: parts.uri.path().to_owned(),
            route: None,
            client: None,
            status: None,
        });
        let visit = stated.filter(|_| style == Style::Page);
        let ids = Correlation { request_id, trace };
        let mut progress = Progress::begin(door, decision_id, ids, decided_at, self.audit.guard(slot, record));
        progress.span = span;
        progress.visit = visit.map(|parts| self.visit(&parts.method, &parts.uri, &parts.headers));
        let verdict = match asked {
            Ok(asked) => Box::pin(self.check_asked(asked, &mut progress)).await,
            Err(refusal) => Err(refusal),
        };
        let verdict = match verdict {
            Ok(forwardable) => Ok(Box::new(forwardable)),
            Err(refusal) => {
                tracing::debug!(%decision_id, code = refusal.denial.code(), detail = %refusal.detail, "refused");
                progress.record.refused(&refusal);
                progress.record.record.limit = refusal.limit;
                answer.page_links = self.page_links(&progress);
                let mut response = self.refused(&refusal, &answer, &progress);
                // the connection is the proxy's, and its framing is sound
                response.headers_mut().remove(CONNECTION);
                Err(Box::new(AskedRefusal { refusal, response }))
            }
        };
        self.end(progress, verdict)
    }

    async fn check_asked(&self, asked: AskedRequest, progress: &mut Progress) -> Result<Forwardable, Refusal> {
        let StatedRequest { parts, scheme, address } = asked.stated;
        let trusted = &self.config.trusted_proxies;
        let mut head = RequestHead::read(
            parts,
            |headers, target| request::stated_client(headers, scheme, address, target, trusted),
            progress,
        )?;
        // SECURITY: the app gets the client's spelling, and policies decide on the canonical one
        if head.path.as_str() != head.parts.uri.path() {
            let detail = format!("the path is not in its canonical spelling, which is `{}`", head.path.as_str());
            return Err(path_refused(detail));
        }
        let rate = self.limits.check_address(head.client.source_ip);
        if self.gate_endpoint(&head.path)?.is_some() {
            let detail = "this path is the gate's own; the proxy must send it to the proxy listener";
            return Err(Refusal::new(Denial::PortalUnknown, detail));
        }
        let portal = self.portal_of(asked.portal.as_deref(), &head)?;
        let EnteredPortal { active, token } = progress.enter(&portal, &mut head, rate)?;
        if asked.removal == Removal::Impossible {
            portal.header_rules.check_for_proxy(&head.parts.headers)?;
        }
        let before: Vec<_> = head.parts.headers.keys().cloned().collect();
        sanitize(&mut head.parts.headers, &portal.header_rules, Sender::TrustedProxy);
        let mut remove = before;
        remove.retain(|name| !head.parts.headers.contains_key(name));
        let active_portal = ActivePortal {
            portal: &portal,
            active: &active,
        };
        let Permitted { permit, .. } = self.decide(&head, token.as_ref(), active_portal, progress).await?;
        self.sessions.cookies.strip(&mut head.parts.headers);
        let set = headers_for_proxy(&mut head.parts.headers, permit, &portal.header_rules);
        if let Some(only) = &asked.only {
            only.check(&set)?;
        }
        remove.retain(|name| !set.contains_key(name));
        Ok(Forwardable { set, remove })
    }

    /// The portal that the question names, or that of host and path.
    fn portal_of(&self, named: Option<&str>, head: &RequestHead) -> Result<Arc<Portal>, Refusal> {
        let registry = self.portals.load();
        let portal = match named {
            Some(slug) => registry.named(slug),
            None => registry.find(&head.client.host, &head.path)?,
        };
        portal.cloned().ok_or_else(|| super::unmatched(&head.path))
    }

    /// Completes the record and counts the decision.
    fn end(&self, mut progress: Progress, verdict: Result<Box<Forwardable>, Box<AskedRefusal>>) -> Checked {
        let record = &mut progress.record.record;
        record.latency_us.total = micros(progress.started.elapsed());
        if let (Some(http), Err(refused)) = (&mut record.http, &verdict) {
            http.status = Some(refused.response.status().as_u16());
        }
        let denial = denied_by(record);
        if let Some(span) = progress.span.take() {
            let status = verdict
                .as_ref()
                .map_or_else(|refused| refused.response.status(), |_| StatusCode::OK);
            progress.finish_span(span, status, denial, Instant::now());
        }
        match &progress.portal {
            Some(portal) => portal.meters.count(progress.door, denial),
            None => self.count_without_portal(progress.door, denial),
        }
        let record = &progress.record.record;
        let checked = Checked {
            decision_id: progress.decision_id,
            request_id: progress.request_id,
            portal: record.portal.clone(),
            revision: record.revision.clone(),
            policies: record.policies.clone(),
            verdict,
        };
        self.shadows.finish(progress.afterwards, progress.record);
        checked
    }
}

impl Checked {
    fn refused_unrecorded(answer: AnswerContext, refused: AskedRefusal) -> Self {
        Self {
            decision_id: answer.decision_id,
            request_id: answer.request_id,
            portal: None,
            revision: None,
            policies: SmallVec::new(),
            verdict: Err(Box::new(refused)),
        }
    }
}

/// SECURITY: never gRPC's form. It is a 200, and a proxy takes a 200 for a permit.
fn style_of(stated: &StatedRequest) -> Style {
    match Style::for_request(&stated.parts.method, &stated.parts.headers) {
        Style::Page => Style::Page,
        Style::Problem | Style::Grpc => Style::Problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_a_question_only_narrow() {
        let stated = |email: &str, groups: &str| {
            let mut stated = HeaderMap::new();
            stated.insert("x-forwarded-email", email.parse().unwrap());
            stated.insert("x-forwarded-groups", groups.parse().unwrap());
            stated
        };
        let of = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let alice = stated("alice@shop.test", "staff,a%2Cb");
        let none = stated("", "");
        for (groups, expected) in [
            (&["staff"][..], true),
            (&["x", "a,b"], true),
            (&["a"], false),
            (&["staff,a"], false),
            (&[""], false),
        ] {
            let only = AllowedCallers {
                groups: of(groups),
                ..AllowedCallers::default()
            };
            assert_eq!(only.check(&alice).is_ok(), expected, "{groups:?}");
            assert!(only.check(&none).is_err(), "{groups:?}");
        }
        for (domain, expected) in [
            ("shop.test", true),
            (".shop.test", true),
            ("*.shop.test", true),
            (".test", true),
            ("op.test", false),
            (".op.test", false),
            (".", false),
            ("*", false),
            ("", false),
        ] {
            let only = AllowedCallers {
                email_domains: of(&[domain]),
                ..AllowedCallers::default()
            };
            assert_eq!(only.check(&alice).is_ok(), expected, "{domain}");
            assert!(only.check(&none).is_err(), "{domain}");
            assert!(only.check(&stated("a@b@shop.test", "")).is_err(), "{domain}");
        }
        let only = AllowedCallers {
            emails: of(&["alice@shop.test"]),
            groups: of(&["root"]),
            ..AllowedCallers::default()
        };
        assert!(only.check(&alice).is_err(), "every list must contain the caller");
        let only = AllowedCallers {
            emails: of(&["alice@shop.test"]),
            groups: of(&["staff"]),
            ..AllowedCallers::default()
        };
        assert!(only.check(&alice).is_ok());
        assert!(AllowedCallers::default().check(&none).is_ok());
    }
}
