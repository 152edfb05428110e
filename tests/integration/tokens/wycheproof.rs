//! Wycheproof's asymmetric signature vectors through a running gate.
//!
//! The vectors' payloads are no claims. A vector whose private key is published is signed again over real claims, with
//! the vector's defect; the others keep their signature or are sent as published.

use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use crate::support::signer::Secret;
use crate::support::{PAGE, Signer, b64, claims, open_portal, unb64};

fn good() -> Value {
    claims("alice", &["viewer"])
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    object[name] = value;
    object
}

#[test]
fn wycheproof_vectors_with_real_claims_are_judged_as_published() {
    let Some(dir) = std::env::var_os("CEDARGATE_TEST_DATA") else {
        println!("SKIPPED: CEDARGATE_TEST_DATA is not set, the Wycheproof vectors were not sent");
        return;
    };
    let text = std::fs::read(std::path::PathBuf::from(dir).join("jose/json_web_signature_test.json")).unwrap();
    let data: Value = serde_json::from_slice(&text).unwrap();
    let groups: Vec<&Value> = data["testGroups"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|g| g.get("public").is_some())
        .collect();
    let (mut setup, mut issuers) = (open_portal(), "issuers:\n".to_owned());
    for (n, group) in groups.iter().enumerate() {
        setup = setup.file(&format!("g{n}.json"), &json!({"keys": [group["public"]]}).to_string());
        issuers.push_str(&format!("  - {{ name: g{n}, issuer: 'https://g{n}.test/', audiences: [shop], jwks: {{ file: g{n}.json }},\n      algorithms: [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA] }}\n"));
    }
    setup.issuers = Some(issuers);
    let gate = setup.start();
    let (mut minted, mut spliced, mut replayed, mut let_in, mut unsendable) = (0, 0, 0, 0, 0);
    let mut wrong = Vec::new();
    for (n, group) in groups.iter().enumerate() {
        let signer = signer_of(&group["private"], &group["public"]);
        let claims = with(good(), "iss", json!(format!("https://g{n}.test/")));
        for test in group["tests"].as_array().unwrap() {
            let token = match remade(signer.as_ref(), test, &claims) {
                Remade::Minted(token) => {
                    minted += 1;
                    token
                }
                Remade::Spliced(token) => {
                    spliced += 1;
                    token
                }
                Remade::AsIs(token) => {
                    replayed += 1;
                    token
                }
            };
            if token.is_empty() || token.contains(['\r', '\n']) || !token.is_ascii() {
                unsendable += 1;
                continue;
            }
            let answer = gate.get(PAGE, &token);
            // the gate refuses a key whose algorithm differs from the header's, and unsupported algorithms
            let header_alg = test["jws"]
                .as_str()
                .and_then(|jws| unb64(jws.split('.').next()?))
                .and_then(|h| serde_json::from_slice::<Value>(&h).ok());
            let fits = header_alg.is_some_and(|h| h["alg"] == group["public"]["alg"]) && signer.is_some();
            let expected = if test["result"] == "valid" && fits { 200 } else { 401 };
            let_in += usize::from(answer.status == 200);
            if answer.status != expected {
                wrong.push(format!(
                    "{} {} {}: {} {}",
                    test["tcId"],
                    group["comment"],
                    test["comment"],
                    answer.status,
                    answer.text()
                ));
            }
        }
    }
    println!(
        "wycheproof: {minted} minted again, {spliced} published signatures under real claims, {replayed} as published; {let_in} let in, {unsendable} not sendable"
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(minted > 50 && let_in >= 30, "{minted} {let_in}");
}

enum Remade {
    /// Signed again over real claims, with the vector's defect.
    Minted(String),
    /// The vector's own signature over real claims.
    Spliced(String),
    AsIs(String),
}

fn remade(signer: Option<&Signer>, test: &Value, claims: &Value) -> Remade {
    let jws = test["jws"].as_str().map_or_else(|| test["jws"].to_string(), str::to_owned);
    let comment = test["comment"].as_str().unwrap();
    let parts: Vec<&str> = jws.split('.').collect();
    let header = parts
        .first()
        .and_then(|h| unb64(h))
        .and_then(|h| serde_json::from_slice::<Value>(&h).ok());
    let (Some(signer), Some(header), 3) = (signer, header, parts.len()) else {
        return Remade::AsIs(jws);
    };
    let alg = header["alg"].as_str().unwrap_or_default();
    let payload = b64(claims.to_string());
    let input = format!("{}.{payload}", parts[0]);
    let signed = |alg: &str| format!("{input}.{}", b64(signer.signature(alg, &input)));
    let whole = signed(alg);
    let signature = whole.rsplit_once('.').unwrap().1.to_owned();
    Remade::Minted(match comment {
        _ if test["result"] == "valid" => whole,
        "rejectWrongUse" | "rejectWrongKeyOps" => whole,
        "algIsNone" | "rejectsMissingSignature" => format!("{input}."),
        "rejectsModifiedPayload" => format!(
            "{}.{}.{signature}",
            parts[0],
            b64(with(claims.clone(), "sub", json!("root")).to_string())
        ),
        "rejectsMissingPayload" => format!("{}..{signature}", parts[0]),
        "rejectsMissingHeader" => format!(".{payload}.{signature}"),
        "TrailingZeros" | "appendingZerosToSignature" => {
            format!("{input}.{}", b64([unb64(&signature).unwrap(), vec![0; 2]].concat()))
        }
        "prependingZerosToSignature" => format!("{input}.{}", b64([vec![0; 2], unb64(&signature).unwrap()].concat())),
        "truncatedSignature" => format!("{input}.{}", b64(&unb64(&signature).unwrap()[2..])),
        "SignatureTooLong" => {
            let bytes = unb64(&signature).unwrap();
            format!("{input}.{}", b64([&[0], &bytes[..32], &[0], &bytes[32..]].concat()))
        }
        _ if comment.starts_with("Using") => {
            // the header is the vector's, the primitive the one that the comment names
            signed(comment.trim_start_matches("Using"))
        }
        "rejectsModifiedSignature" | "modifiedSignature" => {
            let mut bytes = unb64(&signature).unwrap();
            bytes[0] ^= 1;
            format!("{input}.{}", b64(bytes))
        }
        _ => return Remade::Spliced(format!("{input}.{}", parts[2])),
    })
}

/// The signer of a private JWK; `None` for families and sizes that cannot sign here.
fn signer_of(private: &Value, public: &Value) -> Option<Signer> {
    let part = |name: &str| unb64(private[name].as_str()?);
    let secret = match private["kty"].as_str()? {
        "RSA" => {
            let numbers = ["n", "e", "d", "p", "q", "dp", "dq", "qi"].map(part);
            let mut body = der(2, &[0]);
            for number in numbers {
                body.extend(der_integer(&number?));
            }
            Secret::Rsa(rsa::KeyPair::from_der(&der(0x30, &body)).ok()?)
        }
        "EC" => {
            let algorithm = match private["crv"].as_str()? {
                "P-256" => &ECDSA_P256_SHA256_FIXED_SIGNING,
                "P-384" => &ECDSA_P384_SHA384_FIXED_SIGNING,
                _ => return None,
            };
            let point = [vec![4], part("x")?, part("y")?].concat();
            Secret::Ec(EcdsaKeyPair::from_private_key_and_public_key(algorithm, &part("d")?, &point).ok()?)
        }
        _ => return None,
    };
    let kid = private["kid"].as_str()?.to_owned();
    Some(Signer {
        kid,
        jwk: public.clone(),
        secret,
    })
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        short @ 0..128 => out.push(short as u8),
        long @ 128..256 => out.extend([0x81, long as u8]),
        long => out.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    out.extend(content);
    out
}

fn der_integer(bytes: &[u8]) -> Vec<u8> {
    let mut value: Vec<u8> = bytes.iter().copied().skip_while(|b| *b == 0).collect();
    if value.first().is_none_or(|b| *b >= 0x80) {
        value.insert(0, 0);
    }
    der(2, &value)
}
