//! What people ask of a running job, at random instants: copy a table again, pause and go on, prove equality.

use std::time::Duration;

use fastrand::Rng;
use freshet_tests::freshet::{Request, escape};
use freshet_tests::shape::tables;

use crate::Scene;
use crate::ddl::OUTSIDE;

/// No request may take longer, whatever happens to the process that it asks.
const LIMIT: Duration = Duration::from_secs(150);

/// Asks until the round is over; every answer counts, none is a failure by itself, because the process may be killed
/// meanwhile. A request without an end is one.
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
            "verify" => vec!["verify".into(), "job".into(), "--sample".into(), "3".into()],
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
    Ok(())
}
