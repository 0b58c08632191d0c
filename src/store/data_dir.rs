//! The data directory: closed to others, used by one process.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use super::StoreError;

pub(super) const LOCK_FILE: &str = "rowtide.lock";
pub(super) const DATABASE_FILE: &str = "rowtide.sqlite";

/// Nobody but the owner may look: dead letters hold documents.
const MODE: u32 = 0o700;
const OTHERS: u32 = 0o077;
const STICKY: u32 = 0o1000;

/// A data directory that is ours as long as this is held.
pub(super) struct Lock {
    // The system lets go of the lock when the file is closed, however the process ends.
    _file: File,
}

/// Makes the directory if need be, closes it to others and takes its lock.
pub(super) fn take(path: &Path) -> Result<Lock, StoreError> {
    let failed = |what: String, fix: &str| StoreError::DataDir {
        path: path.display().to_string(),
        what,
        fix: fix.to_owned(),
    };
    if !path.exists() {
        let made = DirBuilder::new().recursive(true).mode(MODE).create(path);
        made.map_err(|error| {
            failed(format!("cannot be made: {error}"), "make it, or choose another data_dir")
        })?;
    }
    close_to_others(path)?;
    let file = path.join(LOCK_FILE);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&file);
    let mut file = opened.map_err(|error| {
        failed(format!("{LOCK_FILE} cannot be opened: {error}"), "let this user write there")
    })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::Locked { path: path.display().to_string(), holder: holder(&mut file) });
        }
        Err(TryLockError::Error(error)) => {
            let fix = "put it on a file system with locks";
            return Err(failed(format!("{LOCK_FILE} cannot be locked: {error}"), fix));
        }
    }
    let noted = file.set_len(0).and_then(|()| file.rewind());
    let noted = noted.and_then(|()| writeln!(file, "{}", std::process::id()));
    noted.map_err(|error| {
        failed(format!("cannot be written: {error}"), "make room, or let this user write")
    })?;
    Ok(Lock { _file: file })
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!("pid {}", text.trim()),
        _ => "pid unknown".to_owned(),
    }
}

/// A directory that Rowtide made, or an empty one, is closed; one that others use is refused, since
/// closing it could break them.
fn close_to_others(path: &Path) -> Result<(), StoreError> {
    let failed = |what: String| StoreError::DataDir {
        path: path.display().to_string(),
        what,
        fix: format!("choose a directory of its own, or: chmod 700 '{}'", path.display()),
    };
    let metadata =
        std::fs::metadata(path).map_err(|error| failed(format!("cannot be looked at: {error}")))?;
    if !metadata.is_dir() {
        return Err(failed("is no directory".to_owned()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    let is_empty = entries.take(1).count() == 0;
    let is_ours = path.join(DATABASE_FILE).exists();
    if mode & STICKY != 0 || !(is_empty || is_ours) {
        return Err(failed(format!("is open to other users (mode {mode:04o}) and in use by something else")));
    }
    std::fs::set_permissions(path, Permissions::from_mode(MODE)).map_err(|error| {
        failed(format!("is open to other users (mode {mode:04o}) and cannot be closed: {error}"))
    })
}
