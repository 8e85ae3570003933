"""Artifacts logged and fetched by the real client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wandb_artifacts import FILES

if TYPE_CHECKING:
    from wandb_artifacts import Here


def test_a_version_is_what_was_logged(here: Here) -> None:
    told = here.run(
        FILES
        + """
import datetime
with wandb.init(project="logged") as run:
    one = artifact("ck", a="alpha", b="beta")
    one.metadata, one.description, one.ttl = {"step": 3}, "first", datetime.timedelta(days=1)
    log(run, one, aliases=["best"], tags=["t1"])
    two = log(run, artifact("ck", a="alpha", c="gamma"))
    again = log(run, artifact("ck", a="alpha", b="beta"), aliases=["again"])
api = wandb.Api()
first = api.artifact("logged/ck:v0")
root = fetch(first)
first.verify(root)
tell({
    "first": [first.id == one.id == again.id, first.version, sorted(first.aliases), first.tags,
              first.metadata, first.description, first.ttl.total_seconds(), first.size, first.file_count,
              first.state, first.digest == one.digest, first.type],
    "files": {name: open(os.path.join(root, name)).read() for name in sorted(os.listdir(root))},
    "second": [two.version, api.artifact("logged/ck:v1").aliases, two.ttl],
    "births": [births(two)["a"] == one.id, births(two)["c"] == two.id],
    "latest": api.artifact("logged/ck").version,
})
"""
    )
    assert told["first"] == [
        *[True, "v0", ["again", "best", "latest"], ["t1"], {"step": 3}],
        *["first", 86400.0, 9, 2, "COMMITTED", True, "set"],
    ]
    assert told["files"] == {"a": "alpha", "b": "beta"}
    assert told["second"] == ["v1", [], None], (
        "the alias latest has moved to the digest that was logged again"
    )
    assert told["births"] == [True, True]
    assert told["latest"] == "v0"


def test_what_is_here_already_is_not_sent_again(here: Here) -> None:
    here.server.fault("upload", delay=0.001, times=100)
    here.run(
        FILES
        + """
with wandb.init(project="sent", mode="online") as run:
    log(run, artifact("one", a="alpha", b="beta"))
    log(run, artifact("one", a="alpha", b="beta"))
    log(run, artifact("two", a="alpha", b="beta", c="gamma"))
"""
    )
    left = {rule["operation"]: rule["times"] for rule in here.server.faults()}
    here.server.clear_faults()
    run_files = 100 - left["upload"] - 2 - 1 - 2
    assert 0 <= run_files <= 4, "two files, one file, two manifests, and what the run itself uploads"


def test_empty_incremental_and_drafted_versions(here: Here) -> None:
    told = here.run(
        FILES
        + """
def contents(name):
    fetched = wandb.Api().artifact(name)
    root = fetch(fetched, name.replace("/", "-").replace(":", "-"))
    paths = sorted(os.listdir(root)) if os.path.exists(root) else []
    return [{path: open(os.path.join(root, path)).read() for path in paths}, fetched.size]
with wandb.init(project="grown") as run:
    empty = log(run, wandb.Artifact("nothing", "set"))
    log(run, artifact("ck", a="alpha", b="beta"))
    more = wandb.Artifact("ck", "set", incremental=True)
    with more.new_file("b") as file: file.write("BETA!")
    with more.new_file("c") as file: file.write("gamma")
    log(run, more)
    draft = wandb.Api().artifact("grown/ck:v1").new_draft()
    draft.remove("a")
    with draft.new_file("d") as file: file.write("delta")
    log(run, draft)
tell({
    "empty": [empty.version, empty.size, empty.file_count, contents("grown/nothing:v0")],
    "grown": [contents(f"grown/ck:v{n}") for n in range(3)],
    "digest": wandb.Api().artifact("grown/ck:v1").digest == more.digest,
})
"""
    )
    assert told["empty"] == ["v0", 0, 0, [{}, 0]]
    assert told["grown"] == [
        [{"a": "alpha", "b": "beta"}, 9],
        [{"a": "alpha", "b": "BETA!", "c": "gamma"}, 15],
        [{"b": "BETA!", "c": "gamma", "d": "delta"}, 15],
    ]


def test_references_keep_their_place_and_other_artifacts_files(here: Here) -> None:
    """Versions that the server does not know yet are named by an id of the client's, which it maps later."""
    told = here.run(
        FILES
        + """
open("local.txt", "w").write("here")
with wandb.init(project="refs") as run:
    base = log(run, artifact("base", a="alpha"))
    made = wandb.Artifact("refs", "set")
    made.add_reference(f"file://{os.path.abspath('local.txt')}", name="local")
    made.add_reference("store://bucket/key", name="cloud", checksum=False)
    made.add_reference("http://127.0.0.1:9/x", name="web", checksum=False)
    made.add_reference(base.get_entry("a"), name="other")
    unsaved = artifact("unsaved", u="upsilon")
    made.add_reference(f"wandb-client-artifact://{unsaved._client_id}/u", name="of-client")
    log(run, unsaved)
    with made.new_file("own") as file: file.write("own")
    log(run, made)
fetched = wandb.Api().artifact("refs/refs:v0")
root = fetch(fetched, path_prefix="o")
fetch(fetched, path_prefix="l")
entries = fetched.manifest.entries
tell({
    "refs": {path: entry.ref for path, entry in sorted(entries.items()) if not path.startswith("o")},
    "other": entries["other"].ref.split("://")[0],
    "files": [file.name for file in fetched.files()],
    "fetched": {name: open(os.path.join(root, name)).read() for name in sorted(os.listdir(root))},
    "count": fetched.file_count,
    "here": os.path.abspath("local.txt"),
})
"""
    )
    here = f"file://{told.pop('here')}"
    assert told == {
        "refs": {"cloud": "store://bucket/key", "local": here, "web": "http://127.0.0.1:9/x"},
        "other": "wandb-artifact",
        "files": ["cloud", "local", "of-client", "other", "own", "web"],
        "fetched": {"local": "here", "of-client": "upsilon", "other": "alpha", "own": "own"},
        "count": 6,
    }


def test_several_runs_contribute_to_one_distributed_version(here: Here) -> None:
    told = here.run(
        FILES
        + """
for name in ("a", "b"):
    with wandb.init(project="spread", group="g", id=f"r-{name}") as run:
        run.upsert_artifact(artifact("parts", **{name: name * 3})) .wait()
with wandb.init(project="spread", group="g", id="last") as run:
    run.finish_artifact(artifact("parts", c="ccc"), aliases=["whole"]).wait()
    log(run, artifact("parts", z="z"))
fetched = wandb.Api().artifact("spread/parts:whole")
root = fetch(fetched); fetched.verify(root)
tell([fetched.version, sorted(os.listdir(root)), wandb.Api().artifact("spread/parts:v1").file_count])
"""
    )
    assert told == ["v0", ["a", "b", "c"], 1]


def test_large_files_come_in_ranges_and_caches_are_not_trusted(here: Here) -> None:
    told = here.run(
        FILES
        + """
from pathlib import Path
from wandb.sdk.artifacts.storage_policies import _multipart
usual = _multipart.multipart_download.__defaults__
_multipart.multipart_download.__defaults__ = (1 << 16,)
data = bytes(range(256)) * 1024
Path("big").write_bytes(data)
with wandb.init(project="ranges") as run:
    made = wandb.Artifact("big", "set")
    made.add_file(os.path.abspath("big"), policy="immutable", skip_cache=True)
    cached = list(Path(os.environ["WANDB_CACHE_DIR"]).rglob("obj"))
    run.log_artifact(made); made.wait()
fetched = wandb.Api().artifact("ranges/big:v0")
root = Path(fetched.download(root="ranged", multipart=True, skip_cache=True))
whole = (root / "big").read_bytes() == data
_multipart.multipart_download.__defaults__ = usual
(root / "big").write_bytes(bytes(len(data)))
fetched.download(root="ranged", skip_cache=True)
trusted = (root / "big").read_bytes() != data
try: fetched.verify(str(root)); noticed = False
except ValueError: noticed = True
tell({"uncached": not any(path.is_file() for obj in cached for path in obj.rglob("*")), "whole": whole,
      "trusted": trusted, "noticed": noticed})
"""
    )
    assert told == {"uncached": True, "whole": True, "trusted": True, "noticed": True}


def test_a_url_that_has_expired_is_asked_for_again(here: Here) -> None:
    told = here.run(
        FILES
        + """
with wandb.init(project="expired") as run: log(run, artifact("ck", a="alpha"))
fetched = wandb.Api().artifact("expired/ck:v0")
usual = fetched._fetch_file_urls
def expired(**page):
    found = usual(**page)
    for edge in found.edges:
        path, _, name = edge.node.direct_url.rpartition("/")
        vars(edge.node)["direct_url"] = f"{path[:-4]}AAAA/{name}"
    return found
fetched._fetch_file_urls = expired
tell(open(os.path.join(fetch(fetched), "a")).read())
"""
    )
    assert told == "alpha"


def test_a_download_past_the_cache_spoils_the_next_one_of_the_process(here: Here) -> None:
    """The client's own mistake, here so that nobody forgets to verify: the bytes are another file's."""
    told = here.run(
        FILES
        + """
with wandb.init(project="spoilt") as run:
    for name, text in (("one", "alpha"), ("two", "bravo")): log(run, artifact(name, f=text))
api = wandb.Api()
api.artifact("spoilt/one:v0").download(root="first", skip_cache=True)
two = api.artifact("spoilt/two:v0")
two.download(root="second")
try: two.verify("second"); noticed = False
except ValueError: noticed = True
tell([open("second/f").read(), noticed])
"""
    )
    assert told == ["alpha", True]
