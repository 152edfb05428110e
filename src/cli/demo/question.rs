//! The demo app's questions to the gate, `POST /authorize/batch`: about resources whose tenant and owner only the app
//! knows.
//!
//! The question carries the assertion that came with the request, so the answer is about exactly the caller whom the
//! gate let through. Without an answer in time the app serves nothing.

use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(2);
/// Items of one question; `limits.batch` of the gate's default.
const BATCH: usize = 200;

/// The gate, as the app behind it asks it.
#[derive(Debug)]
pub(super) struct Gate {
    client: reqwest::Client,
    /// The gate listens after the app; set once, before the first request arrives.
    pub authorize: OnceLock<String>,
}

/// A resource that the app has loaded.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub entity_type: &'static str,
    pub id: String,
    pub tenant: String,
    /// Name and value of the attribute that says whose it is.
    pub user_attribute: &'static str,
    pub user: String,
}

/// The gate's answer about one resource.
#[derive(Clone, Debug)]
pub(super) struct DemoAnswer {
    pub allows: bool,
    pub reason: String,
    pub decision_id: String,
}

/// The same action on several resources.
#[derive(Clone, Copy, Debug)]
pub(super) struct DemoQuestion<'a> {
    /// The assertion as the app received it.
    pub assertion: &'a str,
    pub portal: &'a str,
    pub action: &'a str,
    pub resources: &'a [Resource],
}

impl Gate {
    pub fn new() -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self {
            client,
            authorize: OnceLock::new(),
        })
    }

    /// One verdict for each resource, in order.
    pub async fn ask(&self, question: &DemoQuestion<'_>) -> Result<Vec<DemoAnswer>, String> {
        let mut verdicts = Vec::new();
        for resources in question.resources.chunks(BATCH) {
            let asked = self.ask_batch(&DemoQuestion { resources, ..*question }).await?;
            if asked.len() != resources.len() {
                return Err("the gate answered another number of questions".to_owned());
            }
            verdicts.extend(asked);
        }
        Ok(verdicts)
    }

    async fn ask_batch(&self, question: &DemoQuestion<'_>) -> Result<Vec<DemoAnswer>, String> {
        let url = self.authorize.get().ok_or("the gate does not listen yet")?;
        let body = json!({
            "portal": question.portal,
            "token": question.assertion,
            "action": question.action,
            "requests": question.resources.iter().map(Resource::request).collect::<Vec<_>>(),
        });
        let request = self
            .client
            .post(format!("{url}/batch"))
            .header("content-type", "application/json");
        let answer = request.body(body.to_string()).send().await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|e| e.to_string())?;
        if status != reqwest::StatusCode::OK {
            return Err(format!("the gate answered {status}"));
        }
        let answer: Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
        let decisions = answer.get("decisions").and_then(Value::as_array);
        let decisions = decisions.ok_or("the gate's answer has no `decisions`")?;
        Ok(decisions.iter().map(DemoAnswer::of).collect())
    }
}

impl Resource {
    fn request(&self) -> Value {
        let entity = |entity_type: &str, id: &str| json!({"__entity": {"type": entity_type, "id": id}});
        json!({"resource": {"type": self.entity_type, "id": self.id, "attrs": {
            "tenant": entity("Tenant", &self.tenant),
            self.user_attribute: entity("User", &self.user),
        }}})
    }
}

impl DemoAnswer {
    /// Every answer but a plain allow denies.
    fn of(decision: &Value) -> Self {
        let text = |name: &str| decision.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            allows: text("decision") == "allow",
            reason: text("reason"),
            decision_id: text("decision_id"),
        }
    }
}
