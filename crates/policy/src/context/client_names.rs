//! Names that the client chooses, of headers and query parameters: which of them an app could take for one another.
//!
//! A policy reads the exact name. If the request also carries a name that some app reads as the same one, the policy
//! and the app could read two different values; such a request is refused. Called for the names that the schema
//! declares.

use http::HeaderMap;

use super::HttpFacts;
use crate::denial::{Denial, Refusal};
use crate::types::is_same_header;

/// The values of a declared header, `_` in its declared name standing for `-` (a Cedar field name cannot hold one
/// unquoted).
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

/// True if some app reads both parameters as one: `a[]` and `a[x]` are `a` for PHP, Rails and `qs`; PHP drops spaces
/// before a name, ends it at a NUL, reads spaces and dots as `_`, and a bracket that is never closed, too; Spring takes
/// the value of `!a` where `a` is absent; ASP.NET ignores case.
fn is_same_parameter(other: &str, declared: &str) -> bool {
    let declared = plain_parameter(declared);
    let other = plain_parameter(other.trim().trim_start_matches('!'));
    // a bracket that opens the name is part of it
    let array = other.char_indices().find(|(at, c)| *c == '[' && *at > 0);
    let array = array.and_then(|(at, _)| other.get(..at));
    underscored(&other) == underscored(&declared) || array.is_some_and(|array| underscored(array) == underscored(&declared))
}

/// The name without spaces around it and what follows a NUL, in lower case.
fn plain_parameter(name: &str) -> String {
    let name = name.trim().split('\0').next().unwrap_or_default();
    name.to_lowercase()
}

fn underscored(name: &str) -> String {
    name.replace([' ', '.', '['], "_")
}

fn invalid(detail: String) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_an_app_could_merge_are_the_same() {
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
            "team[id",
            "team[id\0]",
            "!team_id",
            " !team_id[]",
        ] {
            assert!(is_same_parameter(other, "team_id"), "{other:?}");
        }
        for other in [
            "team-id",
            "team_ids",
            "teamid",
            "[team_id]",
            "my_team_id",
            "team[id]",
            "!",
            "",
        ] {
            assert!(!is_same_parameter(other, "team_id"), "{other:?}");
        }
    }
}
