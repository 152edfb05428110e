//! Rotated files: their names, and the thread that compresses them and deletes the oldest.
//!
//! `decisions.jsonl` becomes `decisions-00000007-20261129T184900Z.jsonl`, and `….jsonl.gz` once it is compressed. The
//! number grows with every rotation, so the names sort in the order in which the files were written, also when the
//! clock was set back.
//!
//! The thread works on what it finds in the folder, so a sweep that was cut short, or a process that was killed, leaves
//! nothing behind that the next sweep does not finish. It never touches the file that is being written.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;
use prometheus::IntCounterVec;

use super::FILE_MODE;
use crate::base::clock;
use crate::base::priority;
use crate::config::{Compress, Rotate};

/// Digits of a rotated file's number; a larger number has more.
const NUMBER_DIGITS: usize = 8;
const GZIP_SUFFIX: &str = ".gz";
/// A compressed file that is not complete. Its name also begins with a dot, so that `decisions*` does not match it.
const PART_SUFFIX: &str = ".gz.part";

/// Wakes the thread that compresses and deletes.
#[derive(Debug)]
pub(super) struct Sweeper(SyncSender<PathBuf>);

/// The names of one file's rotated files.
struct RotatedNames<'a> {
    folder: &'a Path,
    stem: String,
    /// With its dot; empty if the file has none.
    extension: String,
}

/// A rotated file in the folder.
struct Rotated {
    number: u64,
    path: PathBuf,
    kind: RotatedKind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum RotatedKind {
    Plain,
    Gzip,
    /// Left by a process that ended while it compressed.
    Part,
}

impl<'a> RotatedNames<'a> {
    fn of(path: &'a Path) -> Option<Self> {
        let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
        Some(Self {
            folder: path.parent()?,
            stem: text(path.file_stem())?,
            extension: text(path.extension())
                .map(|extension| format!(".{extension}"))
                .unwrap_or_default(),
        })
    }

    fn name(&self, number: u64, at: SystemTime) -> PathBuf {
        let at = humantime::format_rfc3339_seconds(at).to_string().replace(['-', ':'], "");
        let Self { stem, extension, .. } = self;
        self.folder.join(format!("{stem}-{number:0NUMBER_DIGITS$}-{at}{extension}"))
    }

    /// The number and kind of a rotated file's name; `None` for the name of another file.
    fn parse(&self, name: &str) -> Option<(u64, RotatedKind)> {
        let part = name.strip_prefix('.').filter(|rest| rest.ends_with(PART_SUFFIX));
        let rest = part.unwrap_or(name).strip_prefix(&self.stem)?.strip_prefix('-')?;
        let (number, rest) = rest.split_once('-')?;
        let is_number = number.len() >= NUMBER_DIGITS && number.bytes().all(|b| b.is_ascii_digit());
        let (time, rest) = rest.split_at_checked("20261129T184900Z".len())?;
        let is_time = time.ends_with('Z') && time.bytes().all(|b| b.is_ascii_digit() || b == b'T' || b == b'Z');
        let kind = match rest.strip_prefix(&*self.extension)? {
            "" => RotatedKind::Plain,
            GZIP_SUFFIX => RotatedKind::Gzip,
            PART_SUFFIX if part.is_some() => RotatedKind::Part,
            _other => return None,
        };
        Some((number.parse().ok().filter(|_| is_number && is_time)?, kind))
    }

    /// All rotated files, the oldest first.
    fn list(&self) -> io::Result<Vec<Rotated>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.folder)? {
            let entry = entry?;
            if let Some((number, kind)) = entry.file_name().to_str().and_then(|name| self.parse(name)) {
                let path = entry.path();
                found.push(Rotated { number, path, kind });
            }
        }
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        found.sort_by_key(|rotated| rotated.number);
        Ok(found)
    }
}

/// The file and its rotated files that are there, compressed ones as well.
pub fn written_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let path = fs::canonicalize(path)?;
    let names = RotatedNames::of(&path).ok_or(io::ErrorKind::InvalidFilename)?;
    let rotated = names.list()?.into_iter().filter(|rotated| rotated.kind != RotatedKind::Part);
    Ok(rotated.map(|rotated| rotated.path).chain([path.clone()]).collect())
}

/// Gives the file another name, the next one of its rotated files. Returns the file that `path` named: behind a
/// symbolic link the rotated files lie beside the link's target.
pub(super) fn rename(path: &Path) -> io::Result<PathBuf> {
    let path = fs::canonicalize(path)?;
    let names = RotatedNames::of(&path).ok_or(io::ErrorKind::InvalidFilename)?;
    let newest = names.list()?.last().map_or(0, |rotated| rotated.number);
    fs::rename(&path, names.name(newest + 1, clock::now()))?;
    Ok(path)
}

impl Sweeper {
    /// Starts the thread; it ends when the sweeper is dropped. `None`: there is nothing to compress and nothing to
    /// delete.
    pub fn start(rotate: &Rotate, path: &Path, errors: IntCounterVec) -> io::Result<Option<Self>> {
        if rotate.compress == Compress::None && rotate.keep.is_none() {
            return Ok(None);
        }
        // one waiting wake-up is enough: a sweep looks at the whole folder
        let (wake, woken) = sync_channel(1);
        let rotate = rotate.clone();
        // not joined: a file that is half compressed is left to the next start
        std::thread::Builder::new()
            .name("audit-sweep".to_owned())
            .spawn(move || sweep_when_woken(&rotate, &woken, &errors))?;
        let sweeper = Self(wake);
        sweeper.wake(path);
        Ok(Some(sweeper))
    }

    /// Makes the thread look at the folder of this file.
    pub fn wake(&self, path: &Path) {
        let _is_woken_already = self.0.try_send(path.to_owned()).is_err();
    }
}

fn sweep_when_woken(rotate: &Rotate, woken: &Receiver<PathBuf>, errors: &IntCounterVec) {
    priority::lower();
    let mut was_fine = true;
    while let Ok(path) = woken.recv() {
        match sweep(rotate, &path) {
            Ok(()) => was_fine = true,
            Err(SweepError { operation, source }) => {
                errors.with_label_values(&[operation]).inc();
                if std::mem::take(&mut was_fine) {
                    tracing::error!(error = %source, operation, "rotated audit files cannot be tidied; trying again after the next rotation");
                }
            }
        }
    }
}

struct SweepError {
    operation: &'static str,
    source: io::Error,
}

fn sweep(rotate: &Rotate, path: &Path) -> Result<(), SweepError> {
    let failed = |operation| move |source| SweepError { operation, source };
    let path = fs::canonicalize(path).unwrap_or_else(|_absent| path.to_owned());
    let Some(names) = RotatedNames::of(&path) else { return Ok(()) };
    let mut rotated = names.list().map_err(failed("delete"))?;
    for part in rotated.extract_if(.., |rotated| rotated.kind == RotatedKind::Part) {
        fs::remove_file(part.path).map_err(failed("delete"))?;
    }
    // a number counts once, also while its compressed file is new and the plain one not deleted yet
    let mut numbers: Vec<u64> = rotated.iter().map(|rotated| rotated.number).collect();
    numbers.dedup();
    let surplus = rotate.keep.map_or(0, |keep| numbers.len().saturating_sub(keep.as_usize()));
    let kept_from = numbers.get(surplus).copied().unwrap_or(u64::MAX);
    for old in rotated.extract_if(.., |rotated| rotated.number < kept_from) {
        fs::remove_file(old.path).map_err(failed("delete"))?;
    }
    if rotate.compress == Compress::Gzip {
        for plain in rotated.iter().filter(|rotated| rotated.kind == RotatedKind::Plain) {
            compress(&plain.path).map_err(failed("compress"))?;
        }
    }
    Ok(())
}

/// Replaces a file by its compressed one. The compressed file has its name only once it is complete and on the disk.
fn compress(path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}{PART_SUFFIX}"));
    let compressed = path.with_file_name(format!("{name}{GZIP_SUFFIX}"));
    let result = compress_into(path, &part).and_then(|()| fs::rename(&part, compressed));
    if let Err(error) = result {
        // a full disk gets its space back
        let _absent = fs::remove_file(&part).is_err();
        return Err(error);
    }
    fs::remove_file(path)
}

fn compress_into(path: &Path, part: &Path) -> io::Result<()> {
    let mut from = File::open(path)?;
    let to = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(part)?;
    let mut encoder = GzEncoder::new(io::BufWriter::new(to), Compression::default());
    io::copy(&mut from, &mut encoder)?;
    let to = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    to.sync_all()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::config::Count;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn names_of_rotated_files_sort_in_the_order_of_rotation() {
        let folder = tempfile::tempdir().unwrap();
        for (file, stem, extension) in [("log.jsonl", "log", ".jsonl"), ("plain", "plain", "")] {
            let path = folder.path().join(file);
            for n in 1..=12 {
                fs::write(&path, n.to_string()).unwrap();
                rename(&path).unwrap();
            }
            let found: Vec<String> = names(folder.path())
                .into_iter()
                .filter(|name| name.starts_with(stem))
                .collect();
            let numbers: Vec<String> = found
                .iter()
                .map(|name| fs::read_to_string(folder.path().join(name)).unwrap())
                .collect();
            assert_eq!(numbers, (1..=12).map(|n| n.to_string()).collect::<Vec<_>>());
            assert!(
                found[0].starts_with(&format!("{stem}-00000001-20")) && found[0].ends_with(&format!("Z{extension}")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn sweep_compresses_keeps_the_newest_and_touches_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let others = [
            "log.jsonl",
            "log-1-20261129T184900Z.jsonl",
            "log-00000001.jsonl",
            "other-00000001-20261129T184900Z.jsonl",
        ];
        for other in others {
            fs::write(folder.path().join(other), "other").unwrap();
        }
        for n in 1..=5 {
            fs::write(
                folder.path().join(format!("log-{n:08}-20261129T184900Z.jsonl")),
                format!("{n}\n").repeat(1000),
            )
            .unwrap();
        }
        fs::write(folder.path().join(".log-00000004-20261129T184900Z.jsonl.gz.part"), "half").unwrap();
        let rotate = Rotate {
            keep: Count::new(3),
            compress: Compress::Gzip,
            ..Rotate::default()
        };
        assert!(sweep(&rotate, &path).is_ok());
        let gzipped: Vec<String> = (3..=5).map(|n| format!("log-{n:08}-20261129T184900Z.jsonl.gz")).collect();
        let mut wanted: Vec<String> = others.iter().map(|name| (*name).to_owned()).chain(gzipped.clone()).collect();
        wanted.sort();
        assert_eq!(names(folder.path()), wanted);
        let mut text = String::new();
        let file = File::open(folder.path().join(&gzipped[0])).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "3\n".repeat(1000));
    }
}
