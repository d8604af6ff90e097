// Owns: the store for express-session, and the middleware that speaks with Linchpin.
// Invariant: whatever a response tells a client is saved in that response's own head, or Linchpin has it already.
// Must not know: how versions are compared, how copies are sealed.
'use strict'

const { Store } = require('express-session')
const { Memory } = require('./memory')
const { Seal } = require('./seal')
const { WELL_KNOWN, parse, format, isOlder } = require('./version')

/** What the middleware knows about one request. */
const STATE = Symbol('linchpin session')

/** No copy is longer than this when it comes by PUT, in bytes. */
const LONGEST_PUT = 1 << 20

const MIB = 1 << 20

/** A session with nothing in it, as text. */
const EMPTY = '{}'

/**
 * Keeps sessions in the memory of this process, and gives Linchpin a sealed copy of each state. When the server dies, Linchpin gives
 * the newest copy to the next one.
 */
class LinchpinStore extends Store {
  #seal
  #memory
  #ttl
  #max
  #warned = new Set()
  #counts = { saved: 0, dropped: 0, wanted: 0, taken: 0, outdated: 0, forged: 0, late: 0, tooLong: 0, refused: 0 }

  /**
   * @param {object} options
   * @param {string | string[]} options.secret at least 32 bytes, the same on all servers; of several the first seals, all of them open
   * @param {number} [options.ttl] seconds that a session without an expiry of its own lives after its last request
   * @param {number} [options.memory] bytes of sessions; the least recently used make room
   * @param {number} [options.max] bytes of a sealed copy; a longer session is not saved
   */
  constructor ({ secret, ttl = 86400, memory = 256 * MIB, max = 32 * 1024 } = {}) {
    super()
    if (!(ttl > 0) || !(memory >= MIB) || !(max > 0)) {
      throw new RangeError('LinchpinStore needs a ttl and a max above 0, and a memory of at least 1 MiB')
    }
    this.#seal = new Seal(secret ?? [])
    this.#memory = new Memory(memory)
    this.#ttl = ttl * 1000
    this.#max = max
  }

  /** Counts of what has happened since the start, and what is in memory now. */
  stats () {
    return { ...this.#counts, ...this.#memory.size }
  }

  /** The middleware; use it before anything else, express-session and parsers of bodies included. */
  middleware () {
    return (req, res, next) => {
      const field = parse(req.headers['linchpin-session'])
      if ((req.originalUrl ?? req.url).split('?')[0] === WELL_KNOWN) return this.#exchange(req, res, field, next)
      if (!field) return next()
      if (!this.#memory.admit(field)) {
        this.#counts.wanted += 1
        res.setHeader('Linchpin-Session-Want', '?1')
        return respond(res, 409)
      }
      const state = req[STATE] = new State(field, res)
      state.hold(this.#memory.entry(field.ref))
      beforeHead(res, () => this.#report(req, res, state))
      next()
    }
  }

  get (id, callback) {
    const session = this.#memory.session(id)
    process.nextTick(callback, null, session && restore(session))
  }

  set (id, session, callback = () => {}) {
    let error = null
    try {
      this.#write(id, session, session.req?.[STATE])
    } catch (failure) {
      error = failure
    }
    process.nextTick(callback, error)
  }

  touch (id, session, callback = () => {}) {
    const cookie = cookieText(session.cookie)
    this.#memory.touch(id, (data) => cookie + data.slice(data.indexOf('\n')), ...this.#expiry(session))
    process.nextTick(callback, null)
  }

  destroy (id, callback = () => {}) {
    this.#memory.destroy(id)
    process.nextTick(callback, null)
  }

  /** Overrides Store's: only here a store is told which request a session is loaded for. */
  createSession (req, data) {
    const session = super.createSession(req, data)
    const state = req[STATE]
    if (state) {
      state.loaded = { id: req.sessionID, text: text(session) }
      state.hold(this.#memory.session(req.sessionID))
    }
    return session
  }

  #write (id, session, state) {
    const own = text(session)
    const data = `${cookieText(session.cookie)}\n${own}`
    const [expires, lifetime] = this.#expiry(session)
    if (state && !this.#mayWrite(id, state)) {
      this.#counts.refused += 1
      state.refused = { id, data, expires, lifetime }
      return
    }
    const hasChanged = this.#memory.write(id, data, expires, lifetime)
    if (!state) return
    state.written = { id, text: own }
    state.hold(this.#memory.session(id))
    if (hasChanged && state.res.headersSent) {
      this.#counts.late += 1
      this.#warn('a session changed after its response had begun: it is saved with the next response, and lost if the server dies before')
    }
  }

  /**
   * A request that is slower than a logout, or than a hand-over to another server and back, holds an old session: writing it would
   * undo what clients have been told since.
   */
  #mayWrite (id, state) {
    const wasTaken = this.#memory.entry(state.field.ref)?.term > state.field.term
    const wasDestroyed = state.loaded?.id === id && !this.#memory.session(id)
    return !wasTaken && !wasDestroyed
  }

  /** Adds to the response's head what Linchpin does not know yet. */
  #report (req, res, state) {
    const { field } = state
    this.#writeBeforeHead(req, state)
    const entry = this.#memory.entry(field.ref)
    const session = this.#memory.session(req.session ? req.sessionID : undefined) ?? this.#memory.session(entry?.id)
    const isCurrent = session ? this.#memory.isCurrent(entry, session) : !entry?.id
    const seq = Math.max(entry?.seq ?? 0, field.seq ?? 0) + 1
    if (entry?.term > field.term) {
      // Linchpin refuses what has this term, and with it the response: it tells of something that this memory does not keep.
      if (state.refused || !isCurrent) this.#add(res, field, seq, state.refused ?? session)
      return
    }
    const isKnown = field.seq !== undefined && !(entry && isOlder(field, entry))
    if (isCurrent && (isKnown || !entry)) return
    this.#memory.markSaved(field.ref, field.term, seq, session)
    this.#add(res, field, seq, session)
  }

  /** If the head goes before the end of the request, express-session has not saved yet. */
  #writeBeforeHead ({ session, sessionID }, state) {
    if (typeof session?.save !== 'function') return
    const own = text(session)
    const before = [state.written, state.loaded].find((known) => known?.id === sessionID)?.text ?? EMPTY
    // By the session's own method, so that express-session knows and doesn't save it again.
    if (own !== before) session.save()
  }

  #add (res, { term }, seq, session) {
    const version = `term=${term};seq=${seq}`
    if (session) {
      const { id, data, expires, lifetime } = session
      const sealed = this.#seal.seal({ id, data, expires, lifetime: Math.ceil(lifetime / 1000) })
      if (sealed.length <= this.#max) {
        this.#counts.saved += 1
        const ttl = Math.max(1, Math.ceil((expires - Date.now()) / 1000))
        res.setHeader('Linchpin-Session-Save', `:${sealed.toString('base64')}:;${version};ttl=${ttl}`)
        return
      }
      // An older copy would be worse than none. The session itself stays in memory.
      this.#counts.tooLong += 1
      this.#warn(`a session of ${sealed.length} bytes is longer than max (${this.#max} bytes): it is not saved, and is lost if the server dies`)
    }
    this.#counts.dropped += 1
    res.setHeader('Linchpin-Session-Drop', `?1;${version}`)
  }

  /** Answers Linchpin's PUT, which gives a copy, and its DELETE, which drops one. */
  #exchange (req, res, version, next) {
    if (req.method !== 'PUT' && req.method !== 'DELETE') {
      res.setHeader('Allow', 'PUT, DELETE')
      return respond(res, 405)
    }
    if (version?.seq === undefined) return respond(res, 400)
    if (req.method === 'DELETE') return this.#take(res, version, null)
    if (req.readableEnded) return next(new Error('use the middleware of LinchpinStore before any parser of bodies'))
    readBody(req, (sealed) => {
      if (!sealed) {
        res.setHeader('Connection', 'close')
        return respond(res, 413)
      }
      const opened = this.#seal.open(sealed)
      if (opened) return this.#take(res, version, opened)
      this.#counts.forged += 1
      respond(res, 422)
    })
  }

  #take (res, version, opened) {
    if (this.#memory.take(version, opened)) {
      this.#counts.taken += 1
      return respond(res, 204)
    }
    this.#counts.outdated += 1
    res.setHeader('Linchpin-Session', format(this.#memory.entry(version.ref)))
    respond(res, 409)
  }

  /** Returns when a session expires, in milliseconds since 1970, and its lifetime in milliseconds. */
  #expiry ({ cookie }) {
    const lifetime = typeof cookie?.originalMaxAge === 'number' ? cookie.originalMaxAge : this.#ttl
    return [cookie?.expires ? Number(new Date(cookie.expires)) : Date.now() + lifetime, lifetime]
  }

  #warn (message) {
    if (this.#warned.has(message)) return
    this.#warned.add(message)
    process.emitWarning(message, 'LinchpinStore')
  }
}

/** What the middleware knows about a request under way. */
class State {
  #held = new Set()
  #isOver = false

  constructor (field, res) {
    Object.assign(this, { field, res, loaded: null, written: null, refused: null })
    res.once('close', () => {
      this.#isOver = true
      for (const kept of this.#held) kept.users -= 1
    })
  }

  /** Keeps a session or an entry from making room for others until the response is sent. */
  hold (kept) {
    if (!kept || this.#isOver || this.#held.has(kept)) return
    this.#held.add(kept)
    kept.users += 1
  }
}

/** Returns the session as text, without its cookie. */
function text ({ cookie, ...own }) {
  return JSON.stringify(own)
}

/** Returns the cookie's settings as text. When it expires is kept beside, since each request moves it. */
function cookieText (cookie) {
  const settings = typeof cookie?.toJSON === 'function' ? cookie.toJSON() : { ...cookie }
  return JSON.stringify({ ...settings, expires: Boolean(settings.expires) })
}

function restore ({ data, expires }) {
  const [cookie, own] = data.split('\n').map((line) => JSON.parse(line))
  return { cookie: { ...cookie, expires: cookie.expires ? new Date(expires).toISOString() : null }, ...own }
}

/** Calls a function once, just before the head of a response is written. */
function beforeHead (res, act) {
  const writeHead = res.writeHead
  let isDone = false
  res.writeHead = function (...head) {
    if (!isDone) {
      isDone = true
      act()
    }
    return writeHead.apply(this, head)
  }
}

function respond (res, status) {
  res.statusCode = status
  if (status !== 204) res.setHeader('Content-Length', 0)
  res.end()
}

/** Reads a body and passes it on, or null if it is too long. A request that is aborted is forgotten. */
function readBody (req, done) {
  const chunks = []
  let length = 0
  req.on('error', () => {})
  req.on('end', () => length <= LONGEST_PUT && done(Buffer.concat(chunks)))
  req.on('data', (chunk) => {
    const wasTooLong = length > LONGEST_PUT
    length += chunk.length
    if (length <= LONGEST_PUT) chunks.push(chunk)
    else if (!wasTooLong) done(null)
  })
}

module.exports = { LinchpinStore }
