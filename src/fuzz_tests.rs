//! A mutational fuzzer for every parser of untrusted input. Each target runs for a bounded time in every test run.
//!
//! Seeds come from `tests/corpus/<target>/`: a `.lines` file holds one seed a line, any other file is one seed. Input
//! number `n` depends on the seed number and `n` alone, so a failure can be run again by the two numbers it prints:
//! `CEDARGATE_FUZZ_SEED=<seed>:<n> cargo test fuzz`. `CEDARGATE_FUZZ_SECONDS` is the time of each target.

use std::fs;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cedargate_policy::claims::unsigned_identity;
use cedargate_policy::decision::http::HttpQuery;
use cedargate_policy::decision::{Caller, Query, QueryForm, decide};
use cedargate_policy::json;
use cedargate_policy::load::Loader;
use cedargate_policy::portal::file::PortalFile;
use cedargate_policy::portal::path::{CanonicalPath, ancestors_of, decoded_segment, is_canonical_id, segments_of};
use cedargate_policy::reference::Reference;
use cedargate_policy::revision::Revision;
use cedargate_policy::revision::source::{SourceFile, Tree};
use cedargate_policy::scope::{IssuerScope, PortalScope};
use cedargate_policy::types::{PortalSlug, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use parking_lot::Mutex;
use serde_json::Value;
use uuid::Uuid;

use crate::app::STACK_BYTES;
use crate::config;
use crate::doors::authorize::body::Ask;
use crate::http::request::{self, authority, correlation};

const SECONDS_DEFAULT: f64 = 1.0;
const SEED_DEFAULT: u64 = 0x00ce_da12_6a7e;
/// Longest time of one input; a longer one is a finding, because a client can send many.
const INPUT_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest mutated input.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Most mutations of one input.
const MUTATIONS_MAX: usize = 6;

/// One parser of untrusted bytes: its corpus folder, and words that mutations insert.
pub(crate) struct Fuzz {
    target: &'static str,
    dictionary: &'static [&'static str],
}

/// Splitmix64: small, and the same on every machine.
struct Random(u64);

/// The input under test, for the thread that watches the time.
type InputUnderTest = Arc<Mutex<Option<(u64, Vec<u8>, Instant)>>>;

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if `end` is 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap()
    }
}

impl Fuzz {
    pub(crate) fn new(target: &'static str, dictionary: &'static [&'static str]) -> Self {
        Self { target, dictionary }
    }

    /// Tries every seed as it is, then mutations until the time is over. `check` panics if a law is broken and
    /// returns true if the parser accepted the input. Runs with the stack size of the gate's threads.
    pub(crate) fn run(self, check: impl FnMut(&[u8]) -> bool + Send + 'static) {
        let thread = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || self.try_all(check));
        if let Err(panic) = thread.unwrap().join() {
            resume_unwind(panic);
        }
    }

    fn try_all(&self, mut check: impl FnMut(&[u8]) -> bool) {
        let corpus = corpus(self.target);
        let (seed, first) = numbers();
        let (trying, notes) = (InputUnderTest::default(), self.notes());
        self.watch(&trying, seed);
        let mut taken = 0_u64;
        for (name, input) in &corpus {
            taken += u64::from(self.attempt(&mut check, input, &format!("tests/corpus/{name}")));
        }
        assert!(taken > 0, "fuzz {}: no seed is taken, so nothing is checked", self.target);
        let until = Instant::now() + seconds();
        let mut note = fs::File::create(&notes).unwrap();
        let mut n = first;
        while Instant::now() < until || n == first {
            let input = self.input(&corpus, seed, n);
            // if the process dies (stack, memory), this file still names the input
            writeln!(note, "CEDARGATE_FUZZ_SEED={seed}:{n}").unwrap();
            *trying.lock() = Some((n, input.clone(), Instant::now()));
            taken += u64::from(self.attempt(&mut check, &input, &format!("CEDARGATE_FUZZ_SEED={seed}:{n}")));
            n += 1;
        }
        *trying.lock() = None;
        println!(
            "fuzz {}: {} seeds, {} mutations, {taken} taken",
            self.target,
            corpus.len(),
            n - first
        );
        drop(note);
        fs::remove_file(notes).unwrap();
    }

    fn attempt(&self, check: &mut impl FnMut(&[u8]) -> bool, input: &[u8], origin: &str) -> bool {
        let panic = match catch_unwind(AssertUnwindSafe(|| check(input))) {
            Ok(is_taken) => return is_taken,
            Err(panic) => panic,
        };
        let kept = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("target/fuzz")
            .join(format!("{}.failed", self.target));
        fs::write(&kept, input).unwrap();
        eprintln!(
            "fuzz {}: failed on {origin}\ninput: \"{}\"\nkept as {}: move it to tests/corpus/{}/ under a name that says what it is",
            self.target,
            input.escape_ascii(),
            kept.display(),
            self.target
        );
        resume_unwind(panic);
    }

    fn notes(&self) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
        fs::create_dir_all(&folder).unwrap();
        folder.join(format!("{}.running", self.target))
    }

    /// Ends the process if one input takes too long: there is no other way to stop it.
    fn watch(&self, trying: &InputUnderTest, seed: u64) {
        let (trying, target) = (Arc::downgrade(trying), self.target);
        std::thread::spawn(move || {
            while let Some(trying) = trying.upgrade() {
                let now = trying.lock().clone();
                if let Some((n, input, since)) = now
                    && since.elapsed() > INPUT_TIME_MAX
                {
                    let input = input.escape_ascii();
                    eprintln!("fuzz {target}: too slow: CEDARGATE_FUZZ_SEED={seed}:{n}\ninput: \"{input}\"");
                    std::process::abort();
                }
                drop(trying);
                std::thread::park_timeout(Duration::from_millis(200));
            }
        });
    }

    fn input(&self, corpus: &[(String, Vec<u8>)], seed: u64, n: u64) -> Vec<u8> {
        let mut random = Random(seed ^ n.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        let pick = |random: &mut Random| corpus[random.below(corpus.len())].1.clone();
        let mut input = pick(&mut random);
        // one mutation tests a parser best: several at once are refused for the first of them
        let several = 1 + random.below(MUTATIONS_MAX) * random.below(2);
        for _ in 0..several {
            let other = pick(&mut random);
            self.mutate(&mut input, &other, &mut random);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }

    fn mutate(&self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        const ODD: [u8; 24] = *b"\0\t\n\r \"#%&'()*,./:;?@\\\x7f\x80\xff";
        let at = random.below(input.len() + 1);
        let end = at + random.below(input.len() - at + 1);
        let word = self.dictionary[random.below(self.dictionary.len())].as_bytes();
        match random.below(10) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next().to_le_bytes()[0],
            2 => input.insert(at, ODD[random.below(ODD.len())]),
            3 => drop(input.drain(at..end)),
            4 => input.truncate(at),
            5 => {
                let again = input[at..end].to_vec();
                for _ in 0..=random.below(4) {
                    if input.len() < INPUT_BYTES_MAX {
                        input.splice(at..at, again.iter().copied());
                    }
                }
            }
            6 => {
                let from = random.below(other.len() + 1);
                let to = from + random.below(other.len() - from + 1);
                drop(input.splice(at..end, other[from..to].iter().copied()));
            }
            7 if at < input.len() => {
                let escaped = format!("%{:02x}", input[at]);
                drop(input.splice(at..=at, escaped.bytes()));
            }
            8 => drop(input.splice(at..end, word.iter().copied())),
            _ => drop(input.splice(at..at, word.iter().copied())),
        }
    }
}

/// Named seeds in the order of their names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let mut seeds = Vec::new();
    for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.unwrap().path();
        let (name, bytes) = (path.file_name().unwrap().to_str().unwrap(), fs::read(&path).unwrap());
        if name.ends_with(".lines") {
            let lines = bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty());
            seeds.extend(
                lines
                    .enumerate()
                    .map(|(n, line)| (format!("{target}/{name}:{}", n + 1), line.to_vec())),
            );
        } else {
            seeds.push((format!("{target}/{name}"), bytes));
        }
    }
    assert!(!seeds.is_empty(), "{} is empty", folder.display());
    seeds.sort();
    seeds
}

/// `CEDARGATE_FUZZ_SEED`: a seed, or `seed:n` to begin with input `n`.
fn numbers() -> (u64, u64) {
    let Ok(text) = std::env::var("CEDARGATE_FUZZ_SEED") else {
        return (SEED_DEFAULT, 0);
    };
    let (seed, n) = text.split_once(':').unwrap_or((&text, "0"));
    (seed.parse().unwrap(), n.parse().unwrap())
}

fn seconds() -> Duration {
    let seconds = std::env::var("CEDARGATE_FUZZ_SECONDS").map_or(SECONDS_DEFAULT, |text| text.parse().unwrap());
    Duration::from_secs_f64(seconds)
}

#[test]
fn a_path_has_one_spelling_and_nothing_hidden_in_it() {
    let words = &[
        "..",
        ".",
        "//",
        "%2e",
        "%2E%2e",
        "%2f",
        "%5c",
        "%00",
        "%c0%ae",
        "%25",
        "%252e",
        ";a=b",
        "\\",
        "%20",
        "%09",
        "?",
        "#",
        "/./",
        "/../",
        "%ef%bb%bf",
        "%e2%80%8b",
        "%u002e",
        "é",
        "%C3%A9",
        "%3a",
        "admin",
        "/portal/p/",
        "%",
        "%2",
        "%zz",
        "\u{2024}",
        "．",
    ];
    Fuzz::new("path", words).run(|input| {
        let text = String::from_utf8_lossy(input);
        let Ok(path) = CanonicalPath::parse(&text) else { return false };
        let again = CanonicalPath::parse(path.as_str()).expect("a canonical path is a path");
        assert_eq!(again, path, "one more time changes it");
        assert!(is_canonical_id(path.id()), "{}", path.id());
        assert!(path.as_str().is_ascii() && path.as_str().starts_with('/'));
        assert_eq!(is_canonical_id(&text), text == path.id());
        for id in [path.id(), path.plain_id()] {
            for segment in segments_of(id) {
                let decoded = decoded_segment(segment);
                assert!(
                    !decoded.contains(['/', '\\', ';', '\0', '\r', '\n', '\u{fffd}'])
                        || text.contains("\u{fffd}")
                        || segment.contains("%EF%BF%BD")
                );
                assert!(!matches!(&*decoded, "" | "." | ".."), "{segment}");
                assert_eq!(decoded.trim(), decoded, "{segment}");
                let twice = decoded_segment(&decoded).into_owned();
                assert_eq!(twice, decoded, "decoding twice changes {segment}");
            }
        }
        for ancestor in path.ancestors() {
            assert!(path.id().starts_with(ancestor) && is_canonical_id(ancestor));
        }
        assert_eq!(path.ancestors().count(), ancestors_of(path.id()).count());
        true
    });
}

#[test]
fn a_request_head_names_one_host_and_one_path_or_is_refused() {
    let words = &[
        "host: ",
        "Host: a.test",
        "\n",
        "content-length: 0",
        "transfer-encoding: chunked",
        "http://",
        "https://a.test",
        "@",
        ":80",
        ":0",
        "[::1]",
        "[::ffff:1.2.3.4]",
        ".",
        "..",
        "\t",
        "x-forwarded-for: 1.2.3.4",
        "x-forwarded-host: b.test",
        "x-forwarded-proto: https",
        "forwarded: for=1.2.3.4",
        "expect: 100-continue",
        "traceparent: 00-",
        "*",
        "CONNECT",
        "TRACE",
        "GET",
        ", ",
        "é",
        "_",
    ];
    Fuzz::new("head", words).run(|input| {
        let Some(parts) = head(input) else { return false };
        let request::Correlation { request_id, trace } = correlation(&parts.headers, Uuid::now_v7());
        assert_eq!(trace.traceparent().len(), 55);
        assert!((1..=128).contains(&request_id.len()));
        let Ok(target) = request::check(&parts) else { return false };
        let named = target.host.as_str();
        let without_port = |host: &str| request::Authority {
            host: host.to_owned(),
            port: None,
        };
        assert_eq!(authority(named), Some(without_port(named)), "the host is not one");
        assert!(!named.contains(['@', '/', ' ', '%', '?', '#']) && named == named.to_ascii_lowercase());
        assert!(target.path.starts_with('/') && target.port != Some(0));
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        for peer in ["10.1.2.3", "::ffff:10.1.2.3", "9.9.9.9"] {
            let peer: std::net::IpAddr = peer.parse().unwrap();
            let Ok(facts) = request::client_facts(&parts.headers, peer, Scheme::Http, target.clone(), &trusted) else {
                continue;
            };
            assert_eq!(facts.source_ip, facts.source_ip.to_canonical());
            assert_eq!(authority(&facts.host), Some(without_port(&facts.host)));
            if peer.to_string() == "9.9.9.9" {
                assert_eq!(
                    (facts.source_ip, &facts.host, facts.scheme),
                    (peer, &target.host, Scheme::Http)
                );
            }
        }
        true
    });
}

/// The request of `METHOD target` and one header a line; `None` if no HTTP parser would accept it.
fn head(input: &[u8]) -> Option<http::request::Parts> {
    let mut lines = input.split(|b| *b == b'\n');
    let first = lines.next()?;
    let space = first.iter().position(|b| *b == b' ')?;
    let method = Method::from_bytes(&first[..space]).ok()?;
    let uri = Uri::try_from(&first[space + 1..]).ok()?;
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri) = (method, uri);
    for line in lines.filter(|line| !line.is_empty()).take(64) {
        let colon = line.iter().position(|b| *b == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        parts
            .headers
            .append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some(parts)
}

#[test]
fn a_trace_goes_on_only_from_the_exact_form() {
    let id = "0af7651916cd43dd8448eb211c80319c";
    let words = &[
        "00-",
        "-",
        "01",
        "0af7651916cd43dd8448eb211c80319c",
        "b7ad6b7169203331",
        "ff",
        "+",
        "0x",
        " ",
        "A",
        "0000000000000000",
    ];
    Fuzz::new("traceparent", words).run(move |input| {
        let Ok(value) = HeaderValue::from_bytes(input) else {
            return false;
        };
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.headers.append("traceparent", value);
        parts.headers.append("tracestate", HeaderValue::from_static("a=b"));
        let trace = correlation(&parts.headers, Uuid::now_v7()).trace;
        let text = String::from_utf8_lossy(input);
        let continued = !trace.state.is_empty();
        if continued {
            let fields: Vec<&str> = text.split('-').collect();
            assert_eq!(fields.iter().map(|f| f.len()).collect::<Vec<_>>(), [2, 32, 16, 2]);
            assert_eq!((fields[0], fields[1]), ("00", hex::encode(trace.trace_id).as_str()));
            assert!(text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-')));
        } else {
            assert_ne!(hex::encode(trace.trace_id), id, "{text}");
        }
        continued
    });
}

#[test]
fn a_configuration_is_taken_or_every_mistake_named() {
    let folder = tempfile::tempdir().unwrap();
    let words = &[
        "upstream:",
        "url:",
        "{",
        "}",
        "[",
        "]",
        ": ",
        "\n  ",
        "&a ",
        "*a",
        "<<: *a",
        "!!binary ",
        "- ",
        "null",
        "~",
        "1e999",
        "0x10",
        "-1",
        "18446744073709551616",
        "5s",
        "32KiB",
        "\"",
        "'",
        "|",
        ">-",
        "limits:",
        "issuers:",
        "{ fixed: x }",
        "tls:",
        "h2c://a:1",
        "unix:/x",
        "%YAML 1.1\n",
        "---\n",
        "...\n",
        "? ",
        "\t",
    ];
    Fuzz::new("config", words).run(move |input| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        match config::from_str(text, folder.path(), std::iter::empty()) {
            Ok(loaded) => {
                let again = config::from_str(text, folder.path(), std::iter::empty());
                assert!(
                    again.is_ok_and(|again| again.effective == loaded.effective),
                    "two readings differ"
                );
                let config = loaded.config;
                assert!(config.limits.header_bytes.get() >= 8192 && config.limits.connections.get() > 0);
                true
            }
            Err(errors) => {
                assert!(!errors.to_string().trim().is_empty(), "refused without a reason");
                false
            }
        }
    });
}

#[test]
fn a_portal_file_is_taken_or_every_mistake_named() {
    let words = &[
        "public:",
        "routes:",
        "cors:",
        "claims:",
        "flags:",
        "\"GET /portal/p/x\"",
        "{ ",
        " }",
        "[",
        "]",
        "- ",
        ": ",
        "**",
        "*",
        "{id}",
        "{id}/{id}",
        "..",
        "%2f",
        "//",
        "origins:",
        "app",
        "*",
        "null",
        "on",
        "true",
        "&a ",
        "*a",
        "!!str ",
        "\n",
        "\t",
        "action:",
        "resource:",
        "namespace:",
    ];
    Fuzz::new("portal", words).run(|input| {
        let Ok(text) = std::str::from_utf8(input) else { return false };
        match PortalFile::parse(text) {
            Ok(file) => {
                // public entries and routes match canonical paths only
                for path in ["/portal/p/x", "/portal/p/assets/a.css", "/"] {
                    let path = CanonicalPath::parse(path).unwrap();
                    let Ok(path) = file.paths.read(&path) else { continue };
                    let public = file.public.find("GET", &path).is_some();
                    assert!(!public || !file.public.is_empty());
                    if let Some(found) = file.routes.find("GET", &path) {
                        assert_eq!(found.route.method, "GET");
                        assert!(!found.resource_id.is_empty());
                    }
                }
                true
            }
            Err(errors) => {
                assert!(!errors.is_empty() && errors.iter().all(|e| !e.message.is_empty()));
                false
            }
        }
    });
}

#[test]
fn policies_that_load_never_allow_more_than_cedar_and_nothing_under_a_forbid() {
    const SCHEMA: &str = "schemas/bench.cedarschema";
    const MAIN: &str = "policies/bench/main.cedar";
    let schema = include_str!("../tests/corpus/policy-schema.cedarschema");
    let words = &[
        "permit (principal, action, resource);",
        "forbid (principal, action, resource)",
        "when { true }",
        "unless { false }",
        "!",
        "(",
        ")",
        "principal in Role::\"admin\"",
        "resource in Path::\"/portal\"",
        "action == Action::\"GET\"",
        " has ",
        " like \"*\"",
        " in [",
        "].containsAny(",
        "ip(\"::1\")",
        "decimal(\"0.1\")",
        "9223372036854775807",
        " + 1",
        "if true then ",
        " else ",
        "@id(\"x\")",
        "?principal",
        "//",
        "\"\\u{0}\"",
        "context.",
        "principal.",
        "&&",
        "||",
        "is User",
        ";",
    ];
    let claims = serde_json::json!({"sub": "alice", "tenant": "acme", "roles": ["viewer"], "iat": 0});
    let issuer = IssuerScope::new("corp", "https://id.example.test/", vec!["bench".to_owned()]);
    let identity = unsigned_identity(&issuer, claims.as_object().unwrap().clone()).unwrap();
    let portal = PortalScope {
        issuers: vec![Arc::new(issuer)],
        ..PortalScope::at(PortalSlug::parse("bench").unwrap(), "/")
    };
    let path = CanonicalPath::parse("/portal/p/x").unwrap();
    Fuzz::new("policy", words).run(move |input| {
        let text = String::from_utf8_lossy(input);
        let load = |files: &[(&str, &str)]| {
            let mut tree = Tree::default();
            for (name, text) in files {
                tree.files.0.insert((*name).to_owned(), SourceFile::new(text.as_bytes()));
            }
            tree.slugs.insert(portal.slug.clone());
            Loader::new(None).load(&portal, &tree, None).revision
        };
        let headers = http::HeaderMap::new();
        let is_allowed = |revision: &Revision| {
            let principal = &revision.principal(&portal, &identity).ok()?;
            let query = Query {
                portal: &portal,
                revision,
                now_millis: 1_800_000_000_000,
                asked: QueryForm::Http(HttpQuery {
                    method: "GET",
                    path: &path,
                    host: "shop.example.test",
                    scheme: Scheme::Https,
                    source_ip: [10, 1, 2, 3].into(),
                    query: None,
                    headers: Some(&headers),
                    context: None,
                }),
            };
            let identity = &identity;
            let caller = Caller::Proven { identity, principal };
            let decision = decide(&query, caller);
            let allows = decision.denial().is_none();
            if allows {
                let reference = Reference::new(&query, caller, &decision).expect("an allowed query can be put to Cedar");
                assert!(reference.allows(), "Cedar itself denies");
            }
            Some(allows)
        };
        let Some(allows) = load(&[(SCHEMA, schema), (MAIN, &text)]).as_deref().and_then(is_allowed) else {
            return false;
        };
        let closed = load(&[
            (SCHEMA, schema),
            (MAIN, &text),
            ("policies/bench/zz.cedar", "forbid (principal, action, resource);"),
        ]);
        let still_allows = closed.as_deref().and_then(is_allowed).unwrap_or(false);
        assert!(
            !still_allows,
            "a forbid for everything did not hold (allowed before: {allows})"
        );
        true
    });
}

#[test]
fn a_question_is_strict_json_with_known_members_or_is_refused() {
    let words = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"token\":",
        "\"principal\":",
        "\"action\":\"GET\"",
        "\"resource\":",
        "\"context\":{}",
        "\"entities\":[]",
        "\"questions\":[",
        "null",
        "true",
        "1e400",
        "-0",
        "0.1",
        "\\u0000",
        "\\ud800",
        "\\",
        "\"\"",
        "\"Path::\\\"/x\\\"\"",
        "\"__entity\":",
        "\"__extn\":",
        "\u{feff}",
        "18446744073709551616",
        "{\"a\":1,\"a\":2}",
    ];
    Fuzz::new("authorize", words).run(|input| {
        let Ok(body) = json::object_from_slice(input) else {
            return false;
        };
        let plain: Value = serde_json::from_slice(input).expect("strict JSON is JSON");
        assert_eq!(plain, Value::Object(body.clone()), "two readings of one text");
        let one = Ask::read(body.clone(), None);
        assert!(one.as_ref().map_or(true, |ask| ask.item.is_none()));
        let batch = Ask::read_batch(body, 20);
        assert!(batch.as_ref().map_or(true, |asks| asks.len() <= 20));
        one.is_ok() || batch.is_ok()
    });
}
