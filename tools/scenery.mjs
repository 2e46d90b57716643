// Settings drawn behind the avatars, on a 256 x 256 canvas. In ink, every shape gets a dark outline.

export const PLAIN = {
  blue: 'b6e3f4', pink: 'ffd5dc', purple: 'd1c4f2', yellow: 'fff3b0',
  green: 'c8f0cf', white: 'f7f7f7', orange: 'ffd9b0', gray: 'c9ced6',
};

const range = (n) => [...Array(n).keys()];

export function pen(ink) {
  const outline = ink ? ' stroke="#16161d" stroke-width="2.5" stroke-linejoin="round"' : '';
  const attrs = (fill, line) => `fill="#${fill}"${line ? outline : ''}`;
  return {
    rect: (x, y, w, h, fill, line = true) => `<rect x="${x}" y="${y}" width="${w}" height="${h}" ${attrs(fill, line)}/>`,
    circle: (x, y, r, fill, line = true) => `<circle cx="${x}" cy="${y}" r="${r}" ${attrs(fill, line)}/>`,
    path: (d, fill, line = true) => `<path d="${d}" ${attrs(fill, line)}/>`,
    stroke: (d, color, width) => `<path d="${d}" fill="none" stroke="#${color}" stroke-width="${width}" stroke-linecap="round"/>`,
  };
}

// Each takes a pen and a random source and returns SVG markup.
export const SCENES = {
  seaside: (p, rnd) => p.rect(-4, -4, 264, 264, 'bfe8fb', false) + p.circle(40 + 20 * rnd(), 46, 22, 'ffd84d')
    + p.rect(-4, 130, 264, 70, '3aa0d8') + p.stroke('M10 150h30M70 160h40M190 148h40M214 172h30', 'ffffff', 4)
    + p.path('M-4 200Q128 180 260 200V264H-4Z', 'f3dca0'),
  forest: (p, rnd) => p.rect(-4, -4, 264, 264, 'dff3d0', false)
    + [20, 70, 186, 236].map((x, i) => { const y = 30 + 24 * rnd() + (i % 2) * 16;
      return p.rect(x - 7, y + 110, 14, 80, '7a5230') + p.path(`M${x} ${y}L${x + 40} ${y + 120}H${x - 40}Z`, i % 2 ? '2f8f4e' : '1f6f3d'); }).join('')
    + p.rect(-4, 206, 264, 60, '5fae57'),
  night: (p, rnd) => p.rect(-4, -4, 264, 264, '1d2554', false) + p.path('M52 22a30 30 0 1 0 26 46a24 24 0 1 1-26-46Z', 'ffe9a0')
    + range(16).map(() => p.circle((256 * rnd()).toFixed(0), (190 * rnd()).toFixed(0), (1.6 + 2.2 * rnd()).toFixed(1), 'fff6d0', false)).join(''),
  rain: (p, rnd) => p.rect(-4, -4, 264, 264, '8fa3b8', false)
    + [[54, 34], [196, 42]].map(([x, y]) => p.path(`M${x - 44} ${y + 18}a20 20 0 0 1 16-34a30 30 0 0 1 54-4a20 20 0 0 1 20 38Z`, 'e3e8ee')).join('')
    + range(26).map((i) => { const x = (i % 9) * 31 + 12 * rnd(), y = 74 + Math.floor(i / 9) * 62 + 20 * rnd(); return p.stroke(`M${x.toFixed(0)} ${y.toFixed(0)}l-8 24`, '4d79c7', 4); }).join(''),
  snow: (p, rnd) => p.rect(-4, -4, 264, 264, 'a9cfe8', false) + p.path('M-4 190Q70 160 130 192T260 186V264H-4Z', 'ffffff')
    + range(26).map(() => p.circle((256 * rnd()).toFixed(0), (190 * rnd()).toFixed(0), (3 + 3.5 * rnd()).toFixed(1), 'ffffff', false)).join(''),
  sunset: (p) => p.rect(-4, -4, 264, 264, 'f4845f', false) + p.rect(-4, 78, 264, 60, 'f7a76c', false) + p.rect(-4, 136, 264, 128, 'fbd08a', false)
    + p.circle(56, 176, 42, 'e8483f') + p.path('M-4 196Q60 168 130 196T260 190V264H-4Z', '6b3f69'),
  classroom: (p) => p.rect(-4, -4, 264, 264, 'f3e6c8', false) + p.rect(12, 16, 232, 120, '9b6a3c') + p.rect(22, 26, 212, 100, '2e6b53')
    + p.stroke('M38 48h38M38 66h28M190 48h30M196 66h24', 'f4f7f4', 4) + p.rect(-4, 200, 264, 64, 'd2a56c'),
  home: (p) => p.rect(-4, -4, 264, 264, 'f7d9c4', false) + p.rect(18, 20, 76, 92, 'ffffff') + p.rect(26, 28, 27, 35, '9ed8f5') + p.rect(59, 28, 27, 35, '9ed8f5')
    + p.rect(26, 69, 27, 35, '9ed8f5') + p.rect(59, 69, 27, 35, '9ed8f5') + p.rect(182, 34, 52, 44, 'ffffff') + p.path('M188 72l14-20 10 12 8-8 10 16Z', '7cc08a')
    + p.path('M-4 264V176q0-22 22-22h220q22 0 22 22V264Z', 'c96f5b'),
  city: (p, rnd) => p.rect(-4, -4, 264, 264, 'cdb7e8', false)
    + range(6).map((i) => { const x = i * 46 - 8, h = 110 + 90 * rnd(), y = 264 - h; return p.rect(x, y, 40, h, i % 2 ? '4a5478' : '5d6a94')
      + range(6).map((k) => p.rect(x + 8 + (k % 2) * 14, y + 12 + Math.floor(k / 2) * 22, 8, 11, 'ffe58a', false)).join(''); }).join(''),
  stage: (p) => p.rect(-4, -4, 264, 264, '2b2238', false) + p.path('M104 -4H152L236 220H20Z', '5c4f73', false) + p.path('M-4 -4H58Q50 110 26 220H-4Z', 'b3263c')
    + p.path('M260 -4H198Q206 110 230 220H260Z', 'b3263c') + p.stroke('M14 4Q14 110 4 214M36 4Q34 110 16 214M242 4Q242 110 252 214M220 4Q222 110 240 214', '7d1628', 4) + p.rect(-4, 216, 264, 48, 'a8703f'),
  garden: (p, rnd) => p.rect(-4, -4, 264, 264, 'c9eefc', false) + p.path('M-4 140Q128 112 260 140V264H-4Z', '7cc55f')
    + [[20, 162], [46, 206], [18, 232], [236, 160], [214, 200], [242, 230]].map(([x, y], i) => { const c = ['ff6f91', 'ffd23f', 'ffffff'][i % 3]; const dx = 6 * rnd();
      return [0, 72, 144, 216, 288].map((a) => p.circle((x + dx + 8 * Math.cos(a * Math.PI / 180)).toFixed(1), (y + 8 * Math.sin(a * Math.PI / 180)).toFixed(1), 6, c)).join('') + p.circle((x + dx).toFixed(1), y, 5, 'f28f1c'); }).join(''),
  space: (p, rnd) => p.rect(-4, -4, 264, 264, '12101f', false) + p.circle(52, 58, 30, 'e2894a') + p.stroke('M8 72Q52 74 98 42', 'f6d7a7', 6) + p.circle(214, 150, 16, '57c4b8')
    + range(22).map(() => p.circle((256 * rnd()).toFixed(0), (256 * rnd()).toFixed(0), (1.2 + 1.6 * rnd()).toFixed(1), 'ffffff', false)).join(''),
};

/** SVG markup of one background: a plain colour's name or a scene's. */
export function background(name, ink, rnd) {
  const p = pen(ink);
  return name in PLAIN ? p.rect(0, 0, 256, 256, PLAIN[name], false) : SCENES[name](p, rnd);
}
