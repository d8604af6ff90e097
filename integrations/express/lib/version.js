// Owns: versions of sessions, and the fields that carry them (docs/session-copies.md).
// Invariant: a field that is not exactly as described is as good as none.
// Must not know: sessions, requests, time.
'use strict'

const WELL_KNOWN = '/.well-known/linchpin/session'
const FIELD = /^ref="([A-Za-z0-9_-]{1,64})"((?:; *[a-z]+(?:=[0-9]{1,15})?)*)$/

/**
 * What Linchpin says about a request's session. Without `seq` it holds no copy.
 * @typedef {{ ref: string, term: number, seq: number | undefined, dropped: boolean }} SessionField
 */

/**
 * Parses the value of a `Linchpin-Session` field.
 * @param {string | undefined} value
 * @returns {SessionField | null}
 */
function parse (value) {
  const match = FIELD.exec(value ?? '')
  if (!match) return null
  const found = new Map(match[2].split(';').map((part) => {
    const [name, number] = part.trim().split('=')
    return [name, number === undefined ? true : Number(number)]
  }))
  const [term, seq, dropped] = ['term', 'seq', 'dropped'].map((name) => found.get(name))
  if (typeof term !== 'number' || seq === true || (dropped !== undefined && dropped !== true)) return null
  return { ref: match[1], term, seq, dropped: dropped === true }
}

/** Writes a `Linchpin-Session` field. */
function format ({ ref, term, seq }) {
  return `ref="${ref}";term=${term};seq=${seq}`
}

/** Says whether a version is older than another: the term decides before the seq. */
function isOlder (a, b) {
  return a.term !== b.term ? a.term < b.term : a.seq < b.seq
}

/**
 * Decides about a request before anything runs: 'want' (the memory is older than what Linchpin knows), 'forget' (what the memory has
 * is not to be used), or 'go'.
 * @param {{ term: number, seq: number } | undefined} own the version in memory
 * @param {SessionField} field
 * @returns {'want' | 'forget' | 'go'}
 */
function decide (own, field) {
  if (field.seq === undefined) return own && own.term < field.term - 1 ? 'forget' : 'go'
  const isBehind = !own || isOlder(own, field)
  if (!isBehind) return 'go'
  if (field.dropped) return own ? 'forget' : 'go'
  return 'want'
}

module.exports = { WELL_KNOWN, parse, format, isOlder, decide }
