//! One run of a program under callgrind, cut where it calls a marked function: instructions per part and thread.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The whole environment besides `PATH`. The processor features that glibc and aws-lc detect need no pinning: callgrind
/// emulates the same processor everywhere (a Haswell, on any host with AVX2). glibc would make its number of arenas
/// depend on the number of processors.
const ENVIRONMENT: [(&str, &str); 1] = [("GLIBC_TUNABLES", "glibc.malloc.arena_max=16")];

/// The output of a program, and its instruction counts.
pub struct Run {
    pub printed: String,
    pub parts: Vec<Part>,
}

/// The instructions of one thread between two calls of the marked function.
pub struct Part {
    pub number: usize,
    pub thread: u64,
    pub instructions: u64,
    /// The file of callgrind, with the names of the functions that ran.
    text: String,
}

impl Part {
    /// True if a function ran whose path begins with `prefix`, like `cedargate::gate::`. A generic function of another
    /// crate may have the path inside its own: any thread that wakes a task runs functions that are generic over its
    /// future.
    pub fn ran(&self, prefix: &str) -> bool {
        self.text.lines().any(|line| {
            let name = line.strip_prefix("fn=").or_else(|| line.strip_prefix("cfn="));
            let name = name.and_then(|name| name.split_once(' '));
            name.is_some_and(|(_, name)| name.starts_with(prefix))
        })
    }

    /// The calls of functions with one of these names by other functions. A line `fn=` opens the lines of one function;
    /// in it, `cfn=` names the function of the next line `calls=`. A name is written once, with a number that stands
    /// for it later.
    pub fn calls(&self, names: &[&str]) -> u64 {
        let mut known: HashMap<&str, bool> = HashMap::new();
        let mut inside = false;
        let mut counted = false;
        let mut calls = 0;
        for line in self.text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                inside = is_one_of(names, name, &mut known);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                counted = is_one_of(names, name, &mut known) && !inside;
            } else if let Some(count) = line.strip_prefix("calls=").filter(|_| counted) {
                calls += count.split(' ').next().unwrap().parse::<u64>().unwrap();
            }
        }
        calls
    }

    fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read `{}`: {e}", path.display()))?;
        let number = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|number| number.trim().parse::<u64>().ok())
                .ok_or_else(|| format!("`{}` has no number `{key}`", path.display()))
        };
        let part = number("part: ")?;
        let thread = number("thread: ")?;
        let instructions = number("totals: ")?;
        Ok(Self {
            number: usize::try_from(part).map_err(|e| e.to_string())?,
            thread,
            instructions,
            text,
        })
    }
}

/// Reads `(<number>) <name>`, or `(<number>)` alone for a name that was `known` before; true if the name is one of
/// `names`.
fn is_one_of<'a>(names: &[&str], text: &'a str, known: &mut HashMap<&'a str, bool>) -> bool {
    match text.split_once(' ') {
        Some((number, name)) => *known.entry(number).or_insert(names.contains(&name)),
        None => known.get(text).copied().unwrap_or_default(),
    }
}

/// Empties `folder` and runs `program arguments` in it under callgrind, which cuts the run at every call of `mark`.
pub fn count(program: &Path, arguments: &[String], mark: &str, folder: &Path) -> Result<Run, String> {
    let fail = |e: std::io::Error| format!("cannot use `{}`: {e}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(folder).map_err(fail)?;
    }
    std::fs::create_dir_all(folder).map_err(fail)?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--separate-threads=yes", "--fair-sched=yes"])
        .arg(format!("--dump-before={mark}"))
        .arg(format!("--callgrind-out-file={}", folder.join("out").display()))
        .arg(program)
        .args(arguments)
        .env_clear()
        .envs(ENVIRONMENT)
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .current_dir(folder)
        .output()
        .map_err(|e| format!("cannot run valgrind ({e}); `make tools` installs it"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the program under valgrind ended with {}:\n{errors}", output.status));
    }
    Ok(Run {
        printed: String::from_utf8(output.stdout).map_err(|e| e.to_string())?,
        parts: parts(folder)?,
    })
}

/// Reads the files that callgrind wrote: `out.<part>-<thread>`.
fn parts(folder: &Path) -> Result<Vec<Part>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| e.to_string())?;
    let paths: Result<Vec<PathBuf>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let paths = paths.map_err(|e| e.to_string())?;
    let written = |path: &&PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("out") && name.contains('-')
    };
    paths.iter().filter(written).map(|path| Part::read(path)).collect()
}

pub fn version() -> Result<String, String> {
    output_of("valgrind", &["--version"]).map(|line| line.trim().trim_start_matches("valgrind-").to_owned())
}

/// The standard output of a command.
pub fn output_of(command: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(command).args(arguments).output();
    let output = output.map_err(|e| format!("cannot run {command}: {e}; `make tools` installs it"))?;
    String::from_utf8(output.stdout).map_err(|e| e.to_string())
}
