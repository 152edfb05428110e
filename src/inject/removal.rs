//! Takes the sidecar out again, as the record in the annotation says.

use super::edit::Editor;
use super::ending;
use super::manifest::{ManifestKind, Object};
use super::probes;
use super::record::{ANNOTATION, Record};
use super::service;
use super::sidecar::CONTAINER;
use super::tree::Node;
use super::view::{Refusal, View};

/// Writes the removal of what inject added to an object. False if it added nothing.
pub(super) fn remove(object: &Object<'_>, editor: &mut Editor<'_>) -> Result<bool, Refusal> {
    // an object that cannot be read here has no record either
    let Ok(owner) = object.template() else { return Ok(false) };
    let Some(record) = Record::of(owner.node.value("metadata")) else {
        return Ok(false);
    };
    let record = record.map_err(|reason| owner.refuse_key("metadata", format!("annotation `{ANNOTATION}` {reason}")))?;
    let Some(spec) = owner.node.value("spec") else {
        return Ok(false);
    };
    let done = if object.kind == ManifestKind::Service {
        service::restore(spec, &record.ports, editor)
    } else {
        remove_sidecar(spec, &record, editor)
    };
    let done = done.and_then(|()| remove_annotation(&owner, &record, editor));
    done.map_err(|reason| owner.refuse(reason))?;
    Ok(true)
}

fn remove_sidecar(spec: &Node, record: &Record, editor: &mut Editor<'_>) -> Result<(), &'static str> {
    let is_ours = |item: &Node| item.value("name").and_then(Node::text) == Some(CONTAINER);
    for list in ["initContainers", "containers"] {
        remove_from(spec, list, record, &is_ours, editor)?;
    }
    let is_our_volume = |item: &Node| {
        let name = item.value("name").and_then(Node::text);
        name.is_some_and(|name| record.volumes.iter().any(|own| own == name))
    };
    remove_from(spec, "volumes", record, &is_our_volume, editor)?;
    let containers = spec.value("containers").map(Node::items).unwrap_or_default();
    let app = containers.iter().find(|item| {
        let name = item.value("name").and_then(Node::text);
        name.is_some() && name == record.container.as_deref()
    });
    ending::restore(spec, app, record, editor)?;
    match app {
        Some(app) => probes::restore(app, &record.probes, editor),
        None => Ok(()),
    }
}

fn remove_from(
    spec: &Node,
    key: &str,
    record: &Record,
    is_ours: &dyn Fn(&Node) -> bool,
    editor: &mut Editor<'_>,
) -> Result<(), &'static str> {
    let Some(list) = spec.value(key) else { return Ok(()) };
    let is_all_ours = list.items().iter().all(is_ours);
    match record.nulls.get(key).filter(|_| is_all_ours) {
        Some(word) => {
            editor.replace(list, word.clone());
            return Ok(());
        }
        None if record.has_created(key) && is_all_ours => return editor.remove_entry(spec, key),
        None => {}
    }
    editor.remove_items(list, is_ours)
}

fn remove_annotation(owner: &View<'_>, record: &Record, editor: &mut Editor<'_>) -> Result<(), &'static str> {
    let metadata = owner.node.value("metadata");
    let Some((metadata, annotations)) = metadata.and_then(|metadata| Some((metadata, metadata.value("annotations")?))) else {
        return Ok(());
    };
    let is_alone = |node: &Node| node.entries().len() == 1;
    for (key, node) in [("metadata", metadata), ("annotations", annotations)] {
        if let Some(word) = record.nulls.get(key).filter(|_| is_alone(node) && is_alone(annotations)) {
            editor.replace(node, word.clone());
            return Ok(());
        }
    }
    if record.has_created("metadata") && is_alone(metadata) && is_alone(annotations) {
        return editor.remove_entry(owner.node, "metadata");
    }
    if (record.has_created("annotations") || record.has_created("metadata")) && is_alone(annotations) {
        return editor.remove_entry(metadata, "annotations");
    }
    editor.remove_entry(annotations, ANNOTATION)
}
