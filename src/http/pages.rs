//! HTML pages for people: one frame, one style, every value escaped.
//!
//! Foundation, used by `answer` and the login endpoints. A page has no script and loads nothing from another origin,
//! and its content security policy enforces that. Values enter a page through `Html::text` or an attribute's escaping;
//! only fixed texts of this crate enter it unescaped.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::base::digest::sha256;
use crate::base::files::{ReadError, read_small};
use crate::config::IdentityPages;

/// Largest logo, in bytes.
const LOGO_BYTES_MAX: u64 = 64 * 1024;
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const STYLE: &str = include_str!("pages/style.css");

/// An error of reading the logo.
#[derive(Debug, thiserror::Error)]
#[error("identity.logo: `{file}` {problem}")]
pub struct ThemeError {
    file: String,
    problem: String,
}

impl ThemeError {
    /// The text without the configuration key.
    pub fn problem(&self) -> String {
        format!("`{}` {}", self.file, self.problem)
    }
}

/// The looks that all pages of a gate share.
#[derive(Clone, Debug)]
pub struct Theme {
    /// `identity.title`.
    title: Option<String>,
    /// A `data:` URL.
    logo: Option<String>,
    policy: HeaderValue,
}

/// The texts of a whole page.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// Title of the portal that the page is about; the brand of a page without `identity.title`.
    pub portal: Option<&'a str>,
    pub heading: &'a str,
    pub content: &'a Html,
}

/// The user that a page names, and where that user can go from it. Addresses are paths of this origin.
#[derive(Clone, Debug)]
pub struct PageUser {
    pub name: String,
    /// Tells users of one name apart; an email address or the subject.
    pub detail: Option<String>,
    /// Takes the form that ends the session.
    pub logout: String,
    /// The login at which the user can choose another account.
    pub other_account: Option<String>,
}

/// A piece of HTML. Grows by fixed markup and by escaped texts.
#[derive(Clone, Debug, Default)]
pub struct Html(String);

impl Html {
    pub fn new() -> Self {
        Self::default()
    }

    /// The markup.
    pub fn into_string(self) -> String {
        self.0
    }

    /// Appends fixed markup.
    pub fn raw(mut self, markup: &'static str) -> Self {
        self.0.push_str(markup);
        self
    }

    /// Appends a text, escaped for content and quoted attributes. Characters that could hide or reorder text are left
    /// out.
    pub fn text(mut self, text: &str) -> Self {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c if is_deceptive(c) => {}
                c => self.0.push(c),
            }
        }
        self
    }

    /// Appends ` name="value"`.
    pub fn attribute(self, name: &'static str, value: &str) -> Self {
        self.raw(" ").raw(name).raw("=\"").text(value).raw("\"")
    }

    /// Appends `<p>text</p>`.
    pub fn paragraph(self, text: &str) -> Self {
        self.raw("<p>").text(text).raw("</p>")
    }

    /// Appends a text for the people who run the site, folded: a visitor has no use for it.
    pub fn for_operators(self, text: &str) -> Self {
        self.raw("<details class=\"small\"><summary>For the people who run this site</summary><p><code>")
            .text(text)
            .raw("</code></p></details>")
    }

    /// Appends a hidden form field.
    pub fn hidden(self, name: &'static str, value: &str) -> Self {
        self.raw("<input type=\"hidden\"")
            .attribute("name", name)
            .attribute("value", value)
            .raw(">")
    }

    /// Appends a link that looks like a button.
    pub fn button(self, href: &str, text: &'static str) -> Self {
        self.raw("<p><a class=\"button\"")
            .attribute("href", href)
            .raw(">")
            .raw(text)
            .raw("</a></p>")
    }

    /// Appends the user who is logged in, with the ways to another account and out.
    pub fn user(self, user: &PageUser) -> Self {
        let mut html = self
            .raw("<section class=\"user\"><p>You are logged in as <strong>")
            .text(&user.name)
            .raw("</strong>");
        if let Some(detail) = &user.detail {
            html = html.raw(" <span class=\"soft\">(").text(detail).raw(")</span>");
        }
        html = html.raw(".</p><div class=\"actions\">");
        if let Some(other) = &user.other_account {
            html = html
                .raw("<a class=\"button\"")
                .attribute("href", other)
                .raw(">Use another account</a>");
        }
        html.raw("<form method=\"post\"")
            .attribute("action", &user.logout)
            .raw(">")
            .hidden("from", "page")
            .raw("<button class=\"quiet\" type=\"submit\">Log out</button></form></div></section>")
    }

    pub fn with(mut self, other: &Self) -> Self {
        self.0.push_str(&other.0);
        self
    }
}

/// True for controls, and for characters that change the text direction or have no width.
fn is_deceptive(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

impl Theme {
    /// Reads the logo; a file that is not a PNG or SVG image is an error.
    pub fn load(pages: &IdentityPages) -> Result<Arc<Self>, ThemeError> {
        let logo = pages.logo.as_deref().map(read_logo).transpose()?;
        Ok(Arc::new(Self::new(pages.title.as_deref(), logo)))
    }

    /// A theme without a configuration.
    #[cfg(test)]
    pub fn plain() -> Arc<Self> {
        Arc::new(Self::new(None, None))
    }

    fn new(title: Option<&str>, logo: Option<String>) -> Self {
        let style = STANDARD.encode(sha256(STYLE.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{style}'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        );
        Self {
            title: title.map(str::to_owned),
            logo,
            // INVARIANT: base64 and fixed text are a valid header value
            policy: HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'")),
        }
    }

    pub fn has_title(&self) -> bool {
        self.title.is_some()
    }

    /// Renders a whole page; `heading` is its one `h1`, and its title together with the brand.
    pub fn page(&self, page: &Page<'_>) -> String {
        let brand = self.title.as_deref().or(page.portal);
        let mut header = Html::new();
        if self.logo.is_some() || brand.is_some() {
            header = header.raw("<header class=\"brand\">");
            if let Some(logo) = &self.logo {
                header = header.raw("<img alt=\"\"").attribute("src", logo).raw(">");
            }
            header = header.raw("<span>").text(brand.unwrap_or_default()).raw("</span></header>");
        }
        let title = match brand {
            Some(brand) => Html::new().text(page.heading).raw(" · ").text(brand),
            None => Html::new().text(page.heading),
        };
        Html::new()
            .raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>")
            .with(&title)
            .raw("</title><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")
            .raw("<meta name=\"color-scheme\" content=\"light dark\"><meta name=\"robots\" content=\"noindex\">")
            .raw("<link rel=\"icon\" href=\"data:,\"><style>")
            .raw(STYLE)
            .raw("</style></head><body><div class=\"card\">")
            .with(&header)
            .raw("<main><h1>")
            .text(page.heading)
            .raw("</h1>")
            .with(page.content)
            .raw("</main></div></body></html>\n")
            .0
    }

    /// Sets the headers of a page.
    pub fn headers(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        for (name, value) in [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (CACHE_CONTROL, "no-store"),
            // with `no-referrer` a browser sends `Origin: null` with the gate's own forms
            (REFERRER_POLICY, "same-origin"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (X_FRAME_OPTIONS, "DENY"),
            (OPENER_POLICY, "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
}

/// Reads the logo as a `data:` URL.
fn read_logo(path: &Path) -> Result<String, ThemeError> {
    let fail = |problem: String| ThemeError {
        file: path.display().to_string(),
        problem,
    };
    let bytes = read_small(path, LOGO_BYTES_MAX).map_err(|error| {
        fail(match error {
            ReadError::Io(error) => format!("cannot be read: {error}"),
            ReadError::NotSmall { max } => format!("is not a file of at most {max} bytes"),
        })
    })?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim_start();
    let is_svg = text.starts_with("<svg") || (text.starts_with("<?xml") && text.contains("<svg"));
    let kind = match (bytes.starts_with(b"\x89PNG\r\n\x1a\n"), is_svg) {
        (true, _) => "image/png",
        (_, true) => "image/svg+xml",
        _ => return Err(fail("is neither a PNG nor an SVG image".to_owned())),
    };
    Ok(format!("data:{kind};base64,{}", STANDARD.encode(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_never_becomes_markup() {
        let hostile = "<script>alert(1)</script>\"' onfocus='x\u{202e}\u{0}&amp;";
        let content = Html::new().paragraph(hostile).hidden("rd", hostile);
        let user = PageUser {
            name: hostile.to_owned(),
            detail: Some(hostile.to_owned()),
            logout: "/out".to_owned(),
            other_account: Some(hostile.to_owned()),
        };
        let content = content.user(&user);
        let page = Theme::new(None, None).page(&Page {
            portal: Some(hostile),
            heading: hostile,
            content: &content,
        });
        assert!(!page.contains("<script") && !page.contains("onfocus='") && !page.contains(['\u{202e}', '\u{0}']));
        assert_eq!(page.matches("<h1>").count(), 1);
        assert!(
            page.contains("value=\"&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39; onfocus=&#39;x&amp;amp;\""),
            "{page}"
        );
    }

    #[test]
    fn brand_is_the_configured_title_or_the_portals_and_never_a_made_up_one() {
        let rendered = |title: Option<&str>, portal: Option<&str>| {
            Theme::new(title, None).page(&Page {
                portal,
                heading: "Access denied",
                content: &Html::new(),
            })
        };
        let both = rendered(Some("Acme"), Some("Shop"));
        assert!(
            both.contains("<title>Access denied · Acme</title>") && both.contains("<span>Acme</span>"),
            "{both}"
        );
        let portal = rendered(None, Some("Shop"));
        assert!(
            portal.contains("<title>Access denied · Shop</title>") && portal.contains("<span>Shop</span>"),
            "{portal}"
        );
        let none = rendered(None, None);
        assert!(
            none.contains("<title>Access denied</title>") && !none.contains("<header"),
            "{none}"
        );
    }

    #[test]
    fn content_security_policy_allows_only_the_one_style() {
        let mut headers = HeaderMap::new();
        Theme::new(None, None).headers(&mut headers);
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert!(
            !STYLE.contains("</") && !STYLE.contains("url("),
            "the style stays inside its element"
        );
    }

    #[test]
    fn logo_must_be_a_small_png_or_svg_file() {
        let folder = tempfile::tempdir().unwrap();
        let load = |bytes: &[u8]| {
            let path = folder.path().join("logo");
            std::fs::write(&path, bytes).unwrap();
            read_logo(&path).map_err(|error| error.to_string())
        };
        assert!(load(b"\x89PNG\r\n\x1a\nrest").unwrap().starts_with("data:image/png;base64,"));
        let svg = "<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>";
        assert!(load(svg.as_bytes()).unwrap().starts_with("data:image/svg+xml;base64,"));
        for bad in [&b"GIF89a"[..], b"", b"<html><svg></svg></html>", &[b'x'; 65 * 1024]] {
            let error = load(bad).unwrap_err();
            assert!(error.starts_with("identity.logo: `"), "{error}");
        }
        assert!(
            read_logo(Path::new("/nonexistent"))
                .unwrap_err()
                .to_string()
                .contains("cannot be read")
        );
        assert!(
            read_logo(folder.path())
                .unwrap_err()
                .to_string()
                .contains("is not a file of at most")
        );
    }
}
