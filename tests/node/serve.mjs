// A backend in Node: node serve.mjs KIND NAME. Says its address in a line, and ends when its input does.
import http from "node:http";
import http2 from "node:http2";
import { fileURLToPath } from "node:url";

const [kind, name] = process.argv.slice(2);
process.stdin.resume().on("end", () => process.exit()).on("error", () => process.exit());
const started = (port) => console.log(`127.0.0.1:${port}`);
const listen = (server) => server.listen(0, "127.0.0.1", () => started(server.address().port));

const kinds = {
    // Echoes messages, and says its name at "/".
    async websocket() {
        const { WebSocketServer } = await import("ws");
        let closed;
        const isClosed = new Promise((resolve) => { closed = resolve; });
        const server = http.createServer((request, response) => {
            if (request.url === "/done") return isClosed.then(() => response.end());
            const chunks = [];
            request.on("data", (chunk) => chunks.push(chunk)).on("end", () => {
                response.setHeader("content-type", "text/html");
                response.end(request.url === "/page" ? page : `${name} ${Buffer.concat(chunks).length}`);
            });
        });
        new WebSocketServer({ server, path: "/ws", maxPayload: 64 << 20 }).on("connection", (socket) => {
            socket.on("close", () => setTimeout(closed, 200));
            socket.on("message", (data, binary) => (String(data) === "who" ? socket.send(name) : socket.send(data, { binary })));
        });
        listen(server);
    },
    async socketio() {
        const { Server } = await import("socket.io");
        const server = http.createServer((_, response) => response.end(name));
        new Server(server).on("connection", (socket) => {
            socket.on("who", (reply) => reply(name));
            socket.on("echo", (data, reply) => reply(data));
        });
        listen(server);
    },
    // HTTP/2 in clear text: says what it was sent.
    async http2() {
        const server = http2.createServer();
        server.on("stream", (stream, headers) => {
            const chunks = [];
            stream.on("error", () => {});
            stream.on("data", (chunk) => chunks.push(chunk)).on("end", () => {
                if (headers[":path"] === "/refuse-once" && !server.refused) {
                    server.refused = true;
                    return stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
                }
                if (headers[":path"] === "/goodbye") stream.session.close();
                stream.respond({ ":status": 200, "content-type": "application/json" }, { waitForTrailers: true });
                stream.on("wantTrailers", () => stream.sendTrailers({ "x-sum": String(chunks.length ? Buffer.concat(chunks).length : 0) }));
                stream.end(JSON.stringify({ name, headers, body: Buffer.concat(chunks).toString().slice(0, 100) }));
            });
        });
        listen(server);
    },
    async grpc() {
        const grpc = (await import("@grpc/grpc-js")).default;
        const { loadSync } = (await import("@grpc/proto-loader")).default;
        const { Echo } = grpc.loadPackageDefinition(loadSync(fileURLToPath(new URL("echo.proto", import.meta.url))));
        const server = new grpc.Server();
        const trailers = () => {
            const metadata = new grpc.Metadata();
            metadata.set("served-by", name);
            return metadata;
        };
        server.addService(Echo.service, {
            unary(call, reply) {
                if (call.request.text === "fail") return reply({ code: grpc.status.FAILED_PRECONDITION, details: "as asked", metadata: trailers() });
                if (call.request.text === "sleep") return;
                reply(null, { text: call.request.text, server: name }, trailers());
            },
            gather(call, reply) {
                const texts = [];
                call.on("data", (message) => texts.push(message.text)).on("end", () => reply(null, { text: texts.join(" "), server: name }));
            },
            scatter(call) {
                for (const text of call.request.text.split(" ")) call.write({ text, server: name });
                call.end(trailers());
            },
            chat(call) {
                call.on("data", (message) => call.write({ text: message.text, server: name })).on("end", () => call.end());
            },
        });
        server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
            if (error) throw error;
            started(port);
        });
    },
};

const page = `<!doctype html><title>socket</title><link rel="icon" href="data:,"><p id="out"></p><img src="/done" alt=""><script>
const say = (text) => { document.getElementById("out").textContent += text + " "; };
const socket = new WebSocket("ws://" + location.host + "/ws");
const next = () => new Promise((resolve) => { socket.onmessage = (event) => resolve(event.data); });
socket.onopen = async () => {
    socket.send("who");
    const over = await next();
    const sibling = await (await fetch("/", { method: "POST", body: "x".repeat(100000) })).text();
    socket.send("y".repeat(200000));
    const echo = await next();
    say(over + "|" + sibling + "|" + echo.length);
    socket.onclose = (event) => say("closed:" + event.code);
    socket.close(4000);
};
socket.onerror = () => say("error");
</script>`;

await kinds[kind]();
