//! The probes of the app's container: they go to the gate's admin port, and the gate asks the app.

use super::edit::Editor;
use super::ports::ContainerPorts;
use super::record::ProbeRecord;
use super::sidecar::ADMIN_PORT;
use super::tree::{Entry, Node};
use super::value::Value;
use super::view::{Refusal, View};

/// The kubelet's probes, and the gate's name of each.
const PROBES: [(&str, &str); 3] = [
    ("livenessProbe", "livez"),
    ("readinessProbe", "readyz"),
    ("startupProbe", "startupz"),
];
/// The kubelet's default of `timeoutSeconds`.
const TIMEOUT_DEFAULT: u64 = 1;
/// The gate answers so much earlier than the kubelet gives up, so that its reason reaches the pod's events.
const TIMEOUT_LEAD_MS: u64 = 100;
/// The longest time that the gate takes.
const TIMEOUT_MAX_MS: u64 = 60_000;

/// The probes to change.
#[derive(Default)]
pub(super) struct ProbePlan<'a> {
    changes: Vec<ProbeChange<'a>>,
    /// `upstream.probes` of the gate.
    pub settings: Vec<(String, Value)>,
}

struct ProbeChange<'a> {
    name: &'static str,
    path: String,
    /// The entry `httpGet`, `tcpSocket` or `grpc`.
    handler: &'a Entry,
    /// The entry in whose place the new path stands: `path`, or `service` of a `grpc`.
    old_path: Option<&'a Entry>,
    port: &'a Node,
}

impl<'a> ProbePlan<'a> {
    /// Reads the probes of a container; `exec` stays as it is.
    pub fn read(container: &View<'a>, ports: &ContainerPorts<'a>) -> Result<Self, Refusal> {
        let mut plan = Self::default();
        for (name, endpoint) in PROBES {
            let Some(probe) = container.open(name)? else { continue };
            for kind in ["httpGet", "tcpSocket", "grpc"] {
                if let Some(handler) = probe.open(kind)? {
                    let entry = probe.entry(kind)?.ok_or_else(|| probe.refuse("changed while it was read"))?;
                    plan.add(name, endpoint, &probe, handler, entry, ports)?;
                }
            }
        }
        Ok(plan)
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn add(
        &mut self,
        name: &'static str,
        endpoint: &str,
        probe: &View<'a>,
        handler: View<'a>,
        entry: &'a Entry,
        ports: &ContainerPorts<'a>,
    ) -> Result<(), Refusal> {
        if let Some(host) = handler.get("host")? {
            return Err(host.refuse("the probe goes to another host than the pod; use --keep-probes if it is meant to"));
        }
        let number = port_number(&handler, ports)?;
        let timeout = timeout_ms(probe)?;
        let mut setting = match entry.name() {
            Some("httpGet") => http_setting(&handler, number)?,
            Some("grpc") => grpc_setting(&handler, number)?,
            _ => vec![("tcp", Value::text(format!("127.0.0.1:{number}")))],
        };
        setting.push(("timeout", Value::text(format!("{timeout}ms"))));
        let setting = setting.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        self.settings.push((endpoint.to_owned(), Value::Map(setting)));
        let path = handler.entry(if entry.name() == Some("grpc") { "service" } else { "path" })?;
        self.changes.push(ProbeChange {
            name,
            path: format!("/app/{endpoint}"),
            handler: entry,
            old_path: match path {
                Some(path) if path.value.is_null() => {
                    return Err(handler.refuse_key("path", "is null; remove it, or write a value"));
                }
                path => path,
            },
            port: editable(&handler, "port")?.ok_or_else(|| handler.refuse_key("port", "is missing"))?,
        });
        editable(&handler, "path")?;
        editable(&handler, "service")?;
        Ok(())
    }

    /// Points the probes at the gate. Returns the texts that were there.
    pub fn edit(&self, editor: &mut Editor<'_>) -> Result<Vec<ProbeRecord>, &'static str> {
        self.changes.iter().map(|change| change.edit(editor)).collect()
    }
}

impl ProbeChange<'_> {
    fn edit(&self, editor: &mut Editor<'_>) -> Result<ProbeRecord, &'static str> {
        let mut record = ProbeRecord {
            probe: self.name.to_owned(),
            handler_key: None,
            path_key: None,
            path: self.old_path.map(|path| editor.source(&path.value).to_owned()),
            port: editor.source(self.port).to_owned(),
        };
        if let Some(kind @ ("tcpSocket" | "grpc")) = self.handler.name() {
            record.handler_key = Some(rename(&self.handler.key, kind, "httpGet", editor));
        }
        match self.old_path {
            Some(old) => {
                if old.name() == Some("service") {
                    record.path_key = Some(rename(&old.key, "service", "path", editor));
                }
                editor.replace(&old.value, as_before(editor.source(&old.value), &self.path));
            }
            None if self.handler.value.is_flow() => {
                editor.prepend_entry(&self.handler.value, "path", &Value::text(self.path.clone()).flow())?;
            }
            None => editor.prepend_entry(&self.handler.value, "path", &self.path)?,
        }
        editor.replace(self.port, ADMIN_PORT.to_string());
        Ok(record)
    }
}

/// Replaces a key and keeps its quotes. Returns the text that was there.
fn rename(key: &Node, from: &str, to: &str, editor: &mut Editor<'_>) -> String {
    let old = editor.source(key).to_owned();
    editor.replace(key, old.replace(from, to));
    old
}

fn port_number(handler: &View<'_>, ports: &ContainerPorts<'_>) -> Result<u16, Refusal> {
    let port = handler.get("port")?.ok_or_else(|| handler.refuse_key("port", "is missing"))?;
    ports.number(&port)
}

/// The gate's time for a probe.
fn timeout_ms(probe: &View<'_>) -> Result<u64, Refusal> {
    let seconds = match probe.get("timeoutSeconds")? {
        None => TIMEOUT_DEFAULT,
        Some(view) => {
            let seconds = view.text()?.parse::<u64>();
            seconds.map_err(|_why| view.refuse("is not a number of seconds"))?.max(1)
        }
    };
    Ok((seconds.saturating_mul(1000) - TIMEOUT_LEAD_MS).min(TIMEOUT_MAX_MS))
}

fn http_setting(handler: &View<'_>, port: u16) -> Result<Vec<(&'static str, Value)>, Refusal> {
    let path = handler.get_text("path")?.unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    if let Some(scheme) = handler.get("scheme")?
        && scheme.text()? != "HTTP"
    {
        return Err(scheme.refuse(
            "the kubelet checks no certificate, but the gate does; make the health endpoint plain HTTP, or use --keep-probes",
        ));
    }
    let mut setting = vec![("url", Value::text(format!("http://127.0.0.1:{port}{slash}{path}")))];
    let headers = headers(handler)?;
    if !headers.is_empty() {
        setting.push(("headers", Value::List(headers)));
    }
    Ok(setting)
}

fn grpc_setting(handler: &View<'_>, port: u16) -> Result<Vec<(&'static str, Value)>, Refusal> {
    let mut setting = vec![("grpc", Value::text(format!("127.0.0.1:{port}")))];
    if let Some(service) = handler.get_text("service")? {
        setting.push(("service", Value::text(service)));
    }
    Ok(setting)
}

/// The scalar of a key, to be replaced.
fn editable<'a>(handler: &View<'a>, key: &'static str) -> Result<Option<&'a Node>, Refusal> {
    match handler.open(key)? {
        Some(view) if view.node.has_tag || view.node.anchor != 0 || view.node.is_block_scalar => {
            Err(view.refuse("has a tag, an anchor or a block (`|`, `>`); write it plainly"))
        }
        view => Ok(view.map(|view| view.node)),
    }
}

/// A word in the quotes that stood there.
fn as_before(old: &str, new: &str) -> String {
    match old.chars().next() {
        Some(quote @ ('"' | '\'')) => format!("{quote}{new}{quote}"),
        _ => new.to_owned(),
    }
}

/// `httpHeaders` as the gate takes them.
fn headers(handler: &View<'_>) -> Result<Vec<Value>, Refusal> {
    let Some(list) = handler.get("httpHeaders")? else {
        return Ok(Vec::new());
    };
    let header = |view: View<'_>| {
        let name = view.get_text("name")?.unwrap_or_default();
        let value = view.get_text("value")?.unwrap_or_default();
        if ["authorization", "proxy-authorization"].contains(&name.to_ascii_lowercase().as_str()) {
            return Err(view.refuse("the gate forwards no credentials in probes; give the app a health endpoint without one"));
        }
        Ok(Value::text(format!("{name}: {value}")))
    };
    list.items()?.into_iter().map(header).collect()
}

/// Gives a container's probes their own texts back.
pub(super) fn restore(container: &Node, records: &[ProbeRecord], editor: &mut Editor<'_>) -> Result<(), &'static str> {
    for record in records {
        let Some((_, endpoint)) = PROBES.iter().find(|(name, _)| *name == record.probe) else {
            continue;
        };
        let handler = container.value(&record.probe).and_then(|probe| probe.entry("httpGet"));
        let Some(handler) = handler else { continue };
        let map = &handler.value;
        let own_path = format!("/app/{endpoint}");
        let (Some(path), Some(port)) = (map.value("path"), map.value("port")) else {
            continue;
        };
        // a probe that was changed after inject is left as it is
        if path.text() != Some(&own_path) || port.text() != Some(&ADMIN_PORT.to_string()) {
            continue;
        }
        editor.replace(port, record.port.clone());
        match &record.path {
            Some(old) => editor.replace(path, old.clone()),
            None => editor.remove_first_entry(map, "path")?,
        }
        if let (Some(key), Some(entry)) = (&record.path_key, map.entry("path")) {
            editor.replace(&entry.key, key.clone());
        }
        if let Some(key) = &record.handler_key {
            editor.replace(&handler.key, key.clone());
        }
    }
    Ok(())
}
