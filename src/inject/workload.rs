//! One workload: what keeps it from getting the sidecar, its app's container and port, and the edits that add the
//! sidecar.

use super::edit::Editor;
use super::ending::EndingPlan;
use super::manifest::{ManifestKind, Object};
use super::ports::{ContainerPorts, DeclaredPort};
use super::probes::ProbePlan;
use super::record::{ANNOTATION, Record};
use super::sidecar::{ADMIN_PORT, CONTAINER, PORTS, PROXY_PORT, Sidecar, Variable};
use super::tree::Entry;
use super::value::Value;
use super::view::{Refusal, View};
use super::{Mode, Options, PortChoice};

/// A workload that can get the sidecar.
pub(super) struct Plan<'a> {
    pub object: &'a Object<'a>,
    template: View<'a>,
    spec: View<'a>,
    container: View<'a>,
    /// Name of the app's container.
    name: &'a str,
    pub app_port: u16,
    /// The names of that port in the pod.
    pub port_names: Vec<&'a str>,
    /// Labels of the pods.
    pub labels: Vec<(&'a str, &'a str)>,
    probes: ProbePlan<'a>,
    ending: EndingPlan<'a>,
    sidecar: Sidecar,
    mode: Mode,
    /// What the user must know and do.
    pub notes: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Reads a workload. Nothing is changed yet.
    pub fn read(object: &'a Object<'a>, options: &Options) -> Result<Self, Refusal> {
        let template = object.template()?;
        let spec = template
            .open("spec")?
            .ok_or_else(|| template.refuse_key("spec", "is missing"))?;
        if object.kind != ManifestKind::Pod && object.kind != ManifestKind::Workload && options.mode == Mode::Classic {
            return Err(spec.refuse("a Job with a classic sidecar never ends; use --mode native"));
        }
        refuse_host_network(&spec)?;
        let containers = spec
            .open("containers")?
            .ok_or_else(|| spec.refuse_key("containers", "is missing"))?;
        let init = spec.open("initContainers")?;
        let mut all = containers.items()?;
        all.extend(init.map_or(Ok(Vec::new()), |init| init.items())?);
        refuse_clashes(&all)?;
        let container = app_container(&containers, options)?;
        container.check_shared()?;
        let name = container
            .get_text("name")?
            .ok_or_else(|| container.refuse_key("name", "is missing"))?;
        let ports = ContainerPorts::read(&container)?;
        let (app_port, port_names) = app_port(&container, &ports, options)?;
        let mut probes = ProbePlan::default();
        if !options.keep_probes {
            probes = ProbePlan::read(&container, &ports)?;
        }
        let sidecar = Sidecar::new(options, &variables(app_port, &probes)).map_err(|message| spec.refuse(message))?;
        let volumes = spec.open("volumes")?;
        refuse_volume_clash(volumes, &sidecar)?;
        let metadata = template.open("metadata")?;
        if let Some(metadata) = metadata {
            metadata.open("annotations")?;
        }
        let mut plan = Self {
            object,
            template,
            spec,
            container,
            name,
            app_port,
            port_names,
            labels: object.pod_labels(),
            probes,
            ending: EndingPlan::read(&spec, &container)?,
            sidecar,
            mode: options.mode,
            notes: Vec::new(),
        };
        plan.note(options, &ports)?;
        Ok(plan)
    }

    /// Writes the sidecar into the text.
    pub fn edit(&self, editor: &mut Editor<'_>) -> Result<(), Refusal> {
        let mut record = Record::new();
        record.container = Some(self.name.to_owned());
        record.volumes = self.sidecar.volume_names();
        let list = match self.mode {
            Mode::Native => "initContainers",
            Mode::Classic => "containers",
        };
        let mut added = Vec::new();
        for (key, values) in [
            (list, vec![self.sidecar.container.clone()]),
            ("volumes", self.sidecar.volumes.clone()),
        ] {
            match self.spec.entry(key)? {
                Some(entry) => {
                    record.note_null(entry);
                    let appended = editor.append_items(entry, &values);
                    appended.map_err(|reason| self.spec.refuse_key(key, reason))?;
                }
                None => {
                    record.created.push(key.to_owned());
                    added.push((key.to_owned(), Value::List(values)));
                }
            }
        }
        let ending = self.ending.edit(&self.container, &mut record, editor);
        added.extend(ending.map_err(|reason| self.container.refuse(reason))?);
        if !added.is_empty() {
            editor
                .append_to_map(self.spec.node, added)
                .map_err(|reason| self.spec.refuse(reason))?;
        }
        record.probes = self.probes.edit(editor).map_err(|reason| self.container.refuse(reason))?;
        annotate(&self.template, record, editor)
    }

    fn note(&mut self, options: &Options, ports: &ContainerPorts<'_>) -> Result<(), Refusal> {
        let name = self.name;
        let port = self.app_port;
        self.notes.push(format!(
            "added the sidecar ({}); it forwards to 127.0.0.1:{port}, container `{name}`",
            self.mode.name()
        ));
        if !self.probes.is_empty() {
            let kinds: Vec<&str> = self.probes.settings.iter().map(|(kind, _)| kind.as_str()).collect();
            self.notes
                .push(format!("probes of `{name}` go through the gate: {}", kinds.join(", ")));
        }
        self.notes.push(format!(
            "let the app listen on 127.0.0.1:{port} only; at the pod's address it can be reached around the gate"
        ));
        let others: Vec<String> = ports
            .0
            .iter()
            .filter(|other| other.number != port)
            .map(|other| other.number.to_string())
            .collect();
        if !others.is_empty() {
            self.notes.push(format!(
                "the gate is not in front of the container's other ports: {}",
                others.join(", ")
            ));
        }
        self.notes.push(self.ending.note(name));
        for hook in ["postStart", "preStop"] {
            let hook_view = self
                .container
                .get("lifecycle")?
                .map_or(Ok(None), |lifecycle| lifecycle.get(hook))?;
            if hook_view.is_some_and(|hook| hook.node.value("httpGet").is_some()) {
                self.notes.push(format!("lifecycle.{hook} of `{name}` is an HTTP request of the kubelet, which does not reach loopback; make it `exec`"));
            }
        }
        if options.mode == Mode::Classic && self.container.get("startupProbe")?.is_none() && !self.probes.is_empty() {
            self.notes
                .push("with a classic sidecar the app may start before the gate, and its first probes then fail".to_owned());
        }
        Ok(())
    }
}

/// The gate's settings that depend on this pod; they win over the configuration file.
fn variables(app_port: u16, probes: &ProbePlan<'_>) -> Vec<Variable> {
    let mut variables = vec![("CEDARGATE_UPSTREAM__URL", format!("http://127.0.0.1:{app_port}"))];
    if !probes.is_empty() {
        variables.push(("CEDARGATE_UPSTREAM__PROBES", Value::Map(probes.settings.clone()).flow()));
    }
    variables
}

fn refuse_host_network(spec: &View<'_>) -> Result<(), Refusal> {
    match spec.get("hostNetwork")? {
        Some(view) if view.text()? != "false" => {
            Err(view.refuse("with the host's network every process of the node reaches the app around the gate"))
        }
        _ => Ok(()),
    }
}

/// Refuses containers whose names or ports are the gate's.
fn refuse_clashes(containers: &[View<'_>]) -> Result<(), Refusal> {
    for container in containers {
        if container.get_text("name")? == Some(CONTAINER) {
            return Err(container.refuse(format!(
                "a container named `{CONTAINER}` is there that inject did not add; remove it, or keep it and do not inject"
            )));
        }
        for port in ContainerPorts::read(container)?.0 {
            if PORTS.contains(&port.number) {
                return Err(port.view.refuse(format!(
                    "port {} is one of the gate's own in the pod; choose another",
                    port.number
                )));
            }
        }
    }
    Ok(())
}

fn refuse_volume_clash(volumes: Option<View<'_>>, sidecar: &Sidecar) -> Result<(), Refusal> {
    let ours = sidecar.volume_names();
    for volume in volumes.map_or(Ok(Vec::new()), |volumes| volumes.items())? {
        if let Some(name) = volume.get_text("name")?.filter(|name| ours.iter().any(|own| own == name)) {
            return Err(volume.refuse(format!("a volume named `{name}` is there that inject did not add; rename it")));
        }
    }
    Ok(())
}

fn app_container<'a>(containers: &View<'a>, options: &Options) -> Result<View<'a>, Refusal> {
    let mut named = Vec::new();
    for container in containers.items()? {
        named.push((container.get_text("name")?.unwrap_or_default(), container));
    }
    let names = || named.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    match (&options.container, named.as_slice()) {
        (Some(wanted), _) => named
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, view)| *view)
            .ok_or_else(|| containers.refuse(format!("has no container `{wanted}` (--container); it has: {}", names()))),
        (None, [(_, only)]) => Ok(*only),
        (None, []) => Err(containers.refuse("is empty")),
        (None, _) => Err(containers.refuse(format!("which one is the app? name it with --container: {}", names()))),
    }
}

/// The app's port, and its names in the pod.
fn app_port<'a>(container: &View<'a>, ports: &ContainerPorts<'a>, options: &Options) -> Result<(u16, Vec<&'a str>), Refusal> {
    let listed = || {
        let texts = ports.0.iter().map(|port| match port.name {
            Some(name) => format!("{} ({name})", port.number),
            None => port.number.to_string(),
        });
        texts.collect::<Vec<_>>().join(", ")
    };
    let tcp: Vec<&DeclaredPort<'_>> = ports.0.iter().filter(|port| port.is_tcp).collect();
    let number = match &options.app_port {
        Some(PortChoice::Number(number)) => *number,
        Some(PortChoice::Name(name)) => tcp
            .iter()
            .find(|port| port.name == Some(name))
            .map(|port| port.number)
            .ok_or_else(|| {
                container.refuse_key(
                    "ports",
                    format!("has no port named `{name}` (--app-port); it has: {}", listed()),
                )
            })?,
        None => match tcp.as_slice() {
            [only] => only.number,
            [] => return Err(container.refuse_key("ports", "declares no TCP port; say where the app listens with --app-port")),
            _ => {
                return Err(container.refuse_key(
                    "ports",
                    format!("which one is the app's? say it with --app-port: {}", listed()),
                ));
            }
        },
    };
    if PORTS.contains(&number) {
        return Err(container.refuse_key(
            "ports",
            format!("the app's port {number} is one of the gate's own ({PROXY_PORT}, 8901, {ADMIN_PORT}); choose another"),
        ));
    }
    for port in ports.0.iter().filter(|port| port.number == number) {
        if let Some(host_port) = port.view.get("hostPort")? {
            return Err(host_port.refuse("leads from the node to the app around the gate; remove it"));
        }
    }
    let names = ports
        .0
        .iter()
        .filter(|port| port.number == number)
        .filter_map(|port| port.name);
    Ok((number, names.collect()))
}

/// Adds the record to the annotations of what has `metadata`.
pub(super) fn annotate(owner: &View<'_>, mut record: Record, editor: &mut Editor<'_>) -> Result<(), Refusal> {
    let own = |record: &Record| vec![(ANNOTATION.to_owned(), Value::text(record.text()))];
    let fail = |reason: &'static str| owner.refuse_key("metadata", reason);
    let Some(metadata) = owner.entry("metadata")? else {
        record.created.push("metadata".to_owned());
        let annotations = Value::Map(own(&record));
        let metadata = Value::Map(vec![("annotations".to_owned(), annotations)]);
        return editor
            .append_to_map(owner.node, vec![("metadata".to_owned(), metadata)])
            .map_err(fail);
    };
    let annotations: Option<&Entry> = owner.open("metadata")?.map_or(Ok(None), |view| view.entry("annotations"))?;
    record.note_null(metadata);
    match annotations {
        Some(annotations) => {
            record.note_null(annotations);
            editor.append_entries(annotations, own(&record)).map_err(fail)
        }
        None => {
            record.created.push("annotations".to_owned());
            let annotations = Value::Map(own(&record));
            editor
                .append_entries(metadata, vec![("annotations".to_owned(), annotations)])
                .map_err(fail)
        }
    }
}
