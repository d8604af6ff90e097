//! Owns: noticing that files have changed, from their metadata.
//! Invariant: a change has settled once two looks in a row find the same.
//! Must not know: what the files contain, who reads them, or when to look.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The identity of a file: another file at the same path has another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Identifies the file at `path`, behind any symbolic link. `None` if there is none, or it is not accessible.
    pub fn at(path: &Path) -> Option<FileId> {
        std::fs::metadata(path).ok().map(|known| FileId::of(&known))
    }

    /// Identifies the file that has this metadata.
    pub fn of(metadata: &Metadata) -> FileId {
        FileId { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// The metadata that differs after any change: the file was written, replaced, renamed into place, or a symbolic link
/// to it leads elsewhere. Times are seconds and nanoseconds. The time of the last change of metadata counts too, since
/// `cp -p` and `rsync` set the time of modification to an old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    id: FileId,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    fn at(path: &Path) -> Option<FileStamp> {
        let known = std::fs::metadata(path).ok()?;
        Some(FileStamp {
            id: FileId::of(&known),
            length: known.len(),
            modified: (known.mtime(), known.mtime_nsec()),
            changed: (known.ctime(), known.ctime_nsec()),
        })
    }
}

/// The metadata of all watched files at one look; `None` for a file that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamps(Vec<Option<FileStamp>>);

/// The result of a look at the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileChange {
    /// This is the first look.
    First,
    /// The files differ from the last look: another process may still be writing them.
    Changing,
    /// The files are the same as at the last look, which was the first or found a change. If you read them after that
    /// look, read them again: the clock of a file system is too coarse to tell two changes in quick succession apart.
    Settled,
    /// The files are the same as at the last two looks.
    Unchanged,
}

/// Compares files with what they were at the last look.
///
/// Polling is cheaper than being notified (inotify) and misses nothing: neither a file that is renamed into place, nor
/// a symbolic link that is turned (Kubernetes), nor a change on a network's disk, and there is nothing to set up again
/// when a folder is replaced.
#[derive(Debug)]
pub struct FileWatcher {
    paths: Vec<PathBuf>,
    last: Option<Stamps>,
    is_settled: bool,
}

impl FileWatcher {
    /// Watches the files at `paths`. Reads nothing yet.
    pub fn new(paths: Vec<PathBuf>) -> FileWatcher {
        FileWatcher { paths, last: None, is_settled: false }
    }

    /// Looks at the files. Blocks for as long as the file system takes.
    pub fn look(&mut self) -> FileChange {
        let stamps = self.paths.iter().map(|path| FileStamp::at(path)).collect();
        self.compare(Stamps(stamps))
    }

    /// Returns the metadata that the last look found; `None` before the first look.
    pub fn stamps(&self) -> Option<&Stamps> {
        self.last.as_ref()
    }

    fn compare(&mut self, stamps: Stamps) -> FileChange {
        let change = match &self.last {
            None => FileChange::First,
            Some(last) if *last != stamps => FileChange::Changing,
            Some(_) if !self.is_settled => FileChange::Settled,
            Some(_) => FileChange::Unchanged,
        };
        self.is_settled = matches!(change, FileChange::Settled | FileChange::Unchanged);
        self.last = Some(stamps);
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(length: u64) -> Stamps {
        let id = FileId { device: 1, inode: 1 };
        Stamps(vec![Some(FileStamp { id, length, modified: (0, 0), changed: (0, 0) })])
    }

    fn stamp(path: &Path) -> FileStamp {
        FileStamp::at(path).unwrap()
    }

    /// Does this until the clock of the file system shows that it did: that clock is coarse.
    fn until_changed(path: &Path, change: impl Fn()) {
        let before = stamp(path).changed;
        for _ in 0..10_000 {
            change();
            if stamp(path).changed != before {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("the time of the last change stays {before:?}");
    }

    #[test]
    fn a_change_settles_when_two_looks_in_a_row_find_the_same() {
        use FileChange::{Changing, First, Settled, Unchanged};
        let gone = || Stamps(vec![None]);
        let looks = [seen(1), seen(1), seen(1), seen(2), seen(3), seen(3), gone(), gone(), gone()];
        let mut watcher = FileWatcher::new(Vec::new());
        let changes = looks.map(|stamps| watcher.compare(stamps));
        assert_eq!(changes, [First, Settled, Unchanged, Changing, Changing, Settled, Changing, Settled, Unchanged]);
    }

    /// One of them is always enough, but file systems differ in which.
    #[test]
    fn each_part_of_the_metadata_tells_of_a_change() {
        let FileStamp { id, .. } = seen(1).0[0].unwrap();
        let first = FileStamp { id, length: 1, modified: (1, 1), changed: (1, 1) };
        for other in [
            FileStamp { id: FileId { device: 2, ..id }, ..first },
            FileStamp { id: FileId { inode: 2, ..id }, ..first },
            FileStamp { length: 2, ..first },
            FileStamp { modified: (1, 2), ..first },
            FileStamp { changed: (1, 2), ..first },
        ] {
            let mut watcher = FileWatcher::new(Vec::new());
            watcher.compare(Stamps(vec![Some(first)]));
            assert_eq!(watcher.compare(Stamps(vec![Some(other)])), FileChange::Changing, "{other:?}");
        }
        // And each is read from the file.
        let path = std::env::temp_dir().join(format!("linchpin-stamp-{}", std::process::id()));
        std::fs::write(&path, "22").unwrap();
        let (known, read) = (std::fs::metadata(&path).unwrap(), stamp(&path));
        std::fs::remove_file(&path).unwrap();
        assert_eq!((read.id.device, read.id.inode, read.length), (known.dev(), known.ino(), 2));
        assert_eq!(read.modified, (known.mtime(), known.mtime_nsec()));
        assert_eq!(read.changed, (known.ctime(), known.ctime_nsec()));
    }

    #[test]
    fn a_file_that_is_written_replaced_linked_elsewhere_or_removed_has_changed() {
        let folder = std::env::temp_dir().join(format!("linchpin-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [one, other, link] = ["one", "other", "link"].map(|name| folder.join(name));
        let point_to = |path: &Path| {
            let new = folder.join("new");
            std::os::unix::fs::symlink(path, &new).unwrap();
            std::fs::rename(&new, &link).unwrap();
        };
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&other, "1").unwrap();
        point_to(&one);
        let mut watcher = FileWatcher::new(vec![link.clone()]);
        let mut settle = |what: &str, expected: FileChange| {
            assert_eq!(watcher.look(), expected, "{what}");
            assert_eq!(watcher.look(), FileChange::Settled, "{what}");
            assert_eq!(watcher.look(), FileChange::Unchanged, "{what}");
        };
        settle("first", FileChange::First);
        std::fs::write(&one, "22").unwrap();
        settle("written", FileChange::Changing);
        // As `cp -p` does, which restores the time of modification.
        let times = std::fs::FileTimes::new().set_modified(std::fs::metadata(&one).unwrap().modified().unwrap());
        let before = stamp(&one);
        until_changed(&one, || {
            std::fs::write(&one, "33").unwrap();
            std::fs::File::options().write(true).open(&one).unwrap().set_times(times).unwrap();
        });
        assert_eq!(FileStamp { changed: before.changed, ..stamp(&one) }, before, "only that time differs");
        settle("written, with an old time", FileChange::Changing);
        std::fs::write(folder.join("new"), "22").unwrap();
        std::fs::rename(folder.join("new"), &one).unwrap();
        settle("replaced", FileChange::Changing);
        point_to(&other);
        settle("linked elsewhere", FileChange::Changing);
        std::fs::remove_file(&other).unwrap();
        settle("removed", FileChange::Changing);
        assert_eq!(FileId::at(&link), None);
        assert_eq!(FileId::at(&one), Some(FileId::of(&std::fs::File::open(&one).unwrap().metadata().unwrap())));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
