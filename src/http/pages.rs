//! HTML pages for people: one frame, one style, every value escaped.
//!
//! Foundation, used by `answer` and the login endpoints. A page has no script and loads nothing from another origin, and its
//! content security policy enforces that. Values enter a page through `Html::text` or an attribute's escaping; only fixed texts
//! of this crate enter it unescaped.

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
    pub title: String,
    /// A `data:` URL.
    logo: Option<String>,
    policy: HeaderValue,
}

/// A piece of HTML. Grows by fixed markup and by escaped texts.
#[derive(Clone, Debug, Default)]
pub struct Html(String);

impl Html {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends fixed markup.
    pub fn raw(mut self, markup: &'static str) -> Self {
        self.0.push_str(markup);
        self
    }

    /// Appends a text, escaped for content and quoted attributes. Characters that could hide or reorder text are left out.
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

    /// Appends a hidden form field.
    pub fn hidden(self, name: &'static str, value: &str) -> Self {
        self.raw("<input type=\"hidden\"")
            .attribute("name", name)
            .attribute("value", value)
            .raw(">")
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
        Ok(Arc::new(Self::new(&pages.title, logo)))
    }

    /// A theme without a configuration.
    #[cfg(test)]
    pub fn plain() -> Arc<Self> {
        Arc::new(Self::new("cedargate", None))
    }

    fn new(title: &str, logo: Option<String>) -> Self {
        let style = STANDARD.encode(sha256(STYLE.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{style}'; img-src data:; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        );
        Self {
            title: title.to_owned(),
            logo,
            // INVARIANT: base64 and fixed text are a valid header value
            policy: HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'")),
        }
    }

    /// Renders a whole page; `heading` is its one `h1` and its title.
    pub fn page(&self, heading: &str, content: &Html) -> String {
        let brand = match &self.logo {
            Some(logo) => Html::new().raw("<img alt=\"\"").attribute("src", logo).raw(">"),
            None => Html::new(),
        };
        Html::new()
            .raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>")
            .text(heading)
            .raw(" · ")
            .text(&self.title)
            .raw("</title><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")
            .raw("<meta name=\"color-scheme\" content=\"light dark\"><meta name=\"robots\" content=\"noindex\">")
            .raw("<link rel=\"icon\" href=\"data:,\"><style>")
            .raw(STYLE)
            .raw("</style></head><body><div class=\"card\"><header class=\"brand\">")
            .with(&brand)
            .raw("<span>")
            .text(&self.title)
            .raw("</span></header><main><h1>")
            .text(heading)
            .raw("</h1>")
            .with(content)
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
        let page = Theme::new(hostile, None).page(hostile, &content);
        assert!(!page.contains("<script") && !page.contains("onfocus='") && !page.contains(['\u{202e}', '\u{0}']));
        assert_eq!(page.matches("<h1>").count(), 1);
        assert!(
            page.contains("value=\"&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39; onfocus=&#39;x&amp;amp;\""),
            "{page}"
        );
    }

    #[test]
    fn content_security_policy_allows_only_the_one_style() {
        let mut headers = HeaderMap::new();
        Theme::new("t", None).headers(&mut headers);
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
