//! The cost of one query of an `/authorize/batch` against the size of the batch.

use std::time::Duration;

use serde_json::{Value, json};

use super::draw::{grouped, short};
use super::measure::{median, number};
use super::setting::{Setting, spend};
use crate::Extent;
use crate::load;
use crate::report::{Axis, Plot, Section, Series, Table};

const SIZES: [usize; 5] = [1, 2, 10, 50, 200];
const POLICIES: usize = 1_000;
const ROUNDS: usize = 5;

struct Curve {
    name: &'static str,
    sizes: Vec<Sized>,
}

struct Sized {
    size: usize,
    request: Vec<u8>,
    /// CPU microseconds of the gate per query, a number per round.
    cpu: Vec<f64>,
    /// Queries per second.
    rate: Vec<f64>,
}

pub fn section(extent: Extent) -> Section {
    let setting = Setting::new();
    let policies = if extent == Extent::Whole { POLICIES } else { 10 };
    let files = setting.files(policies);
    let gate = setting.start_one(&files);
    let token = setting.token();
    let caller = json!({"type": "User", "id": "alice", "parents": [{"type": "Role", "id": "viewer"}]});
    let mut curves = [
        ("caller by token", json!({"token": token})),
        ("principal by name", json!({"principal": caller})),
    ]
    .map(|(name, caller)| {
        let sizes = super::sizes(extent, &SIZES, 2)
            .iter()
            .map(|size| Sized::new(*size, &caller))
            .collect();
        Curve { name, sizes }
    });
    let (rounds, time) = if extent == Extent::Whole {
        (ROUNDS, Duration::from_millis(600))
    } else {
        (1, Duration::from_millis(10))
    };
    for _ in 0..rounds {
        for one in curves.iter_mut().flat_map(|curve| &mut curve.sizes) {
            let spent = spend(&gate, gate.decision, std::slice::from_ref(&one.request), time);
            one.cpu.push(spent.cpu / number(one.size));
            one.rate.push(spent.rate * number(one.size));
        }
    }
    Section {
        title: "Queries in a batch".to_owned(),
        text: vec![format!(
            "The whole program on one core, {} policies, `POST /authorize/batch` over 16 connections. Each query has its own decision, \
             decision id and record; the queries of a batch share the request and the caller. CPU time of the gate per query.",
            grouped(policies)
        )],
        tables: vec![table(&curves)],
        plots: vec![plot(&curves)],
        ..Section::default()
    }
}

impl Sized {
    fn new(size: usize, caller: &Value) -> Self {
        let mut body = json!({"portal": "bench", "action": "GET"});
        let query = |n: usize| json!({"resource": {"type": "Path", "id": format!("/shop/item-{n}")}});
        if let (Some(body), Some(caller)) = (body.as_object_mut(), caller.as_object()) {
            body.extend(caller.clone());
            body.insert("requests".to_owned(), (0..size).map(query).collect());
        }
        let request = load::request("POST", "/authorize/batch", &[], Some(&body.to_string()));
        Self {
            size,
            request,
            cpu: Vec::new(),
            rate: Vec::new(),
        }
    }
}

fn table(curves: &[Curve]) -> Table {
    let columns = curves
        .iter()
        .flat_map(|curve| [format!("{}, µs each", curve.name), format!("{}, each/s", curve.name)]);
    let sizes = curves.iter().flat_map(|curve| curve.sizes.iter().map(|one| one.size));
    let mut sizes: Vec<usize> = sizes.collect();
    sizes.sort_unstable();
    sizes.dedup();
    let row = |size: &usize| {
        let found = curves
            .iter()
            .filter_map(|curve| curve.sizes.iter().find(|one| one.size == *size));
        let cells = found.flat_map(|one| {
            [
                short(median(one.cpu.iter().copied())),
                short(median(one.rate.iter().copied())),
            ]
        });
        std::iter::once(grouped(*size)).chain(cells).collect()
    };
    Table {
        head: std::iter::once("queries".to_owned()).chain(columns).collect(),
        rows: sizes.iter().map(row).collect(),
    }
}

fn plot(curves: &[Curve]) -> Plot {
    let series = curves.iter().map(|curve| Series {
        name: curve.name.to_owned(),
        points: curve
            .sizes
            .iter()
            .map(|one| (number(one.size), median(one.cpu.iter().copied())))
            .collect(),
    });
    Plot {
        name: "growth-batch".to_owned(),
        title: "A query of a batch".to_owned(),
        x: Axis {
            label: "queries in one batch".to_owned(),
            logarithmic: true,
        },
        y: Axis {
            label: "µs of CPU each".to_owned(),
            logarithmic: true,
        },
        series: series.collect(),
    }
}
