import unittest

from libs.text import title


class TitleTest(unittest.TestCase):
    def test_each_word_begins_with_a_capital(self) -> None:
        self.assertEqual(title("a small   shop"), "A Small Shop")
