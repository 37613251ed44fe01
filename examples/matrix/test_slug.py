import unittest

from slug import slug


class SlugTest(unittest.TestCase):
    def test_words_are_joined(self) -> None:
        self.assertEqual(slug("Hello, World!"), "hello-world")

    def test_accents_are_dropped(self) -> None:
        self.assertEqual(slug("Crème brûlée", separator="_"), "creme_brulee")

    def test_nothing_is_left_of_nothing(self) -> None:
        self.assertEqual(slug("  …  "), "")
