"""Rows whose paths and labels need quoting, escaping or special encoding."""

import os

from netkit.infer.output.prediction import Row

NAMES = [
    "plain.png", "a\nb.png", "a\rb.png", "a\r\nb.png", "a,b;c.png", 'a"b".png', "it's.png", "=1+1.png", "<b>&amp;",
    "[red]x[/red].png", r"\xff\xfe\x80.png", " a\t.png", "\x1b[2J\x07.png", "日本é😀", "\u2028.png",
    os.fsdecode(b"\xff\xfe\x80.png"), "",
]  # fmt: skip
RANKED = (("7", 0.7512345678), ("a,b", 0.2), ("1", 1e-9))
ROWS = [row for name in NAMES for row in (Row(name, RANKED), Row(name, status="damaged", message=f"cannot: {name}"))]
