//! The same job done by the gate and by its peers, after each of them has proved that it gives the right answers.

mod apis;
mod cells;
mod cold;
mod compare;
mod decide;
mod http;
mod installed;
mod rounds;
mod servers;
mod shop;
mod token;
mod workers;

use self::compare::Compared;
use self::http::Site;
use self::rounds::Plan;
use self::servers::App;
use self::token::Issuer;
use crate::Extent;
use crate::machine::{REST, Spinners, pin_thread, pinned};
use crate::options::Options;
use crate::report::Section;

/// How much of everything.
struct Sizes {
    policies: usize,
    /// Of those who only decide.
    decisions: &'static [usize],
    /// Policies, and the MiB that a gate may use with them.
    memory: &'static [(usize, f64)],
    tokens: usize,
}

const WHOLE: Sizes = Sizes {
    policies: 1000,
    decisions: &[10, 100, 1000],
    memory: &[(1000, 25.0), (10_000, 90.0)],
    tokens: 5000,
};
const SMOKE: Sizes = Sizes {
    policies: 10,
    decisions: &[10],
    memory: &[(10, 25.0)],
    tokens: 20,
};

/// Peers that could not be had at all, whatever was installed.
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
        Err(reason) => return vec![nothing(&reason)],
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
    sections.extend(cold::section(&site, &mut compared.peers, (plan.rounds, sizes.tokens)));
    drop(compared);
    eprintln!("those who only decide");
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

fn nothing(reason: &str) -> Section {
    Section {
        title: "The same job, done by others".to_owned(),
        text: vec![format!("Not measured, because the app (nginx) did not start: {reason}")],
        ..Section::default()
    }
}

/// Rows for those that are in no comparison because there is no program to start.
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

/// Of everybody who was there.
pub fn versions() -> Vec<(String, String)> {
    let versions: Vec<String> = OPTIONAL
        .iter()
        .map(|name| format!("{name} {}", installed::version(name)))
        .collect();
    vec![("peers".to_owned(), versions.join(", "))]
}
