//! What people ask of a running job, at random instants: copy a table again, pause and go on, prove equality.

use std::time::Duration;

use fastrand::Rng;
use freshet_tests::freshet::{Request, escape};
use freshet_tests::shape::tables;
use serde_json::Value;

use crate::Scene;
use crate::ddl::OUTSIDE;

/// No request may take longer, whatever happens to the process that it asks.
const LIMIT: Duration = Duration::from_secs(150);

/// Asks until the round is over; every answer counts. Few are a failure by themselves, because the process may be killed
/// meanwhile, and tables may be on their way or suspended: a request without an end, and rows that `verify` says differ,
/// since nobody damages the target.
pub(crate) async fn ask(scene: Scene, request: Request, mut rng: Rng) -> Result<(), String> {
    while !scene.is_over() {
        tokio::time::sleep(Duration::from_millis(rng.u64(500..5000))).await;
        let kind = ["resync", "resync", "resync", "pause", "verify", "status"][rng.usize(..6)];
        let args: Vec<String> = match kind {
            "resync" => {
                let Ok(mut conn) = scene.connect().await else { continue };
                let Ok(mut all) = tables(&mut conn, &scene.db, None).await else { continue };
                all.retain(|t| !t.name.starts_with(OUTSIDE));
                if all.is_empty() {
                    continue;
                }
                let table = &all[rng.usize(..all.len())].name;
                vec!["resync".into(), "job".into(), format!("{}.{}", escape(&scene.db), escape(table))]
            }
            "verify" => ["verify", "job", "--sample", "3", "--json"].map(String::from).to_vec(),
            kind => vec![kind.into(), "job".into()],
        };
        answer(&scene, &request, kind, &args).await?;
        if kind == "pause" {
            tokio::time::sleep(Duration::from_millis(rng.u64(0..3000))).await;
            answer(&scene, &request, "resume", &["resume".into(), "job".into()]).await?;
        }
    }
    Ok(())
}

async fn answer(scene: &Scene, request: &Request, kind: &str, args: &[String]) -> Result<(), String> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = tokio::time::timeout(LIMIT, request.run(&args)).await;
    let output = output.map_err(|_| format!("`freshet {}` has not ended after {LIMIT:?}", args.join(" ")))?;
    let outcome = format!("{kind}, exit code {}", output.code);
    let said = format!("{} {}", output.stdout.trim(), output.stderr.trim()).replace('\n', " ");
    let short: String = said.chars().take(600).collect();
    scene.journal.note("requests", &outcome, &format!("{}: {short}", args.join(" ")));
    match kind {
        "verify" => compared(scene, &output.stdout),
        _ => Ok(()),
    }
}

/// An error when tables that were compared are not equal.
fn compared(scene: &Scene, answer: &str) -> Result<(), String> {
    // The process may have been killed before it answered.
    let Ok(answer) = serde_json::from_str::<Value>(answer) else { return Ok(()) };
    let tables = answer["result"]["tables"].as_array().map_or(&[][..], Vec::as_slice);
    for table in tables {
        if table["differing"].as_u64().is_some_and(|n| n > 0) {
            return Err(format!("`freshet verify` finds differences amid changes: {table}"));
        }
        let outcome = if table["equal"] == true { "tables that are equal" } else { "tables that are not compared" };
        scene.journal.count("verified amid changes", outcome, 1);
        scene.journal.count("verified amid changes", "rows", table["rows"].as_u64().unwrap_or_default());
    }
    Ok(())
}
