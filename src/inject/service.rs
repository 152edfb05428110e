//! A Service in front of an injected workload: its port leads to the gate instead of to the app.

use super::edit::Editor;
use super::manifest::{Object, labels};
use super::record::{PortRecord, Record};
use super::sidecar::PROXY_PORT;
use super::tree::Node;
use super::view::{Refusal, View};
use super::workload::{Plan, annotate};

/// The pods that a Service selects.
struct Selector<'a> {
    namespace: Option<&'a str>,
    labels: Vec<(&'a str, &'a str)>,
}

impl<'a> Selector<'a> {
    fn of(service: &Object<'a>) -> Self {
        let selector = service.node.value("spec").and_then(|spec| spec.value("selector"));
        Self {
            namespace: service.namespace,
            labels: labels(service.document, selector),
        }
    }

    /// True if the pods have all labels of the selector, in the same namespace.
    fn selects(&self, namespace: Option<&str>, given: &[(&str, &str)]) -> bool {
        self.namespace == namespace && !self.labels.is_empty() && self.labels.iter().all(|label| given.contains(label))
    }
}

/// True if the Service selects pods of one of the workloads.
pub(super) fn selects<'a>(service: &Object<'_>, mut workloads: impl Iterator<Item = &'a Object<'a>>) -> bool {
    let selector = Selector::of(service);
    workloads.any(|workload| selector.selects(workload.namespace, &workload.pod_labels()))
}

/// The ports of a Service that lead to the app.
pub(super) struct ServicePlan<'a> {
    object: &'a Object<'a>,
    changes: Vec<ServiceChange<'a>>,
    pub notes: Vec<String>,
}

struct ServiceChange<'a> {
    at: usize,
    port: View<'a>,
    /// `None`: the key is absent, and `port` is the target.
    target: Option<&'a Node>,
}

impl<'a> ServicePlan<'a> {
    /// Reads a Service. `None` if it selects none of the workloads, or leads nowhere near them.
    pub fn read(object: &'a Object<'a>, workloads: &[Plan<'_>]) -> Result<Option<Self>, Refusal> {
        let selector = Selector::of(object);
        let in_front_of = |plan: &&Plan<'_>| selector.selects(plan.object.namespace, &plan.labels);
        let Some(plan) = workloads.iter().find(in_front_of) else {
            return Ok(None);
        };
        let root = object.view();
        root.check_shared()?;
        let Some(spec) = root.open("spec")? else { return Ok(None) };
        let mut service = Self {
            object,
            changes: Vec::new(),
            notes: Vec::new(),
        };
        let ports = spec.open("ports")?.map_or(Ok(Vec::new()), |ports| ports.items())?;
        for (at, port) in ports.into_iter().enumerate() {
            service.look_at(at, port, plan)?;
        }
        Ok(Some(service).filter(|service| !service.changes.is_empty() || !service.notes.is_empty()))
    }

    fn look_at(&mut self, at: usize, port: View<'a>, plan: &Plan<'_>) -> Result<(), Refusal> {
        port.check_shared()?;
        let target = port.open("targetPort")?;
        let number = port.get("port")?.ok_or_else(|| port.refuse_key("port", "is missing"))?;
        let leads_to = target.unwrap_or(number).text()?;
        let is_app = leads_to == plan.app_port.to_string() || plan.port_names.contains(&leads_to);
        if is_app && port.get_text("protocol")?.is_none_or(|protocol| protocol == "TCP") {
            let node = target.map(|view| view.node);
            if let Some(view) = target.filter(|view| view.node.has_tag || view.node.anchor != 0 || view.node.is_block_scalar) {
                return Err(view.refuse("has a tag, an anchor or a block (`|`, `>`); write it plainly"));
            }
            self.changes.push(ServiceChange { at, port, target: node });
            self.notes.push(format!(
                "port {} leads to the gate ({PROXY_PORT}) instead of to the app ({leads_to})",
                number.text()?
            ));
        } else if leads_to != PROXY_PORT.to_string() {
            self.notes.push(format!(
                "port {} leads to {leads_to}, which the gate is not in front of",
                number.text()?
            ));
        }
        Ok(())
    }

    pub fn edit(&self, editor: &mut Editor<'_>) -> Result<(), Refusal> {
        if self.changes.is_empty() {
            return Ok(());
        }
        let mut record = Record::new();
        for change in &self.changes {
            record.ports.push(PortRecord {
                at: change.at,
                target: change.target.map(|target| editor.source(target).to_owned()),
            });
            match change.target {
                Some(target) => editor.replace(target, PROXY_PORT.to_string()),
                None => editor
                    .prepend_entry(change.port.node, "targetPort", &PROXY_PORT.to_string())
                    .map_err(|reason| change.port.refuse(reason))?,
            }
        }
        annotate(&self.object.view(), record, editor)
    }
}

/// Gives the ports of a Service their own targets back.
pub(super) fn restore(spec: &Node, records: &[PortRecord], editor: &mut Editor<'_>) -> Result<(), &'static str> {
    let ports = spec.value("ports").map(Node::items).unwrap_or_default();
    for record in records {
        let Some(port) = ports.get(record.at) else { continue };
        let Some(target) = port.value("targetPort") else { continue };
        // a port that was changed after inject is left as it is
        if target.text() != Some(&PROXY_PORT.to_string()) {
            continue;
        }
        match &record.target {
            Some(old) => editor.replace(target, old.clone()),
            None => editor.remove_first_entry(port, "targetPort")?,
        }
    }
    Ok(())
}
