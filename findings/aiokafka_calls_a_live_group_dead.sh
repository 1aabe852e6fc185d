#!/usr/bin/env bash
# aiokafka 0.14.0 describes a live consumer group of the newer protocol as "Dead", and reports no error.
#
# Groups of Kafka 4's protocol (KIP-848, `group.protocol=consumer`) are described by a request of their own, ConsumerGroupDescribe.
# `AIOKafkaAdminClient.describe_consumer_groups` knows the older DescribeGroups alone, and sends version 3 of it at most. A broker
# (4.3.0) answers it for such a group as for one that never was: state "Dead", no members, error code 0.
# The answer to version 6 would say GROUP_ID_NOT_FOUND (KIP-1043).
# Why that matters: a tool that resets offsets only where nobody reads takes a group that is reading for one that is not.
# What to do: before anything that must not happen under a live group, ask by both requests, or by a client that does (streamrnn asks with
# ConsumerGroupDescribe itself).
# Needs KAFKA_HOME (a distribution of Apache Kafka 4) and Java 17.
set -euo pipefail
: "${KAFKA_HOME:?the folder of an Apache Kafka 4}"
work=$(mktemp -d)
broker=
end() {
    [ -z "$broker" ] || { kill "$broker" && wait "$broker"; } 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "aiokafka==0.14.0" "confluent-kafka==2.16.1"
read -r port controller < <("$work/venv/bin/python" - <<'PYTHON'
import socket

free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(each.getsockname()[1] for each in free))
PYTHON
)
cat > "$work/broker.properties" <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
log.dirs=$work/data
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
PROPERTIES
export LOG_DIR="$work/logs" KAFKA_HEAP_OPTS="-Xmx384m"
"$KAFKA_HOME/bin/kafka-storage.sh" format --cluster-id "$("$KAFKA_HOME/bin/kafka-storage.sh" random-uuid)" \
    --config "$work/broker.properties" > "$work/format.log"
"$KAFKA_HOME/bin/kafka-server-start.sh" "$work/broker.properties" > "$work/broker.log" 2>&1 &
broker=$!
"$work/venv/bin/python" - "127.0.0.1:$port" <<'PYTHON'
import asyncio
import sys
import time

from aiokafka.admin import AIOKafkaAdminClient
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewTopic

servers = {"bootstrap.servers": sys.argv[1]}
admin = AdminClient(servers | {"log_level": 0})
for _ in range(60):  # until the broker answers
    try:
        admin.create_topics([NewTopic("ticks", 2)])["ticks"].result(10)
        break
    except Exception as error:  # noqa: BLE001
        time.sleep(1.0)
        last = error
else:
    raise last


def reading(protocol: str) -> Consumer:
    consumer = Consumer(servers | {"group.id": protocol, "group.protocol": protocol})
    consumer.subscribe(["ticks"])
    while not consumer.assignment():
        consumer.poll(0.2)
    return consumer


async def described(group: str) -> tuple[int, str, int]:
    client = AIOKafkaAdminClient(bootstrap_servers=servers["bootstrap.servers"])
    await client.start()
    [answer] = await client.describe_consumer_groups([group])
    await client.close()
    code, _, state, _, _, members = answer.groups[0][:6]
    return code, state, len(members)


found = {}
for protocol in ("classic", "consumer"):
    consumer = reading(protocol)
    found[protocol] = asyncio.run(described(protocol))
    official = admin.describe_consumer_groups([protocol])[protocol].result(10)
    print(f"{protocol:<9} librdkafka: {official.state.name}, {len(official.members)} member;  "
          f"aiokafka: error {found[protocol][0]}, {found[protocol][1]}, {found[protocol][2]} members")
    assert official.state.name == "STABLE" and len(official.members) == 1
    consumer.close()
assert found["classic"] == (0, "Stable", 1), "groups of the older protocol are described otherwise now"
assert found["consumer"] == (0, "Dead", 0), "a group of the newer protocol is described now, or reported as an error"
print("as stated: aiokafka 0.14.0 calls a live group of the newer protocol Dead, with error 0")
PYTHON
