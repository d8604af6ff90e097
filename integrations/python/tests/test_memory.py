"""The memory: which requests run, what is saved, and its bounds. The protocol as a whole is checked by ../../check.py."""

import os
import tempfile
import unittest

from linchpin_sessions import field
from linchpin_sessions.memory import Memory, Stored
from linchpin_sessions.seal import Copy, Keys

KEYS = Keys([b"1" * 32])


def stored(id, data=b"data"):
    return Stored(id, data, 60, None)


def seen(text):
    return field.read(text)


class Field(unittest.TestCase):
    def test_each_form_is_read(self):
        self.assertEqual(seen('ref="0f-_";term=3'), field.SessionField("0f-_", 3, None, False))
        self.assertEqual(seen('ref="a"; seq=17; new=1; term=3'), field.SessionField("a", 3, 17, False))
        self.assertEqual(seen('ref="a";term=3;seq=19;dropped'), field.SessionField("a", 3, 19, True))

    def test_a_field_in_another_format_is_none(self):
        long = f'ref="{"a" * 65}";term=1'
        for text in [None, "", 'ref=a;term=1', 'ref="a"', 'ref="";term=1', 'ref="a";term=x', 'ref="a";term=1;seq=-1', long,
                     'ref="a";term=1, ref="b";term=1']:
            self.assertIsNone(seen(text), text)


class Seal(unittest.TestCase):
    def test_the_first_secret_seals_and_all_open(self):
        old, new, copy = b"1" * 32, b"2" * 32, Copy("id", 60, None, b"two\nlines")
        sealed = Keys([old]).seal(copy)
        self.assertEqual(Keys([new, old]).open(sealed), copy)
        self.assertIsNone(Keys([new]).open(sealed))
        self.assertNotIn(b"two", sealed)

    def test_a_changed_or_shortened_copy_does_not_open(self):
        sealed = KEYS.seal(Copy("id", 60, None, b"data"))
        for at in range(len(sealed)):
            self.assertIsNone(KEYS.open(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1:]))
            self.assertIsNone(KEYS.open(sealed[:at]))

    def test_a_short_secret_or_none_is_refused(self):
        for secrets in [[], ["short"]]:
            with self.assertRaisesRegex(ValueError, "openssl rand -hex 32"):
                Keys(secrets)


class Bounds(unittest.TestCase):
    def log_in(self, memory, number):
        request = memory.begin(seen(f'ref="r{number}";term=1'))
        memory.save(request, stored(f"id{number}"))
        self.assertEqual(memory.finish(request)[:2], ("save", (1, 1)))

    def test_the_sessions_that_were_not_used_for_the_longest_time_make_room_and_are_wanted(self):
        memory = Memory(KEYS, sessions=10)
        for number in range(11):
            self.log_in(memory, number)
        self.assertIsNone(memory.begin(seen('ref="r0";term=1;seq=1')))
        self.assertIsNotNone(memory.begin(seen('ref="r10";term=1;seq=1')))

    def test_copies_that_wait_are_bounded_in_bytes(self):
        memory = Memory(KEYS, waiting_bytes=1000)
        for number in range(10):
            copy = Copy(f"id{number}", 60, None, b"x" * 200)
            self.assertIsNone(memory.take(f"r{number}", (1, 1), KEYS.seal(copy), copy))
        waiting = [number for number in range(10) if memory.begin(seen(f'ref="r{number}";term=1;seq=1'))]
        self.assertEqual(waiting, [7, 8, 9])

    def test_a_copy_whose_client_comes_too_late_is_no_session(self):
        memory = Memory(KEYS)
        copy = Copy("id", 0, None, b"data")
        memory.take("r", (1, 1), KEYS.seal(copy), copy)
        request = memory.begin(seen('ref="r";term=1;seq=1'))
        self.assertIsNone(memory.load(request, "id"))
        self.assertIsNotNone(memory.begin(seen('ref="r";term=1;seq=1')), "it is not wanted again")


class Saves(unittest.TestCase):
    def setUp(self):
        self.memory = Memory(KEYS)
        request = self.memory.begin(seen('ref="r";term=1'))
        self.memory.save(request, stored("id"))
        self.memory.finish(request)

    def begin(self, text):
        request = self.memory.begin(seen(text))
        self.assertEqual(self.memory.load(request, "id"), b"data")
        return request

    def test_a_state_whose_save_was_lost_is_saved_with_the_next_response(self):
        lost = self.begin('ref="r";term=1;seq=1')
        self.memory.save(lost, stored("id", b"data"))
        self.assertIsNone(self.memory.finish(lost), "nothing has changed")
        self.memory.save(lost, stored("id", b"more"))
        self.assertEqual(self.memory.finish(lost)[:2], ("save", (1, 2)))
        read = self.memory.begin(seen('ref="r";term=1;seq=1'))
        self.memory.load(read, "id")
        self.assertEqual(self.memory.finish(read)[:2], ("save", (1, 3)))

    def test_a_request_that_was_overtaken_changes_nothing_and_is_refused_for_its_term(self):
        for act in ["read", "save", "delete"]:
            with self.subTest(act):
                self.setUp()
                slow = self.begin('ref="r";term=1;seq=1')
                copy = Copy("id", 60, None, b"newer")
                self.memory.take("r", (3, 9), KEYS.seal(copy), copy)
                if act == "save":
                    self.memory.save(slow, stored("id", b"older"))
                if act == "delete":
                    self.memory.delete(slow, "id")
                told = self.memory.finish(slow)
                self.assertEqual(told and (told[0], told[1][0]), {"read": None, "save": ("save", 1), "delete": ("drop", 1)}[act])
                self.assertEqual(self.memory.load(self.memory.begin(seen('ref="r";term=3;seq=9')), "id"), b"newer")


class Processes(unittest.TestCase):
    def test_processes_share_a_file(self):
        with tempfile.TemporaryDirectory() as folder:
            memory = Memory(KEYS, os.path.join(folder, "sessions.sqlite"))
            memory.save(memory.begin(None), stored("mine"))
            child = os.fork()
            if child == 0:
                try:
                    memory.save(memory.begin(None), stored("its"))
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            self.assertEqual([memory.load(memory.begin(None), id) for id in ["mine", "its"]], [b"data", b"data"])


if __name__ == "__main__":
    unittest.main()
