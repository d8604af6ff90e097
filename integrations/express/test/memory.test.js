'use strict'

const assert = require('node:assert')
const { test } = require('node:test')
const { Memory } = require('../lib/memory')

const LIFETIME = 1000_000
const copy = (id, data, expires, lifetime = LIFETIME / 1000) => ({ id, data, expires, lifetime })

function memory (limit = 1 << 20) {
  const clock = { now: 5_000_000 }
  const all = new Memory(limit, () => clock.now)
  const write = (id, data) => all.write(id, data, clock.now + LIFETIME, LIFETIME)
  return { all, clock, write }
}

test('the least recently used sessions make room, and are then wanted from Linchpin, not dropped', () => {
  const { all, write } = memory(10_000)
  for (let n = 0; n < 20; n += 1) {
    write(`id${n}`, 'x'.repeat(1000))
    all.markSaved(`ref${n}`, 1, 1, all.session(`id${n}`))
    all.session('id0')
  }
  assert.ok(all.size.bytes <= 10_000, `${all.size.bytes} bytes`)
  assert.ok(all.session('id0') && all.session('id19'))
  assert.ok(!all.session('id1'))
  assert.strictEqual(all.entry('ref1'), undefined)
  assert.strictEqual(all.admit({ ref: 'ref1', term: 1, seq: 1, dropped: false }), false)
})

test('a session stays while a request uses it', () => {
  const { all, write } = memory(10_000)
  write('id', 'x'.repeat(1000))
  all.markSaved('ref', 1, 1, all.session('id'))
  all.entry('ref').users += 1
  for (let n = 0; n < 20; n += 1) write(`other${n}`, 'x'.repeat(1000))
  assert.ok(all.session('id'))
  all.entry('ref').users -= 1
  for (let n = 0; n < 20; n += 1) write(`another${n}`, 'x'.repeat(1000))
  assert.ok(!all.session('id'))
})

test('a session expires, unless a request touches it', () => {
  const { all, clock, write } = memory()
  write('id', 'x')
  clock.now += LIFETIME - 1
  all.touch('id', (data) => data, clock.now + LIFETIME, LIFETIME)
  clock.now += LIFETIME - 1
  assert.ok(all.session('id'))
  clock.now += 1
  assert.ok(!all.session('id'))
  assert.strictEqual(all.size.sessions, 0)
})

test('a session that was only touched is saved again once a tenth of its lifetime has passed', () => {
  const { all, clock, write } = memory()
  write('id', 'x')
  all.markSaved('ref', 1, 1, all.session('id'))
  for (const [later, isCurrent] of [[LIFETIME / 10, true], [1, false]]) {
    clock.now += later
    all.touch('id', (data) => data, clock.now + LIFETIME, LIFETIME)
    assert.strictEqual(all.isCurrent(all.entry('ref'), all.session('id')), isCurrent)
  }
})

test('a copy lives a tenth longer than it says, and an expired one is taken for nothing', () => {
  const { all, clock } = memory()
  assert.ok(all.take({ ref: 'ref', term: 1, seq: 1 }, copy('id', 'x', clock.now - LIFETIME / 10 + 1)))
  assert.strictEqual(all.session('id').data, 'x')
  assert.ok(all.take({ ref: 'old', term: 1, seq: 1 }, copy('gone', 'x', clock.now - LIFETIME / 10)))
  assert.ok(!all.session('gone'))
  assert.ok(all.admit({ ref: 'old', term: 1, seq: 1, dropped: false }), 'it was given, so it is not wanted again')
  assert.strictEqual(all.entry('old').id, 'gone', 'the next response drops it')
})

test('what is given replaces what is there, an older copy and an equal drop do not', () => {
  const { all, clock, write } = memory()
  const given = (term, seq, id, data) => all.take({ ref: 'ref', term, seq }, id && copy(id, data, clock.now + LIFETIME))
  write('a', 'old')
  all.markSaved('ref', 1, 5, all.session('a'))
  assert.ok(!given(1, 4, 'a', 'older'))
  assert.ok(given(1, 5, 'a', 'equal'))
  assert.strictEqual(all.session('a').data, 'old', 'its own state of that version stays')
  assert.ok(given(2, 5, 'b', 'new'))
  assert.ok(!all.session('a') && all.session('b'), 'the old id is worth nothing')
  assert.ok(given(2, 6, null))
  assert.ok(!all.session('b'))
  assert.ok(!given(2, 6, 'b', 'new'), 'a drop stays a drop')
  assert.ok(given(3, 6, 'b', 'new'))
})

test('drops are the first to make room, and are forgotten after a day', () => {
  const { all, clock, write } = memory(10_000)
  write('id', 'x'.repeat(1000))
  for (let n = 0; n < 100; n += 1) all.take({ ref: `ref${n}`, term: 1, seq: 1 }, null)
  assert.ok(all.size.bytes <= 10_000 && all.session('id'))
  clock.now += 24 * 3600_000
  write('id', 'y')
  all.take({ ref: 'ref', term: 1, seq: 1 }, null)
  assert.strictEqual(all.entry('ref99'), undefined)
})
