// Consumer groups through kafkajs: node groups.js HOST:PORT. Prints what a user observes, the same on every broker.
const { Kafka, logLevel } = require('kafkajs')
const kafka = new Kafka({ clientId: 'js', brokers: [process.argv[2]], logLevel: logLevel.NOTHING })
const say = (...words) => console.log(...words)
const until = async (what, condition) => {
  for (let i = 0; i < 1200; i++) {
    if (await condition()) return
    await new Promise((done) => setTimeout(done, 50))
  }
  throw new Error(`waited a minute for ${what}`)
}
const main = async () => {
  const admin = kafka.admin()
  await admin.connect()
  await admin.createTopics({ topics: [{ topic: 'cgjs', numPartitions: 4 }] })
  const producer = kafka.producer()
  await producer.connect()
  await producer.send({ topic: 'cgjs', messages: [...Array(40).keys()].map((i) => ({ partition: i % 4, value: String(i) })) })
  await producer.disconnect()
  const got = []
  const member = async () => {
    const consumer = kafka.consumer({ groupId: 'cgjs-group', sessionTimeout: 6000, heartbeatInterval: 500, rebalanceTimeout: 10000 })
    const self = { consumer, parts: [] }
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => { self.parts = payload.memberAssignment.cgjs || [] })
    await consumer.connect()
    await consumer.subscribe({ topics: ['cgjs'], fromBeginning: true })
    await consumer.run({ eachMessage: async ({ partition, message }) => got.push([partition, Number(message.offset)]) })
    return self
  }
  const one = await member()
  await until('40 records', () => got.length >= 40)
  say('read', got.length, 'of', one.parts.length, 'partitions')
  const two = await member()
  await until('two halves', () => one.parts.length === 2 && two.parts.length === 2)
  say('share', [...one.parts, ...two.parts].sort())
  const described = await admin.describeGroups(['cgjs-group'])
  say(described.groups.map((g) => [g.state, g.protocol, g.members.length]))
  await two.consumer.disconnect()
  await until('all again', () => one.parts.length === 4)
  await one.consumer.disconnect()
  const offsets = await admin.fetchOffsets({ groupId: 'cgjs-group', topics: ['cgjs'] })
  say(offsets[0].partitions.map((p) => [p.partition, p.offset]).sort())
  await admin.setOffsets({ groupId: 'cgjs-group', topic: 'cgjs', partitions: [{ partition: 0, offset: '3' }] })
  say((await admin.fetchOffsets({ groupId: 'cgjs-group', topics: ['cgjs'] }))[0].partitions.find((p) => p.partition === 0).offset)
  say((await admin.listGroups()).groups.filter((g) => g.groupId.startsWith('cgjs')))
  await admin.deleteGroups(['cgjs-group'])
  say((await admin.listGroups()).groups.filter((g) => g.groupId.startsWith('cgjs')).length)
  await admin.disconnect()
}
main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1) })
