//! The image as users run it: built from the Dockerfile around this build's program, run by podman and runc as its own
//! user with a read-only root. One test, because building the image costs more than looking at it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::binary::GateFolder;
use crate::support::tools::tool;
use crate::support::{App, PAGE, eventually, raw};

const TAG: &str = "cedargate-under-test";
/// A container that outlives its test ends after this many seconds.
const LIFE: &str = "120";
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// podman with a store of its own, so that it touches no image and no container of the machine.
struct Podman {
    store: tempfile::TempDir,
}

impl Podman {
    fn new() -> Self {
        // on the disk of the target folder: /tmp may be too small or forbid overlays
        let store = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { store }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(tool(&["podman"]));
        command
            .arg("--root")
            .arg(self.store.path().join("root"))
            .arg("--runroot")
            .arg(self.store.path().join("run"))
            .args([
                "--runtime",
                "runc",
                "--cgroup-manager",
                "cgroupfs",
                "--events-backend",
                "file",
            ])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs podman; panics with its words if it fails.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a container of the image as a cluster does: no capabilities, read-only root, no new privileges.
    fn start(&self, name: &str, options: &[&str], arguments: &[&str]) {
        let limits = [
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
            "--timeout",
            LIFE,
        ];
        let restrictions = [
            "--read-only",
            "--read-only-tmpfs=false",
            "--cap-drop",
            "all",
            "--security-opt",
            "no-new-privileges",
        ];
        let mut all = vec!["run", "--detach", "--name", name, "--network", "host", "--no-healthcheck"];
        all.extend(limits.iter().chain(&restrictions).chain(options));
        all.push(TAG);
        all.extend(arguments);
        self.run(&all);
    }

    fn logs(&self, name: &str) -> String {
        let output = self.output(&["logs", name]);
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _removed = self.output(&["rm", "--all", "--force", "--time", "0"]);
        let _removed = self.output(&["rmi", "--all", "--force"]);
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program without its line tables: as small as a release's, so that layers are quick to write.
fn stripped(folder: &Path) -> PathBuf {
    let program = folder.join("cedargate");
    let strip = Command::new("strip")
        .arg("-o")
        .arg(&program)
        .arg(env!("CARGO_BIN_EXE_cedargate"))
        .status();
    assert!(strip.unwrap().success());
    program
}

fn build(podman: &Podman) {
    let context = tempfile::tempdir().unwrap();
    std::fs::copy(repository().join("Dockerfile"), context.path().join("Dockerfile")).unwrap();
    std::fs::create_dir(context.path().join("dist")).unwrap();
    let root = context.path().join(format!("dist/image-{ARCHITECTURE}.tar"));
    let program = stripped(context.path());
    let made = Command::new(repository().join(".ci/image-root"))
        .arg(&program)
        .arg(&root)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let context = context.path().to_str().unwrap();
    let architecture = format!("TARGETARCH={ARCHITECTURE}");
    podman.run(&[
        "build",
        "--quiet",
        "--format",
        "docker",
        "--isolation",
        "chroot",
        "--target",
        "prebuilt",
        "--build-arg",
        &architecture,
        "--build-arg",
        "VERSION=1.2.3",
        "--tag",
        TAG,
        context,
    ]);
}

/// The release puts the image of both architectures together on one of them: the target `prebuilt` runs nothing.
fn the_other_architecture_needs_no_emulation(podman: &Podman) {
    let other = if ARCHITECTURE == "amd64" { "arm64" } else { "amd64" };
    let context = tempfile::tempdir().unwrap();
    std::fs::copy(repository().join("Dockerfile"), context.path().join("Dockerfile")).unwrap();
    std::fs::create_dir(context.path().join("dist")).unwrap();
    let root = context.path().join(format!("dist/image-{other}.tar"));
    let packed = Command::new("tar")
        .arg("-cf")
        .arg(root)
        .arg("-C")
        .arg(context.path())
        .arg("Dockerfile")
        .status();
    assert!(packed.unwrap().success());
    let context = context.path().to_str().unwrap();
    let platform = format!("linux/{other}");
    let name = "cedargate-of-the-other-architecture";
    podman.run(&[
        "build",
        "--quiet",
        "--isolation",
        "chroot",
        "--target",
        "prebuilt",
        "--platform",
        &platform,
        "--tag",
        name,
        context,
    ]);
    assert_eq!(
        podman
            .run(&["image", "inspect", "--format", "{{.Architecture}}", name])
            .trim(),
        other
    );
}

/// A folder that the container's user can read, with the decision log on stdout.
fn readable_folder(app: &App) -> GateFolder {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = GateFolder::new(&format!("http://{}", app.address), "");
    std::fs::set_permissions(folder.folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn mounted(folder: &GateFolder) -> String {
    format!("{}:/etc/cedargate:ro", folder.folder.path().display())
}

#[test]
fn the_image_runs_as_its_user_with_a_read_only_root_and_ends_on_sigterm() {
    let podman = Podman::new();
    build(&podman);
    the_image_says_how_it_runs(&podman);
    let app = App::start();
    let folder = readable_folder(&app);
    let volume = mounted(&folder);
    podman.start("gate", &["--volume", &volume, "--env", "CEDARGATE_AUDIT__SINK=stdout"], &[]);
    let check = healthcheck_of(&podman);
    eventually("the gate is ready", || {
        let output = podman.output(&["exec", "gate", "cedargate", "healthcheck", "--ready"]);
        if output.status.success() {
            Ok(())
        } else {
            Err(podman.logs("gate"))
        }
    });
    let mut exec = vec!["exec", "gate"];
    exec.extend(check.iter().map(String::as_str));
    podman.run(&exec);
    let bearer = format!("Bearer {}", folder.issuer.token("alice", &[]));
    assert_eq!(raw(folder.proxy, "GET", PAGE, &[("authorization", &bearer)], b"").status, 200);
    assert_eq!(raw(folder.proxy, "GET", PAGE, &[], b"").status, 401);
    the_container_is_confined(&podman);
    let log = podman.logs("gate");
    assert!(
        !log.contains("no public authority is trusted"),
        "the image brings authorities along: {log}"
    );
    assert!(log.contains("\"reason\":\"token_missing\""), "{log}");
    podman.run(&["stop", "--time", "20", "gate"]);
    assert_eq!(
        podman.run(&["inspect", "--format", "{{.State.ExitCode}}", "gate"]).trim(),
        "0"
    );
    assert!(
        podman.logs("gate").contains("\"event\":\"draining\""),
        "{}",
        podman.logs("gate")
    );
    the_demo_runs_without_a_checkout(&podman);
    the_other_architecture_needs_no_emulation(&podman);
}

fn the_image_says_how_it_runs(podman: &Podman) {
    let image: Value = serde_json::from_str(&podman.run(&["image", "inspect", TAG])).unwrap();
    let config = &image[0]["Config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], serde_json::json!(["cedargate"]));
    assert_eq!(config["Cmd"], serde_json::json!(["serve"]));
    assert_eq!(config["WorkingDir"], "/etc/cedargate");
    assert_eq!(image[0]["Architecture"], ARCHITECTURE);
    let label = |name: &str| image[0]["Labels"][format!("org.opencontainers.image.{name}")].clone();
    assert_eq!(label("version"), "1.2.3");
    assert_eq!(label("licenses"), "Apache-2.0");
    for name in ["title", "description", "source", "url", "documentation", "vendor", "revision"] {
        assert!(label(name).is_string(), "{name}: {image}");
    }
}

/// The command of HEALTHCHECK, as its words.
fn healthcheck_of(podman: &Podman) -> Vec<String> {
    let image: Value = serde_json::from_str(&podman.run(&["image", "inspect", TAG])).unwrap();
    let test = image[0]["Healthcheck"]["Test"].as_array().unwrap().clone();
    let words: Vec<String> = test.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
    assert_eq!(words.first().unwrap(), "CMD", "without a shell the words run as they are");
    words.into_iter().skip(1).collect()
}

/// The process has the image's user and no capability, and the image offers no shell and no place to write.
fn the_container_is_confined(podman: &Podman) {
    let pid = podman.run(&["inspect", "--format", "{{.State.Pid}}", "gate"]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
    let line = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert_eq!(line("Uid:").split_whitespace().nth(1), Some("65532"));
    assert_eq!(line("CapEff:").split_whitespace().nth(1), Some("0000000000000000"));
    assert!(
        !podman.output(&["exec", "gate", "sh", "-c", "true"]).status.success(),
        "the image has a shell"
    );
    let create = [
        "exec",
        "gate",
        "cedargate",
        "user",
        "add",
        "eve",
        "--file",
        "/tmp/users.yaml",
        "--password-stdin",
    ];
    let mut command = podman.command(&create);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(!output.status.success(), "the root can be written");
}

/// `docker run … demo` needs no checkout: the example tree is in the image. Without a place for its files it says so.
fn the_demo_runs_without_a_checkout(podman: &Podman) {
    podman.start(
        "demo",
        &["--tmpfs", "/tmp:mode=1777"],
        &["demo", "--address", "0.0.0.0", "--port", "0"],
    );
    let proxy = eventually("the demo names its proxy", || {
        let log = podman.logs("demo");
        let line = log
            .lines()
            .find_map(|line| line.trim().strip_prefix("proxy     http://").map(str::to_owned));
        line.ok_or(log)
    });
    let address = proxy.split('/').next().unwrap().parse().unwrap();
    assert_eq!(raw(address, "GET", "/portal/customer/orders", &[], b"").status, 401);
    podman.run(&["stop", "--time", "20", "demo"]);
}
