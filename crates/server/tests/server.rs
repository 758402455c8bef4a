//! A whole server: sockets, tokens, limits, and OpenStack's own client.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use server::config::AuthMode;
use server::{Config, RunError, Server};
use stream::pki::Authority;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A configuration of its own in a directory, with whatever port is free.
fn config(directory: &Path) -> Config {
    let credentials = Authority::open(directory).unwrap().server().unwrap();
    let mut config = Config::default();
    config.store.path = Some(directory.join("store"));
    config.api.listen = vec!["127.0.0.1:0".parse().unwrap()];
    config.views.listen = "127.0.0.1:0".parse().unwrap();
    config.views.certificate = credentials.certificate;
    config.views.key = credentials.key;
    config.views.ca = credentials.ca;
    config
}

fn url(server: &Server) -> String {
    format!("http://{}", server.addresses()[0])
}

/// The status, the headers and the body that `curl` gets.
async fn curl(arguments: &[&str]) -> (u16, String, String) {
    let output = tokio::process::Command::new("curl").args(["-s", "-i", "--noproxy", "*"]).args(arguments).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&text).to_string();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), head.to_lowercase(), body.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_open_the_api_and_nothing_else_does() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.api.auth = AuthMode::Tokens;
    config.api.tokens = Some(directory.path().join("tokens"));
    assert!(matches!(Server::start(config.clone()).await, Err(RunError::Tokens(_))));
    std::fs::write(directory.path().join("tokens"), "# nobody yet\n\n").unwrap();
    let Err(RunError::Tokens(nobody)) = Server::start(config.clone()).await else { panic!("a server that nobody can use") };
    assert!(nobody.to_string().contains("tokens holds no token: "), "{nobody}");
    std::fs::write(directory.path().join("tokens"), "secret,p1,alice,member\n").unwrap();
    let server = Server::start(config).await.unwrap();
    let list = format!("{}/v2.0/lbaas/loadbalancers", url(&server));
    for arguments in [vec![list.as_str()], vec!["-H", "X-Auth-Token: wrong", &list], vec!["-H", "X-Project-Id: p1", &list]] {
        let (status, head, body) = curl(&arguments).await;
        assert_eq!(status, 401, "{body}");
        assert!(body.contains("requires authentication") && head.contains("x-openstack-request-id: req-"));
    }
    assert_eq!(curl(&["-H", "X-Auth-Token: secret", &list]).await.0, 200);
    assert_eq!(curl(&[&format!("{}/", url(&server))]).await.0, 200, "versions are for everybody");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_body_is_refused_in_the_words_of_its_api() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(config(directory.path())).await.unwrap();
    let huge = directory.path().join("huge");
    std::fs::write(&huge, vec![b' '; server::http::BODY_MAX + 1]).unwrap();
    let data = format!("@{}", huge.display());
    for (path, word) in [("/v2.0/networks", "HTTPRequestEntityTooLarge"), ("/v2.0/lbaas/loadbalancers", "faultstring")] {
        for header in ["Expect:", "Transfer-Encoding: chunked"] {
            let (status, _, body) = curl(&["-X", "POST", "-H", header, "--data-binary", &data, &format!("{}{path}", url(&server))]).await;
            assert_eq!(status, 413, "{path} {header}");
            assert!(body.contains(word) && body.contains("16777216"), "{body}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_handler_sees_is_refused_in_the_words_of_its_api() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(config(directory.path())).await.unwrap();
    let (neutron, octavia, ladon) = ("/NeutronError/type", "/faultstring", "/error/title");
    let long = "x".repeat(server::http::URI_MAX);
    let plain = ["-H", "Content-Type: text/plain", "-d", "{\"pool\": {}}"];
    let cases: [(&[&str], &str, u16, &str, &str); 19] = [
        (&["-X", "PATCH"], "/v2.0/networks", 405, neutron, "HTTPMethodNotAllowed"),
        (&["-X", "POST"], "/v2.0/ports/1", 405, neutron, "HTTPMethodNotAllowed"),
        (&["-X", "PATCH"], "/v2.0/lbaas/pools", 405, octavia, "The method PATCH is not allowed for this resource."),
        (&["-X", "DELETE"], "/ladon/v1/ports", 405, ladon, "Method Not Allowed"),
        (&[], "/nowhere", 404, neutron, "HTTPNotFound"),
        (&[], "/v2.0/nowhere", 404, neutron, "HTTPNotFound"),
        (&[], "/v2.0/lbaas/nowhere", 404, octavia, "The resource could not be found."),
        (&[], "/ladon/v1/nowhere", 404, ladon, "Not Found"),
        (&[], "/v2.0/networks/%ff", 400, neutron, "HTTPBadRequest"),
        (&[], "/v2.0/lbaas/pools/%ff", 400, octavia, "Invalid URL"),
        (&[], "/ladon/v1/wait?timeout=x", 400, ladon, "Bad Request"),
        (&[], "/ladon/v1/wait?timout=1", 400, ladon, "Bad Request"),
        (&[], "/ladon/v1/ports?missing=true&nod=n1", 400, ladon, "Bad Request"),
        (&[], "/ladon/v1/nodes?name=n1", 400, ladon, "Bad Request"),
        (&[], "/ladon/v1/ports?node=n1", 404, ladon, "Not Found"),
        (&[], &format!("/v2.0/networks?name={long}"), 414, neutron, "HTTPRequestURITooLong"),
        (&[], &format!("/v2.0/lbaas/pools?name={long}"), 414, octavia, "longer than 32768 bytes"),
        (&plain, "/v2.0/lbaas/pools", 415, octavia, "Unknown mimetype: text/plain"),
        (&plain, "/v2.0/networks", 400, neutron, "HTTPBadRequest"),
    ];
    for (arguments, path, status, pointer, words) in cases {
        let (found, head, body) = curl(&[arguments, &[&format!("{}{path}", url(&server))]].concat()).await;
        let document: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path} {arguments:?}: {found} '{body}'"));
        let said = document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        assert!(found == status && said.contains(words), "{path} {arguments:?}: {found} {body}");
        assert_eq!(head.contains("\nallow: "), status == 405, "{head}");
        assert!(head.contains("x-openstack-request-id: req-"), "{head}");
    }
    let (status, _, body) = curl(&[&format!("{}/v2.0/networks?name={}", url(&server), "x".repeat(1 << 16))]).await;
    assert_eq!((status, body.as_str()), (414, ""), "beyond what hyper takes there is a status and no document, as in Neutron");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_lets_nobody_in_and_ends_with_its_last_request() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(config(directory.path())).await.unwrap();
    let address = server.addresses()[0];
    // A request is under way as soon as its body is asked for.
    let mut half = tokio::net::TcpStream::connect(address).await.unwrap();
    half.write_all(b"POST /v2.0/networks HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n").await.unwrap();
    half.read_exact(&mut [0; "HTTP/1.1 100 Continue\r\n\r\n".len()]).await.unwrap();
    let stopping = tokio::spawn(server.stop());
    let refused = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), refused).await.expect("nobody is let in who would get no answer");
    assert!(!stopping.is_finished(), "it waits for the request under way");
    drop(half);
    tokio::time::timeout(Duration::from_secs(5), stopping).await.expect("the server ends with its last request").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_serves_the_same_api_and_a_dead_one_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let mut config = config(directory.path());
    config.api.listen.clear();
    config.api.socket = Some(socket.clone());
    let server = Server::start(config).await.unwrap();
    let (status, _, body) = curl(&["--unix-socket", &socket.display().to_string(), "http://ladon/v2.0/lbaas/providers"]).await;
    assert_eq!(status, 200);
    assert!(body.contains("ladon"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_and_a_second_server_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let server = Server::start(config.clone()).await.unwrap();
    assert!(matches!(Server::start(config.clone()).await, Err(RunError::Open(_))));
    let mut same = config;
    same.api.listen = server.addresses().to_vec();
    assert!(matches!(Server::start(same).await, Err(RunError::Listen { .. })));
    server.stop().await;
}

/// Runs OpenStack's client and reads what it says.
async fn openstack(url: &str, line: &str) -> Result<Value, String> {
    let mut command = Command::new("openstack");
    command.env_clear().env("PATH", std::env::var("PATH").unwrap_or_default()).env("HOME", "/nonexistent").env("no_proxy", "*");
    command.args(["--os-auth-type", "none", "--os-endpoint", url]).args(line.split_whitespace());
    let output = tokio::process::Command::from(command).output().await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(format!("openstack {line}: {out}{err}"));
    }
    Ok(serde_json::from_str(&out).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openstack_client_makes_a_load_balancer_and_it_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let server = Server::start(config.clone()).await.unwrap();
    let url = url(&server);
    let run = |line: &'static str| {
        let url = url.clone();
        async move { openstack(&url, line).await.unwrap_or_else(|error| panic!("{error}")) }
    };
    run("network create net -f json").await;
    run("subnet create sub --network net --subnet-range 10.0.0.0/24 -f json").await;
    let balancer = run("loadbalancer create --name lb --vip-subnet-id sub --provider ladon --wait -f json").await;
    assert_eq!((&balancer["provisioning_status"], &balancer["provider"]), (&"ACTIVE".into(), &"ladon".into()));
    run("loadbalancer listener create --name l --protocol TCP --protocol-port 80 lb --wait -f json").await;
    run("loadbalancer pool create --name p --protocol TCP --lb-algorithm ROUND_ROBIN --listener l --wait -f json").await;
    run("loadbalancer member create --name m --address 10.0.0.7 --protocol-port 8080 --weight 5 p --wait -f json").await;
    run("loadbalancer member set --weight 0 p m").await;
    assert_eq!(run("loadbalancer member list p -f json").await[0]["weight"], 0);
    assert_eq!(run("loadbalancer provider list -f json").await[0]["name"], "ladon");
    let http = openstack(&url, "loadbalancer listener create --protocol HTTP --protocol-port 81 lb").await.unwrap_err();
    assert!(http.contains("does not support"), "{http}");
    run("loadbalancer status show lb").await;
    let before = server.core().state();
    server.stop().await;

    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    let server = loop {
        match Server::start(config.clone()).await {
            Ok(server) => break server,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}: {:?}", std::error::Error::source(&error)),
        }
    };
    assert_eq!(*server.core().state(), *before);
    let url = format!("http://{}", server.addresses()[0]);
    openstack(&url, "loadbalancer delete --cascade lb").await.unwrap();
    assert_eq!(openstack(&url, "loadbalancer list -f json").await.unwrap(), Value::Array(Vec::new()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_looks_and_changes_nothing_in_the_words_of_each_api() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    config.api.auth = AuthMode::Tokens;
    config.api.tokens = Some(directory.path().join("tokens"));
    std::fs::write(directory.path().join("tokens"), "looks,p1,alice,reader\nworks,p1,bob,reader member\n").unwrap();
    let server = Server::start(config).await.unwrap();
    let at = |path: &str| format!("{}{path}", url(&server));
    let body = "{\"network\": {\"name\": \"n\"}}";
    let (neutron, octavia) = (at("/v2.0/networks"), at("/v2.0/lbaas/loadbalancers"));
    for (arguments, word) in [
        (vec!["-d", body, &neutron], "PolicyNotAuthorized"),
        (vec!["-X", "PUT", "-d", body, &neutron], "PolicyNotAuthorized"),
        (vec!["-X", "DELETE", &neutron], "PolicyNotAuthorized"),
        (vec!["-d", "{}", &octavia], "faultstring"),
    ] {
        let (status, _, said) = curl(&[&["-H", "X-Auth-Token: looks"], arguments.as_slice()].concat()).await;
        assert!(status == 403 && said.contains(word), "{arguments:?}: {status} {said}");
    }
    assert_eq!(curl(&["-H", "X-Auth-Token: looks", &neutron]).await.0, 200);
    assert_eq!(curl(&["-H", "X-Auth-Token: works", "-d", body, &neutron]).await.0, 201);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_lead_back_through_a_proxy_that_speaks_tls() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(config(directory.path())).await.unwrap();
    for path in ["/", "/v2.0/", "/load-balancer"] {
        let address = format!("{}{path}", url(&server));
        let by_proxy = curl(&["-H", "Host: cloud.example", "-H", "X-Forwarded-Proto: https", &address]).await.2;
        assert!(by_proxy.contains("\"https://cloud.example/") && !by_proxy.contains("http://"), "{by_proxy}");
        let plain = curl(&["-H", "Host: cloud.example", &address]).await.2;
        assert!(plain.contains("\"http://cloud.example/"), "{plain}");
    }
    server.stop().await;
}
