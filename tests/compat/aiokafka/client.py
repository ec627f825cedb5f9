"""aiokafka in groups; see "In a group" in tests/compat/README.md."""

import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError

ASSIGNORS = {"range": RangePartitionAssignor, "roundrobin": RoundRobinPartitionAssignor, "sticky": StickyPartitionAssignor}


async def write(bootstrap: str, topic: str, partitions: str, each: str):
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, compression_type="zstd") as producer:
        for _ in range(int(each)):
            for partition in range(int(partitions)):
                await producer.send_and_wait(topic, b"value", partition=partition)


async def commands():
    """What comes on stdin, as it comes."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().split()


async def member(bootstrap: str, group: str, topic: str, assignor: str, instance: str | None = None):
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, group_instance_id=instance, enable_auto_commit=False, auto_offset_reset="earliest",
        session_timeout_ms=6000, heartbeat_interval_ms=500, metadata_max_age_ms=1000, rebalance_timeout_ms=10000,
        partition_assignment_strategy=[ASSIGNORS[assignor]])
    consumer.subscribe(**({"pattern": topic} if topic.startswith("^") else {"topics": [topic]}))
    await consumer.start()
    waits, ended, under_way = True, False, set()

    async def commit(positions):
        try:
            await consumer.commit(positions)
        except KafkaError as error:
            print("uncommitted", repr(error), flush=True)

    async def read():
        while not ended:
            batches = await consumer.getmany(timeout_ms=100)
            for record in (record for batch in batches.values() for record in batch):
                print("record", record.topic, record.partition, record.offset, flush=True)
            if not batches:
                continue
            task = asyncio.create_task(commit({partition: batch[-1].offset + 1 for partition, batch in batches.items()}))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            if waits:
                await task

    reading = asyncio.create_task(read())
    async for command, *arguments in commands():
        if command == "async":
            waits = False
        if command == "pause":
            consumer.pause(*consumer.assignment())
        if command == "resume":
            consumer.resume(*consumer.assignment())
        if command == "seek":
            for partition in consumer.assignment():
                consumer.seek(partition, int(arguments[0]))
        print("done", flush=True)
    ended = True
    await reading
    await asyncio.gather(*under_way)
    await consumer.stop()


asyncio.run({"member": member, "write": write}[sys.argv[2]](sys.argv[1], *sys.argv[3:]))
