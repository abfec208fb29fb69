//! A sink for looking at changes: one JSON object a line, in files (`file:///path/to/folder`) or on the standard
//! output (`-`). `<database>.<table>.jsonl` holds a table's changes in order, `_ddl.sql` the statements, `_index.jsonl`
//! one line per label with the lengths that the files had then. That line is what makes a flush count: on opening,
//! whatever lies behind the last complete one is cut off, so a flush is there as a whole or not at all.

mod json;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use freshet_core::datatype::Doris;
use freshet_core::error::io_error;
use freshet_core::{
    BatchStream, Check, Error, Finding, Flush, Intent, KeyRange, Label, Purpose, Result, Settled, Sink, Statement,
    TableChange, TableName, TablePattern, TableSchema, Verdict, ddl,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

const INDEX: &str = "_index.jsonl";
const STATEMENTS: &str = "_ddl.sql";
/// So many labels are remembered: far more than one job can have in doubt.
const LABELS: usize = 10_000;
/// The longest line of the index that is read.
const LINE_BYTES: u64 = 1 << 20;
/// What a file's name keeps of a table's.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');

/// Changes as lines of JSON.
pub struct FileSink {
    target: Target,
}

enum Target {
    Output,
    Folder(Arc<Mutex<Folder>>),
}

impl FileSink {
    /// From its URL: `-`, or `file:///path/to/folder`, which is created.
    ///
    /// # Errors
    /// `Config` for anything else, `Io`, and `Corrupt` when a file is shorter than the index says.
    pub fn open(url: &str) -> Result<FileSink> {
        if url == "-" {
            return Ok(FileSink { target: Target::Output });
        }
        let path = url.strip_prefix("file://").filter(|p| !p.is_empty()).ok_or_else(|| {
            Error::config("not the URL of a folder").with("url", url).hint("write file:///path/to/folder, or -")
        })?;
        let path = percent_decode_str(path)
            .decode_utf8()
            .map_err(|e| Error::config("the path is not UTF-8").with("url", url).because(e))?;
        let folder = Folder::open(Path::new(path.as_ref()))?;
        Ok(FileSink { target: Target::Folder(Arc::new(Mutex::new(folder))) })
    }

    /// Does something with the folder on a thread where waiting for the disk harms nobody.
    async fn folder<T: Send + 'static>(
        folder: &Arc<Mutex<Folder>>,
        act: impl FnOnce(&mut Folder) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let folder = Arc::clone(folder);
        let task = move || act(&mut folder.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(task).await.map_err(|e| Error::internal("writing has ended").because(e))?
    }
}

#[async_trait]
impl Check for FileSink {
    async fn check(&self, _tables: &TablePattern) -> Vec<Finding> {
        vec![match &self.target {
            Target::Output => Finding::new(
                "standard output",
                Verdict::Warning,
                "remembers nothing: after a restart some changes appear again",
            ),
            Target::Folder(folder) => {
                let path = folder.lock().unwrap_or_else(PoisonError::into_inner).path.display().to_string();
                Finding::new("folder", Verdict::Ok, format!("{path} can be written"))
            }
        }]
    }
}

#[async_trait]
impl Sink for FileSink {
    fn plan(&self, target: &TableName, change: &TableChange, after: Option<&TableSchema>) -> Result<Vec<Statement>> {
        ddl::doris::plan(Doris::Cluster, target, change, after)
    }

    async fn apply(&self, label: &Label, statement: &Statement) -> Result<()> {
        let text = format!("{statement};\n");
        match &self.target {
            Target::Output => print(&json::statement(statement, label)),
            Target::Folder(folder) => {
                let label = label.clone();
                FileSink::folder(folder, move |f| f.append(&label, vec![(STATEMENTS.into(), text)])).await
            }
        }
    }

    async fn write(&self, flush: Flush) -> Result<()> {
        let mut texts = Vec::with_capacity(flush.loads.len());
        for load in &flush.loads {
            let mut text = String::new();
            json::changes(&load.target, &load.rows, &flush.label, &mut text)?;
            texts.push((file_name(&load.target), text));
        }
        match &self.target {
            Target::Output => texts.iter().try_for_each(|(_, text)| print(text)),
            Target::Folder(folder) => {
                let again = flush.purpose == Purpose::Copy;
                FileSink::folder(folder, move |f| {
                    if again {
                        f.forget(&flush.label);
                    }
                    f.append(&flush.label, texts)
                })
                .await
            }
        }
    }

    async fn settle(&self, label: &Label, _intent: Option<&Intent>) -> Result<Settled> {
        let Target::Folder(folder) = &self.target else { return Ok(Settled::NotDone) };
        let label = label.clone();
        // A late write holds the lock that this waits for.
        FileSink::folder(folder, move |f| Ok(if f.knows(&label) { Settled::Done } else { Settled::NotDone })).await
    }

    async fn rows(&self, target: &TableName, _: &Arc<TableSchema>, _: &KeyRange) -> Result<Box<dyn BatchStream>> {
        Err(Error::unsupported("files of changes cannot be compared with a source")
            .with("table", target)
            .hint("sync into the embedded warehouse to use verify: leave SINK out"))
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Error::io("cannot write to the standard output").because(e))
}

fn file_name(table: &TableName) -> String {
    let part = |s: &str| utf8_percent_encode(s, KEPT).to_string();
    format!("{}.{}.jsonl", part(&table.database), part(&table.table))
}

/// A line of the index: a label, and how long the files that it wrote to were afterwards.
#[derive(Serialize, Deserialize)]
struct Entry {
    label: Label,
    files: BTreeMap<String, u64>,
}

struct Folder {
    path: PathBuf,
    index: File,
    index_length: u64,
    /// Length of each file, up to the last label.
    lengths: BTreeMap<String, u64>,
    order: VecDeque<Label>,
    labels: HashSet<Label>,
}

impl Folder {
    fn open(path: &Path) -> Result<Folder> {
        std::fs::create_dir_all(path).map_err(|e| io_error(path, "create the folder", e))?;
        let at = path.join(INDEX);
        let failed = |e| io_error(&at, "open the index of labels", e);
        let options = || OpenOptions::new().create(true).read(true).append(true).to_owned();
        let index = options().open(&at).map_err(failed)?;
        let mut folder = Folder {
            path: path.to_path_buf(),
            index_length: 0,
            lengths: BTreeMap::new(),
            order: VecDeque::new(),
            labels: HashSet::new(),
            index: options().open(&at).map_err(failed)?,
        };
        folder.read_index(&mut BufReader::new(index)).map_err(failed)?;
        folder.index.set_len(folder.index_length).map_err(failed)?;
        folder.cut()?;
        Ok(folder)
    }

    /// Reads entries up to the first line that is none: the end of a write that was cut short.
    fn read_index(&mut self, index: &mut impl BufRead) -> std::io::Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            let length = std::io::Read::take(&mut *index, LINE_BYTES).read_line(&mut line);
            let length = match length {
                Err(e) if e.kind() == std::io::ErrorKind::InvalidData => return Ok(()),
                other => other?,
            };
            let Ok(entry) = serde_json::from_str::<Entry>(&line) else { return Ok(()) };
            if !line.ends_with('\n') {
                return Ok(());
            }
            self.index_length += length as u64;
            self.lengths.extend(entry.files);
            self.remember(entry.label);
        }
    }

    /// Cuts every file to the length that the index knows.
    fn cut(&self) -> Result<()> {
        let listing = std::fs::read_dir(&self.path).map_err(|e| io_error(&self.path, "list the folder", e))?;
        let mut found = BTreeMap::new();
        for entry in listing.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != INDEX && (name.ends_with(".jsonl") || name == STATEMENTS) {
                let length = entry.metadata().map_err(|e| io_error(&entry.path(), "read the file's length", e))?.len();
                found.insert(name, length);
            }
        }
        for (name, wanted) in &self.lengths {
            let length = found.get(name).copied().unwrap_or(0);
            if length < *wanted {
                return Err(Error::corrupt(format!("the file has {length} bytes, the index knows of {wanted}"))
                    .with("path", self.path.join(name).display())
                    .hint("sync into another folder, or delete this one and sync again"));
            }
        }
        for (name, length) in found {
            let wanted = self.lengths.get(&name).copied().unwrap_or(0);
            if length > wanted {
                let path = self.path.join(&name);
                let file = OpenOptions::new().write(true).open(&path);
                file.and_then(|f| f.set_len(wanted)).map_err(|e| io_error(&path, "cut the file", e))?;
            }
        }
        Ok(())
    }

    fn remember(&mut self, label: Label) {
        if self.labels.insert(label.clone()) {
            self.order.push_back(label);
        }
        while self.order.len() > LABELS {
            if let Some(old) = self.order.pop_front() {
                self.labels.remove(&old);
            }
        }
    }

    fn knows(&self, label: &Label) -> bool {
        self.labels.contains(label)
    }

    fn forget(&mut self, label: &Label) {
        if self.labels.remove(label) {
            self.order.retain(|l| l != label);
        }
    }

    /// Appends texts to files, all or none, once per label.
    fn append(&mut self, label: &Label, texts: Vec<(String, String)>) -> Result<()> {
        if self.knows(label) {
            return Ok(());
        }
        // What a failed attempt left behind goes first.
        self.cut()?;
        let mut files = BTreeMap::new();
        for (name, text) in texts {
            let path = self.path.join(&name);
            let file = OpenOptions::new().create(true).append(true).open(&path);
            file.and_then(|mut f| {
                f.write_all(text.as_bytes())?;
                f.sync_all()
            })
            .map_err(|e| io_error(&path, "append the changes", e))?;
            let before = files.get(&name).or_else(|| self.lengths.get(&name)).copied().unwrap_or(0);
            files.insert(name, before + text.len() as u64);
        }
        let entry = Entry { label: label.clone(), files };
        let mut line = serde_json::to_string(&entry).map_err(|e| Error::internal("cannot write a label").because(e))?;
        line.push('\n');
        let at = self.path.join(INDEX);
        let failed = |e| io_error(&at, "append to the index of labels", e);
        self.index.set_len(self.index_length).map_err(failed)?;
        self.index.write_all(line.as_bytes()).and_then(|()| self.index.sync_all()).map_err(failed)?;
        let folder = File::open(&self.path).and_then(|f| f.sync_all());
        folder.map_err(|e| io_error(&self.path, "make the new files durable", e))?;
        self.index_length += line.len() as u64;
        self.lengths.extend(entry.files);
        self.remember(entry.label);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
