"""Goal: files are files of Python: what works on local ones works here, and bytes are not copied. Method: the same calls on a local file and
in the cluster; errors by their class; threads."""

import errno
import io
import os
import threading
import time

import pytest

import hayate


@pytest.mark.parametrize("mode", ["w", "w+", "x", "a", "a+", "r+", "wb", "ab+", "rb+", "xb"])
def test_modes_do_what_they_do_locally(fs, place, tmp_path, mode):
    answers = []
    for opener, path in ((open, str(tmp_path / "f")), (fs.open, f"{place}/f")):
        if "x" not in mode:
            with opener(path, "wb") as file:
                file.write(b"one\ntwo\n")
        steps = []
        with opener(path, mode) as file:
            data = "three\n" if "b" not in mode else b"three\n"
            steps += [file.tell(), file.write(data), file.tell(), file.seek(0)]
            if "+" in mode:
                steps += [file.read(4), file.readlines()]
            steps += [file.readable(), file.writable(), file.seekable(), file.truncate(5)]
        with opener(path, "rb") as file:
            steps.append(file.read())
        answers.append(steps)
    assert answers[0] == answers[1]


def test_text_layers(fs, place):
    path = f"{place}/t"
    with fs.open(path, "w", encoding="utf-16", newline="\r\n") as file:
        print("Häß", "lich", file=file)
    with fs.open(path, encoding="utf-16") as file:
        assert list(file) == ["Häß lich\n"]
    with fs.open(path, "rb") as file:
        assert isinstance(file, io.BufferedReader)
        assert file.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff")
    with pytest.raises(LookupError):
        fs.open(path, encoding="none-such")
    with pytest.raises(ValueError, match="mode"):
        fs.open(path, "rw")
    with pytest.raises(ValueError, match="text"):
        fs.open(path, "r", 0)


def test_layout_of_a_new_file(fs, place):
    """Layout and size of chunks are those that were asked for at opening; a file that was there keeps its own."""
    attribute = "user.hayate.layout"
    for layout, found in (("writer", b"writer,chunk=1M"), ("striped,chunk=64K", b"striped,chunk=64K"), (None, b"striped,chunk=1M")):
        path = f"{place}/{layout}"
        for again in (layout, "striped,chunk=4M"):
            with fs.open(path, "wb", layout=again) as file:
                file.write(b"x" * 100_000)
            assert fs.getxattr(path, attribute) == found
    with fs.open(f"{place}/large", "wb", 0, expected_bytes=1 << 40) as file:
        assert file.stat().chunk_bytes > 1 << 20
    with fs.open(f"{place}/both", "wb", 0, layout="writer,chunk=2M", expected_bytes=1 << 40) as file:
        assert file.stat().chunk_bytes == 2 << 20
    with pytest.raises(OSError, match="striped, local or writer") as refused:
        fs.open(f"{place}/none", "wb", layout="nowhere")
    assert refused.value.errno == errno.EINVAL and not fs.exists(f"{place}/none")


def test_buffers_are_not_copied(fs, place):
    """A raw file reads into the very memory that it is given, whatever kind it is."""
    data = bytearray(os.urandom(3 << 20))
    with fs.open(f"{place}/b", "wb+", buffering=0) as file:
        assert isinstance(file, hayate.RawFile)
        assert file.write(memoryview(data)[1:]) == len(data) - 1
        room = bytearray(len(data))
        with memoryview(room)[7:107] as part:
            assert file.pread_into(part, 50) == 100
        assert room[7:107] == data[51:151] and not any(room[:7]) and not any(room[107:])
        assert file.seek(0) == 0
        assert file.read() == data[1:]
        assert file.pread(10, len(data)) == b""
        with pytest.raises(BufferError):
            file.readinto(b"cannot be written")
        with pytest.raises((BufferError, TypeError)):
            file.write("text")
        with pytest.raises(BufferError):
            file.write(memoryview(bytearray(10))[::2])


def test_appends_of_two_do_not_overlap(fs, place):
    path = f"{place}/log"
    one, two = fs.open(path, "ab", 0), fs.open(path, "ab", 0)
    for number in range(20):
        (one if number % 2 else two).write(b"%03d\n" % number)
    one.close()
    two.close()
    assert fs.get(path) == b"".join(b"%03d\n" % number for number in range(20))


def test_errors_are_pythons(fs, place):
    path = f"{place}/none"
    with pytest.raises(FileNotFoundError) as caught:
        fs.open(path)
    assert caught.value.filename == path and caught.value.errno == errno.ENOENT and caught.value.strerror
    fs.mkdir(f"{place}/d")
    with pytest.raises(FileExistsError):
        fs.mkdir(f"{place}/d")
    with pytest.raises(IsADirectoryError):
        fs.open(f"{place}/d")
    fs.put(f"{place}/d/f", b"")
    with pytest.raises(NotADirectoryError):
        fs.listdir(f"{place}/d/f")
    with pytest.raises(OSError) as caught:
        fs.rmdir(f"{place}/d")
    assert caught.value.errno == errno.ENOTEMPTY
    with pytest.raises(OSError):
        hayate.connect("/nowhere/cluster.toml")
    file = fs.open(f"{place}/d/f", "rb", 0)
    with pytest.raises(io.UnsupportedOperation):
        file.write(b"x")
    with pytest.raises(io.UnsupportedOperation):
        file.fileno()
    file.close()
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_whole_files_and_attributes(fs, place):
    path = f"{place}/f"
    assert fs.put(path, b"content") == 7 and fs.get(path) == b"content"
    fs.put(path, bytes(2 << 20))
    assert fs.get(path) == bytes(2 << 20)
    fs.put(path, b"")
    assert fs.get(path) == b""
    fs.chmod(path, 0o600)
    fs.utime(path, mtime_ns=1_234_567_890_123_456_789)
    fs.truncate(path, 10)
    stat = fs.stat(path)
    assert stat.st_size == 10 and stat.mode & 0o7777 == 0o600 and stat.is_file()
    fs.setxattr(path, "user.a", b"value")
    with pytest.raises(FileExistsError):
        fs.setxattr(path, "user.a", b"x", create=True)
    assert fs.getxattr(path, "user.a") == b"value" and fs.listxattr(path) == ["user.a"]
    fs.removexattr(path, "user.a")
    assert fs.listxattr(path) == []
    fs.link(path, f"{place}/g")
    fs.symlink("g", f"{place}/s")
    assert fs.readlink(f"{place}/s") == "g" and fs.islink(f"{place}/s") and fs.lstat(f"{place}/s").is_symlink()
    assert fs.stat(f"{place}/s").ino == stat.ino and fs.stat(path).nlink == 2
    assert fs.copy(path, f"{place}/c") == 10 and fs.get(f"{place}/c") == bytes(10)
    assert fs.space().total_bytes > fs.space().free_bytes > 0
    fs.put(f"{place}/näme \udcff".encode(errors="surrogateescape"), b"any bytes")
    assert "näme \udcff" in fs.listdir(place)


def test_another_connection_sees_what_was_flushed(fs, place):
    with hayate.connect(trust=0, timeout=10, memory=32 << 20) as other, fs.open(f"{place}/f", "wb") as file:
        file.write(b"seen")
        file.flush()
        assert other.get(f"{place}/f") == b"seen"
        file.write(b" and more")
        file.flush()
        file.raw.sync()
        assert other.stat(f"{place}/f").size == 13


def test_a_file_is_brought_to_the_tier_on_demand(fs, place):
    fs.setxattr(place, "user.hayate.flush", b"demand")
    fs.put(f"{place}/f", b"durable")
    assert not fs.is_durable(f"{place}/f")
    with pytest.raises(FileNotFoundError):
        fs.flush_to_tier(f"{place}/none")
    try:
        fs.flush_to_tier(f"{place}/f")
    except OSError as error:
        pytest.skip(f"this cluster has no tier 2: {error}")
    deadline = time.monotonic() + 60
    while not fs.is_durable(f"{place}/f"):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    fs.put(f"{place}/f", b"changed")
    assert not fs.is_durable(f"{place}/f")


def test_module_functions(place):
    hayate.makedirs(f"{place}/a/b", exist_ok=True)
    with hayate.open(f"{place}/a/b/c", "w") as file:
        file.write("by the module")
    assert hayate.get(f"{place}/a/b/c") == b"by the module"
    assert [(here, below, others) for here, below, others in hayate.walk(place)] == [
        (place, ["a"], []), (f"{place}/a", ["b"], []), (f"{place}/a/b", [], ["c"])]
    hayate.rename(f"{place}/a", f"{place}/z")
    assert hayate.isfile(f"{place}/z/b/c") and not hayate.exists(f"{place}/a")


def test_other_threads_run_meanwhile(fs, place):
    """The interpreter is free during a call: a thread counts while another writes."""
    data, counted, done = bytes(32 << 20), 0, threading.Event()

    def write():
        with fs.open(f"{place}/large", "wb", 0) as file:
            for piece in range(4):
                file.pwrite(data, piece * len(data))
        done.set()

    before = time.thread_time()
    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        counted += 1
    thread.join()
    assert counted > 1000 and time.thread_time() - before > 0


def test_threads_share_a_file(fs, place):
    errors = []
    with fs.open(f"{place}/shared", "wb+", 0) as file:
        def work(me):
            try:
                for number in range(50):
                    piece = bytes([me]) * 3000
                    file.pwrite(piece, (number * 8 + me) * 3000)
                    assert file.pread(3000, (number * 8 + me) * 3000) == piece
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert fs.stat(f"{place}/shared").size == 8 * 50 * 3000
