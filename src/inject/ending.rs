//! The end of a pod: the app's SIGTERM waits for the gate's drain, and there is time for both (docs/decisions/0044).

use super::edit::Editor;
use super::record::Record;
use super::sidecar::ADMIN_PORT;
use super::tree::{Entry, Node};
use super::value::Value;
use super::view::{Refusal, View};

/// Answers when the requests in flight are finished.
const DRAINED: &str = "/drained";
/// The drain with its default times, fifteen seconds for the app's own end, and five for the kubelet; as in the chart.
const GRACE_SECONDS: u64 = 55;
const GRACE: &str = "terminationGracePeriodSeconds";
const LIFECYCLE: &str = "lifecycle";
const PRE_STOP: &str = "preStop";

/// The changes to a pod's end.
pub(super) struct EndingPlan<'a> {
    hook: Hook<'a>,
    grace: Grace<'a>,
}

enum Hook<'a> {
    /// The container has a hook of its own.
    Own,
    /// The container has this `lifecycle`, without a hook.
    In(&'a Node),
    /// The container has no `lifecycle`, or this null.
    New(Option<&'a Entry>),
}

enum Grace<'a> {
    Enough,
    New,
    TooShort(&'a Node),
}

impl<'a> EndingPlan<'a> {
    pub fn read(spec: &View<'a>, container: &View<'a>) -> Result<Self, Refusal> {
        let hook = match container.open(LIFECYCLE)? {
            None => Hook::New(container.entry(LIFECYCLE)?),
            Some(lifecycle) if lifecycle.entry(PRE_STOP)?.is_some() => Hook::Own,
            Some(lifecycle) => Hook::In(lifecycle.node),
        };
        let grace = match (spec.open(GRACE)?, spec.entry(GRACE)?) {
            (Some(view), _) => {
                let seconds = view.text()?.parse::<u64>();
                let seconds = seconds.map_err(|_why| view.refuse("is not a number of seconds"))?;
                let is_plain = !view.node.has_tag && view.node.anchor == 0 && !view.node.is_block_scalar;
                match seconds >= GRACE_SECONDS {
                    true => Grace::Enough,
                    false if is_plain => Grace::TooShort(view.node),
                    false => return Err(view.refuse("has a tag, an anchor or a block (`|`, `>`); write it plainly")),
                }
            }
            (None, None) => Grace::New,
            (None, Some(_)) => return Err(spec.refuse_key(GRACE, "is null; remove it, or write a number")),
        };
        Ok(Self { hook, grace })
    }

    /// A sentence for the user.
    pub fn note(&self, container: &str) -> String {
        match self.hook {
            Hook::Own => format!(
                "`{container}` keeps its own preStop, so its end does not wait for the gate's drain; let the hook wait for \
                 http://127.0.0.1:{ADMIN_PORT}{DRAINED}"
            ),
            Hook::In(_) | Hook::New(_) => format!("the end of `{container}` waits for the gate's drain (preStop)"),
        }
    }

    /// Writes the hook. Returns the entry that the pod's `spec` lacks, if any.
    pub fn edit(
        &self,
        container: &View<'_>,
        record: &mut Record,
        editor: &mut Editor<'_>,
    ) -> Result<Option<(String, Value)>, &'static str> {
        let map = |key: &str, value: Value| vec![(key.to_owned(), value)];
        let request = Value::Map(vec![
            ("path".to_owned(), Value::Plain(DRAINED.to_owned())),
            ("port".to_owned(), Value::Plain(ADMIN_PORT.to_string())),
        ]);
        let hook = map(PRE_STOP, Value::Map(map("httpGet", request)));
        match self.hook {
            Hook::Own => {}
            Hook::In(lifecycle) => {
                record.hook = Some(PRE_STOP.to_owned());
                editor.append_to_map(lifecycle, hook)?;
            }
            Hook::New(Some(null)) => {
                record.hook = Some(PRE_STOP.to_owned());
                record.note_null(null);
                editor.append_entries(null, hook)?;
            }
            Hook::New(None) => {
                record.hook = Some(LIFECYCLE.to_owned());
                editor.append_to_map(container.node, map(LIFECYCLE, Value::Map(hook)))?;
            }
        }
        match self.grace {
            Grace::Enough => Ok(None),
            Grace::TooShort(node) => {
                record.grace = Some(editor.source(node).to_owned());
                editor.replace(node, GRACE_SECONDS.to_string());
                Ok(None)
            }
            Grace::New => {
                record.created.push(GRACE.to_owned());
                Ok(Some((GRACE.to_owned(), Value::Plain(GRACE_SECONDS.to_string()))))
            }
        }
    }
}

/// Takes the hook and the grace period out again, unless they were changed since.
pub(super) fn restore(
    spec: &Node,
    container: Option<&Node>,
    record: &Record,
    editor: &mut Editor<'_>,
) -> Result<(), &'static str> {
    let grace = spec
        .value(GRACE)
        .filter(|node| node.text() == Some(&GRACE_SECONDS.to_string()));
    if let Some(node) = grace {
        match &record.grace {
            Some(old) => editor.replace(node, old.clone()),
            None if record.has_created(GRACE) => editor.remove_entry(spec, GRACE)?,
            None => {}
        }
    }
    let lifecycle = container.and_then(|container| Some((container, container.value(LIFECYCLE)?)));
    let Some((container, lifecycle)) = lifecycle.filter(|_| record.hook.is_some()) else {
        return Ok(());
    };
    let request = lifecycle.value(PRE_STOP).and_then(|hook| hook.value("httpGet"));
    let path = request.and_then(|request| request.value("path")).and_then(Node::text);
    if path != Some(DRAINED) {
        return Ok(());
    }
    let is_alone = lifecycle.entries().len() == 1;
    match record.nulls.get(LIFECYCLE) {
        Some(word) if is_alone => {
            editor.replace(lifecycle, word.clone());
            Ok(())
        }
        _ if is_alone && record.hook.as_deref() == Some(LIFECYCLE) => editor.remove_entry(container, LIFECYCLE),
        _ => editor.remove_entry(lifecycle, PRE_STOP),
    }
}
