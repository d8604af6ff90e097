import { RequestHandler } from 'express'
import { SessionData, Store } from 'express-session'

export interface LinchpinStoreOptions {
  /** At least 32 bytes, the same on all servers of the application. Of several, the first seals and all of them open. */
  secret: string | string[]
  /** Seconds that a session whose cookie has no maxAge lives after its last request. Default: 86400. */
  ttl?: number
  /** Bytes of sessions in this process, about. The least recently used make room, and come back from Linchpin. Default: 256 MiB. */
  memory?: number
  /** Bytes of a sealed copy; a longer session is not saved. Not above `max` of `[pools.copies]`. Default: 32 KiB. */
  max?: number
}

/** Counts since the start, and what is in memory now. */
export interface LinchpinStoreStats {
  /** Responses that saved a session. */
  saved: number
  /** Responses that dropped a copy. */
  dropped: number
  /** Requests for which a copy was wanted from Linchpin. */
  wanted: number
  /** Copies and drops that Linchpin gave. */
  taken: number
  /** Copies and drops that were older than what was here. */
  outdated: number
  /** Copies that were not sealed with one of the secrets. */
  forged: number
  /** Changes after the head of a response: they are saved with the next response. */
  late: number
  /** Sessions longer than `max`. */
  tooLong: number
  /** Writes of requests that a logout or a hand-over had overtaken. */
  refused: number
  sessions: number
  bytes: number
}

/** Keeps the sessions of express-session in this process, and gives Linchpin a sealed copy of each state. */
export class LinchpinStore extends Store {
  constructor (options: LinchpinStoreOptions)
  /** Returns the middleware that speaks with Linchpin. Use it before anything else. */
  middleware (): RequestHandler
  stats (): LinchpinStoreStats
  get (sid: string, callback: (error: unknown, session?: SessionData | null) => void): void
  set (sid: string, session: SessionData, callback?: (error?: unknown) => void): void
  destroy (sid: string, callback?: (error?: unknown) => void): void
  touch (sid: string, session: SessionData, callback?: () => void): void
}
