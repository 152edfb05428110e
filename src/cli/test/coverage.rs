//! The report of `--coverage`: what the cases reach of policies and clauses.

use std::collections::BTreeMap;
use std::fmt;

use cedargate_policy::decision::coverage::{ClauseCoverage, Points, PolicyCoverage};
use serde_json::{Value, json};

use crate::cli::Paint;
use crate::cli::report::Suite;
use crate::cli::report::text::escaped;

/// The policies of every portal, by folder, and how much of them the cases reach.
pub(super) struct TestReach {
    groups: Vec<FolderReach>,
    pub points: Points,
}

/// The policies of a portal's folder, or of `_shared`.
struct FolderReach {
    name: String,
    policies: Vec<PolicyCoverage>,
}

/// A percentage that a user wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Percent(f64);

impl Percent {
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = text.trim_end_matches('%').parse::<f64>().ok();
        let number = number.filter(|number| (0.0..=100.0).contains(number));
        number.map(Self).ok_or_else(|| "a number from 0 to 100".to_owned())
    }

    pub fn is_reached(self, points: Points) -> bool {
        as_float(points.reached) * 100.0 >= self.0 * as_float(points.all)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of clauses is far below 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}

/// Tenths of a percent, rounded down: only complete coverage is 100.
fn tenths(points: Points) -> usize {
    (points.reached * 1000).checked_div(points.all).unwrap_or(1000)
}

fn percent(points: Points) -> String {
    let tenths = tenths(points);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn sum<'a>(policies: impl IntoIterator<Item = &'a PolicyCoverage>) -> Points {
    policies.into_iter().fold(Points::default(), |sum, policy| {
        let Points { reached, all } = policy.points();
        Points {
            reached: sum.reached + reached,
            all: sum.all + all,
        }
    })
}

impl TestReach {
    /// `policies` holds the policies of each suite. A shared policy is reached if the cases of any portal reach it.
    pub fn of(suites: &[Suite], policies: Vec<Vec<PolicyCoverage>>) -> Self {
        let mut groups = Vec::new();
        let mut shared: BTreeMap<(String, String), PolicyCoverage> = BTreeMap::new();
        for (suite, policies) in suites.iter().zip(policies) {
            let (of_all, own): (Vec<_>, Vec<_>) = policies
                .into_iter()
                .partition(|policy| policy.info.place.starts_with("policies/_shared/"));
            for policy in of_all {
                let key = (policy.info.place.clone(), policy.info.id.to_string());
                match shared.get_mut(&key) {
                    Some(known) => known.merge(&policy),
                    None => drop(shared.insert(key, policy)),
                }
            }
            groups.push(FolderReach {
                name: suite.portal.clone(),
                policies: own,
            });
        }
        if !shared.is_empty() {
            groups.push(FolderReach {
                name: "_shared".to_owned(),
                policies: shared.into_values().collect(),
            });
        }
        let points = sum(groups.iter().flat_map(|group| &group.policies));
        Self { groups, points }
    }

    pub fn percent(&self) -> String {
        percent(self.points)
    }

    pub fn as_text(&self, paint: Paint) -> String {
        let mut text = String::from("\ncoverage\n");
        for FolderReach { name, policies } in &self.groups {
            text.push_str(&format!("{name}: {}\n", percent(sum(policies))));
            text.extend(policies.iter().map(|policy| gaps(policy, paint)));
        }
        text.push_str(&format!("all: {}\n", self.percent()));
        text
    }

    pub fn as_json(&self) -> Value {
        let groups = self.groups.iter().map(|FolderReach { name, policies }| {
            let points = sum(policies);
            let policies: Vec<Value> = policies.iter().map(policy_json).collect();
            json!({"name": name, "reached": points.reached, "all": points.all, "policies": policies})
        });
        let groups: Vec<Value> = groups.collect();
        let Points { reached, all } = self.points;
        json!({"percent": as_float(tenths(self.points)) / 10.0, "reached": reached, "all": all, "groups": groups})
    }
}

/// The lines about a policy that is not reached completely.
fn gaps(policy: &PolicyCoverage, paint: Paint) -> String {
    let id = escaped(&policy.info.id);
    let mut text = String::new();
    let is_untouched = !policy.clauses.iter().any(|clause| clause.was_true || clause.was_false);
    if !policy.decides {
        let label = paint.yellow("not covered:");
        text.push_str(&format!("  {label} {id}  {}\n", paint.dim(&policy.info.place)));
        if is_untouched {
            return text;
        }
    }
    for clause in &policy.clauses {
        let missing = match (clause.was_true, clause.was_false) {
            (true, true) => continue,
            (true, false) => "never false:",
            (false, true) => "never true:",
            (false, false) => "never evaluated:",
        };
        let written = escaped(&clause.text);
        let place = clause_place(policy, clause);
        text.push_str(&format!(
            "  {} {written}  {}\n",
            paint.yellow(missing),
            paint.dim(&format!("{place} ({id})"))
        ));
    }
    text
}

/// File and line of a clause; those of the policy if the clause has none.
fn clause_place(policy: &PolicyCoverage, clause: &ClauseCoverage) -> String {
    let place = &policy.info.place;
    let moved = clause.line_offset.and_then(|offset| {
        let (file, line) = place.rsplit_once(':')?;
        Some(format!("{file}:{}", line.parse::<usize>().ok()? + offset))
    });
    moved.unwrap_or_else(|| place.clone())
}

fn policy_json(policy: &PolicyCoverage) -> Value {
    let clauses = policy.clauses.iter().map(|clause| {
        json!({"text": clause.text, "place": clause_place(policy, clause), "was_true": clause.was_true,
            "was_false": clause.was_false})
    });
    let clauses: Vec<Value> = clauses.collect();
    json!({"policy": &*policy.info.id, "place": policy.info.place, "decides": policy.decides, "clauses": clauses})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_a_number_up_to_100_and_is_reached_exactly() {
        for wrong in ["-1", "101", "NaN", "x", "", "1e9"] {
            assert!(Percent::parse(wrong).is_err(), "{wrong}");
        }
        let points = |reached, all| Points { reached, all };
        assert!(Percent::parse("33.3%").unwrap().is_reached(points(1, 3)));
        assert!(!Percent::parse("33.4").unwrap().is_reached(points(1, 3)));
        assert!(Percent::parse("100").unwrap().is_reached(points(0, 0)));
        assert_eq!(percent(points(1999, 2000)), "99.9 %");
        assert_eq!(percent(points(0, 0)), "100.0 %");
    }
}
