//! `cedargate inject`: the sidecar into Kubernetes manifests, and out again. Text in, text out; no I/O.
//!
//! A manifest belongs to its authors, so it is never written anew from a parsed tree: comments, order and layout would
//! be lost. `tree` reads the text with the bytes of every node, `workload` and `service` decide what to change, and
//! `edit` changes these bytes alone. A record in an annotation holds what `removal` needs, so that injecting twice is
//! injecting once, and taking the sidecar out gives back the text before, byte for byte. `check` compares the result
//! with the text before, and a doubt is a refusal.
//!
//! Objects of other kinds pass through untouched.

mod check;
mod edit;
mod ending;
mod manifest;
mod ports;
mod probes;
mod record;
mod removal;
mod service;
mod sidecar;
#[cfg(test)]
mod tests;
mod tree;
mod value;
mod view;
mod workload;

use edit::Editor;
use manifest::{ManifestKind, Object, objects};
use service::ServicePlan;
use tree::{YamlDocument, parse};
pub use view::Refusal;
use workload::Plan;

/// Bytes of one text.
pub const TEXT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The form of the sidecar.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mode {
    /// An init container that keeps running (Kubernetes 1.29).
    #[default]
    Native,
    /// A container beside the app.
    Classic,
}

/// The names that the sidecar gets, and the choices where a manifest leaves some.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub mode: Mode,
    pub image: Option<String>,
    /// ConfigMaps; `None`: the chart's name.
    pub config_map: Option<String>,
    pub shared: Option<String>,
    pub schemas: Option<String>,
    /// Empty: the chart's example, one portal `app`.
    pub policies: Vec<PortalMaps>,
    pub app_port: Option<PortChoice>,
    pub container: Option<String>,
    /// `Deployment/shop`; empty: every workload.
    pub only: Vec<String>,
    pub keep_probes: bool,
}

/// The ConfigMaps with the policies of one portal.
#[derive(Clone, Debug)]
pub struct PortalMaps {
    pub slug: String,
    pub config_maps: Vec<String>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PortChoice {
    Number(u16),
    Name(String),
}

/// A text with its changes.
#[derive(Debug)]
pub struct Changed {
    pub text: String,
    pub changes: Vec<ManifestChange>,
}

/// The changes of one object.
#[derive(Debug)]
pub struct ManifestChange {
    /// `Deployment/shop`.
    pub object: String,
    pub notes: Vec<String>,
}

impl Mode {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Classic => "classic",
        }
    }
}

/// Adds the sidecar to every workload of the texts, or renews it. A Service may stand in another text than its
/// workload.
///
/// # Errors
/// The first object that cannot be edited safely. Nothing is changed then.
pub fn inject(texts: &[String], options: &Options) -> Result<Vec<Changed>, Refusal> {
    let removed = uninject(texts, options)?;
    let plain: Vec<&str> = removed.iter().map(|changed| changed.text.as_str()).collect();
    let documents = read_all(&plain)?;
    let objects: Vec<Object<'_>> = documents.iter().enumerate().flat_map(|(n, of)| objects(n, of)).collect();
    let workloads = objects.iter().filter(|object| options.wants(object));
    refuse_unknown(options, &objects)?;
    let plans: Vec<Plan<'_>> = workloads
        .map(|object| Plan::read(object, options).map_err(|refusal| refusal.in_text(object.text)))
        .collect::<Result<_, _>>()?;
    let mut edited: Vec<Edited<'_>> = plain.iter().map(|text| Edited::new(text)).collect();
    for object in &objects {
        let plan = plans.iter().find(|plan| std::ptr::eq(plan.object, object));
        if let Some(of_text) = edited.get_mut(object.text) {
            of_text
                .add(object, plan, &plans)
                .map_err(|refusal| refusal.in_text(object.text))?;
        }
    }
    let results = edited.into_iter().zip(&plain).enumerate();
    results
        .map(|(n, (edited, before))| edited.finish_checked(before).map_err(|refusal| refusal.in_text(n)))
        .collect()
}

/// Takes the sidecar out of every object of the texts that has one.
///
/// # Errors
/// The first object that cannot be edited safely.
pub fn uninject(texts: &[String], options: &Options) -> Result<Vec<Changed>, Refusal> {
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let documents = read_all(&texts)?;
    let objects: Vec<Object<'_>> = documents.iter().enumerate().flat_map(|(n, of)| objects(n, of)).collect();
    // the Services of workloads that stay as they are stay, too
    let is_wanted = |object: &Object<'_>| {
        let workloads = objects.iter().filter(|object| options.wants(object));
        options.wants(object) || (object.kind == ManifestKind::Service && service::selects(object, workloads))
    };
    let mut edited: Vec<Edited<'_>> = texts.iter().map(|text| Edited::new(text)).collect();
    for object in objects.iter().filter(|object| options.only.is_empty() || is_wanted(object)) {
        if let Some(of_text) = edited.get_mut(object.text) {
            of_text.remove(object).map_err(|refusal| refusal.in_text(object.text))?;
        }
    }
    let results = edited.into_iter().enumerate();
    results
        .map(|(n, edited)| edited.finish().map_err(|refusal| refusal.in_text(n)))
        .collect()
}

/// One text under edit.
struct Edited<'a> {
    editor: Editor<'a>,
    changes: Vec<ManifestChange>,
}

impl<'a> Edited<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            editor: Editor::new(text),
            changes: Vec::new(),
        }
    }

    fn add(&mut self, object: &Object<'_>, plan: Option<&Plan<'_>>, plans: &[Plan<'_>]) -> Result<(), Refusal> {
        let notes = if let Some(plan) = plan {
            plan.edit(&mut self.editor)?;
            plan.notes.clone()
        } else if object.kind == ManifestKind::Service
            && let Some(service) = ServicePlan::read(object, plans)?
        {
            service.edit(&mut self.editor)?;
            service.notes
        } else {
            return Ok(());
        };
        self.changes.push(ManifestChange {
            object: object.title.clone(),
            notes,
        });
        Ok(())
    }

    fn remove(&mut self, object: &Object<'_>) -> Result<(), Refusal> {
        if removal::remove(object, &mut self.editor)? {
            self.changes.push(ManifestChange {
                object: object.title.clone(),
                notes: vec!["took out what inject had changed".to_owned()],
            });
        }
        Ok(())
    }

    /// A text that was edited by hand since inject could lose more than the sidecar; it must at least be YAML again.
    fn finish(mut self) -> Result<Changed, Refusal> {
        self.editor.join_end();
        let text = self.editor.finish();
        if !self.changes.is_empty() && parse(&text).is_err() {
            let reason = "would not be YAML without the sidecar; it was changed by hand, so take the sidecar out by hand, too";
            return Err(Refusal::of_text("", 1, reason));
        }
        Ok(Changed {
            text,
            changes: self.changes,
        })
    }

    /// INVARIANT: the way back leads to the text before, and no value but ours differs.
    fn finish_checked(self, before: &str) -> Result<Changed, Refusal> {
        let text = self.editor.finish();
        let without = |text: &str| {
            let removed = uninject(&[text.to_owned()], &Options::default())?;
            Ok::<_, Refusal>(removed.into_iter().map(|changed| changed.text).collect::<String>())
        };
        let doubt = check::difference(before, &text);
        let doubt = match doubt {
            None if without(&text)? != without(before)? => Some("the way back".to_owned()),
            doubt => doubt,
        };
        match doubt {
            None => Ok(Changed {
                text,
                changes: self.changes,
            }),
            Some(field) => Err(Refusal::of_text(
                field,
                1,
                "has a layout that cannot be edited safely; write it in plain block YAML, and report this as a bug",
            )),
        }
    }
}

impl Options {
    /// True for a workload that gets the sidecar.
    fn wants(&self, object: &Object<'_>) -> bool {
        object.kind != ManifestKind::Service && (self.only.is_empty() || self.only.contains(&object.title))
    }
}

/// A name that no workload has would silently inject nothing.
fn refuse_unknown(options: &Options, objects: &[Object<'_>]) -> Result<(), Refusal> {
    let titles: Vec<&str> = objects
        .iter()
        .filter(|object| object.kind != ManifestKind::Service)
        .map(|object| object.title.as_str())
        .collect();
    match options.only.iter().find(|wanted| !titles.contains(&wanted.as_str())) {
        None => Ok(()),
        Some(unknown) => {
            let reason = format!("has no workload `{unknown}` (--only); it has: {}", titles.join(", "));
            Err(Refusal::of_text("", 1, reason))
        }
    }
}

fn read_all(texts: &[&str]) -> Result<Vec<Vec<YamlDocument>>, Refusal> {
    let read = |(n, text): (usize, &&str)| read(text).map_err(|refusal| refusal.in_text(n));
    texts.iter().enumerate().map(read).collect()
}

fn read(text: &str) -> Result<Vec<YamlDocument>, Refusal> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(Refusal::of_text("", 1, format!("is larger than {TEXT_BYTES_MAX} bytes")));
    }
    parse(text).map_err(|error| {
        let hint = "it looks like a template (`{{ … }}`); render it first, such as with `helm template … | cedargate inject`";
        let reason = if text.contains("{{") {
            format!("is not YAML: {}; {hint}", error.message)
        } else {
            format!("is not YAML: {}", error.message)
        };
        Refusal::of_text("", error.line, reason)
    })
}
