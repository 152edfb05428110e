//! The same job done by the gate and by its peers. A peer is measured only after it has given the right answers.

mod apis;
pub mod cells;
mod cold;
mod compare;
mod decide;
mod http;
pub mod installed;
pub mod rounds;
pub mod servers;
pub mod shop;
pub mod token;
mod workers;

use self::compare::Compared;
use self::http::Site;
use self::rounds::Plan;
use self::servers::App;
use self::token::Issuer;
use self::workers::MemoryGoal;
use crate::Extent;
use crate::machine::{REST, pin_thread, pinned};
use crate::options::Options;
use crate::report::Section;
use crate::spinners::Spinners;

/// Numbers of policies and tokens.
struct Sizes {
    policies: usize,
    /// Policies of the decision services.
    decisions: &'static [usize],
    memory: &'static [MemoryGoal],
    tokens: usize,
}

const WHOLE: Sizes = Sizes {
    policies: 1000,
    decisions: &[10, 100, 1000],
    memory: &[MemoryGoal::new(1000, 25.0), MemoryGoal::new(10_000, 90.0)],
    tokens: 5000,
};
const SMOKE: Sizes = Sizes {
    policies: 10,
    decisions: &[10],
    memory: &[MemoryGoal::new(10, 25.0)],
    tokens: 20,
};

/// Peers that may be missing.
const OPTIONAL: [&str; 7] = ["nginx", "haproxy", "envoy", "cedar-agent", "cerbos", "opa", "oauth2-proxy"];

pub fn sections(options: &Options) -> Vec<Section> {
    let sizes = match options.extent {
        Extent::Whole => &WHOLE,
        Extent::Smoke => &SMOKE,
    };
    let plan = Plan {
        rounds: options.rounds,
        time: options.time(),
    };
    let folder = tempfile::tempdir().unwrap();
    pin_thread(pinned(REST)).unwrap();
    let spinners = (options.extent == Extent::Whole).then(Spinners::start);
    let app = match App::start(folder.path()) {
        Ok(app) => app,
        Err(reason) => return vec![not_measured(&reason)],
    };
    let issuer = Issuer::new();
    shop::write(folder.path(), "jwks.json", &issuer.jwks());
    shop::write(folder.path(), "issuer.pem", &issuer.public_pem());
    let site = Site {
        folder: folder.path(),
        app: &app,
        issuer: &issuer,
        policies: sizes.policies,
    };
    eprintln!("peers in front of the app");
    let mut compared = Compared::start(&site);
    compared.measure(plan);
    if options.extent == Extent::Smoke {
        let failed = compared
            .peers
            .iter()
            .find_map(|peer| peer.failed.as_ref().map(|why| (&peer.name, why)));
        assert!(failed.is_none(), "{failed:?}");
    }
    let mut sections = vec![compared.section(&site)];
    sections.extend(cold::section(&site, &mut compared.peers, plan.rounds, sizes.tokens));
    drop(compared);
    eprintln!("decision services");
    let short = Plan {
        time: plan.time / 2,
        ..plan
    };
    sections.push(decide::section(folder.path(), sizes.decisions, short));
    eprintln!("workers and memory");
    sections.push(workers::memory(&site, sizes.memory, plan));
    if crate::machine::cores() > 1 {
        pin_thread(None).unwrap();
        sections.push(workers::section(&site, plan));
    }
    drop(spinners);
    sections
}

fn not_measured(reason: &str) -> Section {
    Section {
        title: "The same job, done by other products".to_owned(),
        text: vec![format!("Not measured, because the app (nginx) did not start: {reason}")],
        ..Section::default()
    }
}

/// Rows for peers that are in no comparison because their program is missing.
fn out_of_reach() -> Vec<Vec<String>> {
    let missing = installed::program("oauth2-proxy").err();
    let row = |reason| {
        vec![
            "nginx auth_request + oauth2-proxy".to_owned(),
            String::new(),
            format!("**missing**: {reason}"),
        ]
    };
    missing.map(row).into_iter().collect()
}

/// The versions of all peers.
pub fn versions() -> Vec<(String, String)> {
    let versions: Vec<String> = OPTIONAL
        .iter()
        .map(|name| format!("{name} {}", installed::version(name)))
        .collect();
    vec![("peers".to_owned(), versions.join(", "))]
}
