//! Tests against real servers: `FRESHET_TEST_MARIADB` and `FRESHET_TEST_MYSQL` name them (`mysql://user:password@host:port/`).
//! Without one of them a test says that it skips it.

use freshet_core::{ErrorKind, Secret};

use super::super::url::Address;
use super::*;

/// The servers that the environment names.
pub(in crate::mysql) fn servers(test: &str) -> Vec<Options> {
    let named = |name: &str| match std::env::var(name) {
        Ok(url) => Some(Address::parse(&url).unwrap().connect),
        Err(_) => {
            println!("SKIPPED {test}: no {name}");
            None
        }
    };
    ["FRESHET_TEST_MARIADB", "FRESHET_TEST_MYSQL"].into_iter().filter_map(named).collect()
}

#[tokio::test]
async fn logs_in_with_and_without_tls() {
    for o in servers("logs_in_with_and_without_tls") {
        logs_in_with_and_without_tls_on(o).await;
    }
}

async fn logs_in_with_and_without_tls_on(mut o: Options) {
    for (mode, encrypted) in [(TlsMode::Disabled, false), (TlsMode::Preferred, true), (TlsMode::Required, true)] {
        o.tls.mode = mode;
        let mut c = Connection::connect(&o).await.unwrap();
        assert_eq!(c.is_encrypted(), encrypted);
        let rows = c.query("SELECT 1 AS one, NULL AS nothing, 'ä' AS umlaut").await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].named("ONE"), Some("1"));
        assert_eq!(rows[0].number(0), Some(1));
        assert_eq!(rows[0].values[1], None);
        assert_eq!(rows[0].get_str(2), Some("ä"));
        c.execute("SET @x = 1").await.unwrap();
        assert_eq!(c.query("SELECT @x WHERE 1 = 0").await.unwrap(), []);
    }
    o.tls.mode = TlsMode::VerifyIdentity;
    assert_eq!(Connection::connect(&o).await.err().unwrap().kind, ErrorKind::Permission);
}

#[tokio::test]
async fn errors_name_their_kind() {
    for o in servers("errors_name_their_kind") {
        errors_name_their_kind_on(o).await;
    }
}

async fn errors_name_their_kind_on(o: Options) {
    let kind = async |o: &Options| Connection::connect(o).await.err().unwrap().kind;
    assert_eq!(kind(&Options { password: Secret::new("wrong"), ..o.clone() }).await, ErrorKind::Permission);
    assert_eq!(kind(&Options { database: Some("nowhere".into()), ..o.clone() }).await, ErrorKind::NotFound);
    assert_eq!(kind(&Options { port: 1, ..o.clone() }).await, ErrorKind::SourceUnavailable);
    assert_eq!(kind(&Options { host: "host.invalid".into(), ..o.clone() }).await, ErrorKind::SourceUnavailable);

    let mut c = Connection::connect(&o).await.unwrap();
    let error = c.query("SELECT * FROM information_schema.nothing_of_that_name").await.unwrap_err();
    assert!(server_error_number(&error).is_some(), "{error}");
    assert!(error.line().contains("nothing_of_that_name"), "{error}");
    c.set_read_timeout(Duration::from_millis(200));
    assert_eq!(c.query("SELECT SLEEP(2)").await.unwrap_err().kind, ErrorKind::SourceUnavailable);
    assert_eq!(c.query("SELECT 1").await.unwrap_err().kind, ErrorKind::Internal);
}

#[tokio::test]
async fn large_results_and_payloads_beyond_16_mib() {
    for o in servers("large_results_and_payloads_beyond_16_mib") {
        large_results_and_payloads_beyond_16_mib_on(o).await;
    }
}

async fn large_results_and_payloads_beyond_16_mib_on(o: Options) {
    let mut c = Connection::connect(&o).await.unwrap();
    c.execute("SET SESSION group_concat_max_len = 1000000").await.unwrap();
    let allowed: u64 = c.query("SELECT @@max_allowed_packet").await.unwrap()[0].number(0).unwrap();
    for size in [0xFF_FFFF - 10, 0xFF_FFFF - 4, 0xFF_FFFF, 20_000_000, 40_000_000] {
        if size >= allowed {
            continue;
        }
        let rows = c.query(&format!("SELECT REPEAT('x', {size}), 'end'")).await.unwrap();
        assert_eq!(rows[0].values[0].as_ref().map(Vec::len), Some(size as usize));
        assert_eq!(rows[0].get_str(1), Some("end"));
    }
    let digits = "(SELECT 0 d UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4 UNION ALL \
        SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)";
    let sql = format!(
        "SELECT a.d, b.d, c.d, d.d, e.d, REPEAT('y', a.d * 20) FROM {digits} a, {digits} b, {digits} c, {digits} d, {digits} e"
    );
    let mut rows = c.stream(&sql).await.unwrap();
    assert_eq!(rows.columns().len(), 6);
    let (mut count, mut sum) = (0, 0);
    loop {
        let Some(row) = rows.next().await.unwrap() else { break };
        let mut add = |row: &[u8]| {
            count += 1;
            sum += Fields::of(row).map(|f| f.unwrap().len()).sum::<usize>();
        };
        add(row);
        while let Some(row) = rows.buffered().unwrap() {
            add(row);
        }
    }
    assert_eq!((count, sum), (100_000, 500_000 + 100_000 * 90));
    assert_eq!(c.query("SELECT 2").await.unwrap()[0].get_str(0), Some("2"));
}
