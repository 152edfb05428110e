//! `cedargate workbench`: a policy tree in the browser, or as one file.
//!
//! Serves the page of `crate::workbench` and answers its calls (`calls`) with the functions of the other commands: a
//! call translates, and decides nothing. A thread watches the files; an open page hears of each change.

mod calls;
mod cases;
mod call_context;
mod editor;
mod explain;
mod export;
mod log;
mod overview;
mod places;
mod question;
mod sessions;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

use self::call_context::CallContext;
use super::config_file::ConfigFile;
use super::tree::TreeArgs;
use super::{Exit, client, complain, print};
use crate::app::STACK_BYTES;
use crate::base::lifecycle::shutdown;
use crate::reload::{WakeChannel, Watch};
use crate::workbench::{Call, PageAccess, PageServer, serve};

/// Pause between two looks at the files without an event.
const POLL: Duration = Duration::from_secs(1);
/// Rights of a file that opens the workbench.
const OWNER_ONLY: u32 = 0o600;

#[derive(clap::Args)]
#[command(
    after_help = "Prints an address of 127.0.0.1 with a token; only this address opens the page, and each start has a new one. The \
                        page needs no network, and follows every change of the files. ctrl-c ends. With --export it writes the \
                        same page, without a server, for a pull request or an audit."
)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// A folder with `policies/` and `schemas/` in it, or a bundle; default: what the configuration says, else the
    /// current folder
    dir: Option<PathBuf>,
    /// A file of the decision log, plain, gzip or zstd; may be given several times. Without it: the file of audit.sink,
    /// if there is one
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// The control socket of a running gate, for its status, recent decisions and sessions
    #[arg(long, value_name = "SOCKET")]
    gate: Option<PathBuf>,
    /// The port on 127.0.0.1; default: a free one
    #[arg(long, default_value = "0", hide_default_value = true)]
    port: u16,
    /// Open the page in the browser
    #[arg(long, conflicts_with = "export")]
    open: bool,
    /// Write the page with its data to `index.html` in this folder, and end
    #[arg(long, value_name = "DIR", conflicts_with_all = ["port", "gate"])]
    export: Option<PathBuf>,
    /// With --export: the git revision or folder that the pages Changes and Matrix compare with; default: the last
    /// commit
    #[arg(long, value_name = "REV|DIR", requires = "export")]
    compare: Option<String>,
}

pub(crate) fn run(args: &Args) -> Exit {
    let (sender, tree) = watch::channel(String::new());
    let context = CallContext {
        tree: TreeArgs::at(args.config.clone(), args.dir.clone()),
        config: args.config.clone(),
        logs: args.logs.clone(),
        gate: args.gate.clone(),
        log: log::SharedLog::default(),
        current: parking_lot::RwLock::new(Err("the tree was not read yet".to_owned())),
        changed: sender,
    };
    context.read();
    if let Some(folder) = &args.export {
        return Exit::print_or_usage(export::write(&context, folder, args.compare.as_deref()));
    }
    Exit::or_usage(serve_page(args, Arc::new(context), tree))
}

fn serve_page(args: &Args, context: Arc<CallContext>, tree: watch::Receiver<String>) -> Result<Exit, String> {
    // the page follows later mistakes; a tree that cannot be read at the start is a wrong argument
    context.snapshot().map_err(|refused| refused.message)?;
    let runtime = client::runtime().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| format!("cannot listen on {address}: {error}"))?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let access = PageAccess::new(address)?;
        let url = access.url();
        watch_files(Arc::clone(&context))?;
        print(&format!("{url}\n"));
        complain("the workbench is at this address; ctrl-c ends");
        if args.open {
            open(&url)?;
        }
        let site = PageServer {
            access,
            api: Arc::new(move |call: &Call| context.answer(call)),
            tree,
            stack_bytes: STACK_BYTES,
        };
        serve(listener, site).await.map_err(|error| error.to_string())?;
        Ok(Exit::Ok)
    })
}

/// Reads the tree again after each change. The thread ends with the process.
fn watch_files(context: Arc<CallContext>) -> Result<(), String> {
    let work = move || {
        let (_never_stops, shutdown) = shutdown();
        let mut watch = Watch::new(None, WakeChannel::default());
        loop {
            watch.renew(context.folders().as_ref());
            watch.wait(POLL, &shutdown);
            context.read();
        }
    };
    let thread = std::thread::Builder::new()
        .name("workbench-watch".to_owned())
        .stack_size(STACK_BYTES);
    thread
        .spawn(work)
        .map(drop)
        .map_err(|error| format!("cannot start a thread: {error}"))
}

/// Opens the browser. SECURITY: other users of the machine see the arguments of programs, so the browser gets the name
/// of a private file that leads to the address.
fn open(url: &str) -> Result<(), String> {
    use std::os::unix::fs::OpenOptionsExt;
    let name = format!("cedargate-workbench-{}.html", uuid::Uuid::new_v4().simple());
    let path = std::env::temp_dir().join(name);
    let fail = |error: std::io::Error| format!("cannot open the browser: {error}; open the address yourself");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(&path)
        .map_err(fail)?;
    let page = format!("<!doctype html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0;url={url}\">\n");
    file.write_all(page.as_bytes()).map_err(fail)?;
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    start(program, &path).map_err(fail)
}

fn start(program: &str, path: &Path) -> std::io::Result<()> {
    let mut command = Command::new(program);
    command
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().map(drop)
}
