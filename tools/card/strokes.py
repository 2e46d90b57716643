"""What line drawings are made of, at random, as SVG text on a 256 x 256 canvas.

Tapered strokes, locks of hair in a few tones, eyes with highlights, hatching, marks like letters,
shapes with edges of every angle, patterns, gradients: they teach the VAE of ``mini`` fine lines and
colours that no set of drawings has enough of.
"""

import math
from random import Random

SIDE = 256


def colour(rng: Random) -> str:
    if rng.random() < 0.2:
        return rng.choice(("#000", "#16161d", "#fff", "#3b2118", "#f8d9c0"))
    return f"hsl({rng.randrange(360)},{rng.randrange(10, 101)}%,{rng.randrange(8, 97)}%)"


def tones(rng: Random, count: int) -> list[str]:
    """Shades of one hue, dark to light, as hair and cloth are painted in."""
    hue, turn = rng.randrange(360), rng.choice((0, 0, 20, -20, 60))
    saturation, low = rng.randrange(20, 100), rng.randrange(10, 50)
    step = rng.uniform(4, 40 / count)
    return [
        f"hsl({(hue + turn * n / count) % 360:.0f},{saturation}%,{min(96, low + step * n):.0f}%)"
        for n in range(count)
    ]


def gradient(rng: Random, colours: list[str]) -> tuple[str, str]:
    """(definition, what ``fill`` is set to)."""
    name = f"g{rng.randrange(10**6)}"
    last = max(1, len(colours) - 1)
    stops = "".join(
        f'<stop offset="{n / last:.2f}" stop-color="{c}"/>' for n, c in enumerate(colours)
    )
    if rng.random() < 0.3:
        return f'<radialGradient id="{name}">{stops}</radialGradient>', f"url(#{name})"
    angle = rng.uniform(0, 2 * math.pi)
    x, y = 0.5 + 0.5 * math.cos(angle), 0.5 + 0.5 * math.sin(angle)
    ends = f'x1="{1 - x:.2f}" y1="{1 - y:.2f}" x2="{x:.2f}" y2="{y:.2f}"'
    return f'<linearGradient id="{name}" {ends}>{stops}</linearGradient>', f"url(#{name})"


def paint(rng: Random) -> tuple[str, str]:
    """A plain colour or a gradient: (definition, fill)."""
    if rng.random() < 0.75:
        return "", colour(rng)
    return gradient(rng, tones(rng, rng.randint(2, 4)) if rng.random() < 0.6 else [colour(rng)] * 2)


def outline(rng: Random, chance: float = 0.5) -> str:
    if rng.random() > chance:
        return ""
    ink = rng.choice(("#000", "#16161d", "#16161d", colour(rng)))
    return f' stroke="{ink}" stroke-width="{rng.uniform(0.6, 5):.1f}" stroke-linejoin="round"'


def lens(x: float, y: float, angle: float, length: float, width: float, bend: float) -> str:
    """Path of a bent stroke that ends in a point, or in two."""
    dx, dy = math.cos(angle), math.sin(angle)
    nx, ny = -dy, dx
    tip = x + dx * length, y + dy * length
    middle = x + dx * length / 2 + nx * bend, y + dy * length / 2 + ny * bend
    first = middle[0] + nx * width, middle[1] + ny * width
    second = middle[0] - nx * width, middle[1] - ny * width
    return (
        f"M{x:.1f} {y:.1f}Q{first[0]:.1f} {first[1]:.1f} {tip[0]:.1f} {tip[1]:.1f}"
        f"Q{second[0]:.1f} {second[1]:.1f} {x:.1f} {y:.1f}Z"
    )


def lock(x: float, y: float, angle: float, length: float, width: float, bend: float) -> str:
    """Path of a lock of hair: broad at (x, y), pointed at its end."""
    dx, dy = math.cos(angle), math.sin(angle)
    nx, ny = -dy, dx
    tip = x + dx * length + nx * bend, y + dy * length + ny * bend
    side = [
        (x + s * nx * width + dx * length * 0.6, y + s * ny * width + dy * length * 0.6)
        for s in (1, -1)
    ]
    return (
        f"M{x + nx * width:.1f} {y + ny * width:.1f}Q{side[0][0]:.1f} {side[0][1]:.1f} "
        f"{tip[0]:.1f} {tip[1]:.1f}Q{side[1][0]:.1f} {side[1][1]:.1f} "
        f"{x - nx * width:.1f} {y - ny * width:.1f}Z"
    )


def strokes(rng: Random) -> str:
    ink = colour(rng)
    marks = "".join(
        lens(
            rng.uniform(0, SIDE),
            rng.uniform(0, SIDE),
            rng.uniform(0, 7),
            rng.uniform(8, 140),
            rng.uniform(0.5, 6),
            rng.uniform(-40, 40),
        )
        for _ in range(rng.randint(2, 14))
    )
    return f'<path d="{marks}" fill="{ink}"/>'


def hair(rng: Random) -> str:
    """Locks that follow one flow, back to front from dark to light, with thin light strands."""
    shades = tones(rng, rng.randint(3, 6))
    x, y, down = rng.uniform(40, 216), rng.uniform(-20, 120), rng.uniform(0, 2 * math.pi)
    spread, length = rng.uniform(0.2, 1.6), rng.uniform(40, 190)
    edge, parts = outline(rng, 0.5), []
    for n in range(rng.randint(6, 34)):
        turn = rng.uniform(-1, 1)
        root = x + turn * rng.uniform(5, 50), y + rng.uniform(-15, 15)
        shape = lock(
            *root,
            down + turn * spread,
            length * rng.uniform(0.4, 1.1),
            rng.uniform(1, 15),
            rng.uniform(-30, 30),
        )
        parts.append(f'<path d="{shape}" fill="{shades[n * len(shades) // 34]}"{edge}/>')
    light = rng.choice((shades[-1], "#fff", colour(rng)))
    fine = "".join(
        lens(
            x + rng.uniform(-50, 50),
            y + rng.uniform(0, 60),
            down + rng.uniform(-spread, spread),
            rng.uniform(15, length),
            rng.uniform(0.4, 1.8),
            rng.uniform(-12, 12),
        )
        for _ in range(rng.randint(0, 16))
    )
    return "".join(parts) + f'<path d="{fine}" fill="{light}"/>'


def eye(rng: Random) -> str:
    x, y, r = rng.uniform(30, 226), rng.uniform(30, 226), rng.uniform(5, 26)
    tall = rng.uniform(0.8, 1.7)
    define, iris = gradient(rng, tones(rng, 3))
    white = f'<ellipse rx="{r * rng.uniform(1.1, 2):.1f}" ry="{r * tall * 1.1:.1f}" fill="#fff"'
    parts = [white + outline(rng) + "/>"] if rng.random() < 0.7 else []
    parts.append(f'<ellipse rx="{r:.1f}" ry="{r * tall:.1f}" fill="{iris}"{outline(rng, 0.4)}/>')
    pupil = rng.uniform(0.3, 0.6) * r
    parts.append(f'<ellipse rx="{pupil:.1f}" ry="{pupil * tall:.1f}" fill="#0d0d14"/>')
    for _ in range(rng.randint(0, 3)):
        a, b = rng.uniform(-0.6, 0.6) * r, rng.uniform(-0.7, 0.5) * r * tall
        size = rng.uniform(0.1, 0.32) * r
        parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{size:.1f}" fill="#fff"/>')
    lash = lens(-r * 1.4, -r * tall * 0.5, 0, r * 2.8, r * 0.3, -r * tall)
    lid = lens(-r, r * tall, 0, r * 2, r * 0.08, r * 0.2)
    brow = lens(-r * 1.3, -r * tall * 1.5, rng.uniform(-0.3, 0.3), r * 2.4, r * 0.15, -r * 0.4)
    parts.append(f'<path d="{lash}{lid}{brow}" fill="{rng.choice(("#000", "#2b1a12"))}"/>')
    turn = rng.choice((0, rng.uniform(-30, 30)))
    return (
        f'{define}<g transform="translate({x:.1f} {y:.1f}) rotate({turn:.0f})">{"".join(parts)}</g>'
    )


def hatching(rng: Random) -> str:
    angle, gap, length = rng.uniform(0, math.pi), rng.uniform(2.5, 9), rng.uniform(15, 90)
    x, y, dx, dy = *(rng.uniform(20, 236) for _ in "xy"), math.cos(angle), math.sin(angle)
    path = "".join(
        f"M{x - dy * gap * n:.1f} {y + dx * gap * n:.1f}"
        f"l{dx * length * rng.uniform(0.7, 1):.1f} {dy * length * rng.uniform(0.7, 1):.1f}"
        for n in range(rng.randint(4, 24))
    )
    width = rng.uniform(0.5, 2.6)
    return f'<path d="{path}" fill="none" stroke="{colour(rng)}" stroke-width="{width:.1f}"/>'


def letters(rng: Random) -> str:
    size, ink = rng.uniform(4, 22), colour(rng)
    left, top, path = rng.uniform(0, 120), rng.uniform(0, 200), ""
    for row in range(rng.randint(1, 5)):
        for column in range(rng.randint(2, 12)):
            x, y = left + column * size * 1.1, top + row * size * 1.7
            points = [(x + size * rng.choice((0, 0.4, 0.8)), y + size * rng.choice((0, 0.5, 1)))]
            points += [
                (x + size * rng.choice((0, 0.4, 0.8)), y + size * rng.choice((0, 0.5, 1)))
                for _ in range(rng.randint(1, 4))
            ]
            path += "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
    width = size * rng.uniform(0.08, 0.22)
    return f'<path d="{path}" fill="none" stroke="{ink}" stroke-width="{width:.1f}"/>'


def polygon(rng: Random) -> str:
    define, fill = paint(rng)
    x, y, r = rng.uniform(0, SIDE), rng.uniform(0, SIDE), rng.uniform(4, 110)
    star, corners, turn = rng.choice((1, 1, 0.45)), rng.randint(3, 9), rng.uniform(0, 7)
    points = " ".join(
        f"{x + radius * math.cos(a):.1f},{y + radius * math.sin(a):.1f}"
        for n in range(2 * corners)
        for a, radius in [(turn + math.pi * n / corners, r * (star if n % 2 else 1))]
    )
    return f'{define}<polygon points="{points}" fill="{fill}"{outline(rng)}/>'


def blob(rng: Random) -> str:
    define, fill = paint(rng)
    x, y = rng.uniform(0, SIDE), rng.uniform(0, SIDE)
    rx, ry = rng.uniform(3, 100), rng.uniform(3, 100)
    turn = rng.randrange(180)
    shape = f'cx="{x:.1f}" cy="{y:.1f}" rx="{rx:.1f}" ry="{ry:.1f}" fill="{fill}"'
    return f'{define}<ellipse {shape} transform="rotate({turn} {x:.0f} {y:.0f})"{outline(rng)}/>'


def curve(rng: Random) -> str:
    points = [f"{rng.uniform(-20, 276):.0f} {rng.uniform(-20, 276):.0f}" for _ in range(9)]
    path = f"M{points[0]}C{' '.join(points[1:4])}S{' '.join(points[4:6])}"
    fill = colour(rng) if rng.random() < 0.3 else "none"
    width = rng.choice((rng.uniform(0.5, 3), rng.uniform(2, 16)))
    ends = 'stroke-linecap="round"' if rng.random() < 0.5 else ""
    line = f'fill="{fill}" stroke="{colour(rng)}" stroke-width="{width:.1f}" {ends}'
    return f'<path d="{path}" {line}/>'


def pattern(rng: Random) -> str:
    """Stripes, checks or dots over a part of the canvas."""
    x, y = rng.uniform(-20, 150), rng.uniform(-20, 150)
    wide, high, gap = rng.uniform(30, 200), rng.uniform(30, 200), rng.uniform(5, 26)
    ink, size = colour(rng), gap * rng.uniform(0.15, 0.7)
    parts = []
    for n in range(int(wide / gap)):
        at = x + n * gap
        if gap < 8 or rng.random() < 0.02:
            parts.append(f'<rect x="{at:.1f}" y="{y:.1f}" width="{size:.1f}" height="{high:.0f}"/>')
        else:
            parts += [
                f'<circle cx="{at:.1f}" cy="{y + m * gap:.1f}" r="{size / 2:.1f}"/>'
                for m in range(int(high / gap))
            ]
    middle = f"{x + wide / 2:.0f} {y + high / 2:.0f}"
    return f'<g fill="{ink}" transform="rotate({rng.randrange(180)} {middle})">{"".join(parts)}</g>'


KINDS = (strokes, hair, hair, eye, eye, hatching, letters, polygon, blob, curve, curve, pattern)


def drawing(seed: int) -> str:
    """SVG text of one picture; the same for the same seed."""
    rng = Random(seed)
    define, fill = paint(rng)
    parts = [f'{define}<rect width="256" height="256" fill="{fill}"/>']
    parts += [rng.choice(KINDS)(rng) for _ in range(rng.randint(3, 13))]
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 256 256" width="256" height="256">'
    return f"{head}{''.join(parts)}</svg>"
