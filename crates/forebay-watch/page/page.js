"use strict";

const POLL_MS = 1000;
const KEEP_S = 300; // as far back as the sparklines go
const MINUTE_S = 60;
const NOW_S = 3; // "now" is the mean of so many seconds
const TIER_NAMES = { memory: "Memory", disk: "Disk", remote: "Remote store" };
const BREAKER_WORDS = {
  closed: "breaker closed",
  open: "breaker open: the store is left alone for a while",
  half_open: "breaker half open: one request tries the store",
};
const REMOVAL_WORDS = { capacity: "to make room", cleared: "because somebody asked", corrupt: "damaged", unreadable: "could not be read" };

// ---- Reading JSON that may lack anything ----

const number = (x) => (typeof x === "number" && Number.isFinite(x) ? x : null);
const count = (x) => number(x) ?? 0;
const text = (x) => (typeof x === "string" ? x : null);
const object = (x) => (x !== null && typeof x === "object" && !Array.isArray(x) ? x : {});
const list = (x) => (Array.isArray(x) ? x.filter((each) => each !== null && typeof each === "object") : []);
const texts = (x) => (Array.isArray(x) ? x.filter((each) => typeof each === "string") : []);
const sum = (items, of) => items.reduce((total, item) => total + count(of(item)), 0);
const ratio = (a, b) => (number(a) !== null && b > 0 ? a / b : null);

// ---- Numbers as text ----

const DASH = "–";

// Three digits, so that a width stays about what it was.
const digits = (x) => (x >= 100 || x === 0 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));

function scaled(x, base, units) {
  if (number(x) === null) return DASH;
  let unit = 0;
  while (x >= base * 0.9995 && unit < units.length - 1) {
    x /= base;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(x) : digits(x)} ${units[unit]}`;
}

const bytes = (x) => scaled(x, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
const perSecond = (x) => scaled(x, 1000, ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"]);
const amount = (x) => scaled(x, 1000, ["B", "kB", "MB", "GB", "TB"]).replace(/\.0+ /, " ");
const integer = (x) => (number(x) === null ? DASH : Math.round(x).toLocaleString("en"));
const percent = (x) => (number(x) === null ? DASH : `${(x * 100).toFixed(1)} %`);
const plural = (n, one, many) => `${integer(n)} ${n === 1 ? one : many}`;

function seconds(x) {
  if (number(x) === null) return DASH;
  if (x < 0.9995e-3) return `${digits(x * 1e6)} µs`;
  return x < 0.9995 ? `${digits(x * 1e3)} ms` : `${digits(x)} s`;
}

function uptime(x) {
  if (number(x) === null) return DASH;
  const [d, h, m, s] = [x / 86400, (x / 3600) % 24, (x / 60) % 60, x % 60].map(Math.floor);
  return d > 0 ? `${d} d ${h} h` : h > 0 ? `${h} h ${m} min` : m > 0 ? `${m} min ${s} s` : `${s} s`;
}

// ---- The document ----

const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);

function put(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

/** An element with its attributes; text from JSON only ever becomes text. */
function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) node.setAttribute(name, value);
  for (const child of children ?? []) node.append(child);
  return node;
}

const html = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

/** Every main figure is found by its `data-figure`; `data-value` is the number behind the words. */
function figure(name, words, value) {
  for (const node of document.querySelectorAll(`[data-figure="${CSS.escape(name)}"]`)) {
    put(node, words);
    node.dataset.value = value ?? "";
  }
}

/** Makes the children of `parent` match `items`; an element stays the same one as long as its key does. */
function keyed(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, i) => {
    const key = String(keyOf(item, i));
    const child = old.get(key) ?? create(item);
    old.delete(key);
    child.dataset.key = key;
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
    update(child, item);
  });
  while (parent.children.length > items.length) parent.lastChild.remove();
}

// ---- What was answered before ----

let samples = []; // of {t, now}, oldest first

function remember(now) {
  const t = number(now.now_unix_s) ?? Date.now() / 1000;
  const last = samples.at(-1);
  if (last && (last.now.started_unix_s !== now.started_unix_s || t < last.t)) samples = [];
  samples.push({ t, now });
  while (samples[0].t < t - KEEP_S - MINUTE_S) samples.shift();
}

/** The oldest sample of the `span` seconds before sample `i`, or null if there is none. */
function before(i, span) {
  let j = i;
  while (j > 0 && samples[j - 1].t >= samples[i].t - span - 0.5) j -= 1;
  return j < i ? samples[j] : null;
}

/** By how much a counter has grown in the `span` seconds before sample `i`; null if nobody knows. */
function growth(read, span, i = samples.length - 1) {
  const base = before(i, span);
  if (!base) return null;
  const [from, to] = [number(read(base.now)), number(read(samples[i].now))];
  return from === null || to === null || to < from ? null : { by: to - from, s: samples[i].t - base.t };
}

function rate(read, span = NOW_S, i) {
  const grown = growth(read, span, i);
  return grown && grown.s > 0 ? grown.by / grown.s : null;
}

const rateOfHits = (part, whole, span, i) => ratio(growth(part, span, i)?.by ?? null, growth(whole, span, i)?.by);
const tierOf = (now, name) => object(list(now.tiers).find((tier) => tier.tier === name));
const tierCounter = (name, field) => (now) => tierOf(now, name)[field];
const tierNames = (now) => ["memory", "disk", "remote"].filter((name) => tierOf(now, name).tier);
const allLoaded = (now) => sum(list(now.tiers), (tier) => tier.loaded_bytes);
const firstStored = (now) => tierOf(now, tierNames(now)[0]).stored_bytes;
const hitChunks = (now) => object(now.lookups).hit_chunks;
const askedChunks = (now) => object(now.lookups).chunks;
const hits = (now) => object(now.lookups).hit;
const hitsAndMisses = (now) => count(object(now.lookups).hit) + count(object(now.lookups).miss);

/** A quantile of what a histogram has gained in the last minute, as words: interpolated in its bucket. */
function quantile(read, q) {
  const to = object(read(samples.at(-1).now));
  const base = before(samples.length - 1, MINUTE_S);
  if (!base || !Array.isArray(to.buckets)) return DASH;
  const from = object(read(base.now));
  const same = Array.isArray(from.buckets) && from.buckets.length === to.buckets.length;
  const total = count(to.count) - count(from.count);
  if (total <= 0) return DASH;
  let [lower, below] = [0, 0];
  for (const [i, bucket] of to.buckets.entries()) {
    const upper = number(bucket?.[0]);
    const through = count(bucket?.[1]) - (same ? count(from.buckets[i]?.[1]) : 0);
    if (upper === null) break;
    if (through >= q * total && through > below) {
      return seconds(lower + ((upper - lower) * (q * total - below)) / (through - below));
    }
    [lower, below] = [upper, through];
  }
  return `> ${seconds(lower)}`;
}

/** A value for each second of the last five minutes, null where nothing is known. */
function series(valueAt) {
  const points = [];
  const end = samples.at(-1).t;
  for (let i = samples.length - 1; i > 0 && samples[i].t >= end - KEEP_S; i -= 1) {
    points.unshift({ ago: end - samples[i].t, value: valueAt(i) });
  }
  return points;
}

function drawSpark(host, points, top) {
  const [w, h] = [KEEP_S, 100];
  let [line, area, last] = ["", "", null];
  for (const { ago, value } of points) {
    const at = value === null ? null : [w - ago, h - (h - 4) * Math.min(1, top > 0 ? value / top : 0)].map((x) => x.toFixed(1));
    if (at) line += `${last ? "L" : "M"}${at.join(" ")}`;
    if (at && last) area += `M${last[0]} ${h}V${last[1]}L${at.join(" ")}V${h}Z`;
    last = at;
  }
  if (!host.firstChild) {
    host.append(svg("svg", { viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("path", { class: "area" }), svg("path")));
  }
  [area, line].forEach((d, i) => host.firstChild.children[i].setAttribute("d", d));
}

// ---- The drawing: where things are ----
// A place is given by `u`, along the way of a chunk, and `v`, across it. Wide, the way runs to the right; narrow, down.

function planFlow(width, names) {
  const memory = names.includes("memory");
  const behind = names.filter((name) => name !== "memory");
  const around = behind.length === 2; // loads from the remote store pass the disk by
  const columns = ["engine", "buffer", ...behind];
  const narrow = width < columns.length * 215;
  const tier = narrow ? 104 : Math.max(128, width * 0.15);
  const sizes = narrow
    ? { engine: 70, buffer: 166, disk: tier, remote: tier }
    : { engine: Math.max(120, width * 0.11), buffer: Math.max(190, width * 0.2), disk: tier, remote: tier };
  const used = columns.reduce((total, name) => total + sizes[name], 0);
  const gap = narrow ? 58 : (width - used - 2) / (columns.length - 1);
  const split = !memory ? 0 : narrow ? width * 0.44 : 152;
  const deep = narrow ? width - 2 : memory ? (around ? 398 : 338) : around ? 280 : 216;
  const v = narrow
    ? { store: memory ? 16 : 160, back: 108, load: memory ? width - 50 : 225, around: width - 16 }
    : { store: memory ? 50 : 138, back: 102, load: memory ? 302 : 186, around: deep - 32 };

  const boxes = {};
  columns.forEach((name, i) => {
    const u = 1 + columns.slice(0, i).reduce((sum, before) => sum + sizes[before] + gap, 0);
    boxes[name] = { u, v: 1, long: sizes[name], deep: name === "disk" && around ? deep - (narrow ? 38 : 70) : deep };
  });
  if (memory) {
    boxes.memory = { ...boxes.buffer, deep: split };
    boxes.buffer = { ...boxes.buffer, v: split + 12, deep: deep - split - 11 };
  }
  const lanes = [];
  const lane = (kind, from, to, at, read) => lanes.push({ kind, from, to, v: at, read });
  const load = (name) => tierCounter(name, "loaded_bytes");
  const store = (name) => tierCounter(name, "stored_bytes");
  const allBehind = (now) => sum(behind, (name) => load(name)(now));
  const [first] = behind;
  if (memory) {
    lane("store", "engine", "memory", v.store, store("memory"));
    lane("load", "memory", "engine", v.back, load("memory"));
  }
  if (first && !memory) {
    lane("store", "engine", "buffer", v.store, store(first));
    lane("store", "buffer", "buffer", v.store, store(first));
  }
  if (first) {
    lane("store", memory ? "memory" : "buffer", first, v.store, store(first));
    lane("load", first, "buffer", v.load, load(first));
    lane("load", "buffer", "buffer", v.load, allBehind);
    lane("load", "buffer", "engine", v.load, allBehind);
  }
  if (around) {
    lane("store", "disk", "remote", v.store, store("remote"));
    lane("load", "remote", "buffer", v.around, load("remote"));
  }
  return { narrow, memory, boxes, lanes, width, height: narrow ? used + gap * (columns.length - 1) + 2 : deep + 2 };
}

// ---- The drawing: what is there ----

let flow = null; // what is drawn: the plan, its nodes and lanes
const SPEED = 110; // of a mark, in pixels a second
const MARKS = 11; // that leave in a second at the most

function drawFlow(host, width, names) {
  const plan = planFlow(width, names);
  const root = svg("svg", { width, height: plan.height, viewBox: `0 0 ${width} ${plan.height}`, role: "img",
    "aria-label": "The way of a chunk", "aria-describedby": "flow-words" });
  const nodes = {};
  for (const [name, box] of Object.entries(plan.boxes)) nodes[name] = drawNode(root, plan, name, box);
  const lanes = plan.lanes.map((lane) => drawLane(root, plan, lane));
  host.replaceChildren(root);
  return { signature: `${width} ${names}`, plan, nodes, lanes, perMark: flow?.perMark ?? 0 };
}

function drawNode(root, plan, name, box) {
  const at = plan.narrow
    ? { x: box.v, y: box.u, width: box.deep, height: box.long }
    : { x: box.u, y: box.v, width: box.long, height: box.deep };
  // What is kept stands in a vessel below the words, or beside them in a flat box.
  const vessel = at.height > 150
    ? { x: at.x, y: at.y + 92, width: at.width, height: at.height - 92 }
    : { x: at.x + 146, y: at.y, width: at.width - 146, height: at.height };
  const kind = name === "engine" ? "engine" : name === "buffer" ? "thru" : "keeps";
  const frame = svg("rect", { ...at, rx: 6, class: `node ${kind}` });
  const level = svg("rect", { class: "level" });
  const title = svg("text", { x: at.x + 14, y: at.y + 25, class: "name" });
  put(title, { engine: "Engine", buffer: plan.narrow && plan.memory ? "Staging" : "Staging buffer", memory: "Memory tier" }[name] ?? TIER_NAMES[name]);
  const lines = [0, 1, 2].map((i) => svg("text", { x: at.x + 14, y: at.y + 46 + i * 18, class: i === 0 ? "" : "soft" }));
  const cells = svg("g");
  root.append(level, ...(kind === "keeps" ? [svg("rect", { ...vessel, rx: 5, class: "brim" })] : []), frame, title, ...lines, cells);
  return { at, vessel, kind, frame, level, lines, cells };
}

/** A lane from a box to the next one, or straight through the buffer. */
function drawLane(root, plan, lane) {
  const [from, to] = [plan.boxes[lane.from], plan.boxes[lane.to]];
  const through = from === to;
  const forth = through ? lane.kind === "store" : to.u > from.u;
  const [start, end] = through === forth ? [from.u, to.u + to.long] : [from.u + from.long, to.u];
  const [low, high] = [Math.min(start, end) + (through ? 2 : 4), Math.max(start, end) - (through ? 2 : 4)];
  const place = (u, v) => (plan.narrow ? [v, u] : [u, v]);
  const [x, y] = place(low, lane.v - 5);
  const size = plan.narrow ? { width: 10, height: high - low } : { width: high - low, height: 10 };
  const tipAt = forth ? high : low;
  const tail = forth ? tipAt - 8 : tipAt + 8;
  const points = [place(tipAt, lane.v), place(tail, lane.v - 9), place(tail, lane.v + 9)].join(" ");
  const tip = svg("polygon", { points, class: `tip ${lane.kind}` });
  const marks = svg("g");
  const label = svg("text", { class: `rate ${lane.kind} still` });
  const note = svg("text", { class: "soft" });
  root.append(svg("rect", { x, y, ...size, rx: 2, class: "canal" }), marks);
  if (!through) root.append(tip, label, note);
  // Words stand above a lane that runs across, and beside one that runs down, where there is room.
  const right = plan.memory ? lane.v < 150 : lane.v > 200 && lane.v < plan.width - 60;
  const [side, anchor] = right ? [15, "start"] : [-15, "end"];
  const middle = (low + high) / 2;
  build(label, plan.narrow ? { x: lane.v + side, y: Math.max(middle, high - 25) + 5, "text-anchor": anchor } : { x: middle, y: lane.v - 15, "text-anchor": "middle" });
  build(note, plan.narrow ? { x: lane.v + side, y: middle + 21, "text-anchor": anchor } : { x: middle, y: lane.v + 26, "text-anchor": "middle" });
  return { ...lane, start: forth ? low : high, forth, run: high - low - (through ? 4 : 15), tip, marks, label, note, now: null, due: 0, riding: [] };
}

// ---- The drawing: what moves ----

const still = matchMedia("(prefers-reduced-motion: reduce)");
let lastFrame = null;

/** One mark stands for 1, 2 or 5 times a power of ten bytes, such that the busiest lane is well filled. */
function bytesPerMark(peak, current) {
  if (current > 0 && peak / current <= MARKS && peak / current >= MARKS / 6) return current;
  if (!(peak > 0)) return current;
  const least = Math.max(peak / MARKS, 1000);
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((step) => step * power >= least * 0.999);
}

function newMark(lane, at) {
  const node = svg("rect", { width: 8, height: 8, rx: 1.5, class: `mark ${lane.kind}` });
  lane.marks.append(node);
  return { node, at };
}

function showMark(lane, { node, at }) {
  const u = lane.forth ? lane.start + at : lane.start - at;
  const [x, y] = flow.plan.narrow ? [lane.v, u] : [u, lane.v];
  node.setAttribute("transform", `translate(${(x - 4).toFixed(1)} ${(y - 4).toFixed(1)})`);
}

/** For those who want no motion: marks as far apart as the moving ones would be. */
function standMarks(lane) {
  lane.marks.replaceChildren();
  lane.riding = [];
  const apart = (SPEED * flow.perMark) / lane.now;
  for (let at = 6; lane.now > 0 && at < lane.run; at += apart) showMark(lane, newMark(lane, at));
}

function moveMarks(lane, elapsed) {
  lane.due += lane.now > 0 && flow.perMark > 0 ? (elapsed * lane.now) / flow.perMark : 0;
  if (lane.due >= 1) {
    lane.due %= 1;
    lane.riding.push(newMark(lane, 4));
  }
  for (const riding of lane.riding) {
    riding.at += SPEED * elapsed;
    showMark(lane, riding);
  }
  while (lane.riding[0]?.at > lane.run) lane.riding.shift().node.remove();
}

function frame(ms) {
  const elapsed = lastFrame === null ? 0 : Math.min(0.1, (ms - lastFrame) / 1000);
  lastFrame = ms;
  for (const lane of flow.lanes) moveMarks(lane, elapsed);
  if (!still.matches && flow.lanes.some((lane) => lane.now > 0 || lane.riding.length > 0)) requestAnimationFrame(frame);
  else lastFrame = null;
}

function setMotion() {
  if (still.matches) flow.lanes.forEach(standMarks);
  else if (lastFrame === null && flow.lanes.some((lane) => lane.now > 0)) {
    lastFrame = performance.now();
    requestAnimationFrame(frame);
  }
}

function stopFlow() {
  for (const lane of flow?.lanes ?? []) lane.now = null;
  if (flow) setMotion();
}

// ---- The drawing: what it says ----

function fillNode(node, lines, level, state) {
  const { x, y, width, height } = node.vessel;
  node.lines.forEach((line, i) => put(line, lines[i] ?? ""));
  const filled = Math.min(1, Math.max(0, count(level))) * (height - 2);
  build(node.level, { x: x + 1, width: width - 2, y: y + height - 1 - filled, height: filled });
  node.frame.setAttribute("class", `node ${node.kind} ${state}`);
}

function fillCells(node, { slots, used, peak }, area) {
  const step = slots > 16 || area.width < 200 ? 14 : 18;
  const across = Math.max(1, Math.floor(area.width / step));
  const n = Math.min(slots, across * Math.floor(area.height / step));
  if (node.cells.children.length !== n) {
    node.cells.replaceChildren(...Array.from({ length: n }, (_, i) => svg("rect", {
      x: area.x + (i % across) * step, y: area.y + Math.floor(i / across) * step, width: step - 3, height: step - 3, rx: 2,
    })));
  }
  const share = slots / Math.max(n, 1);
  [...node.cells.children].forEach((cell, i) => cell.setAttribute("class", `cell ${slotClass(i * share, used, peak)}`));
  return share;
}

const slotClass = (i, used, peak) => (i < used ? "on" : i < peak ? "peak" : "");

function stagingOf(now) {
  const all = list(now.movers).map((mover) => object(mover.staging));
  const usedBytes = sum(all, (each) => count(each.in_use) * count(each.slot_bytes));
  const [slots, used, peak] = ["slots", "in_use", "in_use_max"].map((field) => sum(all, (each) => each[field]));
  return { known: all.length > 0, slots, used, peak, usedBytes };
}

/** How long a part holds its slot: what is in the buffer on average, over what crosses it in a second. */
function stay(names) {
  const base = before(samples.length - 1, MINUTE_S);
  const behind = names.filter((name) => name !== "memory");
  const crossed = sum(behind, (name) => rate(tierCounter(name, "stored_bytes"), MINUTE_S))
    + sum(behind, (name) => rate(tierCounter(name, "loaded_bytes"), MINUTE_S));
  if (!base || crossed <= 0) return null;
  const lately = samples.filter((sample) => sample.t >= base.t);
  return sum(lately, (sample) => stagingOf(sample.now).usedBytes) / lately.length / crossed;
}

function renderFlow(now) {
  const names = tierNames(now);
  const host = byId("flow");
  const width = Math.floor(host.clientWidth);
  if (width < 200) return; // not laid out: nobody sees it
  if (flow?.signature !== `${width} ${names}`) flow = drawFlow(host, width, names);
  const { nodes, lanes, plan } = flow;
  for (const lane of lanes) {
    lane.now = rate(lane.read);
    const moving = lane.now > 0;
    put(lane.label, lane.now === null ? DASH : moving ? perSecond(lane.now) : "still");
    lane.label.classList.toggle("still", !moving);
    lane.tip.classList.toggle("moving", moving);
    const waiting = lane.kind === "store" && names.includes(lane.from) ? count(tierOf(now, lane.to).waiting_chunks) : 0;
    put(lane.note, waiting > 0 ? `${integer(waiting)} wait` : "");
  }
  flow.perMark = bytesPerMark(Math.max(...lanes.map((lane) => count(lane.now)), 0), flow.perMark);
  put(byId("scale"), flow.perMark > 0 ? `one mark is ${amount(flow.perMark)}` : "nothing has moved yet");

  const lookups = rate((each) => sum(["hit", "miss", "pending", "busy"], (kind) => object(each.lookups)[kind]));
  const hit = rateOfHits(hitChunks, askedChunks, MINUTE_S);
  fillNode(nodes.engine, [lookups === null ? DASH : `${digits(lookups)} lookups/s`, plan.narrow || hit === null ? "" : `${percent(hit)} hit`], 0, "");
  const staging = stagingOf(now);
  const state = staging.known ? `${integer(staging.used)} of ${integer(staging.slots)} slots` : "slots not known";
  fillNode(nodes.buffer, [state, staging.known && staging.used === 0 ? "empty" : "keeps nothing"], 0, "");
  const { x, y, width: wide } = nodes.buffer.at;
  const free = plan.narrow ? { width: plan.memory ? 88 : 128, height: 84 } : { width: wide - 28, height: 44 };
  const share = fillCells(nodes.buffer, staging, { x: x + 14, y: y + 75, ...free });
  put(byId("cell-scale"), share > 1 ? `one cell is about ${Math.round(share)} slots` : "");
  for (const name of names) {
    const tier = tierOf(now, name);
    const wrong = tier.state === "down" || tier.state === "degraded";
    const full = number(tier.used_bytes) === null ? ["not counted here"] : [bytes(tier.used_bytes), bound(tier)];
    const chunks = number(tier.chunks) === null ? [] : [`${integer(tier.chunks)} chunks`];
    fillNode(nodes[name], [...full, ...(wrong ? [tier.state] : chunks)], ratio(tier.used_bytes, tier.capacity_bytes), wrong ? tier.state : "");
    nodes[name].lines.forEach((line) => ["degraded", "down"].forEach((state) => line.classList.toggle(state, wrong && line.textContent === state)));
  }
  put(byId("flow-words"), describeFlow(now, names, staging));
  setMotion();
}

const bound = (tier) => (number(tier.capacity_bytes) === null ? "no bound here" : `of ${bytes(tier.capacity_bytes)}`);

/** The drawing in words, for those who cannot see it and those who see it for the first time. */
function describeFlow(now, names, staging) {
  const speed = (name, field) => rate(tierCounter(name, field));
  const behind = names.filter((name) => name !== "memory");
  const called = { memory: "memory", disk: "disk", remote: "the remote store" };
  const said = [];
  const stores = speed(names[0], "stored_bytes");
  const loads = rate(allLoaded);
  if (names.length === 0) said.push("There is no tier to keep a chunk in.");
  else if (stores > 0) said.push(`Stores leave the engine at ${perSecond(stores)} and ${names[0] === "memory" ? "go to memory" : `cross the staging buffer to ${called[names[0]]}`}.`);
  else said.push("No store is under way.");
  names.slice(1).forEach((name, i) => {
    const speedOn = speed(name, "stored_bytes");
    if (speedOn > 0) said.push(`From ${called[names[i]]} they are copied to ${called[name]} at ${perSecond(speedOn)}, in the background.`);
  });
  const sources = names.filter((name) => speed(name, "loaded_bytes") > 0).map((name) => `${perSecond(speed(name, "loaded_bytes"))} from ${called[name]}`);
  if (sources.length > 0) said.push(`Loads come back at ${sources.join(", ")}${sources.length > 1 ? `, together ${perSecond(loads)}` : ""}.`);
  else if (names.length > 0) said.push("No load is under way.");
  if (staging.known) {
    said.push(staging.used > 0
      ? `${integer(staging.used)} of ${integer(staging.slots)} staging slots are in use.`
      : `All ${integer(staging.slots)} staging slots are empty.`);
  }
  const held = stay(names);
  if (behind.length > 0) said.push(`A chunk only crosses the buffer, in parts: ${held > 0 ? `each holds a slot for about ${seconds(held)}` : "each holds a slot for its own transfer"}, and nothing is kept there.`);
  if (now.mode === "staging only") said.push("In this mode memory holds no chunk at rest.");
  return said.join(" ");
}

// ---- The rest of the page ----

function renderHead(now) {
  const { live, ready, reasons } = object(now.health);
  const dead = texts(now.threads_dead);
  const whole = dead.length === 0 && list(now.tiers).every((tier) => tier.state === "ok");
  const [state, words, colour] = live === false ? ["not-live", "Not live", "bad"]
    : ready === false ? ["not-ready", "Live, but not ready", "bad"]
    : ready !== true ? ["unknown", "Health not known", ""]
    : whole ? ["ready", "Ready", "good"] : ["degraded", "Ready, degraded", "warn"];
  if (byId("health").textContent !== words) put(byId("announce"), words);
  figure("health", words, state);
  byId("health-dot").className = `dot ${colour}`;
  document.title = state === "ready" ? "Forebay" : `${words} · Forebay`;
  const told = texts(reasons);
  const untold = dead.filter((name) => !told.some((reason) => reason.includes(name)));
  const all = told.concat(untold.map((name) => `The thread ${name} has died.`));
  byId("reasons").hidden = all.length === 0;
  byId("reasons").classList.toggle("bad", colour === "bad");
  put(byId("reasons-title"), colour === "bad" ? `${words}, because` : "Not all is well");
  keyed(byId("reasons-list"), all, (reason, i) => i, () => html("li"), put);
  figure("version", text(now.version) ?? DASH);
  const up = number(now.started_unix_s) === null ? null : count(now.now_unix_s) - now.started_unix_s;
  figure("uptime", uptime(up), up);
  const modes = { "staging only": "staging only: memory keeps nothing", "memory tier": "with a memory tier" };
  put(byId("mode"), modes[now.mode] ?? text(now.mode) ?? DASH);
}

function renderFigures(now) {
  const base = before(samples.length - 1, MINUTE_S);
  const span = base ? samples.at(-1).t - base.t : 0;
  const label = !base || span > MINUTE_S - 3 ? "last minute" : `last ${Math.round(span)} s`;
  document.querySelectorAll('[data-label="minute"]').forEach((node) => put(node, label));
  const ratios = {
    hit_rate_chunks_minute: rateOfHits(hitChunks, askedChunks, MINUTE_S),
    hit_rate_chunks: ratio(hitChunks(now), askedChunks(now)),
    hit_rate_lookups_minute: rateOfHits(hits, hitsAndMisses, MINUTE_S),
    hit_rate_lookups: ratio(hits(now), hitsAndMisses(now)),
  };
  for (const [name, value] of Object.entries(ratios)) figure(name, percent(value), value);
  drawSpark(byId("spark-hit"), series((i) => rateOfHits(hitChunks, askedChunks, 10, i)), 1);
  for (const [what, read] of [["loaded", allLoaded], ["stored", firstStored]]) {
    const points = series((i) => rate(read, NOW_S, i));
    const peak = points.reduce((most, point) => Math.max(most, count(point.value)), 0);
    const [speed, total] = [rate(read), number(read(now))];
    figure(`rate_${what}`, perSecond(speed), speed);
    figure(`peak_${what}`, points.length > 0 ? perSecond(peak) : DASH, peak);
    figure(`total_${what}`, bytes(total), total);
    drawSpark(byId(what === "loaded" ? "spark-load" : "spark-store"), points, peak);
  }
  const waiting = sum(list(now.tiers), (tier) => tier.waiting_chunks);
  figure("waiting", plural(waiting, "chunk", "chunks"), waiting);
}

function renderLookups(now) {
  const lookups = object(now.lookups);
  for (const kind of ["hit", "miss", "pending", "busy"]) figure(`lookups_${kind}`, integer(lookups[kind]), number(lookups[kind]));
  for (const q of [50, 99]) figure(`lookups_p${q}`, quantile((each) => object(each.lookups).seconds, q / 100));
}

const TRANSFERS = [["load", "Loads", "loaded", "failed_loads"], ["store", "Stores", "stored", "failed_stores"]];

function createTier({ tier: name }) {
  const cell = (kind, what, cls = "") => html("td", { "data-figure": `tier-${name}-${kind}${what}`, class: cls });
  const row = ([kind, words, done, failed]) => html("tr", {},
    html("th", { scope: "row", class: kind }, words), cell(kind, "_rate"), cell(done, "_bytes"), cell(done, "_chunks", "wide-only"),
    cell(kind, "_p50"), cell(kind, "_p99"), cell(failed, ""));
  const heads = ["Way", "Now", "Total", "Chunks", "p50", "p99", "Failed"].map((words) =>
    html("th", { scope: "col", class: words === "Chunks" ? "wide-only" : "" }, words));
  return html("div", { class: "tier", role: "group", "aria-label": TIER_NAMES[name] ?? name },
    html("div", {},
      html("h3", {}, TIER_NAMES[name] ?? name, html("span", { class: "state", "data-figure": `tier-${name}-state` })),
      html("div", { class: "meter", "aria-hidden": "true" }, html("i")),
      html("p", { class: "sub num" },
        html("span", { "data-figure": `tier-${name}-used_bytes` }), html("span", { "data-figure": `tier-${name}-capacity_bytes` }),
        html("span", { "data-figure": `tier-${name}-chunks` }), " chunks"),
      html("p", { class: "sub num remote" }),
      html("p", { class: "sub reason" })),
    html("table", {}, html("thead", {}, html("tr", {}, ...heads)), html("tbody", {}, ...TRANSFERS.map(row))));
}

function updateTier(node, tier, now) {
  const name = tier.tier;
  const set = (what, words, value) => figure(`tier-${name}-${what}`, words, value);
  const fill = ratio(tier.used_bytes, tier.capacity_bytes);
  const unbound = number(tier.capacity_bytes) === null;
  const states = { ok: "ok", degraded: "degraded", down: "down" };
  node.querySelector(".state").className = `state ${states[tier.state] ?? ""}`;
  set("state", states[tier.state] ?? DASH, tier.state);
  node.querySelector(".meter").classList.toggle("unbound", unbound);
  node.querySelector(".meter i").style.width = `${Math.min(1, count(fill)) * 100}%`;
  set("used_bytes", number(tier.used_bytes) === null ? "size not known" : bytes(tier.used_bytes), number(tier.used_bytes));
  set("capacity_bytes", unbound ? ", " : ` of ${bytes(tier.capacity_bytes)}, ${percent(fill)} full, `, number(tier.capacity_bytes));
  set("chunks", integer(tier.chunks), number(tier.chunks));
  for (const [kind, , done, failed] of TRANSFERS) {
    const speed = rate(tierCounter(name, `${done}_bytes`));
    set(`${kind}_rate`, perSecond(speed), speed);
    set(`${done}_bytes`, bytes(tier[`${done}_bytes`]), number(tier[`${done}_bytes`]));
    set(`${done}_chunks`, integer(tier[`${done}_chunks`]), number(tier[`${done}_chunks`]));
    for (const q of [50, 99]) set(`${kind}_p${q}`, quantile((each) => tierOf(each, name)[`${kind}_seconds`], q / 100));
    set(failed, integer(tier[failed]), number(tier[failed]));
    node.querySelector(`[data-figure="tier-${name}-${failed}"]`).className = count(tier[failed]) > 0 ? "wrong" : "";
  }
  const remote = name === "remote" ? object(now.remote) : {};
  const line = remote.breaker ? `${BREAKER_WORDS[remote.breaker] ?? remote.breaker}; ${plural(count(remote.in_flight), "request", "requests")} in flight` : "";
  put(node.querySelector(".remote"), line);
  node.querySelector(".remote").classList.toggle("reason", remote.breaker !== "closed");
  put(node.querySelector(".sub.reason:last-child"), text(tier.reason) ?? "");
}

function renderTiers(now) {
  const tiers = list(now.tiers).filter((tier) => text(tier.tier));
  const host = byId("tiers");
  if (tiers.length === 0) {
    host.replaceChildren(html("p", { class: "none" }, "No tier has been reported."));
    return;
  }
  keyed(host, tiers, (tier) => tier.tier, createTier, (node, tier) => updateTier(node, tier, now));
}

function createMover({ worker }) {
  return html("div", { class: "mover" },
    html("h3", {}, html("b"), " ", html("span", { "data-figure": `staging-${worker}-in_use` }), html("span")),
    html("div", { class: "slots", role: "img" }),
    html("p", { class: "sub num" }));
}

function updateMover(node, mover, several) {
  const staging = object(mover.staging);
  const queued = object(mover.queued);
  const [slots, used, peak] = [count(staging.slots), count(staging.in_use), count(staging.in_use_max)];
  const [heading, cells, line] = node.children;
  put(heading.children[0], several ? `Worker ${integer(mover.worker)}` : "");
  heading.children[0].hidden = !several;
  figure(`staging-${mover.worker}-in_use`, integer(staging.in_use), number(staging.in_use));
  put(heading.children[2], ` of ${integer(slots)} slots of ${bytes(staging.slot_bytes)} in use; at most ${integer(peak)} at once`);
  const share = Math.max(1, slots / 600);
  const n = Math.round(slots / share);
  cells.className = `slots ${n > 128 ? "crowd" : n > 32 ? "many" : ""}`;
  cells.setAttribute("aria-label", `${used} of ${slots} slots in use`);
  if (cells.children.length !== n) cells.replaceChildren(...Array.from({ length: n }, () => html("i")));
  [...cells.children].forEach((cell, i) => { cell.className = slotClass(i * share, used, peak); });
  const late = count(mover.age_s) > 5 ? `; last heard ${seconds(mover.age_s)} ago` : "";
  const direct = mover.direct_io === true ? ", direct I/O" : mover.direct_io === false ? ", through the page cache" : "";
  put(line, `Queued: ${plural(count(queued.loads), "load", "loads")}, ${plural(count(queued.stores), "store", "stores")}, `
    + `${plural(count(queued.copies), "copy", "copies")}. By ${text(mover.io_engine) ?? DASH}${direct}${late}.`);
}

function renderMovers(now) {
  const movers = list(now.movers);
  put(byId("staging-note"), movers.length > 0 ? "filled: in use; tinted: in use at the peak" : "none reported");
  keyed(byId("movers"), movers, (mover) => mover.worker, createMover, (node, mover) => updateMover(node, mover, movers.length > 1));
}

const AGES = [1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100];
const OLD_S = 10;
const ageAt = (age) => `${(Math.min(1, Math.max(0, (Math.log10(Math.max(age, 1e-9)) + 4) / 6)) * 67 + 26).toFixed(2)}%`;

function renderAges(now) {
  const loads = list(now.movers).flatMap((mover) => list(mover.loads_in_flight));
  const names = tierNames(now);
  const height = names.length * 26 + 24;
  const row = (name) => names.indexOf(name) * 26 + 14;
  const parts = [];
  for (const name of names) {
    parts.push(svg("line", { x1: "26%", x2: "93%", y1: row(name), y2: row(name) }), svg("text", { x: "0", y: row(name) + 4 }, TIER_NAMES[name]));
  }
  AGES.forEach((age, i) => parts.push(svg("text", { x: ageAt(age), y: height - 4, "text-anchor": "middle", class: i % 2 ? "wide-only" : "" },
    seconds(age).replace(/\.0+/, ""))));
  for (const load of loads) {
    if (names.includes(load.tier)) parts.push(svg("circle", { cx: ageAt(count(load.age_s)), cy: row(load.tier), r: 4.5, class: count(load.age_s) > OLD_S ? "old" : "" }));
  }
  byId("ages").replaceChildren(svg("svg", { height, "aria-hidden": "true" }, ...parts));
  const oldest = [...loads].sort((a, b) => count(b.age_s) - count(a.age_s))[0];
  put(byId("ages-words"), oldest
    ? `${plural(loads.length, "load", "loads")} of ${bytes(sum(loads, (load) => load.bytes))} together. The oldest, ${bytes(oldest.bytes)} from ${(TIER_NAMES[oldest.tier] ?? "?").toLowerCase()}, is ${seconds(oldest.age_s)} old.`
    : "None.");
  figure("loads_in_flight", integer(loads.length), loads.length);
}

/** Rows of [name, explanation, value, isWrong]; those of zero in one sentence at the end. */
function renderList(host, rows) {
  const shown = rows.filter(([, , value]) => value > 0);
  const zero = rows.filter(([, , value]) => value === 0).map(([name]) => name);
  const items = shown.flatMap((row) => [{ tag: "dt", row }, { tag: "dd", row }]);
  if (zero.length > 0) items.push({ tag: "dd", row: ["zero", `None: ${zero.join(", ")}.`] });
  keyed(host, items, ({ tag, row: [name] }) => `${tag} ${name}`,
    ({ tag, row: [name] }) => (tag === "dt" ? html("dt", {}, name, html("small")) : html("dd")),
    (node, { tag, row: [name, why, value, wrong] }) => {
      node.className = name === "zero" ? "none" : wrong ? "wrong" : "";
      if (tag === "dt") put(node.lastChild, why);
      else put(node, name === "zero" ? why : integer(value));
    });
}

function renderErrors(now) {
  const movers = list(now.movers);
  const of = (field) => (movers.length > 0 ? sum(movers, (mover) => mover[field]) : null);
  const remote = object(now.remote);
  const dead = texts(now.threads_dead);
  renderList(byId("errors"), [
    ["dead threads", dead.join(", "), dead.length, true],
    ["corrupt", "found by checksum, not handed out", of("corrupt"), true],
    ["I/O errors", "", of("io_errors"), true],
    ["timed out", "", of("timed_out"), true],
    ...tierNames(now).flatMap((name) => TRANSFERS.map(([kind, , , failed]) =>
      [`${TIER_NAMES[name].toLowerCase()} ${kind}s failed`, "", number(tierOf(now, name)[failed]), true])),
    ["failed requests", `to the remote store, of ${integer(remote.requests)}`, number(remote.failed_requests), true],
    ["retries", "of requests to the remote store", number(remote.retries), false],
    ["busy", "buffer or queue were full; not an error", of("busy"), false],
  ]);
}

function renderRemoved(now) {
  renderList(byId("removed"), tierNames(now).flatMap((name) => Object.entries(object(tierOf(now, name).removed_chunks)).map(([why, n]) =>
    [`${REMOVAL_WORDS[why] ?? why} (${TIER_NAMES[name].toLowerCase()})`, "", number(n), why !== "capacity"])));
}

function renderNamespaces(now) {
  const spaces = list(now.namespaces).sort((a, b) => count(b.bytes) - count(a.bytes));
  const most = Math.max(1, ...spaces.map((space) => count(space.bytes)));
  byId("namespaces-section").hidden = spaces.length === 0;
  keyed(byId("namespaces"), spaces, (space, i) => space.name ?? i,
    () => html("li", {}, html("span", { class: "label" }), html("span", { class: "num" }), html("span", { class: "meter", "aria-hidden": "true" }, html("i"))),
    (node, space) => {
      put(node.children[0], text(space.name) ?? DASH);
      node.children[0].title = text(space.name) ?? "";
      put(node.children[1], `${bytes(space.bytes)}, ${plural(count(space.chunks), "chunk", "chunks")}`);
      node.querySelector("i").style.width = `${(count(space.bytes) / most) * 100}%`;
    });
}

const RENDERERS = [renderHead, renderFlow, renderFigures, renderLookups, renderTiers, renderMovers, renderAges, renderErrors, renderRemoved, renderNamespaces];

// ---- Asking ----

let quietSince = performance.now(); // by the clock of this page
let heard = false;
let asking = false;

async function ask() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const answer = await fetch("/api/now", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const now = object(await answer.json());
    quietSince = performance.now();
    heard = true;
    remember(now);
    for (const render of RENDERERS) render(now);
  } catch (error) {
    console.debug("no answer", error);
  } finally {
    asking = false;
    showSilence();
  }
}

function showSilence() {
  const s = Math.floor((performance.now() - quietSince) / 1000);
  const silent = s >= 3;
  const notice = byId("silence");
  if (silent && notice.hidden) put(byId("announce"), "No answer from Forebay.");
  if (!silent && !notice.hidden) put(byId("announce"), "Forebay answers again.");
  notice.hidden = !silent;
  document.documentElement.classList.toggle("stale", silent);
  if (!silent) return;
  figure("health", "No answer", "silent");
  byId("health-dot").className = "dot";
  put(notice, `No answer since ${s} s. ${!heard ? "Nothing has been heard yet." : "What you see is as old as that."} Asking again every second.`);
  stopFlow();
}

function tick() {
  ask();
  if (!document.hidden) showSilence();
}

// ---- Light and dark ----

const dark = matchMedia("(prefers-color-scheme: dark)");

function storage(act) {
  try {
    return act(localStorage);
  } catch {
    return null; // it may be forbidden: then a choice holds for this page only
  }
}

function setTheme(theme = storage((store) => store.getItem("forebay-theme"))) {
  if (theme) document.documentElement.dataset.theme = theme;
  byId("theme").setAttribute("aria-pressed", String(theme ? theme === "dark" : dark.matches));
}

byId("theme").addEventListener("click", () => {
  const theme = byId("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark";
  storage((store) => store.setItem("forebay-theme", theme));
  setTheme(theme);
});
dark.addEventListener("change", () => setTheme());
still.addEventListener("change", () => flow && setMotion());
document.addEventListener("visibilitychange", () => {
  quietSince = performance.now(); // nobody has asked meanwhile
  tick();
});
new ResizeObserver(() => samples.length > 0 && renderFlow(samples.at(-1).now)).observe(byId("flow"));
setTheme();
setInterval(tick, POLL_MS);
tick();
