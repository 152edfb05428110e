//! The demo shop's data: products, orders and accounts, in memory, gone when the demo ends.
//!
//! It stands for an app's database. It decides nothing about callers: `api` asks the gate first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::clock;

/// Orders that the shop keeps.
pub(super) const ORDERS_MAX: usize = 200;
/// Different products of one order.
const ITEMS_MAX: usize = 20;
/// Pieces of one product in an order.
const QUANTITY_MAX: u32 = 99;
const CURRENCY: &str = "EUR";
const DAY: i64 = 24 * 3600;

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Product {
    pub id: &'static str,
    name: &'static str,
    /// Cents.
    price: u32,
    currency: &'static str,
}

const fn product(id: &'static str, name: &'static str, price: u32) -> Product {
    Product {
        id,
        name,
        price,
        currency: CURRENCY,
    }
}

pub(super) const PRODUCTS: [Product; 5] = [
    product("tea", "Tea", 450),
    product("coffee", "Coffee", 690),
    product("cup", "Cup", 1200),
    product("kettle", "Kettle", 3900),
    product("honey", "Honey", 820),
];

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum OrderStatus {
    Open,
    Cancelled,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Item {
    product: &'static str,
    quantity: u32,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Order {
    pub id: String,
    pub tenant: String,
    pub owner: String,
    pub status: OrderStatus,
    pub items: Vec<Item>,
    /// Cents.
    total: u32,
    currency: &'static str,
    created_at: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum AccountStatus {
    Active,
    Suspended,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Account {
    pub id: String,
    pub user: String,
    pub tenant: String,
    email: String,
    pub status: AccountStatus,
}

/// The body of a new or changed order.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderBody {
    items: Vec<BodyItem>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyItem {
    product: String,
    quantity: u32,
}

#[derive(Debug)]
pub(super) struct Shop {
    orders: BTreeMap<u32, Order>,
    accounts: Vec<Account>,
}

/// A person of the shop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Customer<'a> {
    pub user: &'a str,
    pub tenant: &'a str,
}

impl Shop {
    /// The orders that the policy tree describes (7 and 8), some that only the shop knows, and an account of each
    /// person.
    pub fn new(people: &[Customer<'_>]) -> Self {
        let mut shop = Self {
            orders: BTreeMap::new(),
            accounts: people.iter().map(account).collect(),
        };
        let now = clock::unix_seconds();
        for (number, user, tenant, items) in [
            (7_u32, "alice", "acme", &[("tea", 2)][..]),
            (8, "gina", "globex", &[("coffee", 1)]),
            (9, "bob", "acme", &[("kettle", 1), ("tea", 1)]),
            (10, "alice", "acme", &[("cup", 4), ("honey", 1)]),
        ] {
            let items = items.iter().filter_map(|(id, quantity)| item(id, *quantity)).collect();
            let at = now - DAY * i64::from(12 - number);
            shop.insert(number, Customer { user, tenant }, items, at);
        }
        shop
    }

    pub fn orders(&self) -> impl Iterator<Item = &Order> {
        self.orders.values()
    }

    pub fn order(&self, id: &str) -> Option<&Order> {
        self.orders.get(&id.parse().ok()?).filter(|order| order.id == id)
    }

    pub fn order_mut(&mut self, id: &str) -> Option<&mut Order> {
        self.orders.get_mut(&id.parse().ok()?).filter(|order| order.id == id)
    }

    /// Adds an order; `None` if the shop is full.
    pub fn place(&mut self, customer: Customer<'_>, items: Vec<Item>) -> Option<Order> {
        if self.orders.len() >= ORDERS_MAX {
            return None;
        }
        let number = self.orders.last_key_value().map_or(1, |(last, _)| last + 1);
        self.insert(number, customer, items, clock::unix_seconds());
        self.orders.get(&number).cloned()
    }

    fn insert(&mut self, number: u32, customer: Customer<'_>, items: Vec<Item>, at: i64) {
        let order = Order {
            id: number.to_string(),
            tenant: customer.tenant.to_owned(),
            owner: customer.user.to_owned(),
            status: OrderStatus::Open,
            total: total(&items),
            items,
            currency: CURRENCY,
            created_at: clock::rfc3339_seconds(at),
        };
        self.orders.insert(number, order);
    }

    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    pub fn account_mut(&mut self, id: &str) -> Option<&mut Account> {
        self.accounts.iter_mut().find(|account| account.id == id)
    }
}

impl Order {
    pub fn change(&mut self, items: Vec<Item>) {
        self.total = total(&items);
        self.items = items;
    }
}

fn account(person: &Customer<'_>) -> Account {
    Account {
        id: person.user.to_owned(),
        user: person.user.to_owned(),
        tenant: person.tenant.to_owned(),
        email: format!("{}@{}.test", person.user, person.tenant),
        status: AccountStatus::Active,
    }
}

fn find(id: &str) -> Option<&'static Product> {
    PRODUCTS.iter().find(|product| product.id == id)
}

fn item(id: &str, quantity: u32) -> Option<Item> {
    let product = find(id)?.id;
    Some(Item { product, quantity })
}

/// Cents. `ITEMS_MAX` and `QUANTITY_MAX` keep it far below the type's end.
fn total(items: &[Item]) -> u32 {
    let price = |item: &Item| find(item.product).map_or(0, |product| product.price);
    items.iter().map(|item| price(item).saturating_mul(item.quantity)).sum()
}

/// Reads the items of a request's body. An empty body orders one tea, so that a bare `curl -X POST` places an order.
pub(super) fn parse_items(body: &[u8]) -> Result<Vec<Item>, String> {
    if body.is_empty() {
        return Ok(item("tea", 1).into_iter().collect());
    }
    let body: OrderBody = serde_json::from_slice(body).map_err(|e| format!("the body is not {{\"items\": […]}}: {e}"))?;
    if body.items.is_empty() || body.items.len() > ITEMS_MAX {
        return Err(format!("`items` has 1 to {ITEMS_MAX} entries"));
    }
    let mut items: Vec<Item> = Vec::new();
    for wanted in body.items {
        if !(1..=QUANTITY_MAX).contains(&wanted.quantity) {
            return Err(format!("`quantity` is 1 to {QUANTITY_MAX}"));
        }
        let found = item(&wanted.product, wanted.quantity).ok_or("there is no such product")?;
        if items.iter().any(|one| one.product == found.product) {
            return Err(format!("`{}` is repeated", found.product));
        }
        items.push(found);
    }
    Ok(items)
}
