// Transactions through kafkajs: node transactions.js HOST:PORT. Prints what a user observes, the same on every broker.
const { Kafka, logLevel } = require('kafkajs')
const kafka = new Kafka({ clientId: 'js', brokers: [process.argv[2]], logLevel: logLevel.NOTHING })
const say = (...words) => console.log(...words)
const attempt = async (what, action) => {
  try { await action(); say(what, 'ok') } catch (error) { say(what, error.type || error.name) }
}
const until = async (what, condition) => {
  for (let i = 0; i < 1200; i++) {
    if (await condition()) return
    await new Promise((done) => setTimeout(done, 50))
  }
  throw new Error(`waited a minute for ${what}`)
}
const producer = async (transactionalId) => {
  const p = kafka.producer({ transactionalId, idempotent: true, maxInFlightRequests: 1 })
  await p.connect()
  return p
}
// The client does not ask again when Kafka has not yet completed the transaction before.
const again = async (action) => {
  for (let i = 0; ; i++) {
    try { return await action() } catch (error) {
      if (error.type !== 'CONCURRENT_TRANSACTIONS' || i === 600) throw error
      await new Promise((done) => setTimeout(done, 50))
    }
  }
}
let groups = 0
// What a reader of this isolation gets until `last`, which is in each partition at the end.
const read = async (topic, partitions, readUncommitted, last) => {
  const consumer = kafka.consumer({ groupId: `tjs-read-${groups++}`, readUncommitted, sessionTimeout: 6000, heartbeatInterval: 500, maxWaitTimeInMs: 100 })
  const seen = [...Array(partitions)].map(() => [])
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({ eachMessage: async ({ partition, message }) => { seen[partition].push(String(message.value)) } })
  await until(`the end of ${topic}`, () => seen.every((values) => values[values.length - 1] === last))
  await consumer.disconnect()
  return JSON.stringify(seen)
}
const main = async () => {
  const admin = kafka.admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic: 'tjs-out', numPartitions: 2 }, { topic: 'tjs-in', numPartitions: 1 }] })
  await until('the topics', () => Promise.all(['tjs-out', 'tjs-in'].map((t) => admin.fetchTopicOffsets(t))).then(() => true, () => false))
  const one = await producer('tjs-one')
  const send = (t, topic, partitions, ...values) =>
    again(() => t.send({ topic, messages: values.flatMap((value) => [...Array(partitions).keys()].map((partition) => ({ partition, value }))) }))
  const sendOffset = (t, offset) =>
    again(() => t.sendOffsets({ consumerGroupId: 'tjs-group', topics: [{ topic: 'tjs-in', partitions: [{ partition: 0, offset }] }] }))
  let t = await one.transaction()
  await send(t, 'tjs-out', 2, 'a', 'b')
  await attempt('second transaction', () => one.transaction())
  await attempt('commit', () => t.commit())
  await attempt('commit again', () => t.commit())
  t = await one.transaction()
  await send(t, 'tjs-out', 2, 'lost')
  await attempt('abort', () => t.abort())
  t = await one.transaction()
  await attempt('empty', () => t.commit())
  t = await one.transaction()
  await sendOffset(t, '7')
  await send(t, 'tjs-out', 2, 'with offsets')
  await attempt('commit with offsets', () => t.commit())
  t = await one.transaction()
  await sendOffset(t, '9')
  await send(t, 'tjs-out', 2, 'lost with offsets')
  await attempt('abort with offsets', () => t.abort())
  const offset = async () => (await admin.fetchOffsets({ groupId: 'tjs-group', topics: ['tjs-in'] }))[0].partitions[0].offset
  await until('offset 7', async () => (await offset()) === '7')
  // A zombie: what it has open is aborted when its successor comes.
  t = await one.transaction()
  await send(t, 'tjs-out', 2, 'zombie')
  const two = await again(() => producer('tjs-one'))
  let u = await two.transaction()
  await attempt('zombie sends', () => send(t, 'tjs-out', 2, 'late'))
  await attempt('zombie commits', () => t.commit())
  await send(u, 'tjs-out', 2, 'successor')
  await attempt('successor', () => u.commit())
  u = await two.transaction()
  await send(u, 'tjs-out', 2, 'end')
  await attempt('last', () => u.commit())
  say('committed', await read('tjs-out', 2, false, 'end'))
  say('uncommitted', await read('tjs-out', 2, true, 'end'))
  // Not committed: readers of committed records stop ahead of it, others do not.
  u = await two.transaction()
  await send(u, 'tjs-out', 2, 'open')
  say('open, committed', await read('tjs-out', 2, false, 'end'))
  say('open, uncommitted', await read('tjs-out', 2, true, 'open'))
  await u.abort()
  say('offset', await offset())
  await one.disconnect()
  await two.disconnect()
  await admin.disconnect()
}
main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1) })
