// The demo's shop window: Node.js, which asks the stock service for all that an article costs, three
// things at once. GET /window/ARTICLE.
'use strict';

const http = require('node:http');

const agent = new http.Agent({ keepAlive: true });
const [host, port] = process.argv[2].split(':');

function ask(what, article) {
  return new Promise((resolve, reject) => {
    const url = `${process.env.STOCK_URL}/${what}/${article}`;
    const request = http.get(url, { agent }, (answer) => {
      let text = '';
      answer.setEncoding('utf8');
      answer.on('data', (piece) => { text += piece; });
      answer.on('end', () => resolve(JSON.parse(text).cents));
      answer.on('error', reject);
    });
    request.on('error', reject);
  });
}

async function show(article) {
  const asked = ['price', 'discount', 'delivery'].map((what) => ask(what, article));
  const [price, discount, delivery] = await Promise.all(asked);
  return { article, cents: price - discount + delivery };
}

async function answer(request, response) {
  const [, first, article] = request.url.split('/');
  if (first !== 'window') {
    response.end('ready\n');
    return;
  }
  try {
    const text = JSON.stringify(await show(Number(article)));
    response.setHeader('Content-Type', 'application/json');
    response.end(text);
  } catch (error) {
    response.statusCode = 502;
    response.end(`${error.message}\n`);
  }
}

const server = http.createServer(answer);
server.keepAliveTimeout = 60_000;
server.listen(Number(port), host);
