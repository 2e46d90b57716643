// Draws avatars of any DiceBear style, at random and without captions: node render_styles.mjs OUT COUNT STYLE...
// Writes OUT/<style>/<n>.svg, COUNT of each. They teach mini's VAE alone what lines and fills look like in other hands.
import { createAvatar } from '@dicebear/core';
import * as collection from '@dicebear/collection';
import fs from 'node:fs';

const [out, count, ...styles] = process.argv.slice(2);
const COLORS = ['ffffff', 'b6e3f4', 'ffd5dc', 'd1c4f2', 'fff3b0', 'c8f0cf', '1d2554', 'f4845f', '2b2238', 'd9534f', '4a7fd6', '16161d'];
for (const style of styles) {
  fs.mkdirSync(`${out}/${style}`, { recursive: true });
  for (let n = 0; n < Number(count); n += 1) {
    const two = [COLORS[(n * 7) % 12], COLORS[(n * 5 + 3) % 12]];
    const options = { seed: `${style}-${n}`, backgroundColor: two, backgroundType: [n % 3 ? 'solid' : 'gradientLinear'], flip: n % 2 === 1, rotate: n % 4 ? 0 : n % 360 };
    fs.writeFileSync(`${out}/${style}/${n}.svg`, createAvatar(collection[style], options).toString());
  }
}
