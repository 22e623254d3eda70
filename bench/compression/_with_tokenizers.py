"""Run in the environment `tokenizers`: sentences as JSON on stdin, their numbers as JSON on stdout."""

import json
import sys
from typing import Any

tokenizers: Any = __import__("tokenizers")

asked = json.load(sys.stdin)
rules = tokenizers.Tokenizer.from_str(asked["rules"])
rules.enable_truncation(asked["length"])
rules.enable_padding(length=asked["length"])
found = rules.encode_batch(asked["sentences"])
json.dump({"ids": [each.ids for each in found], "mask": [each.attention_mask for each in found]}, sys.stdout)
