// kafkajs's part of the compatibility suite; see tests/compat/README.md.
// `node client.js BOOTSTRAP`: a case a line on stdin (JSON), `pass NAME` or `FAIL NAME: why` a line on stdout.
//
// kafkajs consumes in groups only: the cases that read single partitions do so with the fetch call below its consumer.
'use strict'

const readline = require('readline')
const { Kafka, logLevel, CompressionTypes, CompressionCodecs } = require('kafkajs')
const Cluster = require('kafkajs/src/cluster')
const createSocketFactory = require('kafkajs/src/network/socketFactory')
const { createLogger } = require('kafkajs/src/loggers')
const consoleLogger = require('kafkajs/src/loggers/console')
const snappy = require('snappyjs')
const lz4 = require('lz4js')
const zstd = require('@bokuweb/zstd-wasm')

const DEADLINE_MS = 20000
const XERIAL = Buffer.from([0x82, 0x53, 0x4e, 0x41, 0x50, 0x50, 0x59, 0])
const CODECS = {
  none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD,
}

// Snappy is read in Java's framing as well as raw; it is written raw.
function unsnappy(data) {
  if (!data.subarray(0, XERIAL.length).equals(XERIAL)) return Buffer.from(snappy.uncompress(data))
  const blocks = []
  for (let at = 16; at < data.length;) {
    const size = data.readInt32BE(at)
    blocks.push(Buffer.from(snappy.uncompress(data.subarray(at + 4, at + 4 + size))))
    at += 4 + size
  }
  return Buffer.concat(blocks)
}

// lz4js writes frames whose blocks depend on each other, which Kafka refuses: this makes the frame around its blocks.
const LZ4_FRAME = Buffer.from([0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]) // independent blocks of at most 64 KiB
const LZ4_BLOCK = 1 << 16

function lz4Frame(data) {
  const pieces = [LZ4_FRAME]
  for (let at = 0; at < data.length; at += LZ4_BLOCK) {
    const plain = data.subarray(at, at + LZ4_BLOCK)
    const packed = Buffer.alloc(lz4.compressBound(plain.length))
    const size = lz4.compressBlock(plain, packed, 0, plain.length, new Uint32Array(1 << 16))
    const length = Buffer.alloc(4)
    const fits = size > 0 && size < plain.length
    length.writeUInt32LE(fits ? size : (plain.length | 0x80000000) >>> 0)
    pieces.push(length, fits ? packed.subarray(0, size) : plain)
  }
  return Buffer.concat([...pieces, Buffer.alloc(4)])
}

function addCodec(type, compress, decompress) {
  CompressionCodecs[type] = () => ({
    compress: async encoder => Buffer.from(compress(encoder.buffer)),
    decompress: async data => Buffer.from(decompress(data)),
  })
}

addCodec(CompressionTypes.Snappy, snappy.compress, unsnappy)
addCodec(CompressionTypes.LZ4, lz4Frame, lz4.decompress)
addCodec(CompressionTypes.ZSTD, zstd.compress, zstd.decompress)

function key(i) {
  return i % 7 === 3 && i % 11 !== 5 ? null : Buffer.from(`key-${i}`)
}

function value(i) {
  if (i % 11 === 5) return null
  const bytes = Buffer.alloc(1 + (i * 37) % 900)
  for (let k = 0; k < bytes.length; k++) {
    const byte = (i * 31 + k * 7) & 0xff
    bytes[k] = byte === 10 || byte === 31 ? 0 : byte
  }
  return bytes
}

function headers(partition) {
  const both = [['h0', Buffer.from(`v${partition}`)], ['h1', Buffer.from([0xff, 97 + partition])]]
  return Object.fromEntries(both.slice(0, partition % 3))
}

function check(holds, what) {
  if (!holds) throw new Error(what)
}

const same = (a, b) => (a === null || b === null ? a === b : a.equals(b))

async function produce(kafka, test) {
  const producer = kafka.producer({ idempotent: test.idempotent, maxInFlightRequests: 1, allowAutoTopicCreation: false })
  await producer.connect()
  const batch = 600
  for (let start = 0; start < test.records; start += batch) {
    const messages = []
    for (let i = start; i < Math.min(start + batch, test.records); i++) {
      const partition = i % test.partitions
      messages.push({
        partition, key: key(i), value: value(i), headers: headers(partition), timestamp: String(test.base_timestamp + i * 10),
      })
    }
    const acks = { 0: 0, 1: 1, all: -1 }[test.acks]
    const answers = await producer.send({ topic: test.topic, acks, compression: CODECS[test.codec], messages })
    for (const answer of answers || []) {
      check(answer.errorCode === 0 && Number(answer.baseOffset) === start / test.partitions,
        `partition ${answer.partition} acknowledged ${JSON.stringify(answer)}`)
    }
  }
  await producer.disconnect()
}

function compare(test, partition, message, expected) {
  const i = expected * test.partitions + partition
  const where = `partition ${partition} offset ${expected}: `
  check(Number(message.offset) === expected, `${where}got offset ${message.offset}`)
  check(same(message.key, key(i)), `${where}key differs`)
  check(same(message.value, value(i)), `${where}value differs`)
  check(!test.timestamps || Number(message.timestamp) === test.base_timestamp + i * 10, `${where}timestamp ${message.timestamp}`)
  const [got, wanted] = [Object.entries(message.headers), Object.entries(headers(partition))]
  check(got.length === wanted.length, `${where}${got.length} headers`)
  wanted.forEach(([name, data], h) => check(got[h][0] === name && same(got[h][1], data), `${where}header ${h} differs`))
}

// Reads from the given offsets to the end of each partition, calling `each(partition, message)` in order.
async function consume(bootstrap, test, from, ends, each) {
  const logger = createLogger({ level: logLevel.NOTHING, logCreator: consoleLogger })
  const cluster = new Cluster({
    logger, socketFactory: createSocketFactory(), brokers: [bootstrap], clientId: 'compat', connectionTimeout: 10000,
    requestTimeout: 30000, metadataMaxAge: 300000, maxInFlightRequests: null, isolationLevel: 0, allowAutoTopicCreation: false,
    retry: { retries: 5 },
  })
  await cluster.connect()
  await cluster.addTargetTopic(test.topic)
  const leaders = cluster.findTopicPartitionMetadata(test.topic)
  check(leaders.length === test.partitions, `${leaders.length} partitions`)
  const broker = await cluster.findBroker({ nodeId: leaders[0].leader })
  const next = [...from]
  const deadline = Date.now() + DEADLINE_MS
  while (next.some((offset, partition) => offset < ends[partition])) {
    check(Date.now() < deadline, `read only up to ${next}`)
    const partitions = next.map((offset, partition) => ({ partition, fetchOffset: String(offset), maxBytes: 1 << 20 }))
    const { responses } = await broker.fetch({ maxWaitTime: 10, minBytes: 1, maxBytes: 10 << 20, topics: [{ topic: test.topic, partitions }] })
    for (const answer of responses.flatMap(response => response.partitions)) {
      for (const message of answer.messages) {
        if (Number(message.offset) < next[answer.partition]) continue // The batch begins before the wanted offset.
        each(answer.partition, message)
        next[answer.partition]++
      }
    }
  }
  await cluster.disconnect()
}

async function verify(kafka, bootstrap, test) {
  const admin = kafka.admin()
  await admin.connect()
  const ends = new Array(test.partitions)
  // With acks=0 the producer has not waited: the last records may still be under way.
  for (const deadline = Date.now() + DEADLINE_MS; ;) {
    for (const { partition, high, low } of await admin.fetchTopicOffsets(test.topic)) {
      check(low === '0', `partition ${partition} begins at ${low}`)
      ends[partition] = Number(high)
    }
    if (ends.every(end => end === test.records / test.partitions)) break
    check(Date.now() < deadline, `the partitions end at ${ends}`)
  }
  const timestamps = ends.map(() => [])
  await consume(bootstrap, test, ends.map(() => 0), ends, (partition, message) => {
    compare(test, partition, message, timestamps[partition].length)
    timestamps[partition].push(Number(message.timestamp))
  })
  const last = ends[0] - 1
  const middle = last >> 1
  for (const wanted of [0, middle, last].flatMap(j => [timestamps[0][j], timestamps[0][j] - 1]).concat(timestamps[test.partitions - 1][last] + 1e6)) {
    for (const { partition, offset } of await admin.fetchTopicOffsetsByTimestamp(test.topic, wanted)) {
      const found = timestamps[partition].findIndex(time => time >= wanted)
      const expected = found < 0 ? ends[partition] : found // kafkajs answers with the end where no record is that new.
      check(Number(offset) === expected, `partition ${partition} timestamp ${wanted} found ${offset}, not ${expected}`)
    }
  }
  await admin.disconnect()
  const next = ends.map(() => middle)
  await consume(bootstrap, test, next, ends, (partition, message) => compare(test, partition, message, next[partition]++))
}

async function administer(kafka, test) {
  const admin = kafka.admin()
  await admin.connect()
  await admin.createTopics({ waitForLeaders: true, topics: [{ topic: test.topic, numPartitions: 3, replicationFactor: 1 }] })
  check((await admin.listTopics()).includes(test.topic), 'the new topic is not listed')
  const { topics } = await admin.fetchTopicMetadata({ topics: [test.topic] })
  check(topics[0].partitions.length === 3, 'partition count')
  await admin.deleteTopics({ topics: [test.topic] })
  // A deletion reaches a broker's own view a moment after the controller has answered.
  for (const deadline = Date.now() + DEADLINE_MS; (await admin.listTopics()).includes(test.topic);) {
    check(Date.now() < deadline, 'the deleted topic is still listed')
  }
  await admin.disconnect()
}

// A member of a group (groups.py): see "In a group" in tests/compat/README.md.
async function member(bootstrap, groupId, topic) {
  const kafka = new Kafka({ clientId: 'compat', brokers: [bootstrap], logLevel: logLevel.NOTHING })
  const consumer = kafka.consumer({
    groupId, sessionTimeout: 6000, heartbeatInterval: 500, rebalanceTimeout: 10000, maxWaitTimeInMs: 200, metadataMaxAge: 1000,
  })
  let assigned = {}
  let waits = true
  consumer.on(consumer.events.GROUP_JOIN, event => { assigned = event.payload.memberAssignment })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic.startsWith('^') ? new RegExp(topic) : topic], fromBeginning: true })
  await consumer.run({
    autoCommit: false,
    eachMessage: async ({ topic, partition, message }) => {
      console.log(`record ${topic} ${partition} ${message.offset}`)
      const committed = consumer.commitOffsets([{ topic, partition, offset: String(Number(message.offset) + 1) }])
        .catch(error => console.log(`uncommitted ${error.message}`))
      if (waits) await committed
    },
  })
  const partitions = () => Object.entries(assigned).map(([topic, partitions]) => ({ topic, partitions }))
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [command, offset] = line.split(' ')
    if (command === 'async') waits = false
    if (command === 'pause') consumer.pause(partitions())
    if (command === 'resume') consumer.resume(partitions())
    if (command === 'seek') partitions().forEach(({ topic, partitions }) => partitions.forEach(partition => consumer.seek({ topic, partition, offset })))
    console.log('done')
  }
  await consumer.disconnect()
  process.exit(0)
}

async function main() {
  const bootstrap = process.argv[2]
  if (process.argv[3] === 'member') return member(bootstrap, ...process.argv.slice(4))
  await zstd.init()
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const test = JSON.parse(line)
    const kafka = new Kafka({ clientId: 'compat', brokers: [bootstrap], logLevel: logLevel.NOTHING, retry: { retries: 5 } })
    try {
      if (test.kind === 'admin') await administer(kafka, test)
      if (test.kind === 'produce') await produce(kafka, test)
      if (test.kind !== 'admin') await verify(kafka, bootstrap, test)
      console.log(`pass ${test.name}`)
    } catch (error) {
      console.log(`FAIL ${test.name}: ${error.message}`)
    }
  }
  process.exit(0) // A failed case may have left connections open.
}

main()
