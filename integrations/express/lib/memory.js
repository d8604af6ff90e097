// Owns: the sessions of this process, and under which ref and as which version each was last saved or taken.
// Invariant: a session that was destroyed, or given by Linchpin since, is not written by a request that had loaded it before.
// Must not know: sealing, HTTP.
'use strict'

const { decide, isOlder } = require('./version')

/** What an entry costs besides the session's own text: an estimate, in bytes. */
const OVERHEAD = 500

/** How long a drop is remembered here, in milliseconds. Linchpin remembers it as long as the pin lives. */
const DROP_LIFETIME = 24 * 3600 * 1000

/**
 * A session. `revision` counts its changes; `expires` is in milliseconds since 1970, `lifetime` and `grace` in milliseconds.
 * @typedef {{ id: string, data: string, revision: number, expires: number, lifetime: number, grace: number, users: number, entries: Set<Entry> }} Session
 */

/**
 * What a ref stands for: its newest version here, and the session and revision that this version is.
 * `id` is null after a drop.
 * @typedef {{ ref: string, term: number, seq: number, id: string | null, revision: number, savedExpires: number, droppedAt: number, users: number }} Entry
 */

class Memory {
  /** @type {Map<string, Session>} least recently used first */
  #sessions = new Map()
  /** @type {Map<string, Entry>} */
  #entries = new Map()
  /** @type {Map<string, Entry>} drops, oldest first */
  #drops = new Map()
  #bytes = 0
  #limit
  #now

  /** @param {number} limit in bytes; the least recently used sessions make room for others */
  constructor (limit, now = Date.now) {
    this.#limit = limit
    this.#now = now
  }

  get size () {
    return { sessions: this.#sessions.size, bytes: this.#bytes }
  }

  /**
   * Says what a request finds, before anything runs: forgets what must not be used.
   * @returns {boolean} false if this memory is older than what Linchpin knows
   */
  admit (field) {
    const entry = this.#entries.get(field.ref)
    const decision = decide(entry, field)
    if (decision === 'forget') this.#forget(entry, field)
    return decision !== 'want'
  }

  /** Returns the entry of a ref, or undefined. */
  entry (ref) {
    return this.#entries.get(ref)
  }

  /** Returns a session that has not expired, or undefined. It becomes the most recently used. */
  session (id) {
    const session = this.#sessions.get(id)
    if (!session) return undefined
    if (hasExpired(session, this.#now())) {
      this.destroy(id)
      return undefined
    }
    this.#sessions.delete(id)
    this.#sessions.set(id, session)
    return session
  }

  /** Keeps a session as it is now; returns whether that is a change. */
  write (id, data, expires, lifetime) {
    const session = this.session(id) ?? this.#add(id)
    Object.assign(session, { expires, lifetime, grace: 0 })
    if (session.data === data) return false
    this.#bytes += data.length - session.data.length
    session.data = data
    session.revision += 1
    this.#makeRoom()
    return true
  }

  /** Moves the expiry of a session that is there; `change` makes its new text of its text. */
  touch (id, change, expires, lifetime) {
    const session = this.session(id)
    if (session) this.write(id, change(session.data), expires, lifetime)
  }

  /** Ends a session. Its refs remember that they had one, so that the next response under them says so. */
  destroy (id) {
    const session = this.#sessions.get(id)
    if (!session) return
    this.#sessions.delete(id)
    this.#bytes -= session.data.length + OVERHEAD
    for (const entry of session.entries) this.#keepDrop(entry)
  }

  /**
   * Takes a copy, or with `opened` null a drop, if it is as new as what is here.
   * @returns {boolean} false if there is something newer
   */
  take (version, opened) {
    const { ref, term, seq } = version
    let entry = this.#entries.get(ref)
    if (entry && isOlder(version, entry)) return false
    if (entry && !isOlder(entry, version) && opened) {
      // The very version that is here: a drop stays one, and a session may have changed since.
      if (entry.id === null) return false
      if (this.#sessions.has(entry.id)) return true
    }
    const old = entry?.id
    entry ??= this.#addEntry(ref)
    if (old && old !== opened?.id) this.destroy(old)
    this.#unbind(entry)
    Object.assign(entry, { term, seq, id: opened?.id ?? null })
    if (opened && !hasExpired(lasting(opened), this.#now())) {
      const session = this.session(opened.id) ?? this.#add(opened.id)
      this.#bytes += opened.data.length - session.data.length
      Object.assign(session, lasting(opened), { data: opened.data, revision: session.revision + 1 })
      this.#bind(entry, session)
      this.#makeRoom()
    } else {
      this.#keepDrop(entry)
    }
    return true
  }

  /** Remembers that the ref's newest version is this session as it is now, or with `session` undefined that it is dropped. */
  markSaved (ref, term, seq, session) {
    const entry = this.#entries.get(ref) ?? this.#addEntry(ref)
    this.#unbind(entry)
    Object.assign(entry, { term, seq, id: session?.id ?? null })
    if (session) this.#bind(entry, session)
    else this.#keepDrop(entry)
  }

  #bind (entry, session) {
    session.entries.add(entry)
    Object.assign(entry, { id: session.id, revision: session.revision, savedExpires: session.expires })
    this.#drops.delete(entry.ref)
  }

  /** Says whether the ref's newest version is this session as it is now. A moved expiry counts once it has moved by a tenth. */
  isCurrent (entry, session) {
    return entry?.id === session.id && entry.revision === session.revision &&
      session.expires - entry.savedExpires <= session.lifetime / 10
  }

  #add (id) {
    const session = { id, data: '', revision: 0, expires: 0, lifetime: 0, grace: 0, users: 0, entries: new Set() }
    this.#sessions.set(id, session)
    this.#bytes += OVERHEAD
    return session
  }

  #addEntry (ref) {
    const entry = { ref, term: 0, seq: 0, id: null, revision: 0, savedExpires: 0, droppedAt: 0, users: 0 }
    this.#entries.set(ref, entry)
    this.#bytes += OVERHEAD
    return entry
  }

  #unbind (entry) {
    this.#sessions.get(entry.id)?.entries.delete(entry)
    this.#drops.delete(entry.ref)
  }

  #keepDrop (entry) {
    entry.droppedAt = this.#now()
    this.#drops.delete(entry.ref)
    this.#drops.set(entry.ref, entry)
    this.#makeRoom()
  }

  /** Leaves nothing of a session, as if it had never been here; of an entry only a drop, if it is one. */
  #forget (entry, { term, seq, dropped }) {
    const session = this.#sessions.get(entry.id)
    if (session) this.#remove(session)
    this.#removeEntry(entry)
    // Requests under way, from before the drop, are to find it.
    if (dropped) this.markSaved(entry.ref, term, seq, undefined)
  }

  #remove (session) {
    this.#sessions.delete(session.id)
    this.#bytes -= session.data.length + OVERHEAD
    for (const entry of session.entries) this.#removeEntry(entry)
  }

  #removeEntry (entry) {
    this.#drops.delete(entry.ref)
    if (this.#entries.delete(entry.ref)) this.#bytes -= OVERHEAD
  }

  /** Removes what has expired of the least recently used, and more while there is too much. Linchpin has copies of it. */
  #makeRoom () {
    const now = this.#now()
    for (const entry of this.#drops.values()) {
      if (this.#bytes <= this.#limit && entry.droppedAt + DROP_LIFETIME > now) break
      if (entry.users === 0) this.#removeEntry(entry)
    }
    let looked = 0
    for (const session of this.#sessions.values()) {
      const isFull = this.#bytes > this.#limit
      if (!isFull && (!hasExpired(session, now) || ++looked > 8)) break
      if (session.users === 0 && ![...session.entries].some((entry) => entry.users > 0)) this.#remove(session)
    }
  }
}

function hasExpired ({ expires, grace }, now) {
  return expires + grace <= now
}

/** Says how long a copy lasts: its server would have sealed it again only after a tenth of its lifetime. */
function lasting ({ expires, lifetime }) {
  return { expires, lifetime: lifetime * 1000, grace: lifetime * 100 }
}

module.exports = { Memory }
