import unittest

from greeter import greeting


class GreetingTest(unittest.TestCase):
    def test_names_the_guest(self) -> None:
        self.assertEqual(greeting("kici"), "Hello, kici!")
