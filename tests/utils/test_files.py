import os
import subprocess
import sys

import pytest

from ssl_prune.utils.files import beside, refuse_over, refuse_unwritable, replacing


def test_the_old_file_stays_until_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.parent == tmp_path
        assert part.suffix == ".txt"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half(part):
        part.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"), replacing(path) as part:
        write_half(part)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing was written"), replacing(tmp_path / "a.txt"):
        pass


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing does not exist"), replacing(tmp_path / "missing" / "a.txt"):
        pass


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="it is a folder"), replacing(tmp_path):
        pass


def test_a_link_keeps_pointing(tmp_path):
    real, link = tmp_path / "real.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    with replacing(link) as part:
        part.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_permissions_follow_the_umask(tmp_path):
    (tmp_path / "plain").write_text("")
    with replacing(tmp_path / "a") as part:
        part.write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
def test_what_a_writer_made_for_itself_alone_is_readable_like_any_file(tmp_path):
    (tmp_path / "plain.txt").touch()
    with replacing(tmp_path / "a.txt") as part:
        part.write_text("new")
        part.chmod(0o600)
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "plain.txt").stat().st_mode


@pytest.mark.parametrize(
    ("path", "endings", "error", "words"),
    [
        (
            "net.json",
            [".json", ".png"],
            ValueError,
            r"net.json would be written twice.* \.json, \.png .*another ending",
        ),
        ("a/net.pt2", [".json", ".pt2"], ValueError, "net.pt2 would be written twice"),
        ("", [], ValueError, "must name a file"),
        (".", [".json"], ValueError, "must name a file"),
        ("runs/..", [".json"], ValueError, "must name a file"),
        (3, [], TypeError, "must be the path of a file, got 3"),
    ],
)
def test_a_file_that_another_would_replace_is_refused(path, endings, error, words):
    with pytest.raises(error, match=f"output.*{words}"):
        beside(path, endings, "output")


def test_what_cannot_be_written_is_known_before(tmp_path):
    (tmp_path / "file").touch()
    refuse_unwritable(tmp_path / "file")
    refuse_unwritable(tmp_path / "new" / "er" / "net")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(IsADirectoryError, match="it is a folder"):
        refuse_unwritable(tmp_path)
    for below in ("net", "folder/net"):
        with pytest.raises(NotADirectoryError, match="file is a file, not a folder"):
            refuse_unwritable(tmp_path / "file" / below)


def test_a_folder_that_takes_no_files_is_refused(tmp_path, monkeypatch):
    """Asked of the system, since a superuser may write anywhere."""
    asked = []
    monkeypatch.setattr(os, "access", lambda folder, mode: asked.append((folder, mode)))
    with pytest.raises(PermissionError, match="takes no files"):
        refuse_unwritable(tmp_path / "new" / "net")
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


def specials(folder):
    os.mkfifo(folder / "pipe")
    return [folder / "pipe", "/dev/null", "/dev/zero", "/dev/full"]


@pytest.mark.skipif(os.name != "posix", reason="devices and pipes are POSIX")
def test_devices_and_pipes_stay_what_they_are(tmp_path):
    for path in specials(tmp_path):
        before = os.stat(path).st_mode
        with pytest.raises(OSError, match="is a device or a pipe"):
            refuse_unwritable(path)
        with pytest.raises(OSError, match="is a device or a pipe"), replacing(path) as part:
            part.write_text("new")
        assert os.stat(path).st_mode == before
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a folder that takes no files whoever asks")
@pytest.mark.parametrize("path", ["/proc/x", "/proc/x/net.json", "{}/" + "n" * 300, "{}/" + "n" * 300 + "/net.json"])
def test_what_only_a_try_tells_is_tried_before(tmp_path, path):
    with pytest.raises(OSError, match=r"^cannot write /"):
        refuse_unwritable(path.format(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_known_before(tmp_path, monkeypatch):
    full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    monkeypatch.setattr("builtins.open", lambda file, *_, **__: (file.touch(), full)[1])
    with pytest.raises(OSError, match=r"cannot write .*No space left"):
        refuse_unwritable(tmp_path / "net")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o444])
def test_a_replaced_file_hands_its_mode_on(tmp_path, mode):
    (tmp_path / "a.txt").touch()
    (tmp_path / "a.txt").chmod(mode)
    with replacing(tmp_path / "a.txt") as part:
        part.write_text("new")
    assert (tmp_path / "a.txt").stat().st_mode & 0o7777 == mode


def test_the_part_of_a_process_that_was_killed_goes_with_the_next_write(tmp_path):
    script = f"""
import os, signal
from ssl_prune.utils.files import replacing
with replacing({str(tmp_path / "a.txt")!r}) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script], check=False)
    assert len(os.listdir(tmp_path)) == 1
    with replacing(tmp_path / "b.txt") as other:
        other.write_text("another file")
        with replacing(tmp_path / "b.txt") as part:  # a writer that still runs keeps its own
            part.write_text("new")
    assert len(os.listdir(tmp_path)) == 2
    with replacing(tmp_path / "a.txt") as part:
        part.write_text("new")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]


@pytest.mark.parametrize("path", ["memory://net.json", "s3://bucket/net.json", "file:///tmp/net.json"])
def test_an_address_is_no_file_of_this_machine(path):
    with pytest.raises(ValueError, match="output must be a file of this machine"):
        beside(path, [], "output")


def test_what_is_read_is_not_written(tmp_path):
    (tmp_path / "net.pt").touch()
    (tmp_path / "link.pt").symlink_to(tmp_path / "net.pt")
    os.link(tmp_path / "net.pt", tmp_path / "hard.pt")
    for name in ("net.pt", "link.pt", "hard.pt", "../" + tmp_path.name + "/net.pt"):
        with pytest.raises(ValueError, match="got the file that is read"):
            refuse_over([tmp_path / "other", tmp_path / name], tmp_path / "net.pt")
    refuse_over([tmp_path / "other.pt"], tmp_path / "net.pt")
