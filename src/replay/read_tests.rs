//! Logs of every form, and of none.

use std::io::Write as _;

use super::*;

/// The decision ids that it saw.
#[derive(Default)]
struct Seen(Vec<String>);

impl Visitor for Seen {
    fn visit(&mut self, record: &LogRecord<'_>, place: RecordLocation<'_>) {
        assert!(place.line > 0 && record.decision_id != "panic");
        self.0.push(record.decision_id.to_string());
    }

    fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

fn line(id: impl std::fmt::Display) -> String {
    format!("{{\"kind\":\"decision\",\"ts\":\"2026-11-29T10:00:00.000000Z\",\"decision_id\":\"{id}\"}}\n")
}

fn read(logs: &[PathBuf]) -> Reading<Seen> {
    let reader = LogReader {
        logs,
        workers: 3,
        stack_bytes: 1 << 20,
    };
    let mut reading = reader.read(Seen::default, |_| {}).unwrap();
    reading.visitor.0.sort();
    reading
}

#[test]
fn plain_gzip_and_zstd_files_are_one_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a.jsonl"), line("a")).unwrap();
    let mut gzip = Vec::new();
    for id in ["b", "c"] {
        // two members in a row, as `cat a.gz b.gz` makes them
        let mut member = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        member.write_all(line(id).as_bytes()).unwrap();
        gzip.extend(member.finish().unwrap());
    }
    std::fs::write(path("b.jsonl.gz"), gzip).unwrap();
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let mut zstd = ruzstd::encoding::compress_to_vec(line("d").as_bytes(), level);
    zstd.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]); // a frame to skip
    zstd.extend(ruzstd::encoding::compress_to_vec(line("e").as_bytes(), level));
    std::fs::write(path("c.jsonl.zst"), zstd).unwrap();
    let reading = read(&[path("a.jsonl"), path("b.jsonl.gz"), path("c.jsonl.zst")]);
    assert_eq!(reading.visitor.0, ["a", "b", "c", "d", "e"]);
    assert_eq!((reading.totals.decisions, reading.totals.broken), (5, 0));
}

#[test]
fn a_record_is_read_from_its_place_and_from_no_changed_file() {
    let folder = tempfile::tempdir().unwrap();
    let id = |number: u128| uuid::Uuid::from_u128(number + 1);
    let text: String = (0..3000)
        .map(|number| format!("not a record ä\r\n{}", line(id(number))))
        .collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    for bytes in [
        text.clone().into_bytes(),
        gzip.finish().unwrap(),
        ruzstd::encoding::compress_to_vec(text.as_bytes(), level),
    ] {
        let path = folder.path().join("log");
        std::fs::write(&path, bytes).unwrap();
        let logs = [path.clone()];
        let reader = LogReader {
            logs: &logs,
            workers: 3,
            stack_bytes: 1 << 20,
        };
        let index = reader.read(super::super::LogIndex::default, |_| {}).unwrap().visitor;
        for number in [0, 1, 1777, 2999] {
            let wanted = id(number).to_string();
            let place = index.place(id(number)).unwrap();
            let record = place.read(&wanted).unwrap();
            assert_eq!(LogRecord::parse(&record).unwrap().decision_id, wanted);
            assert_eq!(
                place.read(&id(number + 1).to_string()),
                None,
                "another id than that of the place"
            );
        }
        let place = index.place(id(2000)).unwrap();
        std::fs::write(&path, text.get(7..).unwrap()).unwrap();
        assert_eq!(place.read(&id(2000).to_string()), None, "the file has changed");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(place.read(&id(2000).to_string()), None, "the file is gone");
        assert_eq!(index.place(uuid::Uuid::nil()), None);
    }
}

#[test]
fn broken_lines_are_counted_and_named_and_no_record_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let deep = "[".repeat(100_000);
    let mut text = String::new();
    for n in 0..5000 {
        text.push_str(&line(n));
    }
    text.push_str(&format!("{{\"kind\":\"deci\n\n{deep}\n[]\n{{}}\n"));
    text.push_str(&line("panic"));
    text.push_str("{\"kind\":\"auth_event\",\"event\":\"login\"}\n");
    let mut bytes = text.into_bytes();
    bytes.extend(b"\xff\xfe\x00\n{\"kind\":\"decision\",\"decision_id\":\"cut");
    std::fs::write(&path, bytes).unwrap();
    let Reading { visitor, totals } = read(&[path]);
    assert_eq!(visitor.0.len(), 5000);
    assert_eq!((totals.others, totals.broken), (1, 8));
    let lines: Vec<u64> = totals.broken_lines.iter().map(|broken| broken.line).collect();
    assert_eq!(lines, [5001, 5002, 5003, 5004, 5005, 5006, 5008, 5009]);
}

#[test]
fn a_file_that_is_cut_off_is_named_and_the_next_one_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let text: String = (0..20_000).map(line).collect();
    let mut whole = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    whole.write_all(text.as_bytes()).unwrap();
    let whole = whole.finish().unwrap();
    std::fs::write(path("a.gz"), &whole[..whole.len() / 2]).unwrap();
    let zstd = ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    std::fs::write(path("b.zst"), &zstd[..zstd.len() / 2]).unwrap();
    std::fs::write(path("c"), line("last")).unwrap();
    let Reading { visitor, totals } = read(&["a.gz", "b.zst", "c"].map(path));
    assert!(visitor.0.contains(&"last".to_owned()));
    let cut: Vec<&str> = totals
        .cut_files
        .iter()
        .map(|cut| cut.file.rsplit('/').next().unwrap())
        .collect();
    assert_eq!(cut, ["a.gz", "b.zst"]);
    assert!(read_error(&[path("absent")]).contains("absent"));
    assert!(read_error(&[folder.path().to_owned()]).contains("directory"));
}

fn read_error(logs: &[PathBuf]) -> String {
    let reader = LogReader {
        logs,
        workers: 1,
        stack_bytes: 1 << 20,
    };
    reader.read(Seen::default, |_| {}).err().unwrap().to_string()
}
