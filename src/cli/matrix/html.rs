//! The matrix as one HTML page that needs nothing else, and can be filtered.
//!
//! SECURITY: roles, actions and conditions are texts that others chose. They enter the page only through `Html::text`, which
//! escapes them, and the page's own policy lets no script run but the one whose hash it names. It loads nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cedargate_policy::matrix::{Answer, Cell};

use super::{PortalMatrix, action_name, conditions};
use crate::base::digest::sha256;
use crate::http::pages::Html;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

pub(super) fn page(matrices: &[PortalMatrix]) -> String {
    let hash = |text: &str| STANDARD.encode(sha256(text.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    let mut html = Html::new()
        .raw("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")
        .raw("<meta http-equiv=\"Content-Security-Policy\"")
        .attribute("content", &policy)
        .raw("><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>Permissions matrix</title>")
        .raw("<style>")
        .raw(STYLE)
        .raw("</style></head><body><main><h1>Permissions matrix</h1>")
        .paragraph(
            "Each cell is about callers whose only role is that of the column. Allow and deny hold for every resource and \
             context. Conditional comes with what must hold. Unknown could not be computed: treat it as not known, not as denied.",
        )
        .raw("<form id=\"filters\"><label>Role<input id=\"role\" autocomplete=\"off\"></label>")
        .raw("<label>Action<input id=\"action\" autocomplete=\"off\"></label>")
        .raw("<label>Resource<input id=\"resource\" autocomplete=\"off\"></label>")
        .raw("<label>Answer<select id=\"answer\"><option value=\"\">all</option><option>allow</option><option>deny</option>")
        .raw("<option>conditional</option><option>unknown</option></select></label></form><p id=\"count\" role=\"status\"></p>");
    for one in matrices {
        html = portal(html, one);
    }
    html.raw("</main><script>")
        .raw(SCRIPT)
        .raw("</script></body></html>\n")
        .into_string()
}

fn portal(html: Html, one: &PortalMatrix) -> Html {
    let mut html = html
        .raw("<h2>")
        .text(&one.portal)
        .raw("</h2><div class=\"scroll\" role=\"region\" tabindex=\"0\"")
        .attribute("aria-label", &format!("Permissions of portal {}", one.portal))
        .raw("><table><caption>Portal ")
        .text(&one.portal)
        .raw("</caption><thead><tr><th scope=\"col\">action</th><th scope=\"col\">resource</th>");
    for row in &one.matrix.rows {
        html = html.raw("<th scope=\"col\">").text(&one.row_name(row)).raw("</th>");
    }
    html = html.raw("</tr></thead><tbody>");
    for (number, column) in one.columns() {
        html = html
            .raw("<tr><th scope=\"row\">")
            .text(action_name(column))
            .raw("</th><td>")
            .text(&column.resource_type.to_string())
            .raw("</td>");
        for (_, cell) in one.cells_of(number) {
            html = cell_html(html, cell);
        }
        html = html.raw("</tr>");
    }
    html.raw("</tbody></table></div>")
}

fn cell_html(html: Html, cell: &Cell) -> Html {
    let html = html.raw("<td").attribute("class", cell.answer.as_str()).raw(">");
    let html = match (cell.answer, conditions(cell)) {
        (Answer::Conditional, Some(conditions)) => {
            let html = html.raw("<details><summary>conditional</summary>if one of");
            let html = list(html, &conditions.permits);
            let html = match conditions.forbids.is_empty() {
                true => html,
                false => list(html.raw("and none of"), &conditions.forbids),
            };
            html.raw("</details>")
        }
        (Answer::Unknown, _) => html
            .raw("<details><summary>unknown</summary>")
            .text(cell.why.as_deref().unwrap_or("it could not be computed"))
            .raw("</details>"),
        (Answer::Impossible, _) => html.raw("not in the schema"),
        (answer, _) => html.text(answer.as_str()),
    };
    html.raw("</td>")
}

fn list(html: Html, texts: &[String]) -> Html {
    let items = texts.iter().fold(html.raw("<ul>"), |html, text| {
        html.raw("<li><code>").text(text).raw("</code></li>")
    });
    items.raw("</ul>")
}
