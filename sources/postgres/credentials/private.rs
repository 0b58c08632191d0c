//! Files that nobody else may read.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Refuses a file that others may read, by libpq's rule for keys: one of root's may be read by its group.
fn judge(path: &Path, found: &Metadata) -> io::Result<()> {
    let (forbidden, right) = if found.uid() == 0 { (0o027, "0640") } else { (0o077, "0600") };
    if found.is_file() && found.mode() & forbidden != 0 {
        let path = path.display();
        return Err(io::Error::other(format!("others may read it: chmod {right} {path}, or less")));
    }
    Ok(())
}

/// A private file's text, of at most `most` bytes.
pub(crate) fn read_private(path: &Path, most: u64) -> io::Result<String> {
    let file = File::open(path)?;
    judge(path, &file.metadata()?)?;
    limited(file, most)
}

/// A file's text, of at most `most` bytes.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    limited(File::open(path)?, most)
}

fn limited(file: File, most: u64) -> io::Result<String> {
    let mut text = String::new();
    file.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::other(format!("it has more than {most} bytes")));
    }
    Ok(text)
}
