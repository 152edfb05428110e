//! The names of a certificate: subject alternative names and the subject, each with one reading or none.
//!
//! A name that has no single reading makes the whole certificate unusable as an identity: if it counted as absent, a
//! forbid that reads it would silently not apply.

use rustls::pki_types::CertificateDer;
use serde_json::{Map, Value};
use x509_parser::extensions::GeneralName;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::x509::X509Name;

use crate::config::{CertificateRules, CertificateSubject};

/// Names of one kind in one certificate.
const NAMES_MAX: usize = 256;
/// Start of a SPIFFE ID.
const SPIFFE: &str = "spiffe://";

/// The names of one certificate.
pub(super) struct CertificateNames {
    spiffe: Option<SpiffeId>,
    /// Lower case.
    dns: Vec<String>,
    emails: Vec<String>,
    common_names: Vec<String>,
    organizations: Vec<String>,
    units: Vec<String>,
    /// As RFC 4514 writes it; empty for an empty subject.
    distinguished: String,
    serial: String,
}

/// The name of a workload (SPIFFE-ID, section 2).
#[derive(Clone, Debug, Eq, PartialEq)]
struct SpiffeId {
    id: String,
    trust_domain: String,
}

impl CertificateNames {
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, &'static str> {
        let unreadable = "cannot be read";
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).map_err(|_malformed| unreadable)?;
        let mut names = Self {
            spiffe: None,
            dns: Vec::new(),
            emails: Vec::new(),
            common_names: Vec::new(),
            organizations: Vec::new(),
            units: Vec::new(),
            distinguished: String::new(),
            serial: certificate.raw_serial_as_string().replace(':', ""),
        };
        let alternative = certificate.subject_alternative_name().map_err(|_malformed| unreadable)?;
        let all: &[GeneralName<'_>] = alternative.as_ref().map_or(&[], |found| &found.value.general_names);
        if all.len() > NAMES_MAX {
            return Err("has more than 256 names");
        }
        let mut uris = Vec::new();
        for name in all {
            match name {
                GeneralName::DNSName(name) => names.dns.push(dns_name(name).ok_or("has a malformed DNS name")?),
                GeneralName::RFC822Name(address) => names.emails.push((*address).to_owned()),
                GeneralName::URI(uri) => uris.push(*uri),
                GeneralName::Invalid(..) => return Err("has a malformed name"),
                _ => {}
            }
        }
        // X.509-SVID, section 2: exactly one URI
        if let Some(id) = uris.iter().find(|uri| starts_as_spiffe(uri)) {
            if uris.len() != 1 {
                return Err("has a SPIFFE ID beside another URI");
            }
            names.spiffe = Some(SpiffeId::parse(id).ok_or("has a malformed SPIFFE ID")?);
        }
        names.read_subject(certificate.subject())?;
        Ok(names)
    }

    fn read_subject(&mut self, subject: &X509Name<'_>) -> Result<(), &'static str> {
        let mut written = Vec::new();
        for parts in subject.iter_rdn() {
            let mut parts = parts.iter();
            let (Some(part), None) = (parts.next(), parts.next()) else {
                return Err("has a subject with several values in one place");
            };
            let value = part.as_str().map_err(|_other| "has a subject that is not text")?;
            let name = oid2abbrev(part.attr_type(), oid_registry());
            match name {
                Ok("CN") => self.common_names.push(value.to_owned()),
                Ok("O") => self.organizations.push(value.to_owned()),
                Ok("OU") => self.units.push(value.to_owned()),
                _ => {}
            }
            let name = name.map_or_else(|_unknown| part.attr_type().to_id_string(), str::to_owned);
            written.push(format!("{name}={}", escaped(value)));
        }
        written.reverse();
        self.distinguished = written.join(",");
        Ok(())
    }

    /// The subject of the identity; `None`: no name of that kind, or another trust domain's.
    pub fn subject(&self, rules: &CertificateRules) -> Result<Option<&str>, &'static str> {
        match &rules.subject {
            CertificateSubject::Spiffe { trust_domain } => {
                let own = self.spiffe.as_ref().filter(|spiffe| spiffe.trust_domain == *trust_domain);
                Ok(own.map(|spiffe| spiffe.id.as_str()))
            }
            CertificateSubject::Dns => single(&self.dns, "has several DNS names"),
            CertificateSubject::Email => single(&self.emails, "has several email addresses"),
            CertificateSubject::CommonName => single(&self.common_names, "has several common names"),
            CertificateSubject::DistinguishedName => Ok(Some(self.distinguished.as_str()).filter(|name| !name.is_empty())),
        }
    }

    pub fn claims(&self) -> Map<String, Value> {
        let mut claims = Map::new();
        let mut add = |name: &str, value: Value| drop(claims.insert(name.to_owned(), value));
        if let Some(spiffe) = &self.spiffe {
            add("spiffe_id", Value::from(spiffe.id.as_str()));
            add("trust_domain", Value::from(spiffe.trust_domain.as_str()));
        }
        if let [name] = self.common_names.as_slice() {
            add("common_name", Value::from(name.as_str()));
        }
        add("dns_names", Value::from(self.dns.clone()));
        add("emails", Value::from(self.emails.clone()));
        add("organizations", Value::from(self.organizations.clone()));
        add("organizational_units", Value::from(self.units.clone()));
        add("distinguished_name", Value::from(self.distinguished.as_str()));
        add("serial", Value::from(self.serial.as_str()));
        claims
    }
}

impl SpiffeId {
    /// Parses an ID as strictly as the specification: no query, fragment, port, user, empty or dot segment.
    fn parse(text: &str) -> Option<Self> {
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let rest = text.strip_prefix(SPIFFE)?;
        let (trust_domain, path) = rest.split_once('/')?;
        let domain_is_sound = (1..=255).contains(&trust_domain.len())
            && trust_domain.bytes().all(|byte| is_safe(byte) && !byte.is_ascii_uppercase());
        let mut segments = path.split('/');
        let path_is_sound =
            segments.all(|segment| !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(is_safe));
        (domain_is_sound && path_is_sound).then(|| Self {
            id: text.to_owned(),
            trust_domain: trust_domain.to_owned(),
        })
    }
}

/// True for every spelling of the scheme, so that a malformed ID is no ordinary URI.
fn starts_as_spiffe(uri: &str) -> bool {
    uri.split_once(':')
        .is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("spiffe"))
}

/// A host name in lower case; `None` for a pattern and for characters that no host name has.
fn dns_name(name: &str) -> Option<String> {
    let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (!name.is_empty() && name.bytes().all(is_sound)).then(|| name.to_ascii_lowercase())
}

fn single<'a>(names: &'a [String], several: &'static str) -> Result<Option<&'a str>, &'static str> {
    match names {
        [] => Ok(None),
        [name] => Ok(Some(name)),
        _ => Err(several),
    }
}

/// A value with the characters escaped that would read as the end of it (RFC 4514, section 2.4).
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (n, char) in value.chars().enumerate() {
        let at_edge = (n == 0 && char == '#') || ((n == 0 || n == last) && char == ' ');
        if at_edge || ",+\"\\<>;=".contains(char) {
            out.push('\\');
        }
        out.push(char);
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn read(names: &[SanType], subject: &[(DnType, &str)]) -> Result<CertificateNames, &'static str> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names.to_vec();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().unwrap();
        CertificateNames::read(params.self_signed(&key).unwrap().der())
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    fn by(subject: CertificateSubject) -> CertificateRules {
        CertificateRules { ca: None, subject }
    }

    fn spiffe(domain: &str) -> CertificateRules {
        by(CertificateSubject::Spiffe {
            trust_domain: domain.to_owned(),
        })
    }

    #[test]
    fn a_spiffe_id_counts_for_its_own_trust_domain_alone() {
        let names = read(&[uri("spiffe://prod.test/ns/shop/sa/web"), dns("web.test")], &[]).unwrap();
        assert_eq!(
            names.subject(&spiffe("prod.test")),
            Ok(Some("spiffe://prod.test/ns/shop/sa/web"))
        );
        assert_eq!(names.subject(&spiffe("test")), Ok(None));
        assert_eq!(names.subject(&spiffe("PROD.test")), Ok(None));
        assert_eq!(names.claims()["trust_domain"], "prod.test");
    }

    #[test]
    fn a_malformed_or_second_spiffe_id_makes_the_certificate_unusable() {
        for bad in [
            "spiffe://prod.test",
            "spiffe://prod.test/",
            "spiffe:///a",
            "spiffe://prod.test/a/",
            "spiffe://prod.test//a",
            "spiffe://prod.test/../a",
            "spiffe://prod.test/./a",
            "spiffe://prod.test/a?b",
            "spiffe://prod.test/a#b",
            "spiffe://prod.test/a%2fb",
            "spiffe://prod.test:443/a",
            "spiffe://u@prod.test/a",
            "spiffe://PROD.test/a",
            "SPIFFE://prod.test/a",
            "spiffe:prod.test/a",
        ] {
            assert!(read(&[uri(bad)], &[]).is_err(), "{bad}");
        }
        let good = uri("spiffe://prod.test/a");
        assert!(read(&[good.clone(), uri("spiffe://prod.test/b")], &[]).is_err());
        assert!(read(&[good, uri("https://prod.test/")], &[]).is_err());
        let names = read(&[uri("https://prod.test/"), uri("urn:x")], &[]).unwrap();
        assert_eq!(names.subject(&spiffe("prod.test")), Ok(None));
    }

    #[test]
    fn a_name_that_is_not_single_is_no_subject() {
        let names = read(&[dns("A.test"), dns("b.test")], &[(DnType::CommonName, "alice")]).unwrap();
        assert!(names.subject(&by(CertificateSubject::Dns)).is_err());
        assert_eq!(names.subject(&by(CertificateSubject::Email)), Ok(None));
        assert_eq!(names.subject(&by(CertificateSubject::CommonName)), Ok(Some("alice")));
        assert_eq!(names.claims()["dns_names"], serde_json::json!(["a.test", "b.test"]));
        assert!(read(&[dns("*.test")], &[]).is_err(), "a pattern is no name");
        let one = read(&[dns("A.test")], &[]).unwrap();
        assert_eq!(one.subject(&by(CertificateSubject::Dns)), Ok(Some("a.test")));
        assert_eq!(one.subject(&by(CertificateSubject::DistinguishedName)), Ok(None));
    }

    #[test]
    fn a_value_of_the_subject_cannot_look_like_two() {
        let subject = |parts: &[(DnType, &str)]| {
            let names = read(&[], parts).unwrap();
            let subject = names.subject(&by(CertificateSubject::DistinguishedName)).unwrap();
            subject.unwrap().to_owned()
        };
        let whole = [(DnType::OrganizationName, "Acme"), (DnType::CommonName, "alice")];
        assert_eq!(subject(&whole), "CN=alice,O=Acme");
        assert_eq!(subject(&[(DnType::CommonName, "alice,O=Acme")]), "CN=alice\\,O\\=Acme");
        assert_eq!(subject(&[(DnType::CommonName, " #a\\ ")]), "CN=\\ #a\\\\\\ ");
    }
}
