//! Where queries run: on threads of their own, started by the first query, so that their blocking reads and long
//! computations hold up neither the connections nor the engine nor commits. A query that nobody waits for any more is
//! cancelled.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use freshet_core::{Error, Result};
use futures::StreamExt;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::RowStream;

/// Batches that a query may be ahead of its reader.
const AHEAD: usize = 2;

/// The threads of all queries of one warehouse.
pub(crate) struct Threads {
    count: usize,
    runtime: Mutex<Option<Runtime>>,
}

impl Threads {
    pub(crate) fn new(count: usize) -> Self {
        Threads { count: count.max(1), runtime: Mutex::default() }
    }

    fn handle(&self) -> Result<Handle> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = &*runtime {
            return Ok(runtime.handle().clone());
        }
        let new = Builder::new_multi_thread().worker_threads(self.count).thread_name("query").enable_time().build();
        let new = new.map_err(|e| Error::io("cannot start the threads of queries").because(e))?;
        Ok(runtime.insert(new).handle().clone())
    }

    /// Runs `start` and then its stream there. The rows come through a short queue; dropping them ends the work.
    ///
    /// # Errors
    /// Those of `start`; those of the stream come in the answer's.
    pub(crate) async fn run<F>(&self, start: F) -> Result<(SchemaRef, RowStream)>
    where
        F: Future<Output = Result<(SchemaRef, RowStream)>> + Send + 'static,
    {
        let (started, schema) = oneshot::channel();
        let (rows, queue) = mpsc::channel::<Result<RecordBatch>>(AHEAD);
        let mut task = JoinSet::new();
        task.spawn_on(
            async move {
                let mut stream = match start.await {
                    Ok((schema, stream)) => {
                        let _ = started.send(Ok(schema));
                        stream
                    }
                    Err(e) => return drop(started.send(Err(e))),
                };
                while let Some(batch) = stream.next().await {
                    let failed = batch.is_err();
                    if rows.send(batch).await.is_err() || failed {
                        break;
                    }
                }
            },
            &self.handle()?,
        );
        let schema = match schema.await {
            Ok(schema) => schema?,
            Err(_) => return Err(died(&mut task).await.unwrap_or_else(|| Error::internal("a query ended early"))),
        };
        let stream = futures::stream::unfold((queue, task), |(mut queue, mut task)| async move {
            let next = match queue.recv().await {
                Some(batch) => Some(batch),
                // The end of the rows, or of the thread's luck.
                None => died(&mut task).await.map(Err),
            };
            next.map(|batch| (batch, (queue, task)))
        });
        Ok((schema, stream.boxed()))
    }
}

/// The panic that has ended the task, if one has.
async fn died(task: &mut JoinSet<()>) -> Option<Error> {
    let error = task.join_next().await?.err()?;
    Some(Error::internal("a query failed").because(error))
}

impl Drop for Threads {
    fn drop(&mut self) {
        let runtime = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = runtime.take() {
            // Waiting is not allowed where this may be called.
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;
    use std::time::Duration;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]))
    }

    fn batch() -> RecordBatch {
        RecordBatch::new_empty(schema())
    }

    #[tokio::test]
    async fn work_runs_elsewhere_and_ends_when_nobody_waits() {
        let threads = Threads::new(1);
        let (dropped, gone) = oneshot::channel::<()>();
        let start = async move {
            let name = std::thread::current().name().unwrap_or_default().to_string();
            assert_eq!(name, "query");
            let endless = futures::stream::unfold(dropped, |d| async move { Some((Ok(batch()), d)) });
            Ok((schema(), endless.boxed()))
        };
        let (_, mut rows) = threads.run(start).await.unwrap();
        assert!(rows.next().await.unwrap().is_ok());
        drop(rows);
        let ended = tokio::time::timeout(Duration::from_secs(10), gone).await;
        assert!(ended.unwrap().is_err(), "the work goes on");
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_not_the_end_of_the_rows() {
        let threads = Threads::new(1);
        let broken = async { Ok((schema(), futures::stream::poll_fn(|_| panic!("as wished")).boxed())) };
        let (_, mut rows) = threads.run(broken).await.unwrap();
        let error = rows.next().await.unwrap().unwrap_err();
        assert!(error.line().contains("as wished"), "{error}");
        assert!(rows.next().await.is_none());
    }
}
