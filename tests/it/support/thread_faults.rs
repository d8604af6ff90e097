//! Worker threads that fail or hang: a library below the process under test stands between its threads and the kernel.

use std::process::Stdio;

use super::process::Running;
use super::tool::{Folder, run};

/// For a thread with a file of its name in the folder `FAULTS`, `epoll_wait` fails, which no event loop survives; or it
/// returns once the file is gone.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

static int is_there(const char *fault) {
    char name[16] = "", path[4096];
    pthread_getname_np(pthread_self(), name, sizeof name);
    snprintf(path, sizeof path, "%s/%s.%s", getenv("FAULTS"), name, fault);
    return access(path, F_OK) == 0;
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout) {
    int (*kernel)(int, struct epoll_event *, int, int) = dlsym(RTLD_NEXT, "epoll_wait");
    if (is_there("fails")) {
        errno = EINVAL;
        return -1;
    }
    while (is_there("hangs"))
        usleep(10000);
    return kernel(epoll, events, most, timeout);
}
"#;

/// What goes wrong in the threads of a process.
pub struct ThreadFaults(Folder);

impl ThreadFaults {
    pub async fn new() -> ThreadFaults {
        let folder = Folder::new();
        let (source, library) = (folder.write("faults.c", LIBRARY.as_bytes()), folder.file("faults.so"));
        run("cc", &["-shared", "-fPIC", "-o", &library, &source]).await;
        ThreadFaults(folder)
    }

    /// Returns the words before those of a process whose threads are to fail.
    pub fn words(&self) -> [String; 3] {
        let (folder, library) = (self.0.file(""), self.0.file("faults.so"));
        ["env".into(), format!("LD_PRELOAD={library}"), format!("FAULTS={folder}")]
    }

    /// Starts a Linchpin with this configuration, which it writes to the file at `path`.
    pub async fn start(&self, path: &str, text: &str) -> Running {
        let words = self.words();
        Running::start_by(&words.each_ref().map(String::as_str), path, text, Stdio::null()).await
    }

    /// Has the event loop of a thread fail.
    pub fn fail(&self, thread: usize) {
        self.0.write(&format!("worker-{thread}.fails"), b"");
    }

    /// Has the event loop of a thread hang.
    pub fn hang(&self, thread: usize) {
        self.0.write(&format!("worker-{thread}.hangs"), b"");
    }

    /// Has the event loop of a thread go on.
    pub fn go_on(&self, thread: usize) {
        std::fs::remove_file(self.0.file(&format!("worker-{thread}.hangs"))).unwrap();
    }
}
