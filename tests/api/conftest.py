"""A real etcd and kube-apiserver with our CRDs, and nothing else: no kubelet, no controllers."""

from __future__ import annotations

import json
import secrets
import signal
import ssl
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from crowd.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
READY_SECONDS = 300


@dataclass(frozen=True)
class Kubectl:
    """kubectl, bound to the server under test."""

    program: Path
    kubeconfig: Path

    def run(self, *args: str, stdin: object = None) -> subprocess.CompletedProcess[str]:
        text = None if stdin is None else json.dumps(stdin)
        return subprocess.run(
            [self.program, "--kubeconfig", str(self.kubeconfig), *args],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def ok(self, *args: str, stdin: object = None) -> str:
        done = self.run(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def error(self, *args: str, stdin: object = None) -> str:
        done = self.run(*args, stdin=stdin)
        assert done.returncode != 0, f"should have been rejected: {done.stdout}"
        return done.stderr.strip()

    def json(self, *args: str) -> Any:
        return json.loads(self.ok(*args, "-o", "json"))


def _start(program: Path, folder: Path, *args: str) -> subprocess.Popen[bytes]:
    with (folder / f"{program.name}.log").open("wb") as log:
        return subprocess.Popen([program, *args], stdout=log, stderr=log, cwd=folder)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_ready(url: str, folder: Path, process: subprocess.Popen[bytes]) -> None:
    context = ssl._create_unverified_context()  # a certificate the server made for itself, on loopback
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "kube-apiserver.log").read_text()[-4000:]
        try:
            with urllib.request.urlopen(f"{url}/readyz", context=context, timeout=10):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"kube-apiserver is not ready: {(folder / 'kube-apiserver.log').read_text()[-4000:]}")


def _api_server(tools: Path, folder: Path, etcd: str, port: int, token: str) -> subprocess.Popen[bytes]:
    (folder / "tokens.csv").write_text(f"{token},admin,admin,system:masters\n")
    key = folder / "sa.key"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    return _start(
        tools / "kube-apiserver",
        folder,
        f"--etcd-servers={etcd}",
        "--bind-address=127.0.0.1",
        "--advertise-address=192.0.2.1",  # a loopback address is refused; nothing ever dials this one
        f"--secure-port={port}",
        f"--cert-dir={folder}/certs",
        f"--token-auth-file={folder}/tokens.csv",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-cluster-ip-range=10.255.0.0/24",
        "--disable-admission-plugins=ServiceAccount",
    )


def _kubeconfig(folder: Path, url: str, token: str) -> Path:
    path = folder / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "c",
                "cluster": {"server": url, "certificate-authority": f"{folder}/certs/apiserver.crt"},
            }
        ],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
        "current-context": "c",
    }
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="session")
def api_server(
    tmp_path_factory: pytest.TempPathFactory, tools: Path, kubectl_path: Path
) -> Iterator[Kubectl]:
    """A bare API server, without our CRDs."""
    folder = tmp_path_factory.mktemp("apiserver")
    client, peer, port = free_port(), free_port(), free_port()
    etcd_url, url = f"http://127.0.0.1:{client}", f"https://127.0.0.1:{port}"
    etcd = _start(
        tools / "etcd",
        folder,
        f"--data-dir={folder}/etcd",
        "--unsafe-no-fsync",
        f"--listen-client-urls={etcd_url}",
        f"--advertise-client-urls={etcd_url}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
    )
    try:
        token = secrets.token_hex(16)
        server = _api_server(tools, folder, etcd_url, port, token)
        try:
            _wait_ready(url, folder, server)
            yield Kubectl(kubectl_path, _kubeconfig(folder, url, token))
        finally:
            _stop(server)
    finally:
        _stop(etcd)


@pytest.fixture(scope="session")
def kubectl(api_server: Kubectl) -> Kubectl:
    """kubectl against a server that has our CRDs."""
    api_server.ok("apply", "--server-side", "-f", str(ROOT / "crds"))
    api_server.ok("wait", "--for=condition=Established", "--timeout=120s", "-f", str(ROOT / "crds"))
    return api_server
