//! Owns: the table of other proxies' names for the values of our keys.
//! Invariant: names are letters and digits in lower case, as in the table of keys.
//! Must not know: how a name is looked up.

const BY_ADDRESS: &str = "\"hash\", and hash = { by = \"address\" }";
const EACH_CODE: &str = "each status code: \"500\", \"502\", \"503\", \"504\"";
const CONNECTED: &str = "nothing for it: a request that failed before Linchpin sent a byte goes to the next backend \
                         anyway";

/// The key, what other proxies call one of its values, and what to write.
pub(super) const VALUES: &[(&str, &str, &str)] = &[
    ("server.threads", "auto", "0, which is one for each core"),
    ("log.level", "warning", "\"warn\""),
    ("log.level", "notice", "\"info\""),
    ("log.level", "err alert crit critical emerg fatal panic", "\"error\""),
    ("log.level", "none silent disabled", "\"off\""),
    ("log.level", "verbose all", "\"debug\", or \"trace\" for everything"),
    ("log.format", "common combined clf plain console logfmt httplog", "\"text\""),
    ("log.format", "structured ecs", "\"json\""),
    ("log.access", "on true console devstdout stderr", "\"stdout\""),
    ("log.access", "none false no discard", "\"off\""),
    ("listeners.forwarded", "xff xrealip xforwarded true", "\"x-forwarded-for\""),
    ("listeners.forwarded", "rfc7239", "\"forwarded\""),
    ("listeners.tls.min_version", "12 tls12 tlsv12 versiontls12", "\"1.2\""),
    ("listeners.tls.min_version", "13 tls13 tlsv13 versiontls13", "\"1.3\""),
    (
        "listeners.tls.min_version",
        "10 11 tls10 tls11 tlsv1 tlsv10 tlsv11 ssl3 sslv3 versiontls10 versiontls11",
        "\"1.2\": older versions are insecure, and Linchpin does not speak them",
    ),
    (
        "listeners.tls.client_certificate",
        "on true require requireandverify requireandverifyclientcert requireanyclientcert",
        "\"required\"",
    ),
    (
        "listeners.tls.client_certificate",
        "request verifyifgiven verifyclientcertifgiven optionalnoca requestclientcert",
        "\"optional\"",
    ),
    ("listeners.tls.client_certificate", "off false none noclientcert", "nothing: remove it and `client_ca`"),
    ("routes.scheme", "ssl tls wss", "\"https\""),
    ("routes.scheme", "plain ws", "\"http\""),
    ("pools.balance", "roundrobin rr wrr swrr staticrr weightedroundrobin weighted", "\"round_robin\""),
    (
        "pools.balance",
        "leastconn leastconns leastconnection leastconnections leastrequest leastrequests lc wlc leasttime \
         leastoutstandingrequests peakewma ewma",
        "\"least_requests\"",
    ),
    ("pools.balance", "leastsession leastsessionsmember fewestsessions", "\"least_sessions\""),
    (
        "pools.balance",
        "random randomchoose p2c poweroftwochoices twochoices randomtwo randomtwoleastconn",
        "\"random_two\"",
    ),
    (
        "pools.balance",
        "source iphash clientiphash sourceip clientip maglev ringhash consistenthash ketama rendezvous hrw",
        BY_ADDRESS,
    ),
    ("pools.balance", "uri urihash url path urlhash", "\"hash\", and hash = { by = \"path\" }"),
    ("pools.balance", "hdr header", "\"hash\", and hash = { by = \"header\", name = \"X-User\" }"),
    ("pools.balance", "urlparam query", "\"hash\", and hash = { by = \"query\", name = \"user\" }"),
    (
        "pools.balance",
        "cookie sticky",
        "\"round_robin\": [pools.persistence] with type = \"cookie\" keeps clients on their backend",
    ),
    ("pools.balance", "first", "\"round_robin\", and backup = true in all [[pools.backends]] but the first"),
    ("pools.hash.by", "source src ip clientip remoteip remoteaddr sourceip iphash binaryremoteaddr", "\"address\""),
    ("pools.hash.by", "uri url requesturi urihash", "\"path\""),
    ("pools.hash.by", "hdr headername", "\"header\", and its `name`"),
    ("pools.hash.by", "urlparam queryparameter param", "\"query\", and its `name`"),
    (
        "pools.persistence.type",
        "sticky insert cookieinsert lbcookie stickycookie httpcookie sessioncookie true on",
        "\"cookie\"",
    ),
    ("pools.persistence.type", "prefix jvmroute stickyroute jsessionid rewrite", "\"route\""),
    ("pools.persistence.type", "learn stickylearn sticktable appsession table passive", "\"learned\""),
    ("pools.persistence.type", "off false disabled no", "\"none\""),
    (
        "pools.persistence.type",
        "source iphash ip clientip sourceip address",
        "\"none\" here, and in [[pools]] balance = \"hash\" and hash = { by = \"address\" }",
    ),
    ("pools.persistence.cookie.lifetime_type", "persistent fixed maxage", "\"permanent\""),
    ("pools.persistence.cookie.lifetime_type", "temporary browser", "\"session\""),
    (
        "pools.health.type",
        "https ssl tls",
        "\"http\": probes use TLS where [pools.upstream.tls] makes requests use \
                                            it",
    ),
    ("pools.health.type", "httpchk get head h2 h2c on true", "\"http\""),
    ("pools.health.type", "tcpcheck tcpchk connect l4 layer4 grpc", "\"tcp\""),
    ("pools.health.type", "off disabled false no", "\"none\""),
    ("pools.retry.retry_on", "5xx servererror allretryableerrors", EACH_CODE),
    ("pools.retry.retry_on", "gatewayerror", "each status code: \"502\", \"503\", \"504\""),
    ("pools.retry.retry_on", "http500", "\"500\""),
    ("pools.retry.retry_on", "http502", "\"502\""),
    ("pools.retry.retry_on", "http503", "\"503\""),
    ("pools.retry.retry_on", "http504", "\"504\""),
    ("pools.retry.retry_on", "http429", "\"429\""),
    ("pools.retry.retry_on", "retriable4xx", "\"409\""),
    ("pools.retry.retry_on", "error emptyresponse junkresponse invalidheader resetbeforerequest", "\"reset\""),
    ("pools.retry.retry_on", "responsetimeout readtimeout", "\"timeout\""),
    ("pools.retry.retry_on", "connectfailure connfailure refusedstream 0rttrejected", CONNECTED),
    ("pools.retry.retry_on", "off none false", "an empty list: retry_on = []"),
    ("pools.persistence.on.down", "redispatch next switch any true", "\"move\""),
    ("pools.persistence.on.down", "fail reject error strict", "\"refuse\""),
    ("pools.persistence.on.full", "queue hold", "\"wait\""),
    ("pools.persistence.on.full", "fail reject error strict", "\"refuse\""),
    ("pools.upstream.proxy_protocol", "1 sendproxy true on", "\"v1\", or \"v2\""),
    ("pools.upstream.proxy_protocol", "2 sendproxyv2", "\"v2\""),
    ("pools.backends.state", "maint down disabled disable off stopped", "\"maintenance\""),
    ("pools.backends.state", "draining drained softstop", "\"drain\""),
    ("pools.backends.state", "up active enabled enable healthy on running", "\"ready\""),
    ("pools.discover.type", "ipv4 v4only strictdns logicaldns", "\"a\""),
    ("pools.discover.type", "ipv6 v6only", "\"aaaa\""),
    ("pools.discover.type", "both auto all any", "\"a+aaaa\""),
    ("pools.discover.type", "service srvlookup", "\"srv\""),
];
