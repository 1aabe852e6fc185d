"""A broker that wants certificates, passwords and permissions: what is right works, what is wrong is reported at once."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from inside import make_topics, produce, serving
from pages import address, page
from secure_broker import CANARY, HOST, KEY_CANARY, WRONG, Authority, Permission, SecureBroker
from service import Forked, Process, command, configure, drained, each, sources

from simulators.faultproxy import FaultProxy
from streamrnn.config.settings import Settings, load
from streamrnn.serving.topics import examine, input_state, refuse
from streamrnn.transports.base import OperatorNeeded
from streamrnn.transports.kafka.transport import KafkaTransport

pytestmark = pytest.mark.kafka
CLIENT = "client"
DEPLOY = Path(__file__).parents[2] / "deploy" / "README.md"


class Keys:
    """The files that a client needs; `login` gives the configuration for one of the broker's listeners."""

    def __init__(self, authority: Authority) -> None:
        self.ca = str(authority.ca)
        self.certificate = authority.certify(CLIENT)
        self.locked = authority.lock(self.certificate, KEY_CANARY)
        self.password, self.wrong = authority.folder / "password", authority.folder / "wrong"
        self.password.write_text(CANARY + "\n")
        self.wrong.write_text(WRONG)

    def login(self, server: str, user: str = "", **changes: Any) -> dict[str, Any]:
        """By a certificate, or by a user's password."""
        common = {"bootstrap_servers": server, "ssl_cafile": self.ca, "request_timeout_ms": 5000}
        if not user:
            return {**common, "security_protocol": "SSL", "ssl_certfile": str(self.certificate), **changes}
        own = {"sasl_plain_username": user, "sasl_plain_password_file": str(self.password)}
        return {**common, **own, "security_protocol": "SASL_SSL", **changes}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority") / "own")


@pytest.fixture(scope="module")
def keys(authority: Authority) -> Keys:
    return Keys(authority)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[SecureBroker]:
    running = SecureBroker(tmp_path_factory.mktemp("secure") / "kafka", authority)
    yield running.start()  # type: ignore[misc]
    running.stop()


@asynccontextmanager
async def counted(server: str) -> AsyncIterator[FaultProxy]:
    """A way to the server that counts connections."""
    host, _, port = server.rpartition(":")
    proxy = await FaultProxy((host, int(port))).start()
    try:
        yield proxy
    finally:
        await proxy.stop()


async def ended(process: Process, timeout_s: float = 60.0) -> tuple[int, str]:
    """(exit code, what it wrote), without holding up the event loop."""
    async with asyncio.timeout(timeout_s):
        while process.exit_code() is None:
            await asyncio.sleep(0.02)
    return process.exit_code(), process.said()  # type: ignore[return-value]


def complaint(said: str) -> str:
    """The one line that says why; no traceback, no secret anywhere."""
    assert "Traceback" not in said, said
    assert not any(secret in said for secret in (CANARY, WRONG, KEY_CANARY))
    lines = [line for line in said.splitlines() if line.startswith("streamrnn: ")]
    assert len(lines) == 1, said
    return lines[0]


# ── who is let in ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("listener", "user", "changes"),
    [
        ("ssl", "", {}),
        ("ssl", "", {"ssl_keyfile": "locked", "ssl_password": KEY_CANARY}),
        ("sasl", "admin", {"sasl_mechanism": "SCRAM-SHA-256"}),
        # The same way as 256, by one word of aiokafka's.
        pytest.param("sasl", "admin", {"sasl_mechanism": "SCRAM-SHA-512"}, marks=pytest.mark.kafka_long),
        ("sasl", "admin", {"sasl_mechanism": "PLAIN"}),
    ],
    ids=["certificate", "locked-key", "scram-256", "scram-512", "plain"],
)
async def test_right_settings_serve(
    secure: SecureBroker, keys: Keys, tmp_path: Path, unique: Callable[[str], str], listener: str, user: str,
    changes: dict[str, Any],
) -> None:  # fmt: skip
    if changes.get("ssl_keyfile"):
        changes = {**changes, "ssl_keyfile": str(keys.locked)}
    login = keys.login(secure.at[listener], user, **changes)
    config = configure(tmp_path, secure, unique("let-in"), kafka={**login, "session_timeout_ms": 6000})
    chosen = load([config], {}, {})
    await make_topics(secure, chosen)
    await produce(secure, chosen.input, 0, 0, 20)
    async with serving(chosen):
        await drained(secure, chosen.app)
    assert set(await sources(secure, chosen.app)) == {(0, offset) for offset in range(20)}
    code, said = await ended(Forked(tmp_path / "log", "validate", "-c", config))
    assert code == 0, said
    assert CANARY not in said
    assert KEY_CANARY not in said


REFUSED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "wrong-password": ("sasl", "admin", {"sasl_plain_password_file": "wrong"}, "refused user 'admin' by SCRAM-SHA-512"),
    "wrong-password-plain": (
        "sasl",
        "admin",
        {"sasl_plain_password_file": "wrong", "sasl_mechanism": "PLAIN"},
        "refused user 'admin' by PLAIN",
    ),
    "unknown-user": ("sasl", "nobody", {}, "refused user 'nobody'"),
    "other-host": ("elsewhere", "", {}, "certificate is not valid for '127.0.0.1'"),
    "expired": ("expired", "", {}, "certificate has expired"),
    "unknown-authority": ("ssl", "", {"ssl_cafile": None}, "unable to get local issuer certificate"),
    "no-certificate": ("ssl", "", {"ssl_certfile": None}, "kafka.ssl_certfile"),
    "plaintext-to-tls": ("ssl", "", {"security_protocol": "PLAINTEXT"}, "does that port speak TLS"),
    "tls-to-plaintext": ("plain", "", {}, "is that port a TLS port"),
    "locked-key": ("ssl", "", {"ssl_keyfile": "locked"}, "its ssl_password"),
    "locked-key-wrong": ("ssl", "", {"ssl_keyfile": "locked", "ssl_password": WRONG}, "its ssl_password"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_wrong_ends_the_start_with_its_reason(
    secure: SecureBroker, keys: Keys, tmp_path: Path, case: str
) -> None:
    listener, user, changes, words = REFUSED[case]
    files = {"wrong": str(keys.wrong), "locked": str(keys.locked)}
    async with counted({**secure.at, "plain": secure.servers}[listener]) as way:
        login = keys.login(f"{HOST}:{way.port}", user)
        login |= {key: files.get(value, value) if isinstance(value, str) else value for key, value in changes.items()}
        config = configure(tmp_path, secure, "app", kafka={k: v for k, v in login.items() if v is not None})
        code, said = await ended(Forked(tmp_path / "log", "validate", "-c", config))
        assert code == 3, said
        assert words in complaint(said)
        assert said.strip() == complaint(said)  # nothing else: no prompt, no line of the client's
        assert way.accepted <= 2  # the client's, and the one that asks for the reason


@pytest.mark.parametrize("command", ["run", "train", "topics"])
async def test_every_command_says_so(secure: SecureBroker, keys: Keys, tmp_path: Path, command: str) -> None:
    async with counted(secure.at["sasl"]) as way:
        login = keys.login(f"{HOST}:{way.port}", "admin", sasl_plain_password_file=str(keys.wrong))
        log, learn = {"level": "debug", "format": "json"}, {"idle": False}
        config = configure(tmp_path, secure, "app", kafka=login, log=log, learn=learn)
        code, said = await ended(Forked(tmp_path / "log", command, "-c", config))
        assert code == 3, said
        assert "refused user 'admin'" in complaint(said)
        assert way.accepted <= 2


async def test_no_password_is_sent_in_the_open(tmp_path: Path, secure: SecureBroker, keys: Keys) -> None:
    login = keys.login("192.0.2.1:9092", "admin", security_protocol="SASL_PLAINTEXT")
    config = configure(tmp_path, secure, "app", kafka=login)
    code, said = await ended(Forked(tmp_path / "log", "run", "-c", config))
    assert code == 3
    assert "SASL_PLAINTEXT would send credentials" in complaint(said)


# ── who may do what ──────────────────────────────────────────────────────────────────────────────────────────────


def documented(app: str, input_topic: str) -> list[Permission]:
    """The permissions that deploy/README.md names, for a broker of today."""
    names = {"<app>": app, "<input>": input_topic}
    found: list[Permission] = []
    for kinds, resources, rest, operations in re.findall(
        r"^\| (topics|groups|transactional ids) ((?:`[^`]+`(?:, )?)+)([^|]*)\| ([^|]+) \|$", DEPLOY.read_text(), re.M
    ):
        if "with several" in rest.split(";")[0]:
            continue
        for resource in re.findall(r"`([^`]+)`", resources):
            name = re.sub("<app>|<input>", lambda match: names[match[0]], resource).removesuffix("*")
            pattern = "PREFIXED" if "prefixed" in rest else "LITERAL"
            for operation in operations.split(", "):
                kind, wanted = kinds.removesuffix("s").upper().replace(" ", "_"), operation.strip().upper()
                found.append((kind, pattern, name, wanted.replace("DESCRIBECONFIGS", "DESCRIBE_CONFIGS")))
    assert len(found) == 4 + 2 * 3 + 2 + 1
    return found


async def permitted(
    secure: SecureBroker, keys: Keys, folder: Path, app: str, **changes: Any
) -> tuple[Path, Settings, list[Permission]]:
    """A service whose user has the documented permissions and no other, with ten ticks to serve."""
    config = configure(folder, secure, app, kafka=keys.login(secure.at["sasl"], "service"), **changes)
    chosen = load([config], {}, {})
    await make_topics(secure, chosen)
    await produce(secure, chosen.input, 0, 0, 10)
    permissions = documented(app, chosen.input)
    secure.permit("service", permissions)
    return config, chosen, permissions


@pytest.mark.parametrize("delivery", [pytest.param("at-least-once", marks=pytest.mark.kafka_long), "exactly-once"])
async def test_the_documented_permissions_are_enough(
    secure: SecureBroker, keys: Keys, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    _, chosen, _ = await permitted(secure, keys, tmp_path, unique("permitted"), delivery=delivery)
    for round_ in range(2):  # the second one reads the state
        async with serving(chosen) as worker:
            await drained(secure, chosen.app)
            assert worker.observer.metrics.cold_starts._value.get() == 0
        await produce(secure, chosen.input, 0, 10 * (round_ + 1), 10)
    seen = await sources(secure, chosen.app)
    assert dict(seen) == dict.fromkeys([(0, offset) for offset in range(20)], 1)


async def test_a_permission_that_is_missing_is_named(
    secure: SecureBroker, keys: Keys, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    _, chosen, permissions = await permitted(secure, keys, tmp_path, unique("denied"), train="auto")
    transport = KafkaTransport(chosen.kafka_settings())
    admin = transport.admin()
    await admin.start()
    needed = [(name, operation) for kind, _, name, operation in permissions if kind == "TOPIC"]
    for topic, operation in needed:
        secure.permit("service", [given for given in permissions if given[2:] != (topic, operation)])
        if operation == "DESCRIBE_CONFIGS":
            refuse(await examine(admin, chosen, await input_state(admin, chosen, transport)))
            continue
        with pytest.raises(OperatorNeeded) as raised:
            refuse(await examine(admin, chosen, await input_state(admin, chosen, transport)))
        # Who has no permission at all does not even see that the topic is there.
        alone = [name for name, _ in needed].count(topic) == 1
        assert f"{topic}: {'missing' if alone else operation.title() + ' not permitted'}" in str(raised.value)
    await admin.stop()


@pytest.mark.parametrize(
    ("without", "words"),
    [
        ("app.state", "app.state: Read not permitted"),
        ("app", "group app: Read not permitted"),
        ("app-app.ticks-", "transactional id app-app.ticks-0: Write not permitted"),
    ],
    ids=["topic", "group", "transactional-id"],
)
async def test_a_worker_that_may_not_ends_at_once(
    secure: SecureBroker, keys: Keys, tmp_path: Path, unique: Callable[[str], str], without: str, words: str
) -> None:
    app = unique("may-not")
    config, chosen, permissions = await permitted(secure, keys, tmp_path, app, delivery="exactly-once")
    missing = re.sub(r"\bapp\b", app, without)
    kept = [given for given in permissions if given[2:] != (missing, "READ") and given[2:] != (missing, "WRITE")]
    assert len(kept) < len(permissions)
    # Otherwise the topic could not be seen.
    kept += [("TOPIC", "LITERAL", missing, "WRITE")] if missing == chosen.topics.state else []
    secure.permit("service", kept)
    code, said = await ended(Forked(tmp_path / "log", "run", "-c", config))
    assert code == 3, said
    assert re.sub(r"\bapp\b", app, words) in complaint(said)
    assert "rebuilt" not in said
    report = command("validate", "-c", config, check=False)
    assert re.sub(r"\bapp\b", app, words) in report
    assert report.count("not permitted") == 1


@pytest.mark.kafka_long
async def test_a_permission_taken_away_ends_the_worker_with_nothing_committed(
    secure: SecureBroker, keys: Keys, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    config, chosen, permissions = await permitted(secure, keys, tmp_path, unique("revoked"))
    worker = Forked(tmp_path / "log", "run", "-c", config)
    await drained(secure, chosen.app)
    secure.permit("service", [given for given in permissions if given[2] != chosen.topics.forecasts])
    await produce(secure, chosen.input, 0, 10, 10)
    code, said = await ended(worker)
    assert code == 3
    assert f"delivering to {chosen.topics.forecasts}" in complaint(said)
    secure.permit("service", permissions)
    async with serving(chosen):
        await drained(secure, chosen.app)
    assert set(await sources(secure, chosen.app)) == {(0, offset) for offset in range(20)}


# ── what must stay secret ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.kafka_long
async def test_secrets_are_nowhere_to_be_read(
    secure: SecureBroker, keys: Keys, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    login = keys.login(
        secure.at["sasl"], "admin", ssl_certfile=str(keys.certificate), ssl_keyfile=str(keys.locked),
        ssl_password=KEY_CANARY,
    )  # fmt: skip
    config = configure(
        tmp_path, secure, unique("canary"), kafka=login, train="auto", log={"level": "debug", "format": "json"},
        checkpoint={"interval": "200ms"},
    )  # fmt: skip
    chosen = load([config], {}, {})
    await make_topics(secure, chosen)
    await produce(secure, chosen.input, 0, 0, 200)
    worker = Process(tmp_path / "log", "run", "-c", config)
    try:
        where = address(worker)
        await drained(secure, chosen.app)
        async with asyncio.timeout(60):
            while "streamrnn_trainer_up 1" not in (await page(f"{where}/metrics"))[1] or (
                '"state":"' not in (await page(f"{where}/api/status"))[1]
            ):
                await asyncio.sleep(0.2)
        arguments = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
        shown = [" ".join(process.cmdline()) for process in arguments]
        assert any("train --supervised" in text for text in shown)
        paths = ("", "app.js", "style.css", "livez", "readyz", "metrics", "api/status", "api/config", "api/series")
        pages = [(await page(f"{where}/{path}"))[1] for path in (*paths, "api/series/s0", "nowhere")]
        assert "sasl_plain_username" in "".join(pages)  # the configuration is among them
        shown += pages
    finally:
        assert worker.stop() == 0
    shown.append(worker.said())
    for topic in (chosen.topics.state, chosen.topics.forecasts, chosen.topics.dlq, chosen.topics.models):
        shown += [repr((r.key, r.value, r.headers)) async for r in each(secure, topic)]
    assert len(shown) > 200
    assert not [text for text in shown if CANARY in text or KEY_CANARY in text]


# ── logins that end ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.kafka_long
@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
async def test_logins_that_hold_for_five_seconds_cost_nothing(
    secure: SecureBroker, keys: Keys, tmp_path: Path, unique: Callable[[str], str], delivery: str
) -> None:
    """The broker ends connections whose login has expired: aiokafka does not renew it (KIP-368, aiokafka #1080)."""
    login = keys.login(secure.at["brief"], "admin", session_timeout_ms=6000)
    config = configure(tmp_path, secure, unique("brief"), kafka=login, delivery=delivery)
    chosen = load([config], {}, {})
    await make_topics(secure, chosen)
    worker = Forked(tmp_path / "log", "run", "-c", config)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < 22:
        await produce(secure, chosen.input, count // 100 % 2, count, 100)
        count += 100
        await asyncio.sleep(0.2)
    await drained(secure, chosen.app)
    assert worker.stop() == 0
    seen = await sources(secure, chosen.app)
    assert len(seen) == count
    rebuilds = worker.said().count("clients are rebuilt")
    doubled = sum(1 for times in seen.values() if times > 1)
    print(f"\n{delivery}: {count} records in 22 s, {rebuilds} rebuilds, {doubled} said more than once")
    assert rebuilds <= 8
    assert delivery == "at-least-once" or doubled == 0


@pytest.mark.kafka_long
async def test_a_changed_password_is_taken_from_its_file(
    secure: SecureBroker, keys: Keys, tmp_path: Path, unique: Callable[[str], str]
) -> None:
    secret = tmp_path / "password"
    secret.write_text(CANARY)
    login = keys.login(secure.at["brief"], "admin", sasl_plain_password_file=str(secret), session_timeout_ms=6000)
    chosen = load([configure(tmp_path, secure, unique("rotated"), kafka=login, stall_after="2s")], {}, {})
    await make_topics(secure, chosen)
    await produce(secure, chosen.input, 0, 0, 10)
    try:
        async with serving(chosen) as worker:
            await drained(secure, chosen.app)
            secure.change_password("admin", WRONG)
            secret.write_text(WRONG)
            await asyncio.sleep(6)  # by then every connection's login has expired
            await produce(secure, chosen.input, 0, 10, 10)
            await drained(secure, chosen.app, 60)
            assert worker.observer.metrics.rebuilds._value.get() >= 1
    finally:
        secure.change_password("admin", CANARY)
    assert set(await sources(secure, chosen.app)) == {(0, offset) for offset in range(20)}
