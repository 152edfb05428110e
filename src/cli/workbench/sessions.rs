//! Sessions of the running gate: the calls of `cedargate sessions`, over the same control socket.
//!
//! The gate records each revocation with the id of the user who runs the workbench.

use std::path::Path;

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use crate::cli::client::{self, ClientResponse};
use crate::cli::control::ControlSocket;
use crate::cli::sessions::target;
use crate::workbench::{Call, CallRefusal};

/// Filters of a listing.
const FILTERS: [&str; 5] = ["subject", "issuer", "tenant", "portal", "limit"];
/// What names the sessions that end: exactly one, and an issuer beside a subject.
const TARGETS: [&str; 5] = ["session", "subject", "issuer", "tenant", "portal"];

/// The sessions that the filters of the call leave.
pub(super) fn list(gate: Option<&Path>, call: &Call) -> Result<Bytes, CallRefusal> {
    let given = |name: &'static str| (name, call.parameter(name).filter(|value| !value.is_empty()));
    let path = target("/sessions", &FILTERS.map(given));
    answer(gate, async |socket| socket.get_sessions(&path).await)
}

/// `{session}`, `{subject, issuer}`, `{tenant}` or `{portal}` → the gate's answer; the gate refuses every other
/// combination.
pub(super) fn revoke(gate: Option<&Path>, body: &Value) -> Result<Bytes, CallRefusal> {
    let fields = body.as_object().ok_or_else(|| CallRefusal::invalid("name what to revoke"))?;
    if let Some(unknown) = fields.keys().find(|name| !TARGETS.contains(&name.as_str())) {
        return Err(CallRefusal::invalid(format!("`{unknown}` names nothing that can be revoked")));
    }
    let given = |name: &'static str| (name, fields.get(name).and_then(Value::as_str));
    let path = target("/sessions/revoke", &TARGETS.map(given));
    answer(gate, async |socket| socket.post_sessions(&path).await)
}

/// The gate's own JSON, or its refusal.
fn answer(
    gate: Option<&Path>,
    ask: impl AsyncFnOnce(&ControlSocket) -> Result<ClientResponse, client::ClientError>,
) -> Result<Bytes, CallRefusal> {
    let socket = gate.ok_or_else(|| CallRefusal::invalid("start the workbench with `--gate SOCKET`"))?;
    let unreachable = |error: &dyn std::fmt::Display| CallRefusal {
        status: StatusCode::BAD_GATEWAY,
        message: format!("{}: {error}; does the gate run, with `listen.control`?", socket.display()),
    };
    let runtime = client::runtime().map_err(|error| unreachable(&error))?;
    let response = runtime.block_on(ask(&ControlSocket::at(socket)));
    let response = response.map_err(|error| unreachable(&error))?;
    if response.status == StatusCode::OK {
        return Ok(response.body.into());
    }
    let body = response.json();
    let message = body.as_ref().and_then(|body| body.get("error")?.as_str());
    Err(CallRefusal {
        status: response.status,
        message: message.unwrap_or(&response.body).to_owned(),
    })
}
