//! Binding and counting; serving is tested with forwarding, over the same sockets.

use super::*;
use std::os::unix::net::UnixListener;

#[test]
fn copies_share_a_port_and_a_foreign_listener_is_a_conflict() {
    let ours = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
    let address = ours.first().unwrap().local_addr().unwrap();
    assert!(ours.iter().all(|listener| listener.local_addr().unwrap() == address));
    assert_eq!(bind(address, 1).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(ours);
    assert_eq!(bind(address, 2).unwrap().len(), 2);
}

#[test]
fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("decision.sock");
    let live = bind_unix(&path).unwrap();
    assert_eq!(bind_unix(&path).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(live);
    drop(bind_unix(&path).unwrap());
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(bind_unix(&file).is_err());
    assert!(UnixListener::bind(&file).is_err() && file.exists());
}
