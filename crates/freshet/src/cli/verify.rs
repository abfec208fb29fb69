//! `verify`: whether source and target are equal, while changes flow.

use std::sync::Arc;

use freshet_core::engine::Engine;
use freshet_core::{Error, Result};
use serde_json::{Value, json};

use super::args::Verify;
use crate::node::Asked;
use crate::render::{Printer, Reply, Style};

pub(super) async fn run(args: &Verify, asked: &Asked<'_>, printer: &Printer) -> Result<Reply> {
    let report = asked.running("verify", json!({ "job": args.job, "tables": args.tables }), &mut |_| {}).await?;
    printer.data(&text(&report, printer.data_style));
    Ok(Reply::of(report))
}

pub(crate) async fn in_process(
    _engine: &Arc<Engine>,
    job: &str,
    _tables: Option<&str>,
    _progress: &mut (dyn FnMut(Value) + Send),
) -> Result<Value> {
    Err(Error::unsupported("verify").with("job", job))
}

pub(super) fn text(report: &Value, _style: Style) -> String {
    report.to_string()
}
