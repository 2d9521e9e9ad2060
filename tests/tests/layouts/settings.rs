//! Goal: layouts are set, seen and inherited as the documentation says.

use fs_client::{Layout, LayoutWish, OpenOptions, Placement};
use hayate_tests::{Cluster, ClusterOptions, full, until};

use super::{LAYOUT_ATTRIBUTE, MIB, ROOT, chunks, create, directory, ino, on_node, set, shown};

#[test]
fn directories_hand_their_layout_down() {
    let cluster = Cluster::start(4);
    let client = on_node(&cluster, 1);
    assert_eq!(shown(&client, "/"), "striped");
    directory(&client, "/dir", "writer,chunk=4M");
    client.mkdir_path("/dir/sub", 0o755).unwrap();
    client.mkdir_path("/dir/sub/sub", 0o755).unwrap();
    create(&client, "/dir/sub/sub/file").close().unwrap();
    for path in ["/dir", "/dir/sub/sub", "/dir/sub/sub/file"] {
        assert_eq!(shown(&client, path), "writer,chunk=4M", "{path}");
    }
    set(&client, "/dir", "local").unwrap();
    create(&client, "/dir/later").close().unwrap();
    assert_eq!(shown(&client, "/dir/later"), "local");
    assert_eq!(shown(&client, "/dir/sub"), "writer,chunk=4M", "what was there keeps its own");
    client.removexattr(&ROOT, ino(&client, "/dir"), LAYOUT_ATTRIBUTE).unwrap();
    assert_eq!(shown(&client, "/dir"), "striped");
}

#[test]
fn wide_directories_hand_their_layout_down() {
    let cluster = Cluster::with(ClusterOptions { wide_threshold: 20, ..ClusterOptions::default() });
    let client = on_node(&cluster, 2);
    client.mkdir_path("/wide", 0o755).unwrap();
    for i in 0..60 {
        create(&client, &format!("/wide/{i}")).close().unwrap();
    }
    until("the directory becomes wide", || client.stat("/wide").unwrap().wide);
    set(&client, "/wide", "local,chunk=64K").unwrap();
    for i in 60..80 {
        let path = format!("/wide/{i}");
        create(&client, &path).close().unwrap();
        assert_eq!(shown(&client, &path), "local,chunk=64K", "{path}");
    }
}

#[test]
fn a_layout_is_final_once_there_is_data() {
    let cluster = Cluster::start(4);
    let client = on_node(&cluster, 0);
    let small = create(&client, "/small");
    set(&client, "/small", "local").unwrap();
    set(&client, "/small", "writer").unwrap();
    small.write_at(b"data", 0).unwrap();
    let large = create(&client, "/large");
    large.write_at(&full(2 * MIB, 1), 0).unwrap();
    let cut = create(&client, "/cut");
    cut.write_at(&full(2 * MIB, 1), 0).unwrap();
    cut.set_len(0).unwrap();
    for path in ["/small", "/large", "/cut"] {
        let other = if path == "/small" { "striped" } else { "local" };
        let error = set(&client, path, other).expect_err("it has data");
        assert_eq!(error.errno(), libc::ENOTEMPTY, "{path}: {error}");
        assert!(error.to_string().contains("layout"), "{error}");
        let same = shown(&client, path);
        set(&client, path, &same).expect("what is there may be asked for");
    }
    assert_eq!(set(&client, "/large", "striped,chunk=4M").unwrap_err().errno(), libc::ENOTEMPTY);
}

#[test]
fn nonsense_is_refused() {
    let cluster = Cluster::start(1);
    let client = cluster.client();
    create(&client, "/file").close().unwrap();
    for text in ["", "stripe", "local,chunk=5M", "local,chunk=1G"] {
        assert_eq!(set(&client, "/file", text).unwrap_err().errno(), libc::EINVAL, "{text}");
    }
    let file = ino(&client, "/file");
    let unknown = client.setxattr(&ROOT, file, b"user.hayate.nothing", b"1", false, false);
    assert_eq!(unknown.unwrap_err().errno(), libc::EOPNOTSUPP);
    let create_only = client.setxattr(&ROOT, file, LAYOUT_ATTRIBUTE, b"local", true, false);
    assert_eq!(create_only.unwrap_err().errno(), libc::EEXIST, "it is there always");
    let wish = LayoutWish { chunk_log2: Some(30), ..LayoutWish::default() };
    assert_eq!(client.set_layout(&ROOT, file, wish).unwrap_err().errno(), libc::EINVAL);
}

#[test]
fn a_layout_is_seen_when_asked_for_and_not_listed() {
    let cluster = Cluster::start(1);
    let client = cluster.client();
    directory(&client, "/dir", "local");
    client.symlink_path("dir", "/link").unwrap();
    let link = client.lstat("/link").unwrap().ino;
    assert_eq!(client.getxattr(&ROOT, link, LAYOUT_ATTRIBUTE).unwrap_err().errno(), libc::ENODATA);
    assert_eq!(
        client.setxattr(&ROOT, link, LAYOUT_ATTRIBUTE, b"local", false, false).unwrap_err().errno(),
        libc::EPERM
    );
    client.setxattr(&ROOT, ino(&client, "/dir"), b"user.mine", b"1", false, false).unwrap();
    assert_eq!(client.listxattr(&ROOT, ino(&client, "/dir")).unwrap(), [&b"user.mine"[..]]);
}

#[test]
fn opening_gives_a_new_file_its_layout() {
    let cluster = Cluster::start(4);
    let client = on_node(&cluster, 3);
    let wish = |text: &str| Some(LayoutWish::parse(text.as_bytes()).unwrap());
    let options = OpenOptions { layout: wish("local,chunk=64K"), ..OpenOptions::create_truncate() };
    let file = client.open_path("/new", &options).unwrap();
    assert_eq!(
        file.known_attr().layout,
        Layout { placement: Placement::Local(Some(fs_client::ServerId(3))), chunk_log2: 16, given: true }
    );
    file.write_at(&full(MIB, 1), 0).unwrap();
    file.close().unwrap();
    assert_eq!(chunks(&client, "/new"), [(3, 16)]);
    let other = OpenOptions { layout: wish("writer"), ..options };
    client.open_path("/new", &other).unwrap().close().unwrap();
    assert_eq!(shown(&client, "/new"), "local,chunk=64K", "it was there");
}

#[test]
fn chunks_are_as_large_as_the_file_is_expected_to_need() {
    let cluster = Cluster::start(4);
    let client = on_node(&cluster, 1);
    let chunk = |path: &str| client.stat(path).unwrap().layout.chunk_bytes();
    let expecting = |expected_bytes| {
        let wish = LayoutWish { expected_bytes, ..LayoutWish::default() };
        OpenOptions { layout: Some(wish), ..OpenOptions::create_truncate() }
    };
    client.open_path("/told", &expecting(8 << 30)).unwrap().write_at(&full(MIB, 1), 0).unwrap();
    create(&client, "/cut").set_len(16 << 30).unwrap();
    create(&client, "/allocated").allocate(0..MIB, false).unwrap();
    create(&client, "/usual").write_at(&full(MIB, 1), 0).unwrap();
    assert_eq!(["/told", "/cut", "/allocated", "/usual"].map(chunk), [2 * MIB, 4 * MIB, MIB, MIB]);
    directory(&client, "/given", "writer,chunk=256K");
    create(&client, "/given/cut").set_len(16 << 30).unwrap();
    assert_eq!(chunk("/given/cut"), 256 << 10, "what was asked for stays");
    client.open_path("/small", &expecting(100)).unwrap().write_at(b"small", 0).unwrap();
    assert!(client.stat("/small").unwrap().inline, "small files lie with their inodes");
}

#[test]
fn layouts_work_without_small_files() {
    let cluster = Cluster::configured(ClusterOptions::default(), |config| config.inline_bytes = 0);
    let client = on_node(&cluster, 2);
    let file = create(&client, "/file");
    set(&client, "/file", "local").expect("nobody else has it open");
    file.write_at(&full(3 * MIB, 1), 0).unwrap();
    assert_eq!(chunks(&client, "/file"), [(2, 3)]);
    let unpublished = create(&client, "/unpublished");
    unpublished.write_at(b"in a chunk, and the home does not know", 0).unwrap();
    assert_eq!(set(&client, "/unpublished", "local").unwrap_err().errno(), libc::ENOTEMPTY);
    let other = on_node(&cluster, 1);
    let _held = create(&other, "/held");
    assert_eq!(set(&client, "/held", "local").unwrap_err().errno(), libc::ENOTEMPTY);
}
