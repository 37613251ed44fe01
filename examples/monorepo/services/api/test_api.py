import json
import unittest

from services.api import answer


class AnswerTest(unittest.TestCase):
    def test_it_is_json(self) -> None:
        self.assertEqual(json.loads(answer("green tea")), {"name": "Green Tea"})
