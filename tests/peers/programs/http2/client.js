'use strict'
// Target program: gets URLs twice over one connection of Node's own http2. client.js [--once] URL...

const http2 = require('node:http2')

const isOnce = process.argv[2] === '--once'
const urls = process.argv.slice(isOnce ? 3 : 2)
const session = http2.connect(new URL(urls[0]).origin)

const get = (url) => new Promise((resolve, reject) => {
  const stream = session.request({ ':path': new URL(url).pathname, 'user-agent': 'node' })
  stream.on('error', reject)
  stream.on('end', resolve)
  stream.resume()
  stream.end()
})

async function main () {
  for (const url of isOnce ? urls : [...urls, ...urls]) await get(url)
  session.close()
}

main().catch((error) => { console.error(error); process.exit(1) })
