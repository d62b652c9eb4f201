'use strict'
// Target program: makes each numbered call once with grpc-js and exits 0 only if every answer was
// the one that belongs to its number. client.js HOST:PORT COUNT CONCURRENCY [switches]

const grpc = require('@grpc/grpc-js')
const readline = require('node:readline')
const { parseArgs } = require('node:util')
const { PARTS, service, message, number, failingCode } = require('./numbers.js')

const GIVE_UP_MS = 100
const READY_MS = 30_000

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    first: { type: 'string', default: '100' },
    gate: { type: 'string' },
    warm: { type: 'string', default: '0' },
    calls: { type: 'string', default: 'one' },
    timeout: { type: 'string' },
    traceparent: { type: 'boolean', default: false },
    metadata: { type: 'string', multiple: true, default: [] },
  },
})
const [target, count, concurrency] = [positionals[0], Number(positionals[1]), Number(positionals[2])]
const first = Number(values.first)
const calls = values.calls.split(',')
const connect = () => new (grpc.makeGenericClientConstructor(service, 'Numbers'))(
  target, grpc.credentials.createInsecure())
let client = connect()

function check (n, answers, wanted) {
  if (answers.length !== wanted || answers.some((one) => !one.equals(message(n)))) {
    throw new Error(`call ${n}: ${answers.length} answers, ${wanted} wanted`)
  }
}

function contextOf (n) {
  const metadata = new grpc.Metadata({ waitForReady: true })
  const hex = n.toString(16)
  const trace = `7ace${hex.padStart(28, '0')}`
  const span = `5fa0${hex.padStart(12, '0')}`
  if (values.traceparent) metadata.set('traceparent', `00-${trace}-${span}-01`)
  for (const one of values.metadata) {
    const at = one.indexOf('=')
    const name = one.slice(0, at)
    const value = one.slice(at + 1).replaceAll('{trace}', trace)
      .replaceAll('{trace24}', trace.slice(8)).replaceAll('{span}', span)
    metadata.add(name, name.endsWith('-bin') ? Buffer.from(value, 'hex') : value)
  }
  return metadata
}

function unary (name, n, options, after) {
  return new Promise((resolve) => {
    const call = client[name](message(n), contextOf(n), options, (error, answer) => resolve([error, answer]))
    if (after) after(call)
  })
}

async function answers (name, n, options) {
  const [error, answer] = await unary(name, n, options)
  if (error) throw error
  check(n, [answer], 1)
}

async function fails (name, n, code, options, after, or = code) {
  const [error] = await unary(name, n, options, after)
  if (!error || ![code, or].includes(error.code)) throw new Error(`call ${n}: ${error} instead of ${code}`)
}

function collected (call) {
  return new Promise((resolve, reject) => {
    const answers = []
    call.on('data', (one) => answers.push(one))
    call.on('error', reject)
    call.on('end', () => resolve(answers))
  })
}

function sendAll (call, n) {
  for (let i = 0; i < PARTS; i++) call.write(message(n))
  call.end()
}

const kinds = {
  one: (n, options) => answers('One', n, options),
  relay: (n, options) => answers('Relay', n, options),
  fail: (n, options) => fails('Fail', n, failingCode(n), options),
  cancel: (n, options) => fails('Wait', n, grpc.status.CANCELLED, options,
    (call) => setTimeout(() => call.cancel(), GIVE_UP_MS)),
  // A server that knows the deadline may cancel the call a moment before the client does.
  deadline: (n) => fails('Wait', n, grpc.status.DEADLINE_EXCEEDED,
    { deadline: Date.now() + GIVE_UP_MS }, undefined, grpc.status.CANCELLED),
  async down (n, options) {
    check(n, await collected(client.Down(message(n), contextOf(n), options)), PARTS)
  },
  async up (n, options) {
    const answer = await new Promise((resolve, reject) => {
      const call = client.Up(contextOf(n), options, (error, one) => error ? reject(error) : resolve(one))
      sendAll(call, n)
    })
    check(n, [answer], 1)
  },
  async both (n, options) {
    const call = client.Both(contextOf(n), options)
    const all = collected(call)
    sendAll(call, n)
    check(n, await all, PARTS)
  },
}

async function callAll (from, to) {
  let next = from
  const work = async () => {
    while (next < to) {
      const n = next++
      const options = values.timeout ? { deadline: Date.now() + 1000 * Number(values.timeout) } : {}
      await kinds[calls[n % calls.length]](n, options)
    }
  }
  await Promise.all(Array.from({ length: concurrency }, work))
}

function passGate () {
  console.log('gate')
  return new Promise((resolve, reject) => {
    const lines = readline.createInterface({ input: process.stdin })
    lines.once('line', () => { resolve(); lines.close() })
    lines.once('close', () => reject(new Error('the gate was never opened: stdin ended')))
  })
}

// What gives up soon must be under way by then: calls before the gate, on a connection of their
// own, make code quick that has never run.
async function warmUp (count) {
  await callAll(first, first + count)
  client.close()
  client = connect()
}

function ready () {
  return new Promise((resolve, reject) => {
    client.waitForReady(Date.now() + READY_MS, (error) => error ? reject(error) : resolve())
  })
}

async function main () {
  const gate = Number(values.gate || 0)
  if (values.warm !== '0') await warmUp(Number(values.warm))
  await callAll(first, first + gate)
  if (values.gate !== undefined) await passGate()
  await ready()
  await callAll(first + gate, first + count)
  client.close()
}

main().then(() => process.exit(0)).catch((error) => { console.error(error); process.exit(1) })
