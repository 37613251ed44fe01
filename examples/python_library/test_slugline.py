import unittest

from slugline import slug


class SlugTest(unittest.TestCase):
    def test_words_are_joined(self) -> None:
        self.assertEqual(slug("Hello, World!"), "hello-world")

    def test_accents_are_dropped(self) -> None:
        self.assertEqual(slug("Crème brûlée"), "creme-brulee")

    def test_nothing_is_left_of_punctuation(self) -> None:
        self.assertEqual(slug("?!"), "")
