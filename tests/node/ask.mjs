// Clients in Node: node ask.mjs WHAT HOST:PORT, in TLS if that is in the environment. Says "ok", or fails.
import assert from "node:assert/strict";
import http from "node:http";
import https from "node:https";
import http2 from "node:http2";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

const [what, address, ...rest] = process.argv.slice(2);
const url = `${process.env.TLS ? "https" : "http"}://${address}`;
const get = process.env.TLS ? https.get : http.get;

/** A request on a session: { status, headers, body, trailers }. */
function request(session, headers, body) {
    return new Promise((resolve, reject) => {
        const stream = session.request(headers, { endStream: body === undefined });
        const answer = { chunks: [] };
        stream.on("response", (headers) => Object.assign(answer, { status: headers[":status"], headers }));
        stream.on("trailers", (trailers) => { answer.trailers = trailers; });
        stream.on("data", (chunk) => answer.chunks.push(chunk));
        stream.on("error", reject);
        stream.on("close", () => resolve({ ...answer, body: Buffer.concat(answer.chunks).toString() }));
        if (body !== undefined) stream.end(body);
    });
}

const pinOf = (answer) => answer.headers["set-cookie"].find((cookie) => cookie.startsWith("linchpin-app=")).split(";")[0];

const tasks = {
    // One client, many streams, one server.
    async http2() {
        const session = http2.connect(url);
        const first = await request(session, { ":path": "/first" });
        assert.equal(first.status, 200);
        const pin = pinOf(first);
        // A cookie in crumbs, as RFC 9113 lets a client send it.
        const crumbs = await request(session, { ":path": "/crumbs", cookie: ["a=1", pin, "b=2"] });
        assert.equal(crumbs.body, first.body);
        const answers = await Promise.all(Array.from({ length: 300 }, () => request(session, { ":path": "/many", cookie: pin })));
        assert.ok(answers.every(({ status, body }) => status === 200 && body === first.body));
        assert.equal((await request(session, { ":path": "/", ":authority": address, host: "evil.example" })).status, 400);
        assert.equal((await request(session, { ":path": "/", ":authority": address, host: address, cookie: pin })).status, 200);
        assert.equal((await request(session, { ":path": "/none", ":authority": "a b" }).catch(() => ({ status: 400 }))).status, 400);
        session.close();
        await once(session, "close");
    },
    // Bodies, lengths and trailers, both ways.
    async bodies() {
        const session = http2.connect(url);
        const large = "x".repeat(3_000_000);
        const echo = await request(session, { ":method": "POST", ":path": "/echo", te: "trailers" }, large);
        assert.equal(echo.status, 200);
        const said = JSON.parse(echo.body);
        assert.equal(echo.trailers["x-sum"], String(large.length));
        assert.equal(said.headers.te, "trailers");
        for (const field of ["connection", "keep-alive", "transfer-encoding", "upgrade", "host"]) assert.equal(said.headers[field], undefined, field);
        assert.equal(said.headers[":authority"], address);
        assert.equal((await request(session, { ":path": "/refuse-once" })).status, 200);
        const both = await Promise.all([request(session, { ":path": "/goodbye" }), request(session, { ":path": "/" })]);
        assert.deepEqual(both.map(({ status }) => status), [200, 200]);
        assert.equal((await request(session, { ":path": "/after" })).status, 200);
        session.close();
    },
    // A WebSocket by extended CONNECT, at the level of frames that need no masking library: one echo.
    async connect() {
        const session = http2.connect(url);
        await once(session, "remoteSettings");
        assert.equal(session.remoteSettings.enableConnectProtocol, true);
        const open = (path) => session.request({ ":method": "CONNECT", ":protocol": "websocket", ":path": path, "sec-websocket-version": "13" }, { endStream: false });
        const stream = open("/ws");
        const [headers] = await once(stream, "response");
        assert.equal(headers[":status"], 200);
        assert.equal(headers["sec-websocket-accept"], undefined);
        const frame = (opcode, payload) => Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | payload.length, 0, 0, 0, 0]), payload]);
        stream.write(frame(1, Buffer.from("who")));
        const [data] = await once(stream, "data");
        const who = data.subarray(2).toString();
        const sibling = await request(session, { ":path": "/", cookie: pinOf({ headers }) });
        assert.equal(sibling.body.split(" ")[0], who);
        stream.write(frame(8, Buffer.from([3, 232])));
        stream.end();
        stream.resume();
        await once(stream, "close");
        const page = open("/");
        const [refused] = await once(page, "response");
        assert.ok(refused[":status"] >= 400, `a page is no tunnel: ${refused[":status"]}`);
        page.close();
        session.close();
    },
    async websocket() {
        const { WebSocket } = await import("ws");
        const socket = new WebSocket(`${url.replace("http", "ws")}/ws`);
        let cookies;
        socket.on("upgrade", (response) => { cookies = response.headers["set-cookie"]; });
        await once(socket, "open");
        const say = async (data) => { socket.send(data); return (await once(socket, "message"))[0]; };
        const who = String(await say("who"));
        const large = Buffer.alloc(5_000_000, 7);
        assert.deepEqual(await say(large), large);
        socket.ping("here");
        assert.equal(String((await once(socket, "pong"))[0]), "here");
        const cookie = pinOf({ headers: { "set-cookie": cookies } });
        for (let turn = 0; turn < 5; turn++) {
            const body = await new Promise((resolve) => get(url, { headers: { cookie } }, async (response) => resolve((await response.toArray()).join(""))));
            assert.equal(body.split(" ")[0], who);
        }
        socket.close(4001, "done");
        assert.equal((await once(socket, "close"))[0], 4001);
    },
    async socketio() {
        const { io } = await import("socket.io-client");
        const servers = new Set();
        for (const transports of [["polling", "websocket"], ["polling"], ["websocket"]]) {
            await Promise.all(Array.from({ length: 6 }, async () => {
                const socket = io(url, { transports, withCredentials: true, forceNew: true, reconnection: false });
                socket.on("connect_error", (error) => { throw error; });
                await new Promise((resolve) => socket.on("connect", resolve));
                const name = await socket.emitWithAck("who");
                for (let turn = 0; turn < 5; turn++) assert.equal(await socket.emitWithAck("who"), name);
                assert.equal((await socket.emitWithAck("echo", "z".repeat(50_000))).length, 50_000);
                servers.add(name);
                socket.close();
            }));
        }
        assert.ok(servers.size > 1, "all went to one server");
    },
    async grpc() {
        const grpc = (await import("@grpc/grpc-js")).default;
        const { loadSync } = (await import("@grpc/proto-loader")).default;
        const { Echo } = grpc.loadPackageDefinition(loadSync(fileURLToPath(new URL("echo.proto", import.meta.url))));
        const client = new Echo(address, grpc.credentials.createInsecure());
        const unary = (text, options = {}) => new Promise((resolve) => {
            const answer = {};
            const call = client.Unary({ text }, options, (error, reply) => Object.assign(answer, { error, reply }));
            call.on("metadata", (metadata) => { answer.metadata = metadata; });
            call.on("status", (status) => resolve({ ...answer, status }));
        });
        const one = await unary("hello");
        assert.equal(one.reply.text, "hello");
        assert.deepEqual(one.status.metadata.get("served-by"), [one.reply.server]);
        const failed = await unary("fail");
        assert.equal(failed.error.code, grpc.status.FAILED_PRECONDITION);
        assert.equal(failed.error.details, "as asked");
        const late = await unary("sleep", { deadline: Date.now() + 300 });
        assert.equal(late.error.code, grpc.status.DEADLINE_EXCEEDED);

        const gathered = await new Promise((resolve, reject) => {
            const call = client.Gather((error, reply) => (error ? reject(error) : resolve(reply)));
            for (const text of ["a", "b", "c"]) call.write({ text });
            call.end();
        });
        assert.equal(gathered.text, "a b c");
        const scattered = await client.Scatter({ text: "d e f" }).toArray();
        assert.deepEqual(scattered.map(({ text }) => text), ["d", "e", "f"]);
        const chat = client.Chat();
        for (const text of ["ping", "pong", "ping"]) {
            chat.write({ text });
            assert.equal((await once(chat, "data"))[0].text, text);
        }
        chat.end();
        chat.resume();
        await once(chat, "end");
        const many = await Promise.all(Array.from({ length: 200 }, (_, n) => unary(String(n))));
        assert.ok(many.every(({ reply }, n) => reply.text === String(n)));
        client.close();
    },
};

setTimeout(() => { console.error("took too long"); process.exit(1); }, 18_000).unref();
await tasks[what](...rest);
console.log("ok");
process.exit(0);
