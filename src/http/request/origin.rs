//! Whether a request that a browser's cookie vouches for was made by a page of this origin.
//!
//! SECURITY: a browser sends the cookie with requests of other sites' making, too. What changes something, and what opens a
//! connection that lives on, needs evidence that our own page asked: `Sec-Fetch-Site`, which no script can set, or `Origin`.

use http::header::{ORIGIN, UPGRADE};
use http::request::Parts;
use http::{Extensions, HeaderMap, Method};
use hyper::ext::Protocol;

use crate::denial::{Denial, Refusal};

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Whether a request, authenticated by a cookie, needs evidence of its origin.
pub fn needs_evidence(head: &Parts) -> bool {
    let safe = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
    !safe || is_upgrade(&head.headers, &head.extensions)
}

/// Whether a request asks to turn its connection, or HTTP/2 stream, into something that lives on.
pub fn is_upgrade(headers: &HeaderMap, extensions: &Extensions) -> bool {
    headers.contains_key(UPGRADE) || extensions.get::<Protocol>().is_some()
}

/// `public_url` is the only origin that pages of ours have; without one only `Sec-Fetch-Site` counts.
///
/// # Errors
/// `origin_mismatch` where no evidence is given, or several that could be read in two ways.
pub fn same_origin(headers: &HeaderMap, public_url: Option<&str>) -> Result<(), Refusal> {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter();
    let mut origins = headers.get_all(ORIGIN).iter();
    let evident = match (sites.next(), sites.next(), origins.next(), origins.next()) {
        (Some(site), None, _, None) => site.as_bytes() == b"same-origin",
        (None, None, Some(origin), None) => public_url.is_some_and(|ours| origin.as_bytes() == ours.as_bytes()),
        _ => false,
    };
    if evident {
        return Ok(());
    }
    let detail = "a request that relies on the session cookie came without evidence that this origin's own page made it";
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
    fn only_one_clear_statement_is_evidence() {
        let ours = Some("https://shop.example");
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
        assert!(same_origin(&with(&[("origin", "https://shop.example")]), None).is_err());
    }
}
