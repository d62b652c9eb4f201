'use strict'
// Target program: gets URLs twice over one connection of Node's own http2.

const http2 = require('node:http2')

const urls = process.argv.slice(2)
const session = http2.connect(new URL(urls[0]).origin)

const get = (url) => new Promise((resolve, reject) => {
  const stream = session.request({ ':path': new URL(url).pathname, 'user-agent': 'node' })
  stream.on('error', reject)
  stream.on('end', resolve)
  stream.resume()
  stream.end()
})

async function main () {
  for (const url of [...urls, ...urls]) await get(url)
  session.close()
}

main().catch((error) => { console.error(error); process.exit(1) })
