//! Test files as they are written: principals, entities and cases, each value with its line.
//!
//! A case is read in two steps: first as keys with values, so that `for` can expand it (`matrix`), then by types. Every
//! error is a problem with its line, and the other cases are still read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::fields::{CaseError, Field, Fields, line_of, scalar_text};
use super::matrix;
use crate::portal::file::unknown_key;
use crate::revision::problem::Problem;
use crate::text::yaml_message;
use crate::types::Scheme;

/// Keys of a case.
pub(super) const KEYS: [&str; 19] = [
    "name",
    "for",
    "principal",
    "claims",
    "issuer",
    "http",
    "host",
    "scheme",
    "source_ip",
    "action",
    "resource",
    "entities",
    "context",
    "now",
    "expect",
    "because",
    "errors",
    "reason",
    "skip",
];

/// Keys, values, lists and maps of one file: some 100,000 cases.
const VALUES_MAX: usize = 2_000_000;

/// A YAML test file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    principals: BTreeMap<String, Fixture>,
    #[serde(default)]
    entities: Vec<Value>,
    now: Option<String>,
    #[serde(default)]
    cases: Vec<Spanned<Fields>>,
}

/// A YAML test file, its cases expanded.
pub(super) struct TestFile {
    pub fixtures: Fixtures,
    pub cases: Vec<Case>,
}

/// The parts of a test file that other files of its folder can use, too.
#[derive(Default)]
pub(super) struct Fixtures {
    pub principals: BTreeMap<String, Fixture>,
    pub entities: Vec<Value>,
    pub now: Option<String>,
}

/// A principal by its attributes.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fixture {
    pub id: String,
    #[serde(rename = "type")]
    pub ty: Option<String>,
    pub tenant: Option<String>,
    #[serde(default)]
    pub roles: Vec<String>,
    #[serde(default)]
    pub attrs: Map<String, Value>,
}

/// One case, after `for` was expanded.
pub(super) struct Case {
    pub line: Option<usize>,
    pub name: String,
    pub principal: Option<PrincipalOfCase>,
    pub claims: Option<Map<String, Value>>,
    /// The issuer of the claims; default: the portal's first.
    pub issuer: Option<String>,
    pub http: Option<String>,
    pub host: Option<String>,
    /// The scheme by which the client came; default `https`.
    pub scheme: TestScheme,
    /// The client's address; default `127.0.0.1`.
    pub source_ip: Option<IpAddr>,
    pub action: Option<String>,
    pub resource: Option<Value>,
    /// Entities that come with the query, beside those of the file and of the fixtures.
    pub entities: Vec<Value>,
    pub context: Option<Map<String, Value>>,
    pub now: Option<String>,
    pub expect: Option<Expect>,
    pub because: Option<Vec<String>>,
    pub errors: Option<usize>,
    pub reason: Option<String>,
    pub skip: Option<String>,
}

/// The principal of a case.
pub(super) enum PrincipalOfCase {
    /// A name of `principals`.
    Named(String),
    Inline(Fixture),
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expect {
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TestScheme {
    Http,
    #[default]
    Https,
}

/// A test file that was read, and what is wrong with it.
pub(super) struct ReadTestFile {
    pub file: TestFile,
    pub problems: Vec<Problem>,
}

impl TestFile {
    /// Reads a file. `room` is the number of cases that `for` may still add; the reading takes from it.
    pub fn read(name: &str, text: &str, room: &mut usize) -> ReadTestFile {
        let mut problems = Vec::new();
        // only `true` and `false` are booleans: a role may well be called `on`
        let options = serde_saphyr::options! {
            strict_booleans: true,
            budget: serde_saphyr::budget! { max_nodes: VALUES_MAX, max_events: 2 * VALUES_MAX },
        };
        let written: Written = serde_saphyr::from_str_with_options(text, options).unwrap_or_else(|error| {
            let line = error.location().and_then(|at| usize::try_from(at.line()).ok());
            let message = format!("is not a test file: {}", yaml_message(&error));
            problems.push(Problem::new(name, message).at_line(line.filter(|line| *line > 0)));
            Written::empty()
        });
        let mut cases = Vec::new();
        for (number, fields) in written.cases.iter().enumerate() {
            let line = line_of(fields);
            match matrix::expand(&fields.value, number, room) {
                Ok(expanded) => {
                    for fields in expanded {
                        match Case::of(fields, line) {
                            Ok(case) => cases.push(case),
                            Err(found) => problems.extend(found.into_iter().map(|wrong| wrong.in_file(name, line))),
                        }
                    }
                }
                Err(found) => problems.extend(found.into_iter().map(|wrong| wrong.in_file(name, line))),
            }
        }
        problems.sort_by_key(|problem| problem.line);
        // each combination of a case has the same slip
        let mut seen: Vec<Problem> = Vec::new();
        problems.retain(|problem| {
            let is_new = !seen.contains(problem);
            if is_new {
                seen.push(problem.clone());
            }
            is_new
        });
        ReadTestFile {
            file: Self {
                fixtures: Fixtures {
                    principals: written.principals,
                    entities: written.entities,
                    now: written.now,
                },
                cases,
            },
            problems,
        }
    }
}

impl Written {
    fn empty() -> Self {
        Self {
            principals: BTreeMap::new(),
            entities: Vec::new(),
            now: None,
            cases: Vec::new(),
        }
    }
}

impl Case {
    fn of(expanded: matrix::Expanded, line: Option<usize>) -> Result<Self, Vec<CaseError>> {
        let matrix::Expanded { name, fields } = expanded;
        let mut typed = Typed {
            fields,
            wrong: Vec::new(),
        };
        let case = Self {
            line,
            name,
            principal: typed.principal(),
            claims: typed.value("claims"),
            issuer: typed.text("issuer"),
            http: typed.text("http"),
            host: typed.text("host"),
            scheme: typed.value("scheme").unwrap_or_default(),
            source_ip: typed.value("source_ip"),
            action: typed.text("action"),
            resource: typed.value("resource"),
            entities: typed.value("entities").unwrap_or_default(),
            context: typed.value("context"),
            now: typed.text("now"),
            expect: typed.value("expect"),
            because: typed.value("because"),
            errors: typed.value("errors"),
            reason: typed.text("reason"),
            skip: typed.text("skip"),
        };
        let unknown = typed.fields.into_iter().map(|field| CaseError {
            line: field.line,
            message: unknown_key(&field.key, &KEYS),
        });
        typed.wrong.extend(unknown);
        if typed.wrong.is_empty() { Ok(case) } else { Err(typed.wrong) }
    }
}

/// The fields of a case that were not read yet, and what is wrong with the others.
struct Typed {
    fields: Vec<Field>,
    wrong: Vec<CaseError>,
}

impl Typed {
    fn take(&mut self, key: &str) -> Option<Field> {
        let at = self.fields.iter().position(|field| field.key == key)?;
        let field = self.fields.swap_remove(at);
        (!field.value.is_null()).then_some(field)
    }

    fn value<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        let field = self.take(key)?;
        self.parsed(&field)
    }

    fn parsed<T: DeserializeOwned>(&mut self, field: &Field) -> Option<T> {
        let read = T::deserialize(&field.value);
        read.map_err(|error| self.add(field, &error.to_string().replace("expected usize", "expected a number")))
            .ok()
    }

    /// A text; a number or a boolean stands for its spelling.
    fn text(&mut self, key: &str) -> Option<String> {
        let field = self.take(key)?;
        let text = scalar_text(&field.value);
        if text.is_none() {
            self.add(&field, "needs a text");
        }
        text
    }

    fn principal(&mut self) -> Option<PrincipalOfCase> {
        let field = self.take("principal")?;
        match scalar_text(&field.value) {
            Some(name) => Some(PrincipalOfCase::Named(name)),
            None => self.parsed(&field).map(PrincipalOfCase::Inline),
        }
    }

    fn add(&mut self, field: &Field, message: &str) {
        self.wrong.push(CaseError {
            line: field.line,
            message: format!("`{}`: {message}", field.key),
        });
    }
}

impl From<TestScheme> for Scheme {
    fn from(scheme: TestScheme) -> Self {
        match scheme {
            TestScheme::Http => Self::Http,
            TestScheme::Https => Self::Https,
        }
    }
}
