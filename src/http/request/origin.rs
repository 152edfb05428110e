//! Evidence that a page of this origin made a request that a cookie authenticates.
//!
//! SECURITY: a browser also sends the cookie with requests that pages of other sites make. A request that changes
//! state, or opens a long-lived connection, therefore needs evidence that a page of the gate's own origin made it:
//! `Sec-Fetch-Site`, which no script can set, or `Origin`.

use cedargate_policy::denial::{Denial, Refusal};
use http::header::{ORIGIN, UPGRADE};
use http::request::Parts;
use http::{Extensions, HeaderMap, Method};
use hyper::ext::Protocol;

/// The header in which a browser says where a request comes from.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// True if a request that a cookie authenticates needs evidence of its origin.
pub fn needs_evidence(head: &Parts) -> bool {
    let safe = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
    !safe || is_upgrade(&head.headers, &head.extensions)
}

/// True if a request asks to turn its connection, or its HTTP/2 stream, into a tunnel.
pub fn is_upgrade(headers: &HeaderMap, extensions: &Extensions) -> bool {
    headers.contains_key(UPGRADE) || extensions.get::<Protocol>().is_some()
}

/// True for every request of a browser that could come from another origin and change something.
pub fn is_from_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) || headers.contains_key(SEC_FETCH_SITE)
}

/// Checks the evidence. `is_ours` says if an origin is that of the gate's own pages at the requested host; a browser
/// that sends `Sec-Fetch-Site` is not asked for it.
///
/// # Errors
/// `origin_mismatch` if the request carries no evidence, or several statements that could be read in two ways.
pub fn same_origin(headers: &HeaderMap, is_ours: impl FnOnce(&str) -> bool) -> Result<(), Refusal> {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    let mut origins = headers.get_all(ORIGIN).iter();
    let evident = match (sites.next(), sites.next(), origins.next(), origins.next()) {
        (Some(site), None, _, None) => site.as_bytes() == b"same-origin",
        (None, None, Some(origin), None) => origin.to_str().is_ok_and(is_ours),
        _ => false,
    };
    if evident {
        return Ok(());
    }
    let detail = "a request that relies on a credential which the browser sends by itself came without evidence that this origin's own page made it";
    Err(Refusal::new(Denial::OriginMismatch, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_one_unambiguous_statement_is_evidence() {
        let ours = |origin: &str| origin == "https://shop.example";
        for good in [
            &[("sec-fetch-site", "same-origin")][..],
            &[("origin", "https://shop.example")],
            &[("sec-fetch-site", "same-origin"), ("origin", "https://other.shop.example")],
        ] {
            assert!(same_origin(&with(good), ours).is_ok(), "{good:?}");
        }
        for bad in [
            &[][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "cross-site"), ("origin", "https://shop.example")],
            &[("sec-fetch-site", "none")],
            &[("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
            &[("origin", "null")],
            &[("origin", "https://shop.example.evil")],
            &[("origin", "https://shop.example/")],
            &[("origin", "http://shop.example")],
            &[("origin", "https://shop.example"), ("origin", "https://shop.example")],
            &[("referer", "https://shop.example/page")],
        ] {
            assert!(same_origin(&with(bad), ours).is_err(), "{bad:?}");
        }
        assert!(same_origin(&with(&[("origin", "https://shop.example")]), |_| false).is_err());
    }
}
