//! The cache of what is slow to get: downloaded servers and freshly initialised data folders. It lies outside of the
//! checkout, so that a second clone shares it: `$FRESHET_CACHE`, or else `freshet` in the user's cache folder. What is
//! in it can be deleted at any time while no server is starting.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Result;

/// The cache folder, created.
pub(crate) fn dir() -> Result<PathBuf> {
    let dir = std::env::var_os("FRESHET_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("freshet")
    });
    fs::create_dir_all(&dir).map_err(|e| format!("cannot create the cache folder {}: {e}", dir.display()))?;
    Ok(dir)
}

/// The folder `name` of the cache; if it isn't there, `make` fills a temporary one that then takes its place in one
/// step. Of two processes that make it at the same time one wins, and both use that.
pub(crate) fn folder(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let wanted = dir()?.join(name);
    if wanted.is_dir() {
        return Ok(wanted);
    }
    let parent = wanted.parent().unwrap_or(&wanted).to_path_buf();
    fs::create_dir_all(&parent).map_err(|e| format!("cannot create {}: {e}", parent.display()))?;
    let making = tempfile::Builder::new()
        .prefix(".making-")
        .tempdir_in(&parent)
        .map_err(|e| format!("cannot create a folder in {}: {e}", parent.display()))?;
    let content = making.path().join("content");
    fs::create_dir(&content).map_err(|e| format!("cannot create {}: {e}", content.display()))?;
    make(&content)?;
    match fs::rename(&content, &wanted) {
        Ok(()) => Ok(wanted),
        Err(_) if wanted.is_dir() => Ok(wanted),
        Err(e) => Err(format!("cannot put {} in place: {e}", wanted.display())),
    }
}
