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

#[test]
fn a_private_socket_has_one_owner_however_many_want_it_at_once() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    for _ in 0..20 {
        let bound: Vec<UnixListener> = std::thread::scope(|scope| {
            let binding: Vec<_> = (0..4).map(|_| scope.spawn(|| bind_private(&path))).collect();
            binding.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect()
        });
        assert_eq!(bound.len(), 1);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let names = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1, "nothing else is left");
        // the file outlives its listener and is stale then
    }
}

#[test]
fn a_socket_file_goes_with_its_owner_unless_it_is_another_ones_by_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let (first, file) = (bind_private(&path).unwrap(), SocketFile::of(&path).unwrap());
    drop(first);
    let (_second, theirs) = (bind_private(&path).unwrap(), SocketFile::of(&path).unwrap());
    drop(file);
    assert!(path.exists());
    drop(theirs);
    assert!(!path.exists());
    assert!(bind_private(&folder.path().join("absent/control.sock")).is_err());
}
