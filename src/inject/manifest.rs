//! Finds the objects of a stream: the workloads whose pods get the sidecar, and the Services in front of them.

use super::tree::{Entry, Node, YamlDocument};
use super::view::{Path, Refusal, View};

/// An object of the stream with a kind that inject knows.
#[derive(Debug)]
pub(super) struct Object<'a> {
    /// `Deployment/shop`.
    pub title: String,
    pub kind: ManifestKind,
    pub namespace: Option<&'a str>,
    pub document: &'a YamlDocument,
    pub node: &'a Node,
    /// Number of the text that it stands in.
    pub text: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ManifestKind {
    Pod,
    /// The pod's template is `spec.template`.
    Workload,
    /// As `Workload`; its pods end by themselves.
    Job,
    CronJob,
    Service,
}

/// The levels of Lists in Lists that are looked into.
const LISTS_MAX: usize = 4;

/// API groups (without version) and kinds that have pods. A kind of the same name in another group is another thing.
const KINDS: [(&str, &str, ManifestKind); 13] = [
    ("", "Pod", ManifestKind::Pod),
    ("", "ReplicationController", ManifestKind::Workload),
    ("", "Service", ManifestKind::Service),
    ("apps", "DaemonSet", ManifestKind::Workload),
    ("apps", "Deployment", ManifestKind::Workload),
    ("apps", "ReplicaSet", ManifestKind::Workload),
    ("apps", "StatefulSet", ManifestKind::Workload),
    ("argoproj.io", "Rollout", ManifestKind::Workload),
    ("batch", "CronJob", ManifestKind::CronJob),
    ("batch", "Job", ManifestKind::Job),
    ("extensions", "DaemonSet", ManifestKind::Workload),
    ("extensions", "Deployment", ManifestKind::Workload),
    ("extensions", "ReplicaSet", ManifestKind::Workload),
];

/// The known objects of a text's documents, in their order; items of Lists are objects of their own.
pub(super) fn objects(text: usize, documents: &[YamlDocument]) -> Vec<Object<'_>> {
    let mut found = Vec::new();
    for document in documents {
        collect(document, &document.root, LISTS_MAX, &mut found);
    }
    found.iter_mut().for_each(|object| object.text = text);
    found
}

fn collect<'a>(document: &'a YamlDocument, node: &'a Node, lists: usize, found: &mut Vec<Object<'a>>) {
    let text = |node: &'a Node, key: &str| node.value(key).and_then(Node::text);
    let (Some(version), Some(kind)) = (text(node, "apiVersion"), text(node, "kind")) else {
        return;
    };
    if kind.ends_with("List") && lists > 0 {
        let items = node.value("items").map(Node::items).unwrap_or_default();
        // an item of a typed list may leave its kind out; it is then passed through
        items.iter().for_each(|item| collect(document, item, lists - 1, found));
        return;
    }
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let Some((_, _, known)) = KINDS.iter().find(|(of, name, _)| *of == group && *name == kind) else {
        return;
    };
    let metadata = node.value("metadata");
    let field = |key| metadata.and_then(|metadata| text(metadata, key));
    let name = field("name").or_else(|| field("generateName")).unwrap_or("?");
    found.push(Object {
        title: format!("{kind}/{name}"),
        kind: *known,
        namespace: field("namespace"),
        document,
        node,
        text: 0,
    });
}

impl<'a> Object<'a> {
    /// The pod's template, if it can be reached without an alias.
    pub fn template_node(&self) -> Option<&'a Node> {
        self.steps().iter().try_fold(self.node, |node, step| node.value(step))
    }

    /// The labels of the pods.
    pub fn pod_labels(&self) -> Vec<(&'a str, &'a str)> {
        let metadata = self.template_node().and_then(|template| template.value("metadata"));
        labels(self.document, metadata.and_then(|metadata| metadata.value("labels")))
    }

    fn steps(&self) -> &'static [&'static str] {
        match self.kind {
            ManifestKind::Pod | ManifestKind::Service => &[],
            ManifestKind::Workload | ManifestKind::Job => &["spec", "template"],
            ManifestKind::CronJob => &["spec", "jobTemplate", "spec", "template"],
        }
    }
}

impl Object<'_> {
    pub fn view(&self) -> View<'_> {
        View {
            document: self.document,
            node: self.node,
            path: Path::new(&self.title),
        }
    }

    /// The pod's template (for a Pod the object itself): what has `metadata` and `spec`.
    pub fn template(&self) -> Result<View<'_>, Refusal> {
        let root = self.view();
        root.check_shared()?;
        let mut view = root;
        for step in self.steps() {
            view = match view.open(step)? {
                Some(below) => below,
                None => return Err(view.refuse_key(step, "is missing, so there is no pod to put the sidecar into")),
            };
        }
        Ok(view)
    }
}

/// Keys and values; an alias is followed.
pub(super) fn labels<'a>(document: &'a YamlDocument, node: Option<&'a Node>) -> Vec<(&'a str, &'a str)> {
    let Some(node) = node.map(|node| document.resolve(node)) else {
        return Vec::new();
    };
    let label = |entry: &'a Entry| Some((entry.name()?, document.resolve(&entry.value).text()?));
    node.entries().iter().filter_map(label).collect()
}
