//! What the demo prints when it runs: addresses, people, and requests to try.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::INSTALLED_TREE;
use super::people::Person;
use crate::app;
use crate::authn::SigningKey;
use crate::cli::Paint;
use crate::cli::report::{Listing, text};
use crate::config;

/// The edit that turns the second request's 403 into 201; the file stands before it.
const EDIT: &str = r#"in `editors-place-orders`, change Role::"editor" to Role::"viewer""#;
/// The file of that edit, in the tree.
const EDITED: &str = "policies/customer/orders.cedar";
/// The file of the feature flag, in the tree.
const FLAGS: &str = "policies/customer/portal.yaml";
/// The body of a `POST /authorize`.
const APP_QUERY: &str = r#"{"portal": "customer", "principal": {"type": "User", "id": "alice", "parents": ["Role::\"viewer\""]}, "action": "GET", "resource": "Path::\"/portal/customer/orders\""}"#;
/// Labels of the columns of people.
const COLUMNS: &[&str] = &["", "password ", "", "portal ", ""];

/// A running demo.
pub(super) struct Demo<'a> {
    pub addresses: &'a app::Addresses,
    pub key: &'a SigningKey,
    pub people: &'a [Person],
    pub users_file: PathBuf,
    pub decision_log: PathBuf,
    pub tree: &'a Path,
    pub has_pages: bool,
}

impl Demo<'_> {
    pub fn authorize_url(&self) -> String {
        match &self.addresses.decision {
            Some(config::Address::Tcp(address)) => format!("http://{address}/authorize"),
            _ => String::new(),
        }
    }

    pub fn text(&self) -> Result<String, String> {
        let orders = format!("http://{}/portal/customer/orders", reached(self.addresses.proxy));
        let decision = self.authorize_url();
        let status = self.addresses.admin.map(|a| format!("http://{}/status", reached(a)));
        Ok([
            section(
                "cedargate demo: two portals in front of a demo shop. Ctrl-C ends it.",
                &[
                    format!("proxy     {orders}"),
                    format!("authorize {decision}"),
                    format!("status    {}", status.unwrap_or_default()),
                    format!("decisions {}", self.decision_log.display()),
                    format!("users     {}", self.users_file.display()),
                ],
            ),
            section("In a browser", &self.browser()),
            section("Tokens", &self.tokens()?),
            section("1. Without a token: 401", &[format!("curl -i {orders}")]),
            section(
                "2. Alice, a viewer, places an order: 403",
                &[format!("curl -i -X POST -H \"Authorization: Bearer $ALICE\" {orders}")],
            ),
            section(
                "3. Alice reads the orders: 200",
                &[format!("curl -i -H \"Authorization: Bearer $ALICE\" {orders}")],
            ),
            section("4. Change one line while it runs, and repeat number 2", &[self.edit()]),
            section(
                "The app makes its own query",
                &[format!("curl -s {decision} -d '{APP_QUERY}'")],
            ),
        ]
        .join("\n"))
    }

    /// The portals' addresses and their people.
    fn browser(&self) -> Vec<String> {
        let port = self.addresses.proxy.port();
        let mut lines: Vec<String> = ["", "portal/customer/", "portal/admin/"]
            .map(|path| format!("http://localhost:{port}/{path}"))
            .into();
        let row = |person: &Person| {
            let role = format!("{} of {}", person.role, person.tenant);
            [person.name, &person.password, &role, person.portals, person.try_this]
                .map(str::to_owned)
                .to_vec()
        };
        let rows = self.people.iter().map(row).collect();
        let table = text::listing(&Listing { labels: COLUMNS, rows });
        lines.extend(table.lines().map(str::to_owned));
        for person in self.people.iter().filter(|person| person.totp.is_some()) {
            let users = self.users_file.display();
            let name = person.name;
            lines.push(format!(
                "{name}'s one-time code appears here when the gate asks for it, or: cedargate user code {name} --file {users}"
            ));
        }
        if self.has_pages {
            lines.push(format!(
                "Change {} and watch the page: a button goes when its permit goes, new_checkout is a flag",
                self.in_tree(FLAGS)
            ));
        } else {
            lines.push(
                "This program was built without the portals' pages: a browser shows JSON. --portals DIR names them.".to_owned(),
            );
        }
        lines
    }

    fn tokens(&self) -> Result<Vec<String>, String> {
        let named = |name: &str| self.people.iter().find(|person| person.name == name);
        let people = ["alice", "bob"].into_iter().filter_map(named);
        people
            .map(|person| {
                let token = person.token(self.key)?;
                Ok(format!("export {}={token}   # {}", person.name.to_uppercase(), person.role))
            })
            .collect()
    }

    /// The installed example belongs to the package, so its reader edits a copy.
    fn edit(&self) -> String {
        if self.tree == Path::new(INSTALLED_TREE) {
            return format!("start the demo with --dir and your own copy of {INSTALLED_TREE}; in {EDITED}, {EDIT}");
        }
        format!("{}: {EDIT}", self.in_tree(EDITED))
    }

    fn in_tree(&self, file: &str) -> String {
        self.tree.join(file).display().to_string()
    }
}

/// The address to connect to. A listener on all addresses is reached on loopback, also through a container's published
/// port.
fn reached(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    }
    address
}

/// A headline and its lines.
fn section(headline: &str, lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
    format!("{}\n{lines}", Paint::stdout().green(headline))
}
