//! A request's place in a distributed trace: read from `traceparent` or B3 headers, passed on to the app.

use std::cell::LazyCell;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use super::single_value;

pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
static B3: HeaderName = HeaderName::from_static("b3");
static B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
static B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
static B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
static B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
static B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// One hop of a trace: the caller's trace, or a new one, with a span of the gate's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trace {
    pub trace_id: [u8; 16],
    /// The span that the app receives as its parent.
    pub span_id: [u8; 8],
    /// The caller's span.
    pub parent: Option<[u8; 8]>,
    pub flags: u8,
    /// Empty without a valid `traceparent`.
    pub state: Vec<HeaderValue>,
    /// The B3 form in which the app receives it as well, because the caller used it.
    pub b3: Option<B3Form>,
}

/// The forms of B3 propagation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum B3Form {
    Single,
    Multi,
}

/// The caller's word on whether a trace is exported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sampling {
    Open,
    Never,
}

impl Trace {
    /// Continues the caller's trace if `traceparent` is strictly version 00, else starts one. The gate's span is the
    /// random half of the decision's id.
    pub(super) fn from_headers(headers: &HeaderMap, decision_id: Uuid, fresh: &LazyCell<Uuid, impl FnOnce() -> Uuid>) -> Self {
        let [_, _, _, _, _, _, _, _, span_id @ ..] = decision_id.into_bytes();
        match single_value(headers, &TRACEPARENT).and_then(parse_traceparent) {
            Some(parent) => Self {
                trace_id: parent.trace_id,
                span_id,
                parent: Some(parent.span_id),
                flags: parent.flags,
                state: headers.get_all(&TRACESTATE).iter().cloned().collect(),
                b3: None,
            },
            None => Self {
                trace_id: fresh.into_bytes(),
                span_id,
                parent: None,
                flags: 0,
                state: Vec::new(),
                b3: None,
            },
        }
    }

    /// Continues a B3 trace, for a request without a valid `traceparent`. Malformed headers count as absent.
    pub fn continue_b3(&mut self, headers: &HeaderMap) -> Sampling {
        let (form, b3) = match single_value(headers, &B3) {
            Some(text) => (B3Form::Single, parse_b3(text)),
            None => (B3Form::Multi, multi_b3(headers)),
        };
        let Some(b3) = b3 else { return Sampling::Open };
        self.b3 = Some(form);
        if let Some(caller) = b3.caller {
            self.trace_id = caller.trace_id;
            self.parent = Some(caller.span_id);
            self.flags = u8::from(b3.is_sampled != Some(false));
        }
        match b3.is_sampled {
            Some(false) => Sampling::Never,
            Some(true) | None => Sampling::Open,
        }
    }

    /// Makes the `traceparent` for the app: the gate's span is the parent.
    pub fn traceparent(&self) -> HeaderValue {
        let mut trace_text = Uuid::encode_buffer();
        let mut span_text = Uuid::encode_buffer();
        let trace: &str = Uuid::from_bytes(self.trace_id).simple().encode_lower(&mut trace_text);
        let span = Uuid::from_u64_pair(u64::from_be_bytes(self.span_id), 0);
        let span: &str = span.simple().encode_lower(&mut span_text);
        let span = span.get(..2 * self.span_id.len()).unwrap_or_default();
        let flags = if self.flags & 1 == 1 { "-01" } else { "-00" };
        let text = ["00-", trace, "-", span, flags].concat();
        HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// Tells the app in the caller's form of B3, in place of the caller's headers.
    pub fn set_b3(&self, headers: &mut HeaderMap) {
        let Some(form) = self.b3 else { return };
        let trace = hex::encode(self.trace_id);
        let span = hex::encode(self.span_id);
        let sampled = if self.flags & 1 == 1 { "1" } else { "0" };
        let value = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""));
        for name in [&B3, &B3_TRACE, &B3_SPAN, &B3_PARENT, &B3_SAMPLED, &B3_FLAGS] {
            headers.remove(name);
        }
        match form {
            B3Form::Single => drop(headers.insert(&B3, value(&format!("{trace}-{span}-{sampled}")))),
            B3Form::Multi => {
                headers.insert(&B3_TRACE, value(&trace));
                headers.insert(&B3_SPAN, value(&span));
                headers.insert(&B3_SAMPLED, value(sampled));
            }
        }
    }
}

struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    flags: u8,
}

fn parse_traceparent(text: &str) -> Option<TraceParent> {
    let mut fields = text.split('-');
    let version = fields.next()?;
    let trace = fields.next()?;
    let parent = fields.next()?;
    let flags = fields.next()?;
    if version != "00" || fields.next().is_some() || [trace.len(), parent.len(), flags.len()] != [32, 16, 2] {
        return None;
    }
    if ![trace, parent, flags].into_iter().all(is_lower_hex) {
        return None;
    }
    Some(TraceParent {
        trace_id: trace_id(trace)?,
        span_id: span_id(parent)?,
        // version 00 defines `sampled` only
        flags: u8::from_str_radix(flags, 16).ok()? & 1,
    })
}

/// The caller's B3 headers. Without a caller they only say whether to export.
struct B3Context {
    caller: Option<B3Caller>,
    /// `None`: the caller leaves it open.
    is_sampled: Option<bool>,
}

struct B3Caller {
    trace_id: [u8; 16],
    span_id: [u8; 8],
}

impl B3Caller {
    fn parse(trace: &str, span: &str) -> Option<Self> {
        Some(Self {
            trace_id: trace_id(trace)?,
            span_id: span_id(span)?,
        })
    }
}

fn parse_b3(text: &str) -> Option<B3Context> {
    let fields: Vec<&str> = text.splitn(5, '-').collect();
    let (caller, sampled) = match *fields.as_slice() {
        [sampled] => (None, Some(sampled)),
        [trace, span] => (Some(B3Caller::parse(trace, span)?), None),
        [trace, span, sampled] | [trace, span, sampled, _] => (Some(B3Caller::parse(trace, span)?), Some(sampled)),
        _ => return None,
    };
    let is_sampled = match sampled {
        None => None,
        Some("1" | "d") => Some(true),
        Some("0") => Some(false),
        Some(_) => return None,
    };
    Some(B3Context { caller, is_sampled })
}

fn multi_b3(headers: &HeaderMap) -> Option<B3Context> {
    let is_sampled = match (single_value(headers, &B3_FLAGS), single_value(headers, &B3_SAMPLED)) {
        (Some("1"), _) | (_, Some("1" | "true")) => Some(true),
        (_, Some("0" | "false")) => Some(false),
        _ => None,
    };
    let caller = match (single_value(headers, &B3_TRACE), single_value(headers, &B3_SPAN)) {
        (Some(trace), Some(span)) => Some(B3Caller::parse(trace, span)?),
        _ => None,
    };
    (caller.is_some() || is_sampled.is_some()).then_some(B3Context { caller, is_sampled })
}

fn is_lower_hex(field: &str) -> bool {
    field.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// 32 hex digits, or in B3 also 16.
fn trace_id(text: &str) -> Option<[u8; 16]> {
    if !is_lower_hex(text) || !matches!(text.len(), 16 | 32) {
        return None;
    }
    let id = u128::from_str_radix(text, 16).ok().filter(|id| *id != 0)?;
    Some(id.to_be_bytes())
}

fn span_id(text: &str) -> Option<[u8; 8]> {
    if !is_lower_hex(text) || text.len() != 16 {
        return None;
    }
    let id = u64::from_str_radix(text, 16).ok().filter(|id| *id != 0)?;
    Some(id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const SPAN: &str = "e457b5a2e4d86bd1";

    fn read(pairs: &[(&'static str, &str)]) -> (Trace, Sampling) {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let mut trace = Trace::from_headers(&HeaderMap::new(), Uuid::now_v7(), &LazyCell::new(Uuid::now_v7));
        let sampling = trace.continue_b3(&headers);
        (trace, sampling)
    }

    #[test]
    fn a_b3_trace_continues_in_its_own_form() {
        let single = format!("{TRACE}-{SPAN}-1");
        let debug = format!("{TRACE}-{SPAN}-d-05e3ac9a4f6e3b90");
        let open = format!("{TRACE}-{SPAN}");
        let multi = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
        let never = [multi[0], multi[1], ("x-b3-sampled", "0")];
        for (pairs, form, flags) in [
            (&[("b3", single.as_str())][..], B3Form::Single, 1),
            (&[("b3", debug.as_str())], B3Form::Single, 1),
            (&[("b3", open.as_str())], B3Form::Single, 1),
            (&multi, B3Form::Multi, 1),
            (&never, B3Form::Multi, 0),
        ] {
            let (trace, sampling) = read(pairs);
            let found = (hex::encode(trace.trace_id), hex::encode(trace.parent.unwrap()));
            assert_eq!(found, (TRACE.to_owned(), SPAN.to_owned()), "{pairs:?}");
            assert_eq!(
                (trace.flags, trace.b3, sampling == Sampling::Never),
                (flags, Some(form), flags == 0)
            );
            let mut sent = HeaderMap::new();
            sent.insert(&B3_PARENT, HeaderValue::from_static("1"));
            trace.set_b3(&mut sent);
            let span = hex::encode(trace.span_id);
            match form {
                B3Form::Single => assert_eq!(sent[&B3], format!("{TRACE}-{span}-{flags}")),
                B3Form::Multi => {
                    assert_eq!(sent[&B3_TRACE], *TRACE);
                    assert_eq!(sent[&B3_SPAN], *span);
                }
            }
            assert!(!sent.contains_key(&B3_PARENT));
        }
        let (short, _) = read(&[("b3", &format!("{SPAN}-{SPAN}-1"))]);
        assert_eq!(hex::encode(short.trace_id), format!("0000000000000000{SPAN}"));
        assert_eq!(read(&[("b3", "0")]).1, Sampling::Never);
        for bad in [
            &format!("{TRACE}-{SPAN}-2"),
            &format!("{TRACE}-0000000000000000-1"),
            &format!("{TRACE}-{SPAN}-1-2-3-4"),
            "x",
            "",
        ] {
            let (trace, sampling) = read(&[("b3", bad)]);
            assert_eq!((trace.parent, trace.b3, sampling), (None, None, Sampling::Open), "{bad}");
        }
        let (twice, _) = read(&[("b3", &single), ("b3", &single)]);
        assert_eq!(twice.parent, None);
    }
}
