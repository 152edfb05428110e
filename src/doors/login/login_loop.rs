//! Stops login loops: logins of one browser that succeed again and again because each next request asks for another
//! one.
//!
//! The browser itself counts, in a cookie that lives for a minute: each login adds one, and the first page that the new
//! session may see (`gate/browser`), or a logout, removes the cookie. So logins that helped never count. A circle has
//! four redirects, and browsers give up after twenty; the default of `limits.login_loop` ends it before. The count
//! protects the user from a browser that goes round in circles; it protects nothing of the gate, so the browser may
//! hold it.

use http::HeaderValue;

use super::input::Parameters;
use super::{EndpointRequest, LoginDoor};
use crate::audit::LoginCode;
use crate::login::LoginFailure;

/// The values of `prompt` with which a user chose this login: a provider shows a page, so there is no circle.
const INTERACTIVE: [&str; 2] = ["login", "select_account"];

/// Fails with `login_loop` if too many logins of this browser did not help.
pub(super) fn check(door: &LoginDoor, request: &EndpointRequest<'_>) -> Result<(), LoginFailure> {
    let logins = door.sessions.cookies.logins(&request.head.headers);
    if logins > door.config.limits.login_loop.get() && !is_interactive(request) {
        let detail = format!("{logins} logins within a minute, each followed by another one");
        return Err(LoginFailure::new(LoginCode::LoginLoop, detail).over_limit("limits.login_loop"));
    }
    Ok(())
}

fn is_interactive(request: &EndpointRequest<'_>) -> bool {
    let prompt = Parameters::from_query(request.head).optional("prompt");
    let prompt = prompt.ok().flatten().unwrap_or_default();
    prompt.split(' ').any(|value| INTERACTIVE.contains(&value))
}

/// The cookie that counts a login that succeeded or was begun again.
pub(super) fn count(door: &LoginDoor, request: &EndpointRequest<'_>) -> HeaderValue {
    let cookies = &door.sessions.cookies;
    cookies.set_logins(cookies.logins(&request.head.headers) + 1)
}
