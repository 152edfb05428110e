//! The solver: a cvc5 process that reads SMT-LIB on stdin and answers on stdout.
//!
//! SECURITY: its answers are bounded in size and its time is bounded by the caller; an answer that is not understood is
//! an error, and an error never counts as a proof. The process ends when the value is dropped.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;

use cedar_policy_symcc::SmtLibScript;
use cedar_policy_symcc::solver::{Decision, DecisionWithModel, Solver, SolverError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The environment variable that names the program.
const VARIABLE: &str = "CVC5";
const PROGRAM: &str = "cvc5";
/// Bytes of one answer. A model has one line per constant.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Characters of an answer that an error shows.
const SHOWN_CHARS: usize = 200;

/// A running solver.
pub(super) struct Cvc5 {
    _process: Child,
    input: BufWriter<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// There is no solver; the text is for the user.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoSolver(String);

impl Cvc5 {
    /// Starts the program that `$CVC5` names, else `cvc5` of the path.
    pub(super) fn start() -> Result<Self, NoSolver> {
        let named = std::env::var_os(VARIABLE).filter(|name| !name.is_empty());
        let program = named.clone().unwrap_or_else(|| OsString::from(PROGRAM));
        let mut process = Command::new(&program)
            .args(["--lang", "smt2"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let place = match named {
                    Some(_) => format!("`{}`, which $CVC5 names", program.to_string_lossy()),
                    None => "`cvc5` of the PATH".to_owned(),
                };
                NoSolver(format!(
                    "a proof needs the solver cvc5, and {place} cannot be started: {error}; on Debian and Ubuntu `apt-get install cvc5` \
                     brings it, elsewhere set CVC5 to the program"
                ))
            })?;
        match (process.stdin.take(), process.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self {
                _process: process,
                input: BufWriter::new(input),
                output: BufReader::new(output),
            }),
            _ => Err(NoSolver("the solver has no stdin or stdout".to_owned())),
        }
    }

    /// One line; an error at the end of the output.
    async fn line(&mut self, room: &mut u64) -> Result<String, SolverError> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.output).take(*room + 1);
        let read = bounded.read_until(b'\n', &mut line).await?;
        let read = u64::try_from(read).unwrap_or(u64::MAX);
        if read == 0 {
            return Err(SolverError::Solver("the solver ended".to_owned()));
        }
        *room = room
            .checked_sub(read)
            .ok_or_else(|| SolverError::UnrecognizedSolverOutput(format!("more than {ANSWER_BYTES_MAX} bytes")))?;
        String::from_utf8(line).map_err(|_why| SolverError::UnrecognizedSolverOutput("bytes that are not UTF-8".to_owned()))
    }

    async fn model(&mut self) -> Result<String, SolverError> {
        self.input.get_model().await?;
        self.input.flush().await?;
        let mut room = ANSWER_BYTES_MAX;
        let mut model = self.line(&mut room).await?;
        if model.trim() != "(" {
            return Err(unknown_answer(&model));
        }
        loop {
            let line = self.line(&mut room).await?;
            model.push_str(&line);
            if line.trim() == ")" {
                return Ok(model);
            }
        }
    }
}

fn unknown_answer(answer: &str) -> SolverError {
    let shown: String = answer.trim().chars().take(SHOWN_CHARS).collect();
    match shown.strip_prefix("(error ") {
        Some(error) => SolverError::Solver(error.trim_end_matches(')').to_owned()),
        None => SolverError::UnrecognizedSolverOutput(shown),
    }
}

impl Solver for Cvc5 {
    fn smtlib_input(&mut self) -> &mut (dyn tokio::io::AsyncWrite + Unpin + Send) {
        &mut self.input
    }

    async fn enable_models(&mut self) -> Result<(), SolverError> {
        let written: io::Result<()> = self.smtlib_input().set_option("produce-models", "true").await;
        written.map_err(SolverError::from)
    }

    async fn check_sat(&mut self) -> Result<Decision, SolverError> {
        self.input.check_sat().await?;
        self.input.flush().await?;
        let answer = self.line(&mut ANSWER_BYTES_MAX.clone()).await?;
        match answer.trim() {
            "sat" => Ok(Decision::Sat),
            "unsat" => Ok(Decision::Unsat),
            "unknown" => Ok(Decision::Unknown),
            _ => Err(unknown_answer(&answer)),
        }
    }

    async fn check_sat_with_model(&mut self) -> Result<DecisionWithModel, SolverError> {
        Ok(match self.check_sat().await? {
            Decision::Sat => DecisionWithModel::Sat {
                model: self.model().await?,
            },
            Decision::Unsat => DecisionWithModel::Unsat,
            Decision::Unknown => DecisionWithModel::Unknown,
        })
    }
}
