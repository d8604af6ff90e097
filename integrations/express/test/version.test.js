'use strict'

const assert = require('node:assert')
const { test } = require('node:test')
const { parse, format, isOlder, decide } = require('../lib/version')

test('a field is read as described, in any order, with unknown parameters', () => {
  assert.deepStrictEqual(parse('ref="a-_Z9";term=3;seq=17'), { ref: 'a-_Z9', term: 3, seq: 17, dropped: false })
  assert.deepStrictEqual(parse('ref="a"; seq=1; new; term=0'), { ref: 'a', term: 0, seq: 1, dropped: false })
  assert.deepStrictEqual(parse('ref="a";term=3'), { ref: 'a', term: 3, seq: undefined, dropped: false })
  assert.deepStrictEqual(parse('ref="a";term=3;seq=9;dropped'), { ref: 'a', term: 3, seq: 9, dropped: true })
  assert.deepStrictEqual(parse(format({ ref: 'a', term: 1, seq: 2 })), { ref: 'a', term: 1, seq: 2, dropped: false })
})

test('anything else is as good as no field', () => {
  const malformed = [undefined, '', 'x', 'ref=a;term=1', 'ref="";term=1', 'ref="a b";term=1', `ref="${'a'.repeat(65)}";term=1`, 'ref="a"',
    'ref="a";term', 'ref="a";term=-1', 'ref="a";term=1.5', 'ref="a";term=1;seq', 'ref="a";term=1;seq=1234567890123456',
    'ref="a";term=1;dropped=1', 'ref="a";term=1, ref="b";term=1', ' ref="a";term=1']
  for (const value of malformed) assert.strictEqual(parse(value), null, value)
})

test('the term decides before the seq', () => {
  assert.ok(isOlder({ term: 1, seq: 9 }, { term: 2, seq: 1 }))
  assert.ok(isOlder({ term: 2, seq: 1 }, { term: 2, seq: 2 }))
  assert.ok(!isOlder({ term: 2, seq: 2 }, { term: 2, seq: 2 }))
})

test('a memory that is behind is wanted for, or forgotten, before anything runs', () => {
  const own = { term: 3, seq: 17 }
  const field = (term, seq, dropped = false) => ({ ref: 'a', term, seq, dropped })
  assert.strictEqual(decide(undefined, field(3, 17)), 'want')
  assert.strictEqual(decide(own, field(3, 18)), 'want')
  assert.strictEqual(decide(own, field(4, 1)), 'want')
  assert.strictEqual(decide(own, field(3, 17)), 'go')
  assert.strictEqual(decide(own, field(2, 90)), 'go')
  assert.strictEqual(decide(own, field(3, 19, true)), 'forget')
  assert.strictEqual(decide(own, field(3, 17, true)), 'go')
  assert.strictEqual(decide(undefined, field(3, 19, true)), 'go')
  assert.strictEqual(decide(own, field(4)), 'go')
  assert.strictEqual(decide(own, field(5)), 'forget')
  assert.strictEqual(decide(undefined, field(5)), 'go')
})
