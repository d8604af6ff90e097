<?php
// Owns: sealing and opening of copies: AES-256-GCM under a key from the application's secret.
// Invariant: only bytes that were sealed with one of the secrets are opened.
// Must not know: requests, versions, files.
declare(strict_types=1);

namespace Linchpin\Session;

final class Seal
{
    private const CIPHER = 'aes-256-gcm';
    private const FORMAT = "\x01";
    private const NONCE = 12;
    private const TAG = 16;
    private const LEAST_SECRET = 32;
    private const CONTEXT = 'linchpin session copy v1';

    /** @var list<string> the first seals, all of them open */
    private readonly array $keys;

    /** @param string|list<string> $secrets of several, the first seals and all of them open */
    public function __construct(#[\SensitiveParameter] string|array $secrets)
    {
        $keys = [];
        foreach ((array) $secrets as $secret) {
            $length = strlen($secret);
            if ($length < self::LEAST_SECRET) {
                throw new \InvalidArgumentException("a secret for session copies has $length bytes, and needs " . self::LEAST_SECRET
                    . ': make one with "openssl rand -hex 32"');
            }
            $keys[] = hash_hkdf('sha256', $secret, 32, self::CONTEXT);
        }
        if (!$keys) {
            throw new \InvalidArgumentException('session copies need a secret that all servers of the application share');
        }
        $this->keys = $keys;
    }

    /** Returns a byte of format, the nonce, the ciphertext and the tag. `$lifetime` is in seconds. */
    public function seal(string $id, string $data, int $now, int $lifetime): string
    {
        $nonce = random_bytes(self::NONCE);
        $text = self::FORMAT . pack('nJN', strlen($id), $now, $lifetime) . $id . $data;
        $sealed = openssl_encrypt($text, self::CIPHER, $this->keys[0], OPENSSL_RAW_DATA, $nonce, $tag, self::CONTEXT, self::TAG);
        return self::FORMAT . $nonce . $sealed . $tag;
    }

    /** Returns what was sealed, or null if the bytes are not authentic. */
    public function open(string $sealed): ?Opened
    {
        if (strlen($sealed) <= 1 + self::NONCE + self::TAG || $sealed[0] !== self::FORMAT) {
            return null;
        }
        $nonce = substr($sealed, 1, self::NONCE);
        $text = substr($sealed, 1 + self::NONCE, -self::TAG);
        $tag = substr($sealed, -self::TAG);
        foreach ($this->keys as $key) {
            $opened = openssl_decrypt($text, self::CIPHER, $key, OPENSSL_RAW_DATA, $nonce, $tag, self::CONTEXT);
            if (is_string($opened) && strlen($opened) >= 15 && $opened[0] === self::FORMAT) {
                ['id' => $length, 'at' => $at, 'lifetime' => $lifetime] = unpack('nid/Jat/Nlifetime', $opened, 1);
                return new Opened(substr($opened, 15, $length), substr($opened, 15 + $length), $at, $lifetime);
            }
        }
        return null;
    }
}
