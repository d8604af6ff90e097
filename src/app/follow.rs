//! Owns: `watch = true`: asking for a reload when the configuration file, or a file that it names, has changed.
//! Invariant: a file that is still being written is left alone; there is one look at a time, however slow the disk.
//! Must not know: what a reload does, or what the files contain.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

use crate::admin::{Actor, Reloader};
use crate::config::{self, Origin};
use crate::files::watch::{FileChange, FileWatcher};

/// The time between two looks. A change is settled, and applied, after two looks that find the same.
const INTERVAL: Duration = Duration::from_millis(500);

/// Follows the file of this configuration for as long as this is polled.
pub(super) async fn follow(origin: &Origin, reloader: Reloader) {
    let mut files = FollowedFiles::new(origin.path.clone(), origin.files.clone());
    loop {
        let looking = tokio::task::spawn_blocking(move || {
            let has_settled = files.look();
            (files, has_settled)
        });
        // An error means that the runtime is shutting down.
        let Ok((looked_at, has_settled)) = looking.await else { return };
        files = looked_at;
        if has_settled {
            // Its outcome is logged. A broken file changes nothing, and is read again when any of the files changes.
            reloader.reload(Actor::Watch, false).await;
        }
        sleep(INTERVAL).await;
    }
}

/// The configuration file and the files that it names, in its latest state: a file that is refused since one of them is
/// missing is accepted as soon as that appears.
struct FollowedFiles {
    path: PathBuf,
    named: Vec<PathBuf>,
    watcher: FileWatcher,
}

impl FollowedFiles {
    fn new(path: PathBuf, named: Vec<PathBuf>) -> FollowedFiles {
        let all = std::iter::once(path.clone()).chain(named.iter().cloned()).collect();
        FollowedFiles { path, named, watcher: FileWatcher::new(all) }
    }

    /// Looks at the files. Returns whether a change has settled. Blocks.
    fn look(&mut self) -> bool {
        let has_settled = self.watcher.look() == FileChange::Settled;
        if has_settled {
            let named = config::input_files(&self.path);
            if named != self.named {
                // Its first two looks are a change that settles: they cover what happened to these files until now.
                *self = FollowedFiles::new(self.path.clone(), named);
            }
        }
        has_settled
    }
}
