// kafkajs against a broker: node kafkajs.js HOST:PORT. Prints what a user observes, the same on every broker.
// Its consumer knows only groups, so reading back is the other clients' part until groups exist.
const { Kafka, CompressionTypes, logLevel } = require('kafkajs')

const kafka = new Kafka({ clientId: 'conformance', brokers: [process.argv[2]], logLevel: logLevel.NOTHING, retry: { retries: 3 } })
const say = (...words) => console.log(words.map((w) => (typeof w === 'string' ? w : JSON.stringify(w))).join(' '))
const attempt = async (what, action) => {
  try {
    say(what, await action())
  } catch (e) {
    const inner = e.errors?.[0] ?? e
    say(what, 'error', inner.type ?? inner.name)
  }
}

async function main() {
  const admin = kafka.admin()
  await admin.connect()
  await attempt('create', () => admin.createTopics({ topics: [{ topic: 'js-a', numPartitions: 3 }, { topic: 'js-b', numPartitions: 1 }] }))
  await attempt('create again', () => admin.createTopics({ topics: [{ topic: 'js-a', numPartitions: 3 }] }))
  await attempt('create invalid', () => admin.createTopics({ topics: [{ topic: 'js a', numPartitions: 3 }] }))
  await attempt('topics', async () => (await admin.listTopics()).filter((t) => t.startsWith('js-')).sort())
  for (const acks of [1, -1]) {
    for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
      const producer = kafka.producer({ allowAutoTopicCreation: false })
      await producer.connect()
      const messages = Array.from({ length: 20 }, (_, i) => ({ key: `k${i}`, value: `v${i}`, partition: i % 3, headers: { h: 'x' } }))
      const sent = await producer.send({ topic: 'js-a', acks, compression, messages })
      say('sent', acks, compression, sent.sort((a, b) => a.partition - b.partition).map((s) => [s.partition, s.errorCode, s.baseOffset]))
      await producer.disconnect()
    }
  }
  const idempotent = kafka.producer({ idempotent: true, maxInFlightRequests: 1 })
  await idempotent.connect()
  for (let i = 0; i < 5; i++) {
    const sent = await idempotent.send({ topic: 'js-b', messages: [{ value: `i${i}` }, { key: 'gone', value: null }] })
    say('idempotent', sent.map((s) => [s.errorCode, s.baseOffset]))
  }
  await idempotent.disconnect()
  const offsets = async (topic) => (await admin.fetchTopicOffsets(topic)).sort((a, b) => a.partition - b.partition).map((o) => [o.partition, o.low, o.high])
  await attempt('offsets', () => offsets('js-a'))
  await attempt('offsets', () => offsets('js-b'))
  await attempt('offsets by time', async () => (await admin.fetchTopicOffsetsByTimestamp('js-b', 0)).map((o) => o.offset))
  await attempt('grow', () => admin.createPartitions({ topicPartitions: [{ topic: 'js-b', count: 2 }] }))
  await attempt('metadata', async () => {
    const { topics } = await admin.fetchTopicMetadata({ topics: ['js-b'] })
    return topics.map((t) => [t.name, t.partitions.length, t.partitions.map((p) => p.partitionErrorCode)])
  })
  await attempt('config', async () => {
    const { resources } = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type: 2, name: 'js-a', configNames: ['segment.bytes', 'max.message.bytes'] }] })
    return resources[0].configEntries.map((c) => [c.configName, c.configValue, c.readOnly]).sort()
  })
  await attempt('cluster', async () => {
    const { brokers, controller } = await admin.describeCluster()
    return [brokers.length, controller === brokers[0].nodeId]
  })
  await attempt('delete', () => admin.deleteTopics({ topics: ['js-b'] }))
  await attempt('delete missing', () => admin.deleteTopics({ topics: ['js-nowhere'] }))
  await admin.disconnect()
}

main().then(() => process.exit(0), (e) => { console.error(e); process.exit(1) })
