// A small shop: run it several times behind Linchpin with [pools.copies], log in, kill a server, and go on.
//
//     PORT=3001 SESSION_SECRET=$(openssl rand -hex 32) node app.js
'use strict'

const express = require('express')
const session = require('express-session')
const { LinchpinStore } = require('..')

const secret = process.env.SESSION_SECRET
const store = new LinchpinStore({ secret })
const app = express()

app.use(store.middleware())
app.use(session({ store, secret, resave: false, saveUninitialized: false, rolling: process.env.ROLLING === '1', cookie: { maxAge: 1800_000 } }))
app.use(express.urlencoded({ extended: false }))

const count = (req) => { req.session.count = (req.session.count ?? 0) + 1 }
const told = (req) => String(req.session.count ?? 0)

app.get('/count', (req, res) => res.send(told(req)))
app.post('/count', (req, res) => {
  count(req)
  res.send(told(req))
})
app.post('/slow', (req, res) => setTimeout(() => {
  count(req)
  res.send(told(req))
}, 1000))
app.get('/stream', (req, res) => {
  count(req)
  res.write(`${told(req)} `)
  setTimeout(() => res.end('end'), 10)
})
app.post('/login', (req, res, next) => req.session.regenerate((error) => {
  if (error) return next(error)
  req.session.user = req.body.user
  req.session.save((error) => error ? next(error) : res.redirect(303, '/'))
}))
app.post('/renew', (req, res, next) => {
  const { cookie, ...kept } = req.session
  req.session.regenerate((error) => {
    if (error) return next(error)
    Object.assign(req.session, kept)
    res.send(told(req))
  })
})
app.post('/cart', (req, res) => {
  req.session.cart = [...(req.session.cart ?? []), req.body.item]
  res.redirect(303, '/')
})
app.post('/logout', (req, res, next) => req.session.destroy((error) => error ? next(error) : res.send('bye')))
app.get('/', (req, res) => res.json({ user: req.session.user ?? null, cart: req.session.cart ?? [] }))
app.get('/stats', (req, res) => res.json(store.stats()))

const server = app.listen(Number(process.env.PORT ?? 0), '127.0.0.1', () => {
  const { address, port } = server.address()
  console.log(`${address}:${port}`)
})
