use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use gridkv_cluster::Timestamp;
use tempfile::TempDir;

use super::*;

const NEW: New = New { shard_count: 3, segment_bytes: 1 << 20, token_secret: [0xfe; 16] };

/// A place for a directory that is not there yet.
fn place() -> (TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data");
    (parent, path)
}

fn made() -> (TempDir, PathBuf) {
    let (parent, path) = place();
    drop(Directory::create(&path, &NEW).unwrap());
    (parent, path)
}

/// The message, which is one line.
fn refusal(result: Result<Directory, DirectoryError>) -> String {
    let message = result.unwrap_err().to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn listing(path: &Path) -> Vec<String> {
    names(path).unwrap()
}

#[test]
fn a_new_directory_holds_what_is_drawn() {
    let (_parent, path) = place();
    let directory = Directory::open_or_create(&path, &NEW).unwrap();
    let names = ["LOCK", "MANIFEST", "shard-0000", "shard-0001", "shard-0002", "snapshots"];
    assert_eq!(listing(&path), names);
    assert!(directory.is_new());
    assert_eq!(directory.shard(2), path.join("shard-0002"));
    assert_eq!(directory.snapshots(), path.join("snapshots"));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_directory_keeps_what_it_was_made_with() {
    let (_parent, path) = place();
    let id = Directory::open_or_create(&path, &NEW).unwrap().id().to_owned();
    assert_eq!(id.len(), 32);
    let other = New { shard_count: 1, segment_bytes: 2 << 20, token_secret: [1; 16] };
    for attempt in [Directory::open_or_create, |path: &Path, _: &New| Directory::open(path)] {
        let directory = attempt(&path, &other).unwrap();
        assert!(!directory.is_new());
        assert_eq!(directory.id(), id);
        let kept = New {
            shard_count: directory.shard_count(),
            segment_bytes: directory.segment_bytes(),
            token_secret: directory.token_key().secret(),
        };
        assert_eq!(kept, NEW);
    }
}

#[test]
fn every_directory_has_an_id_of_its_own() {
    let (_one, first) = made();
    let (_other, second) = made();
    let id = |path| Directory::open(path).unwrap().id().to_owned();
    assert_ne!(id(&first), id(&second));
}

#[test]
fn the_directories_above_are_made_too() {
    let (_parent, path) = place();
    let deep = path.join("a/b");
    assert!(Directory::open_or_create(&deep, &NEW).is_ok());
    assert!(Directory::open(&deep).is_ok());
}

#[test]
fn one_at_a_time_has_it() {
    let (_parent, path) = place();
    let directory = Directory::open_or_create(&path, &NEW).unwrap();
    let expected = format!(
        "{} is in use by process {}: stop it, or use another directory",
        path.display(),
        std::process::id()
    );
    assert_eq!(refusal(Directory::open(&path)), expected);
    assert_eq!(refusal(Directory::open_or_create(&path, &NEW)), expected);
    assert_eq!(refusal(Directory::create(&path, &NEW)), expected);
    drop(directory);
    Directory::open(&path).unwrap();
}

#[test]
fn another_process_is_named_and_its_end_ends_its_lock() {
    let (_parent, path) = made();
    let script =
        "exec 9<>\"$0/LOCK\"; flock 9 || exit 1; echo $$ >\"$0/LOCK\"; echo; exec sleep 60";
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(&path).stdout(std::process::Stdio::piped());
    let mut other = command.spawn().unwrap();
    let mut line = [0; 1];
    other.stdout.take().unwrap().read_exact(&mut line).unwrap();
    let message = refusal(Directory::open_or_create(&path, &NEW));
    assert!(message.contains(&format!("in use by process {}:", other.id())), "{message}");
    other.kill().unwrap();
    other.wait().unwrap();
    Directory::open_or_create(&path, &NEW).unwrap();
}

#[test]
fn a_directory_of_the_future_is_refused() {
    let (_parent, path) = made();
    let body = "format = 7\nwhatever = true\n";
    let sum = xxhash_rust::xxh3::xxh3_64(body.as_bytes());
    std::fs::write(path.join(MANIFEST), format!("{body}# xxh3 = {sum:016x}\n")).unwrap();
    let expected = "was made by a newer GridKV: format 7, this program reads 2";
    for refused in [Directory::open(&path), Directory::open_or_create(&path, &NEW)] {
        let message = refusal(refused);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_damaged_manifest_is_refused_and_left_alone() {
    let (_parent, path) = made();
    let file = path.join(MANIFEST);
    let damaged = std::fs::read_to_string(&file).unwrap().replace("shards = 3", "shards = 4");
    std::fs::write(&file, &damaged).unwrap();
    let expected = format!("{} is damaged (its checksum does not match): ", file.display());
    for refused in [Directory::open(&path), Directory::open_or_create(&path, &NEW)] {
        let message = refusal(refused);
        assert!(message.starts_with(&expected), "{message}");
    }
    assert!(refusal(Directory::create(&path, &NEW)).contains("is a GridKV directory already"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), damaged);
}

#[test]
fn nothing_is_put_among_somebody_elses_files() {
    for name in ["notes.txt", "shard-1", "shard-00000", "shard-0000x", ".hidden"] {
        let (_parent, path) = place();
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(name), "").unwrap();
        for refused in [Directory::open_or_create(&path, &NEW), Directory::create(&path, &NEW)] {
            let message = refusal(refused);
            assert!(message.contains(&format!("but holds `{name}`; use one")), "{message}");
        }
        assert!(refusal(Directory::open(&path)).contains("it has no MANIFEST"));
        assert_eq!(listing(&path), [name]);
    }
}

#[test]
fn a_shard_with_records_and_no_manifest_is_not_made_anew() {
    let (_parent, path) = made();
    std::fs::remove_file(path.join(MANIFEST)).unwrap();
    std::fs::write(path.join("shard-0001/0000000001.log"), "records").unwrap();
    let message = refusal(Directory::open_or_create(&path, &NEW));
    assert!(message.contains("but holds `shard-0001`"), "{message}");
}

#[test]
fn an_interrupted_creation_is_begun_again() {
    let steps: [&dyn Fn(&Path); 4] = [
        &|path| std::fs::remove_dir_all(path.join("shard-0001")).unwrap(),
        &|path| std::fs::remove_dir(path.join(SNAPSHOTS)).unwrap(),
        &|path| std::fs::write(path.join(MANIFEST_TMP), "format = 1\nsha").unwrap(),
        &|path| std::fs::remove_file(path.join(LOCK)).unwrap(),
    ];
    for attempt in [Directory::open_or_create, Directory::create] {
        for undo in steps {
            let (_parent, path) = made();
            std::fs::remove_file(path.join(MANIFEST)).unwrap();
            undo(&path);
            assert!(refusal(Directory::open(&path)).contains("it has no MANIFEST"));
            let directory = attempt(&path, &New { shard_count: 2, ..NEW }).unwrap();
            assert!(directory.is_new());
            let names = ["LOCK", "MANIFEST", "shard-0000", "shard-0001", "snapshots"];
            assert_eq!(listing(&path), names);
        }
    }
}

#[test]
fn the_root_of_a_file_system_counts_as_empty() {
    let (_parent, path) = place();
    std::fs::create_dir_all(path.join(LOST_AND_FOUND)).unwrap();
    assert!(Directory::open_or_create(&path, &NEW).unwrap().is_new());
    assert!(path.join(LOST_AND_FOUND).is_dir());
}

#[test]
fn a_node_may_have_an_identity_before_it_has_data() {
    let (_parent, path) = place();
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("identity.key"), "secret").unwrap();
    assert!(Directory::open_or_create(&path, &NEW).unwrap().is_new());
    assert_eq!(std::fs::read_to_string(path.join("identity.key")).unwrap(), "secret");
}

#[test]
fn a_directory_that_is_not_there_is_opened_by_nobody() {
    let (_parent, path) = place();
    let expected =
        format!("{} is not a GridKV directory: it has no MANIFEST; check the path", path.display());
    assert_eq!(refusal(Directory::open(&path)), expected);
    assert!(!path.exists());
}

#[test]
fn a_directory_that_is_there_is_not_made_again() {
    let (_parent, path) = made();
    let expected =
        format!("{} is a GridKV directory already: use one that is new or empty", path.display());
    assert_eq!(refusal(Directory::create(&path, &NEW)), expected);
    Directory::open(&path).unwrap();
}

#[test]
fn a_missing_shard_is_named() {
    let (_parent, path) = made();
    std::fs::remove_dir(path.join("shard-0001")).unwrap();
    let expected = format!("{} is missing: bring it back", path.join("shard-0001").display());
    for refused in [Directory::open(&path), Directory::open_or_create(&path, &NEW)] {
        let message = refusal(refused);
        assert!(message.starts_with(&expected), "{message}");
    }
}

#[test]
fn what_the_operating_system_refuses_is_told_with_the_path() {
    let (parent, _) = place();
    let file = parent.path().join("file");
    std::fs::write(&file, "").unwrap();
    let message = refusal(Directory::open_or_create(&file, &NEW));
    assert!(message.contains(&format!("cannot list {}", file.display())), "{message}");
    assert!(message.ends_with("; use a path that leads to a directory"), "{message}");

    let denied = DirectoryError::Io {
        doing: "make",
        path: "/data".into(),
        reason: ErrorKind::PermissionDenied.into(),
    };
    let message = denied.to_string();
    assert!(message.starts_with("cannot make /data: "), "{message}");
    assert!(message.ends_with("; give this user the right to read and write there"), "{message}");
}

fn name(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

/// A directory with two files in its first shard, one in its second, and what a snapshot of them is.
fn filled() -> (TempDir, Directory, Vec<Vec<String>>) {
    let (parent, path) = place();
    let directory = Directory::create(&path, &NEW).unwrap();
    let files = vec![vec!["1.log".to_owned(), "2.log".to_owned()], vec!["3.log".into()], vec![]];
    for (index, names) in (0..).zip(&files) {
        for name in names {
            std::fs::write(directory.shard(index).join(name), format!("records of {name}"))
                .unwrap();
        }
    }
    (parent, directory, files)
}

fn contents<'a>(name: &'a SnapshotName, files: &'a [Vec<String>]) -> Contents<'a> {
    Contents { name, cut: Timestamp((7 << 16) | 0xffff), created_ms: 1_795_305_600_000, files }
}

#[test]
fn a_snapshot_has_the_files_and_is_opened_as_one() {
    let (_parent, directory, files) = filled();
    let snapshot = name("first");
    let (path, note) = directory.take_snapshot(&contents(&snapshot, &files), &|| false).unwrap();
    assert_eq!(path, directory.snapshots().join("first"));
    assert_eq!((note.file_count, note.bytes), (3, 48));
    assert_eq!(listing(&path), ["MANIFEST", "SNAPSHOT", "shard-0000", "shard-0001", "shard-0002"]);
    assert_eq!(std::fs::read_to_string(path.join("shard-0001/3.log")).unwrap(), "records of 3.log");
    let (opened, found) = Directory::open_snapshot(&path).unwrap();
    assert_eq!(found, note);
    assert_eq!(found.cut, Timestamp((7 << 16) | 0xffff));
    assert_eq!((opened.id(), opened.shard_count()), (directory.id(), 3));

    let again = directory.take_snapshot(&contents(&snapshot, &files), &|| false).unwrap_err();
    assert!(again.to_string().contains("choose another name"), "{again}");
    let refused = refusal(Directory::open_or_create(&path, &NEW));
    assert!(refused.contains("is a snapshot: restore it into a new directory"), "{refused}");
    assert_eq!(refusal(Directory::open(&path)), refused);
    assert_eq!(refusal(Directory::create(&path, &NEW)), refused);
    let refused = Directory::open_snapshot(directory.path()).unwrap_err().to_string();
    assert!(refused.contains("is not a snapshot"), "{refused}");
}

#[test]
fn a_snapshot_that_fails_or_is_interrupted_leaves_nothing() {
    let (_parent, directory, mut files) = filled();
    let snapshot = name("first");
    let cancelled = directory.take_snapshot(&contents(&snapshot, &files), &|| true).unwrap_err();
    assert!(cancelled.to_string().contains("the node stops"), "{cancelled}");
    files[1].push("gone.log".to_owned());
    let failed = directory.take_snapshot(&contents(&snapshot, &files), &|| false).unwrap_err();
    assert!(failed.to_string().contains("gone.log"), "{failed}");
    assert!(listing(&directory.snapshots()).is_empty());
    // One that the end of the process interrupted goes when the next one opens the directory.
    std::fs::create_dir_all(directory.snapshots().join("old.partial/shard-0000")).unwrap();
    let path = directory.path().to_owned();
    drop(directory);
    let directory = Directory::open_or_create(&path, &NEW).unwrap();
    assert!(listing(&directory.snapshots()).is_empty());
}

#[test]
fn a_snapshot_with_a_file_missing_or_cut_or_a_list_changed_is_damaged() {
    let (_parent, directory, files) = filled();
    let snapshot = name("first");
    let (path, _) = directory.take_snapshot(&contents(&snapshot, &files), &|| false).unwrap();
    let refused = || Directory::open_snapshot(&path).unwrap_err().to_string();
    let file = path.join("shard-0000/2.log");
    std::fs::remove_file(&file).unwrap();
    assert!(refused().contains("2.log") && refused().contains("it is missing"), "{}", refused());
    std::fs::write(&file, "short").unwrap();
    assert!(refused().contains("5 bytes in place of 16"), "{}", refused());
    let list = std::fs::read_to_string(path.join("SNAPSHOT")).unwrap();
    std::fs::write(path.join("SNAPSHOT"), list.replace("2.log", "1.log")).unwrap();
    assert!(refused().contains("its checksum does not match"), "{}", refused());
}

#[test]
fn a_name_leads_nowhere_else() {
    for good in ["a", "2026-11-22T08-13-32.123Z", "before_upgrade.1", "-"] {
        assert_eq!(name(good).as_str(), good);
    }
    let long = "a".repeat(201);
    for bad in ["", ".", "..", ".hidden", "a/b", "../a", "a\0", "a b", "x.partial", &long] {
        assert_eq!(SnapshotName::new(bad), Err(NameError), "{bad}");
    }
}
