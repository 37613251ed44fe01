import unittest

from services.web import page


class PageTest(unittest.TestCase):
    def test_markup_in_a_name_is_text(self) -> None:
        self.assertEqual(page("tea <b>"), "<h1>Tea &lt;b&gt;</h1>")
