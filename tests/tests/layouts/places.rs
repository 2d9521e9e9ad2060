//! Goal: bytes lie where the layout says, and are found from everywhere.

use fs_client::{Client, OpenOptions, Route};
use hayate_tests::{Cluster, ClusterOptions, full};

use super::{LAYOUTS, MIB, assert_content, chunks, create, directory, on_node, set};

#[test]
fn a_local_file_lies_on_the_node_of_whoever_made_it() {
    let cluster = Cluster::start(4);
    directory(&on_node(&cluster, 0), "/local", "local");
    for node in 0..4 {
        let (client, path) = (on_node(&cluster, node), format!("/local/{node}"));
        let content = full(5 * MIB + 77, node as u8);
        create(&client, &path).write_at(&content, 0).unwrap();
        assert_eq!(chunks(&client, &path), [(node, 6)]);
        for reader in 0..4 {
            assert_content(&on_node(&cluster, reader), &path, &content);
        }
    }
    // Somebody else writes it: it stays where it is.
    create(&on_node(&cluster, 3), "/local/0").write_at(&full(MIB, 9), 9 * MIB).unwrap();
    assert_eq!(chunks(&on_node(&cluster, 1), "/local/0"), [(0, 7)]);
}

#[test]
fn an_empty_file_becomes_local_where_it_is_set_to() {
    let cluster = Cluster::start(4);
    create(&on_node(&cluster, 0), "/file").close().unwrap();
    let client = on_node(&cluster, 2);
    set(&client, "/file", "local").unwrap();
    create(&on_node(&cluster, 1), "/file").write_at(&full(2 * MIB, 1), 0).unwrap();
    assert_eq!(chunks(&client, "/file"), [(2, 2)]);
}

#[test]
fn a_client_without_a_node_makes_striped_files() {
    let cluster = Cluster::start(4);
    directory(&on_node(&cluster, 0), "/local", "local");
    let mut config = fs_client::ClientConfig::new(cluster.file().clone());
    (config.route, config.transport) = (Route::Owners, fs_client::Transport::Tcp);
    let client = Client::connect(config).unwrap();
    let content = full(8 * MIB, 1);
    create(&client, "/local/far").write_at(&content, 0).unwrap();
    assert_eq!(chunks(&client, "/local/far"), [(0, 2), (1, 2), (2, 2), (3, 2)]);
    assert_content(&on_node(&cluster, 1), "/local/far", &content);
}

#[test]
fn a_client_of_a_pure_gateway_makes_striped_files_and_claims_for_owners() {
    let cluster = Cluster::with(ClusterOptions { gateways: 1, ..ClusterOptions::default() });
    let client = on_node(&cluster, 3);
    let content = full(6 * MIB, 1);
    for layout in ["local", "writer"] {
        let path = format!("/{layout}/file");
        directory(&client, &format!("/{layout}"), layout);
        create(&client, &path).write_at(&content, 0).unwrap();
        assert_eq!(chunks(&client, &path), [(0, 2), (1, 2), (2, 2)], "{layout}");
        assert_content(&on_node(&cluster, 1), &path, &content);
    }
}

#[test]
fn chunks_stay_with_whoever_wrote_them_first() {
    let cluster = Cluster::start(4);
    let clients: Vec<Client> = (0..4).map(|node| on_node(&cluster, node)).collect();
    directory(&clients[0], "/writer", "writer");
    let files: Vec<_> = clients.iter().map(|client| create(client, "/writer/shared")).collect();
    let mut model = vec![0; 16 * MIB as usize];
    // Blocks of two chunks, dealt out in turn.
    for block in 0..8_u64 {
        let data = full(2 * MIB, block as u8);
        files[block as usize % 4].write_at(&data, block * 2 * MIB).unwrap();
        model[(block * 2 * MIB) as usize..][..data.len()].copy_from_slice(&data);
    }
    for client in &clients {
        assert_eq!(chunks(client, "/writer/shared"), [(0, 4), (1, 4), (2, 4), (3, 4)]);
        assert_content(client, "/writer/shared", &model);
    }
    // Overwriting from elsewhere, also across a border, goes to where the chunks are.
    let patch = full(3 * MIB, 99);
    files[3].write_at(&patch, MIB / 2).unwrap();
    model[(MIB / 2) as usize..][..patch.len()].copy_from_slice(&patch);
    assert_eq!(chunks(&clients[1], "/writer/shared"), [(0, 4), (1, 4), (2, 4), (3, 4)]);
    for client in &clients {
        assert_content(client, "/writer/shared", &model);
    }
}

#[test]
fn of_two_writers_at_once_the_first_gives_the_chunk_its_place() {
    let cluster = Cluster::start(4);
    directory(&on_node(&cluster, 0), "/writer", "writer,chunk=64K");
    let chunk = 64 << 10;
    let chunk_count: u64 = 64;
    let half = |node: u16| full(chunk / 2, node as u8);
    std::thread::scope(|scope| {
        for node in [1, 2] {
            let client = on_node(&cluster, node);
            scope.spawn(move || {
                let file = create(&client, "/writer/shared");
                for i in 0..chunk_count {
                    let offset = i * chunk + if node == 1 { 0 } else { chunk / 2 };
                    file.write_at(&half(node), offset).unwrap();
                }
            });
        }
    });
    let both: Vec<u8> = [half(1), half(2)].concat();
    assert_content(&on_node(&cluster, 3), "/writer/shared", &both.repeat(chunk_count as usize));
    let held = chunks(&on_node(&cluster, 0), "/writer/shared");
    assert_eq!(
        held.iter().map(|(_, count)| count).sum::<u64>(),
        chunk_count,
        "each chunk is on one server: {held:?}"
    );
    // The very first bytes may have left the inode for the other's node: no chunk is anywhere else.
    assert!(held.iter().all(|(server, _)| [1, 2].contains(server)), "{held:?}");
}

#[test]
fn small_files_lie_with_their_inodes_and_move_to_their_layouts_place() {
    let cluster = Cluster::start(4);
    for layout in LAYOUTS {
        let client = on_node(&cluster, 3);
        let dir = format!("/{layout}");
        directory(&client, &dir, layout);
        let path = format!("{dir}/file");
        let file = create(&client, &path);
        let mut model = full(1000, 1);
        file.write_at(&model, 0).unwrap();
        assert!(client.stat(&path).unwrap().inline);
        model.resize(100_000, 0);
        model.extend(full(3 * MIB, 2));
        file.write_at(&full(3 * MIB, 2), 100_000).unwrap();
        assert_content(&on_node(&cluster, 0), &path, &model);
        if layout != "striped" {
            assert_eq!(chunks(&client, &path), [(3, 4)]);
        }
    }
}

#[test]
fn appends_go_to_the_layouts_place() {
    let cluster = Cluster::start(4);
    for layout in LAYOUTS {
        let dir = format!("/{layout}");
        directory(&on_node(&cluster, 2), &dir, layout);
        let path = format!("{dir}/log");
        let mut model = Vec::new();
        for round in 0..12_u16 {
            let client = on_node(&cluster, if layout == "writer" { 2 } else { round % 4 });
            let options = OpenOptions { append: true, create: true, ..OpenOptions::default() };
            let data = full(300_000, round as u8);
            let file = client.open_path(&path, &options).unwrap();
            assert_eq!(file.append(&data).unwrap(), model.len() as u64);
            file.sync().unwrap();
            model.extend(data);
        }
        assert_content(&on_node(&cluster, 1), &path, &model);
        if layout != "striped" {
            assert_eq!(chunks(&on_node(&cluster, 1), &path), [(if layout == "local" { 0 } else { 2 }, 4)]);
        }
    }
}
