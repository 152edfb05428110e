//! The report of a replay.

use serde_json::{Value, json};

use crate::base::terminal::counted;
use crate::cli::Paint;
use crate::cli::logs::{ChangedDecisions, example_json, totals_json};
use crate::cli::report::{ReportPart, Table, markdown, text};
use crate::cli::tree::PortalLoad;
use crate::replay::{DecisionChange, Example, FlipGroup, FlipKey, Flips, Totals};

pub(crate) struct Report<'a> {
    pub flips: &'a Flips<'a>,
    pub totals: &'a Totals,
    pub loads: &'a [PortalLoad<'a>],
}

impl Report<'_> {
    pub fn text(&self, paint: Paint) -> String {
        text::parts(&self.parts(), paint)
    }

    pub fn markdown(&self) -> String {
        markdown::parts(&self.parts())
    }

    fn parts(&self) -> Vec<ReportPart> {
        let mut parts = vec![ReportPart::Lines(format!("{}\n", self.headline()))];
        for change in [DecisionChange::NewlyAllowed, DecisionChange::NewlyDenied] {
            let changed = ChangedDecisions {
                change,
                title: title(change),
                count: self.flips.count(change),
                groups: self.table(change),
            };
            parts.extend(changed.parts());
        }
        parts.push(ReportPart::Lines(self.rest()));
        parts
    }

    fn headline(&self) -> String {
        let Flips { records, replayed, .. } = self.flips;
        let portals: Vec<String> = self.loads.iter().filter_map(portal_text).collect();
        let decisions = counted(*records, "recorded decision", "recorded decisions");
        format!("{replayed} of {decisions} replayed ({})", portals.join(", "))
    }

    /// Most frequent first.
    fn groups(&self, change: DecisionChange) -> Vec<(&FlipKey, &FlipGroup)> {
        let mut groups: Vec<_> = self.flips.groups.iter().filter(|(key, _)| key.change == change).collect();
        groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.records));
        groups
    }

    fn table(&self, change: DecisionChange) -> Table {
        let groups = self.groups(change).into_iter();
        let rows = groups.map(|(key, group)| {
            let policies = key.policies.join(", ");
            let by = match (change, key.denial.as_str()) {
                (DecisionChange::NewlyAllowed, _) => policies,
                (DecisionChange::NewlyDenied, "forbidden") => format!("forbidden by {policies}"),
                (DecisionChange::NewlyDenied, "not_permitted") => format!("no longer {policies}"),
                (DecisionChange::NewlyDenied, denial) => format!("{denial} {policies}"),
            };
            vec![
                group.records.to_string(),
                key.portal.clone(),
                roles(&key.roles),
                by,
                group.examples.first().map(example).unwrap_or_default(),
                group
                    .examples
                    .first()
                    .map(|first| first.decision_id.clone())
                    .unwrap_or_default(),
            ]
        });
        Table {
            head: &["records", "portal", "roles", "policies", "for example", "decision id"],
            rows: rows.collect(),
        }
    }

    /// What is no flip.
    fn rest(&self) -> String {
        let flips = self.flips;
        let mut text = String::new();
        if flips.ungrouped > 0 {
            text.push_str(&format!(
                "\n{} in more groups than are kept\n",
                counted(flips.ungrouped, "flip", "flips")
            ));
        }
        if flips.other_reason > 0 {
            let count = counted(flips.other_reason, "decision", "decisions");
            text.push_str(&format!("\nthe same outcome by another policy or reason: {count}\n"));
        }
        let not_replayed: u64 = flips.not_replayed.values().sum();
        if not_replayed > 0 {
            text.push_str(&format!("\nnot replayed: {not_replayed}\n"));
            let mut reasons: Vec<_> = flips.not_replayed.iter().collect();
            reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            for (why, count) in reasons {
                text.push_str(&format!("  {count:>7}  {why}\n"));
            }
        }
        text
    }

    pub fn json(&self) -> Value {
        let flips = self.flips;
        let groups = [DecisionChange::NewlyAllowed, DecisionChange::NewlyDenied]
            .into_iter()
            .flat_map(|change| self.groups(change));
        let groups = groups.map(|(key, group)| {
            json!({
                "change": key.change.as_str(),
                "portal": key.portal,
                "roles": key.roles,
                "policies": key.policies,
                "denial": key.denial,
                "records": group.records,
                "decisions": group.decisions,
                "examples": group.examples.iter().map(example_json).collect::<Vec<_>>(),
            })
        });
        let not_replayed = flips
            .not_replayed
            .iter()
            .map(|(why, count)| json!({"reason": why.code(), "detail": why.to_string(), "records": count}));
        let portals = self
            .loads
            .iter()
            .filter_map(|load| Some(json!({"portal": load.portal.slug.as_str(), "revision": *load.revision.as_ref()?.id})));
        json!({
            "records": flips.records,
            "replayed": flips.replayed,
            "newly_allowed": flips.count(DecisionChange::NewlyAllowed),
            "newly_denied": flips.count(DecisionChange::NewlyDenied),
            "other_reason": flips.other_reason,
            "ungrouped_flips": flips.ungrouped,
            "flips": groups.collect::<Vec<_>>(),
            "not_replayed": not_replayed.collect::<Vec<_>>(),
            "portals": portals.collect::<Vec<_>>(),
            "log": totals_json(self.totals),
        })
    }
}

fn title(change: DecisionChange) -> &'static str {
    match change {
        DecisionChange::NewlyAllowed => "newly allowed",
        DecisionChange::NewlyDenied => "newly denied",
    }
}

fn portal_text(load: &PortalLoad<'_>) -> Option<String> {
    Some(format!("{} {}", load.portal.slug, load.revision.as_ref()?.id))
}

fn roles(roles: &[String]) -> String {
    if roles.is_empty() {
        return "-".to_owned();
    }
    roles.join(", ")
}

fn example(example: &Example) -> String {
    example.question.clone()
}
