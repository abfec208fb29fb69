//! Reads a stream in a task of its own, a little ahead, so that decoding and writing overlap. The channel is short:
//! a slow sink stops the reading, down to the socket.

use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::connector::{ChangeStream, Event};
use crate::error::{Error, Result};

/// Items that are read ahead.
const AHEAD: usize = 2;

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Task<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    pub(crate) fn spawn(future: impl Future<Output = T> + Send + 'static) -> Self {
        Task(tokio::spawn(future))
    }

    /// Waits for its end. Cancel-safe.
    pub(crate) async fn join(&mut self) -> Result<T> {
        (&mut self.0).await.map_err(|e| Error::internal("a task of the engine ended").because(e))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The events of a change stream, read ahead.
pub(crate) struct Reader {
    events: mpsc::Receiver<Result<Event>>,
    _task: Task<()>,
}

impl Reader {
    pub(crate) fn start(mut stream: Box<dyn ChangeStream>) -> Self {
        let (sender, events) = mpsc::channel(AHEAD);
        let task = Task::spawn(async move {
            loop {
                let event = stream.next().await;
                let failed = event.is_err();
                if sender.send(event).await.is_err() || failed {
                    return;
                }
            }
        });
        Reader { events, _task: task }
    }

    /// The next event. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Event> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The next event, if there is one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event>> {
        let ended = || Err(Error::source_unavailable("the stream of changes has ended"));
        self.events.poll_recv(cx).map(|event| event.unwrap_or_else(ended))
    }
}
