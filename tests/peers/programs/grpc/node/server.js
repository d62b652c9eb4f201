'use strict'
// Target program: grpc-js's server of the numbered service. server.js HOST:PORT [NEXT]

const grpc = require('@grpc/grpc-js')
const http = require('node:http')
const { PARTS, service, number, failingCode } = require('./numbers.js')

const next = process.argv[3] && new (grpc.makeGenericClientConstructor(service, 'Numbers'))(
  process.argv[3], grpc.credentials.createInsecure())

// A call of HTTP/1 with the message's number, where PEERS_NEXT_HTTP is a HOST:PORT.
const agent = new http.Agent({ keepAlive: true })
function askHttp (message, then) {
  if (!process.env.PEERS_NEXT_HTTP) return then()
  http.get(`http://${process.env.PEERS_NEXT_HTTP}/n/${number(message)}`, { agent }, (answer) => {
    answer.resume()
    answer.on('end', then)
  })
}

const handlers = {
  One: (call, callback) => callback(null, call.request),
  Relay: (call, callback) => askHttp(call.request, () => next.One(call.request, callback)),
  Fail: (call, callback) => {
    const n = number(call.request)
    callback({ code: failingCode(n), details: `as asked: ${n}%` })
  },
  Wait: () => {}, // never answers: the client gives up
  Down: (call) => {
    for (let i = 0; i < PARTS; i++) call.write(call.request)
    call.end()
  },
  Up: (call, callback) => {
    let last
    call.on('data', (bytes) => { last = bytes })
    call.on('end', () => callback(null, last))
  },
  Both: (call) => {
    call.on('data', (bytes) => call.write(bytes))
    call.on('end', () => call.end())
  },
}

const server = new grpc.Server()
server.addService(service, handlers)
server.bindAsync(process.argv[2], grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error
})
