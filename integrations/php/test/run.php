<?php
// The tests of the session handler: php run.php. Each starts what it needs, and says what failed.
declare(strict_types=1);

require __DIR__ . '/../linchpin.php';

use Linchpin\Session\{Entry, Folder, Seal, Version};

const SECRET = 'a secret that all servers share, long enough';
const WELL_KNOWN = '/.well-known/linchpin/session';

function same(mixed $expected, mixed $found, string $what = ''): void
{
    if ($expected !== $found) {
        throw new Exception("$what: expected " . var_export($expected, true) . ', found ' . var_export($found, true));
    }
}

function throws(callable $act, string $words): void
{
    try {
        $act();
    } catch (Throwable $error) {
        same(true, str_contains($error->getMessage(), $words), $error->getMessage());
        return;
    }
    throw new Exception("nothing was thrown with $words");
}

/** A folder that is removed at the end. */
function folder(): string
{
    $path = sys_get_temp_dir() . '/linchpin-php-test-' . bin2hex(random_bytes(8));
    mkdir($path);
    register_shutdown_function(static function () use ($path): void {
        foreach ([...glob("$path/linchpin-sessions/*"), ...glob("$path/*")] as $file) {
            is_dir($file) ? rmdir($file) : unlink($file);
        }
        rmdir($path);
    });
    return $path;
}

/** A server of the pages, with a folder of its own. */
final class Server
{
    public readonly int $port;
    private $process;

    public function __construct(string ...$options)
    {
        $command = ['php', '-d', 'session.save_path=' . folder(), '-d', 'log_errors=0', '-d', 'display_errors=0', ...$options, '-S', '127.0.0.1:0', __DIR__ . '/pages.php'];
        $this->process = proc_open($command, [2 => ['pipe', 'w']], $pipes, null, ['SESSION_SECRET' => SECRET] + getenv());
        same(1, preg_match('#http://127\.0\.0\.1:(\d+)#', (string) fgets($pipes[2]), $match), 'the address');
        $this->port = (int) $match[1];
        register_shutdown_function(fn () => proc_terminate($this->process, 9));
    }

    /** @return array{int, array<string, string>, string} status, fields, body */
    public function ask(string $method, string $path, array $fields = [], string $body = ''): array
    {
        $lines = implode('', array_map(static fn ($name, $value) => "$name: $value\r\n", array_keys($fields), $fields));
        $socket = stream_socket_client("tcp://127.0.0.1:$this->port", timeout: 10);
        stream_set_timeout($socket, 10);
        fwrite($socket, "$method $path HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: " . strlen($body) . "\r\n$lines\r\n$body");
        [$head, $text] = explode("\r\n\r\n", stream_get_contents($socket), 2) + ['', ''];
        $found = [];
        foreach (array_slice(explode("\r\n", $head), 1) as $line) {
            [$name, $value] = explode(': ', $line, 2) + ['', ''];
            $found[strtolower($name)] = $value;
        }
        return [(int) substr($head, 9, 3), $found, $text];
    }
}

/** A client, and what Linchpin knows of it. */
final class Client
{
    public string $ref;
    public ?int $seq = null;
    public int $term = 1;
    public bool $isDropped = false;
    public ?string $cookie = null;
    public ?string $copy = null;
    public bool $hasSaved = false;
    public bool $hasDropped = false;

    public function __construct(public Server $server)
    {
        $this->ref = bin2hex(random_bytes(8));
    }

    public function field(): array
    {
        return ['Linchpin-Session' => new Version($this->ref, $this->term, $this->seq) . ($this->isDropped ? ';dropped' : '')];
    }

    public function ask(string $path, int $expected = 200): string
    {
        [$status, $fields, $body] = $this->server->ask('GET', $path, $this->field() + ($this->cookie ? ['Cookie' => $this->cookie] : []));
        same($expected, $status, $path);
        $this->hasSaved = preg_match('#^:([A-Za-z0-9+/=]+):;term=(\d+);seq=(\d+);ttl=1440$#', $fields['linchpin-session-save'] ?? '', $save) === 1;
        $this->hasDropped = preg_match('#^\?1;term=(\d+);seq=(\d+)$#', $fields['linchpin-session-drop'] ?? '', $drop) === 1;
        same(false, $this->hasSaved && $this->hasDropped, "$path saves and drops");
        if ($this->hasSaved) {
            [$this->copy, $this->seq, $this->isDropped] = [base64_decode($save[1]), (int) $save[3], false];
        } elseif ($this->hasDropped) {
            [$this->copy, $this->seq, $this->isDropped] = [null, (int) $drop[2], true];
        }
        if (preg_match('/^PHPSESSID=[^;]+/', $fields['set-cookie'] ?? '', $cookie)) {
            $this->cookie = $cookie[0];
        }
        return $body;
    }

    /** Moves to another server, which gets the copy. */
    public function move(Server $server): void
    {
        $this->server = $server;
        $this->term += 1;
        same(204, $server->ask('PUT', WELL_KNOWN, $this->field(), $this->copy)[0], 'the PUT');
    }
}

$tests = [
    'a field is read as described, and anything else is as good as none' => static function (): void {
        $read = static fn (?string $value) => ($v = Version::parse($value)) ? [$v->ref, $v->term, $v->seq, $v->isDropped] : null;
        same(['a-_Z9', 3, 17, false], $read('ref="a-_Z9";term=3;seq=17'));
        same(['a', 0, 1, false], $read('ref="a"; seq=1; new; term=0'));
        same(['a', 3, null, false], $read('ref="a";term=3'));
        same(['a', 3, 9, true], $read('ref="a";term=3;seq=9;dropped'));
        $malformed = [null, '', 'x', 'ref=a;term=1', 'ref="";term=1', 'ref="a b";term=1', 'ref="' . str_repeat('a', 65) . '";term=1', 'ref="a"', 'ref="a";term',
            'ref="a";term=-1', 'ref="a";term=1;seq', 'ref="a";term=1;seq=1234567890123456', 'ref="a";term=1;dropped=1', 'ref="a";term=1, ref="b";term=1', "ref=\"a\";term=1\n"];
        foreach ($malformed as $value) {
            same(null, $read($value), (string) $value);
        }
    },
    'what is sealed opens as it was, and only whole' => static function (): void {
        $seal = new Seal(SECRET);
        $sealed = $seal->seal('the-id', 'count|i:1;', 1000, 60);
        $opened = $seal->open($sealed);
        same(['the-id', 'count|i:1;', false, true], [$opened->id, $opened->data, $opened->hasExpired(1066), $opened->hasExpired(1067)]);
        for ($at = 0; $at < strlen($sealed); $at++) {
            $forged = $sealed;
            $forged[$at] = chr(ord($forged[$at]) ^ 1);
            same(null, $seal->open($forged), "byte $at");
            same(null, $seal->open(substr($sealed, 0, $at)), "$at bytes");
        }
    },
    'a new secret seals, and an old one opens until it is removed' => static function (): void {
        $new = 'a new secret of thirty-two bytes!';
        $old = (new Seal(SECRET))->seal('id', 'x', 0, 1);
        same('x', (new Seal([$new, SECRET]))->open($old)->data);
        same('x', (new Seal($new))->open((new Seal([$new, SECRET]))->seal('id', 'x', 0, 1))->data);
        same(null, (new Seal($new))->open($old));
        throws(static fn () => new Seal('short'), 'openssl rand -hex 32');
        throws(static fn () => new Seal([]), 'secret');
    },
    'a damaged file of a ref is as good as none' => static function (): void {
        $entry = new Entry(1, 2, 'id', 'digest', 3, 'previous', true, "given\nbytes\0");
        same($entry->write(), Entry::read($entry->write())->write());
        foreach (['', 'x', '[]', '{"term":1}', substr($entry->write(), 0, 20)] as $file) {
            same(null, Entry::read($file), $file);
        }
    },
    'a session is locked for one request, also if its lock is removed meanwhile' => static function (): void {
        $folder = new Folder(folder() . '/linchpin-sessions');
        $lock = $folder->lockSession('id');
        same(null, $folder->lockSession('id', mayWait: false));
        $folder->removeLock('id');
        $second = $folder->lockSession('id', mayWait: false);
        same(true, is_resource($second));
        fclose($lock);
        same(null, $folder->lockSession('id', mayWait: false));
    },
    'what nobody uses is collected, but no lock that is held' => static function (): void {
        $path = folder() . '/linchpin-sessions';
        $folder = new Folder($path);
        $folder->writeSession('old', 'x');
        $folder->writeSession('new', 'x');
        $folder->change('ref', static fn () => new Entry(1, 1, 'old'));
        $lock = $folder->lockSession('old');
        foreach (glob("$path/*") as $file) {
            str_contains($file, hash('sha256', 'new')) || touch($file, time() - 1000);
        }
        same(null, $folder->session('old', 100), 'it is too old to be used');
        same(1, $folder->collect(100));
        same(['x', null], [$folder->session('new', 100), $folder->entry('ref')]);
        same(null, $folder->lockSession('old', mayWait: false));
    },
    'a folder that cannot be made is named' => static fn () => throws(static fn () => new Folder('/proc/none'), '/proc/none'),
];

foreach (['0', '4096'] as $buffer) {
    $buffered = static fn (string ...$more) => new Server('-d', "output_buffering=$buffer", ...$more);
    foreach (['/before-output' => 'before', '/closed-early' => 'closed', '/twice' => 'second', '/exit' => 'exit', '/set?value=7' => '7'] as $path => $value) {
        $tests["output_buffering=$buffer: a change is saved with the head, and once: $path"] = static function () use ($buffered, $path, $value): void {
            $client = new Client($buffered());
            $client->ask($path);
            same(true, $client->hasSaved, $path);
            same("{\"value\":\"$value\"}", $client->ask('/get'));
            same(false, $client->hasSaved, 'and not again');
            $client->move($buffered());
            same("{\"value\":\"$value\"}", $client->ask('/get'));
            same(false, str_contains($client->server->ask('GET', '/stats')[2], 'late'));
        };
    }
    $tests["output_buffering=$buffer: what changes after the head is saved with the next response, and counted"] = static function () use ($buffered): void {
        $client = new Client($buffered());
        $client->ask('/after-output');
        same(1, json_decode($client->server->ask('GET', '/stats')[2])->late);
        $early = clone $client;
        $early->move($buffered());
        same('{"value":"early"}', $early->ask('/get'));
        same('{"value":"late"}', $client->ask('/get'));
        same(true, $client->hasSaved);
    };
    $tests["output_buffering=$buffer: logins, logouts and new ids"] = static function () use ($buffered): void {
        [$a, $b] = [$buffered(), $buffered()];
        $client = new Client($a);
        $client->ask('/set?value=1');
        $old = clone $client;
        $client->ask('/login', 302);
        same(true, $client->hasSaved && $client->cookie !== $old->cookie);
        $client->move($b);
        same('{"user":"anna"}', $client->ask('/get'));
        foreach ([$a, $b] as $server) {
            [$old->server, $old->term, $old->seq] = [$server, $client->term, null];
            $cookie = $old->cookie;
            same('[]', $old->ask('/get'), 'the old id');
            $old->cookie = $cookie;
        }
        $client->ask('/logout');
        same(true, $client->hasDropped);
        same('[]', $client->ask('/get'));
        $client->ask('/logout-and-login');
        same('{"user":"bert"}', $client->ask('/get'));
    };
    $tests["output_buffering=$buffer: reading, aborting and not using the session save nothing, unless Linchpin holds no copy"] = static function () use ($buffered): void {
        $client = new Client($buffered());
        $client->ask('/get');
        same(false, $client->hasSaved || $client->hasDropped, 'an empty session');
        $client->ask('/set?value=1');
        foreach (['/get', '/read-and-close', '/no-session', '/abort'] as $path) {
            $client->ask($path);
            same(false, $client->hasSaved || $client->hasDropped, $path);
            $client->seq = null;
            $client->ask($path);
            same(true, $client->hasSaved, "$path without seq");
        }
        $client->seq -= 1;
        $client->ask('/get');
        same(true, $client->hasSaved, 'a save was lost');
        $client->ask('/unset');
        same(true, $client->hasSaved, 'an emptied session');
        $client->move($buffered());
        same('[]', $client->ask('/get'));
    };
    $tests["output_buffering=$buffer: a page that fails has saved what it had changed"] = static function () use ($buffered): void {
        $client = new Client($buffered());
        $client->ask('/fatal', 500);
        same(true, $client->hasSaved);
    };
}
$tests += [
    'only what has changed is saved, without lazy_write, too' => static function (): void {
        $client = new Client(new Server('-d', 'session.lazy_write=0'));
        $client->ask('/set?value=1');
        $client->ask('/get');
        same(false, $client->hasSaved);
    },
    'a session that is too long is dropped rather than left old, and goes on here' => static function (): void {
        $client = new Client(new Server());
        $client->ask('/set?value=short');
        $client->ask('/set?value=' . str_repeat('x', 3000));
        same(true, $client->hasDropped);
        same(3012, strlen($client->ask('/get')));
        same(false, $client->hasDropped);
        $client->ask('/set?value=short');
        same(true, $client->hasSaved);
    },
    'a request without Linchpin works as with any handler' => static function (): void {
        $server = new Server();
        [, $fields] = $server->ask('GET', '/set?value=1');
        same([], preg_grep('/^linchpin/', array_keys($fields)));
        same('{"value":"1"}', $server->ask('GET', '/get', ['Cookie' => explode(';', $fields['set-cookie'])[0]])[2]);
    },
    'an id that a client makes up is not taken' => static function (): void {
        [, $fields] = (new Server())->ask('GET', '/set?value=1', ['Cookie' => 'PHPSESSID=made-up-by-the-client']);
        same(false, str_contains($fields['set-cookie'], 'made-up'));
    },
    'the well-known path refuses what Linchpin does not send' => static function (): void {
        $server = new Server();
        $version = ['Linchpin-Session' => 'ref="a";term=1;seq=1'];
        $status = static fn (...$request) => $server->ask(...$request)[0];
        same(405, $status('GET', WELL_KNOWN, $version));
        same(400, $status('PUT', WELL_KNOWN, [], 'x'));
        same(400, $status('PUT', WELL_KNOWN, ['Linchpin-Session' => 'ref="a";term=1'], 'x'));
        same(422, $status('PUT', WELL_KNOWN . '?a=b', $version, 'x'));
        same(413, $status('PUT', WELL_KNOWN, $version, str_repeat('x', (1 << 20) + 1)));
        same(204, $status('DELETE', WELL_KNOWN, $version));
    },
    'the same under CGI, as under FPM' => static function (): void {
        $path = folder();
        $ask = static function (string $page, string $field, ?string $cookie) use ($path): string {
            $environment = ['REQUEST_METHOD' => 'GET', 'REDIRECT_STATUS' => '1', 'SCRIPT_FILENAME' => __DIR__ . '/pages.php', 'REQUEST_URI' => $page,
                'QUERY_STRING' => explode('?', $page)[1] ?? '', 'HTTP_LINCHPIN_SESSION' => $field, 'HTTP_COOKIE' => (string) $cookie, 'SESSION_SECRET' => SECRET];
            $cgi = proc_open(['php-cgi', '-d', "session.save_path=$path"], [1 => ['pipe', 'w']], $pipes, null, $environment + getenv());
            $out = stream_get_contents($pipes[1]);
            proc_close($cgi);
            return $out;
        };
        $out = $ask('/set?value=1', 'ref="a";term=1', null);
        same(1, preg_match('/^Linchpin-Session-Save: :[^:]+:;term=1;seq=1;ttl=1440\r$/mi', $out), $out);
        preg_match('/PHPSESSID=[^;]+/', $out, $cookie);
        same(true, str_ends_with($ask('/get', 'ref="a";term=1;seq=1', $cookie[0]), '{"value":"1"}'));
        $out = $ask('/get', 'ref="a";term=1;seq=2', $cookie[0]);
        same(1, preg_match('/^Status: 409.*\r\n(.*\r\n)*Linchpin-Session-Want: \?1\r$/mi', $out), $out);
        same(true, str_contains($ask('/after-output', 'ref="a";term=1;seq=1', $cookie[0]), 'Save: '));
    },
];

$failed = 0;
foreach ($tests as $name => $test) {
    try {
        $test();
        echo "ok      $name\n";
    } catch (Throwable $error) {
        $failed++;
        echo "FAILED  $name\n        {$error->getMessage()} (line {$error->getLine()})\n";
    }
}
echo count($tests) - $failed, " passed, $failed failed\n";
exit($failed ? 1 : 0);
