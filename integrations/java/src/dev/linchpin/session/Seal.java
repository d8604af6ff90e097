package dev.linchpin.session;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import javax.crypto.Cipher;
import javax.crypto.Mac;
import javax.crypto.SecretKey;
import javax.crypto.spec.GCMParameterSpec;
import javax.crypto.spec.SecretKeySpec;

/**
 * Encrypts and authenticates copies with AES-256-GCM. The first secret seals and all of them open, so that a secret can be
 * replaced without losing a session. The keys are HKDF-SHA256 of the secrets (RFC 5869).
 */
final class Seal {
    /** The shortest secret, in bytes. */
    static final int SHORTEST_SECRET = 32;

    private static final byte FORMAT = 1;
    private static final int NONCE = 12;
    private static final int TAG = 16;
    private static final byte[] PURPOSE = "linchpin session copy v1".getBytes(StandardCharsets.US_ASCII);

    private final List<SecretKey> keys = new ArrayList<>();
    private final SecureRandom random = new SecureRandom();

    /** @throws IllegalArgumentException if there is no secret, or one that is too short; the message contains none of them */
    Seal(List<String> secrets) {
        if (secrets.isEmpty()) {
            throw new IllegalArgumentException("there is no secret");
        }
        for (String secret : secrets) {
            byte[] bytes = secret.getBytes(StandardCharsets.UTF_8);
            if (bytes.length < SHORTEST_SECRET) {
                throw new IllegalArgumentException("secret " + (keys.size() + 1) + " has " + bytes.length + " bytes, and needs "
                        + SHORTEST_SECRET);
            }
            keys.add(key(bytes));
        }
    }

    private static SecretKey key(byte[] secret) {
        try {
            byte[] extracted = hmac(new byte[32], secret);
            byte[] info = Arrays.copyOf(PURPOSE, PURPOSE.length + 1);
            info[PURPOSE.length] = 1;
            return new SecretKeySpec(hmac(extracted, info), "AES");
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException("every Java platform has HmacSHA256", impossible);
        }
    }

    private static byte[] hmac(byte[] key, byte[] message) throws GeneralSecurityException {
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        return mac.doFinal(message);
    }

    /** Returns the copy: format, nonce, ciphertext with its tag. */
    byte[] seal(byte[] plain) {
        byte[] nonce = new byte[NONCE];
        random.nextBytes(nonce);
        try {
            byte[] sealed = cipher(Cipher.ENCRYPT_MODE, keys.get(0), nonce).doFinal(plain);
            return ByteBuffer.allocate(1 + NONCE + sealed.length).put(FORMAT).put(nonce).put(sealed).array();
        } catch (GeneralSecurityException impossible) {
            throw new IllegalStateException("every Java platform has AES/GCM/NoPadding", impossible);
        }
    }

    /** Returns what was sealed, or null if the copy is not authentic. */
    byte[] open(byte[] copy) {
        if (copy.length < 1 + NONCE + TAG || copy[0] != FORMAT) {
            return null;
        }
        byte[] nonce = Arrays.copyOfRange(copy, 1, 1 + NONCE);
        for (SecretKey key : keys) {
            try {
                return cipher(Cipher.DECRYPT_MODE, key, nonce).doFinal(copy, 1 + NONCE, copy.length - 1 - NONCE);
            } catch (GeneralSecurityException notThisKey) {
                continue;
            }
        }
        return null;
    }

    private static Cipher cipher(int mode, SecretKey key, byte[] nonce) throws GeneralSecurityException {
        Cipher cipher = Cipher.getInstance("AES/GCM/NoPadding");
        cipher.init(mode, key, new GCMParameterSpec(TAG * 8, nonce));
        cipher.updateAAD(PURPOSE);
        return cipher;
    }
}
