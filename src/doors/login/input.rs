//! Reads the parameters of the endpoints from query, form or JSON body.
//!
//! A parameter that an endpoint uses may occur once: of two values, a proxy in front of the gate and the gate could use
//! different ones. Bodies are bounded in bytes and time.

use bytes::Bytes;
use cedargate_policy::denial::{Denial, Refusal};
use cedargate_policy::json;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::{Map, Value};
use url::form_urlencoded;

use crate::config::Limits;

const FORM: &str = "application/x-www-form-urlencoded";

/// The parameters of one request, in the order in which they were sent.
pub(super) struct Parameters(Vec<Parameter>);

struct Parameter {
    name: String,
    value: String,
}

impl Parameters {
    pub fn from_query(head: &Parts) -> Self {
        Self::from_urlencoded(head.uri.query().unwrap_or_default().as_bytes())
    }

    /// Reads a form; an error if the body is not a form, or if any field is repeated.
    pub async fn from_form(limits: &Limits, head: &Parts, body: Incoming) -> Result<Self, Refusal> {
        if media_type(head) != FORM {
            return Err(invalid("the body is not a form"));
        }
        let parameters = Self::from_urlencoded(&read(limits, body).await?);
        let mut names: Vec<&str> = parameters.0.iter().map(|parameter| parameter.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|two| matches!(two, [one, other] if one == other)) {
            return Err(invalid("a form field is repeated"));
        }
        Ok(parameters)
    }

    /// Reads a form if the body is one; else the query.
    pub async fn from_form_or_query(limits: &Limits, head: &Parts, body: Incoming) -> Result<Self, Refusal> {
        if media_type(head).starts_with(FORM) {
            Self::from_form(limits, head, body).await
        } else {
            Ok(Self::from_query(head))
        }
    }

    /// Reads a form, or a JSON object of strings.
    pub async fn from_form_or_json(limits: &Limits, head: &Parts, body: Incoming) -> Result<Self, Refusal> {
        if media_type(head) != "application/json" {
            return Self::from_form(limits, head, body).await;
        }
        let bytes = read(limits, body).await?;
        let object = json::object_from_slice(&bytes).map_err(|_error| invalid("the body is not a JSON object"))?;
        let mut parameters = Vec::new();
        for (name, value) in object {
            let Value::String(value) = value else {
                return Err(invalid("a member of the body is not a string"));
            };
            parameters.push(Parameter { name, value });
        }
        Ok(Self(parameters))
    }

    pub fn from_urlencoded(bytes: &[u8]) -> Self {
        let pairs = form_urlencoded::parse(bytes).into_owned();
        Self(pairs.map(|(name, value)| Parameter { name, value }).collect())
    }

    /// The value of a parameter; an error if it is repeated.
    pub fn optional(&self, name: &str) -> Result<Option<String>, Refusal> {
        let mut values = self.0.iter().filter(|parameter| parameter.name == name);
        let first = values.next();
        if values.next().is_some() {
            return Err(Refusal::new(Denial::RequestInvalid, format!("`{name}` is repeated")));
        }
        Ok(first.map(|parameter| parameter.value.clone()))
    }

    /// The value of a parameter; an error if it is missing or repeated.
    pub fn required(&self, name: &str) -> Result<String, Refusal> {
        self.optional(name)?
            .ok_or_else(|| Refusal::new(Denial::RequestInvalid, format!("`{name}` is missing")))
    }

    /// The value of the parameter if there is no other one.
    pub fn only(&self, name: &str) -> Option<&str> {
        match self.0.as_slice() {
            [parameter] if parameter.name == name => Some(&parameter.value),
            _ => None,
        }
    }
}

/// Reads a body that is one JSON object.
pub(super) async fn json_body(limits: &Limits, head: &Parts, body: Incoming) -> Result<Map<String, Value>, Refusal> {
    if media_type(head) != "application/json" {
        return Err(invalid("the body is not `application/json`").with_public_detail());
    }
    let bytes = read(limits, body).await?;
    json::object_from_slice(&bytes).map_err(|error| {
        let detail = format!("the body is not strict JSON: {error}");
        Refusal::new(Denial::RequestInvalid, detail).with_public_detail()
    })
}

fn media_type(head: &Parts) -> &str {
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type
        .and_then(|text| text.split(';').next())
        .unwrap_or_default()
        .trim()
}

async fn read(limits: &Limits, body: Incoming) -> Result<Bytes, Refusal> {
    let whole = Limited::new(body, limits.identity_body_bytes.as_usize()).collect();
    let collected = tokio::time::timeout(limits.header_timeout.get(), whole).await;
    let collected = collected.map_err(|_elapsed| Refusal::over_limit(Denial::RequestInvalid, "limits.header_timeout"))?;
    let collected = collected.map_err(|error| match error.is::<LengthLimitError>() {
        true => Refusal::over_limit(Denial::RequestTooLarge, "limits.identity_body_bytes"),
        false => invalid("the body is incomplete"),
    })?;
    Ok(collected.to_bytes())
}

fn invalid(detail: &'static str) -> Refusal {
    Refusal::new(Denial::RequestInvalid, detail)
}
