"""Certificates and keys of a cluster: one per component, so that least privilege is real."""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mlenv_local.layout import CLUSTER_DOMAIN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlenv_local.layout import Layout

VALID_DAYS = 365
Usage = Literal["client", "server"]


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says: its file name, whom it names, for what, and under which addresses."""

    file: str
    common_name: str
    organizations: tuple[str, ...] = ()
    usages: tuple[Usage, ...] = ("client",)
    dns: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


# Components that talk to the API server, by the user name that Kubernetes' own roles are bound to.
CLIENTS = {
    "admin": ("mlenv-admin", ("system:masters",)),
    "kube-controller-manager": ("system:kube-controller-manager", ()),
    "kube-scheduler": ("system:kube-scheduler", ()),
    "kube-proxy": ("system:kube-proxy", ()),
    "coredns": ("mlenv:coredns", ()),
    "kwok": ("mlenv:kwok", ()),
}


def certificates(layout: Layout) -> list[Certificate]:
    """Every certificate of the cluster."""
    wanted = {file: who for file, who in CLIENTS.items() if file != "kwok" or layout.fake_nodes}
    clients = [Certificate(file, name, groups) for file, (name, groups) in wanted.items()]
    kubelets = [
        Certificate(node.name, f"system:node:{node.name}", ("system:nodes",)) for node in layout.nodes
    ]
    serving = [
        Certificate(
            f"{node.name}-serving",
            f"system:node:{node.name}",
            ("system:nodes",),
            ("server",),
            (node.name,),
            (str(node.address),),
        )
        for node in layout.nodes
    ]
    return [
        _api_server(layout),
        Certificate("kubelet-client", "mlenv:apiserver"),
        *clients,
        *kubelets,
        *serving,
    ]


def _api_server(layout: Layout) -> Certificate:
    names = ("localhost", "control", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
    full = f"kubernetes.default.svc.{CLUSTER_DOMAIN}"
    addresses = ("127.0.0.1", str(layout.control.address), str(layout.kubernetes_service))
    return Certificate("kube-apiserver", "kube-apiserver", (), ("server",), (*names, full), addresses)


class Authority:
    """A certificate authority that signs with P-256 keys."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name, ())
        self.certificate = (
            _builder(subject, subject, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(authority=True), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def issue(self, wanted: Certificate) -> tuple[bytes, bytes]:
        """Return the PEM certificate and the PEM key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(wanted.common_name, wanted.organizations)
        builder = _builder(subject, self.certificate.subject, key.public_key())
        builder = builder.add_extension(_key_usage(authority=False), critical=True)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([_USAGES[u] for u in wanted.usages]), critical=False
        )
        names = _alternative_names(wanted.dns, wanted.addresses)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _pem(builder.sign(self.key, hashes.SHA256())), _key_pem(key)


_USAGES = {"client": ExtendedKeyUsageOID.CLIENT_AUTH, "server": ExtendedKeyUsageOID.SERVER_AUTH}


def write_pki(layout: Layout) -> None:
    """Create all keys, certificates and kubeconfigs, unless an earlier call completed.

    Works in a draft folder that is renamed at the end: a crash leaves either everything or nothing.
    """
    if not layout.pki.exists():
        draft = layout.root / "pki.draft"
        draft.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_keys(layout, draft)
        draft.rename(layout.pki)
    if not layout.kubeconfig.exists():
        write_private(layout.kubeconfig, (layout.pki / "admin.kubeconfig").read_bytes())


def _write_keys(layout: Layout, folder: Path) -> None:
    authority = Authority(f"mlenv-{layout.name}")
    ca = _pem(authority.certificate)
    write_private(folder / "ca.crt", ca)
    write_private(folder / "ca.key", _key_pem(authority.key))
    for wanted in certificates(layout):
        certificate, key = authority.issue(wanted)
        write_private(folder / f"{wanted.file}.crt", certificate)
        write_private(folder / f"{wanted.file}.key", key)
        if "client" in wanted.usages:
            config = kubeconfig(
                cluster=layout.name,
                server=layout.server,
                user=wanted.file,
                ca=ca,
                certificate=certificate,
                key=key,
            )
            write_private(folder / f"{wanted.file}.kubeconfig", config.encode())
    signing = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    write_private(folder / "service-account.key", _key_pem(signing))
    public = signing.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_private(folder / "service-account.pub", public)


def kubeconfig(*, cluster: str, server: str, user: str, ca: bytes, certificate: bytes, key: bytes) -> str:
    """Return a self-contained kubeconfig."""
    context = f"mlenv-{cluster}"
    ca_data, certificate_data, key_data = (base64.b64encode(b).decode() for b in (ca, certificate, key))
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {"server": server, "certificate-authority-data": ca_data}}],
        "users": [
            {"name": user, "user": {"client-certificate-data": certificate_data, "client-key-data": key_data}}
        ],
        "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
        "current-context": context,
    }
    return str(yaml.safe_dump(content, sort_keys=False))


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


def _name(common_name: str, organizations: Sequence[str]) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in organizations]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # An hour of grace, as clocks of virtual machines jump when they are resumed.
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=VALID_DAYS))
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(dns: Sequence[str], addresses: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
    return [*names, *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses)]


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
