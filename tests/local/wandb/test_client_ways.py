"""What the client does by itself, and what a courier therefore must not rely on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from wandb_artifacts import FILES
from wandb_server import lose

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Own
    from wandb_artifacts import Here
    from wandb_server import Client

GIB = 1 << 30


def test_a_killed_client_takes_along_what_it_had_not_sent(own: Callable[..., Own]) -> None:
    """Neither the server nor the file on its own disk has the rows that were logged last."""
    made = own()
    made.server.fault("file_stream", delay=600.0)
    process = made.client.start("""
        import time
        run = wandb.init(project="p", id="killed", resume="allow")
        for step in range(20): run.log({"loss": step})
        tell("logged")
        time.sleep(600)
    """)
    try:
        assert process.stdout is not None
        assert "logged" in process.stdout.readline()
    finally:
        lose(process)
    made.server.clear_faults()
    left = made.client.run(
        """
        import subprocess
        from pathlib import Path
        folders = [str(one) for one in Path(os.environ["WANDB_DIR"]).glob("wandb/run-*-killed")]
        done = subprocess.run([sys.executable, "-m", "wandb", "sync", "--include-synced", *folders])
        run = wandb.Api().run("p/killed")
        tell([len(folders), [row["loss"] for row in run.scan_history()]])
        """
    )
    assert left[0] == 1
    assert len(left[1]) < 20, "then this client flushes what it logs, and the docs may say so"


def test_without_a_server_a_run_does_not_begin_and_says_so(own: Callable[..., Own]) -> None:
    made = own()
    made.server.kill()
    said = made.client.fails("wandb.init(project='p', settings=wandb.Settings(init_timeout=2))")
    assert any(word in said for word in ("refused", "timed out", "timeout")), said
    made.server.start()


def test_what_is_logged_is_copied_into_the_cache_unless_told_otherwise(here: Here) -> None:
    told = here.run(
        FILES
        + """
from pathlib import Path
def cached():
    return sum(one.stat().st_size for one in Path(os.environ["WANDB_CACHE_DIR"]).rglob("*") if one.is_file())
grown = []
with wandb.init(project="copies") as run:
    for name, how in (("copied", {}), ("not", {"policy": "immutable", "skip_cache": True})):
        Path(name).write_bytes(os.urandom(200_000))
        made, before = wandb.Artifact(name, "set"), cached()
        made.add_file(os.path.abspath(name), name=name, **how)  # read where it lies, by another process
        log(run, made)
        grown.append(cached() - before >= 200_000)
tell(grown)
"""
    )
    assert told == [True, False]


def test_names_and_metadata_have_bounds(here: Here) -> None:
    told = here.run(
        """
said = []
for make in (lambda: wandb.Artifact("a" * 129, "set"),
             lambda: wandb.Artifact("a", "set", metadata={str(one): one for one in range(101)}),
             lambda: wandb.Artifact("a/b", "set")):
    try: make(); said.append("")
    except ValueError as error: said.append(str(error))
tell(said)
"""
    )
    assert "longer than 128" in told[0]
    assert "100 metadata keys" in told[1]
    assert told[2]


def test_offline_nothing_can_be_linked(client: Client) -> None:
    said = client.fails(
        """
        run = wandb.init(project="p")
        made = wandb.Artifact("a", "model")
        run.log_artifact(made)
        run.link_artifact(made, "wandb-registry-model/ranker")
        """,
        WANDB_MODE="offline",
    )
    assert "NotImplementedError" in said


@pytest.mark.slow
def test_a_checkpoint_of_more_than_two_gib_goes_in_parts_and_comes_back(
    own: Callable[..., Own], tmp_path: Path
) -> None:
    """From 2 GiB on the client sends parts of 100 MiB, of which one is cut off here, and fetches ranges."""
    made, size = own(), 2 * GIB + 12_345
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.write(b"first")
        file.seek(size - 4)
        file.write(b"last")
    made.server.fault("upload", drop_after=1 << 20, after=2, times=1)
    told: Any = made.client.run(
        """
        import hashlib
        from pathlib import Path
        with wandb.init(project="p") as run:
            made = wandb.Artifact("ck", "checkpoint")
            made.add_file(sys.argv[1], "big", policy="immutable", skip_cache=True)
            run.log_artifact(made)
            made.wait()
        found = wandb.Api().artifact("p/ck:v0")
        root = found.download(root="back", skip_cache=True)
        with open(Path(root) / "big", "rb") as file:
            tell([found.size, hashlib.file_digest(file, "sha256").hexdigest()])
        """,
        str(big),
    )
    with big.open("rb") as file:
        assert told == [size, hashlib.file_digest(file, "sha256").hexdigest()]
    assert [one["times"] for one in made.server.faults()] == [0], "it was not sent in one piece"
