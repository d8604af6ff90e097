'use strict'

const assert = require('node:assert')
const { test } = require('node:test')
const { Seal } = require('../lib/seal')

const OLD = 'an old secret of thirty-two bytes'
const NEW = 'a new secret of thirty-two bytes!'
const session = { id: 'id-ü', expires: 1_800_000_000_000, lifetime: 1800, data: '{"text":"ü"}' }

test('what is sealed opens as it was, and only whole', () => {
  const seal = new Seal(NEW)
  const sealed = seal.seal(session)
  assert.deepStrictEqual(seal.open(sealed), session)
  assert.ok(!sealed.includes('id-ü') && !sealed.includes('text'))
  for (let at = 0; at < sealed.length; at += 1) {
    const forged = Buffer.from(sealed)
    forged[at] ^= 1
    assert.strictEqual(seal.open(forged), null, `byte ${at}`)
    assert.strictEqual(seal.open(sealed.subarray(0, at)), null, `${at} bytes`)
  }
})

test('a new secret seals, and an old one opens until it is removed', () => {
  const old = new Seal(OLD).seal(session)
  const both = new Seal([NEW, OLD])
  assert.deepStrictEqual(both.open(old), session)
  assert.deepStrictEqual(new Seal(NEW).open(both.seal(session)), session)
  assert.strictEqual(new Seal(NEW).open(old), null)
})

test('a missing or short secret is refused with what to do', () => {
  for (const secret of [[], undefined, 'short', [NEW, 'short'], NEW.slice(2)]) assert.throws(() => new Seal(secret), /secret/)
  assert.throws(() => new Seal('short'), /openssl rand -hex 32/)
})
