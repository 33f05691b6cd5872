#!/usr/bin/env python3
"""Draws what `mochi bench --json` found: one SVG file for each family of cases.

    mochi bench --all --save bench.json
    docs/plots/plot.py bench.json docs/plots

Needs Python 3.8 or newer and nothing else. A file of a family that the run did not measure is not touched.
"""

import json
import math
import sys
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 80, 200, 44, 56
COLOURS = ["#0b6e99", "#d1495b", "#66a182", "#8d6a9f", "#edae49", "#5f6c7b", "#2e4057", "#b56576", "#3a7d44", "#bc6c25"]

# Family: its title, what is on the x axis, what on the y axis, and which figure that is.
FAMILIES = {
    "latency": ("One call at a time", "payload, bytes", "median, µs", "p50_us"),
    "rate": ("64 calls in flight on one connection", "payload, bytes", "calls/s", "per_s"),
    "bulk": ("Bulk transfers, one after the other", "size, bytes", "bytes/s", "bytes_per_s"),
    "crowd": ("One call of 64 bytes, while others are connected", "connected clients", "median, µs", "p50_us"),
    "fair": ("All clients call, 64 bytes, one call each at a time", "clients", "calls/s", "per_s"),
    "memory": ("Memory of the server", "clients or sessions", "bytes each", "bytes_each"),
    "handshake": ("Opening a session", "", "median, µs", "p50_us"),
}
UNITS = {"MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
MOVES = ("pull", "push", "pull-vec", "push-vec")
KINDS = ("call", "sealed", "crowd", "sealed-crowd", "fair", "sealed-fair", "sealed-pull", "sessions", "handshake", *MOVES)


def size_of(text):
    """Bytes of `64KiB`."""
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return int(text[: -len(unit)]) * factor
    raise ValueError(f"{text!r} is no size")


def place(row):
    """The families of a row, the line in each that it is on, and its x."""
    kind, *rest = row["case"].split("/")
    if kind not in KINDS:
        raise ValueError(f"unknown case {row['case']!r}")
    line = f"{row['transport']} {kind}"
    if kind in ("call", "sealed"):
        yield ("latency" if rest[1] == "1" else "rate"), line, size_of(rest[0])
    elif kind in MOVES:
        yield "bulk", line, size_of(rest[0])
    elif kind == "sealed-pull":
        yield "bulk", f"{line}, {rest[1]}", size_of(rest[0])
    elif kind == "handshake":
        yield "handshake", line, 1
    else:
        count = int(rest[-1])
        if kind != "sessions":
            yield ("crowd" if kind.endswith("crowd") else "fair"), line, count
        if row["bytes_each"] is not None and not kind.endswith("fair"):
            yield "memory", line, count


def lines_of(rows):
    """By family and line: points of x, figure and floor."""
    found = {}
    for row in rows:
        for family, line, x in place(row):
            figure = row[FAMILIES[family][3]]
            floor = row["floor"]
            if family == "bulk" and floor is not None:
                floor *= x
            if family == "memory":
                floor = None
            found.setdefault(family, {}).setdefault(line, []).append((x, figure, floor))
    return found


def short(value):
    """64 k, 1.5 M."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.3g}"


class Axis:
    """A logarithmic axis over whole decades of y, or from one x to another; 0 stands left of the least x."""

    def __init__(self, values, start, end, whole):
        positive = [value for value in values if value > 0] or [1]
        self.low, self.high = math.log10(min(positive)), math.log10(max(positive))
        if whole:
            self.low, self.high = math.floor(self.low), math.ceil(self.high)
        if any(value == 0 for value in values):
            self.low -= 0.6
        if self.high - self.low < 1e-9:
            self.low, self.high = self.low - 0.5, self.high + 0.5
        self.start, self.end = start, end

    def at(self, value):
        exponent = self.low if value <= 0 else math.log10(value)
        return self.start + (exponent - self.low) / (self.high - self.low) * (self.end - self.start)

    def decades(self):
        return [10.0**power for power in range(math.ceil(self.low), math.floor(self.high) + 1)]


def text(x, y, content, anchor="middle", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(content)}</text>'


def path(points, colour, dash):
    steps = " ".join(f"{'L' if number else 'M'}{x:.1f} {y:.1f}" for number, (x, y) in enumerate(points))
    return f'<path d="{steps}" fill="none" stroke="{colour}" stroke-width="2" {dash}/>'


def draw(family, lines, source):
    title, x_name, y_name, _ = FAMILIES[family]
    points = [point for line in lines.values() for point in line]
    xs = sorted({x for x, _, _ in points})
    ys = [y for _, figure, floor in points for y in (figure, floor) if y]
    across = Axis(xs, LEFT, WIDTH - RIGHT, False)
    up = Axis(ys, HEIGHT - BOTTOM, TOP, True)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(LEFT, 20, title, "start", 'font-size="15" font-weight="bold"'),
        text(LEFT, 36, source, "start", 'font-size="10" fill="#666"'),
    ]
    for value in up.decades():
        y = up.at(value)
        out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(text(LEFT - 8, y + 4, short(value), "end"))
    if x_name:
        for x in xs:
            out.append(text(across.at(x), HEIGHT - BOTTOM + 18, short(x)))
    out.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_name))
    out.append(text(18, HEIGHT / 2, y_name, "middle", f'transform="rotate(-90 18 {HEIGHT / 2})"'))
    has_floor = False
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        line.sort()
        figures = [(across.at(x), up.at(figure)) for x, figure, _ in line if figure]
        floors = [(across.at(x), up.at(floor)) for x, _, floor in line if floor]
        out.append(path(figures, colour, ""))
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in figures]
        out.append(path(floors, colour, 'stroke-dasharray="4 4" opacity="0.6"') if len(floors) > 1 else "")
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="none" stroke="{colour}"/>' for x, y in floors]
        has_floor = has_floor or bool(floors)
        y = TOP + 14 + 20 * number
        out.append(path([(WIDTH - RIGHT + 16, y - 4), (WIDTH - RIGHT + 40, y - 4)], colour, ""))
        out.append(text(WIDTH - RIGHT + 46, y, name, "start"))
    if has_floor:
        y = TOP + 14 + 20 * len(lines)
        out.append(text(WIDTH - RIGHT + 16, y, "open points: the floor", "start", 'fill="#666"'))
    return "\n".join(part for part in out if part) + "\n</svg>\n"


def main(arguments):
    if len(arguments) != 2:
        sys.exit(__doc__.strip())
    report = json.loads(Path(arguments[0]).read_text())
    target = Path(arguments[1])
    target.mkdir(parents=True, exist_ok=True)
    machine = report["machine"]
    source = (
        f"Mochi for Rust {report['version']}, {machine['cpus']} processors ({machine['model']}), Linux {machine['kernel']}, "
        f"{report['duration_s']:g} s a case in {report['rounds']} rounds"
    )
    for family, lines in lines_of(report["rows"]).items():
        file = target / f"{family}.svg"
        file.write_text(draw(family, lines, source))
        print(file)


if __name__ == "__main__":
    main(sys.argv[1:])
