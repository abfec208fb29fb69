//! Removes the files of segments that nobody uses any more, on a thread of its own: a file system takes a tenth of a
//! second for those of a large table, and whoever happens to use one last, the thread that publishes new versions above
//! all, has others waiting.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::segment::remove_files;

enum Order {
    Remove(PathBuf, u64),
    End,
}

/// Takes orders; cheap to clone.
#[derive(Clone)]
pub(crate) struct Remover(Sender<Order>);

/// What is ordered.
pub(crate) struct Orders(Receiver<Order>);

impl Remover {
    pub(crate) fn new() -> (Remover, Orders) {
        let (sender, receiver) = channel();
        (Remover(sender), Orders(receiver))
    }

    /// Removes a segment's files in that directory: soon, or at once when nobody takes orders.
    pub(crate) fn remove(&self, dir: &Path, segment: u64) {
        if self.0.send(Order::Remove(dir.to_path_buf(), segment)).is_err() {
            remove_files(dir, segment);
        }
    }

    /// Lets the thread end when it has done what was ordered before.
    pub(crate) fn end(&self) {
        // It may have ended.
        let _ = self.0.send(Order::End);
    }
}

impl Orders {
    /// Does as ordered, until the end.
    pub(crate) fn carry_out(self) {
        while let Ok(Order::Remove(dir, segment)) = self.0.recv() {
            remove_files(&dir, segment);
        }
    }
}
