//! The MySQL server with real clients' eyes: mysql_async, and raw bytes for what no client does. The engine behind it is
//! a stand-in that answers with whatever Arrow can hold.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // test code, though not marked as such

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use async_trait::async_trait;
use freshet_core::{Error, Result, Secret};
use freshet_server::auth::Users;
use freshet_server::backend::{Backend, Outcome, Session, TYPE_KEY};
use freshet_server::mysql::{Options, Server};
use freshet_server::tls::{Certificate, server_config};
use futures::{StreamExt, stream};
use mysql_async::prelude::*;
use mysql_async::{Conn, OptsBuilder, Row, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// An engine with a handful of statements.
#[derive(Default)]
struct Fake {
    cancelled: Arc<AtomicUsize>,
}

struct FakeSession {
    database: Option<String>,
    cancelled: Arc<AtomicUsize>,
}

struct OnDrop(Arc<AtomicUsize>);
impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Backend for Fake {
    fn open(&self, _: &str) -> Box<dyn Session> {
        Box::new(FakeSession { database: None, cancelled: Arc::clone(&self.cancelled) })
    }
}

#[async_trait]
impl Session for FakeSession {
    async fn execute(&mut self, sql: &str) -> Result<Outcome> {
        let word = sql.split_whitespace().next().unwrap_or_default();
        let batches: Vec<Result<RecordBatch>> = match word {
            "done" => return Ok(Outcome::Done { affected: 3, info: "three rows".into() }),
            "fail" => return Err(Error::not_found("there is no such table").with("table", "t").hint("look again")),
            "types" | "SELECT" => vec![Ok(all_types())],
            "echo" => vec![Ok(column(StringArray::from(vec![&sql[5..]])))],
            "database" => vec![Ok(column(StringArray::from(vec![self.database.as_deref()])))],
            "late" => vec![Ok(column(Int32Array::from(vec![1]))), Err(Error::corrupt("a segment is torn"))],
            "count" => {
                let n: i64 = sql[6..].parse().expect("a number");
                let batch = |from: i64| Ok(column(Int64Array::from_iter_values(from..(from + 1000).min(n))));
                (0..n).step_by(1000).map(batch).collect()
            }
            "wide" => {
                let n: usize = sql[5..].parse().expect("a number");
                vec![Ok(column(StringArray::from(vec!["x".repeat(n)])))]
            }
            "endless" => {
                let guard = OnDrop(Arc::clone(&self.cancelled));
                let first = column(Int32Array::from(vec![1]));
                let schema = first.schema();
                let rest = stream::once(async move {
                    let _guard = guard;
                    std::future::pending().await
                });
                return Ok(Outcome::Rows { schema, stream: stream::iter([Ok(first)]).chain(rest).boxed() });
            }
            "sleep" => {
                let _guard = OnDrop(Arc::clone(&self.cancelled));
                std::future::pending().await
            }
            _ => return Err(Error::config("no such statement").with("near", sql)),
        };
        let schema = batches[0].as_ref().expect("a first batch").schema();
        Ok(Outcome::Rows { schema, stream: stream::iter(batches).boxed() })
    }

    fn split<'a>(&self, sql: &'a str) -> Vec<&'a str> {
        sql.split(';').map(str::trim).filter(|s| !s.is_empty()).collect()
    }

    fn use_database(&mut self, name: &str) -> Result<()> {
        if name != "shop" {
            return Err(Error::not_found("there is no such database").with("database", name));
        }
        self.database = Some(name.into());
        Ok(())
    }

    fn database(&self) -> Option<&str> {
        self.database.as_deref()
    }

    fn variable(&self, name: &str) -> Option<String> {
        (name == "time_zone").then(|| "+01:00".into())
    }
}

fn column(array: impl Array + 'static) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([("c", Arc::new(array) as ArrayRef, true)]).expect("a batch")
}

/// A row of values and one of NULLs.
fn all_types() -> RecordBatch {
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None]), None]);
    let columns: Vec<(&str, ArrayRef, &str)> = vec![
        ("boolean", Arc::new(BooleanArray::from(vec![Some(true), None])), ""),
        ("tiny", Arc::new(Int8Array::from(vec![Some(-128), None])), ""),
        ("unsigned", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])), ""),
        ("double", Arc::new(Float64Array::from(vec![Some(0.1), None])), ""),
        (
            "decimal",
            Arc::new(Decimal128Array::from(vec![Some(-12_345), None]).with_data_type(DataType::Decimal128(10, 2))),
            "",
        ),
        ("day", Arc::new(Date32Array::from(vec![Some(19_782), None])), ""),
        ("moment", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_500_000), None])), "datetime(3)"),
        (
            "instant",
            Arc::new(TimestampMicrosecondArray::from(vec![Some(0), None]).with_timezone("UTC")),
            "timestamptz(0)",
        ),
        ("time", Arc::new(DurationMicrosecondArray::from(vec![Some(-3_020_399_000_000), None])), ""),
        ("text", Arc::new(StringViewArray::from(vec![Some("größe"), None])), ""),
        ("bytes", Arc::new(BinaryArray::from(vec![Some(b"\xFF\0".as_slice()), None])), ""),
        ("list", Arc::new(list), ""),
        ("nothing", Arc::new(NullArray::new(2)), ""),
    ];
    let field = |(name, array, declared): &(&str, ArrayRef, &str)| {
        let metadata = [(TYPE_KEY.to_string(), declared.to_string())].into();
        Field::new(*name, array.data_type().clone(), true).with_metadata(metadata)
    };
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, array, _)| array).collect()).expect("a batch")
}

struct Running {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    cancelled: Arc<AtomicUsize>,
}

async fn start(change: impl FnOnce(&mut Options)) -> Running {
    let mut options = Options::loopback();
    options.listen.set_port(0);
    change(&mut options);
    let backend = Fake::default();
    let cancelled = Arc::clone(&backend.cancelled);
    let server = Server::bind(options, Arc::new(backend)).await.expect("a free port");
    let address = server.local_addr().expect("an address");
    let (stop, stopped) = watch::channel(false);
    Running { address, stop, task: tokio::spawn(server.run(stopped)), cancelled }
}

impl Running {
    fn opts(&self) -> OptsBuilder {
        OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.address.port())
            .user(Some("root"))
            .prefer_socket(false)
    }

    async fn connect(&self) -> Conn {
        Conn::new(self.opts()).await.expect("a connection")
    }

    async fn until_cancelled(&self) {
        for _ in 0..1000 {
            if self.cancelled.load(Ordering::SeqCst) > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the statement was not cancelled");
    }
}

fn code(error: &mysql_async::Error) -> u16 {
    match error {
        mysql_async::Error::Server(e) => e.code,
        other => panic!("not an error of the server: {other}"),
    }
}

#[tokio::test]
async fn values_in_text_and_binary() {
    let server = start(|_| {}).await;
    let mut conn = server.connect().await;
    let text: Vec<Row> = conn.query("types").await.expect("rows");
    let expected = [
        "1",
        "-128",
        "18446744073709551615",
        "0.1",
        "-123.45",
        "2024-02-29",
        "1970-01-01 00:00:01.500",
        "1970-01-01 01:00:00",
        "-838:59:59.000000",
        "größe",
    ];
    for (i, expected) in expected.iter().enumerate() {
        assert_eq!(text[0][i], Value::Bytes(expected.as_bytes().to_vec()), "column {i}");
    }
    assert_eq!((&text[0][10], &text[0][11]), (&Value::Bytes(vec![0xFF, 0]), &Value::Bytes(b"[1, null]".to_vec())));
    assert!((0..13).all(|i| text[1][i] == Value::NULL) && text[0][12] == Value::NULL);

    let binary: Vec<Row> = conn.exec("types", ()).await.expect("rows");
    let first = &binary[0];
    assert_eq!((&first[0], &first[1], &first[2]), (&Value::Int(1), &Value::Int(-128), &Value::UInt(u64::MAX)));
    assert_eq!((&first[3], &first[4]), (&Value::Double(0.1), &Value::Bytes(b"-123.45".to_vec())));
    assert_eq!(first[5], Value::Date(2024, 2, 29, 0, 0, 0, 0));
    assert_eq!(first[6], Value::Date(1970, 1, 1, 0, 0, 1, 500_000));
    assert_eq!(first[7], Value::Date(1970, 1, 1, 1, 0, 0, 0));
    assert_eq!(first[8], Value::Time(true, 34, 22, 59, 59, 0));
    assert_eq!(first[9], Value::Bytes("größe".into()));
    assert!((0..13).all(|i| binary[1][i] == Value::NULL));
    let columns = conn.query_iter("types").await.expect("rows").columns().expect("columns");
    assert_eq!((columns[6].decimals(), columns[2].name_str().as_ref()), (3, "unsigned"));
}

#[tokio::test]
async fn many_rows_and_long_ones() {
    let server = start(|_| {}).await;
    let mut conn = server.connect().await;
    let rows: Vec<i64> = conn.query("count 250001").await.expect("rows");
    assert!(rows.len() == 250_001 && rows.iter().enumerate().all(|(i, n)| *n == i as i64));
    let mut conn = Conn::new(server.opts().max_allowed_packet(Some(1 << 30))).await.expect("a connection");
    for length in [250, 251, 65_536, 0xFF_FFFF - 4, 0xFF_FFFF, 40 << 20] {
        let row: String = conn.query_first(format!("wide {length}")).await.expect("rows").expect("a row");
        assert!(row.len() == length && row.bytes().all(|b| b == b'x'));
    }
    let long = "y".repeat(20 << 20);
    let echoed: String = conn.query_first(format!("echo {long}")).await.expect("rows").expect("a row");
    assert!(echoed == long);
}

#[tokio::test]
async fn statements_with_parameters() {
    let server = start(|_| {}).await;
    let mut conn = server.connect().await;
    let echo = "echo ?, ?, '?' /* ? */, ?";
    let answer: String = conn.exec_first(echo, (-7, "it's\\", None::<i8>)).await.expect("rows").expect("a row");
    assert_eq!(answer, r" -7 ,  'it''s\\' , '?' /* ? */,  NULL ");
    let mut conn = Conn::new(server.opts().max_allowed_packet(Some(1 << 30))).await.expect("a connection");
    let big = "z".repeat(17 << 20);
    let answer: String = conn.exec_first("echo ?", (&big,)).await.expect("rows").expect("a row");
    assert_eq!(answer.len(), big.len() + 4);
    conn.exec_drop("done", ()).await.expect("done");
    assert_eq!((conn.affected_rows(), conn.info().as_ref()), (3, "three rows"));
    assert_eq!(code(&conn.exec_drop("fail", ()).await.expect_err("no table")), 1146);
    assert_eq!(code(&conn.prep("done; done").await.expect_err("two statements")), 1064);
}

#[tokio::test]
async fn several_statements_and_errors() {
    let server = start(|_| {}).await;
    let mut conn = server.connect().await;
    let mut results = conn.query_iter("echo a; done; echo b; fail; echo c").await.expect("results");
    assert_eq!(results.collect::<String>().await.expect("rows"), ["a"]);
    assert!(results.collect::<String>().await.expect("no rows").is_empty());
    assert_eq!(results.collect::<String>().await.expect("rows"), ["b"]);
    match results.collect::<String>().await.expect_err("no table") {
        mysql_async::Error::Server(e) => {
            assert_eq!((e.code, e.state.as_str()), (1146, "42S02"));
            assert_eq!(e.message, "there is no such table (table: t)\nhint: look again");
        }
        other => panic!("{other}"),
    }
    drop(results);
    assert_eq!(code(&conn.query_drop("late").await.expect_err("a torn segment")), 1105);
    assert_eq!(code(&conn.query_drop(" ; ").await.expect_err("nothing")), 1065);
    conn.ping().await.expect("still there");
}

#[tokio::test]
async fn databases_and_resets() {
    let server = start(|_| {}).await;
    let mut conn = Conn::new(server.opts().db_name(Some("shop"))).await.expect("a connection");
    conn.exec_drop("done", ()).await.expect("a prepared statement");
    conn.reset().await.expect("reset");
    let database: Option<String> = conn.query_first("database").await.expect("rows").expect("a row");
    assert_eq!(database.as_deref(), Some("shop"));
    conn.change_user(mysql_async::ChangeUserOpts::default()).await.expect("the same user again");
    let missing = Conn::new(server.opts().db_name(Some("none"))).await.expect_err("no such database");
    assert_eq!(code(&missing), 1049);
}

#[tokio::test]
async fn passwords() {
    let users = Users::default().with("root", &Secret::new("right")).with("ann", &Secret::new("pässword"));
    let server = start(|o| o.users = users).await;
    Conn::new(server.opts().pass(Some("right"))).await.expect("the right password");
    let mut ann = Conn::new(server.opts().user(Some("ann")).pass(Some("pässword"))).await.expect("the right password");
    ann.change_user(mysql_async::ChangeUserOpts::default().with_pass(Some("wrong".into()))).await.expect_err("wrong");
    for (user, password) in [("root", Some("wrong")), ("root", None), ("ann", Some("right")), ("eve", None)] {
        let begun = std::time::Instant::now();
        let refused = Conn::new(server.opts().user(Some(user)).pass(password)).await.expect_err("refused");
        assert_eq!(code(&refused), 1045);
        assert!(begun.elapsed() >= Duration::from_millis(400), "guessing is slow");
    }
    let outside = Options { listen: SocketAddr::from(([0, 0, 0, 0], 0)), ..Options::loopback() };
    assert!(Server::bind(outside, Arc::new(Fake::default())).await.is_err_and(|e| e.hint.is_some()));
}

#[tokio::test]
async fn limits_of_connections() {
    let server = start(|o| o.max_connections = 1).await;
    let conn = server.connect().await;
    assert_eq!(code(&Conn::new(server.opts()).await.expect_err("one too many")), 1040);
    conn.disconnect().await.expect("closed");
    for attempt in 0.. {
        if Conn::new(server.opts()).await.is_ok() {
            break;
        }
        assert!(attempt < 100);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_statement() {
    for statement in ["sleep", "endless"] {
        let server = start(|_| {}).await;
        let mut conn = server.connect().await;
        let task = tokio::spawn(async move { conn.query_drop(statement).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        task.abort();
        server.until_cancelled().await;
    }
}

#[tokio::test]
async fn kill_and_process_list() {
    let server = start(|_| {}).await;
    let (mut victim, mut killer) = (server.connect().await, server.connect().await);
    let id = victim.id();
    let task = tokio::spawn(async move {
        let error = victim.query_drop("sleep").await.expect_err("killed");
        (victim, code(&error))
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let list: Vec<Row> = killer.query("SHOW PROCESSLIST").await.expect("rows");
    let running = list.iter().find(|r| r["Id"] == Value::Bytes(id.to_string().into())).expect("the victim");
    assert_eq!(running["Info"], Value::Bytes(b"sleep".to_vec()));
    killer.query_drop(format!("KILL QUERY {id}")).await.expect("killed");
    let (mut victim, number) = task.await.expect("no panic");
    assert_eq!(number, 1317);
    victim.query_drop("done").await.expect("the connection lives on");
    killer.query_drop(format!("KILL {id}")).await.expect("killed");
    tokio::time::sleep(Duration::from_millis(50)).await;
    victim.query_drop("done").await.expect_err("the connection is gone");
    assert_eq!(code(&killer.query_drop("KILL 4000000000").await.expect_err("nobody")), 1094);
}

#[tokio::test]
async fn the_end_of_the_server() {
    let server = start(|_| {}).await;
    let (mut busy, mut idle) = (server.connect().await, server.connect().await);
    let task = tokio::spawn(async move { code(&busy.query_drop("sleep").await.expect_err("stopped")) });
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop.send(true).expect("it runs");
    assert_eq!(task.await.expect("no panic"), 1053);
    tokio::time::timeout(Duration::from_secs(2), server.task).await.expect("soon").expect("no panic");
    idle.ping().await.expect_err("closed");
}

/// Reads one packet.
async fn packet(socket: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut header = [0; 4];
    socket.read_exact(&mut header).await.ok()?;
    let mut body = vec![0; u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize];
    socket.read_exact(&mut body).await.ok()?;
    Some(body)
}

async fn send(socket: &mut (impl AsyncWriteExt + Unpin), sequence: u8, body: &[u8]) -> std::io::Result<()> {
    let length = (body.len() as u32).to_le_bytes();
    let packet = [&[length[0], length[1], length[2], sequence], body].concat();
    socket.write_all(&packet).await
}

/// PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH.
const FLAGS: u32 = 0x200 | 0x8000 | 0x8_0000;

fn login(flags: u32, plugin: &str) -> Vec<u8> {
    let mut out = flags.to_le_bytes().to_vec();
    out.extend_from_slice(&[0, 0, 0, 1, 45]);
    out.extend_from_slice(&[0; 23]);
    out.extend_from_slice(b"root\0\0");
    out.extend_from_slice(plugin.as_bytes());
    out.push(0);
    out
}

#[tokio::test]
async fn encrypted() {
    let directory = tempfile::tempdir().expect("a directory");
    let own = Certificate::SelfSigned { directory: directory.path().to_path_buf() };
    let tls = server_config(&own).expect("a certificate");
    let users = Users::default().with("root", &Secret::new("secret"));
    let server = start(|o| (o.tls, o.users) = (Some(tls), users)).await;

    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(directory.path().join("server.crt")).expect("the certificate");
    roots.add(rustls::pki_types::pem::PemObject::from_pem_slice(&pem).expect("PEM")).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut socket = TcpStream::connect(server.address).await.expect("a connection");
    packet(&mut socket).await.expect("the greeting");
    send(&mut socket, 1, &login(FLAGS | 0x800, "")[..32]).await.expect("sent");
    let name = "localhost".try_into().expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut socket = connector.connect(name, socket).await.expect("TLS");
    // The client speaks a plugin that only makes sense here, and is asked for the password itself.
    send(&mut socket, 2, &login(FLAGS | 0x800, "mysql_clear_password")).await.expect("sent");
    assert_eq!(packet(&mut socket).await.expect("a switch")[..22], *b"\xFEmysql_clear_password\0");
    send(&mut socket, 4, b"secret\0").await.expect("sent");
    assert_eq!(packet(&mut socket).await.expect("OK")[0], 0);
    send(&mut socket, 0, b"\x03done").await.expect("sent");
    assert_eq!(packet(&mut socket).await.expect("OK")[..2], [0, 3]);
}

#[tokio::test]
async fn an_unknown_plugin_is_switched() {
    let server = start(|_| {}).await;
    for (plugin, switched) in
        [("sha256_password", true), ("mysql_native_password", false), ("caching_sha2_password", false)]
    {
        let mut socket = TcpStream::connect(server.address).await.expect("a connection");
        packet(&mut socket).await.expect("the greeting");
        send(&mut socket, 1, &login(FLAGS, plugin)).await.expect("sent");
        let mut answer = packet(&mut socket).await.expect("an answer");
        assert_eq!(answer.starts_with(b"\xFEmysql_native_password\0"), switched);
        if switched {
            send(&mut socket, 3, b"").await.expect("sent");
            answer = packet(&mut socket).await.expect("an answer");
        }
        assert_eq!(answer[0], 0, "OK");
    }
}

/// A generator of bytes that a failing run can repeat.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.next() % most).map(|_| (self.next() >> 32) as u8).collect()
    }
}

#[tokio::test]
async fn random_bytes_never_panic() {
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if info.location().is_some_and(|l| l.file().contains("/src/")) {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        usual(info);
    }));
    let server = start(|o| o.max_packet = 1 << 20).await;
    let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
    for round in 0..400 {
        let mut socket = TcpStream::connect(server.address).await.expect("a connection");
        packet(&mut socket).await.expect("the greeting");
        // A login that is cut, bent, or right.
        let mut first = login(FLAGS | if round % 2 == 0 { 0x30_0000 } else { 0 }, "mysql_native_password");
        match round % 4 {
            0 => first = noise.bytes(200),
            1 => {
                let at = (noise.next() % first.len() as u64) as usize;
                first[at] = noise.next() as u8;
                first.truncate((noise.next() % 80) as usize);
            }
            _ => {}
        }
        let _ = send(&mut socket, 1, &first).await;
        for _ in 0..20 {
            // Every command, a prepared statement first; `sleep` and the like are not among the texts.
            let command = (noise.next() % 36) as u8;
            let body = match noise.next() % 3 {
                0 => [&[command][..], &noise.bytes(40)].concat(),
                1 => [&[0x16][..], b"echo ?, ? ", &noise.bytes(9)].concat(),
                _ => [&[0x17, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1][..], &noise.bytes(30)].concat(),
            };
            if body[0] != 1 && send(&mut socket, 0, &body).await.is_err() {
                break;
            }
        }
        let _ = socket.shutdown().await;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest)).await;
    }
    server.connect().await.ping().await.expect("the server lives on");
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
}
