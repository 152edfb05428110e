//! The same job done by the gate and by its peers, after each of them has proved that it gives the right answers.

mod apis;
mod http;
mod installed;
mod rounds;
mod servers;
mod shop;
mod token;

use self::http::{Site, Who};
use self::rounds::*;
use self::servers::App;
use crate::Extent;
use crate::report::Section;

pub fn sections(_extent: Extent) -> Vec<Section> {
    let folder = tempfile::tempdir().unwrap();
    crate::machine::pin_thread(crate::machine::pinned(crate::machine::REST)).unwrap();
    let _spin = crate::machine::Spinners::start();
    let app = App::start(folder.path()).unwrap();
    let issuer = token::Issuer::new();
    shop::write(folder.path(), "jwks.json", &issuer.jwks());
    shop::write(folder.path(), "issuer.pem", &issuer.public_pem());
    let site = Site {
        folder: folder.path(),
        app: &app,
        issuer: &issuer,
        policies: 1000,
    };
    let all = [
        Who::Gate,
        Who::GateConditional,
        Who::GatePublic,
        Who::Nginx,
        Who::NginxAuthRequest,
        Who::Haproxy,
        Who::Envoy {
            policies: 10,
            token_cache: false,
        },
        Who::Envoy {
            policies: 10,
            token_cache: true,
        },
        Who::Envoy {
            policies: 1000,
            token_cache: false,
        },
        Who::Envoy {
            policies: 1000,
            token_cache: true,
        },
    ];
    let mut peers = vec![];
    for who in all {
        match who.start(&site) {
            Ok(p) => peers.push(p),
            Err(e) => eprintln!("{}: {e}", who.name()),
        }
    }
    let plan = Plan {
        rounds: 2,
        time: std::time::Duration::from_millis(700),
    };
    for shape in [Shape::Closed(32), Shape::Open(2000.0), Shape::Closed(1)] {
        let r = interleave(&mut peers, plan, shape);
        for (p, r) in peers.iter().zip(&r) {
            eprintln!("{:40} {:?}", p.name, r.last());
        }
    }
    for n in [10, 1000] {
        for api in apis::Api::ALL {
            match api.start(folder.path(), n).and_then(|s| api.check(&s).map(|()| s)) {
                Ok(s) => {
                    let mut p = [Peer {
                        name: api.name().to_owned(),
                        server: s,
                        requests: vec![api.question()],
                        records: None,
                        failed: None,
                    }];
                    let r = interleave(&mut p, Plan { rounds: 1, ..plan }, Shape::Closed(32));
                    eprintln!("{n} {} {:?}", api.name(), r[0].last());
                }
                Err(e) => eprintln!("{}: {e}", api.name()),
            }
        }
    }
    for name in ["nginx", "haproxy", "envoy", "cerbos", "opa", "cedar-agent", "oauth2-proxy"] {
        eprintln!("{name} {} {:?}", installed::version(name), installed::program(name));
    }
    Vec::new()
}
