// Things to hold, on a 256 x 256 canvas: what is drawn behind the figure, what before it, and where the hand is,
// whose arm comes from the lower right corner. "scale" shrinks a thing towards its corner, so that no face is covered.
import { pen } from './scenery.mjs';

const spokes = (n, f) => [...Array(n).keys()].map((i) => f(2 * Math.PI * i / n)).join('');
const flower = (p, x, y, petal, heart) => spokes(5, (a) => p.circle((x + 10 * Math.cos(a)).toFixed(1), (y + 10 * Math.sin(a)).toFixed(1), 8, petal)) + p.circle(x, y, 7, heart);

export const PROPS = {
  balloon: { hand: [210, 222], front: (p) => p.stroke('M210 214Q222 160 222 104', '444444', 3) + p.path('M222 106l-8 10h16Z', 'd6304a') + p.path('M222 28C250 28 256 52 250 70C244 90 232 106 222 106C212 106 200 90 194 70C188 52 194 28 222 28Z', 'e8394f') + p.stroke('M208 44Q202 52 204 62', 'ffb3bd', 5) },
  umbrella: { hand: [214, 218], back: (p) => p.path('M-2 96C10 -8 70 -2 128 -2S246 -8 258 96Q236 76 215 96Q193 76 171 96Q150 76 128 96Q106 76 85 96Q63 76 41 96Q20 76 -2 96Z', 'f39a2d') + p.stroke('M128 0Q70 30 41 94M128 0Q186 30 215 94', 'c9731a', 4), front: (p) => p.stroke('M214 92V236', '6b4a2f', 7) },
  book: { scale: 0.76, hand: [226, 226], front: (p) => p.path('M136 184Q164 172 190 186Q216 172 244 184V240Q216 230 190 242Q164 230 136 240Z', '2f5fb3') + p.path('M143 180Q168 170 190 184V234Q168 222 143 232Z', 'fffaf0') + p.path('M237 180Q212 170 190 184V234Q212 222 237 232Z', 'fffaf0') + p.stroke('M152 192Q168 188 181 196M152 206Q168 202 181 210M199 196Q212 188 228 192M199 210Q212 202 228 206', '9aa3ad', 3) },
  guitar: { scale: 0.88, hand: [206, 172], front: (p) => p.stroke('M100 218L236 150', '5a3820', 13) + p.stroke('M228 154L246 145', '2e1d12', 18) + p.circle(70, 230, 32, 'd98c3a') + p.circle(106, 213, 24, 'd98c3a') + p.circle(74, 228, 29, 'd98c3a', false) + p.circle(103, 214, 21, 'd98c3a', false) + p.circle(96, 218, 10, '3b2413') + p.stroke('M56 236L236 148', 'f6e3c0', 2) + p.stroke('M48 224L60 248', '5a3820', 6) },
  cat: { left: true, scale: 0.88, front: (p) => p.stroke('M22 244Q-2 226 10 204', 'e8913a', 12) + p.path('M26 264Q22 206 64 206T102 264Z', 'f0a04b') + p.path('M34 180L36 142L58 158H70L92 142L94 180Z', 'f0a04b') + p.circle(64, 184, 31, 'f0a04b') + p.path('M38 150L40 164L50 159Z', 'ffd0c0', false) + p.path('M90 150L88 164L78 159Z', 'ffd0c0', false) + p.circle(53, 180, 5, '2b2118', false) + p.circle(75, 180, 5, '2b2118', false) + p.path('M60 189h8l-4 5Z', 'd8576b', false) + p.stroke('M64 194q-6 7-11 2M64 194q6 7 11 2M34 188l-16-4M34 194l-15 3M94 188l16-4M94 194l15 3', '5b3a1e', 2.5) },
  flowers: { scale: 0.76, hand: [204, 230], front: (p) => p.path('M176 190L204 248L232 190Z', 'f4e3ff') + p.path('M170 196q-6-26 18-30l16 24Z', '3f9b4f') + p.path('M238 196q6-26-18-30l-16 24Z', '3f9b4f') + flower(p, 182, 178, 'ff7fa6', 'ffe08a') + flower(p, 226, 178, 'ffd23f', 'e07b1a') + flower(p, 204, 156, 'ffffff', 'f2b01c') },
  cup: { scale: 0.76, hand: [190, 214], front: (p) => p.stroke('M236 190q22 2 18 20t-22 14', 'f4f4f4', 9) + p.path('M182 178H238L232 238Q210 246 188 238Z', 'f4f4f4') + p.path('M182 178a28 8 0 0 1 56 0a28 8 0 0 1 -56 0Z', '6b4226') + p.path('M184 198H236L235 212H185Z', 'd9534f', false) + p.stroke('M200 162q-8-10 0-18t0-18M220 162q-8-10 0-18t0-18', 'ffffff', 5) },
  ice_cream: { scale: 0.76, hand: [208, 226], front: (p) => p.path('M184 176H232L208 246Z', 'dda15e') + p.stroke('M194 180L218 214M222 180L198 214', 'b5793a', 3) + p.circle(208, 164, 26, 'ff9ec4') + p.circle(208, 134, 20, 'a8e6cf') + p.circle(208, 112, 7, 'd62839') },
  camera: { scale: 0.76, hand: [234, 214], front: (p) => p.path('M150 184h16l8-14h30l8 14h26q6 0 6 6v44q0 6-6 6h-88q-6 0-6-6v-44q0-6 6-6Z', '3a3f4b') + p.path('M144 200H244V222H144Z', '7d8597', false) + p.circle(190, 212, 23, 'e9ecef') + p.circle(190, 212, 17, '22262e') + p.circle(190, 212, 9, '4aa3df') + p.circle(229, 192, 5, 'ffe08a') },
  microphone: { scale: 0.76, hand: [186, 226], front: (p) => p.path('M176 196L196 196L192 252H180Z', '2f3440') + p.circle(186, 180, 22, 'b9c0ca') + p.path('M165 186Q186 196 207 186L204 196Q186 204 168 196Z', 'e0b23c') + p.stroke('M176 164L198 186M196 164L174 186', '7d8597', 3) },
  lantern: { scale: 0.76, hand: [222, 226], front: (p) => p.stroke('M222 224L190 122', '6b4a2f', 6) + p.stroke('M190 122V140', '444444', 3) + p.path('M190 144C220 144 232 160 232 178S220 212 190 212S148 196 148 178S160 144 190 144Z', 'e02f2f') + p.stroke('M190 146V210M170 150Q158 178 170 206M210 150Q222 178 210 206', 'a31621', 3) + p.rect(174, 138, 32, 9, 'f2c14e') + p.rect(174, 209, 32, 9, 'f2c14e') + p.stroke('M184 220V240M190 220V244M196 220V240', 'f2c14e', 4) },
  gift: { scale: 0.76, hand: [228, 222], front: (p) => p.rect(144, 188, 84, 56, '5bc0be') + p.rect(138, 176, 96, 18, '3a9a98') + p.rect(179, 176, 14, 68, 'ffd23f', false) + p.path('M186 176Q150 174 154 156T186 176Z', 'ffd23f') + p.path('M186 176Q222 174 218 156T186 176Z', 'ffd23f') },
};

/** SVG markup of one thing: {back, front}. `skin` and `clothes` are hex colours of the hand and its sleeve. */
export function prop(name, ink, skin, clothes) {
  const p = pen(ink);
  const { back, front, hand, left, scale = 1 } = PROPS[name];
  const arm = hand ? `M264 272Q250 ${hand[1] + 24} ${hand[0] + 6} ${hand[1] + 4}` : '';
  const held = hand ? p.stroke(arm, ink ? '16161d' : '00000022', 34) + p.stroke(arm, clothes, ink ? 29 : 31) + p.circle(...hand, 15, skin) : '';
  return { back: back ? back(p) : '', front: `<g transform="translate(${left ? 0 : 256 * (1 - scale)} ${256 * (1 - scale)}) scale(${scale})">${front(p)}${held}</g>` };
}
