'use strict'

const { LinchpinStore } = require('./lib/store')

module.exports = { LinchpinStore }
