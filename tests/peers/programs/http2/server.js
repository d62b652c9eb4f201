'use strict'
// Target program: Node's own http2 server, answering with the path: server.js HOST:PORT
// What is asked is read first: a client that is answered before may keep the rest to itself.

const http2 = require('node:http2')

const at = process.argv[2].lastIndexOf(':')
const server = http2.createServer((request, response) => {
  response.setHeader('content-type', 'text/plain')
  request.on('end', () => response.end(request.url)).resume()
})
server.listen(Number(process.argv[2].slice(at + 1)), process.argv[2].slice(0, at))
