//! A certificate authority and the certificates that it signs.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// A certificate authority with its key.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn issue(&self, name: &str) -> Pair {
        self.issue_for(&[name])
    }

    /// A certificate for the key of `pair`, valid between two times in Unix seconds.
    pub fn renew(&self, pair: &Pair, name: &str, from: u64, to: u64) -> String {
        let at = |seconds| rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds);
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_before = at(from);
        params.not_after = at(to);
        let key = KeyPair::from_pem(&pair.key).unwrap();
        params.signed_by(&key, &self.issuer).unwrap().pem()
    }

    pub fn issue_for(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = rcgen::date_time_ymd(2037, 1, 2);
        self.sign(&params)
    }

    /// The certificate of a workload: one URI, and the organizational unit `shop`.
    pub fn workload(&self, id: &str) -> Pair {
        self.workload_until(id, 2_114_380_800)
    }

    /// The same, valid until a time in Unix seconds.
    pub fn workload_until(&self, id: &str, until: u64) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationalUnitName, "shop");
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(until);
        params.serial_number = Some(SerialNumber::from(u64::from(rand::random::<u32>())));
        self.sign(&params)
    }

    /// A revocation list with the serial numbers of these certificates.
    pub fn revocation_list(&self, revoked: &[&Pair]) -> String {
        let year = |year| rcgen::date_time_ymd(year, 1, 2);
        let serial = |pair: &&Pair| {
            let der = CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap();
            let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
            RevokedCertParams {
                serial_number: SerialNumber::from_slice(parsed.raw_serial()),
                revocation_time: year(2026),
                reason_code: None,
                invalidity_date: None,
            }
        };
        let list = CertificateRevocationListParams {
            this_update: year(2026),
            next_update: year(2037),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(serial).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        Pair {
            cert: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}
