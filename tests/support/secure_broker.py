"""A broker with TLS and SASL listeners, its certificates from a test authority, its users and permissions."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from broker import Broker, free_port
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

HOST = "127.0.0.1"
# Quoted in JAAS text and YAML as they are; long enough to be found in a haystack by nobody's accident.
CANARY = "Canary-7f3a91c2-pass-word"
WRONG = "Canary-0b44de58-wrong-one"
KEY_CANARY = "Canary-e81d6c70-key-phrase"
USERS = ("service", "admin")
# (TOPIC, GROUP or TRANSACTIONAL_ID; LITERAL or PREFIXED; name; READ, WRITE, ...), as Kafka calls them.
Permission = tuple[str, str, str, str]

_AUTHORITY = """
[ca]
default_ca = own
[own]
database = {folder}/index.txt
serial = {folder}/serial
new_certs_dir = {folder}
certificate = {folder}/ca.pem
private_key = {folder}/ca.key
default_md = sha256
policy = names
unique_subject = no
[names]
commonName = supplied
"""
_LEAF = """basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""


class Authority:
    """Signs certificates, by OpenSSL's own commands; `ca` is what a client has to trust."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.ca = folder, folder / "ca.pem"
        (folder / "index.txt").touch()
        (folder / "serial").write_text("01\n")
        (folder / "ca.cnf").write_text(_AUTHORITY.format(folder=folder))
        _openssl(
            "req", "-x509", *_new_key(folder / "ca.key"), "-out", self.ca, "-days", "2",
            "-subj", "/CN=test authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip

    def certify(self, name: str, names: str = f"IP:{HOST}", until: str = "") -> Path:
        """One PEM file with key and certificate; `until` as YYMMDDHHMMSSZ, otherwise two days from now."""
        key, request, leaf, both = (self.folder / f"{name}.{end}" for end in ("key", "csr", "crt", "pem"))
        extensions = self.folder / f"{name}.ext"
        extensions.write_text(_LEAF.format(names=names))
        _openssl("req", *_new_key(key), "-out", request, "-subj", f"/CN={name}")
        when = ["-startdate", "200101000000Z", "-enddate", until] if until else ["-days", "2"]
        _openssl(
            "ca", "-batch", "-notext", "-config", self.folder / "ca.cnf", "-extfile", extensions,
            "-in", request, "-out", leaf, *when,
        )  # fmt: skip
        both.write_text(key.read_text() + leaf.read_text())
        return both

    def lock(self, certified: Path, phrase: str) -> Path:
        """The same key, to be opened with a phrase."""
        locked = certified.with_suffix(".locked")
        secret = certified.with_suffix(".phrase")
        secret.write_text(phrase)
        _openssl(
            "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-in", certified, "-out", locked, "-passout", f"file:{secret}"
        )
        return locked


def _new_key(path: Path) -> list[object]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path]


def _openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.decode(errors="replace")[-2000:])


class SecureBroker(Broker):
    """PLAINTEXT is the tests' own way in and may do everything; the others are what is tested.

    `at` names the listeners: ssl (a client certificate is needed), sasl (SCRAM and PLAIN over TLS), brief (the same, an
    authentication holds for `reauth_ms`), elsewhere (its certificate is for another host), expired (for last year).
    """

    def __init__(self, folder: Path, authority: Authority, reauth_ms: int = 5000) -> None:
        kinds = ("ssl", "sasl", "brief", "elsewhere", "expired")
        self.at = {kind: f"{HOST}:{free_port()}" for kind in kinds}
        controller = f"{HOST}:{free_port()}"
        protocol = {kind: "SASL_SSL" if kind in ("sasl", "brief") else "SSL" for kind in kinds}
        good = authority.certify("broker")
        certificate = {
            **dict.fromkeys(kinds, good),
            "elsewhere": authority.certify("elsewhere", names="DNS:kafka.example.org"),
            "expired": authority.certify("expired", until="210101000000Z"),
        }
        plain = " ".join(f'user_{user}="{CANARY}"' for user in USERS)
        jaas = "org.apache.kafka.common.security"
        settings = {
            "listeners": ",".join(
                [f"PLAINTEXT://{HOST}:@PORT@", f"CONTROLLER://{controller}"]
                + [f"{kind.upper()}://{server}" for kind, server in self.at.items()]
            ),
            "advertised.listeners": ",".join(
                [f"PLAINTEXT://{HOST}:@PORT@"] + [f"{kind.upper()}://{server}" for kind, server in self.at.items()]
            ),
            "controller.quorum.bootstrap.servers": controller,
            "inter.broker.listener.name": "PLAINTEXT",
            "listener.security.protocol.map": ",".join(
                ["PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT"]
                + [f"{kind.upper()}:{name}" for kind, name in protocol.items()]
            ),
            "ssl.keystore.type": "PEM",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(authority.ca),
            "listener.name.ssl.ssl.client.auth": "required",
            "listener.name.brief.connections.max.reauth.ms": str(reauth_ms),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:admin;User:CN=client",
        }
        for kind, file in certificate.items():
            settings[f"listener.name.{kind}.ssl.keystore.location"] = str(file)
        for kind in ("sasl", "brief"):
            own = f"listener.name.{kind}"
            settings[f"{own}.sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
            settings[f"{own}.plain.sasl.jaas.config"] = f"{jaas}.plain.PlainLoginModule required {plain};"
            for size in (256, 512):
                settings[f"{own}.scram-sha-{size}.sasl.jaas.config"] = f"{jaas}.scram.ScramLoginModule required;"
        super().__init__(folder, **settings)
        for user in USERS:
            for size in (256, 512):
                self.format_options += ["--add-scram", f"SCRAM-SHA-{size}=[name={user},password={CANARY}]"]

    def permit(self, user: str, permissions: Iterable[Permission]) -> None:
        """These, and nothing that was permitted to the user before."""
        admin = AdminClient({"bootstrap.servers": self.servers})
        every = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{user}", None, AclOperation.ANY,
            AclPermissionType.ANY,
        )  # fmt: skip
        bindings = [
            AclBinding(
                ResourceType[kind], name, ResourcePatternType[pattern], f"User:{user}", "*", AclOperation[operation],
                AclPermissionType.ALLOW,
            )
            for kind, pattern, name, operation in permissions
        ]  # fmt: skip
        # One after the other: sent together, what is permitted may be deleted along with what was.
        for done in admin.delete_acls([every]).values():
            done.result(10)
        for done in (admin.create_acls(bindings) if bindings else {}).values():
            done.result(10)
        deadline = time.monotonic() + 10
        while {str(binding) for binding in admin.describe_acls(every).result(10)} != {str(each) for each in bindings}:
            assert time.monotonic() < deadline, "the broker does not come to know its permissions"
            time.sleep(0.05)

    def change_password(self, user: str, password: str) -> None:
        """For logins by SCRAM-SHA-512 from now on."""
        change = UserScramCredentialUpsertion(
            user, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), password.encode()
        )
        admin = AdminClient({"bootstrap.servers": self.servers})
        for done in admin.alter_user_scram_credentials([change]).values():
            done.result(10)
