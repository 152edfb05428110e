//! Chromium, driven over its DevTools protocol: pages, keys, screenshots, and what the console says.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::tools::tool;
use crate::support::{eventually, once_started};

/// The longest time for one step of the browser.
const PATIENCE: Duration = Duration::from_secs(30);

/// Id, name or address of what has the focus.
const FOCUS: &str = "(e => e.id || e.getAttribute('href') || e.type || e.tagName)(document.activeElement)";

/// A browser with one page; ends with the test.
pub struct Chromium {
    child: Child,
    runtime: tokio::runtime::Runtime,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: String,
    next: u64,
    /// Console errors, refused loads, violations of a content security policy, and exceptions.
    pub complaints: Vec<String>,
}

impl Chromium {
    pub fn start(profile: &Path) -> Self {
        let child = Command::new(tool(&["chromium", "google-chrome"]))
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-proxy-server",
                "--disable-dev-shm-usage",
            ])
            .args([
                "--disable-background-networking",
                "--no-first-run",
                "--remote-debugging-port=0",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = once_started("the browser listens", || {
            let text = std::fs::read_to_string(profile.join("DevToolsActivePort")).unwrap_or_default();
            let mut lines = text.lines();
            match (lines.next(), lines.next()) {
                (Some(port), Some(path)) => Ok(format!("ws://127.0.0.1:{port}{path}")),
                _ => Err("no port yet".to_owned()),
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (socket, _) = runtime.block_on(tokio_tungstenite::connect_async(address)).unwrap();
        let mut browser = Self {
            child,
            runtime,
            socket,
            session: String::new(),
            next: 0,
            complaints: Vec::new(),
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = browser.call(
            "Target.attachToTarget",
            json!({"targetId": target["targetId"], "flatten": true}),
        );
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page.enable", "Runtime.enable", "Log.enable", "Network.enable"] {
            browser.call(domain, json!({}));
        }
        browser
    }

    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, params)
            .unwrap_or_else(|event| panic!("{method}: {event}"))
    }

    /// Fails while the page makes way for another one.
    fn try_call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.next += 1;
        let id = self.next;
        let mut message = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let (runtime, socket, complaints) = (&self.runtime, &mut self.socket, &mut self.complaints);
        runtime.block_on(async {
            socket.send(Message::text(message.to_string())).await.unwrap();
            loop {
                let next = tokio::time::timeout(PATIENCE, socket.next()).await;
                let Ok(Some(Ok(Message::Text(text)))) = next else {
                    panic!("the browser does not answer {method}")
                };
                let event: Value = serde_json::from_str(&text).unwrap();
                if event["id"] == id {
                    return if event["error"].is_null() {
                        Ok(event["result"].clone())
                    } else {
                        Err(event)
                    };
                }
                note(&event, complaints);
            }
        })
    }

    /// The value of a JavaScript expression.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
        self.settled();
    }

    /// Waits until the page is loaded.
    pub fn settled(&mut self) {
        self.waits("document.readyState", "complete");
    }

    /// Waits until the page's address ends like this.
    pub fn arrived(&mut self, end: &str) {
        let expression = "location.pathname + location.search + ' ' + document.readyState";
        self.waits(expression, &format!("{end} complete"));
    }

    /// Waits until a page with this heading is loaded.
    pub fn shows(&mut self, heading: &str) {
        let expression = "document.querySelector('h1')?.textContent + ' ' + document.readyState";
        self.waits(expression, &format!("{heading} complete"));
    }

    /// Waits until a JavaScript expression has this value.
    pub fn waits(&mut self, expression: &str, value: &str) {
        eventually(value, || {
            let result = self.try_call("Runtime.evaluate", json!({"expression": expression, "returnByValue": true}));
            let now = result.map_err(|event| event.to_string())?["result"]["value"]
                .as_str()
                .unwrap_or("none")
                .to_owned();
            if now == value { Ok(()) } else { Err(now) }
        });
    }

    /// Finds an element by a JavaScript expression and does something with it as `found`, in one step, once it is there
    /// and enabled: a page that is drawn anew meanwhile has none for a moment.
    pub fn act(&mut self, element: &str, action: &str) {
        let expression = format!(
            "(() => {{ const found = {element}; if (!found || found.disabled) return {element:?} + '\\n' + document.body.innerText; {action}; return 'done'; }})()"
        );
        self.waits(&expression, "done");
    }

    pub fn click(&mut self, element: &str) {
        self.act(element, "found.click()");
    }

    pub fn heading(&mut self) -> String {
        self.eval("document.querySelector('h1')?.textContent ?? document.body.innerText")
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Waits until this has the focus, by id, name or address: a page gives it only after it is loaded.
    pub fn focuses(&mut self, what: &str) {
        self.waits(FOCUS, what);
    }

    /// Id, name or address of what has the focus now.
    pub fn focus(&mut self) -> String {
        self.eval(FOCUS).as_str().unwrap_or_default().to_owned()
    }

    /// Types into the field that has the focus, once there is one.
    pub fn type_text(&mut self, text: &str) {
        self.waits(
            "document.activeElement?.tagName + ' ' + document.readyState",
            "INPUT complete",
        );
        self.call("Input.insertText", json!({"text": text}));
    }

    pub fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            other => panic!("no key `{other}`"),
        };
        let mut down = json!({"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code});
        if !text.is_empty() {
            down["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", down);
        let up = json!({"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up);
    }

    pub fn look(&mut self, scheme: &str, width: u32, height: u32) {
        // a colour in transition is neither the old nor the new one
        let features = json!([
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]);
        self.call("Emulation.setEmulatedMedia", json!({"features": features}));
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Kept in `CEDARGATE_TEST_SCREENSHOTS`, if that names a folder.
    pub fn screenshot(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("CEDARGATE_TEST_SCREENSHOTS") else {
            return;
        };
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let png = base64::engine::general_purpose::STANDARD
            .decode(shot["data"].as_str().unwrap())
            .unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), png).unwrap();
    }
}

fn note(event: &Value, complaints: &mut Vec<String>) {
    let params = &event["params"];
    match event["method"].as_str().unwrap_or_default() {
        "Log.entryAdded" if params["entry"]["level"] == "error" => {
            complaints.push(format!("{} {}", params["entry"]["text"], params["entry"]["url"]))
        }
        "Runtime.consoleAPICalled" if params["type"] == "error" => complaints.push(params["args"].to_string()),
        "Runtime.exceptionThrown" => complaints.push(params["exceptionDetails"].to_string()),
        _ => {}
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
