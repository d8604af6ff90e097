'use strict'

// Direct requests play Linchpin: they say what it knows, and read what it would keep.
const assert = require('node:assert')
const http = require('node:http')
const { test } = require('node:test')
const express = require('express')
const session = require('express-session')
const { LinchpinStore } = require('..')

const SECRET = 'a secret that all servers share, long enough'

/** Starts an application with a store of its own; `t` ends it. */
async function start (t, routes, { store: storeOptions, session: options } = {}) {
  const store = new LinchpinStore({ secret: SECRET, ...storeOptions })
  const app = express()
  app.use(store.middleware())
  app.use(session({ store, secret: SECRET, resave: false, saveUninitialized: false, ...options }))
  app.use(express.json())
  app.post('/set', (req, res) => res.json(Object.assign(req.session, req.body)))
  app.get('/get', (req, res) => res.json(req.session))
  routes?.(app)
  // eslint-disable-next-line no-unused-vars
  app.use((error, req, res, next) => res.headersSent ? res.destroy() : res.status(500).send(error.message))
  const server = app.listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  t.after(() => { server.close(); server.closeAllConnections() })
  return { store, port: server.address().port }
}

function ask ({ port }, method, path, { body, ...headers } = {}) {
  return new Promise((resolve, reject) => {
    const content = body instanceof Buffer ? body : body && JSON.stringify(body)
    if (content && !(body instanceof Buffer)) headers['content-type'] = 'application/json'
    const req = http.request({ port, host: '127.0.0.1', method, path, headers, agent: false, maxHeaderSize: 65536 }, async (res) => {
      const chunks = []
      try {
        for await (const chunk of res) chunks.push(chunk)
      } catch (error) {
        return reject(error)
      }
      resolve({ status: res.statusCode, headers: res.headers, text: Buffer.concat(chunks).toString() })
    })
    req.on('error', reject).end(content)
  })
}

let refs = 0

/** A client, and what Linchpin knows of it. */
class Client {
  constructor (server) {
    Object.assign(this, { server, ref: `ref${refs += 1}`, term: 1, seq: undefined, isDropped: false, cookie: undefined, copy: undefined })
  }

  field () {
    return `ref="${this.ref}";term=${this.term}${this.seq === undefined ? '' : `;seq=${this.seq}`}${this.isDropped ? ';dropped' : ''}`
  }

  async ask (method, path, body) {
    const headers = { 'linchpin-session': this.field(), ...(this.cookie && { cookie: this.cookie }) }
    const response = await ask(this.server, method, path, { ...headers, body })
    const [save, drop] = ['save', 'drop'].map((name) => response.headers[`linchpin-session-${name}`])
    assert.ok(!(save && drop), 'a response saves or drops')
    response.saved = save && /^:([A-Za-z0-9+/=]+):;term=(\d+);seq=(\d+);ttl=(\d+)$/.exec(save)
    response.dropped = drop && /^\?1;term=(\d+);seq=(\d+)$/.exec(drop)
    if (response.saved) Object.assign(this, { seq: Number(response.saved[3]), isDropped: false, copy: Buffer.from(response.saved[1], 'base64') })
    if (response.dropped) Object.assign(this, { seq: Number(response.dropped[2]), isDropped: true, copy: undefined })
    const set = response.headers['set-cookie']
    if (set) this.cookie = set[0].split(';')[0]
    return response
  }

  /** Moves to another server, which gets the copy. */
  async move (server) {
    Object.assign(this, { server, term: this.term + 1 })
    const { status } = await ask(server, 'PUT', '/.well-known/linchpin/session', { 'linchpin-session': this.field(), body: this.copy })
    assert.strictEqual(status, 204)
  }

  async get () {
    const response = await this.ask('GET', '/get')
    assert.strictEqual(response.status, 200, response.text)
    const { cookie, ...own } = JSON.parse(response.text)
    return own
  }
}

for (const [name, respond] of Object.entries({
  send: (req, res) => res.send('x'.repeat(5000)),
  json: (req, res) => res.json({ a: 1 }),
  redirect: (req, res) => res.redirect('/'),
  'an empty end': (req, res) => res.end(),
  'an end with text': (req, res) => res.end('text'),
  sendStatus: (req, res) => res.sendStatus(204),
  'writeHead with fields': (req, res) => res.writeHead(200, { 'content-type': 'text/plain', etag: '"1"' }).end('text'),
  'writeHead with a list': (req, res) => res.writeHead(200, ['content-type', 'text/plain']).end('text'),
  flushHeaders: (req, res) => { res.flushHeaders(); res.end('text') },
  'write and end': (req, res) => { res.write('a'); res.end('b') },
  'save before redirect': (req, res, next) => req.session.save((error) => error ? next(error) : res.redirect('/')),
  'an error': (req, res, next) => next(new Error('as asked')),
  download: (req, res) => res.sendFile(__filename)
})) {
  test(`a change is saved with the head, and once: ${name}`, async (t) => {
    const routes = (app) => app.post('/act', (req, res, next) => {
      req.session.value = 7
      respond(req, res, next)
    })
    const [a, b] = [await start(t, routes), await start(t)]
    const client = new Client(a)
    const response = await client.ask('POST', '/act')
    assert.ok(response.saved, `${response.status} ${JSON.stringify(response.headers)}`)
    assert.strictEqual(client.seq, 1)
    assert.ok(client.cookie)
    assert.deepStrictEqual(await client.get(), { value: 7 })
    assert.strictEqual(client.seq, 1, 'and not again')
    assert.strictEqual(a.store.stats().late, 0)
    await client.move(b)
    assert.deepStrictEqual(await client.get(), { value: 7 })
  })
}

for (const options of [{ rolling: true }, { resave: true }, { resave: true, rolling: true, cookie: { maxAge: 60_000 } }]) {
  test(`only a changed session is saved, with ${JSON.stringify(options)}`, async (t) => {
    const client = new Client(await start(t, undefined, { session: options }))
    await client.ask('POST', '/set', { value: 1 })
    const response = await client.ask('GET', '/get')
    assert.ok(!response.saved)
    assert.strictEqual(Boolean(response.headers['set-cookie']), options.rolling === true)
    assert.ok((await client.ask('POST', '/set', { value: 2 })).saved)
    assert.strictEqual(client.seq, 2)
  })
}

test('an empty session is not saved, even if express-session keeps it', async (t) => {
  const client = new Client(await start(t))
  assert.ok(!(await client.ask('GET', '/get')).saved)
  const other = new Client(await start(t, undefined, { session: { saveUninitialized: true } }))
  assert.ok((await other.ask('GET', '/get')).headers['set-cookie'])
})

test('the ttl is that of the cookie, or the store\'s', async (t) => {
  const client = new Client(await start(t, undefined, { session: { cookie: { maxAge: 60_000 } } }))
  assert.strictEqual((await client.ask('POST', '/set', { value: 1 })).saved[4], '60')
  const other = new Client(await start(t, undefined, { store: { ttl: 100 } }))
  assert.strictEqual((await other.ask('POST', '/set', { value: 1 })).saved[4], '100')
})

test('a cookie\'s settings survive with the session', async (t) => {
  const routes = (app) => app.post('/remember', (req, res) => {
    req.session.cookie.maxAge = 3600_000
    res.send('ok')
  })
  const [a, b] = [await start(t, routes), await start(t)]
  const client = new Client(a)
  await client.ask('POST', '/set', { value: 1 })
  assert.ok((await client.ask('POST', '/remember')).saved, 'a changed lifetime is a change')
  await client.move(b)
  const { cookie } = JSON.parse((await client.ask('GET', '/get')).text)
  assert.strictEqual(cookie.originalMaxAge, 3600_000)
  assert.ok(Math.abs(new Date(cookie.expires) - Date.now() - 3600_000) < 60_000)
})

test('what changes after the head is saved with the next response, and counted', async (t) => {
  const routes = (app) => app.get('/stream', (req, res) => {
    req.session.value = 'early'
    res.write('a')
    req.session.value = 'late'
    setImmediate(() => res.end('b'))
  })
  const [a, b] = [await start(t, routes), await start(t)]
  const client = new Client(a)
  await client.ask('GET', '/stream')
  assert.strictEqual(a.store.stats().late, 1)
  const early = Object.assign(new Client(a), client)
  await early.move(b)
  assert.deepStrictEqual(await early.get(), { value: 'early' })
  assert.ok((await client.ask('GET', '/get')).saved)
  await client.move(b)
  assert.deepStrictEqual(await client.get(), { value: 'late' })
})

test('a stream that only read the session does not undo what others change meanwhile', async (t) => {
  let finish
  const routes = (app) => app.get('/stream', (req, res) => { finish = () => { res.write('a'); res.end() } })
  const client = new Client(await start(t, routes))
  await client.ask('POST', '/set', { value: 1 })
  const stream = Object.assign(new Client(client.server), client).ask('GET', '/stream')
  while (!finish) await new Promise(setImmediate)
  await client.ask('POST', '/set', { value: 2 })
  finish()
  assert.ok((await stream).saved, 'Linchpin may see this head before that of the change')
  assert.strictEqual((await client.get()).value, 2)
})

test('a session that is set to null with unset: "destroy" is dropped', async (t) => {
  const routes = (app) => app.post('/logout', (req, res) => { req.session = null; res.send('bye') })
  const client = new Client(await start(t, routes, { session: { unset: 'destroy' } }))
  await client.ask('POST', '/set', { value: 1 })
  assert.ok((await client.ask('POST', '/logout')).dropped)
})

test('a login gives the session a new id: one save, and the old id is worth nothing', async (t) => {
  const routes = (app) => app.post('/login', (req, res, next) => req.session.regenerate((error) => {
    if (error) return next(error)
    req.session.user = 'anna'
    req.session.save(() => res.redirect('/'))
  }))
  const [a, b] = [await start(t, routes), await start(t)]
  const client = new Client(a)
  await client.ask('POST', '/set', { value: 1 })
  const old = Object.assign(new Client(a), client)
  const response = await client.ask('POST', '/login')
  assert.ok(response.saved && client.seq === 2)
  await client.move(b)
  assert.deepStrictEqual(await client.get(), { user: 'anna' })
  for (const server of [a, b]) assert.deepStrictEqual(await Object.assign(old, { server, term: client.term, seq: undefined }).get(), {})
})

test('reload sees what another request has saved', async (t) => {
  const routes = (app) => app.post('/reload', (req, res, next) => req.session.reload((error) => error ? next(error) : res.json(req.session)))
  const client = new Client(await start(t, routes))
  await client.ask('POST', '/set', { value: 1 })
  assert.strictEqual(JSON.parse((await client.ask('POST', '/reload')).text).value, 1)
})

test('a session that is too long is dropped rather than left old, and goes on here', async (t) => {
  const client = new Client(await start(t, undefined, { store: { max: 1000 } }))
  await client.ask('POST', '/set', { value: 'short' })
  const response = await client.ask('POST', '/set', { value: 'x'.repeat(2000) })
  assert.ok(response.dropped && client.seq === 2)
  assert.strictEqual((await client.get()).value.length, 2000)
  assert.ok(client.isDropped)
  assert.ok((await client.ask('POST', '/set', { value: 'short' })).saved)
  assert.strictEqual(client.server.store.stats().tooLong, 1)
})

test('a request without Linchpin works as with any store', async (t) => {
  const server = await start(t)
  const first = await ask(server, 'POST', '/set', { body: { value: 1 } })
  const cookie = first.headers['set-cookie'][0].split(';')[0]
  const second = await ask(server, 'GET', '/get', { cookie })
  assert.strictEqual(JSON.parse(second.text).value, 1)
  assert.ok(!Object.keys({ ...first.headers, ...second.headers }).some((name) => name.startsWith('linchpin')))
})

test('the well-known path refuses what Linchpin does not send', async (t) => {
  const server = await start(t)
  const version = { 'linchpin-session': 'ref="a";term=1;seq=1' }
  const path = '/.well-known/linchpin/session'
  const status = async (...request) => (await ask(server, ...request)).status
  assert.strictEqual(await status('GET', path, version), 405)
  assert.strictEqual(await status('PUT', path, { body: Buffer.from('x') }), 400)
  assert.strictEqual(await status('PUT', path, { 'linchpin-session': 'ref="a";term=1', body: Buffer.from('x') }), 400)
  assert.strictEqual(await status('PUT', `${path}?a=b`, { ...version, body: Buffer.from('x') }), 422)
  assert.strictEqual(await status('PUT', path, { ...version, body: Buffer.alloc((1 << 20) + 1) }), 413)
  assert.strictEqual(await status('DELETE', path, version), 204)
})

test('the middleware says if it comes after a parser of bodies', async (t) => {
  const store = new LinchpinStore({ secret: SECRET })
  const app = express().use(express.raw({ type: () => true })).use(store.middleware())
  const server = app.listen(0, '127.0.0.1')
  t.after(() => server.close())
  await new Promise((resolve) => server.once('listening', resolve))
  const headers = { 'linchpin-session': 'ref="a";term=1;seq=1', body: Buffer.from('x') }
  const response = await ask(server.address(), 'PUT', '/.well-known/linchpin/session', headers)
  assert.match(response.text, /before any parser of bodies/)
})

test('a store without a good secret or with senseless limits does not start', () => {
  assert.throws(() => new LinchpinStore(), /secret/)
  assert.throws(() => new LinchpinStore({ secret: SECRET, memory: 1 }), /memory/)
  assert.throws(() => new LinchpinStore({ secret: SECRET, ttl: 0 }), /ttl/)
})

test('requests under way hold nothing after they end, aborted ones included', async (t) => {
  let begun
  const isBegun = new Promise((resolve) => { begun = resolve })
  const routes = (app) => app.get('/never', (req, res) => begun(Object.assign(res, { req })))
  const client = new Client(await start(t, routes, { store: { memory: 1 << 20 } }))
  await client.ask('POST', '/set', { value: 1 })
  const headers = { 'linchpin-session': client.field(), cookie: client.cookie }
  const req = http.request({ port: client.server.port, host: '127.0.0.1', path: '/never', headers }).on('error', () => {})
  req.end()
  const res = await isBegun
  req.destroy()
  await new Promise((resolve) => res.once('close', resolve))
  // The handler doesn't know, and ends its response as ever.
  res.req.session.value = 2
  res.end()
  for (let n = 0; n < 60; n += 1) {
    const other = new Client(client.server)
    await other.ask('POST', '/set', { value: 'x'.repeat(20_000) })
  }
  assert.ok(client.server.store.stats().bytes <= 1 << 20)
  assert.ok((await client.ask('GET', '/get')).headers['linchpin-session-want'], 'the oldest made room')
})

test('a slow request from before a logout elsewhere is refused, and Linchpin refuses its response', async (t) => {
  let finish
  const routes = (app) => app.post('/slow', (req, res) => { finish = () => { req.session.value = 3; res.end() } })
  const client = new Client(await start(t, routes))
  await client.ask('POST', '/set', { value: 1 })
  const slow = Object.assign(new Client(client.server), client).ask('POST', '/slow')
  while (!finish) await new Promise(setImmediate)
  Object.assign(client, { term: 2, seq: client.seq + 1, isDropped: true })
  assert.deepStrictEqual(await client.get(), {})
  finish()
  assert.strictEqual((await slow).saved?.[2], '1')
  assert.deepStrictEqual(await client.get(), {})
})
