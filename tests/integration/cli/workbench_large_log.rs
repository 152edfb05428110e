//! A log of a million decisions on the workbench's page Log, plain and compressed, in a real browser.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::workbench::{Bench, browser, example, holds, page};
use crate::support::chromium::Chromium;
use crate::support::once_started;

const MILLION: u64 = 1_000_000;
/// Decisions of an hour of the log; every fifth is denied.
const PER_HOUR: u64 = 2000;
/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600_000;
const HOUR: i64 = 3_600_000;
/// The workbench's memory for a million decisions: about 200 MB. A copy of the log's text, or a second index, is more.
const BYTES_MAX: u64 = 400_000_000;
/// Milliseconds for a click in a build without optimisation, on a loaded machine: a hundred times that of a release.
const CLICK_MAX: f64 = 10_000.0;
/// The line with the counts, in one line.
const COUNTS: &str = "document.querySelector('#log-count').innerText.replace(/\\s+/g, ' ')";

fn write_lines(to: impl Write, numbers: std::ops::Range<u64>) {
    let mut to = BufWriter::new(to);
    for number in numbers {
        let (hour, role) = (number / PER_HOUR, ["viewer", "editor", "admin"][(number % 3) as usize]);
        let outcome = match number % 5 {
            0 => "\"deny\",\"reason\":\"not_permitted\",\"near\":\"editors-place-orders\"",
            _ => "\"allow\",\"reason\":\"permitted\"",
        };
        writeln!(
            to,
            "{{\"kind\":\"decision\",\"ts\":\"2026-01-{:02}T{:02}:00:00Z\",\"decision_id\":\"{number:08x}-0000-7000-8000-{number:012x}\",\
             \"portal\":\"customer\",\"roles\":[\"{role}\"],\"principal\":{{\"type\":\"User\",\"id\":\"u{}\"}},\
             \"http\":{{\"method\":\"GET\",\"path\":\"/portal/customer/orders/{number}\",\"route\":\"GET /portal/customer/orders/{{id}}\"}},\
             \"decision\":{outcome}}}",
            1 + hour / 24,
            hour % 24,
            number % 1000,
        )
        .unwrap();
    }
    to.flush().unwrap();
}

/// A log as rotation and a shipper leave it: the oldest part in gzip, the next in zstd, the youngest plain.
fn write_log(folder: &Path) {
    let file = |name: &str| File::create(folder.join(name)).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file("1.jsonl.gz"), flate2::Compression::fast());
    write_lines(&mut gzip, 0..MILLION / 4);
    gzip.finish().unwrap();
    let mut second = Vec::new();
    write_lines(&mut second, MILLION / 4..MILLION / 2);
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    ruzstd::encoding::compress(second.as_slice(), file("2.jsonl.zst"), level);
    write_lines(file("3.jsonl"), MILLION / 2..MILLION);
}

/// Waits until the page has read the log.
fn ready(browser: &mut Chromium) {
    once_started("the log is read", || {
        let found = browser.eval("document.querySelector('#log-count')?.innerText ?? document.querySelector('main').innerText");
        let text = found.as_str().unwrap_or_default();
        match text.contains(" allowed") {
            true => Ok(()),
            false => Err(text.to_owned()),
        }
    });
}

/// Does something on the page; returns the text of the counts after it, once they are drawn, and asserts that it was
/// quick.
fn click(browser: &mut Chromium, what: &str, action: &str) -> String {
    let answer = browser.eval(&format!(
        "(async () => {{ const old = document.querySelector('#log-count'); const start = performance.now(); {action}; \
         while (old.isConnected || !document.querySelector('#log-count')) await new Promise((next) => setTimeout(next, 5)); \
         return [performance.now() - start, {COUNTS}]; }})()"
    ));
    let millis = answer[0].as_f64().unwrap();
    println!("{what}: {millis:.0} ms");
    assert!(millis < CLICK_MAX, "{what}: {millis} ms");
    answer[1].as_str().unwrap().to_owned()
}

fn choose(label: &str, value: &str) -> String {
    format!(
        "{{ const field = [...document.querySelectorAll('.filters .field')].find((one) => one.firstChild.innerText === {}); \
         field.lastChild.value = {}; field.lastChild.dispatchEvent(new Event('change')); }}",
        Value::from(label),
        Value::from(value)
    )
}

#[test]
fn a_log_of_a_million_decisions_stays_usable() {
    let folder = example();
    write_log(folder.path());
    let logs = ["--log", "1.jsonl.gz", "--log", "2.jsonl.zst", "--log", "3.jsonl"];
    let bench = Bench::start(folder.path(), &logs);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    let started = Instant::now();
    browser.eval("location.hash = '#/log'");
    holds(
        &mut browser,
        "document.querySelector('main').innerText.includes('Reading the log')",
    );
    // other pages answer meanwhile
    page(&mut browser, "#/matrix?portal=customer", "Matrix");
    browser.eval("location.hash = '#/log'");
    ready(&mut browser);
    println!(
        "ready after {:?}, with {} MB at most",
        started.elapsed(),
        bench.peak_bytes() / 1_000_000
    );
    let counts = browser.eval(COUNTS);
    assert_eq!(counts, "1,000,000 decisions: 800,000 allowed 200,000 denied");
    assert_eq!(browser.eval("document.querySelector('.sample')"), Value::Null);
    let nodes = browser.eval("document.querySelectorAll('main *').length").as_i64().unwrap();
    assert!(nodes < 10_000, "{nodes} elements");

    let counts = click(&mut browser, "a role", &choose("Role", "editor"));
    assert_eq!(counts, "333,333 decisions: 266,667 allowed 66,666 denied");
    let counts = click(&mut browser, "an outcome", &choose("Outcome", "deny"));
    assert_eq!(counts, "66,666 decisions: 0 allowed 66,666 denied");
    click(&mut browser, "other colours", &choose("Colour by", "reason"));
    let find = "{ const find = document.querySelector('.filters input[type=search]'); find.value = 'editors-place'; find.dispatchEvent(new Event('input')); }";
    let counts = click(&mut browser, "a text", find);
    assert_eq!(counts, "66,666 decisions: 0 allowed 66,666 denied");
    let bar = "document.querySelector('.plot .over .hit').parentNode.dispatchEvent(new Event('click'))";
    let narrowed = click(&mut browser, "a bar", bar);
    assert!(narrowed.contains("2026-01-01 00:00:00 to 2026-01-01"), "{narrowed}");
    let more = "[...document.querySelectorAll('main button')].find((one) => one.innerText.startsWith('Load 5,000')).click()";
    click(&mut browser, "more records", more);
    browser.screenshot("workbench-log-million");
    assert!(bench.peak_bytes() < BYTES_MAX, "{} bytes", bench.peak_bytes());

    // each decision is in one bar; an hour is half-open; a record of a compressed file is found
    let cookie = bench.cookie();
    let ask = |query: &str| -> Value {
        let (status, _, body) = bench.ask("GET", &format!("/api/log?{query}"), &[("cookie", cookie.as_str())], "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    };
    let all = ask("");
    let series = all["over_time"]["series"].as_array().unwrap().iter();
    let counts = series.flat_map(|one| one["counts"].as_array().unwrap());
    assert_eq!(counts.map(|count| count.as_u64().unwrap()).sum::<u64>(), MILLION);
    assert_eq!(
        (&all["log"]["one_in"], &all["denials"][0]["callers"]),
        (&json!(1), &json!(200))
    );
    let hour = START + 5 * HOUR;
    let narrow = ask(&format!("from={hour}&to={}&records=3", hour + HOUR));
    assert_eq!((&narrow["allowed"], &narrow["denied"]), (&json!(1600), &json!(400)));
    assert_eq!(narrow["records"].as_array().unwrap().len(), 3);
    assert_eq!(bench.ask("GET", "/api/log?from=x", &[("cookie", cookie.as_str())], "").0, 422);
    for number in [7, MILLION / 4 + 7, MILLION - 8] {
        let id = format!("{number:08x}-0000-7000-8000-{number:012x}");
        page(&mut browser, &format!("#/explain?portal=customer&id={id}"), "Explain");
        holds(
            &mut browser,
            &format!("document.querySelector('main').textContent.includes('orders/{number}')"),
        );
    }
    assert_eq!(browser.complaints, Vec::<String>::new());
}

#[test]
fn a_longer_log_is_a_sample_and_the_page_says_so() {
    let folder = example();
    write_lines(File::create(folder.path().join("long.jsonl")).unwrap(), 0..MILLION + 50_000);
    let bench = Bench::start(folder.path(), &["--log", "long.jsonl"]);
    let mut browser = browser(folder.path());
    browser.open(&bench.url);
    browser.arrived("/");
    browser.eval("location.hash = '#/log'");
    ready(&mut browser);
    let notice = browser.eval("document.querySelector('.sample').innerText");
    let notice = notice.as_str().unwrap();
    assert!(
        notice.starts_with("A sample: the page keeps ") && notice.contains("one of 2"),
        "{notice}"
    );
    let text = browser.eval("document.querySelector('main').innerText");
    let text = text.as_str().unwrap();
    assert!(text.contains("1,050,000 decisions and 0 other records"), "{text}");
    let counts = browser.eval(COUNTS);
    let counts = counts.as_str().unwrap();
    let number = counts.strip_prefix("about ").and_then(|rest| rest.split(' ').next()).unwrap();
    let number: f64 = number.replace(',', "").parse().unwrap();
    assert!((number - 1_050_000.0).abs() < 10_500.0, "{counts}");
    assert!(bench.peak_bytes() < BYTES_MAX, "{} bytes", bench.peak_bytes());
    assert_eq!(browser.complaints, Vec::<String>::new());
}
