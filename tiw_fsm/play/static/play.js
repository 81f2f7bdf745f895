'use strict';
// One tab, one world. The browser says what is pressed; the server answers with frames as they are, bit for bit.

const FRAMES_PER_SECOND = 12; // at most: a key held down shall be playable, however fast the model is
const STRIP = 12;
const KEYS = {
  ArrowLeft: 'left', ArrowRight: 'right', ArrowUp: 'up', ArrowDown: 'down',
  KeyA: 'left', KeyD: 'right', KeyW: 'up', KeyS: 'down', Space: 'wait',
};
const NAMES = { left: '← or A', right: '→ or D', up: '↑ or W', down: '↓ or S', wait: 'space' };
const KNOWN_BY = {
  keys: 'Found by comparing the actions that the model infers on held-out clips with the keys recorded there.',
  motion: 'No keys are recorded. Found by how the picture moves: an action under which it moves right is “left”.',
  nothing: 'Neither recorded keys nor motion tell the actions apart.',
};

const element = id => document.getElementById(id);
const token = new URLSearchParams(location.search).get('token');

let world = null;       // what the server said of the run
let map = {};           // key → action; the reader may change it
let socket = null, session = '', backoff = 250;
let start = Math.max(0, (parseInt(location.hash.slice(1), 10) || 1) - 1);
let sent = null;        // when the message was sent that has no answer yet
let earliest = 0;       // when the next one may be sent
let held = [], tapped = null, following = false, asked = null;
let arrivals = [], waits = [];
let strip = [];         // { dream, truth }, oldest first
let timer = 0, later = [];

// --- the connection ---

function connect() {
  const query = new URLSearchParams({ session, start });
  if (token) query.set('token', token);
  socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/socket?${query}`);
  socket.binaryType = 'arraybuffer';
  socket.onmessage = event => typeof event.data === 'string' ? told(JSON.parse(event.data)) : framesCame(event.data);
  socket.onclose = event => {
    sent = null;
    element('connection').hidden = false;
    element('connection').textContent = `The connection is lost${event.reason ? ` (${event.reason})` : ''}. ` +
      'It is tried again by itself; if the server was stopped, start tiw-fsm play again.';
    setTimeout(connect, backoff);
    backoff = Math.min(2 * backoff, 5000);
  };
}

function told(message) {
  if (message.end) {
    sent = null;
    follow(false);
    element('said').textContent = 'The recorded episode ends here.';
    return;
  }
  const first = world === null, facts = one => JSON.stringify([one.run, one.updates, one.size, one.starts]);
  if (!first && facts(world) !== facts(message)) { location.reload(); return; } // another model is played there now
  world = message;
  session = message.session;
  backoff = 250;
  element('connection').hidden = true;
  if (first) { map = { ...world.keys }; describe(); }
  if (!message.resumed) follow(false);
  links();
}

function framesCame(data) {
  const length = new DataView(data).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const [height, width] = world.size, bytes = 3 * width * height, pixels = new Uint8Array(data, 4 + length);
  const frames = from => count => Array.from({ length: count }, (_, n) => image(pixels, (from + n) * bytes, width, height));
  const dream = frames(0)(header.dream), truth = frames(header.dream)(header.truth);
  start = header.start;
  element('start').value = start + 1;
  history.replaceState(null, '', `${location.search}#${start + 1}`);
  if (header.kind === 'start') {
    later.forEach(clearTimeout);
    strip = dream.map(frame => ({ dream: frame, truth: null }));
    show(strip[strip.length - 1], header);
    sent = null;
    pump();
    return;
  }
  const came = (frame, n) => {
    strip = [...strip, { dream: frame, truth: truth[n] || null }].slice(-STRIP);
    arrivals.push(performance.now());
    show(strip[strip.length - 1], header);
  };
  came(dream[0], 0);
  waits = [...waits.slice(-19), performance.now() - sent];
  later = dream.slice(1).map((frame, n) => setTimeout(came, (n + 1) * 1000 / FRAMES_PER_SECOND, frame, n + 1));
  earliest = sent + dream.length * 1000 / FRAMES_PER_SECOND;
  sent = null;
  pump();
}

// --- what is sent ---

function pump() {
  clearTimeout(timer);
  if (sent !== null || !world || socket.readyState !== WebSocket.OPEN) return;
  const wait = earliest - performance.now();
  if (asked === null && wait > 0) { timer = setTimeout(pump, wait); return; }
  let message = null;
  if (asked !== null) message = { do: 'reset', start: asked };
  else if (tapped !== null) message = { do: 'step', action: tapped };
  else if (held.length) message = { do: 'step', action: held[held.length - 1].action };
  else if (following) message = { do: 'follow' };
  if (message === null) return;
  asked = null;
  if (message.do === 'step') tapped = null;
  sent = performance.now();
  socket.send(JSON.stringify(message));
}

function press(name, action) {
  if (action === undefined || held.some(one => one.name === name)) return;
  follow(false);
  element('said').textContent = '';
  held.push({ name, action });
  tapped = action;
  pump();
}

function release(name) {
  held = held.filter(one => one.name !== name);
}

function reset(to) {
  if (!world) return;
  held = [];
  tapped = null;
  element('said').textContent = '';
  asked = (to + world.starts) % world.starts;
  pump();
}

function follow(on) {
  following = on;
  element('follow').setAttribute('aria-pressed', String(on));
  if (on) reset(start);
}

function episode(by) {
  const firsts = world.episodes, now = firsts.filter(first => first <= start).length - 1;
  reset(firsts[(now + by + firsts.length) % firsts.length]);
}

// --- what is shown ---

function image(pixels, from, width, height) {
  const made = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    made.data[4 * at] = pixels[from + 3 * at];
    made.data[4 * at + 1] = pixels[from + 3 * at + 1];
    made.data[4 * at + 2] = pixels[from + 3 * at + 2];
    made.data[4 * at + 3] = 255;
  }
  return made;
}

function show(last, header) {
  element('dream').getContext('2d').putImageData(last.dream, 0, 0);
  element('true-frame').hidden = last.truth === null;
  if (last.truth) element('truth').getContext('2d').putImageData(last.truth, 0, 0);
  const [height, width] = world.size, canvas = element('strip'), two = strip.some(one => one.truth);
  canvas.width = STRIP * (width + 2) - 2; // also clears it
  canvas.height = two ? 2 * height + 2 : height;
  strip.forEach((one, n) => {
    canvas.getContext('2d').putImageData(one.dream, n * (width + 2), 0);
    if (one.truth) canvas.getContext('2d').putImageData(one.truth, n * (width + 2), height + 2);
  });
  element('screen').dataset.steps = header.steps;
  element('screen').dataset.start = header.start;
  speed(header.steps);
}

function speed(steps) {
  const now = performance.now();
  arrivals = arrivals.filter(at => at > now - 2000);
  const rate = arrivals.length > 2 ? (arrivals.length - 1) / ((now - arrivals[0]) / 1000) : null;
  const wait = [...waits].sort((a, b) => a - b)[Math.floor(waits.length / 2)];
  element('speed').textContent = `step ${steps}` + (rate ? ` · ${rate.toFixed(1)} frames/s` : '') +
    (wait === undefined ? '' : ` · ${wait.toFixed(0)} ms from key to picture`);
}

function add(parent, tag, text = '', attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
  return made;
}

function describe() {
  const [height, width] = world.size;
  for (const id of ['dream', 'truth']) Object.assign(element(id), { width, height });
  document.title = `${world.run} · play`;
  element('run').textContent = world.run;
  element('updates').textContent = Object.entries(world.updates)
    .map(([name, [done, all]]) => `${name} ${done} of ${all} updates`).join(' · ');
  element('verdict').textContent = world.verdict;
  for (const warning of world.warnings) add(element('warnings'), 'p', warning, { class: 'problem' });
  element('starts').textContent = `of ${world.starts}`;
  element('start').max = world.starts;
  element('known').textContent = KNOWN_BY[world.known_by];
  world.actions.forEach((action, n) => {
    touchable(add(element('numbers'), 'button', n + 1, { type: 'button', 'aria-label': `action ${n + 1}` }), () => n);
    const row = add(element('actions').tBodies[0], 'tr');
    add(row, 'td', n + 1);
    add(row, 'td', `${(100 * action.uses).toFixed(1)} %`, { class: 'n' });
    add(row, 'td', action.told);
  });
  for (const [key, name] of Object.entries(NAMES)) {
    const row = add(element('map').tBodies[0], 'tr');
    add(row, 'td', name);
    const choice = add(add(row, 'td'), 'select', '', { 'aria-label': `action of ${key}` });
    add(choice, 'option', '—', { value: '' });
    world.actions.forEach((_, n) => add(choice, 'option', n + 1, { value: n }));
    choice.value = key in map ? map[key] : '';
    choice.onchange = () => { choice.value === '' ? delete map[key] : map[key] = Number(choice.value); offered(); };
  }
  offered();
}

function offered() {
  for (const button of element('pad').children) button.disabled = !(button.dataset.key in map);
}

function links() {
  element('save').replaceChildren('save as');
  for (const kind of world.formats) {
    const query = new URLSearchParams({ session });
    if (token) query.set('token', token);
    add(element('save'), 'a', kind, { href: `game.${kind}?${query}`, download: '' });
  }
  if (!world.formats.includes('mp4')) add(element('save'), 'span', '(no mp4: PyAV has no H.264 here)', { class: 'note' });
}

// --- fingers, mice and keys ---

function touchable(button, action) {
  const name = button.getAttribute('aria-label');
  const up = () => { button.classList.remove('down'); release(name); };
  button.addEventListener('pointerdown', event => {
    button.setPointerCapture(event.pointerId);
    button.classList.add('down');
    press(name, action());
  });
  for (const kind of ['pointerup', 'pointercancel', 'lostpointercapture']) button.addEventListener(kind, up);
  button.addEventListener('contextmenu', event => event.preventDefault());
  button.addEventListener('click', event => {
    if (event.detail === 0) { press(name, action()); release(name); } // by the keyboard or a screen reader
    else button.blur();
  });
}

addEventListener('keydown', event => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches('input, select')) return;
  if (event.target.matches('button, a') && ['Space', 'Enter'].includes(event.code)) return;
  const name = KEYS[event.code], number = /^(?:Digit|Numpad)([1-9])$/.exec(event.code);
  const other = { r: () => reset(start), n: () => episode(1), p: () => episode(-1), f: () => follow(!following) };
  if (name) press(event.code, map[name]);
  else if (number && world && number[1] <= world.actions.length) press(event.code, number[1] - 1);
  else if (other[event.key.toLowerCase()] && world && !event.repeat) { other[event.key.toLowerCase()](); }
  else return;
  event.preventDefault();
});
addEventListener('keyup', event => release(event.code));
addEventListener('blur', () => { held = []; });

for (const button of element('pad').children) touchable(button, () => map[button.dataset.key]);
for (const [id, act] of Object.entries({
  again: () => reset(start), next: () => episode(1), previous: () => episode(-1), follow: () => follow(!following),
})) {
  element(id).onclick = event => { if (world) act(); if (event.detail) element(id).blur(); };
}
element('start').onchange = () => {
  const wanted = Number(element('start').value);
  if (Number.isInteger(wanted) && wanted >= 1 && wanted <= world.starts) reset(wanted - 1);
  else element('start').value = start + 1;
};

connect();
