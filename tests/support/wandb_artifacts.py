"""Artifacts in tests: what programs of the real client have in common, and the server without the client."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wandb.sdk.artifacts.artifact_file_cache import _build_artifact_file_cache

from mlenv_local.wandb_server.artifacts import manifest

if TYPE_CHECKING:
    from wandb_server import Server

FILES = '''
def artifact(name, kind="set", **files):
    made = wandb.Artifact(name, kind)
    for path, text in files.items():
        with made.new_file(path) as file: file.write(text)
    return made
def log(run, made, **more):
    run.log_artifact(made, **more)
    return made.wait()
def fetch(made, root="out", **more):
    """What the server has, by a cache that is empty: skip_cache=True mixes files up (see its test)."""
    usual, fresh = os.environ["WANDB_CACHE_DIR"], os.path.abspath(f"cache-{len(os.listdir())}")
    os.environ["WANDB_CACHE_DIR"] = fresh
    try: return made.download(root=root, **more)
    finally: os.environ["WANDB_CACHE_DIR"] = usual
def births(made): return {path: entry.birth_artifact_id for path, entry in made.manifest.entries.items()}
'''


@dataclass
class Here:
    """The real client in the process of the tests, as user `ada`: for programs that do it no harm."""

    wandb: Any
    server: Server

    def run(self, code: str) -> Any:
        """Run a program; returns what it gave to `tell`, as JSON has it."""
        told: list[Any] = []
        _build_artifact_file_cache.cache_clear()  # it would still skip the cache if an earlier program did
        names = {"wandb": self.wandb, "os": os, "tell": lambda value: told.append(json.dumps(value))}
        exec(compile(code, "<program>", "exec"), names)
        return json.loads(told[-1]) if told else None


class Raw:
    """The server without the client: GraphQL and signed URLs as one user sends them."""

    def __init__(self, server: Server, key: str) -> None:
        self.server = server
        self.key = key

    def __call__(self, text: str, /, **variables: Any) -> Any:
        """Execute an operation; errors raise with the server's words."""
        body = json.dumps({"query": text, "variables": variables}).encode()
        status, raw, _ = self.http("POST", f"{self.server.url}/graphql", body, **self.basic())
        answer = json.loads(raw)
        if status != 200 or answer.get("errors"):
            raise RuntimeError(answer["errors"][0]["message"])
        return answer["data"]

    def mutate(self, name: str, returned: str, /, **fields: Any) -> Any:
        """One mutation with one input."""
        operation = f"{name[0].upper()}{name[1:]}"
        text = f"mutation {operation}($input: {operation}Input!) {{ {name}(input: $input) {{ {returned} }} }}"
        return self(text, input=fields)[name]

    def basic(self) -> dict[str, str]:
        """The header of the user."""
        return {"Authorization": f"Basic {base64.b64encode(f'api:{self.key}'.encode()).decode()}"}

    @staticmethod
    def http(method: str, url: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
        """One request; redirects are not followed. Headers are given with _ for -."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, body, named, method=method)
        try:
            with _opener.open(request, timeout=60) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    def begin(self, project: str, name: str, files: dict[str, bytes], **more: Any) -> Draft:
        """Announce a version with those files, and nothing of it uploaded."""
        entries = {path: {"digest": md5(data), "size": len(data)} for path, data in files.items()}
        whole = manifest.Manifest(entries)
        given = {"artifactTypeName": "set", "artifactCollectionNames": [name], "entityName": "ada"}
        given |= {"projectName": project, "digest": whole.digest(), **more}
        artifact = self.mutate("createArtifact", "artifact { id state }", **given)["artifact"]
        return Draft(self, artifact["id"], artifact["state"], whole.encode(), files, project)


@dataclass
class Draft:
    """A version that is being logged, step by step."""

    raw: Raw
    id: str
    state: str
    manifest: bytes
    files: dict[str, bytes]
    project: str

    def wanted(self, parts: dict[str, list[bytes]] | None = None) -> list[Any]:
        """What the server says of each file."""
        specs = [
            {
                "artifactID": self.id,
                "name": path,
                "md5": md5(data),
                "uploadPartsInput": [
                    {"partNumber": number, "hexMD5": hashlib.md5(part).hexdigest()}
                    for number, part in enumerate((parts or {}).get(path, ()), 1)
                ],
            }
            for path, data in self.files.items()
        ]
        urls = "uploadID uploadUrlParts { partNumber uploadUrl }"
        node = f"name storagePath uploadUrl uploadHeaders artifact {{ id }} uploadMultipartUrls {{ {urls} }}"
        given = {"artifactFiles": specs, "storageLayout": "V2", "cloudRegionID": None}
        answer = self.raw.mutate("createArtifactFiles", f"files {{ edges {{ node {{ {node} }} }} }}", **given)
        return [edge["node"] for edge in answer["files"]["edges"]]

    def send(self, wanted: Any) -> int:
        """Upload one file; returns the status."""
        headers = dict(one.split(":", 1) for one in wanted["uploadHeaders"])
        data = self.files[wanted["name"]]
        return self.raw.http("PUT", wanted["uploadUrl"], data, **headers)[0]

    def send_manifest(self, content: bytes | None = None, **more: Any) -> int:
        """Announce and upload the manifest; returns the status."""
        given = {"artifactID": self.id, "name": "wandb_manifest.json", "digest": md5(self.manifest)}
        given |= {"entityName": "ada", "projectName": self.project, "runName": "r", "type": "FULL", **more}
        made = self.raw.mutate(
            "createArtifactManifest", "artifactManifest { id file { uploadUrl } }", **given
        )
        url = made["artifactManifest"]["file"]["uploadUrl"]
        return self.raw.http("PUT", url, self.manifest if content is None else content)[0]

    def commit(self) -> Any:
        """Commit; returns the version."""
        fields = "artifact { id state versionIndex digest size fileCount }"
        return self.raw.mutate("commitArtifact", fields, artifactID=self.id)["artifact"]

    def log(self) -> Any:
        """Everything that is left."""
        for one in self.wanted():
            if one["uploadUrl"]:
                assert self.send(one) == 200
        assert self.send_manifest() == 200
        return self.commit()


def md5(data: bytes) -> str:
    """As manifests write it."""
    return base64.b64encode(hashlib.md5(data).digest()).decode()


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_Stay)
