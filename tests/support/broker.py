"""Apache Kafka itself (KRaft, one node) for tests and benchmarks, from a distribution found by KAFKA_HOME."""

from __future__ import annotations

import base64
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from pathlib import Path
from unittest import mock

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "num.partitions": "4",
    "auto.create.topics.enable": "false",
    # One node: one replica of the internal topics, and few partitions, for each costs time when it is first used.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # Tests do not wait: members join at once, and are missed after half a second.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    "log.cleaner.backoff.ms": "1000",
    # Simulated ticks carry times of years ago, which retention would take at its word.
    "log.retention.ms": "-1",
    # Topics of tests that have a retention are looked at soon.
    "log.retention.check.interval.ms": "1000",
    "log.initial.task.delay.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "2",
}


def kafka_home() -> Path | None:
    """The distribution to use: KAFKA_HOME, or the one whose commands are on the PATH."""
    home = os.environ.get("KAFKA_HOME")
    if home:
        return Path(home)
    found = shutil.which("kafka-server-start.sh")
    return Path(found).resolve().parents[1] if found else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def quick_java(kept: Path, folder: Path) -> str:
    """For KAFKA_OPTS: brokers that live for seconds are there in half the time, and take a third of the processor.

    One compiler instead of two, and classes from an archive (JEP 350) in `kept`, which the first broker writes as it ends; it
    runs in `folder`. A Java that cannot use the archive passes it by.
    """
    quick, archive = "-XX:TieredStopAtLevel=1", kept / "classes.jsa"
    if not archive.exists():
        written = kept / f"{uuid.uuid4().hex}.jsa"
        with mock.patch.dict(os.environ, {"KAFKA_OPTS": f"{quick} -XX:ArchiveClassesAtExit={written}"}):
            first = Broker(folder).start()
            first.create("topic", 1)
            first.stop()
        if not written.exists():
            return quick
        written.replace(archive)
    return f"{quick} -XX:SharedArchiveFile={archive}"


class Broker:
    """One broker in a folder; start, stop, kill -9, freeze and go on, on the same data and port."""

    def __init__(self, folder: Path, cpu: str = "", **settings: str) -> None:
        home = kafka_home()
        if home is None:
            raise RuntimeError("no Kafka: set KAFKA_HOME to a distribution")
        self.home, self.folder, self.cpu = home, folder, cpu
        self.port, controller = free_port(), free_port()
        self.servers = f"127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        values = {
            **PROPERTIES,
            "listeners": f"PLAINTEXT://{self.servers},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.servers}",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "log.dirs": str(folder / "data"),
            **{name.replace("__", "."): value.replace("@PORT@", str(self.port)) for name, value in settings.items()},
        }
        self.properties = folder / "server.properties"
        self.properties.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        self.format_options: list[str] = []

    def start(self, timeout_s: float = 60.0) -> Broker:
        if not (self.folder / "data").exists():
            cluster = "K" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]  # no leading dash
            self._run(
                "kafka-storage.sh", "format", "--standalone", "-t", cluster, "-c", self.properties, *self.format_options
            )
        command = [str(self.home / "bin" / "kafka-server-start.sh"), str(self.properties)]
        if self.cpu:
            command = ["taskset", "-c", self.cpu, *command]
        with (self.folder / "log").open("wb") as log:
            environment = self._environment()
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        begin = time.monotonic()
        while time.monotonic() - begin < timeout_s:
            if b"Kafka Server started" in (self.folder / "log").read_bytes():
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise RuntimeError((self.folder / "log").read_text()[-2000:])

    def log(self) -> str:
        """What it has said since it was last started."""
        return (self.folder / "log").read_text(errors="replace")

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self, timeout_s: float = 10.0) -> None:
        """Stops it where it is. Its threads stop one after the other: until the last has, it may still answer."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        begin = time.monotonic()
        while os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG) is None:
            if time.monotonic() - begin > timeout_s:
                raise RuntimeError(f"the broker did not stop within {timeout_s} s")
            time.sleep(0.001)

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def go_on(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process is None or not self.runs:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def create(self, topic: str, partitions: int, **config: str) -> None:
        """By another client than the service's, so that nothing under test is trusted with it; returns when it is there."""
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.servers})
        named = {name.replace("__", "."): value for name, value in config.items()}
        admin.create_topics([NewTopic(topic, partitions, 1, config=named)])[topic].result(60)
        begin = time.monotonic()
        while True:
            found = admin.list_topics(topic, 60).topics[topic].partitions
            if len(found) == partitions and all(partition.leader >= 0 for partition in found.values()):
                return
            if time.monotonic() - begin > 60:
                raise RuntimeError(f"{topic} was created and does not come")
            time.sleep(0.02)

    def _run(self, command: str, *arguments: object) -> None:
        environment = {**self._environment(), "KAFKA_HEAP_OPTS": "-Xmx128m -XX:TieredStopAtLevel=1"}
        done = subprocess.run(
            [str(self.home / "bin" / command), *map(str, arguments)], capture_output=True, env=environment, check=False
        )
        if done.returncode != 0:
            raise RuntimeError((done.stdout + done.stderr).decode(errors="replace")[-2000:])

    @staticmethod
    def _environment() -> dict[str, str]:
        return {"KAFKA_HEAP_OPTS": "-Xmx512m", "KAFKA_LOG_LEVEL": "INFO", **os.environ}
