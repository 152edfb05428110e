//! The demo shop's JSON API, the same as in the example back ends of `packages/examples`.
//!
//! The gate has permitted the request by its path, its caller and, where `entities.json` describes it, its resource.
//! The API loads the resource and asks the gate again, with the tenant and owner that only the shop knows; docs/apps.md
//! describes the pattern. A resource that the gate does not permit is not in a list and not in an answer.

use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::decisions;
use super::question::{DemoAnswer, DemoQuestion, Gate, Resource};
use super::shop::{Account, AccountStatus, Customer, Order, OrderStatus, PRODUCTS, Shop, parse_items};

/// Rows of a report: default and maximum.
const REPORT_ROWS: usize = 50;
const REPORT_ROWS_MAX: usize = 200;

/// The shop behind the gate.
#[derive(Debug)]
pub(super) struct Api {
    pub shop: Mutex<Shop>,
    pub gate: Gate,
    pub decision_log: std::path::PathBuf,
}

/// A request that the gate let through.
#[derive(Debug)]
pub(super) struct ApiRequest<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

/// A result with its status.
#[derive(Debug)]
pub(super) struct ApiAnswer {
    pub status: StatusCode,
    /// `None`: no content.
    pub body: Option<Value>,
}

/// A refusal or failure, as problem+json.
#[derive(Debug)]
pub(super) struct ApiProblem {
    pub status: StatusCode,
    pub title: String,
    /// The gate's code and decision, if the gate refused.
    pub verdict: Option<DemoAnswer>,
}

type ApiResult = Result<ApiAnswer, ApiProblem>;

impl ApiRequest<'_> {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    fn customer(&self) -> Customer<'_> {
        Customer {
            user: self.header("x-forwarded-user"),
            tenant: self.header("x-cedargate-tenant"),
        }
    }

    /// What the app learnt of the caller.
    fn identity(&self) -> Map<String, Value> {
        let members = json!({
            "app": "demo shop",
            "did": format!("{} {}", self.method, self.path),
            "user": self.header("x-forwarded-user"),
            "tenant": self.header("x-cedargate-tenant"),
            "roles": self.header("x-cedargate-roles"),
            "portal": self.header("x-cedargate-portal"),
            "decision_id": self.header("x-cedargate-decision-id"),
        });
        members.as_object().cloned().unwrap_or_default()
    }
}

fn ok(body: Value) -> ApiResult {
    answer(StatusCode::OK, Some(body))
}

fn answer(status: StatusCode, body: Option<Value>) -> ApiResult {
    Ok(ApiAnswer { status, body })
}

fn problem(status: StatusCode, title: impl Into<String>) -> ApiProblem {
    ApiProblem {
        status,
        title: title.into(),
        verdict: None,
    }
}

fn not_found() -> ApiProblem {
    problem(StatusCode::NOT_FOUND, "there is no such resource")
}

impl Api {
    pub async fn respond(&self, request: &ApiRequest<'_>) -> ApiResult {
        let segments: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        match (request.method.as_str(), segments.as_slice()) {
            ("GET" | "HEAD", ["portal", "customer" | "admin"]) => ok(Value::Object(request.identity())),
            ("GET" | "HEAD", ["portal", "customer", "orders"]) => self.orders(request).await,
            ("POST", ["portal", "customer", "orders"]) => self.place_order(request),
            ("GET" | "HEAD", ["portal", "customer", "orders", id]) => {
                ok(json!(self.permitted_order(request, id, "viewOrder").await?))
            }
            ("PUT", ["portal", "customer", "orders", id]) => self.edit_order(request, id).await,
            ("DELETE", ["portal", "customer", "orders", id]) => self.cancel_order(request, id).await,
            ("GET" | "HEAD", ["portal", "customer", "products"]) => ok(json!({"products": PRODUCTS})),
            ("GET" | "HEAD", ["portal", "customer", "products", id]) => {
                let product = PRODUCTS.iter().find(|product| product.id == *id);
                ok(json!(product.ok_or_else(not_found)?))
            }
            ("GET" | "HEAD", ["portal", "admin", "accounts"]) => self.accounts(request).await,
            ("GET" | "HEAD", ["portal", "admin", "accounts", id]) => {
                ok(json!(self.permitted_account(request, id, "viewAccount").await?))
            }
            ("POST", ["portal", "admin", "accounts", id, "suspend"]) => self.suspend(request, id).await,
            ("GET" | "HEAD", ["portal", "admin", "reports", "decisions"]) => self.report(request),
            _ => Err(not_found()),
        }
    }

    async fn orders(&self, request: &ApiRequest<'_>) -> ApiResult {
        let tenant = request.customer().tenant;
        let orders: Vec<Order> = self
            .shop
            .lock()
            .orders()
            .filter(|order| order.tenant == tenant)
            .cloned()
            .collect();
        let resources: Vec<Resource> = orders.iter().map(order_resource).collect();
        let verdicts = self.ask(request, "viewOrder", &resources).await?;
        let permitted = orders.iter().zip(&verdicts).filter(|(_, verdict)| verdict.allows);
        let mut body = request.identity();
        body.insert("orders".to_owned(), permitted.map(|(order, _)| json!(order)).collect());
        ok(Value::Object(body))
    }

    fn place_order(&self, request: &ApiRequest<'_>) -> ApiResult {
        let items = parse_items(request.body).map_err(|title| problem(StatusCode::BAD_REQUEST, title))?;
        let placed = self.shop.lock().place(request.customer(), items);
        let order = placed.ok_or_else(|| problem(StatusCode::CONFLICT, "the demo shop is full; start it again"))?;
        answer(StatusCode::CREATED, Some(json!(order)))
    }

    async fn edit_order(&self, request: &ApiRequest<'_>, id: &str) -> ApiResult {
        self.permitted_order(request, id, "editOrder").await?;
        if request.body.is_empty() {
            return Err(problem(StatusCode::BAD_REQUEST, "the body is not {\"items\": […]}"));
        }
        let items = parse_items(request.body).map_err(|title| problem(StatusCode::BAD_REQUEST, title))?;
        let mut shop = self.shop.lock();
        let order = shop.order_mut(id).ok_or_else(not_found)?;
        if order.status != OrderStatus::Open {
            return Err(problem(StatusCode::CONFLICT, "the order is cancelled"));
        }
        order.change(items);
        ok(json!(order))
    }

    async fn cancel_order(&self, request: &ApiRequest<'_>, id: &str) -> ApiResult {
        self.permitted_order(request, id, "cancelOrder").await?;
        self.shop.lock().order_mut(id).ok_or_else(not_found)?.status = OrderStatus::Cancelled;
        answer(StatusCode::NO_CONTENT, None)
    }

    async fn accounts(&self, request: &ApiRequest<'_>) -> ApiResult {
        let accounts: Vec<Account> = self.shop.lock().accounts().to_vec();
        let resources: Vec<Resource> = accounts.iter().map(account_resource).collect();
        let verdicts = self.ask(request, "viewAccount", &resources).await?;
        let permitted = accounts.iter().zip(&verdicts).filter(|(_, verdict)| verdict.allows);
        ok(json!({"accounts": permitted.map(|(account, _)| account).collect::<Vec<_>>()}))
    }

    async fn suspend(&self, request: &ApiRequest<'_>, id: &str) -> ApiResult {
        self.permitted_account(request, id, "suspendAccount").await?;
        let mut shop = self.shop.lock();
        let account = shop.account_mut(id).ok_or_else(not_found)?;
        account.status = AccountStatus::Suspended;
        ok(json!(account))
    }

    fn report(&self, request: &ApiRequest<'_>) -> ApiResult {
        let limit = limit(request.query).ok_or_else(|| {
            let title = format!("`limit` is not a number from 1 to {REPORT_ROWS_MAX}");
            problem(StatusCode::BAD_REQUEST, title)
        })?;
        let rows = decisions::newest(&self.decision_log, request.customer().tenant, limit);
        let rows = rows.map_err(|_error| problem(StatusCode::SERVICE_UNAVAILABLE, "the decision log cannot be read"))?;
        ok(json!({"decisions": rows}))
    }

    /// The order, if the gate permits the action on it.
    async fn permitted_order(&self, request: &ApiRequest<'_>, id: &str, action: &str) -> Result<Order, ApiProblem> {
        let order = self.shop.lock().order(id).cloned().ok_or_else(not_found)?;
        self.demand(request, action, order_resource(&order)).await?;
        Ok(order)
    }

    async fn permitted_account(&self, request: &ApiRequest<'_>, id: &str, action: &str) -> Result<Account, ApiProblem> {
        let found = self.shop.lock().accounts().iter().find(|account| account.id == id).cloned();
        let account = found.ok_or_else(not_found)?;
        self.demand(request, action, account_resource(&account)).await?;
        Ok(account)
    }

    async fn demand(&self, request: &ApiRequest<'_>, action: &str, resource: Resource) -> Result<(), ApiProblem> {
        let verdicts = self.ask(request, action, &[resource]).await?;
        match verdicts.as_slice() {
            [verdict] if verdict.allows => Ok(()),
            [verdict] => Err(ApiProblem {
                verdict: Some(verdict.clone()),
                ..problem(StatusCode::FORBIDDEN, "the policies do not permit this")
            }),
            _ => Err(problem(StatusCode::SERVICE_UNAVAILABLE, "the gate gave no answer")),
        }
    }

    async fn ask(&self, request: &ApiRequest<'_>, action: &str, resources: &[Resource]) -> Result<Vec<DemoAnswer>, ApiProblem> {
        let question = DemoQuestion {
            assertion: request.header("x-cedargate-assertion"),
            portal: request.header("x-cedargate-portal"),
            action,
            resources,
        };
        self.gate.ask(&question).await.map_err(|error| {
            tracing::warn!(%error, "the demo app cannot ask the gate");
            problem(StatusCode::SERVICE_UNAVAILABLE, "the gate gave no answer")
        })
    }
}

fn order_resource(order: &Order) -> Resource {
    Resource {
        entity_type: "Order",
        id: order.id.clone(),
        tenant: order.tenant.clone(),
        user_attribute: "owner",
        user: order.owner.clone(),
    }
}

fn account_resource(account: &Account) -> Resource {
    Resource {
        entity_type: "Account",
        id: account.id.clone(),
        tenant: account.tenant.clone(),
        user_attribute: "user",
        user: account.user.clone(),
    }
}

/// The rows that the query asks for; `None` if it is malformed.
fn limit(query: &str) -> Option<usize> {
    let mut given = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "limit");
    let Some((_, value)) = given.next() else {
        return Some(REPORT_ROWS);
    };
    let rows = value.parse().ok().filter(|rows| (1..=REPORT_ROWS_MAX).contains(rows));
    rows.filter(|_| given.next().is_none())
}
