//! Bundles that a hostile server could send, and the bytes of those that we write.

use std::io::Write as _;
use std::process::Command;

use cedargate_policy::revision::source::{Files, SourceFile};
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::keys::BundleKeyError;
use super::*;

fn files(pairs: &[(&str, &str)]) -> Files {
    Files(
        pairs
            .iter()
            .map(|(name, text)| ((*name).to_owned(), SourceFile::new(text.as_bytes())))
            .collect(),
    )
}

fn facts(sequence: u64) -> BundleFacts {
    BundleFacts {
        sequence,
        ..BundleFacts::default()
    }
}

const PAIRS: [(&str, &str); 3] = [
    ("policies/p/_deny/stop.cedar", "forbid(principal, action, resource);"),
    ("policies/p/main.cedar", "permit(principal, action, resource);"),
    ("schemas/p.cedarschema", "entity User;"),
];

fn signed(key: &BundleSigningKey) -> Vec<u8> {
    let mut bundle = Bundle::build(files(&PAIRS), facts(7)).unwrap();
    bundle.sign(key).unwrap();
    bundle.write().unwrap()
}

/// A member as an attacker writes it.
struct Raw<'a> {
    name: &'a [u8],
    kind: u8,
    content: &'a [u8],
}

fn file<'a>(name: &'a str, content: &'a [u8]) -> Raw<'a> {
    Raw {
        name: name.as_bytes(),
        kind: b'0',
        content,
    }
}

fn tar_of(members: &[Raw<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for member in members {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..member.name.len()].copy_from_slice(member.name);
        header.set_entry_type(tar::EntryType::new(member.kind));
        header.set_size(member.content.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(member.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn manifest_of(pairs: &[(&str, &str)]) -> Vec<u8> {
    Bundle::build(files(pairs), facts(7)).unwrap().manifest_bytes
}

fn read_raw(members: &[Raw<'_>]) -> Result<Bundle, BundleError> {
    Bundle::read(&gzip(&tar_of(members)), Trust::DangerUnsigned)
}

#[test]
fn equal_trees_make_equal_bytes_and_come_back_as_they_were() {
    let key = BundleSigningKey::generate().unwrap();
    let bytes = signed(&key);
    assert_eq!(bytes, signed(&key));
    let keys = [BundleSigningKey::generate().unwrap().public().clone(), key.public().clone()];
    let bundle = Bundle::read(&bytes, Trust::Keys(&keys)).unwrap();
    assert_eq!(bundle.files, files(&PAIRS));
    assert_eq!(bundle.manifest.sequence, 7);
    assert_eq!(bundle.signed_by.as_deref(), Some(key.public().id()));
    let tree = bundle.tree();
    assert_eq!(tree.slugs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["p"]);
    assert_eq!(tree.emergency_files(&PortalSlug::parse("p").unwrap()).0.len(), 1);
    assert!(tree.unread.is_empty() && tree.problems.is_empty());
}

#[test]
fn a_bundle_is_trusted_only_with_a_signature_of_a_listed_key() {
    let (key, other) = (BundleSigningKey::generate().unwrap(), BundleSigningKey::generate().unwrap());
    let read = |bytes: &[u8], key: &BundleSigningKey| Bundle::read(bytes, Trust::Keys(&[key.public().clone()]));
    let unsigned = Bundle::build(files(&PAIRS), facts(7)).unwrap().write().unwrap();
    assert!(matches!(read(&unsigned, &key), Err(BundleError::Unsigned)));
    assert!(matches!(
        Bundle::read(&unsigned, Trust::Keys(&[])),
        Err(BundleError::Unsigned)
    ));
    assert!(matches!(read(&signed(&other), &key), Err(BundleError::Untrusted(_))));
    let mut twice = Bundle::read(&signed(&other), Trust::DangerUnsigned).unwrap();
    twice.sign(&key).unwrap();
    twice.sign(&key).unwrap();
    assert_eq!(twice.signatures.len(), 2, "one by each key");
    let twice = twice.write().unwrap();
    assert!(read(&twice, &key).is_ok() && read(&twice, &other).is_ok());
    // the signature of one manifest under another
    let mut moved = Bundle::build(files(&PAIRS), facts(8)).unwrap();
    moved.signatures = Bundle::read(&signed(&key), Trust::DangerUnsigned).unwrap().signatures;
    assert!(matches!(read(&moved.write().unwrap(), &key), Err(BundleError::Forged(_))));
}

#[test]
fn an_unsigned_manifest_is_refused_before_it_is_parsed() {
    let key = BundleSigningKey::generate().unwrap();
    let members = [file("manifest.json", b"{ not json"), file("signatures.txt", b"")];
    let bytes = gzip(&tar_of(&members));
    assert!(matches!(
        Bundle::read(&bytes, Trust::Keys(&[key.public().clone()])),
        Err(BundleError::Unsigned)
    ));
    assert!(matches!(
        Bundle::read(&bytes, Trust::DangerUnsigned),
        Err(BundleError::Manifest(_))
    ));
}

#[test]
fn members_that_the_manifest_does_not_describe_are_refused() {
    let manifest = manifest_of(&PAIRS);
    let head = || [file("manifest.json", &manifest), file("signatures.txt", b"")];
    let body = || PAIRS.map(|(name, text)| file(name, text.as_bytes()));
    let all = || head().into_iter().chain(body()).collect::<Vec<_>>();
    assert!(read_raw(&all()).is_ok());
    for (what, at, member) in [
        ("another name", 3, file("policies/p/other.cedar", PAIRS[1].1.as_bytes())),
        ("a path upwards", 3, file("../policies/p/main.cedar", PAIRS[1].1.as_bytes())),
        ("an absolute path", 3, file("/policies/p/main.cedar", PAIRS[1].1.as_bytes())),
        (
            "another content of this size",
            3,
            file(PAIRS[1].0, b"forbid(principal, action, resource);"),
        ),
        ("a shorter content", 3, file(PAIRS[1].0, b"x")),
        ("a longer content", 3, file(PAIRS[1].0, &[b'x'; 100])),
        ("the same file twice", 3, file(PAIRS[0].0, PAIRS[0].1.as_bytes())),
        ("no manifest", 0, file("signatures.txt", b"")),
        ("too many signatures", 1, file("signatures.txt", &[b'x'; 20_000])),
    ] {
        let mut members = all();
        members[at] = member;
        assert!(read_raw(&members).is_err(), "{what}");
    }
    for kind in *b"1234567LKgxSMV" {
        let mut members = all();
        members[3].kind = kind;
        assert!(read_raw(&members).is_err(), "kind {}", char::from(kind));
        let mut members = all();
        members.insert(
            2,
            Raw {
                name: b"x",
                kind,
                content: b"30 path=policies/p/main.cedar\n",
            },
        );
        assert!(read_raw(&members).is_err(), "an extra member of kind {}", char::from(kind));
    }
    let mut members = all();
    members.pop();
    assert!(matches!(read_raw(&members), Err(BundleError::Missing(name)) if name == PAIRS[2].0));
    let mut members = all();
    members.push(file("policies/p/more.cedar", b""));
    assert!(matches!(read_raw(&members), Err(BundleError::Trailing)));
}

#[test]
fn manifests_with_other_facts_are_refused() {
    let text = String::from_utf8(manifest_of(&PAIRS)).unwrap();
    for (from, to) in [
        ("bundle/1", "bundle/2"),
        ("\"sequence\": 7", "\"sequence\": 0"),
        ("\"sequence\": 7", "\"sequence\": -1"),
        ("\"sequence\": 7", "\"sequence\": 1e3"),
        ("\"sequence\": 7", "\"sequence\": 9007199254740993"),
        ("\"sequence\": 7", "\"sequence\": 7, \"sequence\": 8"),
        ("\"sequence\": 7", "\"sequence\": 7, \"more\": 8"),
        ("\"sequence\": 7", "\"sequence\": 7, \"name\": \"a b\""),
        ("policies/p/_deny", "policies/z/_deny"),
        ("policies/p/_deny", "policies/../_deny"),
        ("\"size\": 36", "\"size\": 18446744073709551615"),
        ("\"size\": 36", "\"size\": 9999999999"),
        ("\"tree\": \"", "\"tree\": \"00"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let mut members = vec![file("manifest.json", changed.as_bytes()), file("signatures.txt", b"")];
        members.extend(PAIRS.map(|(name, content)| file(name, content.as_bytes())));
        assert!(read_raw(&members).is_err(), "{to}");
    }
}

#[test]
fn bombs_and_broken_archives_are_refused_at_the_limits() {
    // 300 MB of zeros in 300 kB
    let zeros = gzip(&vec![0; 300 * 1024 * 1024]);
    assert!(matches!(
        Bundle::read(&zeros, Trust::DangerUnsigned),
        Err(BundleError::TooLarge(_) | BundleError::Missing(_))
    ));
    let big = "x".repeat(100 * 1024 * 1024);
    let pairs = [("policies/p/main.cedar", big.as_str())];
    assert!(matches!(
        Bundle::build(files(&pairs), facts(1)).unwrap().write(),
        Err(BundleError::TooLarge(_))
    ));
    let good = signed(&BundleSigningKey::generate().unwrap());
    for cut in [0, 1, 10, good.len() / 2, good.len() - 9, good.len() - 1] {
        assert!(Bundle::read(&good[..cut], Trust::DangerUnsigned).is_err(), "{cut}");
    }
    assert!(matches!(
        Bundle::read(&[good.as_slice(), b"x"].concat(), Trust::DangerUnsigned),
        Err(BundleError::Trailing)
    ));
    assert!(matches!(
        Bundle::read(&[good.as_slice(), &good].concat(), Trust::DangerUnsigned),
        Err(BundleError::Trailing)
    ));
    let mut hidden = tar_of(&[file("manifest.json", &manifest_of(&[])), file("signatures.txt", b"")]);
    assert!(Bundle::read(&gzip(&hidden), Trust::DangerUnsigned).is_ok());
    hidden.extend(tar_of(&[file("policies/p/x.cedar", b"x")]));
    assert!(matches!(
        Bundle::read(&gzip(&hidden), Trust::DangerUnsigned),
        Err(BundleError::Trailing)
    ));
}

#[test]
fn openssl_verifies_what_we_sign_and_we_verify_what_openssl_signs() {
    let folder = tempfile::tempdir().unwrap();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    let get = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "theirs.pem"]);
    openssl(&["pkey", "-in", "theirs.pem", "-pubout", "-out", "theirs.pub"]);
    let theirs = BundleSigningKey::from_pem(&get("theirs.pem")).unwrap();
    let listed = public_keys(&get("theirs.pub")).unwrap();
    assert_eq!(listed, [theirs.public().clone()]);
    assert_eq!(theirs.public().to_pem().into_bytes(), get("theirs.pub"));
    let mut bundle = Bundle::build(files(&PAIRS), facts(7)).unwrap();
    put("manifest.json", &bundle.manifest_bytes);
    openssl(&[
        "pkeyutl",
        "-sign",
        "-rawin",
        "-inkey",
        "theirs.pem",
        "-in",
        "manifest.json",
        "-out",
        "theirs.sig",
    ]);
    bundle.signatures = vec![Signature {
        key: theirs.public().id().to_owned(),
        bytes: get("theirs.sig"),
    }];
    assert!(Bundle::read(&bundle.write().unwrap(), Trust::Keys(&listed)).is_ok());
    let ours = BundleSigningKey::generate().unwrap();
    put("ours.pem", ours.to_pem().unwrap().expose().as_bytes());
    put("ours.pub", ours.public().to_pem().as_bytes());
    bundle.sign(&ours).unwrap();
    let signature = bundle.signatures.iter().find(|s| s.key == ours.public().id()).unwrap();
    put("ours.sig", &signature.bytes);
    let verify = [
        "pkeyutl",
        "-verify",
        "-rawin",
        "-pubin",
        "-inkey",
        "ours.pub",
        "-in",
        "manifest.json",
        "-sigfile",
        "ours.sig",
    ];
    openssl(&verify);
    openssl(&["pkey", "-in", "ours.pem", "-noout"]);
    openssl(&["genpkey", "-algorithm", "ed448", "-out", "other.pem"]);
    assert!(matches!(
        BundleSigningKey::from_pem(&get("other.pem")),
        Err(BundleKeyError::Algorithm)
    ));
    assert!(matches!(public_keys(&get("ours.pem")), Err(BundleKeyError::IsPrivate)));
    assert!(matches!(public_keys(b"ssh-ed25519 AAAA"), Err(BundleKeyError::NoPublic)));
    assert!(matches!(
        BundleSigningKey::from_pem(&get("ours.pub")),
        Err(BundleKeyError::NoPrivate)
    ));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(noise in proptest::collection::vec(any::<u8>(), 0..2000), at in 0_usize..3000) {
        drop(Bundle::read(&noise, Trust::DangerUnsigned));
        drop(Bundle::read(&gzip(&noise), Trust::DangerUnsigned));
        let mut tar = tar_of(&[file("manifest.json", &manifest_of(&PAIRS)), file("signatures.txt", b"")]);
        let end = tar.len().min(at + noise.len());
        if let Some(part) = tar.get_mut(at..end) {
            part.copy_from_slice(&noise[..part.len()]);
        }
        drop(Bundle::read(&gzip(&tar), Trust::DangerUnsigned));
    }
}
