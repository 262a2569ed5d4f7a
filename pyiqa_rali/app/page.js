// The page of `pyiqa-rali app`. It asks the server it came from, and nothing else.

const $ = id => document.getElementById(id);
const state = {
  album: '', metrics: [], facts: {}, sliders: [], limits: {}, extensions: new Set(), working: 0,
  pictures: new Map(), // key: {key, name, width, height, error, verdicts: {metric: verdict}}
  cards: new Map(), picked: [], queue: [], running: false, stopped: false, done: 0, total: 0, left: '',
};
const metric = () => $('metric').value;
const verdictOf = (picture, name = metric()) => picture.verdicts[name];
const scoreOf = (picture, name = metric()) => verdictOf(picture, name)?.score;
const isScored = picture => Number.isFinite(scoreOf(picture));

// ---- asking ----

async function ask(name, ...data) {
  let answer;
  try {
    answer = await fetch(`gradio_api/run/${name}`, {
      method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify({data})});
  } catch {
    throw new Error('The server does not answer. Is the command still running?');
  }
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error || `The server answered ${answer.status}.`);
  if (body.data[0].error) throw new Error(body.data[0].error);
  return body.data[0];
}

async function upload(file, name) {
  if (file.size > state.limits.file_mb * 2 ** 20) {
    throw new Error(`it is larger than ${state.limits.file_mb} MB; start with --max-file-mb to allow more`);
  }
  const address = `pictures?album=${encodeURIComponent(state.album)}&name=${encodeURIComponent(name)}`;
  const answer = await fetch(address, {method: 'POST', body: file, headers: {'Content-Type': 'application/octet-stream'}})
    .catch(() => { throw new Error('The server does not answer. Is the command still running?'); });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error || `The server answered ${answer.status}.`);
  return body;
}

function tell(problem) {
  $('problem').textContent = problem;
  $('problem').hidden = !problem;
}

// ---- making elements ----

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') element.textContent = value;
    else if (name in element && name !== 'list') element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter(child => child !== null));
  return element;
}

function drawn(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'text') element.textContent = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const percent = share => `${Math.round(100 * share)}\u00a0%`;
const spanOf = name => (state.facts[name] || {}).ends || seenEnds(name);

function number(value, name = metric()) {
  const ends = spanOf(name);
  return value.toFixed(ends && ends[1] - ends[0] > 20 ? 1 : 2);
}

function seenEnds(name) { // of a metric whose range nobody tells: the scores on the page
  const scores = [...state.pictures.values()].map(picture => scoreOf(picture, name)).filter(Number.isFinite);
  if (!scores.length) return null;
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  return low < high ? [low, high] : [low - 1, high + 1];
}

function place(value, ends) {
  return Math.max(0, Math.min(1, (value - ends[0]) / (ends[1] - ends[0])));
}

function intervalText(verdict, name = metric()) {
  if (!('low' in verdict)) return 'no interval';
  return `${number(verdict.low, name)} to ${number(verdict.high, name)}`;
}

function scaleBar(verdict, name, was = null) {
  const ends = spanOf(name);
  const bar = make('div', {className: 'scale', 'aria-hidden': 'true'});
  if (!ends) return bar;
  if ('low' in verdict) {
    const range = make('i', {className: 'range'});
    range.style.left = `${100 * place(verdict.low, ends)}%`;
    range.style.right = `${100 - 100 * place(verdict.high, ends)}%`;
    bar.append(range);
  }
  if (was !== null) {
    const mark = make('i', {className: 'was'});
    mark.style.left = `${100 * place(was, ends)}%`;
    bar.append(mark);
  }
  const dot = make('i', {className: 'dot'});
  dot.style.left = `${100 * place(verdict.score, ends)}%`;
  bar.append(dot);
  return bar;
}

function scoreBlock(verdict, name, was = null) {
  const block = make('div', {className: 'score-block'});
  if (!verdict) return make('p', {className: 'soft', text: 'Scoring …'});
  if (!Number.isFinite(verdict.score)) return make('p', {className: 'problem', text: verdict.error || 'no score'});
  const facts = state.facts[name] || {};
  const ends = spanOf(name);
  const coverage = verdict.coverage ? ` (${percent(verdict.coverage)} of pictures)` : '';
  block.append(make('div', {className: 'big'}, make('b', {text: number(verdict.score, name)}),
    make('span', {className: 'soft', text: intervalText(verdict, name) + ('low' in verdict ? coverage : '')}),
    was === null ? null : make('span', {className: 'soft', text: `original ${number(was, name)}`})));
  block.append(scaleBar(verdict, name, was));
  if (ends) {
    const [left, right] = facts.lower_better ? ['best', 'worst'] : ['worst', 'best'];
    block.append(make('div', {className: 'ends'}, make('span', {text: `${ends[0]} ${left}`}), make('span', {text: `${ends[1]} ${right}`})));
  }
  if (verdict.unlike) {
    block.append(make('p', {className: 'note', text: 'Unlike the pictures that the interval was made with: it may not hold.'}));
  }
  return block;
}

function bars(rows) { // [{label, share, text}]
  const list = make('div', {className: 'bars', role: 'list'});
  for (const row of rows) {
    const fill = make('i');
    fill.style.width = `${100 * Math.max(0, Math.min(1, row.share))}%`;
    const item = make('div', {role: 'listitem'}, make('span', {text: row.label}),
      make('div', {className: 'track', 'aria-hidden': 'true'}, fill), make('span', {className: 'number', text: row.text}));
    item.style.display = 'contents';
    list.append(item);
  }
  return list;
}

const voteRows = (verdict, count) => (verdict.votes || []).slice(0, count).map(vote => ({
  label: vote.label, share: vote.share,
  text: percent(vote.share) + (vote.level === null ? '' : `, level ${vote.level.toFixed(1)}`)}));
const aspectRows = verdict => verdict.aspects.map(each => ({label: each.label, share: each.value, text: percent(each.value)}));

// ---- start ----

async function start() {
  const answer = await ask('start', sessionStorage.getItem('album') || '');
  sessionStorage.setItem('album', answer.album);
  Object.assign(state, {album: answer.album, metrics: answer.metrics, sliders: answer.sliders, limits: answer.limits,
    extensions: new Set(answer.extensions), working: answer.working});
  $('metric').replaceChildren(...answer.metrics.map(name => make('option', {value: name, text: name})));
  $('csv').href = `scores.csv?album=${encodeURIComponent(answer.album)}`;
  $('private').textContent = answer.private ? 'They stay on this computer.'
    : `They go to ${location.hostname}, stay in its memory, and are forgotten when it stops.`;
  $('limits').replaceChildren(`Up to ${answer.limits.pictures} pictures of at most ${answer.limits.file_mb} MB.`,
    make('span', {className: 'keys', text: ' Ctrl+V pastes one.'}));
  makeSliders();
  for (const picture of answer.pictures) state.pictures.set(picture.key, picture);
  enqueueMissing();
  show();
}

// ---- adding pictures ----

function addFiles(files) { // [{file, name}]
  if (!files.length) return;
  tell('');
  state.queue.push(...files.map(each => ({upload: each})));
  state.total += files.length;
  work();
}

function fromFolder(files) {
  files.sort((a, b) => a.name.localeCompare(b.name, undefined, {numeric: true}));
  const kept = files.filter(({name}) => state.extensions.has(`.${name.split('.').pop().toLowerCase()}`));
  addFiles(kept);
  const others = files.length - kept.length;
  if (!kept.length) tell('There is no picture in this folder.');
  else if (others) state.left = `; ${others} other ${others === 1 ? 'file' : 'files'} left out`;
}

function enqueueMissing() {
  const waiting = new Set(state.queue.map(job => job.score));
  for (const picture of state.pictures.values()) {
    if (!picture.error && !verdictOf(picture) && !waiting.has(picture)) {
      state.queue.push({score: picture});
      state.total += 1;
    }
  }
  work();
}

async function work() { // one picture after the other, so that a slider never waits for more than one
  if (state.running) return;
  state.running = true;
  while (state.queue.length && !state.stopped) {
    const job = state.queue.shift();
    progress();
    try {
      let picture = job.score;
      if (job.upload) {
        picture = await upload(job.upload.file, job.upload.name);
        state.pictures.set(picture.key, picture);
      }
      if (!picture.error && state.pictures.has(picture.key)) await score(picture, metric());
    } catch (error) {
      tell(`${job.upload ? job.upload.name : job.score.name}: ${error.message}`);
      if (job.upload) noteFailure(job.upload.name, error.message);
    }
    state.done += 1;
    show();
  }
  if (state.stopped && state.queue.length) {
    $('status').textContent = `Stopped: ${state.queue.length} left.`;
    state.queue = [];
  } else if (state.total) {
    const failed = $('failed-list').children.length;
    $('status').textContent = `Done: ${[...state.pictures.values()].filter(isScored).length} scored${failed ? `, ${failed} not` : ''}${state.left}.`;
    state.left = '';
  }
  Object.assign(state, {running: false, stopped: false, done: 0, total: 0});
  progress();
}

function progress() {
  $('working').hidden = !state.total;
  $('progress').max = Math.max(1, state.total);
  $('progress').value = state.done;
  if (state.total) $('status').textContent = `Scoring ${Math.min(state.done + 1, state.total)} of ${state.total} with ${metric()}`;
}

async function score(picture, name) {
  if (picture.verdicts[name]) return picture.verdicts[name];
  const answer = await ask('score', state.album, picture.key, name);
  state.facts[name] = answer.facts;
  picture.verdicts[name] = answer.verdict;
  return answer.verdict;
}

async function needFacts(name) { // of pictures that were scored before the page was reloaded
  const picture = [...state.pictures.values()].find(each => each.verdicts[name] && !each.error);
  if (!state.facts[name] && picture) state.facts[name] = (await ask('score', state.album, picture.key, name)).facts;
}

const lost = []; // files that did not get as far as the server's list

function noteFailure(name, reason) {
  lost.push({name, error: reason});
}

// ---- the gallery ----

function sorted() {
  const scored = [...state.pictures.values()].filter(isScored);
  const sign = (state.facts[metric()] || {}).lower_better ? 1 : -1;
  const width = picture => { const verdict = verdictOf(picture); return 'low' in verdict ? verdict.high - verdict.low : -1; };
  const orders = {
    best: (a, b) => sign * (scoreOf(a) - scoreOf(b)), worst: (a, b) => -sign * (scoreOf(a) - scoreOf(b)),
    unsure: (a, b) => width(b) - width(a), name: () => 0};
  return scored.sort((a, b) => orders[$('sort').value](a, b) || a.name.localeCompare(b.name, undefined, {numeric: true}));
}

function show() {
  const pictures = sorted();
  const failed = [...[...state.pictures.values()].filter(each => each.error || verdictOf(each)?.error), ...lost];
  document.body.classList.toggle('empty', !state.pictures.size && !state.queue.length && !lost.length);
  $('scored').hidden = !pictures.length;
  $('scored-title').textContent = `${pictures.length} ${pictures.length === 1 ? 'picture' : 'pictures'}`;
  $('compare').disabled = !pictures.length;
  const gallery = $('gallery');
  pictures.forEach((picture, index) => {
    const card = cardOf(picture);
    if (gallery.children[index] !== card) gallery.insertBefore(card, gallery.children[index] || null);
  });
  while (gallery.children.length > pictures.length) gallery.lastElementChild.remove();
  $('strip').replaceChildren(...(pictures.length > 1 ? [strip(pictures)] : []));
  $('failed').hidden = !failed.length;
  $('failed-title').textContent = `Not scored: ${failed.length}`;
  $('failed-list').replaceChildren(...failed.map(failure));
}

function failure(picture) {
  const remove = make('button', {type: 'button', className: 'quiet', text: 'Remove', ariaLabel: `Remove ${picture.name}`});
  remove.addEventListener('click', () => forget([picture]));
  return make('li', {}, make('span', {}, make('b', {text: picture.name}), `: ${picture.error || verdictOf(picture).error}`), remove);
}

function cardOf(picture) {
  let card = state.cards.get(picture.key);
  if (!card) {
    const open = make('button', {type: 'button', className: 'open'},
      make('img', {src: `pictures/${state.album}/${picture.key}/thumb`, alt: '', loading: 'lazy'}));
    open.addEventListener('click', () => openDetail(picture));
    card = make('li', {className: 'card'}, open, make('div', {className: 'words'}));
    state.cards.set(picture.key, card);
  }
  const verdict = verdictOf(picture);
  if (card.shown !== verdict) {
    card.shown = verdict;
    card.querySelector('.open').setAttribute('aria-label',
      `${picture.name}: score ${number(verdict.score)}, ${'low' in verdict ? 'interval ' : ''}${intervalText(verdict)}`);
    card.lastElementChild.replaceChildren(...words(picture, verdict));
  }
  card.classList.toggle('picked', state.picked.includes(picture.key));
  card.querySelector('.pick input').checked = state.picked.includes(picture.key);
  return card;
}

function words(picture, verdict) {
  const box = make('input', {type: 'checkbox', ariaLabel: `Put ${picture.name} side by side`});
  box.addEventListener('change', () => pick(picture.key, box.checked));
  const parts = [make('div', {className: 'first'}, make('b', {className: 'score', text: number(verdict.score)}),
    make('span', {className: 'interval', text: intervalText(verdict)}),
    make('label', {className: 'pick'}, box, 'pick')), scaleBar(verdict, metric()),
  make('p', {className: 'name', text: picture.name, title: picture.name})];
  const votes = (verdict.votes || []).slice(0, 2).filter((vote, index) => index === 0 || vote.share >= 0.1);
  if (votes.length) {
    parts.push(make('p', {className: 'chips'}, ...votes.map(vote =>
      make('span', {title: vote.label}, make('b', {text: vote.label}), ` ${percent(vote.share)}`))));
  }
  if (verdict.aspects) parts.push(bars(aspectRows(verdict).map(row => ({...row, text: ''}))));
  return parts;
}

const widthOf = element => Math.max(240, element.clientWidth || 560); // so that the text of a drawing keeps its size

function strip(pictures) { // all scores on one scale
  const ends = spanOf(metric());
  const width = widthOf($('scored'));
  const at = value => 8 + (width - 16) * place(value, ends);
  const scores = pictures.map(picture => scoreOf(picture)).sort((a, b) => a - b);
  const middle = scores[Math.floor(scores.length / 2)];
  return drawn('svg', {class: 'plot', viewBox: `0 0 ${width} 34`, role: 'img',
    'aria-label': `Scores from ${number(scores[0])} to ${number(scores.at(-1))}, the middle one ${number(middle)}`},
  drawn('line', {class: 'axis', x1: 8, x2: width - 8, y1: 14, y2: 14}),
  ...scores.map(value => drawn('circle', {class: 'point', cx: at(value), cy: 14, r: 5, opacity: Math.max(0.25, 1 / Math.sqrt(scores.length))})),
  drawn('text', {x: 8, y: 32, text: ends[0]}), drawn('text', {x: width - 8, y: 32, 'text-anchor': 'end', text: ends[1]}));
}

function pick(key, chosen) {
  state.picked = state.picked.filter(each => each !== key);
  if (chosen) state.picked = [...state.picked, key].slice(-2); // the third replaces the first
  show();
}

async function forget(pictures) {
  for (const picture of pictures) {
    state.pictures.delete(picture.key);
    state.cards.get(picture.key)?.remove();
    state.cards.delete(picture.key);
    if (lost.includes(picture)) lost.splice(lost.indexOf(picture), 1);
  }
  const gone = new Set(pictures);
  state.queue = state.queue.filter(job => !gone.has(job.score));
  state.picked = state.picked.filter(key => state.pictures.has(key));
  show();
  const keys = pictures.map(picture => picture.key).filter(Boolean);
  if (keys.length) await ask('remove', state.album, JSON.stringify(keys)).catch(error => tell(error.message));
}

// arrow keys move through the gallery as it is laid out
$('gallery').addEventListener('keydown', event => {
  const opens = [...$('gallery').querySelectorAll('.open')];
  const index = opens.indexOf(event.target);
  if (index < 0) return;
  const top = opens[0].getBoundingClientRect().top;
  const columns = opens.filter(each => each.getBoundingClientRect().top === top).length;
  const steps = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -index, End: opens.length - 1 - index};
  if (!(event.key in steps)) return;
  event.preventDefault();
  opens[Math.max(0, Math.min(opens.length - 1, index + steps[event.key]))].focus();
});

// ---- one picture ----

const detail = {picture: null, tab: 'why', values: {}, wanted: false, busy: false, distorted: null, changed: '', active: 'jpeg', curves: new Map(), maps: new Map()};

function openDetail(picture) {
  Object.assign(detail, {picture, distorted: null, changed: '', curves: new Map()});
  resetValues();
  $('detail-name').textContent = picture.name;
  $('detail-facts').textContent = `${picture.width} × ${picture.height} pixels, ${metric()}`;
  $('shown').src = `pictures/${state.album}/${picture.key}/view`;
  $('shown').alt = picture.name;
  hideMap();
  $('map-tools').hidden = !(state.facts[metric()] || {}).map;
  const order = sorted();
  $('previous').disabled = order.indexOf(picture) <= 0;
  $('next').disabled = order.indexOf(picture) >= order.length - 1;
  chooseTab(detail.tab);
  if (!$('detail').open) {
    $('detail').showModal();
    $('detail-name').focus();
  }
  $('detail').scrollTop = 0;
}

function step(by) {
  const order = sorted();
  const to = order[order.indexOf(detail.picture) + by];
  if (to) openDetail(to);
}

function chooseTab(name) {
  detail.tab = name;
  for (const each of ['why', 'distort']) {
    $(each).hidden = each !== name;
    $(`tab-${each}`).setAttribute('aria-selected', String(each === name));
    $(`tab-${each}`).tabIndex = each === name ? 0 : -1;
  }
  $('distort-tools').hidden = name !== 'distort';
  $('detail').classList.toggle('distorting', name === 'distort');
  $('map-tools').hidden = name === 'distort' || !(state.facts[metric()] || {}).map;
  if (name === 'distort') {
    hideMap();
    request();
  } else {
    $('shown').src = `pictures/${state.album}/${detail.picture.key}/view`;
    $('shown-caption').textContent = '';
    $('detail-score').replaceChildren(scoreBlock(verdictOf(detail.picture), metric()));
    $('why').replaceChildren(...why(verdictOf(detail.picture)));
  }
}

function why(verdict) {
  const parts = [];
  if (verdict.aspects) parts.push(make('h3', {text: 'Aspects'}), bars(aspectRows(verdict)));
  if (verdict.votes?.length) {
    parts.push(make('h3', {text: 'What it looks like'}), bars(voteRows(verdict, 5)));
  }
  if (verdict.texts?.length) {
    parts.push(make('h3', {text: 'Nearest texts, and how near'}), make('ul', {className: 'texts'}, ...verdict.texts.map(near =>
      make('li', {}, make('span', {text: near.cosine.toFixed(2)}), make('div', {text: near.text})))));
  }
  if (verdict.basis) {
    parts.push(make('h3', {text: 'Basis: the weight of each vector at its score'}), basisChart(verdict),
      make('ul', {className: 'texts'}, ...verdict.basis.parts.map(part =>
        make('li', {}, make('span', {text: percent(part.weight)}), make('div', {text: `${number(part.score)}: ${part.text}`})))));
  }
  if (!parts.length) parts.push(make('p', {className: 'soft', text: `${metric()} gives a score and no reasons.`}));
  return parts;
}

function basisChart(verdict) {
  const ends = spanOf(metric());
  const {weights, scores} = verdict.basis;
  const [width, height, left, bottom] = [widthOf($('why')), 150, 34, 22];
  const low = Math.min(ends[0], ...scores);
  const high = Math.max(ends[1], ...scores);
  const most = Math.max(...weights);
  const x = value => left + (width - left - 8) * place(value, [low, high]);
  const y = value => 8 + (height - bottom - 8) * (1 - value / most);
  return drawn('svg', {class: 'plot', viewBox: `0 0 ${width} ${height}`, role: 'img',
    'aria-label': `${weights.length} basis vectors; the largest weight is ${percent(most)}`},
  drawn('line', {class: 'axis', x1: left, x2: width - 8, y1: y(0), y2: y(0)}),
  ...weights.map((weight, index) => drawn('line', {class: 'stem', x1: x(scores[index]), x2: x(scores[index]), y1: y(0), y2: y(weight)})),
  drawn('line', {class: 'guide', x1: x(verdict.score), x2: x(verdict.score), y1: 4, y2: y(0)}),
  drawn('text', {x: 0, y: 14, text: percent(most)}),
  ...[low, (low + high) / 2, high].map((value, index) => drawn('text', {x: x(value), y: height - 4,
    'text-anchor': ['start', 'middle', 'end'][index], text: number(value)})));
}

// ---- where ----

function hideMap() {
  $('map').hidden = true;
  $('map-button').setAttribute('aria-pressed', 'false');
  $('map-strength-field').hidden = $('map-key').hidden = true;
}

async function toggleMap() {
  if (!$('map').hidden) return hideMap();
  const {picture} = detail;
  const key = `${metric()} ${picture.key}`;
  $('map-button').disabled = true;
  try {
    if (!detail.maps.has(key)) detail.maps.set(key, await ask('where', state.album, picture.key, metric()));
    if (detail.picture !== picture || detail.tab !== 'why') return;
    const found = detail.maps.get(key);
    $('map').src = found.map;
    $('map').hidden = false;
    $('map-button').setAttribute('aria-pressed', 'true');
    $('map-strength-field').hidden = $('map-key').hidden = false;
    $('map-key').textContent = `orange: ${number(found.low)} and worse, blue: ${number(found.high)} and better`;
    fitMap();
  } catch (error) {
    $('shown-caption').textContent = error.message;
  } finally {
    $('map-button').disabled = false;
    $('map-button').focus();
  }
}

function fitMap() {
  const {width, height} = $('shown').getBoundingClientRect();
  const picture = detail.picture;
  const factor = Math.min(width / picture.width, height / picture.height);
  $('map').style.width = `${picture.width * factor}px`;
  $('map').style.height = `${picture.height * factor}px`;
  $('map').style.opacity = $('map-strength').value / 100;
}

// ---- sliders ----

function makeSliders() {
  $('sliders').replaceChildren(...state.sliders.map(slider => {
    const input = make('input', {type: 'range', id: `slider-${slider.name}`});
    Object.assign(input, {min: slider.low, max: slider.high, step: slider.step, value: slider.neutral});
    input.addEventListener('input', () => { detail.active = slider.name; request(performance.now()); });
    input.addEventListener('focus', () => { if (detail.active !== slider.name) { detail.active = slider.name; drawCurve(); fillCurve(); } });
    const output = make('output', {id: `value-${slider.name}`});
    output.htmlFor = input.id;
    return make('div', {className: 'slider', id: `row-${slider.name}`}, make('label', {htmlFor: input.id, text: slider.label}), input, output);
  }));
  resetValues();
}

function resetValues() {
  for (const slider of state.sliders) $(`slider-${slider.name}`).value = slider.neutral;
  readValues();
}

function readValues() {
  for (const slider of state.sliders) {
    const value = Number($(`slider-${slider.name}`).value);
    detail.values[slider.name] = value;
    const text = `${slider.low < 0 && value > 0 ? '+' : ''}${slider.step < 1 ? value.toFixed(1) : value} ${slider.unit}`.trim();
    $(`value-${slider.name}`).textContent = text;
    $(`slider-${slider.name}`).setAttribute('aria-valuetext', text);
    $(`row-${slider.name}`).classList.toggle('moved', value !== slider.neutral);
  }
}

const isChanged = () => state.sliders.some(slider => detail.values[slider.name] !== slider.neutral);

function request(since = performance.now()) { // the newest wish wins; nothing queues up behind an answer
  readValues();
  detail.wanted = since;
  answerSliders();
}

async function answerSliders() {
  if (detail.busy) return;
  detail.busy = true;
  while (detail.wanted !== false && $('detail').open !== false && detail.tab === 'distort') {
    const since = detail.wanted;
    detail.wanted = false;
    const {picture} = detail;
    const values = JSON.stringify(detail.values);
    const name = metric();
    try {
      const answer = await ask('distort', state.album, picture.key, name, values, true);
      if (detail.picture !== picture || name !== metric() || detail.tab !== 'distort') continue;
      showDistorted(answer, values, since);
    } catch (error) {
      $('answered').textContent = error.message;
    }
  }
  detail.busy = false;
  fillCurve();
}

function showDistorted(answer, values, since) {
  detail.distorted = answer.verdict;
  detail.changed = answer.picture;
  remember(values, answer.verdict);
  showStage();
  const plain = known(neutralValues());
  $('detail-score').replaceChildren(scoreBlock(answer.verdict, metric(), isChanged() && plain ? plain.score : null));
  $('distort-votes').replaceChildren(...(answer.verdict.votes?.length
    ? [make('h3', {text: 'What it looks like now'}), bars(voteRows(answer.verdict, 4))] : []));
  drawCurve();
  const time = Math.round(performance.now() - since);
  $('answered').textContent = `answered in ${time} ms`;
  $('answered').dataset.ms = time;
}

function showStage() {
  const original = $('original').getAttribute('aria-pressed') === 'true';
  $('shown').src = original ? `pictures/${state.album}/${detail.picture.key}/view` : detail.changed;
  const {picture} = detail;
  const reduced = Math.max(picture.width, picture.height) > state.working ? `, on a copy of ${state.working} pixels` : '';
  $('shown-caption').textContent = original ? 'The original' : `As the sliders make it${reduced}`;
}

const neutralValues = () => JSON.stringify(Object.fromEntries(state.sliders.map(slider => [slider.name, slider.neutral])));
const curveKey = values => `${metric()} ${values}`;
const remember = (values, verdict) => detail.curves.set(curveKey(values), verdict);
const known = values => detail.curves.get(curveKey(values));
const valuesAt = value => JSON.stringify({...detail.values, [detail.active]: value});

async function fillCurve() { // point by point while nobody moves a slider
  if (detail.filling) return;
  detail.filling = true;
  const missing = () => {
    const slider = state.sliders.find(each => each.name === detail.active);
    const wanted = [neutralValues(), ...slider.curve.map(valuesAt)];
    return wanted.find(values => !known(values));
  };
  try {
    let values;
    while (detail.wanted === false && !detail.busy && $('detail').open && detail.tab === 'distort' && (values = missing())) {
      const {picture} = detail;
      const name = metric();
      const answer = await ask('distort', state.album, picture.key, name, values, false);
      if (detail.picture !== picture || name !== metric()) continue;
      remember(values, answer.verdict);
      drawCurve();
      if (values === neutralValues() && detail.distorted) {
        $('detail-score').replaceChildren(scoreBlock(detail.distorted, metric(), isChanged() ? answer.verdict.score : null));
      }
    }
  } catch (error) {
    $('answered').textContent = error.message;
  } finally {
    detail.filling = false;
  }
}

function drawCurve() {
  const slider = state.sliders.find(each => each.name === detail.active);
  const others = state.sliders.filter(each => each !== slider && detail.values[each.name] !== each.neutral).map(each => each.label);
  $('curve-caption').textContent = `Score over ${slider.label === 'JPEG quality' ? slider.label : slider.label.toLowerCase()}`
    + (others.length ? `, with ${others.join(', ')} as above` : '');
  const ends = spanOf(metric());
  if (!ends) return;
  const [width, height, left, bottom] = [widthOf($('curve')), 210, 34, 24];
  const from = slider.neutral === slider.high ? [slider.high, slider.low] : [slider.low, slider.high];
  const x = value => left + (width - left - 12) * ((value - from[0]) / (from[1] - from[0]));
  const y = value => 10 + (height - bottom - 10) * (1 - place(value, ends));
  const here = detail.values[slider.name];
  const points = [...new Set([...slider.curve, here])].map(value => [value, known(valuesAt(value))])
    .filter(([, verdict]) => verdict && Number.isFinite(verdict.score)).sort((a, b) => x(a[0]) - x(b[0]));
  const svg = drawn('svg', {class: 'plot', viewBox: `0 0 ${width} ${height}`, role: 'img',
    'aria-label': points.map(([value, verdict]) => `${value}: ${number(verdict.score)}`).join(', ') || 'no score yet'},
  ...[ends[0], (ends[0] + ends[1]) / 2, ends[1]].flatMap(value => [
    drawn('line', {class: 'axis', x1: left, x2: width - 12, y1: y(value), y2: y(value)}),
    drawn('text', {x: left - 6, y: y(value) + 4, 'text-anchor': 'end', text: Number(value.toFixed(2))})]),
  drawn('text', {x: left, y: height - 5, text: from[0]}),
  drawn('text', {x: width - 12, y: height - 5, 'text-anchor': 'end', text: `${from[1]} ${slider.unit}`.trim()}));
  const banded = points.filter(([, verdict]) => 'low' in verdict);
  if (banded.length > 1) {
    svg.append(drawn('polygon', {class: 'band', points: [...banded.map(([value, verdict]) => `${x(value)},${y(verdict.high)}`),
      ...banded.toReversed().map(([value, verdict]) => `${x(value)},${y(verdict.low)}`)].join(' ')}));
  }
  svg.append(drawn('polyline', {class: 'line', points: points.map(([value, verdict]) => `${x(value)},${y(verdict.score)}`).join(' ')}),
    ...points.map(([value, verdict]) => drawn('circle', {class: 'point', cx: x(value), cy: y(verdict.score), r: 2.6})));
  const now = known(valuesAt(here));
  if (now && Number.isFinite(now.score)) {
    svg.append(drawn('line', {class: 'guide', x1: x(here), x2: x(here), y1: 10, y2: height - bottom}));
    if ('low' in now) svg.append(drawn('line', {class: 'whisker', x1: x(here), x2: x(here), y1: y(now.low), y2: y(now.high)}));
    svg.append(drawn('circle', {class: 'here', cx: x(here), cy: y(now.score), r: 6.5}));
  }
  $('curve').replaceChildren(svg);
}

// ---- side by side ----

const versus = {sides: [{key: '', metric: ''}, {key: '', metric: ''}]};

function openVersus() {
  const order = sorted();
  const keys = state.picked.length === 2 ? state.picked
    : state.picked.length === 1 ? [state.picked[0], (order.find(each => each.key !== state.picked[0]) || order[0]).key]
      : [order[0].key, order.at(-1).key];
  versus.sides = keys.map(key => ({key, metric: metric()}));
  if (keys[0] === keys[1] && state.metrics.length > 1) versus.sides[1].metric = state.metrics.find(name => name !== metric());
  drawVersus();
  $('versus').showModal();
  $('versus-title').focus();
}

function drawVersus() {
  $('versus-sides').replaceChildren(...versus.sides.map(sideOf));
  fillVersus();
}

function sideOf(side, index) {
  const name = ['left', 'right'][index];
  const pictures = make('select', {ariaLabel: `Picture on the ${name}`}, ...sorted().map(picture =>
    make('option', {value: picture.key, text: picture.name, selected: picture.key === side.key})));
  const metrics = make('select', {ariaLabel: `Metric on the ${name}`}, ...state.metrics.map(each =>
    make('option', {value: each, text: each, selected: each === side.metric})));
  pictures.addEventListener('change', () => { side.key = pictures.value; fillVersus(); });
  metrics.addEventListener('change', () => { side.metric = metrics.value; fillVersus(); });
  return make('section', {ariaLabel: `The ${name} side`},
    make('div', {className: 'fields'}, make('label', {className: 'field'}, 'Picture', pictures),
      make('label', {className: 'field'}, 'Metric', metrics)),
    make('div', {className: 'layers'}, make('img', {alt: ''})), make('div', {className: 'found'}));
}

async function fillVersus() {
  const asked = JSON.stringify(versus.sides);
  const sections = [...$('versus-sides').children];
  $('versus-summary').textContent = 'Scoring …';
  const verdicts = [];
  for (const [index, side] of versus.sides.entries()) {
    const picture = state.pictures.get(side.key);
    const section = sections[index];
    const image = section.querySelector('img');
    image.src = `pictures/${state.album}/${side.key}/view`;
    image.alt = picture.name;
    try {
      verdicts[index] = await score(picture, side.metric);
    } catch (error) {
      verdicts[index] = {error: error.message};
    }
    if (asked !== JSON.stringify(versus.sides)) return; // somebody has chosen something else
    const verdict = verdicts[index];
    section.querySelector('.found').replaceChildren(scoreBlock(verdict, side.metric),
      ...(verdict.aspects ? [make('h3', {text: 'Aspects'}), bars(aspectRows(verdict))] : []),
      ...(verdict.votes?.length ? [make('h3', {text: 'What it looks like'}), bars(voteRows(verdict, 4))] : []));
  }
  $('versus-summary').textContent = summary(verdicts);
}

function summary([left, right]) {
  const [a, b] = versus.sides;
  if (!Number.isFinite(left.score) || !Number.isFinite(right.score)) return 'One side has no score.';
  if (a.metric !== b.metric) return `${a.metric} says ${number(left.score, a.metric)}, ${b.metric} says ${number(right.score, b.metric)}; their scales differ.`;
  if (a.key === b.key) return 'The same picture and the same metric on both sides.';
  const difference = left.score - right.score;
  if (Number(number(Math.abs(difference), a.metric)) === 0) return 'Both have the same score.';
  const better = (difference > 0) !== Boolean((state.facts[a.metric] || {}).lower_better) ? 'left' : 'right';
  const overlap = 'low' in left && 'low' in right
    ? (left.low <= right.high && right.low <= left.high ? '; their intervals overlap' : '; their intervals do not overlap') : '';
  return `The ${better} one is better by ${number(Math.abs(difference), a.metric)}${overlap}.`;
}

// ---- files, drops, keys ----

const named = files => [...files].map(file => ({file, name: file.webkitRelativePath || file.name}));
const choosers = {choose: 'files', add: 'files', 'choose-folder': 'folder', 'add-folder': 'folder'};
for (const [button, input] of Object.entries(choosers)) $(button).addEventListener('click', () => $(input).click());
$('files').addEventListener('change', event => { addFiles(named(event.target.files)); event.target.value = ''; });
$('folder').addEventListener('change', event => { fromFolder(named(event.target.files)); event.target.value = ''; });

let inside = 0;
const hasFiles = event => [...(event.dataTransfer?.types || [])].includes('Files');
addEventListener('dragenter', event => { if (hasFiles(event)) { event.preventDefault(); inside += 1; document.body.classList.add('dragging'); } });
addEventListener('dragover', event => { if (hasFiles(event)) event.preventDefault(); });
addEventListener('dragleave', event => { if (hasFiles(event) && (inside -= 1) <= 0) stopDragging(); });
addEventListener('drop', async event => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  stopDragging();
  const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry?.()).filter(Boolean); // before the first wait
  const files = named(event.dataTransfer.files);
  if (!entries.some(entry => entry.isDirectory)) return addFiles(files);
  const failed = [];
  addFiles(await readable(entries.filter(entry => entry.isFile).map(fileOf), failed));
  fromFolder((await readable(entries.filter(entry => entry.isDirectory).map(entry => below(entry, failed)), failed)).flat());
  if (failed.length) tell(`${failed.length} of the dropped files and folders cannot be read: ${failed[0].message}`);
});

async function readable(promises, failed) { // what the system lets the browser read; why not the rest is added to `failed`
  const found = await Promise.allSettled(promises);
  failed.push(...found.filter(each => each.status === 'rejected').map(each => each.reason));
  return found.filter(each => each.status === 'fulfilled').map(each => each.value);
}

function stopDragging() {
  inside = 0;
  document.body.classList.remove('dragging');
}

function fileOf(entry) {
  return new Promise((resolve, reject) => entry.file(file => resolve({file, name: entry.fullPath.replace(/^\//, '')}), reject));
}

async function below(folder, failed) {
  const reader = folder.createReader();
  const found = [];
  for (;;) { // a browser hands out at most a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    found.push(...some);
  }
  const parts = await readable(found.map(entry => entry.isDirectory ? below(entry, failed)
    : fileOf(entry).then(file => [file])), failed);
  return parts.flat();
}

addEventListener('paste', event => addFiles(named(event.clipboardData?.files || [])));
$('metric').addEventListener('change', async () => {
  tell('');
  await needFacts(metric()).catch(error => tell(error.message));
  show();
  enqueueMissing();
});
$('sort').addEventListener('change', show);
$('compare').addEventListener('click', openVersus);
$('clear').addEventListener('click', () => { state.stopped = state.running; forget([...state.pictures.values(), ...lost]); $('choose').focus(); });
$('stop').addEventListener('click', () => { state.stopped = true; });
$('previous').addEventListener('click', () => step(-1));
$('next').addEventListener('click', () => step(1));
$('forget').addEventListener('click', () => { const {picture} = detail; $('detail').close(); forget([picture]); });
$('close-detail').addEventListener('click', () => $('detail').close());
$('close-versus').addEventListener('click', () => $('versus').close());
$('swap').addEventListener('click', () => { versus.sides.reverse(); drawVersus(); });
$('map-button').addEventListener('click', toggleMap);
$('map-strength').addEventListener('input', fitMap);
addEventListener('resize', () => {
  if (!$('map').hidden) fitMap();
  show();
  if ($('detail').open) detail.tab === 'distort' ? drawCurve() : $('why').replaceChildren(...why(verdictOf(detail.picture)));
});
$('original').addEventListener('click', () => {
  $('original').setAttribute('aria-pressed', String($('original').getAttribute('aria-pressed') !== 'true'));
  showStage();
});
$('reset').addEventListener('click', () => { resetValues(); request(); });
for (const name of ['why', 'distort']) $(`tab-${name}`).addEventListener('click', () => chooseTab(name));
document.querySelector('.tabs').addEventListener('keydown', event => {
  if (!['ArrowLeft', 'ArrowRight'].includes(event.key)) return;
  event.stopPropagation();
  event.preventDefault();
  chooseTab(detail.tab === 'why' ? 'distort' : 'why');
  $(`tab-${detail.tab}`).focus();
});
$('detail').addEventListener('keydown', event => {
  if (event.target.matches('input, select') || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === 'ArrowLeft') step(-1);
  if (event.key === 'ArrowRight') step(1);
});
for (const sheet of document.querySelectorAll('dialog')) { // a click beside the sheet closes it
  sheet.addEventListener('click', event => { if (event.target === sheet) sheet.close(); });
}
$('detail').addEventListener('close', () => { // back to the card of the picture that was looked at last
  detail.wanted = false;
  state.cards.get(detail.picture?.key)?.querySelector('.open').focus();
});

start().then(() => Promise.all(state.metrics.map(needFacts))).then(show).catch(error => tell(error.message));
