package dev.linchpin.session;

/** What the requests of an application share. */
record Parts(Settings settings, Seal seal, SessionCodec codec, Sessions sessions, RefTable refs, HeadLimit headLimit, Counters counters) { }
