from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from mlenv_local.images.builder import pip_config, uv_config
from mlenv_local.images.context import Ignore, content_hash, files
from mlenv_local.images.oci import Entry, ImageSpec, write_archive
from mlenv_local.images.runtime import describe, editable_roots, outermost, runtime_archive

SPEC = ImageSpec(
    "mlenv.io/a:1",
    (Entry("bin"), Entry("bin/a", b"program"), Entry("b", link="bin/a"), Entry("home", owner=7)),
    ("/bin/a",),
    user="7:7",
    env={"B": "2", "A": "1"},
)


def blobs(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]


def test_every_blob_is_named_by_its_digest_and_every_reference_resolves(tmp_path: Path) -> None:
    write_archive(SPEC, tmp_path / "a.tar")
    content = blobs(tmp_path / "a.tar")
    for name, blob in content.items():
        if name.startswith("blobs/sha256/"):
            assert name == f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}"
    (entry,) = json.loads(content["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "mlenv.io/a:1"
    manifest = json.loads(content[f"blobs/sha256/{entry['digest'][7:]}"])
    for part in (manifest["config"], *manifest["layers"]):
        assert len(content[f"blobs/sha256/{part['digest'][7:]}"]) == part["size"]


def test_the_configuration_names_the_unpacked_layer(tmp_path: Path) -> None:
    write_archive(SPEC, tmp_path / "a.tar")
    content = blobs(tmp_path / "a.tar")
    manifest = next(json.loads(b) for b in content.values() if b.startswith(b'{"config":{"digest'))
    config = json.loads(content[f"blobs/sha256/{manifest['config']['digest'][7:]}"])
    layer = gzip.decompress(content[f"blobs/sha256/{manifest['layers'][0]['digest'][7:]}"])
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert config["config"] == {"Entrypoint": ["/bin/a"], "Env": ["A=1", "B=2"], "User": "7:7"}
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert tar.getmember("b").linkname == "bin/a"
        assert tar.getmember("home").uid == 7
        assert tar.getmember("bin").isdir()


def test_the_same_image_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_archive(SPEC, tmp_path / name)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_the_runtime_image_is_almost_empty(tmp_path: Path) -> None:
    assert runtime_archive(tmp_path).stat().st_size < 50_000
    assert list(tmp_path.iterdir()) == [runtime_archive(tmp_path)]


@pytest.mark.parametrize(
    ("rules", "path", "excluded"),
    [
        ("*", "a/b.py", True),
        ("*\n!api", "api/mlenv_api/x.py", False),
        ("*\n!api\n**/*.pyc", "api/mlenv_api/x.pyc", True),
        ("*\n!*/pyproject.toml", "sdk/pyproject.toml", False),
        ("*\n!*/pyproject.toml", "sdk/deep/pyproject.toml", True),
        ("**/__pycache__", "a/b/__pycache__/c", True),
        ("docs/", "docs/a.md", True),
        ("# *\n\n", "a", False),
        ("a?c", "abc", True),
        ("a.c", "abc", False),
    ],
)
def test_docker_ignore_rules(rules: str, path: str, *, excluded: bool) -> None:
    assert Ignore(rules).excludes(Path(path)) is excluded


def test_the_name_of_a_context_changes_with_what_the_image_is_made_of_and_nothing_else(
    tmp_path: Path,
) -> None:
    dockerfile = tmp_path / "Dockerfile"
    dockerfile.write_text("FROM scratch")
    (tmp_path / ".dockerignore").write_text("*\n!src")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("1")
    (tmp_path / "other").write_text("1")
    assert list(files(tmp_path)) == [Path("src/a.py")]
    seen = [content_hash(dockerfile, tmp_path, {}, "base")]
    (tmp_path / "other").write_text("2")
    assert content_hash(dockerfile, tmp_path, {}, "base") == seen[0]
    (tmp_path / "src" / "a.py").write_text("2")
    seen.append(content_hash(dockerfile, tmp_path, {}, "base"))
    (tmp_path / "src" / "a.py").chmod(0o755)
    seen.append(content_hash(dockerfile, tmp_path, {}, "base"))
    dockerfile.write_text("FROM scratch\nUSER 1")
    seen.append(content_hash(dockerfile, tmp_path, {}, "base"))
    seen.append(content_hash(dockerfile, tmp_path, {"A": "1"}, "base"))
    seen.append(content_hash(dockerfile, tmp_path, {"A": "1"}, "another base"))
    assert len(set(seen)) == len(seen)


def test_package_indexes_of_the_machine_become_files() -> None:
    environment = {"PIP_INDEX_URL": "https://a/simple", "UV_DEFAULT_INDEX": "https://b/simple"}
    assert "index-url = https://a/simple" in pip_config(environment)
    assert 'index-url = "https://b/simple"' in uv_config(environment)
    assert "index" not in pip_config({}) + uv_config({})


def test_a_folder_below_another_is_not_mounted_twice() -> None:
    paths = [Path("/usr"), Path("/usr/lib"), Path("/code/a"), Path("/usr"), Path("/code/ab")]
    assert outermost(paths) == [Path("/usr"), Path("/code/a"), Path("/code/ab")]


def test_editable_installs_are_mounted_too(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    site.mkdir(parents=True)
    source = tmp_path / "source"
    source.mkdir()
    (site / "a.pth").write_text(f"{source}\nimport x\n/does/not/exist\n")
    assert editable_roots(tmp_path) == [source]


def test_everything_of_the_host_is_mounted_read_only() -> None:
    runtime = describe([Path("/usr"), Path("/opt/venv")], Path("/opt/venv"))
    assert runtime.python == "/opt/venv/bin/python"
    assert all(mount["readOnly"] for mount in runtime.volume_mounts)
    assert [v["hostPath"]["path"] for v in runtime.volumes] == ["/usr", "/opt/venv"]
    assert [m["name"] for m in runtime.volume_mounts] == [v["name"] for v in runtime.volumes]
