// @platformatic/kafka in groups; see "In a group" in tests/compat/README.md.
import { createInterface } from 'node:readline'
import { Consumer, Producer, ProduceAcks } from '@platformatic/kafka'

const [bootstrap, kind, ...rest] = process.argv.slice(2)
const common = { clientId: 'compat', bootstrapBrokers: [bootstrap], metadataMaxAge: 1000 }

async function write(topic, partitions, each) {
  const producer = new Producer({ ...common, idempotent: true, acks: ProduceAcks.ALL })
  for (let i = 0; i < Number(each); i++) {
    const messages = Array.from({ length: Number(partitions) }, (_, partition) => ({ topic, partition, value: Buffer.from('value') }))
    await producer.send({ messages })
  }
  await producer.close()
}

async function member(groupId, topic, assignor, groupInstanceId) {
  const protocol = assignor === 'consumer' ? { groupProtocol: 'consumer' } : {}
  const consumer = new Consumer({
    ...common, ...protocol, groupId, sessionTimeout: 6000, heartbeatInterval: 500, rebalanceTimeout: 10000, autocommit: false, maxWaitTime: 200, ...(groupInstanceId && { groupInstanceId }),
  })
  let waits = true

  function open(options) {
    return consumer.consume({ topics: [topic], fallbackMode: 'earliest', ...options })
  }

  async function read(stream) {
    for await (const message of stream) {
      console.log(`record ${message.topic} ${message.partition} ${message.offset}`)
      const committed = Promise.resolve(message.commit()).catch(error => console.log(`uncommitted ${error.message}`))
      if (waits) await committed
    }
  }

  let stream = await open({ mode: 'committed' })
  let reading = read(stream)
  for await (const line of createInterface({ input: process.stdin })) {
    const [command, offset] = line.split(' ')
    if (command === 'async') waits = false
    if (command === 'pause') stream.pause()
    if (command === 'resume') stream.resume()
    if (command === 'seek') {
      // A stream's way is fixed when it is opened.
      const offsets = consumer.assignments.flatMap(({ topic, partitions }) => partitions.map(partition => ({ topic, partition, offset: BigInt(offset) })))
      await stream.close()
      await reading
      stream = await open({ mode: 'manual', offsets })
      reading = read(stream)
    }
    console.log('done')
  }
  await stream.close()
  await reading
  await consumer.close(true)
}

await { member, write }[kind](...rest)
process.exit(0)
