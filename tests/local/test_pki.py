from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mlenv_local.layout import Layout
from mlenv_local.pki import certificates, write_pki

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout("t", 201, 2, state=tmp_path)
    made.root.mkdir()
    write_pki(made)
    return made


def load(layout: Layout, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((layout.pki / f"{name}.crt").read_bytes())


def test_every_certificate_is_signed_by_the_clusters_authority(layout: Layout) -> None:
    authority = load(layout, "ca")
    for wanted in certificates(layout):
        load(layout, wanted.file).verify_directly_issued_by(authority)


def test_a_node_is_named_as_the_node_authorizer_expects(layout: Layout) -> None:
    subject = load(layout, "node-2").subject
    assert subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "system:node:node-2"
    assert subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:nodes"


def test_only_the_administrator_is_all_powerful(layout: Layout) -> None:
    masters = [c.file for c in certificates(layout) if "system:masters" in c.organizations]
    assert masters == ["admin"]


def test_a_client_certificate_cannot_serve_and_a_server_certificate_cannot_log_in(layout: Layout) -> None:
    for wanted in certificates(layout):
        extension = load(layout, wanted.file).extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        is_server = ExtendedKeyUsageOID.SERVER_AUTH in extension.value
        is_client = ExtendedKeyUsageOID.CLIENT_AUTH in extension.value
        assert is_server != is_client


def test_the_api_server_answers_to_its_addresses(layout: Layout) -> None:
    names = load(layout, "kube-apiserver").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    addresses = {str(a) for a in names.value.get_values_for_type(x509.IPAddress)}
    assert {"127.0.0.1", str(layout.control.address), str(layout.kubernetes_service)} == addresses
    assert "kubernetes.default.svc" in names.value.get_values_for_type(x509.DNSName)


def test_keys_are_for_their_owner_alone(layout: Layout) -> None:
    assert all(path.stat().st_mode & 0o077 == 0 for path in [layout.pki, *layout.pki.iterdir()])
    assert layout.kubeconfig.stat().st_mode & 0o077 == 0


def test_the_kubeconfig_is_complete_in_itself(layout: Layout) -> None:
    config = yaml.safe_load(layout.kubeconfig.read_text())
    assert config["clusters"][0]["cluster"]["server"] == layout.server
    ca = base64.b64decode(config["clusters"][0]["cluster"]["certificate-authority-data"])
    assert x509.load_pem_x509_certificate(ca) == load(layout, "ca")


def test_a_second_call_keeps_what_is_there(layout: Layout) -> None:
    before = {path: path.read_bytes() for path in layout.pki.iterdir()}
    write_pki(layout)
    assert {path: path.read_bytes() for path in layout.pki.iterdir()} == before


def test_a_crash_half_way_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    layout = Layout("t", 201, 1, state=tmp_path)
    draft = layout.root / "pki.draft"
    draft.mkdir(parents=True)
    (draft / "ca.crt").write_text("half")
    write_pki(layout)
    load(layout, "node-1").verify_directly_issued_by(load(layout, "ca"))
