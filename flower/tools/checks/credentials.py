#!/usr/bin/env python3
"""Make what a Flower federation with TLS and SuperNode authentication needs: a certificate authority, a
certificate for the SuperLink, and a key pair for each SuperNode.

    python3 flower/tools/checks/credentials.py DIR --host superlink.example.org --nodes 4

DIR gets ca.crt, server.pem and server.key (`flower-superlink --ssl-ca-certfile --ssl-certfile
--ssl-keyfile`), ca.key, and node-0, node-0.pub … (`flower-supernode --auth-supernode-private-key`, `flwr
supernode register`). SuperNodes and the `flwr` command trust the SuperLink by ca.crt. Keys are P-384,
readable by their owner only; a file that is there is never replaced. For a test or a small federation: larger
ones have an authority already. Needs what flwr brings along.
"""

import argparse
import datetime
import ipaddress
import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAYS = 365


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument(
        "--host", action="append", default=[], help="a name or address of the SuperLink; may be repeated"
    )
    parser.add_argument("--nodes", type=int, default=0, help="how many SuperNode key pairs")
    args = parser.parse_args()
    try:
        make_certificates(args.folder, args.host)
        for number in range(args.nodes):
            make_node_key(args.folder, number)
    except FileExistsError as error:
        sys.exit(f"{error.filename} is there already, nothing is replaced; name an empty folder")


def make_certificates(folder: Path, hosts: list[str]) -> None:
    """An authority and a certificate of the SuperLink, for the hosts given, localhost and 127.0.0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    authority_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    authority_name, server_name = _name("Federation CA"), _name("SuperLink")
    authority = (
        _certificate(authority_name, authority_name, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    server = (
        _certificate(server_name, authority_name, server_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_host(host) for host in ["localhost", "127.0.0.1", *hosts]]),
            critical=False,
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA384())
    )
    _write(folder / "ca.key", _pem(authority_key), secret=True)
    _write(folder / "ca.crt", authority.public_bytes(serialization.Encoding.PEM))
    _write(folder / "server.key", _pem(server_key), secret=True)
    _write(folder / "server.pem", server.public_bytes(serialization.Encoding.PEM))


def make_node_key(folder: Path, number: int) -> Path:
    """A SuperNode's key pair in OpenSSH's form, as `ssh-keygen -t ecdsa -b 384` makes it; the private key's
    path."""
    key = ec.generate_private_key(ec.SECP384R1())
    path = folder / f"node-{number}"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    _write(path, private, secret=True)
    _write(path.with_suffix(".pub"), public + b"\n")
    return path


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=DAYS))
    )


def _usage(sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, secret: bool = False) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


if __name__ == "__main__":
    main()
