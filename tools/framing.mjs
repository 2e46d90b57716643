// Where the figure stands in the picture, on a 256 x 256 canvas: point (x, y) of a half figure comes to
// (scale * x + dx, scale * y + dy); then the whole picture is turned round, scene and all, where "facing" is "left".

// Styles whose faces are drawn from one side, which looks to the right.
const FROM_THE_SIDE = new Set(['micah', 'lorelei', 'openPeeps', 'peeps']);
const FACE = { avataaars: [128, 118], personas: [128, 112], toonHead: [128, 126], micah: [128, 128], lorelei: [118, 118], peeps: [146, 128] };
const SHARES = { half: 0.55, close: 0.2, wide: 0.25 }; // of pictures
const LEFT = 0.3; // of the pictures that look to a side
const CLOSE = 1.5;
const WIDE = 0.64;
const STEP = 8; // pixels a latent: by whole ones, so that a small face is always the same latents

/** {framing, facing, placed: {scale, dx, dy}} of one picture; of `framings` and `facings`, if any are given. */
export function framing(style, rnd, framings = Object.keys(SHARES), facings = ['right', 'left']) {
  const chance = rnd(), along = rnd(), side = rnd();
  const facing = FROM_THE_SIDE.has(style) ? one(facings, side) : null;
  const framing = style === 'openPeeps' ? 'half' : choose(framings, chance);
  if (framing === 'half') return { framing, facing, placed: { scale: 1, dx: 0, dy: 0 } };
  if (framing === 'close') {
    const [x, y] = FACE[style];
    return { framing, facing, placed: { scale: CLOSE, dx: 128 - CLOSE * x, dy: 132 - CLOSE * y } };
  }
  // its lower edge on the picture's; anywhere from left to right
  return { framing, facing, placed: { scale: WIDE, dx: STEP * Math.round((256 - 256 * WIDE) * along / STEP), dy: 256 - 256 * WIDE } };
}

const one = (facings, side) => (facings.length === 1 ? facings[0] : side < LEFT ? 'left' : 'right');

function choose(framings, chance) {
  const unknown = framings.find((name) => !(name in SHARES));
  if (unknown) throw new Error(`--framings: ${unknown} is none of ${Object.keys(SHARES)}`);
  let left = chance * framings.reduce((sum, name) => sum + SHARES[name], 0);
  return framings.find((name) => (left -= SHARES[name]) < 0) ?? framings.at(-1);
}

/** SVG markup of the figure with what it holds, where `placed` says. */
export const put = (figure, { scale, dx, dy }) => (scale === 1 ? figure : `<g transform="translate(${dx} ${dy}) scale(${scale})">${figure}</g>`);

/** SVG markup of the whole picture, turned round for a face that looks to the left. */
export const turned = (picture, facing) => (facing === 'left' ? `<g transform="translate(256 0) scale(-1 1)">${picture}</g>` : picture);
