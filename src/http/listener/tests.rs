//! Tests binding and closing. `http::upstream::tests` tests serving, over the same sockets.

use std::os::unix::net::UnixListener;

use super::*;

#[test]
fn listeners_of_one_gate_share_a_port_and_a_second_bind_fails() {
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

/// Serves `ok` on a socket of a gate that closes before the listener accepts anything.
async fn serve_closing(socket: Socket, trigger: &crate::base::lifecycle::ShutdownTrigger, shutdown: Shutdown) {
    let config = crate::config::Config::from_yaml("upstream: { url: 'http://127.0.0.1:1' }").unwrap();
    let metrics = Metrics::new().unwrap();
    let count = ConnectionCount::new("limits.connections", 100);
    let context = ListenerContext::new(&config.limits, count, &metrics, Box::new(|reason, _| panic!("{reason:?}")));
    trigger.close();
    let answer = |_request, _link| async { Response::new(Body::full("ok".into())) };
    serve(socket, Rc::new(context), shutdown, answer).await;
}

#[tokio::test]
async fn connections_queued_in_the_kernel_when_the_gate_closes_are_served_once() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let local = tokio::task::LocalSet::new();
    let test = async {
        let listener = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let address = listener.local_addr().unwrap();
        let mut early = Vec::new();
        for _ in 0..20 {
            let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            early.push(client);
        }
        // sends its request only after the gate has closed
        let mut later = tokio::net::TcpStream::connect(address).await.unwrap();
        let (trigger, shutdown) = crate::base::lifecycle::shutdown();
        let socket = Socket::tcp(listener).unwrap();
        let served = tokio::task::spawn_local(async move { serve_closing(socket, &trigger, shutdown).await });
        for client in &mut early {
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            let once = answer.contains("200 OK") && answer.contains("connection: close") && answer.ends_with("ok");
            assert!(once, "{answer}");
        }
        later.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        later.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("200 OK"), "{answer}");
        served.await.unwrap();
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    };
    local
        .run_until(tokio::time::timeout(Duration::from_secs(10), test))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_queued_http2_client_is_answered_and_gets_goaway_when_the_gate_closes() {
    let local = tokio::task::LocalSet::new();
    let test = async {
        let listener = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let address = listener.local_addr().unwrap();
        let client = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut send, connection) = h2::client::handshake(client).await.unwrap();
        let connection = tokio::task::spawn_local(connection);
        let (answer, _) = send.send_request(Request::get("http://a/").body(()).unwrap(), true).unwrap();
        let (trigger, shutdown) = crate::base::lifecycle::shutdown();
        let socket = Socket::tcp(listener).unwrap();
        let served = tokio::task::spawn_local(async move { serve_closing(socket, &trigger, shutdown).await });
        assert_eq!(answer.await.unwrap().status(), 200);
        connection.await.unwrap().unwrap();
        served.await.unwrap();
    };
    local
        .run_until(tokio::time::timeout(Duration::from_secs(10), test))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_silent_client_does_not_delay_the_close() {
    let local = tokio::task::LocalSet::new();
    let test = async {
        let listener = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let _silent = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (trigger, shutdown) = crate::base::lifecycle::shutdown();
        let began = std::time::Instant::now();
        serve_closing(Socket::tcp(listener).unwrap(), &trigger, shutdown).await;
        assert!(began.elapsed() >= FIRST_REQUEST_GRACE && began.elapsed() < FIRST_REQUEST_GRACE * 4);
    };
    local
        .run_until(tokio::time::timeout(Duration::from_secs(10), test))
        .await
        .unwrap();
}

#[test]
fn of_several_gates_that_bind_a_private_socket_at_once_one_succeeds() {
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
        // the file outlives its listener, and is stale in the next round
    }
}

#[test]
fn a_socket_file_is_removed_with_its_owner_unless_another_gate_replaced_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    let first = bind_private(&path).unwrap();
    let file = SocketFile::of(&path).unwrap();
    drop(first);
    let _second = bind_private(&path).unwrap();
    let second_file = SocketFile::of(&path).unwrap();
    drop(file);
    assert!(path.exists());
    drop(second_file);
    assert!(!path.exists());
    assert!(bind_private(&folder.path().join("absent/control.sock")).is_err());
}
