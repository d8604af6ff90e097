//! Files of keys: how they are made, and what is said of one that can't be read. It may be all that opens clients' pins.

use std::os::unix::fs::PermissionsExt;

use super::support::process::{linchpin, printed};
use super::support::tool::Folder;

const REST: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\n[[pools]]\nname = \"app\"\n[pools.health]\n\
                    [[pools.backends]]\nname = \"a\"\naddress = \"127.0.0.1:9\"\n";

fn keyed(file: &str) -> String {
    format!("[[keys]]\nid = \"1\"\nfile = \"{file}\"\n{REST}")
}

#[tokio::test]
async fn a_key_is_made_for_its_owner_alone_and_never_in_the_place_of_another() {
    let folder = Folder::new();
    let key = folder.file("linchpin.key");
    let done = linchpin(&["keygen", "-o", &key]).await;
    assert_eq!((done.status.code(), printed(&done).as_str()), (Some(0), ""));
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let file = folder.write("linchpin.toml", keyed("linchpin.key").as_bytes());
    let done = linchpin(&["check", &file]).await;
    assert!(printed(&done).ends_with("linchpin.toml: OK\n"), "{}", printed(&done));

    let before = std::fs::read(&key).unwrap();
    let dangling = folder.file("dangling");
    std::os::unix::fs::symlink(folder.file("elsewhere"), &dangling).unwrap();
    for taken in [&key, &dangling] {
        let done = linchpin(&["keygen", "--output", taken]).await;
        assert_eq!(done.status.code(), Some(1));
        assert!(printed(&done).contains("already exists and was not changed"), "{}", printed(&done));
    }
    assert_eq!(std::fs::read(&key).unwrap(), before);
    assert!(!std::path::Path::new(&folder.file("elsewhere")).exists());

    let done = linchpin(&["keygen", "-o", &folder.file("no/such/linchpin.key")]).await;
    assert!(printed(&done).contains("does not exist; create it first"), "{}", printed(&done));
    let printed = linchpin(&["keygen"]).await;
    assert_eq!((printed.status.code(), printed.stdout.len()), (Some(0), 45));
}

#[tokio::test]
async fn a_key_file_that_cannot_be_read_is_never_answered_with_a_command_that_overwrites_it() {
    let folder = Folder::new();
    std::fs::create_dir(folder.file("directory")).unwrap();
    std::os::unix::fs::symlink(folder.file("directory/loop"), folder.file("directory/loop")).unwrap();
    let long = "A".repeat(5000);
    for (name, content) in
        [("empty", ""), ("cut", "AAAA\n"), ("long", long.as_str()), ("text", "not a key, but a note")]
    {
        folder.write(name, content.as_bytes());
    }
    folder.write("bytes", &[0xff, 0xfe, 0x00]);
    folder.write("directory/file", b"");
    for name in ["empty", "cut", "long", "text", "bytes", "directory", "directory/loop", "cut/below"] {
        for text in [keyed(name), format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"{name}\"\n{REST}")] {
            if name == "cut" && text.contains("token_file") {
                continue;
            }
            let file = folder.write("linchpin.toml", text.as_bytes());
            let done = linchpin(&["check", &file]).await;
            let words = printed(&done);
            if name == "long" || name == "text" || done.status.code() == Some(1) {
                assert_eq!(done.status.code(), Some(1), "{words}");
                let overwrites =
                    words.contains("keygen >") || words.contains(&format!("keygen -o {}\n", folder.file(name)));
                assert!(!overwrites, "{name}: {words}");
            } else {
                panic!("{name}: {words}");
            }
        }
    }
    // One that is not there is made, but by a command that would spare it if it were.
    let file = folder.write("linchpin.toml", keyed("not there").as_bytes());
    let words = printed(&linchpin(&["check", &file]).await);
    let make = format!("linchpin keygen -o '{}'", folder.file("not there"));
    assert!(words.contains(&make) && words.contains("copy the file from another Linchpin"), "{words}");
}

#[tokio::test]
async fn check_and_run_take_the_file_with_and_without_an_option() {
    let folder = Folder::new();
    let file = folder.write("linchpin.toml", REST.as_bytes());
    let bad = folder.write("bad.toml", b"x = 1\n");
    for arguments in [&["check", &file][..], &["check", "-c", &file], &["check", "--config", &file]] {
        assert_eq!(linchpin(arguments).await.status.code(), Some(0), "{arguments:?}");
    }
    for arguments in [&["check", &bad][..], &["run", &bad], &["run", "-c", &bad]] {
        let done = linchpin(arguments).await;
        assert_eq!(done.status.code(), Some(1), "{arguments:?}");
        assert!(printed(&done).contains("bad.toml:1:1: error: unknown key `x`"), "{}", printed(&done));
    }
    let both = linchpin(&["check", "-c", &file, &bad]).await;
    assert_eq!(both.status.code(), Some(2), "{}", printed(&both));
}
