//! Builds of the gate beside each other: `--build <program> --build <program>`. It prints and writes nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cedargate_benches::issuer::Keys;
use cedargate_benches::{AUDIENCE, ISSUER};
use serde_json::json;

use crate::gate::{Gate, Other};
use crate::growth::measure::median;
use crate::growth::setting::{Files, app};
use crate::load::{Answers, Load, Pace, Until, count, request};
use crate::machine::{DEVICE, REST, pin_thread, pinned};
use crate::options::Options;
use crate::peers::shop::{self, Kind};
use crate::report::{Page, Section, Table, markdown};
use crate::spinners::Spinners;

const POLICIES: usize = 1_000;
const CONNECTIONS: usize = 32;

/// One kind of request, and for each build the CPU microseconds per request, round by round.
struct Row {
    name: &'static str,
    address: fn(&Gate) -> SocketAddr,
    request: Vec<u8>,
    expected: u16,
    cpu: Vec<Vec<f64>>,
}

/// Measures all builds in turn and returns the table.
pub fn compared(options: &Options) -> String {
    let files = Files::new();
    let keys = Keys::generate();
    let token = keys.token("RS256", "alice");
    shop::write_gate(files.path(), Kind::Conditional, POLICIES);
    files.put("jwks.json", &keys.jwks().to_string());
    pin_thread(pinned(REST)).unwrap();
    let _awake = Spinners::start();
    let config = format!(
        "upstream: {{ url: 'http://{}' }}\npolicies: {{ require: [shop] }}\n\
         issuers: [{{ name: bench, issuer: '{ISSUER}', audiences: [{AUDIENCE}], jwks: {{ file: jwks.json }} }}]\n\
         limits: {{ workers: 1 }}\naudit: {{ sink: {{ file: /dev/null }} }}\n",
        app()
    );
    let start = |(number, program): (usize, &std::path::PathBuf)| started(program, number, files.path(), &config);
    let gates: Vec<Gate> = options.build.iter().enumerate().map(start).collect();
    let mut rows = rows(&token, gates.len());
    for _ in 0..options.rounds {
        for row in &mut rows {
            for (number, gate) in gates.iter().enumerate() {
                let cpu = row.measure(gate, options.time() / 4);
                row.cpu.get_mut(number).unwrap().push(cpu);
            }
        }
    }
    let section = Section {
        title: "Builds".to_owned(),
        tables: vec![table(&rows, &options.build)],
        ..Section::default()
    };
    markdown(Page::Whole, &options.facts(), &[section])
}

fn started(program: &Path, number: usize, folder: &Path, config: &str) -> Gate {
    let other = Other {
        program,
        name: &format!("build-{number}"),
        proxy_keys: "",
        serves_envoy: false,
    };
    Gate::start_other(&other, folder, config, pinned(DEVICE)).unwrap()
}

fn rows(token: &str, builds: usize) -> [Row; 4] {
    let get = |path: &str| request("GET", path, &[("authorization", &format!("Bearer {token}"))], None);
    let query = json!({"portal": "shop", "token": token, "action": "GET", "resource": format!("Path::\"{}\"", shop::ALLOWED)});
    let proxy = |gate: &Gate| gate.proxy;
    let row = |name, address, request, expected| Row {
        name,
        address,
        request,
        expected,
        cpu: vec![Vec::new(); builds],
    };
    [
        row("permitted", proxy, get(shop::ALLOWED), 200),
        row("denied", proxy, get(shop::DENIED), 403),
        row("public", proxy, request("GET", shop::PUBLIC, &[], None), 200),
        row(
            "`/authorize`",
            |gate| gate.decision,
            request("POST", "/authorize", &[], Some(&query.to_string())),
            200,
        ),
    ]
}

impl Row {
    fn measure(&self, gate: &Gate, time: Duration) -> f64 {
        let load = Load {
            address: (self.address)(gate),
            requests: std::slice::from_ref(&self.request),
            expected: self.expected,
            connections: CONNECTIONS,
            pace: Pace::Closed,
            until: Until::Time(time),
        };
        let before = gate.process.cpu_time();
        let answers = load.run().and_then(Answers::all_expected).unwrap();
        let used = gate.process.cpu_time().saturating_sub(before);
        used.as_secs_f64() * 1e6 / count(answers.count)
    }
}

fn table(rows: &[Row], builds: &[std::path::PathBuf]) -> Table {
    let programs = builds
        .iter()
        .flat_map(|program| [format!("{}, CPU µs", program.display()), "of the first".to_owned()]);
    let cells = |row: &Row| {
        let base = row.cpu.first().unwrap();
        let cells = row.cpu.iter().flat_map(|cpu| {
            let ratio = median(cpu.iter().zip(base).map(|(own, base)| own / base));
            [format!("{:.1}", median(cpu.iter().copied())), format!("{ratio:.3}×")]
        });
        std::iter::once(row.name.to_owned()).chain(cells).collect()
    };
    Table {
        head: std::iter::once("request".to_owned()).chain(programs).collect(),
        rows: rows.iter().map(cells).collect(),
    }
}
