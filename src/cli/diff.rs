//! `cedargate diff OLD NEW`: what an edit changes before it takes effect: policies, other files, decisions; with
//! `--prove`, also whether any request at all is newly allowed.

pub(super) mod changes;
mod flips;
pub(super) mod git;
mod json;
mod logs;
mod markdown;
mod proof;
pub(super) mod sides;
mod text;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::changes::{ChangeKind, FileChange, PolicyChange};
use self::flips::{Direction, TestFlips};
use self::logs::LogFlips;
use self::proof::Proof;
use self::sides::{LoadedPortal, Rejected, Side};
use serde_json::Value;

use super::config_file::ConfigFile;
use super::report::{Format, Writers, json as json_report};
use super::tree::{TreeArgs, Workbench};
use super::{Exit, Paint, complain, print};
use crate::prove::{NoSolver, Prover};
use crate::workbench::{Datum, standalone};

/// Time for the proofs of one comparison.
pub(super) const PROVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Compare two policy trees: policies by id, other files, decisions over the tests of both, and proofs
#[derive(clap::Args)]
#[command(
    after_help = "OLD and NEW are each a folder with `policies/` and `schemas/` in it, a configuration file, a bundle, or a git revision: \
                        `HEAD~1`, `main`, `HEAD~1:deploy/shop` (a folder in it; default: the current one). A path that exists is a path. \
                        For a pull request: `cedargate diff origin/main . --prove --fail-on widen --format markdown`. \
                        With --fail-on, exit code 4 says that it happened; with --prove, `widen` also fails if a proof is unknown."
)]
pub(crate) struct Args {
    /// The tree before the edit
    old: String,
    /// The tree after the edit
    new: String,
    #[command(flatten)]
    config: ConfigFile,
    /// Compare only this portal
    #[arg(long, short)]
    portal: Option<String>,
    /// Also ask both trees the decisions of this file of the decision log, plain, gzip or zstd; `-` is standard input.
    /// May be given several times
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// Exit with 4 if NEW allows what OLD denied, if any decision differs, or if anything differs; may be given several
    /// times
    #[arg(long, value_enum, value_delimiter = ',', value_name = "EVENT")]
    fail_on: Vec<FailOnDiff>,
    /// Prove for every request that NEW allows nothing that OLD denied, or show a request; needs the solver cvc5
    #[arg(long)]
    prove: bool,
    /// Time for all proofs together; what is not proved then is unknown
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5m", requires = "prove")]
    prove_timeout: Duration,
    /// The form of the report
    #[arg(long, value_parser = Comparison::WRITERS.parser(), default_value = "human")]
    format: Format,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum FailOnDiff {
    Widen,
    Flip,
    Change,
}

/// The comparison of two trees for the workbench, as `--format json` writes it. Git revisions are those of the
/// repository at `place`. `Err` is a text for the user.
pub(super) fn between(old: &str, new: &TreeArgs, config: &ConfigFile, place: &Path) -> Result<Value, String> {
    let sides = Sides {
        old: Side::open(old, config, place)?,
        new: Side {
            name: "the files as they are now".to_owned(),
            workbench: new.open()?,
        },
    };
    let comparison = sides.compare(None, &[], None).map_err(DiffError::into_message)?;
    Ok(json::report(&comparison))
}

/// The comparison of a tree with itself after an edit, as `--format json` writes it; with a time, also proofs.
pub(super) fn of_edit(old: Workbench, new: Workbench, prove: Option<Duration>) -> Result<Value, String> {
    let named = |name: &str, workbench| Side {
        name: name.to_owned(),
        workbench,
    };
    let sides = Sides {
        old: named("the files", old),
        new: named("the unsaved text", new),
    };
    let mut prover = prove.map(Prover::new).transpose()?;
    let comparison = sides.compare(None, &[], prover.as_mut()).map_err(DiffError::into_message)?;
    Ok(json::report(&comparison))
}

/// The whole comparison.
struct Comparison {
    old: String,
    new: String,
    portals: Vec<PortalDiff>,
    /// `None` without `--log`.
    logs: Option<LogFlips>,
}

/// One portal of the comparison.
struct PortalDiff {
    slug: String,
    /// The portal itself is new or gone, or in both trees.
    kind: Option<ChangeKind>,
    policies: Vec<PolicyChange>,
    files: Vec<FileChange>,
    asked: TestFlips,
    /// `None` without `--prove`, and for a portal that is gone.
    proof: Option<Proof>,
}

/// The command ends early.
enum DiffError {
    Usage(String),
    Rejected(String),
    NoSolver(String),
}

pub(crate) fn run(args: &Args) -> Exit {
    let shown = compare(args).and_then(|comparison| {
        let report = Comparison::WRITERS.write(args.format, &comparison);
        print(&report.map_err(DiffError::Usage)?);
        Ok(comparison.exit(&args.fail_on))
    });
    match shown {
        Ok(exit) => exit,
        Err(DiffError::Usage(message)) => {
            complain(&message);
            Exit::Usage
        }
        Err(DiffError::Rejected(message)) => {
            complain(&message);
            Exit::Invalid
        }
        Err(DiffError::NoSolver(message)) => {
            complain(&message);
            Exit::Failure
        }
    }
}

impl DiffError {
    fn into_message(self) -> String {
        match self {
            Self::Usage(message) | Self::Rejected(message) | Self::NoSolver(message) => message,
        }
    }
}

impl From<Rejected> for DiffError {
    fn from(Rejected(message): Rejected) -> Self {
        Self::Rejected(message)
    }
}

impl From<NoSolver> for DiffError {
    fn from(error: NoSolver) -> Self {
        Self::NoSolver(error.to_string())
    }
}

/// The page of the workbench with the comparison alone.
fn html(report: &Value) -> String {
    let tree = serde_json::json!({"name": "What changes", "pages": ["changes"], "portals": []});
    standalone(
        "#/changes",
        &[Datum::of("tree", &[], &tree), Datum::of("changes", &[], report)],
    )
}

fn compare(args: &Args) -> Result<Comparison, DiffError> {
    let open = |name: &str| Side::open(name, &args.config, Path::new(".")).map_err(DiffError::Usage);
    let sides = Sides {
        old: open(&args.old)?,
        new: open(&args.new)?,
    };
    let mut prover = args
        .prove
        .then(|| Prover::new(args.prove_timeout))
        .transpose()
        .map_err(DiffError::Usage)?;
    sides.compare(args.portal.as_deref(), &args.logs, prover.as_mut())
}

/// The two trees of a comparison.
struct Sides {
    old: Side,
    new: Side,
}

impl Sides {
    fn compare(self, only: Option<&str>, logs: &[PathBuf], mut prover: Option<&mut Prover>) -> Result<Comparison, DiffError> {
        let Self { old, new } = self;
        let mut loader = sides::loader();
        let before = old.load(only, &mut loader)?;
        let after = new.load(only, &mut loader)?;
        let slugs: BTreeSet<&str> = before.iter().chain(&after).map(LoadedPortal::slug).collect();
        if let Some(only) = only.filter(|only| !slugs.contains(only)) {
            return Err(DiffError::Usage(format!("neither tree has a portal `{only}`")));
        }
        let find = |portals: &'_ [LoadedPortal], slug: &str| portals.iter().position(|portal| portal.slug() == slug);
        let mut portals = Vec::new();
        for slug in slugs {
            let old = find(&before, slug).and_then(|at| before.get(at));
            let new = find(&after, slug).and_then(|at| after.get(at));
            portals.push(PortalDiff::of(slug, old, new, prover.as_deref_mut())?);
        }
        let logs = LogFlips::of(logs, only, &before, &after).map_err(DiffError::Usage)?;
        Ok(Comparison {
            old: old.name,
            new: new.name,
            portals,
            logs,
        })
    }
}

impl PortalDiff {
    fn of(
        slug: &str,
        old: Option<&LoadedPortal>,
        new: Option<&LoadedPortal>,
        prover: Option<&mut Prover>,
    ) -> Result<Self, NoSolver> {
        let proof = match (old, new, prover) {
            (Some(old), Some(new), Some(prover)) => Some(Proof::of(slug, &old.revision, &new.revision, prover)?),
            _ => None,
        };
        Ok(Self {
            slug: slug.to_owned(),
            kind: match (old, new) {
                (None, _) => Some(ChangeKind::Added),
                (_, None) => Some(ChangeKind::Removed),
                (Some(_), Some(_)) => None,
            },
            policies: changes::policies(old, new),
            files: changes::files(old, new),
            asked: old.zip(new).map(|(old, new)| flips::of_tests(old, new)).unwrap_or_default(),
            proof,
        })
    }

    fn is_changed(&self) -> bool {
        self.kind.is_some() || !self.policies.is_empty() || !self.files.is_empty()
    }

    fn widening_flips(&self) -> usize {
        let widening = self.asked.flips.iter().filter(|flip| flip.direction() == Direction::Widens);
        widening.count()
    }

    /// True if something is allowed that was denied, or a proof does not know. Every permit of a new portal is new.
    fn widens(&self) -> bool {
        let is_proved = self.proof.as_ref().is_none_or(Proof::is_proved);
        self.widening_flips() > 0 || !is_proved || self.kind == Some(ChangeKind::Added)
    }
}

impl Comparison {
    const WRITERS: Writers<Self, 4> = Writers([
        (Format::Human, |comparison| text::report(comparison, Paint::stdout())),
        (Format::Markdown, markdown::report),
        (Format::Json, |comparison| json_report::text(&json::report(comparison))),
        (Format::Html, |comparison| html(&json::report(comparison))),
    ]);

    /// The portals that a report is about.
    fn differing(&self) -> Vec<&PortalDiff> {
        let is_shown = |portal: &&PortalDiff| portal.is_changed() || portal.widens() || !portal.asked.flips.is_empty();
        self.portals.iter().filter(is_shown).collect()
    }

    fn exit(&self, fail_on: &[FailOnDiff]) -> Exit {
        let logs = |count: &dyn Fn(&LogFlips) -> u64| self.logs.as_ref().is_some_and(|logs| count(logs) > 0);
        let has_failed = fail_on.iter().any(|event| match event {
            FailOnDiff::Widen => self.portals.iter().any(PortalDiff::widens) || logs(&|logs| logs.widening),
            FailOnDiff::Flip => {
                self.portals.iter().any(|portal| !portal.asked.flips.is_empty()) || logs(&|logs| logs.widening + logs.narrowing)
            }
            FailOnDiff::Change => self.portals.iter().any(PortalDiff::is_changed),
        });
        if has_failed { Exit::TestsFailed } else { Exit::Ok }
    }
}
