//! Sessions of a running gate, made without a login each: thousands of them are needed.

use std::sync::Arc;

use cedargate::app::Running;
use cedargate::measured::SessionData;
use serde_json::json;

use crate::{ISSUER, PORTAL, unix_millis};

/// Creates sessions as a login would and returns their cookies, ready for the header `cookie`.
pub fn create_sessions(running: &Running, count: usize, roles: &[&str]) -> Result<Vec<String>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut cookies = Vec::with_capacity(count);
        for n in 0..count {
            cookies.push(create_session(running, &format!("user-{n}"), roles).await?);
        }
        Ok(cookies)
    })
}

async fn create_session(running: &Running, subject: &str, roles: &[&str]) -> Result<String, String> {
    let sessions = running.sessions();
    let claims =
        json!({"iss": ISSUER, "sub": subject, "tenant": "acme", "roles": roles, "email": format!("{subject}@acme.example")});
    let data = SessionData {
        provider: "corp".to_owned(),
        issuer: "corp".to_owned(),
        subject: subject.to_owned(),
        portal: PORTAL.to_owned(),
        claims: Arc::new(claims.as_object().cloned().unwrap_or_default()),
        created_at: unix_millis(),
        idp_session: None,
        grant: None,
        portals: None,
        rotation_due: false,
    };
    let created = sessions.create(data).await.map_err(|error| error.to_string())?;
    let cookie = sessions.session_cookie(&created.id, &created.session);
    let cookie = cookie.to_str().map_err(|error| error.to_string())?;
    Ok(cookie.split(';').next().unwrap_or_default().to_owned())
}
