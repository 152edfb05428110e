//! Files of the decision log: rotation, what other programs do to them, and what `verify` finds in them.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::chain::Chain;
use super::output::Output;
use super::sink::Sink;
use super::verify::{ChainFinding, FindingKind, Report, Trust, verify};
use super::*;
use crate::base::ed25519::tests::{PRIVATE, PUBLIC};
use crate::base::ed25519::{SigningKey, VerifyingKey};
use crate::config::{AuditChain, AuditSink, Compress, FileSink, Fsync, Rotate};

/// A folder with a decision log.
struct Log {
    folder: TempDir,
    sink: FileSink,
    /// Lines between two checkpoints; `None`: no chain.
    chained: Option<u32>,
}

impl Log {
    fn new(chained: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sink = FileSink::plain(folder.path().join("log.jsonl"));
        Self { folder, sink, chained }
    }

    fn rotated_at(mut self, bytes: &str) -> Self {
        self.sink.rotate = Some(Rotate {
            bytes: Some(serde_json::from_value(bytes.into()).unwrap()),
            ..Rotate::default()
        });
        self
    }

    fn path(&self) -> &Path {
        &self.sink.file
    }

    fn open(&self) -> Output {
        let metrics = Metrics::new().unwrap();
        let chain = self.chained.map(|records| {
            let config = AuditChain {
                key_file: PathBuf::new(),
                records: config::Count::new(records).unwrap(),
                interval: serde_json::from_value("1h".into()).unwrap(),
                replica: Some("pod-1".to_owned()),
            };
            let lost = IntCounter::new("lost", "test").unwrap();
            Chain::new(&config, SigningKey::from_pem(PRIVATE).unwrap(), Some(self.path()), lost)
        });
        let sink = Sink::open(&AuditSink::File(self.sink.clone()), &metrics.audit_errors).unwrap();
        let mut output = Output::new(sink, chain);
        output.attend().unwrap();
        output
    }

    /// All files, in the order in which they were written.
    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        files
    }

    fn text(&self) -> String {
        self.files()
            .iter()
            .map(|file| std::fs::read_to_string(file).unwrap())
            .collect()
    }

    fn verified(&self) -> Report {
        verify(&self.files(), Trust::Keys(&VerifyingKey::all_from_pem(PUBLIC).unwrap())).unwrap()
    }

    /// A chained log of ten records, checkpoints behind every fourth, closed.
    fn of_ten() -> Self {
        let log = Self::new(Some(4));
        let mut output = log.open();
        write(&mut output, 0..10);
        output.finish().unwrap();
        log
    }

    /// Replaces the lines of the current file.
    fn edit(&self, change: impl FnOnce(&mut Vec<String>)) {
        let mut lines: Vec<String> = self.text().lines().map(|line| format!("{line}\n")).collect();
        change(&mut lines);
        std::fs::write(self.path(), lines.concat()).unwrap();
    }
}

fn record_line(n: usize) -> String {
    format!("{{\"ts\":\"2026-11-29T18:49:00.{n:06}Z\",\"n\":{n}}}\n")
}

fn write(output: &mut Output, records: std::ops::Range<usize>) {
    let mut lines = records.map(record_line).collect::<String>().into_bytes();
    output.write(&mut lines).unwrap();
    assert!(lines.is_empty());
}

/// The numbers of the records, in order.
fn numbers(text: &str) -> Vec<u64> {
    let values = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect(line));
    values.filter_map(|value| value["n"].as_u64()).collect()
}

fn damage(report: &Report) -> Vec<(FindingKind, u64)> {
    let damage = report.findings.iter().filter(|finding| finding.kind.is_damage());
    damage.map(|finding| (finding.kind, finding.spot.line)).collect()
}

fn remarks(report: &Report) -> Vec<FindingKind> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn files_are_rotated_by_size_between_lines() {
    for chained in [None, Some(50)] {
        let log = Log::new(chained).rotated_at("4KiB");
        let mut output = log.open();
        write(&mut output, 0..300);
        for n in 300..400 {
            write(&mut output, n..n + 1);
        }
        output.finish().unwrap();
        let files = log.files();
        assert!(files.len() > 4, "{files:?}");
        for file in &files {
            let length = std::fs::metadata(file).unwrap().len();
            // the checkpoint at the end of a file comes on top
            assert!(length <= 4096 + 600, "{file:?}: {length}");
        }
        assert_eq!(numbers(&log.text()), (0..400).collect::<Vec<_>>());
        if chained.is_some() {
            assert_eq!(remarks(&log.verified()), []);
            for file in &files {
                let keys = VerifyingKey::all_from_pem(PUBLIC).unwrap();
                let alone = verify(std::slice::from_ref(file), Trust::Keys(&keys)).unwrap();
                assert_eq!(damage(&alone), [], "each file can be verified alone");
            }
        }
    }
}

#[test]
fn file_is_rotated_when_its_interval_is_over_also_without_records() {
    let mut log = Log::new(None);
    log.sink.rotate = Some(Rotate {
        interval: Some(serde_json::from_value("1s".into()).unwrap()),
        ..Rotate::default()
    });
    let mut output = log.open();
    assert_eq!(output.deadline(), None, "an empty file is not rotated");
    write(&mut output, 0..1);
    let deadline = output.deadline().unwrap();
    std::thread::sleep(deadline.saturating_duration_since(std::time::Instant::now()) + Duration::from_millis(5));
    output.attend().unwrap();
    assert_eq!(log.files().len(), 2);
    assert_eq!(std::fs::metadata(log.path()).unwrap().len(), 0);
    // a file that a former process began in an earlier interval
    write(&mut output, 1..2);
    drop(output);
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    std::fs::File::options()
        .append(true)
        .open(log.path())
        .unwrap()
        .set_modified(hour_ago)
        .unwrap();
    write(&mut log.open(), 2..3);
    assert_eq!((log.files().len(), numbers(&log.text())), (3, vec![0, 1, 2]));
}

#[test]
fn file_that_another_program_moves_or_truncates_is_followed() {
    let log = Log::new(Some(4));
    let moved = log.folder.path().join("a-moved");
    let mut output = log.open();
    write(&mut output, 0..5);
    std::fs::rename(log.path(), &moved).unwrap();
    write(&mut output, 5..8);
    std::fs::copy(log.path(), log.folder.path().join("b-copied")).unwrap();
    std::fs::File::options()
        .write(true)
        .open(log.path())
        .unwrap()
        .set_len(0)
        .unwrap();
    write(&mut output, 8..12);
    output.finish().unwrap();
    assert_eq!(log.files().len(), 3);
    assert_eq!(numbers(&log.text()), (0..12).collect::<Vec<_>>());
    assert_eq!(remarks(&log.verified()), []);
}

#[test]
fn deleted_folder_is_an_error_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("logs");
    std::fs::create_dir(&inner).unwrap();
    let mut log = Log::new(Some(4));
    log.sink.file = inner.join("log.jsonl");
    let mut output = log.open();
    write(&mut output, 0..2);
    std::fs::remove_dir_all(&inner).unwrap();
    let mut lines = record_line(2).into_bytes();
    assert_eq!(output.write(&mut lines).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert_eq!(lines, record_line(2).into_bytes(), "kept for another try");
    std::fs::create_dir(&inner).unwrap();
    output.write(&mut lines).unwrap();
    output.finish().unwrap();
    let text = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(numbers(&text), [2]);
}

#[test]
fn half_line_of_a_crash_is_fenced_and_the_next_line_valid() {
    for chained in [None, Some(4)] {
        let log = Log::new(chained);
        let mut output = log.open();
        write(&mut output, 0..3);
        drop(output);
        let mut file = std::fs::File::options().append(true).open(log.path()).unwrap();
        file.write_all(b"{\"ts\":\"2026-11").unwrap();
        let mut output = log.open();
        write(&mut output, 3..5);
        output.finish().unwrap();
        let text = log.text();
        let lines: Vec<&str> = text.lines().filter(|line| *line != "{\"ts\":\"2026-11").collect();
        assert_eq!(lines.len() + 1, text.lines().count());
        assert_eq!(numbers(&lines.join("\n")), [0, 1, 2, 3, 4]);
        if chained.is_some() {
            let report = log.verified();
            assert_eq!(remarks(&report), [FindingKind::NotProven, FindingKind::Cut]);
            assert_eq!(report.chains.len(), 2);
            assert_eq!((report.chains[0].ended, report.chains[1].ended), (false, true));
        }
    }
}

/// A pipe that is full takes a part of a line.
#[test]
fn line_that_the_sink_took_in_part_is_completed_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let mut reader = rustix_nonblocking(&path);
    for chained in [None, Some(4)] {
        let mut log = Log::new(chained);
        log.sink = FileSink::plain(&path);
        // keeps the kernel from taking all: the writer's end must not block either
        let mut output = log.open();
        let filler = format!("{{\"ts\":\"\",\"x\":\"{}\"}}\n", "x".repeat(30_000));
        let mut text = Vec::new();
        let mut lines = [filler.as_bytes(), filler.as_bytes(), filler.as_bytes()].concat();
        let writer = std::thread::spawn(move || {
            let written = output.write(&mut lines);
            (output, lines, written)
        });
        while !writer.is_finished() {
            let mut buffer = [0; 4096];
            if let Ok(length) = reader.read(&mut buffer) {
                text.extend_from_slice(&buffer[..length]);
            }
        }
        let (mut output, lines, written) = writer.join().unwrap();
        written.unwrap();
        assert!(lines.is_empty());
        write(&mut output, 0..1);
        let mut rest = vec![0; 65536];
        let length = reader.read(&mut rest).unwrap();
        text.extend_from_slice(&rest[..length]);
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.lines()
                .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
        );
    }
}

fn rustix_nonblocking(path: &Path) -> std::fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .unwrap()
}

#[test]
fn fsync_is_due_after_its_interval_or_every_batch() {
    let mut log = Log::new(None);
    for (fsync, waits) in [
        (Fsync::Never, false),
        (Fsync::Always, false),
        (Fsync::Interval(Duration::from_millis(20)), true),
    ] {
        log.sink.fsync = fsync;
        let mut output = log.open();
        write(&mut output, 0..1);
        assert_eq!(output.deadline().is_some(), waits, "{fsync:?}");
        if waits {
            std::thread::sleep(Duration::from_millis(25));
            output.attend().unwrap();
            assert_eq!(output.deadline(), None);
        }
    }
}

#[test]
fn intact_log_is_proven_to_its_end() {
    let log = Log::of_ten();
    let report = log.verified();
    assert_eq!(remarks(&report), []);
    let [chain] = report.chains.as_slice() else {
        panic!("{report:?}")
    };
    assert!(chain.ended && chain.not_proven == 0 && chain.replica.as_deref() == Some("pod-1"));
    // start, two checkpoints, end
    assert_eq!((chain.lines, chain.checkpoints, report.lines), (14, 4, 14));
    // without the end the last lines are not proven, and that is said
    let log = Log::new(Some(4));
    let mut output = log.open();
    write(&mut output, 0..10);
    drop(output);
    let report = log.verified();
    assert_eq!((damage(&report), remarks(&report)), (vec![], vec![FindingKind::NotProven]));
    assert_eq!(report.chains[0].not_proven, 2);
}

/// Lines: 1 start, 2-5 records, 6 checkpoint, 7-10 records, 11 checkpoint, 12-13 records, 14 end.
#[test]
fn every_kind_of_damage_is_found_and_placed() {
    type Change = fn(&mut Vec<String>);
    type Case<'a> = (&'a str, Change, &'a [(FindingKind, u64)]);
    let cases: [Case<'_>; 14] = [
        (
            "changed",
            |lines| lines[7] = lines[7].replace("\"n\":5", "\"n\":7"),
            &[(FindingKind::Changed, 8)],
        ),
        ("removed", |lines| drop(lines.remove(7)), &[(FindingKind::Removed, 8)]),
        (
            "several removed",
            |lines| drop(lines.drain(7..9)),
            &[(FindingKind::Removed, 8)],
        ),
        ("reordered", |lines| lines.swap(7, 8), &[(FindingKind::Reordered, 9)]),
        (
            "duplicated",
            |lines| lines.insert(8, lines[7].clone()),
            &[(FindingKind::Duplicated, 9)],
        ),
        (
            "checkpoint removed",
            |lines| drop(lines.remove(5)),
            &[(FindingKind::Removed, 6)],
        ),
        (
            "checkpoint changed",
            |lines| lines[5] = lines[5].replace("\"lost\":0", "\"lost\":1"),
            &[(FindingKind::Changed, 6)],
        ),
        (
            "beginning removed",
            |lines| drop(lines.remove(0)),
            &[(FindingKind::Removed, 1)],
        ),
        (
            "line without a chain",
            |lines| lines.insert(7, record_line(7)),
            &[(FindingKind::Unchained, 8)],
        ),
        (
            "cut in the middle",
            |lines| lines[7] = "{\"ts\":\"2026\n".to_owned(),
            &[(FindingKind::Unchained, 8), (FindingKind::Removed, 9)],
        ),
        // the line behind a gap cannot be checked, and the finding says so
        (
            "joined with the next",
            |lines| lines[7].truncate(20),
            &[(FindingKind::Removed, 8)],
        ),
        (
            "not JSON",
            |lines| lines.insert(7, "}\n".to_owned()),
            &[(FindingKind::Unchained, 8)],
        ),
        (
            "signature of another",
            |lines| {
                let at = lines[5].find("\"signature\":\"").unwrap() + 13;
                let other = if lines[5][at..].starts_with('A') { "B" } else { "A" };
                lines[5].replace_range(at..=at, other);
            },
            &[(FindingKind::Signature, 6)],
        ),
        (
            "signature gone",
            |lines| {
                let at = lines[5].find("\",\"key\":").unwrap();
                lines[5].replace_range(at.., "\"}}\n");
            },
            &[(FindingKind::Signature, 6)],
        ),
    ];
    for (name, change, wanted) in cases {
        let log = Log::of_ten();
        log.edit(change);
        let report = log.verified();
        assert_eq!(damage(&report), wanted, "{name}: {report:#?}");
        if wanted[0].1 == 8 && wanted[0].0 != FindingKind::Unchained {
            let ChainFinding {
                after_checkpoint: Some(after),
                before_checkpoint: Some(before),
                ..
            } = &report.findings[0]
            else {
                panic!("{name}: {report:#?}")
            };
            assert!(
                after.line == 6 && (9..=12).contains(&before.line),
                "{name}: {after:?} {before:?}"
            );
        }
    }
}

#[test]
fn end_that_was_cut_off_shows_by_what_is_not_proven() {
    let log = Log::of_ten();
    log.edit(|lines| drop(lines.drain(12..)));
    assert_eq!(remarks(&log.verified()), [FindingKind::NotProven]);
    let log = Log::of_ten();
    log.edit(|lines| drop(lines.drain(11..)));
    assert_eq!(remarks(&log.verified()), [FindingKind::NoEnd]);
    let log = Log::of_ten();
    log.edit(|lines| lines[13].truncate(30));
    assert_eq!(remarks(&log.verified()), [FindingKind::NotProven, FindingKind::Cut]);
}

/// An attacker without the key who computes all hashes anew.
#[test]
fn forged_hashes_do_not_fit_the_next_signature() {
    use super::chain::link::{ChainPosition, Link, append};
    let log = Log::of_ten();
    log.edit(|lines| {
        let mut before = Link::of(lines[6].trim_end().as_bytes()).unwrap().hash;
        for line in &mut lines[7..10] {
            let link_line = line.trim_end().to_owned();
            let link = Link::of(link_line.as_bytes()).unwrap();
            let record = String::from_utf8(link.record()).unwrap().replace("\"n\":5", "\"n\":99");
            let place = ChainPosition {
                id: link.id,
                seq: link.seq,
                before: &before,
            };
            let mut out = Vec::new();
            before = append(&mut out, record.as_bytes(), &place, None, &mut Vec::new());
            *line = String::from_utf8(out).unwrap();
        }
    });
    assert!(numbers(&log.text()).contains(&99));
    let report = log.verified();
    assert_eq!(damage(&report), [(FindingKind::Changed, 11)]);
    let finding = &report.findings[0];
    assert!(finding.message.contains("computed anew"), "{}", finding.message);
    assert_eq!(finding.after_checkpoint.as_ref().map(|spot| spot.line), Some(6));
    assert_eq!(finding.before_checkpoint.as_ref().map(|spot| spot.line), Some(11));
}

#[test]
fn next_chain_proves_the_end_of_the_one_before() {
    let log = Log::new(Some(100));
    for run in 0..2 {
        // no end: a crash
        write(&mut log.open(), run * 10..run * 10 + 5);
    }
    let report = log.verified();
    assert_eq!((report.chains.len(), damage(&report)), (2, vec![]));
    // the last record of the first run
    log.edit(|lines| drop(lines.remove(5)));
    assert_eq!(damage(&log.verified()), [(FindingKind::Removed, 6)]);
    log.edit(|lines| lines.insert(5, lines[4].replace("\"seq\":4", "\"seq\":6")));
    let kinds: Vec<FindingKind> = damage(&log.verified()).into_iter().map(|(kind, _)| kind).collect();
    assert!(kinds.contains(&FindingKind::Added), "{kinds:?}");
}

#[test]
fn several_chains_in_one_file_are_told_apart() {
    let (one, other) = (Log::of_ten(), Log::of_ten());
    let (a, b) = (one.text(), other.text());
    let mixed: String = a.lines().zip(b.lines()).map(|(a, b)| format!("{a}\n{b}\n")).collect();
    std::fs::write(one.path(), mixed).unwrap();
    let report = one.verified();
    assert_eq!((remarks(&report), report.chains.len()), (vec![], 2));
    one.edit(|lines| drop(lines.remove(9)));
    let report = one.verified();
    assert_eq!(damage(&report), [(FindingKind::Removed, 11)]);
    assert_eq!(report.findings[0].chain.unwrap().as_str(), report.chains[1].id);
}

#[test]
fn other_keys_prove_nothing_and_lines_before_the_chain_are_named() {
    let log = Log::of_ten();
    let other = aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8v1(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    use base64::Engine as _;
    let pem = format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        base64::engine::general_purpose::STANDARD.encode(other.as_ref())
    );
    let keys = VerifyingKey::all_from_pem(&pem).unwrap();
    let report = verify(&log.files(), Trust::Keys(&keys)).unwrap();
    assert_eq!(damage(&report).len(), 4);
    assert!(report.chains[0].proven_to.is_none() && report.chains[0].not_proven == 14);
    assert_eq!(remarks(&verify(&log.files(), Trust::HashesOnly).unwrap()), []);
    log.edit(|lines| lines.insert(0, record_line(0)));
    assert_eq!(remarks(&log.verified()), [FindingKind::NotCovered]);
}

#[test]
fn compressed_files_are_verified_in_the_order_of_their_lines() {
    let mut log = Log::new(Some(20)).rotated_at("4KiB");
    if let Some(rotate) = &mut log.sink.rotate {
        rotate.compress = Compress::Gzip;
    }
    let mut output = log.open();
    write(&mut output, 0..100);
    output.finish().unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let is_plain = |file: &PathBuf| file != log.path() && file.extension().is_some_and(|e| e != "gz");
    while log.files().iter().any(is_plain) && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut files = log.files();
    assert!(files.len() > 2 && !files.iter().any(is_plain), "{files:?}");
    files.reverse();
    let keys = VerifyingKey::all_from_pem(PUBLIC).unwrap();
    let report = verify(&files, Trust::Keys(&keys)).unwrap();
    assert_eq!(remarks(&report), [], "{report:#?}");
    files.remove(1);
    assert_eq!(
        damage(&verify(&files, Trust::Keys(&keys)).unwrap()).len(),
        1,
        "a file is missing"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Only what is behind the last checkpoint may change unnoticed.
    #[test]
    fn no_change_of_one_byte_of_a_proven_log_goes_unnoticed(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let log = Log::of_ten();
        let mut bytes = log.text().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        std::fs::write(log.path(), bytes).unwrap();
        prop_assert!(!log.verified().findings.is_empty());
    }

    #[test]
    fn any_bytes_are_verified_without_a_panic(lines in prop::collection::vec(any::<Vec<u8>>(), 0..8), cut in any::<prop::sample::Index>()) {
        let log = Log::of_ten();
        let mut bytes = log.text().into_bytes();
        bytes.truncate(cut.index(bytes.len()));
        std::fs::write(log.path(), [lines.concat(), bytes].concat()).unwrap();
        let report = log.verified();
        prop_assert!(report.lines > 0 || report.findings.is_empty());
    }
}
