"""Turns a terminal's screen into an SVG picture:

    tmux capture-pane -e -p | python scripts/pictures/ansi_to_svg.py > screen.svg
"""

import re
import sys
from html import escape

ROW, COLUMN = 17, 9.0
PAPER, INK = "#16181d", "#d8dee9"
COLOURS = ["#16181d", "#d8646d", "#8cc265", "#d9b35f", "#5fa3e0", "#bf83d9", "#4fb8bd", "#d8dee9"]
BRIGHT = ["#6b7280", "#e88", "#a5e07d", "#f0d080", "#80c0ff", "#dda5f0", "#70d8dd", "#ffffff"]


def colour(number):
    return COLOURS[number] if number < 8 else BRIGHT[number - 8] if number < 16 else INK


def change(style, codes):
    """What a list of SGR codes makes of a style."""
    codes = [int(code or 0) for code in codes.split(";")]
    while codes:
        code = codes.pop(0)
        if code == 0:
            style = {}
        elif code in (1, 7):
            style = style | {code: True}
        elif code in (22, 27):
            style = {key: value for key, value in style.items() if key != {22: 1, 27: 7}[code]}
        elif code in (38, 48) and codes[:1] == [5]:
            style = style | {code: colour(codes[1])}
            codes = codes[2:]
        elif code in (39, 49):
            style = {key: value for key, value in style.items() if key != code - 1}
        else:
            for base, key, table in ((30, 38, COLOURS), (40, 48, COLOURS), (90, 38, BRIGHT), (100, 48, BRIGHT)):
                if base <= code < base + 8:
                    style = style | {key: table[code - base]}
    return style


def main():
    lines = sys.stdin.read().rstrip("\n").split("\n")
    width = max(len(re.sub("\x1b\\[[0-9;]*m", "", line)) for line in lines)
    size = f'width="{width * COLUMN + 16:.0f}" height="{len(lines) * ROW + 16}"'
    print(f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="DejaVu Sans Mono, monospace" font-size="15">')
    print(f'<rect width="100%" height="100%" fill="{PAPER}"/>')
    style = {}
    for y, line in enumerate(lines):
        x = 0
        for part in re.split("(\x1b\\[[0-9;]*m)", line):
            if part.startswith("\x1b"):
                style = change(style, part[2:-1])
                continue
            ink, paper = style.get(38, INK), style.get(48)
            if style.get(7):
                ink, paper = paper or PAPER, ink
            if paper and paper != PAPER:
                width = len(part) * COLUMN
                print(f'<rect x="{8 + x * COLUMN}" y="{8 + y * ROW}" width="{width}" height="{ROW}" fill="{paper}"/>')
            if part.strip():
                bold = ' font-weight="bold"' if style.get(1) else ""
                length = f'textLength="{len(part) * COLUMN}" lengthAdjust="spacingAndGlyphs"'
                place = f'x="{8 + x * COLUMN}" y="{8 + y * ROW + 14}" {length}'
                print(f'<text {place} fill="{ink}"{bold} xml:space="preserve">{escape(part)}</text>')
            x += len(part)
    print("</svg>")


main()
