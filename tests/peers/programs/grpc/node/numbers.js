'use strict'
// What the grpc-js programs share: the numbered service (see ../go/internal/numbers).

const PARTS = 3
const pass = (bytes) => bytes

const method = (name, requestStream, responseStream) => ({
  path: `/peers.Numbers/${name}`,
  requestStream,
  responseStream,
  requestSerialize: pass,
  requestDeserialize: pass,
  responseSerialize: pass,
  responseDeserialize: pass,
  originalName: name.toLowerCase(),
})

const service = {
  One: method('One', false, false),
  Relay: method('Relay', false, false),
  Fail: method('Fail', false, false),
  Wait: method('Wait', false, false),
  Down: method('Down', false, true),
  Up: method('Up', true, false),
  Both: method('Both', true, true),
}

const message = (n) => {
  const start = `${n}:`
  return Buffer.from(start + '.'.repeat(Math.max(0, n - start.length)))
}

const number = (bytes) => parseInt(bytes.toString('latin1'), 10)

const failingCode = (n) => 1 + (n % 16)

module.exports = { PARTS, service, message, number, failingCode }
