//! Stops login loops: logins of one browser that succeed again and again because each next request asks for another one.
//!
//! The session store counts the logins of a browser in a window; the key is a hash of the browser's login cookie. A count that
//! the store refuses is logged and skipped.

use std::time::Duration;

use super::{EndpointRequest, LoginDoor};
use crate::base::digest::sha256;
use crate::login::{BrowserSecret, LoginCode, LoginFailure};

/// Window in which logins of one browser count together.
const WINDOW: Duration = Duration::from_secs(60);
/// Logins in one window; more are a loop.
const LOGINS_MAX: u64 = 5;
const COUNTER: &str = "loop";

/// Fails with `login_loop` if this browser has made too many logins in the window.
pub(super) async fn check(door: &LoginDoor, browser: &BrowserSecret) -> Result<(), LoginFailure> {
    let count = door.sessions.counted(COUNTER, &sha256(browser.expose())).await;
    let logins = count.map_err(|error| LoginFailure::store_unavailable(&error))?;
    if logins > LOGINS_MAX {
        return Err(LoginFailure::new(
            LoginCode::LoginLoop,
            format!("{logins} logins within a minute, each followed by another one"),
        ));
    }
    Ok(())
}

/// Counts a login that succeeded or was begun again.
pub(super) async fn count(door: &LoginDoor, request: &EndpointRequest<'_>) {
    if let Some(browser) = door.sessions.cookies.login(&request.head.headers)
        && let Err(error) = door.sessions.count(COUNTER, &sha256(browser.expose()), WINDOW).await
    {
        tracing::debug!(%error, "a login was not counted");
    }
}

/// Resets the count after a logout: the next login is not part of a loop.
pub(super) async fn reset(door: &LoginDoor, request: &EndpointRequest<'_>) {
    if let Some(browser) = door.sessions.cookies.login(&request.head.headers)
        && let Err(error) = door.sessions.forget(COUNTER, &sha256(browser.expose())).await
    {
        tracing::debug!(%error, "a count of logins was not reset");
    }
}
