// Draws captionable avatars: node render_art.mjs OUT COUNT SEED [SIDE [STYLE...]] [--framings half,close,wide] [--facings right,left]
// Writes OUT/<id>.png (SIDE x SIDE, 256 unless told; as SVG text, OUT/<id>.svg, where SIDE is "svg") and OUT/meta.json,
// one object of exact attributes a picture.
// What benchmarks/prompts.json asks for is never drawn: those combinations are held out.
import { createAvatar } from '@dicebear/core';
import * as collection from '@dicebear/collection';
import { Resvg } from '@resvg/resvg-js';
import fs from 'node:fs';
import { parseArgs } from 'node:util';
import { framing, put, turned } from './framing.mjs';
import { PROPS, prop } from './props.mjs';
import { background, PLAIN, SCENES } from './scenery.mjs';

const { values, positionals } = parseArgs({ allowPositionals: true, options: { framings: { type: 'string' }, facings: { type: 'string' } } });
const [out, count, seed, side = '256', ...only] = positionals;
const random = (state) => () => { // mulberry32
  state = (state + 0x6d2b79f5) >>> 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};
const rnd = random(Number(seed) >>> 0);
const where = random((Number(seed) ^ 0x5bd1e995) >>> 0); // of its own: framing changes nothing else of a picture
const pick = (list) => list[Math.floor(rnd() * list.length)];

const HAIR = { purple: '8e44ad', black: '22202a', brown: '7a4a2a', blonde: 'ecc94b', red: 'c0392b', pink: 'f58fb5', blue: '3b7dd8', green: '3f9b5f', white: 'e9e9ee' };
const CLOTHES = { red: 'd9534f', blue: '4a7fd6', green: '57a773', yellow: 'f2c14e', purple: '9b6bcc', white: 'f4f4f4', black: '33333d', pink: 'f29ac0' };
const SKIN = ['f8d9c0', 'f2d3b1', 'ecad80', 'b97c52'];

// hair: by length and who wears it; face: what each expression is made of. Options are DiceBear's.
const STYLES = {
  avataaars: {
    hair: { 'long girl': ['straight01', 'straight02', 'straightAndStrand', 'curvy'], 'short girl': ['bob', 'longButNotTooLong', 'miaWallace'], 'short boy': ['shortFlat', 'shortRound', 'shortWaved', 'theCaesarAndSidePart'] },
    face: {
      smiling: { mouth: ['twinkle'], eyes: ['default'], eyebrows: ['default'] }, laughing: { mouth: ['smile'], eyes: ['happy'], eyebrows: ['default'] },
      sad: { mouth: ['sad'], eyes: ['default'], eyebrows: ['sadConcerned'] }, surprised: { mouth: ['screamOpen'], eyes: ['surprised'], eyebrows: ['raisedExcited'] },
      asleep: { mouth: ['serious'], eyes: ['closed'], eyebrows: ['default'] }, winking: { mouth: ['twinkle'], eyes: ['wink'], eyebrows: ['default'] },
    },
    make: (hair, color, clothes, glasses) => ({ top: [hair], hairColor: [color], clothesColor: [clothes], clothing: ['shirtCrewNeck', 'shirtVNeck', 'hoodie', 'overall'], facialHairProbability: 0, accessories: ['prescription02'], accessoriesColor: ['262e33'], accessoriesProbability: glasses ? 100 : 0 }),
  },
  personas: {
    hair: { 'long girl': ['long', 'extraLong'], 'short girl': ['bobCut', 'bobBangs'], 'short boy': ['shortCombover', 'shortComboverChops'] },
    face: {
      smiling: { mouth: ['smile'], eyes: ['open'] }, laughing: { mouth: ['bigSmile'], eyes: ['happy'] }, sad: { mouth: ['frown'], eyes: ['open'] },
      surprised: { mouth: ['surprise'], eyes: ['open'] }, asleep: { mouth: ['smirk'], eyes: ['sleep'] }, winking: { mouth: ['smile'], eyes: ['wink'] },
    },
    make: (hair, color, clothes, glasses) => ({ hair: [hair], hairColor: [color], clothingColor: [clothes], body: ['squared', 'rounded'], facialHairProbability: 0, nose: ['mediumRound', 'smallRound'], ...(glasses ? { eyes: ['glasses'] } : {}) }),
    glasses: ['smiling', 'sad', 'surprised'],
  },
  toonHead: {
    hair: { 'long girl': ['sideComed+longStraight', 'sideComed+longWavy'], 'short girl': ['sideComed+shoulderHigh', 'sideComed+neckHigh'], 'short boy': ['undercut', 'spiky', 'sideComed'] },
    face: {
      smiling: { mouth: ['smile'], eyes: ['wide'], eyebrows: ['neutral'] }, laughing: { mouth: ['laugh'], eyes: ['happy'], eyebrows: ['happy'] },
      sad: { mouth: ['sad'], eyes: ['wide'], eyebrows: ['sad'] }, surprised: { mouth: ['agape'], eyes: ['wide'], eyebrows: ['raised'] }, winking: { mouth: ['smile'], eyes: ['wink'], eyebrows: ['happy'] },
    },
    make: (hair, color, clothes) => { const [top, rear] = hair.split('+'); return { hair: [top], hairProbability: 100, rearHair: [rear ?? 'neckHigh'], rearHairProbability: rear ? 100 : 0, hairColor: [color], clothesColor: [clothes], clothes: ['tShirt', 'turtleNeck', 'dress'], beardProbability: 0 }; },
    glasses: [],
  },
  micah: {
    hair: { 'long girl': ['full'], 'short girl': ['pixie'], 'short boy': ['fonze', 'dannyPhantom'] },
    face: {
      smiling: { mouth: ['smile'], eyes: ['eyes'], eyebrows: ['up'] }, laughing: { mouth: ['laughing'], eyes: ['smiling'], eyebrows: ['up'] },
      sad: { mouth: ['sad', 'frown'], eyes: ['eyes'], eyebrows: ['down'] }, surprised: { mouth: ['surprised'], eyes: ['round'], eyebrows: ['up'] },
    },
    make: (hair, color, clothes, glasses) => ({ hair: [hair], hairProbability: 100, hairColor: [color], shirtColor: [clothes], shirt: ['crew', 'collared', 'open'], facialHairProbability: 0, earringsProbability: 0, glasses: ['round'], glassesColor: ['000000'], glassesProbability: glasses ? 100 : 0 }),
  },
  // As an illustrator's own set is: one drawing for each expression, one haircut for each character. Where a
  // caption leaves two open, a short training draws something between them.
  lorelei: {
    hair: { 'long girl': ['variant15'], 'short girl': ['variant26'], 'short boy': ['variant08'] },
    face: {
      smiling: { mouth: ['happy01'], eyes: ['variant04'], eyebrows: ['variant07'] }, laughing: { mouth: ['happy05'], eyes: ['variant22'], eyebrows: ['variant07'] },
      sad: { mouth: ['sad05'], eyes: ['variant12'], eyebrows: ['variant01'] }, surprised: { mouth: ['sad01'], eyes: ['variant21'], eyebrows: ['variant05'] },
      asleep: { mouth: ['sad03'], eyes: ['variant19'], eyebrows: ['variant07'] }, winking: { mouth: ['happy02'], eyes: ['variant15'], eyebrows: ['variant07'] },
    },
    make: (hair, color, _clothes, glasses) => ({ head: ['variant04'], hair: [hair], hairColor: [color], beardProbability: 0, earringsProbability: 0, frecklesProbability: 0, hairAccessoriesProbability: 0, glasses: ['variant01'], glassesProbability: glasses ? 100 : 0 }),
    ink: true,
  },
  // Only for the VAE's eye for ink lines: heads and faces at random, without captions.
  openPeeps: { hair: { 'long girl': [''], 'short girl': [''], 'short boy': [''] }, face: { smiling: {} }, make: (_hair, color, clothes) => ({ headContrastColor: [color], clothingColor: [clothes], maskProbability: 0, facialHairProbability: 0 }), ink: true, whole: true },
  // The same hand with captions, for the UNet: those heads and faces that the vocabulary has words for.
  peeps: {
    of: 'openPeeps',
    hair: { 'long girl': ['long', 'longBangs', 'longCurly', 'mediumStraight'], 'short girl': ['mediumBangs', 'mediumBangs2', 'medium1', 'bangs2'], 'short boy': ['short1', 'short2', 'short4', 'short5', 'flatTop'] },
    face: { smiling: { face: ['smile', 'calm', 'cute'] }, laughing: { face: ['smileBig', 'smileLOL', 'lovingGrin1'] }, sad: { face: ['concerned', 'tired'] }, surprised: { face: ['awe', 'fear'] }, asleep: { face: ['eyesClosed'] } },
    make: (hair, color, clothes, glasses) => ({ head: [hair], headContrastColor: [color], clothingColor: [clothes], maskProbability: 0, facialHairProbability: 0, accessories: ['glasses', 'glasses3'], accessoriesProbability: glasses ? 100 : 0 }),
    ink: true, whole: true,
  },
};
const combination = (a) => [a.hair_color, a.expression, a.clothes_color, a.background].join();
const HELD_OUT = new Set(JSON.parse(fs.readFileSync(new URL('../benchmarks/prompts.json', import.meta.url))).map(combination));

// Lorelei ends at the neck: ink-line shoulders in the same hand, on its 980 x 980 canvas.
const shoulders = (color) => `<path d="M90 1130C100 960 190 880 330 850Q440 945 612 806C740 850 800 960 815 1130Z" fill="#${color}" stroke="#000" stroke-width="16" stroke-linejoin="round"/>`
  + '<path d="M330 850Q440 945 612 806" fill="none" stroke="#000" stroke-width="26" stroke-linecap="round"/><path d="M225 1130Q232 1030 216 990M690 1130Q682 1040 700 990" fill="none" stroke="#000" stroke-width="11" stroke-linecap="round"/>';

function draw(style, attributes, avatarOptions, clothes, skin) {
  const spec = STYLES[style];
  const svg = createAvatar(collection[spec.of ?? style], avatarOptions).toString();
  const inner = svg.replace(/^<svg /, spec.ink && !spec.whole ? '<svg x="-5" y="-6" width="254" height="254" overflow="visible" ' : '<svg x="4" y="8" width="248" height="248" ');
  const body = spec.ink && !spec.whole ? `<g transform="translate(-5 -6) scale(${254 / 980})">${shoulders(clothes)}</g>` : '';
  const held = attributes.prop ? prop(attributes.prop, spec.ink, skin, clothes) : { back: '', front: '' };
  const figure = put(held.back + inner + body + held.front, attributes.placed);
  const picture = turned(background(attributes.background, spec.ink, rnd) + figure, attributes.facing);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 256 256" width="256" height="256">${picture}</svg>`;
}

fs.mkdirSync(out, { recursive: true });
const meta = [];
const names = only.length ? only : Object.keys(STYLES).filter((s) => !STYLES[s].ink);
for (let id = 0; id < Number(count); id += 1) {
  const style = names[id % names.length], spec = STYLES[style];
  const expression = pick(Object.keys(spec.face));
  const who = rnd() < 0.72 ? pick(['long girl', 'short girl']) : 'short boy';
  const [length, person] = who.split(' ');
  const glasses = (spec.glasses ?? Object.keys(spec.face)).includes(expression) && expression !== 'winking' && rnd() < 0.12;
  const attributes = {
    id, style, hair_color: rnd() < 0.2 ? 'purple' : pick(Object.keys(HAIR)), hair_length: length, person, expression, glasses,
    clothes_color: pick(Object.keys(CLOTHES)), background: rnd() < 0.6 ? pick(Object.keys(SCENES)) : pick(Object.keys(PLAIN)),
    prop: rnd() < 0.45 ? pick(Object.keys(PROPS)) : null, ...framing(style, where, values.framings?.split(','), values.facings?.split(',')),
  };
  if (attributes.framing === 'close') attributes.prop = null; // outside the picture
  while (HELD_OUT.has(combination(attributes))) attributes.clothes_color = pick(Object.keys(CLOTHES));
  const skin = pick(spec.ink ? SKIN.slice(0, 3) : SKIN);
  const face = Object.fromEntries(Object.entries(spec.face[expression]).map(([k, v]) => [k, [pick(v)]]));
  const clothes = CLOTHES[attributes.clothes_color];
  const options = { seed: `${style}-${seed}-${id}`, skinColor: [skin], baseColor: [skin], ...face, ...spec.make(pick(spec.hair[who]), HAIR[attributes.hair_color], clothes, glasses) };
  const drawing = draw(style, attributes, options, clothes, skin);
  if (side === 'svg') fs.writeFileSync(`${out}/${id}.svg`, drawing);
  else fs.writeFileSync(`${out}/${id}.png`, new Resvg(drawing, { fitTo: { mode: 'width', value: Number(side) } }).render().asPng());
  if (attributes.framing === 'close') delete attributes.clothes_color; // hardly to be seen
  meta.push(attributes);
}
fs.writeFileSync(`${out}/meta.json`, JSON.stringify(meta));
console.log(`${meta.length} pictures in ${out}`);
