//! A call of Envoy's `ext_authz` over gRPC, encoded by hand: the numbers of the fields are those of Envoy's `.proto`
//! files.

use std::net::SocketAddr;

use http::Request;

use super::http2_client::Client;

/// The request that Envoy holds back.
pub struct Held<'a> {
    pub method: &'a str,
    /// With the query.
    pub path: &'a str,
    pub host: &'a str,
    pub scheme: &'a str,
    pub source_ip: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field that holds bytes: a string, a message or an entry of a map.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    varint(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

fn check_request(held: &Held<'_>) -> Vec<u8> {
    let mut lines: Vec<u8> = Vec::new();
    let path = [(":path", held.path)];
    for (name, value) in path.iter().chain(held.headers) {
        let line = [field(1, name.as_bytes()), field(3, value.as_bytes())].concat();
        lines.extend(field(1, &line));
    }
    let http = [
        field(2, held.method.as_bytes()),
        field(4, held.path.as_bytes()),
        field(5, held.host.as_bytes()),
        field(6, held.scheme.as_bytes()),
        field(13, &lines),
    ];
    let source = field(1, &field(1, &field(1, &field(2, held.source_ip.as_bytes()))));
    let request = field(4, &field(2, &http.concat()));
    field(1, &[source, request].concat())
}

/// The payloads of a field at the top of a message.
fn payloads(mut message: &[u8], number: u8) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some((&tag, rest)) = message.split_first() {
        let (length, rest) = read_varint(rest);
        match tag & 7 {
            2 => {
                let (payload, rest) = rest.split_at(length as usize);
                if tag >> 3 == number {
                    found.push(payload.to_vec());
                }
                message = rest;
            }
            0 => {
                if tag >> 3 == number {
                    found.push(length.to_be_bytes().to_vec());
                }
                message = rest;
            }
            kind => panic!("an unexpected kind of field: {kind}"),
        }
    }
    found
}

fn read_varint(bytes: &[u8]) -> (u64, &[u8]) {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let (number, rest) = bytes.split_at(end);
    (
        number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f)),
        rest,
    )
}

/// A client of the gate's listener for Envoy.
pub struct Envoy(Client);

impl Envoy {
    pub fn connect(address: SocketAddr) -> Self {
        Self(Client::open(address))
    }

    /// The status of gRPC in the answer: 0 permits.
    pub fn check(&self, held: &Held<'_>) -> u64 {
        let message = check_request(held);
        let mut framed = vec![0];
        framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
        framed.extend_from_slice(&message);
        let request = Request::post("http://gate/envoy.service.auth.v3.Authorization/Check")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let answer = self.0.ask(request, &framed).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let status = payloads(&answer.body[5..], 1);
        let code = status.first().and_then(|status| payloads(status, 1).pop());
        let code = code.map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()));
        let is_permitted = !payloads(&answer.body[5..], 3).is_empty();
        assert_eq!(is_permitted, code == 0, "{answer:?}");
        code
    }
}
