// Owns: sealing and opening of copies: AES-256-GCM under a key from the application's secret.
// Invariant: only bytes that were sealed with one of the secrets are opened.
// Must not know: requests, versions, the memory.
'use strict'

const crypto = require('node:crypto')

const FORMAT = 1
const NONCE = 12
const TAG = 16
const LEAST_SECRET = 32
const CONTEXT = Buffer.from('linchpin session copy v1')

/**
 * A session as it is sealed. `expires` is in milliseconds since 1970, `lifetime` in seconds.
 * @typedef {{ id: string, expires: number, lifetime: number, data: string }} Opened
 */

class Seal {
  #keys

  /** @param {string | Buffer | Array<string | Buffer>} secrets the first seals, all of them open */
  constructor (secrets) {
    const all = [secrets].flat()
    if (all.length === 0) throw new TypeError('LinchpinStore needs a secret that all servers of the application share')
    this.#keys = all.map((secret) => {
      const bytes = Buffer.from(secret ?? '')
      if (bytes.length < LEAST_SECRET) {
        throw new TypeError(`a secret of LinchpinStore has ${bytes.length} bytes, and needs ${LEAST_SECRET}: make one with "openssl rand -hex 32"`)
      }
      return Buffer.from(crypto.hkdfSync('sha256', bytes, '', CONTEXT, 32))
    })
  }

  /**
   * @param {Opened} session
   * @returns {Buffer} a byte of format, the nonce, the ciphertext, the tag
   */
  seal ({ id, expires, lifetime, data }) {
    const name = Buffer.from(id)
    const head = Buffer.alloc(13)
    head.writeUInt8(FORMAT, 0)
    head.writeUInt16BE(name.length, 1)
    head.writeUIntBE(expires, 3, 6)
    head.writeUInt32BE(lifetime, 9)
    const nonce = crypto.randomBytes(NONCE)
    const cipher = crypto.createCipheriv('aes-256-gcm', this.#keys[0], nonce, { authTagLength: TAG }).setAAD(CONTEXT)
    const text = Buffer.concat([head, name, Buffer.from(data)])
    return Buffer.concat([Buffer.from([FORMAT]), nonce, cipher.update(text), cipher.final(), cipher.getAuthTag()])
  }

  /**
   * @param {Buffer} sealed
   * @returns {Opened | null} null if the bytes are not authentic
   */
  open (sealed) {
    if (sealed.length < 1 + NONCE + TAG || sealed[0] !== FORMAT) return null
    for (const key of this.#keys) {
      const text = decrypt(key, sealed)
      if (text) return read(text)
    }
    return null
  }
}

function decrypt (key, sealed) {
  const nonce = sealed.subarray(1, 1 + NONCE)
  const decipher = crypto.createDecipheriv('aes-256-gcm', key, nonce, { authTagLength: TAG })
  decipher.setAAD(CONTEXT).setAuthTag(sealed.subarray(-TAG))
  try {
    return Buffer.concat([decipher.update(sealed.subarray(1 + NONCE, -TAG)), decipher.final()])
  } catch {
    return null
  }
}

function read (text) {
  if (text.length < 13 || text[0] !== FORMAT) return null
  const from = 13 + text.readUInt16BE(1)
  return {
    id: text.toString('utf8', 13, from),
    expires: text.readUIntBE(3, 6),
    lifetime: text.readUInt32BE(9),
    data: text.toString('utf8', from)
  }
}

module.exports = { Seal }
