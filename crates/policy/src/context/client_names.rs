//! Names that the client chooses, of headers and query parameters: which of them an app could take for one another.
//!
//! A policy reads the exact name. If the request also carries a name that some app reads as the same one, the policy and the
//! app could read two different values; such a request is refused. Called for the names that the schema declares.

use http::HeaderMap;

use super::{ContextPlans, Fact, HttpFacts};
use crate::denial::{Denial, Refusal};
use crate::schema::AttrType;

impl ContextPlans {
    /// True if the schema declares this header, in any spelling.
    pub fn reads_header(&self, name: &str) -> bool {
        let mut fields = self.0.values().flat_map(|plan| &plan.owned);
        fields.any(|field| match &field.ty {
            AttrType::Record(record) if field.fact == Fact::Headers => {
                record.fields.keys().any(|declared| is_same_header(declared, name))
            }
            _ => false,
        })
    }
}

/// The values of a declared header, `_` in its declared name standing for `-` (a Cedar field name cannot hold one unquoted).
pub(super) fn header_values(headers: &HeaderMap, name: &str) -> Result<Vec<String>, Refusal> {
    let wire = name.replace('_', "-");
    let mut names = headers.keys().map(|name| name.as_str());
    if let Some(other) = names.find(|other| is_same_header(other, &wire) && !other.eq_ignore_ascii_case(&wire)) {
        return Err(invalid(format!("header `{other}` is another spelling of `{wire}`")));
    }
    let values = headers.get_all(wire.as_str()).iter();
    values
        .map(|v| v.to_str().map(str::to_owned))
        .collect::<Result<_, _>>()
        .map_err(|_why| invalid(format!("header `{wire}` is not visible ASCII")))
}

/// The values of a declared query parameter.
pub(super) fn parameter_values(http: &HttpFacts<'_>, name: &str) -> Result<Vec<String>, Refusal> {
    let names = http.query.iter().map(|(other, _)| other).filter(|other| *other != name);
    let mut others = names.chain(http.beside_semicolons);
    if let Some(other) = others.find(|other| is_same_parameter(other, name)) {
        return Err(invalid(format!(
            "an app could read the query parameter `{other}` as `{name}`, which a policy reads"
        )));
    }
    let values = http.query.iter().filter(|(other, _)| other == name);
    Ok(values.map(|(_, value)| value.clone()).collect())
}

/// True if servers that turn headers into variables (CGI, WSGI, Rack, PHP) give both names the same one: they distinguish
/// neither case nor `-`, `_`, `.` and the like.
fn is_same_header(one: &str, other: &str) -> bool {
    let fold = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => byte.to_ascii_lowercase(),
        false => b'-',
    };
    one.len() == other.len() && one.bytes().map(fold).eq(other.bytes().map(fold))
}

/// True if some app reads both parameters as one: `a[]` and `a[x]` are `a` for PHP, Rails and `qs`; PHP drops spaces before a
/// name, ends it at a NUL, and reads spaces and dots as `_`; ASP.NET ignores case.
fn is_same_parameter(one: &str, other: &str) -> bool {
    folded_parameter(one).eq(folded_parameter(other))
}

fn folded_parameter(name: &str) -> impl Iterator<Item = char> {
    let name = name.trim();
    // a bracket that opens the name is part of it
    let end = name.char_indices().find(|(at, c)| *c == '\0' || (*c == '[' && *at > 0));
    let name = end.and_then(|(at, _)| name.get(..at)).unwrap_or(name);
    let plain = |c: char| if matches!(c, ' ' | '.' | '[') { '_' } else { c };
    name.chars().map(plain).flat_map(char::to_lowercase)
}

fn invalid(detail: String) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_an_app_could_merge_are_the_same() {
        for other in ["x-dept", "X_Dept", "x.dept", "x!dept", "X-DEPT"] {
            assert!(is_same_header(other, "x-dept"), "{other}");
        }
        for other in ["xdept", "x--dept", "x-depth", "y-dept"] {
            assert!(!is_same_header(other, "x-dept"), "{other}");
        }
        for other in [
            "team_id",
            "team_id[]",
            "team_id[0]",
            "team_id[a][b]",
            "team_id[",
            "team.id",
            "team id",
            " team_id",
            "TEAM_ID",
            "team_id\0x",
            "team_id ",
        ] {
            assert!(is_same_parameter(other, "team_id"), "{other:?}");
        }
        for other in ["team-id", "team_ids", "teamid", "[team_id]", "my_team_id", ""] {
            assert!(!is_same_parameter(other, "team_id"), "{other:?}");
        }
    }
}
